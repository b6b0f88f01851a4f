"""Training frames that move with the flow, kept on disk, and the chips cut from them.

For each sample the motion is estimated from its context alone; context and targets are brought along it to the init
time and standardised. What was made for a snapshot and a motion setting is kept under ``cache/`` and found again; the
next training with another snapshot or setting removes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cube import Cube
from pipeline.durable import locked
from pipeline.errors import ConfigError
from pipeline.grid import Window
from pipeline.lagrangian import align, align_targets, estimate_motions
from pipeline.normalise import Statistics
from pipeline.samples import Sample, read_context, read_targets
from pipeline.specs import MotionSpec, SampleSpec

DRAWS = 4  # tries for a chip with enough valid pixels; beyond, the fullest one is taken
FULL = 0.5  # valid part of the newest frame and the targets that ends the tries
PARTS = ("frames", "ages", "targets")
VERSION = 1  # raised when the same recipe comes to other bytes
KEY_LENGTH = 16


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
            VERSION,
            self.samples.model_dump(mode="json", include={"context_frames", "max_age", "horizon"}),
            self.motion.model_dump(mode="json"),
            self.statistics.to_json(),
            self.forecast_bands,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


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
    """Aligned samples on disk, made on first use.

    Attributes:
        cube: where they come from.
        recipe: how.
        folder: of all caches of the product, a folder for each recipe.
    """

    cube: Cube
    recipe: Recipe
    folder: Path

    def prepare(
        self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Chips, ...]:
        """Each sample over the whole grid, a batch of one in float16, mapped from the disk; made where it is not there.

        What other recipes have left is removed first, as 96 init times of a full Meteosat frame take 26 GB. A training
        that has mapped its samples keeps them; one that still prepares its own is waited for.

        Args:
            samples: which ones.
            progress: told how many are ready, of how many.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ready: list[Chips] = []
        with locked(self.folder / ".lock"):
            self._sweep()
            for one in samples:
                ready.append(self._find(one) or self._make(one))
                if progress is not None:
                    progress(len(ready), len(samples))
        return tuple(ready)

    def _sweep(self) -> None:
        for other in self.folder.glob("[0-9a-f]" * KEY_LENGTH):
            if other.name != self.recipe.key:
                shutil.rmtree(other)

    def _find(self, one: Sample) -> Chips | None:
        """The sample mapped from the disk; None where a part of it is missing or cut off."""
        try:
            return self._load(one)
        except (OSError, ValueError, EOFError):
            return None

    def _load(self, one: Sample) -> Chips:
        parts = (np.load(self._path(one, name), mmap_mode="r") for name in PARTS)
        return Chips(*(part[np.newaxis] for part in parts))

    def _path(self, one: Sample, part: str) -> Path:
        return self.folder / self.recipe.key / f"{one.init:06d}-{part}.npy"

    def _make(self, one: Sample) -> Chips:
        context = read_context(self.cube, one, self.recipe.samples)
        (motion,) = estimate_motions(context, self.recipe.motion)
        aligned = align(context, (motion,))
        truth = read_targets(self.cube, one).values[..., list(self.recipe.forecast_bands)]
        targets = align_targets(truth, motion, [slot - one.init for slot in one.targets])
        statistics = self.recipe.statistics
        self._save(one, "frames", statistics.scale(aligned.values[0]).astype(np.float16))
        self._save(one, "ages", aligned.ages[0])
        scaled = statistics.of_bands(self.recipe.forecast_bands).scale(targets)
        self._save(one, "targets", scaled.astype(np.float16))
        return self._load(one)

    def _save(self, one: Sample, part: str, array: NDArray) -> None:
        path = self._path(one, part)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}")
        np.save(partial, array)
        partial.replace(path)


@dataclass(frozen=True, slots=True)
class ChipReader:
    """Draws chips; the same seed and step give the same batch, whatever was drawn before.

    Attributes:
        samples: aligned ones over the whole grid, each a batch of one.
        area: where chips may lie.
        size: ``(height, width)`` of a chip, at most that of the area.
        batch: chips a batch.
        seed: of the draws.
        augment: turn and mirror the chips; in coordinates that move with the flow nothing else has to turn along.
    """

    samples: tuple[Chips, ...]
    area: Window
    size: tuple[int, int]
    batch: int
    seed: int
    augment: bool = True

    def __post_init__(self) -> None:
        if any(chip > side for chip, side in zip(self.size, self.area.shape, strict=True)):
            msg = f"a chip lies inside its area of {self.area.shape} pixels, found one of {self.size}"
            raise ValueError(msg)

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
        whole = self.samples[random.integers(len(self.samples))]
        y = int(random.integers(self.area.y0, self.area.y1 - self.size[0] + 1))
        x = int(random.integers(self.area.x0, self.area.x1 - self.size[1] + 1))
        rows, columns = slice(y, y + self.size[0]), slice(x, x + self.size[1])
        return whole.frames[0, :, rows, columns], whole.ages[0], whole.targets[0, :, rows, columns]


def chip_size(area: Window, wanted: int, patch: int) -> tuple[int, int]:
    """The chip that fits an area: ``(height, width)``, whole patches.

    Raises:
        ConfigError: not even one patch fits.
    """
    height, width = (min(wanted, side) // patch * patch for side in area.shape)
    if not height or not width:
        msg = (
            f"chips are cut from areas that hold a patch of {patch} pixels, found one of {area.shape[0]} x "
            f"{area.shape[1]}: lower training.patch, mend samples.validation_fraction, or take a larger grid"
        )
        raise ConfigError(msg)
    return height, width


def _random_turn(random: np.random.Generator, *, square: bool) -> tuple[int, bool]:
    quarter_turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
    return quarter_turns, bool(random.integers(2))


def _turn(array: NDArray, quarter_turns: int, mirrored: bool) -> NDArray[np.float32]:
    turned = np.rot90(array, quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned, np.float32)
