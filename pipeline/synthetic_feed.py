"""The made-up sky as a feed: a scene a slot, and now and then one that is late, missing, repeated or corrupt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.synthetic import SyntheticFrame, SyntheticSpec, stream
from pipeline.synthetic_scenes import corrupt, encode, repeat, write_scene
from pipeline.times import stamp

LATENCY: Final = timedelta(seconds=5)
"""From acquisition to delivery."""
LATE: Final = 4  # slots


class Fate(StrEnum):
    """What becomes of a scene on its way."""

    GOOD = "good"
    LATE = "late"
    MISSING = "missing"
    REPEATED = "repeated"
    CORRUPT = "corrupt"


CHANCES: Final = {Fate.LATE: 0.04, Fate.MISSING: 0.03, Fate.REPEATED: 0.03, Fate.CORRUPT: 0.02}
"""How likely each is; the others are good."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A scene on its way.

    Attributes:
        frame: what it shows.
        time: acquisition, UTC.
        due: when it arrives, UTC.
        fate: what becomes of it.
    """

    frame: SyntheticFrame = field(repr=False)
    time: datetime
    due: datetime
    fate: Fate

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"synthetic_{stamp(self.time)}.tif"


def fate_of(spec: SyntheticSpec, slot: int) -> Fate:
    """What becomes of the scene of a slot: the same every time."""
    draw = float(np.random.default_rng([spec.seed, *b"fate", slot]).random())
    for fate, chance in CHANCES.items():
        if draw < chance:
            return fate
        draw -= chance
    return Fate.GOOD


def deliveries(spec: SyntheticSpec, first: int) -> Iterator[Delivery]:
    """The scenes from slot ``first`` on, in the order of their arrival; missing ones never arrive."""
    waiting: list[Delivery] = []
    for frame in islice(stream(spec), first, None):
        time, fate = spec.axis.valid_time(frame.slot), fate_of(spec, frame.slot)
        due = time + LATENCY + (LATE * spec.cadence if fate is Fate.LATE else timedelta(0))
        if fate is not Fate.MISSING:
            waiting.append(Delivery(frame, time, due, fate))
        waiting.sort(key=lambda one: one.due)
        while waiting and waiting[0].due <= time + LATENCY:
            yield waiting.pop(0)


def deliver(folder: Path, scene: Delivery, spec: SyntheticSpec) -> Path:
    """Puts a scene into an inbox, whole: written aside, and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    aside, path = folder / f".{scene.name}.part", folder / scene.name
    write_scene(aside, encode(scene.frame.values, scene.frame.validity), spec.grid, scene.time, scene.due)
    if scene.fate is Fate.CORRUPT:
        corrupt(aside)
    aside.replace(path)
    if scene.fate is Fate.REPEATED:
        repeat(path)
    return path
