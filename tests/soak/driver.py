"""A soak: a product behind `cubecast up`, its scenes replayed as fast as it keeps up, and everything counted."""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.heartbeat import EVERY
from flows.sweeper import START
from pipeline.config import Settings, load
from tests.soak import gathering
from tests.soak.observation import Observed, Told, Usage
from tests.soak.oracle import Lead, Oracle
from tests.soak.product import HORIZON, NAME, Archive, configure, fill
from tests.soak.report import ON_TIME, Report, judge
from tests.soak.scenario import Scenario, Trouble
from tests.soak.services import Services, wait_until

SETTLED = ON_TIME.total_seconds()
"""Seconds after which the next scene comes whatever has become of the last one; in life it comes then, too."""
TRAINED = 600.0  # seconds for the first champion
AT_REST = 240.0  # seconds for the last runs to end
LIMIT = 95 * 60.0  # seconds after which no further step begins
STARTS = "180"  # seconds that a run may take to start, however often it beats
LOOK = 1.0  # seconds between two looks
DONE = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Say = Callable[[str], None]


def say(line: str) -> None:
    """A line for a person, at once."""
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Lack:
    """What is due and not there.

    Attributes:
        files: that the ledger has not decided.
        slots: without a forecast.
        leads: without a score.
    """

    files: frozenset[str] = frozenset()
    slots: frozenset[int] = frozenset()
    leads: frozenset[Lead] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.files or self.slots or self.leads)

    def __or__(self, other: Lack) -> Lack:
        return Lack(self.files | other.files, self.slots | other.slots, self.leads | other.leads)

    def __sub__(self, other: Lack) -> Lack:
        return Lack(self.files - other.files, self.slots - other.slots, self.leads - other.leads)

    def __str__(self) -> str:
        return f"{len(self.files)} file(s), {len(self.slots)} forecast(s) and {len(self.leads)} score(s) are missing"


@dataclass(slots=True)
class Soak:
    """A soak that goes on.

    Attributes:
        told: the story.
        settings: of the product.
        archive: its scenes.
        services: its programs.
    """

    told: Scenario
    settings: Settings
    archive: Archive
    services: Services
    dropped: dict[int, datetime] = field(default_factory=dict)
    alarms: list[Told] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    _forgone: Lack = field(default_factory=lambda: Lack())
    _began: float = field(default_factory=time.monotonic)

    @property
    def oracle(self) -> Oracle:
        """What must come of it."""
        return Oracle(self.told, HORIZON)

    def run(self) -> Observed:
        """Everything from the first scene to the last one, and what became of it."""
        try:
            self.services.start()
            self.begin()
            for step in self.told.steps:
                assert time.monotonic() - self._began < LIMIT, (
                    f"step {step} of {self.told.form.steps} after {LIMIT:g} s"
                )
                self.replay(step)
            stuck = self.rest()
        finally:
            self.services.stop()
        return self.observed(stuck)

    def begin(self) -> None:
        """Waits for the history in the cube, and for a first champion where the story has one."""
        started = time.monotonic()
        assert wait_until(lambda: not self.lacking(-1), SETTLED, LOOK), "the history does not come into the cube"
        say(f"{len(self.told.history)} scenes of history are in the cube after {time.monotonic() - started:.0f} s")
        if self.told.form.trains:
            run = self.services.request(f"train/{NAME}")
            assert wait_until(lambda: self.services.state(run) in DONE, TRAINED, 2.0), "the first training does not end"
            say(f"the first training: {self.services.state(run)} after {time.monotonic() - started:.0f} s")

    def replay(self, step: int) -> None:
        """One step: files come, something breaks, and everything that is due is waited for."""
        arrivals, trouble = self.told.at(step), self.told.troubles.get(step)
        self.archive.drop(arrivals, self.settings.scenes.folder)
        self.dropped[step] = datetime.now(UTC)
        started = time.monotonic()
        broken = "" if trouble is None else self.trouble(trouble)
        settled = wait_until(lambda: not self.lacking(step), SETTLED, LOOK)
        lack, took = self.lacking(step), time.monotonic() - started
        self._forgone |= lack
        self.services.release()
        self.usage += self.services.usage(step)
        self.hear(step)
        files = ", ".join(f"{one.name[10:-4]}{f' ({one.fault})' if one.fault else ''}" for one in arrivals) or "nothing"
        end = "settled" if settled else f"NOT SETTLED ({lack})"
        say(f"step {step + 1} of {self.told.form.steps}: {files}; {broken}{end} after {took:.0f} s")

    def trouble(self, trouble: Trouble) -> str:
        """Breaks something; what to say of it."""
        acts: dict[Trouble, Callable[[], object]] = {
            Trouble.WORKER: self.services.kill_worker,
            Trouble.RUN: self.services.kill_run,
            Trouble.PREFECT: self.services.restart_prefect,
            Trouble.MLFLOW_HANGS: self.services.hang_mlflow,
            Trouble.MLFLOW_DIES: self.services.kill_mlflow,
        }
        hit = acts[trouble]()
        return f"{trouble}{' (but nothing ran)' if hit is False else ''}; "

    def lacking(self, step: int) -> Lack:
        """What is due by a step and not there yet, without what was waited for in vain before."""
        known, oracle = gathering.ledger(self.settings), self.oracle
        undecided = {name for name in oracle.files_by(step) if "pending" in known.get(name, ("pending",))}
        slots = oracle.forecasts_by(step) - gathering.forecast_slots(self.settings)
        made = oracle.forecasts_by(step - 1)  # a run that is made up for meets its truth at the next verification
        leads = {one for one in oracle.scores_by(step) if one.init in made} - gathering.scored_leads(self.settings)
        return Lack(frozenset(undecided), slots, frozenset(leads)) - self._forgone

    def owed(self) -> frozenset[Lead]:
        """Leads whose truth is there and that have no score yet, without what was waited for in vain before."""
        known, last = gathering.scored_leads(self.settings), self.told.form.steps
        return frozenset(self.oracle.scores_by(last)) - known - self._forgone.leads

    def hear(self, step: int) -> None:
        """Notes new alarms; retrainings are asked for by their events."""
        for kind, measure in gathering.alarms(self.settings)[len(self.alarms) :]:
            self.alarms.append(Told(step, kind, measure))
            say(f"    {kind} ({measure})")

    def rest(self) -> tuple[str, ...]:
        """Waits until nothing runs any more, and what was made up for in the last step is scored; what still runs."""
        wait_until(lambda: not self.owed() and not self.services.stuck(), AT_REST, 2.0)
        return tuple(self.services.stuck())

    def observed(self, stuck: tuple[str, ...]) -> Observed:
        """What became of it, after everything has ended."""
        return Observed(
            self.dropped,
            gathering.published(self.settings),
            gathering.scored(self.settings),
            gathering.ledger(self.settings),
            tuple(self.alarms),
            tuple(self.usage),
            stuck,
            gathering.leftovers(self.settings.paths.root),
        )


def soak(told: Scenario, folder: Path) -> Report:
    """Runs a story in an empty folder; what it claims."""
    started = time.monotonic()
    archive = fill(folder / "archive", told)
    ports = _free_ports()
    config = configure(folder / "product", told, archive, ports)
    say(f"{len(told.arrivals)} files in {told.form.steps} steps; {config}")
    services = Services(config, ports[0], {EVERY: str(told.form.beat), START: STARTS})
    going = Soak(told, load(config), archive, services)
    report = judge(going.oracle, going.run())
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    took, cpu = time.monotonic() - started, spent.ru_utime + spent.ru_stime
    say(f"over after {took / 60:.1f} minutes, {cpu / 60:.1f} CPU-minutes")
    return report


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
