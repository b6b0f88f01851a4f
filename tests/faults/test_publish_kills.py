"""Publishing, withdrawal and retention are killed at every step, under a reader's eyes: no run is ever seen broken."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.catalog import runs
from tests.faults.process import PATIENCE, Helper, await_end, helper
from tests.faults.publishing import KEPT, PHASES, STEPS, Site, act_of, content, faults
from tests.faults.record import FULL, record, tries
from tests.faults.watch import alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="follows processes in /proc")

KILLS = tries(300, 30)
LEAST = 30 if FULL else 1  # kills in each phase
RASTERS = 0.15  # seconds, about, that GDAL writes

# A command a line, in a process of its own that has imported everything; it answers with the number of the process.
NURSERY = """
import os, signal, sys, traceback
from tests.faults.publishing import perform

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        perform(line)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""

# Folder of runs and product; from then on everything that readers see is read again and again.
READER = """
import json, sys, threading, time
from pathlib import Path
from tests.faults.publishing import faults

root, product = json.loads(sys.stdin.readline())
reads, ended = 0, threading.Event()

def watch():
    global reads
    while not ended.is_set():
        time.sleep(0.02)
        try:
            for fault in faults(Path(root), product):
                print("fault", fault, flush=True)
            reads += 1
        except Exception as error:
            print("fault", type(error).__name__, error, flush=True)

reader = threading.Thread(target=watch)
reader.start()
sys.stdin.read()
ended.set()
reader.join()
print("reads", reads, flush=True)
"""


@dataclass(slots=True)
class Publisher:
    """Gives commands and kills them.

    Attributes:
        site: whose runs.
        nursery: where the commands come from.
        done: file that a command makes when it comes to its end.
        dice: decides what and when.
        kills: how many died, by phase.
        wrong: what was wrong afterwards, by phase.
        known: what each run held when it was first seen.
    """

    site: Site
    nursery: Helper
    done: Path
    dice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    known: dict[str, dict[str, str]] = field(default_factory=dict)

    def rarest(self) -> str:
        """The phase in which the fewest have died."""
        return min(PHASES, key=lambda phase: self.kills[phase])

    def enough(self) -> bool:
        return self.kills.total() >= KILLS and self.kills[self.rarest()] >= LEAST

    def attempt(self) -> None:
        """A command that is to die in the rarest phase, then the same command to its end; notes what is wrong."""
        phase = self.rarest()
        act = act_of(phase)
        name = self._init(phase) if act == "publish" else self._key(act)
        before = self._manifests()
        self.kills[phase] += self._run(act, name, phase)
        found = list(faults(self.site.root, self.site.product))
        between = self._manifests()
        self._run(act, name)
        after = self._manifests()
        found += [*faults(self.site.root, self.site.product), *self._undone(act, name)]
        found += [f"{path} has changed" for path in _changed(before, between) | _changed(between, after)]
        if act == "withdraw":
            self._run("restore", name)
        found += self._not_as_known()
        self.wrong.setdefault(phase, []).extend(found)

    def _init(self, phase: str = "") -> str:
        """An init time without a run; only a newer one than all others changes latest.json."""
        taken = {path.parent.name for path in self._manifests()}
        free = [name for name in self.site.inits() if name not in taken]
        newer = [name for name in free if name > max(taken, default="")]
        if phase == "latest" and newer:
            return newer[0]
        if phase != "latest" and free:
            return self.dice.choice(free)
        self.site.clear()
        return self.site.inits()[0]

    def _key(self, act: str) -> str:
        """A run with which a command has something to do."""
        while len(self._manifests()) < KEPT + 2:
            self._run("publish", self._init())
        key = self.dice.choice(sorted(path.name for path in self._manifests()))
        if act == "restore":
            self._run("withdraw", key)
        return key

    def _manifests(self) -> dict[Path, bytes]:
        """Of all runs that are seen."""
        seen = runs(self.site.root, self.site.product)
        return {run.path: (run.path / "run.json").read_bytes() for run in seen}

    def _run(self, act: str, name: str, phase: str = "") -> bool:
        """Gives a command; whether it died in the phase, if one is given."""
        self.done.unlink(missing_ok=True)
        stages = set(self.site.stages())
        order = {"config": str(self.site.config), "act": act, "name": name, "phase": phase, "done": str(self.done)}
        victim = int(self.nursery.ask(json.dumps(order | {"step": self.dice.randrange(STEPS.get(phase, 1))})))
        if phase == "rasters":
            self._strike(victim, stages)
        await_end({victim})
        if phase == "rasters":
            return any(not (stage / "run.json").exists() for stage in set(self.site.stages()) - stages)
        return not self.done.exists()

    def _strike(self, victim: int, stages: set[Path]) -> None:
        """Kills a publish while it writes rasters."""
        end = time.monotonic() + PATIENCE
        while alive(victim) and set(self.site.stages()) == stages:
            assert time.monotonic() < end, "a publish hangs before its first file"
            time.sleep(0.0005)
        time.sleep(self.dice.uniform(0, RASTERS))
        if alive(victim):
            os.kill(victim, signal.SIGKILL)

    def _undone(self, act: str, name: str) -> Iterator[str]:
        """What the command, given again, has not brought about."""
        seen = self._manifests()
        there = any(name in {path.name, path.parent.name} for path in seen)
        if len(seen) != KEPT if act == "tidy" else there != (act != "withdraw"):
            yield f"{act} {name} was not completed: {sorted(seen)} are seen"

    def _not_as_known(self) -> Iterator[str]:
        """Runs that hold something else than when they were first made."""
        for path in self._manifests():
            made = content(path)
            if self.known.setdefault(path.name, made) != made:
                yield f"{path} was made again with other bytes"


def _changed(before: dict[Path, bytes], after: dict[Path, bytes]) -> set[Path]:
    return {path for path in before.keys() & after.keys() if before[path] != after[path]}


@pytest.mark.slow
@pytest.mark.timeout(7200 if FULL else 900)
def test_no_kill_shows_a_broken_run_or_changes_a_byte(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "product")
    with (
        helper(NURSERY, tmp_path / "nursery.txt", answers=True) as nursery,
        helper(READER, tmp_path / "reader.txt", answers=False) as reader,
    ):
        reader.tell(json.dumps([str(site.root), site.product]))
        publisher = Publisher(site, nursery, tmp_path / "done", random.Random(20260401))
        tried = 0
        while not publisher.enough():
            publisher.attempt()
            tried += 1
            assert tried < 10 * KILLS, publisher.kills
        unseen = nursery.heard()
    assert reader.reads() >= tried
    assert not unseen
    assert not [line for line in reader.heard() if line.startswith("fault")]
    for phase, count in publisher.kills.items():
        record("kill -9 of publishing", phase, count, len(publisher.wrong[phase]))
    assert not any(publisher.wrong.values()), publisher.wrong
    assert site.swept()
