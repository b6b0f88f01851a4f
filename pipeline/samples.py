"""Forecast samples: which frames a forecast sees, which it must meet, and which part of the data they belong to.

Time is split first: the last observed slots are the test part, the slots before them validation, the rest training.
A part's first init time is the last frame before it, so that all that it must meet is its own. No training sample's
context or target reaches into a later part. A series too short for that keeps its test part in time and takes
validation from a stripe of the grid, with a buffer beside it that no training chip touches.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from pipeline.times import from_seconds, seconds

MIN_FRAMES = 2  # motion needs two
MIN_TRAINING = 12  # init times, below which a part of the time axis is too dear for validation
MIN_VALIDATION = 4
BUFFER_SHARE = 1 / 3  # of what the validation stripe leaves of a grid; more would leave too little to learn from


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
        targets: slots that it must meet, ``init + 1`` and on, observed or not.
    """

    init: int
    context: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def slots(self) -> tuple[int, ...]:
        """Every slot that it touches."""
        return self.context + self.targets


@dataclass(frozen=True, slots=True)
class Split:
    """Samples of the three parts, and the areas where training and validation chips may lie.

    Attributes:
        mode: where validation comes from.
        training: samples to learn from.
        validation: samples that watch the training.
        test: samples never seen in training.
        training_area: where training chips may lie.
        validation_area: where validation chips may lie.
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
    usable = observed[(observed <= init) & (observed >= init - spec.max_age)]
    return tuple(int(slot) for slot in usable[-spec.context_frames :])


def sample(observed: NDArray[np.int64], init: int, spec: SampleSpec) -> Sample:
    """The sample issued for slot ``init``."""
    return Sample(init, context_slots(observed, init, spec), tuple(range(init + 1, init + spec.horizon + 1)))


def split(observed: NDArray[np.int64], spec: SampleSpec, shape: tuple[int, int], buffer: int) -> Split:
    """Purged training, validation and test samples of a series.

    Args:
        observed: slots that hold a scene, ascending.
        spec: fractions, context and horizon.
        shape: ``(height, width)`` of the grid.
        buffer: pixels to keep free between training area and validation stripe, as far as the grid allows: at most a
            third of what the stripe leaves.

    Raises:
        NotEnoughFramesError: no training sample fits before the test part.
    """
    if len(observed) < MIN_FRAMES + 1:
        msg = f"training needs at least {MIN_FRAMES + 1} observed slots, found {len(observed)}: ingest more scenes"
        raise NotEnoughFramesError(msg)
    before_test = _index(len(observed), spec.test_fraction)
    test_start = int(observed[before_test])
    everything = _candidates(observed, spec)
    test = tuple(s for s in everything if s.init >= observed[before_test - 1])
    known = [s for s in everything if s.targets[-1] < test_start]
    _require(known, observed[:before_test], spec)
    before_validation = _index(before_test, spec.validation_fraction)
    validation_start = int(observed[before_validation])
    training = [s for s in known if s.targets[-1] < validation_start]
    validation = [s for s in known if s.init >= observed[before_validation - 1]]
    if len(training) >= MIN_TRAINING and len(validation) >= MIN_VALIDATION:
        whole = Window(0, shape[0], 0, shape[1])
        parts = (thin(training, spec.max_inits), thin(validation, spec.max_inits), test)
        return Split(SplitMode.TEMPORAL, *parts, whole, whole, test_start, validation_start)
    areas = _stripe(shape, spec.validation_fraction, buffer)
    parts = (thin(known, spec.max_inits), thin(known, spec.max_inits), test)
    return Split(SplitMode.BLOCKS, *parts, *areas, test_start)


def _index(size: int, fraction: float) -> int:
    """Index of the first of the last ``fraction`` of ``size`` items; at least one stays on each side."""
    return min(max(ceil(round(size * (1 - fraction), 9)), 1), size - 1)


def _candidates(observed: NDArray[np.int64], spec: SampleSpec) -> list[Sample]:
    present = {int(slot) for slot in observed}
    samples = [sample(observed, init, spec) for init in range(int(observed[0]), int(observed[-1]))]
    needed = min(MIN_FRAMES, spec.context_frames)
    return [s for s in samples if len(s.context) >= needed and present.intersection(s.targets)]


def _require(known: Sequence[Sample], observed: NDArray[np.int64], spec: SampleSpec) -> None:
    if not known:
        msg = (
            f"a training sample takes {min(MIN_FRAMES, spec.context_frames)} context frames and {spec.horizon} slots "
            f"ahead, all before the test part; it is preceded by only {len(observed)} observed slots. "
            "Ingest more scenes, or lower samples.horizon or samples.test_fraction."
        )
        raise NotEnoughFramesError(msg)


def thin(samples: Sequence[Sample], limit: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples, spread evenly."""
    picks = np.linspace(0, len(samples) - 1, min(limit, len(samples))).round().astype(int)
    return tuple(samples[i] for i in picks)


def _stripe(shape: tuple[int, int], fraction: float, buffer: int) -> tuple[Window, Window]:
    """Training area and validation stripe at the end of the longer side, ``buffer`` pixels apart.

    >>> [area.slices[1] for area in _stripe((100, 400), 0.2, 48)]  # room enough
    [slice(0, 272, None), slice(320, 400, None)]
    >>> [area.slices[1] for area in _stripe((100, 101), 0.2, 48)]  # a third of 81 is 27
    [slice(0, 54, None), slice(81, 101, None)]
    """
    height, width = shape
    side = max(height, width)
    start = side - max(1, round(side * fraction))
    stop = start - min(buffer, int(start * BUFFER_SHARE))
    if width >= height:
        return Window(0, height, 0, stop), Window(0, height, start, width)
    return Window(0, stop, 0, width), Window(start, height, 0, width)


def read_context(cube: Cube, sample: Sample, spec: SampleSpec) -> Context:
    """What a forecast for this sample sees, over the whole grid; batch of one.

    Frames that are not there, or that the cube does not show as of its time, come first: all missing, as old as the
    maximum age.
    """
    shown = set(cube.observed().tolist())
    frames = cube.read([slot for slot in sample.context if slot in shown])
    absent = spec.context_frames - len(frames.values)
    values = np.pad(frames.values, ((absent, 0), (0, 0), (0, 0), (0, 0)), constant_values=np.nan)
    ages = [cube.layout.axis.age(sample.init, from_seconds(time)) for time in frames.acquired]
    oldest = seconds(cube.layout.axis.valid_time(sample.init - spec.max_age))
    times = np.concatenate([np.full(absent, oldest, np.int64), frames.acquired])
    padded = np.array([spec.max_age] * absent + ages, np.float32)
    return Context(values[np.newaxis], np.isfinite(values)[np.newaxis], times[np.newaxis], padded[np.newaxis])


def read_targets(cube: Cube, sample: Sample) -> Frames:
    """What came true, over the whole grid; slots without a scene are missing."""
    return cube.read([slot if slot < cube.size else -1 for slot in sample.targets])
