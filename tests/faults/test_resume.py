"""A training is killed again and again: it ends with the bytes and the history of one that nobody touched."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.record import FULL, record, tries
from tests.faults.training_child import EPOCHS, STEPS

ROOT = Path(__file__).parents[2]
LAST = EPOCHS * STEPS
ASIDE = ".checkpoint"  # what a checkpoint is called while it is written
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Blow:
    """When a training is killed.

    Attributes:
        phase: what it shall be doing then.
        step: the newest one that it has said.
        seconds: between two checkpoints of the victim.
    """

    phase: str
    step: int
    seconds: float

    def fall(self, child: Child, folder: Path, dice: random.Random) -> None:
        """Waits for the moment; the child may have ended before."""
        if self.phase == "start":
            time.sleep(dice.uniform(0, 2))
        elif child.said(self.step) and self.phase == "write":
            await_file(folder / ASIDE)
        elif self.phase == "validation":
            time.sleep(dice.uniform(0, 0.1))


def await_file(path: Path) -> None:
    """Until it is there, at most half a second."""
    end = time.monotonic() + 0.5
    while not path.exists() and time.monotonic() < end:
        pass


def blows(dice: random.Random) -> list[Blow]:
    """Six for one training: before its first step, in two writes, in the middle, at the end of an epoch, at the end."""
    often, seldom = 0.0, dice.choice([0.0, HOUR])
    return [
        Blow("start", 0, often),
        Blow("write", dice.randrange(1, STEPS), often),
        Blow("validation", STEPS * dice.randrange(1, EPOCHS - 1), seldom),
        Blow("step", dice.randrange(LAST - 4, LAST - 2), seldom),
        Blow("write", LAST - 1, often),
        Blow("last step", LAST, often),
    ]


@dataclass(slots=True)
class Child:
    """A process that trains."""

    process: subprocess.Popen[str]
    step: int = 0
    result: str = ""

    @classmethod
    def spawn(cls) -> Child:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable, "-m", "tests.faults.training_child"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return cls(subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes))

    def start(self, folder: Path, seconds: float) -> None:
        self._hear("ready")
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"folder": str(folder), "seconds": seconds}) + "\n")
        self.process.stdin.flush()

    def said(self, step: int) -> bool:
        """Listens until it has made a step; whether it did."""
        while self.step < step and not self.result:
            self._note(self._line())
        return not self.result

    def end(self) -> str:
        """What it comes to."""
        self.said(LAST + 1)
        return self.result

    def kill(self) -> None:
        self.process.kill()
        output, _ = self.process.communicate()
        for line in output.splitlines():
            self._note(line)

    def _hear(self, word: str) -> None:
        line = self._line()
        assert line == word, f"a child said {line!r} instead of {word!r}"

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "a child died by itself"
        return line.strip()

    def _note(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "step":
            self.step = int(rest)
        elif word == "result":
            self.result = rest


@dataclass(slots=True)
class Nursery:
    """Children, one of which always grows up while another one trains."""

    next: Child = field(default_factory=Child.spawn)

    @contextmanager
    def child(self) -> Iterator[Child]:
        mine, self.next = self.next, Child.spawn()
        try:
            yield mine
        finally:
            mine.kill()


@contextmanager
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    try:
        yield one
    finally:
        one.next.kill()


def untouched(children: Nursery, folder: Path) -> str:
    """The result of a training that nobody kills."""
    with children.child() as child:
        child.start(folder, HOUR)
        return child.end()


def strike(children: Nursery, folder: Path, blow: Blow, dice: random.Random) -> str:
    """Kills a training; says what it was doing, nothing where it had ended."""
    with children.child() as child:
        child.start(folder, blow.seconds)
        blow.fall(child, folder, dice)
        child.kill()
        return "" if child.result else phase_at_death(child, folder, blow)


def phase_at_death(child: Child, folder: Path, blow: Blow) -> str:
    if (folder / ASIDE).exists():
        return "write"
    if child.step == 0:
        return "start"
    if child.step == LAST:
        return "last step"
    return "step" if blow.phase == "write" else blow.phase


@pytest.mark.slow
@pytest.mark.timeout(7200 if FULL else 900)
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    dice = random.Random(20240601)
    kills: Counter[str] = Counter()
    others = 0
    with nursery() as children:
        expected = untouched(children, tmp_path / "untouched")
        assert len(json.loads(expected.partition(" ")[2])) == EPOCHS
        while kills.total() < tries(60, 6):
            folder = tmp_path / f"killed-{kills.total()}"
            for blow in blows(dice):
                (folder / ASIDE).unlink(missing_ok=True)  # so that the next one that lies there is the next victim's
                kills.update(filter(None, [strike(children, folder, blow, dice)]))
            others += untouched(children, folder) != expected
    for phase, count in kills.items():
        record("kill -9 of a training", phase, count, others, "weights and history compared byte by byte")
    assert kills["start"]
    assert kills["last step"]
    assert not others
