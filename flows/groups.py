"""Process groups: asked to end, waited for, and noted in a file, so that what a killed process started can be ended."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from pipeline.durable import replace_text

LAST_BREATH: Final = 5.0  # seconds
SAME: Final = 2.0
"""Seconds that two readings of one start differ by at most: the time of the boot, to which it is added, is rounded."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Leader:
    """A process that leads a group; the system gives its number out again, but not with the same start.

    Attributes:
        name: what people call it.
        pid: its number, and the group's.
        born: when it started, seconds of the epoch.
    """

    name: str
    pid: int
    born: float

    @property
    def lives(self) -> bool:
        """Whether this very process is there, and not another of its number."""
        born = _born(self.pid)
        return born is not None and abs(born - self.born) <= SAME


def leader(name: str, pid: int) -> Leader | None:
    """The running process of a number; None: there is none."""
    born = _born(pid)
    return None if born is None else Leader(name, pid, born)


def write_note(note: Path, leaders: Collection[Leader]) -> None:
    """Notes what this process has started; without leaders there is no note.

    A note that cannot be written, as the disk is full, is done without.
    """
    with suppress(OSError):
        if not leaders:
            note.unlink(missing_ok=True)
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        who = leader("cubecast up", os.getpid())
        everybody = {"owner": who and asdict(who), "leaders": [asdict(one) for one in leaders]}
        replace_text(note, json.dumps(everybody, indent=1))


def owner_at_work(note: Path) -> Leader | None:
    """The other process that has written a note and runs; None: there is none."""
    owner, _ = _read(note)
    return owner if owner is not None and owner.lives and owner.pid != os.getpid() else None


def end_remains(note: Path, say: Say) -> None:
    """Ends the groups of a note whose owner is gone: by request, and after :data:`LAST_BREATH` seconds by force.

    Args:
        note: of :func:`write_note`; where it is missing or no note, nothing happens.
        say: told of what is ended, in one line.
    """
    remains = _remains(note)
    if not remains:
        return
    names = ", ".join(f"{one.name} ({one.pid})" for one in remains)
    say(f"Ending what an earlier cubecast up, which was killed, left running: {names}")
    for one in remains:
        send(one.pid, signal.SIGTERM)
    deadline = time.monotonic() + LAST_BREATH
    while time.monotonic() < deadline and any(exists(one.pid) for one in remains):
        time.sleep(0.05)
    for one in remains:
        send(one.pid, signal.SIGKILL)  # the number stays the group's as long as one of it is left
    for one in remains:
        await_nobody(one.pid)


def send(group: int, number: signal.Signals) -> None:
    """Sends a signal to everybody in a group."""
    with suppress(ProcessLookupError, PermissionError):  # nobody left; macOS says it with the second
        os.killpg(group, number)


def await_nobody(group: int) -> None:
    """Until the group is empty: the killed end on their own time, and whoever starts anew needs their ports."""
    deadline = time.monotonic() + LAST_BREATH
    while time.monotonic() < deadline and exists(group):
        time.sleep(0.05)


def exists(group: int) -> bool:
    """Whether anybody is in a group."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _remains(note: Path) -> list[Leader]:
    owner, leaders = _read(note)
    if owner is not None and owner.lives:  # another cubecast up is at work, and these are its own
        return []
    return [one for one in leaders if one.lives]


def _read(note: Path) -> tuple[Leader | None, list[Leader]]:
    """Owner and leaders of a note; nobody where it is missing or no note."""
    try:
        everybody = json.loads(note.read_text(encoding="utf-8"))
        owner = Leader(**everybody["owner"]) if everybody["owner"] else None
        return owner, [Leader(**one) for one in everybody["leaders"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None, []


def _born(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
