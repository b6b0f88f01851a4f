"""Leak audit: is anything that validation or test must meet visible to an earlier part?

It looks only at the slots and areas that come out of a split, as sets of pixel-times (one pixel at one slot), and at no
fraction, boundary or embargo that went into it: a mistake there cannot hide here. Slots without a scene count as well.
It takes for granted that each part is read, and its motion estimated, from its own area alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pipeline.errors import LeakError
from pipeline.grid import Window
from pipeline.samples import Sample, Split, SplitMode
from pipeline.times import TimeAxis, stamp

EXAMPLES = 5
RULES = (
    "A pixel-time is one pixel of the grid at one slot, whether or not it holds a scene.",
    "No sample sees a frame after its init time, or must meet one at or before it.",
    "No pixel-time is a target of two parts.",
    "No target of validation or test is visible to training: not as context or target, and so not through the motion "
    "between the frames that training reads, nor in its statistics.",
    "No target of test is visible to validation.",
    "Statistics come from slots that training samples touch, in the training area, and from nothing else.",
)
LOOK_BACK = (
    "A later part may see, as context, frames that an earlier part knows: at an init time they are known in operation "
    "too. That gives away nothing that it must meet, because nothing that an earlier part knows is a target of a "
    "later one (see pairs)."
)


class Way(StrEnum):
    """How a part comes to see a target that it must not see."""

    FORESIGHT = "foresight"
    TARGET = "target"
    CONTEXT = "context"
    STATISTICS = "statistics"


REMEDY = {
    Way.FORESIGHT: "let contexts end at the init time and targets begin after it",
    Way.TARGET: "leave out the samples that touch these slots, or keep the areas of the two parts apart",
    Way.CONTEXT: "leave out the samples that touch these slots, or keep the areas of the two parts apart",
    Way.STATISTICS: "measure the statistics over the slots and the area of the training samples alone",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a part touches.

    Attributes:
        name: training, validation or test.
        samples: how many.
        context: slots that its samples see.
        targets: slots that its samples must meet.
        ahead: slots that a sample sees although they are after its init time, or meets although they are not.
        area: the pixels of the grid that it reads.
    """

    name: str
    samples: int
    context: frozenset[int]
    targets: frozenset[int]
    ahead: frozenset[int]
    area: Window

    @classmethod
    def of(cls, name: str, samples: Sequence[Sample], area: Window) -> Part:
        """A part of a split."""
        context = frozenset(slot for one in samples for slot in one.context)
        targets = frozenset(slot for one in samples for slot in one.targets)
        seen = {slot for one in samples for slot in one.context if slot > one.init}
        met = {slot for one in samples for slot in one.targets if slot <= one.init}
        return cls(name, len(samples), context, targets, frozenset(seen | met), area)

    @property
    def touched(self) -> frozenset[int]:
        """Slots of context and targets."""
        return self.context | self.targets


@dataclass(frozen=True, slots=True)
class Pair:
    """Targets of one part that another one, or a sample of its own, sees in one way.

    Attributes:
        seen_by: the part that must not see them.
        targets_of: the part that must meet them.
        way: as what they are seen.
        slots: how many slots.
        pixel_times: how many pixels at these slots; 0: no leak.
        examples: the first slots, by time where the axis is known.
    """

    seen_by: str
    targets_of: str
    way: Way
    slots: int
    pixel_times: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LookBack:
    """Frames that a later part sees and an earlier one knows too; allowed.

    Attributes:
        by: the later part.
        into: the earlier part.
        frames: how many slots.
    """

    by: str
    into: str
    frames: int


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What an audit found.

    Attributes:
        mode: where validation comes from.
        parts: what each part touches.
        statistics: slots that the statistics come from.
        strays: those of them that no training sample touches.
        pairs: every way in which targets could be seen too early, with what was found.
        look_back: what later parts see of earlier ones.
        separation: pixels between training and validation area; None where both are the whole grid.
        axis: turns slots into times.
    """

    mode: SplitMode
    parts: tuple[Part, ...]
    statistics: frozenset[int]
    strays: tuple[int, ...]
    pairs: tuple[Pair, ...]
    look_back: tuple[LookBack, ...]
    separation: int | None
    axis: TimeAxis | None = None

    @property
    def sound(self) -> bool:
        """Nothing leaks."""
        return not self.strays and not any(pair.pixel_times for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        """The report for a reader: verdict and rules, then what they were checked on."""
        return {
            "verdict": "sound" if self.sound else "leaking",
            "rules": list(RULES),
            "split_mode": self.mode.value,
            "separation_px": self.separation,
            "parts": {part.name: self._part(part) for part in self.parts},
            "statistics": self._extent(self.statistics) | {"outside_training": _named(self.strays, self.axis)},
            "pairs": [asdict(pair) for pair in self.pairs],
            "look_back": {"why_allowed": LOOK_BACK, "counts": [asdict(one) for one in self.look_back]},
        }

    def _part(self, part: Part) -> dict[str, Any]:
        extents = {"context": self._extent(part.context), "targets": self._extent(part.targets)}
        return {"samples": part.samples, **extents, "area": asdict(part.area)}

    def _extent(self, slots: frozenset[int]) -> dict[str, Any]:
        ends = (min(slots), max(slots)) if slots else ()
        return {"slots": len(slots), "first_and_last_slot": list(ends), "first_and_last": _named(ends, self.axis)}


def audit(parts: Split, statistics_slots: Sequence[int], *, axis: TimeAxis | None = None) -> LeakReport:
    """Whether any target of a part is visible to an earlier one.

    Args:
        parts: the samples and areas of each part; test reads all that lies within the hull of the other two's areas.
        statistics_slots: slots that the statistics were, or will be, measured over, in the training area.
        axis: to name examples by their times.
    """
    training = Part.of("training", parts.training, parts.training_area)
    validation = Part.of("validation", parts.validation, parts.validation_area)
    test = Part.of("test", parts.test, _hull(parts.training_area, parts.validation_area))
    statistics = frozenset(int(slot) for slot in statistics_slots)
    order = ((training, validation), (training, test), (validation, test))
    pairs = [_pair(part, part, Way.FORESIGHT, part.ahead, axis) for part in (training, validation, test)]
    pairs += [pair for earlier, later in order for pair in _seen(earlier, later, axis)]
    pairs += [_pair(training, one, Way.STATISTICS, statistics & one.targets, axis) for one in (validation, test)]
    return LeakReport(
        mode=parts.mode,
        parts=(training, validation, test),
        statistics=statistics,
        strays=tuple(sorted(statistics - training.touched)),
        pairs=tuple(pairs),
        look_back=tuple(_look_back(later, earlier) for earlier, later in order),
        separation=_separation(parts.training_area, parts.validation_area) if parts.mode is SplitMode.BLOCKS else None,
        axis=axis,
    )


def refuse(report: LeakReport) -> None:
    """Stops a training whose data leak.

    Raises:
        LeakError: with the pair that shares most, what it shares, and what to do.
    """
    if report.sound:
        return
    worst = max(report.pairs, key=lambda pair: pair.pixel_times)
    raise LeakError(_leak(worst) if worst.pixel_times else _strays(report))


def _leak(pair: Pair) -> str:
    rule = f"no target of {pair.targets_of} is visible to {pair.seen_by}"
    if pair.way is Way.FORESIGHT:
        rule = f"no sample of {pair.seen_by} sees a frame after its init time, or meets one at or before it"
    found = f"{pair.pixel_times} pixel-times of {pair.slots} slots ({pair.way}), first {', '.join(pair.examples)}"
    return f"{rule}, found {found}: {REMEDY[pair.way]}"


def _strays(report: LeakReport) -> str:
    found = f"{len(report.strays)} others, first {', '.join(_named(report.strays, report.axis))}"
    return f"statistics come from slots that training samples touch, found {found}: {REMEDY[Way.STATISTICS]}"


def _seen(earlier: Part, later: Part, axis: TimeAxis | None) -> list[Pair]:
    """Targets of ``later`` among what ``earlier`` reads."""
    ways = ((Way.TARGET, earlier.targets), (Way.CONTEXT, earlier.context))
    return [_pair(earlier, later, way, slots & later.targets, axis) for way, slots in ways]


def _pair(seer: Part, owner: Part, way: Way, slots: frozenset[int], axis: TimeAxis | None) -> Pair:
    """Pixel-times at ``slots`` that lie in the areas of both parts."""
    common = seer.area.intersection(owner.area)
    pixels = 0 if common is None else common.shape[0] * common.shape[1]
    seen = sorted(slots) if pixels else []
    return Pair(seer.name, owner.name, way, len(seen), len(seen) * pixels, tuple(_named(seen, axis)))


def _look_back(later: Part, earlier: Part) -> LookBack:
    shares = earlier.area.intersection(later.area) is not None
    return LookBack(later.name, earlier.name, len(later.context & earlier.touched) if shares else 0)


def _hull(one: Window, other: Window) -> Window:
    """The smallest window that holds both."""
    return Window(min(one.y0, other.y0), max(one.y1, other.y1), min(one.x0, other.x0), max(one.x1, other.x1))


def _separation(one: Window, other: Window) -> int:
    """Free pixels between two areas along the side on which they lie apart; 0 where they touch or overlap.

    >>> _separation(Window(0, 10, 0, 20), Window(0, 10, 25, 40))
    5
    """
    return max(other.y0 - one.y1, one.y0 - other.y1, other.x0 - one.x1, one.x0 - other.x1, 0)


def _named(slots: Iterable[int], axis: TimeAxis | None) -> list[str]:
    """The first few slots, as the times that name their scenes where the axis is known."""
    first = list(slots)[:EXAMPLES]
    return [f"slot {slot}" if axis is None else stamp(axis.valid_time(slot)) for slot in first]
