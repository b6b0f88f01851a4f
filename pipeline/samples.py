"""Forecast samples: which frames a forecast sees, which it must meet, and which part of the data they belong to.

Time is split first: the last observed slots are the test part, the slots before them validation, the rest training.
A part's first init time is the last frame before it, so that all that it must meet is its own. Earlier parts are purged
of every context and target that reaches a later part, or the embargo: the observed slots right before it, left out
because what comes next resembles them. A sample near such a boundary keeps the targets before it, and the others are
missing (``samples.partial``: of 14 frames and a horizon of 6 that makes 12 init times instead of 7).

A series too short for all that keeps its test part in time and takes validation from a stripe of the grid at the same
times, with a buffer beside it that no training chip touches; both are read, and their motion is estimated, from their
own area alone. Whether it is too short, whole samples decide: validation of first leads says nothing about the last.

What a leak is. A pixel-time is one pixel of the grid at one slot. None may be a target of two parts; no target of
validation or test may be visible to training as context, target, statistics or through the motion between the frames
that it reads; none of test may be visible to validation. A later part may look back: its contexts hold frames of the
parts before it, because at an init time these are known in operation too. This gives away nothing that it must meet:
all its targets come after all those frames. :mod:`pipeline.leaks` checks every split against these rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cube import Cube, Frames
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.predictor import Context
from pipeline.specs import SampleSpec
from pipeline.stripes import Ground, at_the_end, representative
from pipeline.times import from_seconds, seconds

MIN_FRAMES = 2  # motion needs two; a context has them unless the settings ask for more or fewer
MIN_TRAINING = 12  # init times, below which a part of the time axis is too dear for validation
MIN_VALIDATION = 4


class SplitMode(StrEnum):
    """Where validation comes from."""

    TEMPORAL = "temporal"
    BLOCKS = "blocks"


@dataclass(frozen=True, slots=True)
class Sample:
    """One forecast situation.

    Attributes:
        init: slot for which the forecast is issued.
        context: observed slots that it sees, oldest first, none after ``init``.
        targets: slots that it must meet, ``init + 1`` and on, observed or not; fewer than the horizon before a later
            part.
    """

    init: int
    context: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def slots(self) -> tuple[int, ...]:
        """Every slot that it touches."""
        return self.context + self.targets

    def until(self, last: int) -> Sample:
        """With the targets up to a slot.

        >>> Sample(4, (3, 4), (5, 6, 7)).until(6).targets
        (5, 6)
        """
        return Sample(self.init, self.context, tuple(slot for slot in self.targets if slot <= last))


@dataclass(frozen=True, slots=True)
class Split:
    """Samples of the three parts, and the areas where training and validation chips may lie.

    Attributes:
        mode: where validation comes from.
        training: samples to learn from.
        validation: samples that watch the training.
        test: samples never seen in training.
        training_area: all that training may read of the grid.
        validation_area: all that validation may read of the grid.
        test_start: first slot of the test part.
        validation_start: first slot of the validation part; None where validation is a stripe.
    """

    mode: SplitMode
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    training_area: Window
    validation_area: Window
    test_start: int
    validation_start: int | None = None

    def describe(self) -> dict[str, Any]:
        """Boundaries and counts, for the record."""
        return {
            "split_mode": self.mode.value,
            "split_test_start_slot": self.test_start,
            "split_validation_start_slot": self.validation_start,
            "split_training_inits": len(self.training),
            "split_validation_inits": len(self.validation),
            "split_test_inits": len(self.test),
            "split_training_area": str(self.training_area.slices),
            "split_validation_area": str(self.validation_area.slices),
        }


def context_slots(observed: NDArray[np.int64], init: int, spec: SampleSpec) -> tuple[int, ...]:
    """The newest observed slots up to ``init`` and within the maximum age, oldest first; at most the context's length.

    >>> context_slots(np.array([0, 1, 4, 7]), 5, SampleSpec(context_frames=2, max_age=4))
    (1, 4)
    """
    oldest, end = np.searchsorted(observed, [init - spec.max_age, init + 1]).tolist()
    return tuple(observed[max(oldest, end - spec.context_frames) : end].tolist())


def needed_frames(spec: SampleSpec) -> int:
    """How many context frames a sample has at least.

    >>> [needed_frames(SampleSpec(context_frames=4, max_missing=missing)) for missing in (None, 0, 3)]
    [2, 4, 1]
    """
    if spec.max_missing is None:
        return min(MIN_FRAMES, spec.context_frames)
    return spec.context_frames - spec.max_missing


def sample(observed: NDArray[np.int64], init: int, spec: SampleSpec) -> Sample:
    """The sample issued for slot ``init``."""
    return Sample(init, context_slots(observed, init, spec), tuple(range(init + 1, init + spec.horizon + 1)))


def split(
    observed: NDArray[np.int64],
    spec: SampleSpec,
    shape: tuple[int, int],
    buffer: int,
    *,
    survey: Callable[[Sequence[int]], Ground] | None = None,
) -> Split:
    """Purged training, validation and test samples of a series, an embargo apart.

    Args:
        observed: slots that hold a scene, ascending.
        spec: fractions, embargo, context and horizon.
        shape: ``(height, width)`` of the grid.
        buffer: pixels to keep free between training area and validation stripe, as far as the grid allows: at most a
            third of what the stripe leaves.
        survey: of the observed slots that training may see, to find a stripe that is like the rest of the grid; None:
            it is at the end of the longer side.

    Raises:
        NotEnoughFramesError: no training sample fits before the test part.
    """
    if len(observed) < MIN_FRAMES + 1:
        msg = f"training needs at least {MIN_FRAMES + 1} observed slots, found {len(observed)}: ingest more scenes"
        raise NotEnoughFramesError(msg)
    first_test = _index(len(observed), spec.test_fraction)
    test_start = int(observed[first_test])
    candidates = _candidates(observed, spec)
    test = tuple(_after(candidates, observed, first_test))
    last_known = _last_before(observed, first_test, spec.embargo)
    whole, known = _before(candidates, last_known), _kept(candidates, observed, last_known, spec)
    _require(whole, first_test - spec.embargo, spec)
    first_validation = _index(first_test - spec.embargo, spec.validation_fraction)
    last_training = _last_before(observed, first_validation, spec.embargo)
    lengths = len(_before(whole, last_training)), len(_after(whole, observed, first_validation))
    if lengths[0] >= MIN_TRAINING and lengths[1] >= MIN_VALIDATION:
        grid = Window(0, shape[0], 0, shape[1])
        training, validation = _kept(known, observed, last_training, spec), _after(known, observed, first_validation)
        parts = (thin(training, spec.max_inits), thin(validation, spec.max_inits), test)
        return Split(SplitMode.TEMPORAL, *parts, grid, grid, test_start, int(observed[first_validation]))
    if survey is None:
        areas = at_the_end(shape, spec.validation_fraction, buffer)
    else:
        seen = {slot for one in known for slot in one.slots}
        ground = survey([slot for slot in observed.tolist() if slot in seen])
        areas = representative(ground, spec.validation_fraction, buffer)
    parts = (thin(known, spec.max_inits), thin(known, spec.max_inits), test)
    return Split(SplitMode.BLOCKS, *parts, *areas, test_start)


def _index(size: int, fraction: float) -> int:
    """Index of the first of the last ``fraction`` of ``size`` items; at least one stays on each side."""
    return min(max(ceil(round(size * (1 - fraction), 9)), 1), size - 1)


def _candidates(observed: NDArray[np.int64], spec: SampleSpec) -> list[Sample]:
    present = {int(slot) for slot in observed}
    samples = [sample(observed, init, spec) for init in range(int(observed[0]), int(observed[-1]))]
    needed = needed_frames(spec)
    return [s for s in samples if len(s.context) >= needed and present.intersection(s.targets)]


def _after(samples: Sequence[Sample], observed: NDArray[np.int64], first: int) -> list[Sample]:
    """Samples of the part that starts with the observed slot of index ``first``: all that they meet is later."""
    return [s for s in samples if s.init >= observed[first - 1]]


def _last_before(observed: NDArray[np.int64], first: int, embargo: int) -> int:
    """The last slot before the part that starts with the observed slot of index ``first``, and before its embargo.

    Empty slots are kept apart as well: those after the last frame before a part are targets of that part. -1 where
    nothing lies before the embargo.
    """
    left_out = first - embargo
    return min(int(observed[left_out]) - 1, int(observed[first - 1])) if left_out > 0 else -1


def _before(samples: Sequence[Sample], last: int) -> list[Sample]:
    """Samples all of whose targets come no later than a slot."""
    return [s for s in samples if s.targets[-1] <= last]


def _kept(samples: Sequence[Sample], observed: NDArray[np.int64], last: int, spec: SampleSpec) -> list[Sample]:
    """What training or validation may use up to a slot: whole samples, or also parts that meet a scene."""
    if not spec.partial:
        return _before(samples, last)
    present = {int(slot) for slot in observed}
    return [cut for s in samples if present.intersection((cut := s.until(last)).targets)]


def _require(known: Sequence[Sample], frames: int, spec: SampleSpec) -> None:
    if not known:
        msg = (
            f"a training sample takes {needed_frames(spec)} context frames and {spec.horizon} slots ahead, all before "
            f"the test part and its embargo of {spec.embargo}; these are preceded by only {max(frames, 0)} observed "
            "slots. Ingest more scenes, or lower samples.horizon, samples.test_fraction or samples.embargo."
        )
        raise NotEnoughFramesError(msg)


def thin(samples: Sequence[Sample], limit: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples, spread evenly."""
    picks = np.linspace(0, len(samples) - 1, min(limit, len(samples))).round().astype(int)
    return tuple(samples[i] for i in picks)


def read_context(cube: Cube, sample: Sample, spec: SampleSpec, *, area: Window | None = None) -> Context:
    """What a forecast for this sample sees; batch of one.

    Frames that are not there, or that the cube does not show as of its time, come first: all missing, as old as the
    maximum age.

    Args:
        cube: where the frames come from.
        sample: which ones.
        spec: context and maximum age.
        area: the part of the grid to read, and nothing beside it; None: the whole grid.
    """
    shown = set(cube.observed().tolist())
    frames = cube.read([slot for slot in sample.context if slot in shown], area)
    absent = spec.context_frames - len(frames.values)
    values = np.pad(frames.values, ((absent, 0), (0, 0), (0, 0), (0, 0)), constant_values=np.nan)
    ages = [cube.layout.axis.age(sample.init, from_seconds(time)) for time in frames.acquired]
    oldest = seconds(cube.layout.axis.valid_time(sample.init - spec.max_age))
    times = np.concatenate([np.full(absent, oldest, np.int64), frames.acquired])
    padded = np.array([spec.max_age] * absent + ages, np.float32)
    return Context(values[np.newaxis], np.isfinite(values)[np.newaxis], times[np.newaxis], padded[np.newaxis])


def read_targets(cube: Cube, sample: Sample, area: Window | None = None, *, horizon: int = 0) -> Frames:
    """What came true, over ``area`` or the whole grid; slots without a scene are missing.

    Args:
        cube: where it comes from.
        sample: whose targets.
        area: the part of the grid to read; None: the whole grid.
        horizon: leads at least; those that the sample does not meet are missing.
    """
    slots = [slot if slot < cube.size else -1 for slot in sample.targets]
    return cube.read(slots + [-1] * (horizon - len(slots)), area)
