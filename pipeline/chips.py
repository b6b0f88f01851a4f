"""Training frames that move with the flow, kept on disk, and the chips cut from them.

For each sample the motion is estimated from its context alone; context and targets are brought along it to the init
time and standardised. What was made for a snapshot and a motion setting is kept under ``cache/`` and found again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import MotionSpec, SampleSpec
from pipeline.cube import Cube
from pipeline.grid import Window
from pipeline.lagrangian import align, align_targets, estimate_motions
from pipeline.normalise import Statistics
from pipeline.samples import Sample, read_context, read_targets

DRAWS = 4  # tries for a chip with enough valid pixels; beyond, the fullest one is taken
FULL = 0.5  # valid part of the newest frame and the targets that ends the tries


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the bytes of an aligned sample.

    Attributes:
        samples: context and horizon.
        motion: how the motion is estimated.
        statistics: of all bands.
        forecast_bands: bands of the targets, counted from 0.
    """

    samples: SampleSpec
    motion: MotionSpec
    statistics: Statistics
    forecast_bands: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name of the cache folder."""
        facts = [
            self.samples.model_dump(mode="json"),
            self.motion.model_dump(mode="json"),
            self.statistics.to_json(),
            self.forecast_bands,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Chips:
    """A batch for training; NaN where nothing is known, on a standardised scale.

    Attributes:
        frames: ``(batch, frame, y, x, band)``, float32.
        ages: ``(batch, frame)``, float32, in slots.
        targets: ``(batch, lead, y, x, band)``, float32, forecast bands only.
    """

    frames: NDArray[np.float32]
    ages: NDArray[np.float32]
    targets: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AlignedFrames:
    """Aligned samples on disk, made on first use."""

    cube: Cube
    recipe: Recipe
    folder: Path

    def prepare(self, samples: Sequence[Sample]) -> Iterator[Sample]:
        """Makes what is not there yet; yields each sample when it is ready."""
        for one in samples:
            if not self._path(one, "targets").is_file():
                self._make(one)
            yield one

    def load(self, one: Sample) -> Chips:
        """A whole-grid sample as a batch of one, mapped from the disk; float16."""
        parts = [np.load(self._path(one, name), mmap_mode="r") for name in ("frames", "ages", "targets")]
        return Chips(*(part[np.newaxis] for part in parts))

    def _path(self, one: Sample, part: str) -> Path:
        return self.folder / self.recipe.key / f"{one.init:06d}-{part}.npy"

    def _make(self, one: Sample) -> None:
        context = read_context(self.cube, one, self.recipe.samples)
        (motion,) = estimate_motions(context, self.recipe.motion)
        aligned = align(context, (motion,))
        truth = read_targets(self.cube, one).values[..., list(self.recipe.forecast_bands)]
        targets = align_targets(truth, motion, [slot - one.init for slot in one.targets])
        statistics = self.recipe.statistics
        self._save(one, "frames", statistics.scale(aligned.values[0]).astype(np.float16))
        self._save(one, "ages", aligned.ages[0])
        scaled = statistics.of_bands(self.recipe.forecast_bands).scale(targets)
        self._save(one, "targets", scaled.astype(np.float16))  # last: its presence says that the sample is whole

    def _save(self, one: Sample, part: str, array: NDArray) -> None:
        path = self._path(one, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        np.save(partial, array)
        partial.with_suffix(".npy").replace(path)


@dataclass(frozen=True, slots=True)
class ChipReader:
    """Draws chips; the same seed and step give the same batch, whatever was drawn before.

    Attributes:
        source: the aligned samples.
        samples: which of them to draw from.
        area: where chips may lie.
        size: ``(height, width)`` of a chip.
        batch: chips a batch.
        seed: of the draws.
        augment: turn and mirror the chips; in coordinates that move with the flow nothing else has to turn along.
    """

    source: AlignedFrames
    samples: tuple[Sample, ...]
    area: Window
    size: tuple[int, int]
    batch: int
    seed: int
    augment: bool = True

    def read(self, step: int) -> Chips:
        """The batch of a step."""
        random = np.random.default_rng([self.seed, step])
        chips = [self._draw(random) for _ in range(self.batch)]
        return Chips(*(np.stack(parts) for parts in zip(*chips, strict=True)))

    def _draw(self, random: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        best: tuple[float, tuple] | None = None
        for _ in range(DRAWS):
            chip = self._cut(random)
            filled = min(np.isfinite(chip[0][-1]).mean(), np.isfinite(chip[2]).mean())
            if best is None or filled > best[0]:
                best = filled, chip
            if filled >= FULL:
                break
        assert best is not None
        frames, ages, targets = best[1]
        turns = _random_turn(random, square=self.size[0] == self.size[1]) if self.augment else (0, False)
        return _turn(frames, *turns), np.asarray(ages, np.float32), _turn(targets, *turns)

    def _cut(self, random: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        whole = self.source.load(self.samples[random.integers(len(self.samples))])
        y = int(random.integers(self.area.y0, self.area.y1 - self.size[0] + 1))
        x = int(random.integers(self.area.x0, self.area.x1 - self.size[1] + 1))
        rows, columns = slice(y, y + self.size[0]), slice(x, x + self.size[1])
        return whole.frames[0, :, rows, columns], whole.ages[0], whole.targets[0, :, rows, columns]


def chip_size(area: Window, wanted: int, patch: int) -> tuple[int, int]:
    """The chip that fits an area: ``(height, width)``, whole patches."""
    height, width = (max(patch, min(wanted, side) // patch * patch) for side in area.shape)
    return height, width


def _random_turn(random: np.random.Generator, *, square: bool) -> tuple[int, bool]:
    quarter_turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
    return quarter_turns, bool(random.integers(2))


def _turn(array: NDArray, quarter_turns: int, mirrored: bool) -> NDArray[np.float32]:
    turned = np.rot90(array, quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned, np.float32)
