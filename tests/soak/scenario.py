"""The story of a soak: which file arrives in which step with which fault, and what breaks meanwhile; all from a seed.

A step is one slot of the time axis: the scene acquired in it arrives in it, unless it is late. The story is known
before anything runs, so that what must come of it can be said without looking at what came of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pipeline.synthetic import SyntheticSpec
from pipeline.times import stamp

LATEST = 6
"""Steps that a late scene is late, at most; half of what ``forecast.catch_up`` makes up for."""


class Fault(StrEnum):
    """What goes wrong with a scene."""

    LATE = "late"  # arrives some steps after its time
    MISSING = "missing"  # never arrives
    REPEATED = "repeated"  # arrives twice, the same bytes under two names
    CORRUPT = "corrupt"  # its pixels cannot be decoded
    CUT = "cut"  # the file ends too early


BROKEN = frozenset({Fault.CORRUPT, Fault.CUT})


class Trouble(StrEnum):
    """What goes wrong with the programs."""

    WORKER = "worker killed"  # while it works on a run
    RUN = "flow run killed"  # the process of a run, not its worker
    PREFECT = "Prefect server restarted"
    MLFLOW_HANGS = "MLflow hangs"  # takes connections and says nothing
    MLFLOW_DIES = "MLflow dies"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file.

    Attributes:
        step: when it appears in the inbox.
        slot: what it shows.
        name: of the file.
        fault: what is wrong with it; None: nothing.
    """

    step: int
    slot: int
    name: str
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How long a soak is, and how much happens in it.

    Attributes:
        steps: slots that are replayed.
        history: slots before them, all good, that are in the inbox at the start.
        faults: how many scenes of each fault.
        troubles: how many times each trouble.
        drift: step from which the sky is another one; None: it stays the same.
        trains: whether a first champion is trained before the first step.
        beat: seconds between two signs of life of a run; after nine missing ones it is buried.
    """

    steps: int
    history: int
    faults: dict[Fault, int]
    troubles: dict[Trouble, int]
    drift: int | None = None
    trains: bool = False
    beat: float = 10.0

    def __post_init__(self) -> None:
        """Refuses more faults than there is room for.

        Raises:
            ValueError: the first and the last step are good, each other has one fault at most.
        """
        room, wanted = self.steps - 2, sum(self.faults.values())
        if wanted > room:
            msg = f"{self.steps} steps have room for {room} faults, the first and the last are good; found {wanted}"
            raise ValueError(msg)


SHORT = Form(
    steps=6,
    history=12,
    faults={Fault.LATE: 1, Fault.REPEATED: 1, Fault.CORRUPT: 1},
    troubles={Trouble.RUN: 1},
    beat=2.0,
)
"""Thirty minutes of scenes, without a network: for CI."""

FULL = Form(
    steps=72,
    history=18,
    faults={Fault.LATE: 5, Fault.MISSING: 3, Fault.REPEATED: 4, Fault.CORRUPT: 2, Fault.CUT: 2},
    troubles={
        Trouble.MLFLOW_HANGS: 1,
        Trouble.MLFLOW_DIES: 1,
        Trouble.PREFECT: 1,
        Trouble.WORKER: 3,
        Trouble.RUN: 3,
    },
    drift=14,
    trains=True,
)
"""Six hours of scenes, with a drift that asks for another model."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens.

    Attributes:
        form: how long, how much.
        sky: what the scenes show.
        arrivals: every file that comes after the history, by step.
        troubles: by step; at most one a step.
        missing: slots whose scene never comes.
    """

    form: Form
    sky: SyntheticSpec
    arrivals: tuple[Arrival, ...]
    troubles: dict[int, Trouble]
    missing: frozenset[int]

    @property
    def steps(self) -> range:
        """All steps."""
        return range(self.form.steps)

    @property
    def history(self) -> tuple[Arrival, ...]:
        """What lies in the inbox at the start."""
        return tuple(Arrival(-1, slot, self.name(slot)) for slot in range(self.form.history))

    @property
    def drifted(self) -> SyntheticSpec:
        """The sky after the drift: clouds live eight times as long.

        A network that has learned how fast they vanish is worse than extrapolation then.
        """
        return replace(self.sky, lifetime=8 * self.sky.lifetime)

    def changed(self, slot: int) -> bool:
        """Whether a slot comes after the drift."""
        return self.form.drift is not None and self.step(slot) >= self.form.drift

    def slot(self, step: int) -> int:
        """The slot acquired in a step."""
        return self.form.history + step

    def step(self, slot: int) -> int:
        """The step in which a slot is acquired; negative in the history."""
        return slot - self.form.history

    def at(self, step: int) -> tuple[Arrival, ...]:
        """The files that appear in a step."""
        return tuple(one for one in self.arrivals if one.step == step)

    def time(self, slot: int) -> datetime:
        """When a slot is true."""
        return self.sky.axis.valid_time(slot)

    def available(self, arrival: Arrival) -> datetime:
        """When a file could first be used: two minutes into its step."""
        return self.time(self.slot(arrival.step) if arrival.step >= 0 else arrival.slot) + timedelta(minutes=2)

    def name(self, slot: int) -> str:
        """File name of a slot's scene."""
        return f"synthetic_{stamp(self.time(slot))}.tif"


def scenario(form: Form, seed: int = 0) -> Scenario:
    """The story of a form under one and the same sky; the same seed tells the same one."""
    chance, sky = random.Random(seed), _sky(form)
    steps = chance.sample(range(1, form.steps - 1), sum(form.faults.values()))
    kinds = [fault for fault, count in form.faults.items() for _ in range(count)]
    faults = dict(zip(steps, kinds, strict=True))
    busy = {step for step in range(form.steps) if faults.get(step) in (None, Fault.REPEATED)}
    empty = Scenario(form, sky, (), _troubles(form, busy, chance), frozenset())
    arrivals = [one for step in empty.steps for one in _files(empty, step, faults.get(step), chance)]
    missing = frozenset(empty.slot(step) for step, fault in faults.items() if fault is Fault.MISSING)
    ordered = tuple(sorted(arrivals, key=lambda one: (one.step, one.slot, one.name)))
    return replace(empty, arrivals=ordered, missing=missing)


def _files(told: Scenario, step: int, fault: Fault | None, chance: random.Random) -> Iterator[Arrival]:
    """What comes of the scene that is acquired in a step."""
    slot = told.slot(step)
    name = told.name(slot)
    if fault is Fault.MISSING:
        return
    if fault is Fault.LATE:
        step = min(step + chance.randint(1, LATEST), told.form.steps - 1)
    yield Arrival(step, slot, name, fault)
    if fault is Fault.REPEATED:
        again = min(step + chance.randint(0, 1), told.form.steps - 1)
        yield Arrival(again, slot, name.replace(".tif", "_copy.tif"), fault)


def _troubles(form: Form, busy: set[int], chance: random.Random) -> dict[int, Trouble]:
    """When what breaks: the servers before the drift, so that each claim is about one thing; runs where there are some.

    Args:
        form: how much breaks.
        busy: steps whose own scene comes at once, so that there is a forecast to be killed.
        chance: the story's.
    """
    servers = (Trouble.MLFLOW_HANGS, Trouble.MLFLOW_DIES, Trouble.PREFECT)
    first = [trouble for trouble in servers for _ in range(form.troubles.get(trouble, 0))]
    found = dict(zip(sorted(chance.sample(range(1, (form.drift or form.steps) - 1), len(first))), first, strict=True))
    kills = [trouble for trouble in (Trouble.WORKER, Trouble.RUN) for _ in range(form.troubles.get(trouble, 0))]
    free = sorted(step for step in busy if 0 < step < form.steps - 1 and step not in found)
    return found | dict(zip(chance.sample(free, len(kills)), kills, strict=True))


def _sky(form: Form) -> SyntheticSpec:
    """Even light, steady wind and clouds that vanish fast, so that what a drift does is the drift's."""
    return SyntheticSpec(
        height=96,
        width=96,
        frames=form.history + form.steps,
        start=datetime(2024, 6, 1, 7, 0, tzinfo=UTC),
        turning=10.0,
        veer=0.0,
        lifetime=0.08,
        sunrise=-10.0,
        sunset=34.0,
        gaps=0.1,
        noise=0.03,
    )
