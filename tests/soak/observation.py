"""What became of a soak, as plain values; the driver gathers them, the report judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tests.soak.oracle import Lead


@dataclass(frozen=True, slots=True)
class Published:
    """A run that readers see.

    Attributes:
        init: slot.
        key: run key.
        model: name and version of what made it.
        created: when, by the clock of the wall.
        horizon: how many leads it has.
    """

    init: int
    key: str
    model: str
    created: datetime
    horizon: int


@dataclass(frozen=True, slots=True)
class Scored:
    """One score of a lead of a run, of one predictor.

    Attributes:
        key: run key.
        lead: init time and lead, in slots.
        band: name.
        predictor: ``forecast`` or a reference.
        pixels: how many counted.
        absolute: sum of their absolute errors.
    """

    key: str
    lead: Lead
    band: str
    predictor: str
    pixels: int = 1
    absolute: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a long-lived process holds in a step.

    Attributes:
        step: when.
        role: what it is.
        pid: which process; a restarted one is another.
        memory: resident (MiB).
        files: open descriptors.
    """

    step: int
    role: str
    pid: int
    memory: float
    files: int


@dataclass(frozen=True, slots=True)
class Told:
    """An alarm that was raised or cleared.

    Attributes:
        step: in which it was first seen.
        kind: ``skill.degraded`` or ``skill.recovered``.
        measure: of what: ``error`` or ``coverage``.
    """

    step: int
    kind: str
    measure: str = "error"


@dataclass(frozen=True, slots=True)
class Observed:
    """What became of a soak.

    Attributes:
        dropped: step -> when its files were put into the inbox, by the clock of the wall.
        published: every run that readers see at the end.
        scored: every score at the end.
        ledger: file name -> states of its versions.
        told: alarms.
        usage: of the long-lived processes.
        stuck: runs of the product that have not ended although nothing is left to do.
        leftovers: folders that a killed program left, after everything was stopped.
    """

    dropped: Mapping[int, datetime]
    published: tuple[Published, ...] = ()
    scored: tuple[Scored, ...] = ()
    ledger: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: tuple[Told, ...] = ()
    usage: tuple[Usage, ...] = ()
    stuck: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
