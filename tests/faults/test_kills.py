"""Ingest is killed in every phase of a write, under a reader's eyes: nothing acknowledged is lost, nothing is half."""

from __future__ import annotations

import os
import random
import signal
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

from pipeline.cube import open_cube
from pipeline.store import CubeStore
from tests.faults.killing import PHASES, SIGNS, Disk, Site, held, name_of, phase_at_death
from tests.faults.process import PATIENCE, Helper, await_end, helper
from tests.faults.record import FULL, record, tries
from tests.faults.watch import alive, family

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="follows processes in /proc")

CUBECAST = Path(sys.executable).with_name("cubecast")
LEAST = 30 if FULL else 1  # kills in each phase
ROUND = 30  # kills of one workspace
CLI_EVERY = 6
BACKLOG = 8  # files that wait, at most
DELAYS = {"staging": 0.3, "chunks": 0.2, "commit": 0.004, "barrier": 0.002, "ledger": 0.002}  # seconds, at most

# An ingest a line, in a process of its own that has imported everything; it answers with the number of the process.
NURSERY = """
import os, signal, sys, traceback
import pipeline.ingest, pipeline.reader
from pathlib import Path
from pipeline.config import load

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        pipeline.ingest.ingest(load(Path(line.strip())))
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""

# A cube a line: from then on the youngest slots of its newest snapshot, and some others, are read again and again, and
# what is wrong with them is printed.
READER = """
import random, sys, threading
from pathlib import Path
from pipeline.cube import open_cube
from pipeline.errors import StoreError
from pipeline.store import CubeStore, NoCubeError
from tests.faults.killing import faults_of

path, reads, ended = None, 0, threading.Event()

def read():
    cube = open_cube(CubeStore(path))
    slots = cube.observed().tolist()
    for fault in faults_of(cube, {*slots[-3:], *random.choices(slots, k=3)}):
        print("fault", fault, flush=True)

def watch():
    global reads
    while not ended.wait(0.1):
        try:
            if path:
                read()
                reads += 1
        except NoCubeError:
            pass
        except Exception as error:
            print("fault", type(error).__name__, error, flush=True)

watcher = threading.Thread(target=watch)
watcher.start()
for line in sys.stdin:
    path = Path(line.strip())
ended.set()
watcher.join()  # a thread that reads while the interpreter ends would panic in icechunk's
print("reads", reads, flush=True)
"""


@dataclass(slots=True)
class Killer:
    """Starts ingests and kills them.

    Attributes:
        nursery: where most of them come from; some are the real command.
        dice: decides when, and whether the children of the ingest are killed too.
        started: how many.
    """

    nursery: Helper
    dice: random.Random
    started: int = 0

    def kill(self, site: Site, target: str) -> str | None:
        """Kills an ingest when it comes to a phase, and says in which one it died; None: it was over before."""
        before = Disk.of(site)
        with self._ingesting(site) as victim:
            self._await(victim, site, before, target)
            relatives = family(victim)
            killed = alive(victim)
            if killed:
                self._strike(victim)
            await_end({victim, *relatives})
        return phase_at_death(site, before) if killed else None

    @contextmanager
    def _ingesting(self, site: Site) -> Iterator[int]:
        """The number of a process that leads its own group."""
        self.started += 1
        if self.started % CLI_EVERY:
            yield int(self.nursery.ask(site.config))
            return
        command = [CUBECAST, "ingest", "--config", site.config, "--json"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, start_new_session=True, **quiet) as process:
            yield process.pid

    def _await(self, victim: int, site: Site, before: Disk, target: str) -> None:
        end = time.monotonic() + PATIENCE
        while alive(victim) and not SIGNS[target](before, Disk.of(site)):
            assert time.monotonic() < end, f"an ingest hangs, it never came to {target}"
            time.sleep(0.0005)
        time.sleep(self.dice.uniform(0, DELAYS[target]))

    def _strike(self, victim: int) -> None:
        if self.dice.random() < 0.5:
            os.killpg(victim, signal.SIGKILL)
        else:
            os.kill(victim, signal.SIGKILL)


@dataclass(slots=True)
class Tally:
    """How many ingests died in each phase, and what was wrong afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def rarest(self) -> str:
        """The phase in which the fewest have died."""
        return min(PHASES, key=lambda phase: self.kills[phase])

    def enough(self) -> bool:
        return self.kills.total() >= tries(300, 30) and self.kills[self.rarest()] >= LEAST

    def note(self, phase: str, faults: list[str]) -> None:
        self.kills[phase] += 1
        self.faults.setdefault(phase, []).extend(faults)


def finish(site: Site) -> None:
    """The next ingest that nobody kills brings in everything."""
    subprocess.run([CUBECAST, "ingest", "--config", site.config], check=True, capture_output=True, timeout=PATIENCE)
    newest = {name_of(slot, revision) for slot, revision in site.revisions.items()}
    assert held(open_cube(CubeStore(site.cube))) == newest
    assert site.waiting() == 0
    assert not list(site.work.glob(".staging-*"))
    assert not list(site.faults())
    assert site.accepted() == newest


@pytest.mark.slow
@pytest.mark.timeout(7200 if FULL else 900)
def test_no_kill_loses_an_acknowledged_scene_or_shows_half_of_one(tmp_path: Path) -> None:
    tally = Tally()
    with (
        helper(NURSERY, tmp_path / "nursery.txt", answers=True) as nursery,
        helper(READER, tmp_path / "reader.txt", answers=False) as reader,
    ):
        killer = Killer(nursery, random.Random(20240601))
        while not tally.enough():
            kill_for_a_round(Site(tmp_path / f"site-{killer.started}"), killer, reader, tally)
    assert reader.reads() >= killer.started
    assert not nursery.heard()
    for phase, count in tally.kills.items():
        record("kill -9 of ingest", phase, count, len(tally.faults[phase]))
    assert not any(tally.faults.values()), tally.faults


def kill_for_a_round(site: Site, killer: Killer, reader: Helper, tally: Tally) -> None:
    reader.tell(site.cube)
    goal = tally.kills.total() + ROUND
    while tally.kills.total() < goal and not tally.enough():
        assert killer.started < 10 * tries(300, 30), tally.kills
        if site.waiting() < BACKLOG:
            site.arrive(killer.dice)
        phase = killer.kill(site, tally.rarest())
        if phase is not None:
            tally.note(phase, [*site.faults(), *reader.heard()])
    finish(site)
