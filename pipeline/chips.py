"""Training frames that move with the flow, kept on disk, and the chips cut from them.

For each sample the motion is estimated from its context alone; context, covariates and targets are brought along it to
the init time, and standardised. What was made for a snapshot and a motion setting is kept under ``cache/`` and found
again; the next training with another snapshot or setting removes it.

A batch depends on the reader and its step alone, so the step is all that there is to save of a reader: one made alike
and asked to go on from there gives the same batches, also in the middle of an epoch.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.covariates import Covariates
from pipeline.cube import Cube
from pipeline.durable import locked
from pipeline.errors import ConfigError, room
from pipeline.grid import Window
from pipeline.interest import Interest
from pipeline.lagrangian import align, align_targets, estimate_trajectories
from pipeline.normalise import Statistics
from pipeline.samples import Sample, read_context, read_targets
from pipeline.specs import MotionSpec, SampleSpec

DRAWS = 4  # tries for a chip with enough valid pixels; beyond, the fullest one is taken
FULL = 0.5  # valid part of the newest frame and the targets that ends the tries
LOOK = 4  # px between those that are counted; all of them took a third of a batch's time
KEPT = 2  # frames that are never hidden: motion and tendency need two
PARTS = ("frames", "ages", "targets")
COVARIATES = "covariates"
VERSION = 3  # raised when the same recipe comes to other bytes
KEY_LENGTH = 16
OTHER_FILES = 512  # open files left to everything else, beside the mapped samples
Turn = tuple[int, bool]  # quarter turns, and whether it is mirrored
HIDING, JITTERING = 1, 2  # streams of random numbers of their own, so that hiding frames changes no place


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

    def facts(self) -> list[Any]:
        """In JSON's types."""
        return [
            self.samples.model_dump(mode="json", include={"context_frames", "max_age", "horizon"}),
            self.motion.model_dump(mode="json"),
            self.statistics.to_json(),
            list(self.forecast_bands),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Chips:
    """A batch for training; NaN where nothing is known, on a standardised scale.

    Attributes:
        frames: ``(batch, frame, y, x, band)``, float32.
        ages: ``(batch, frame)``, float32, in slots.
        targets: ``(batch, lead, y, x, band)``, float32, forecast bands only.
        covariates: ``(batch, frame + lead, y, x, channel)``, float32, no NaN; None where there are none.
        leads: how many of the targets a sample may meet, the others being those of a later part and NaN; None: all, or
            a batch of several samples.
    """

    frames: NDArray[np.float32]
    ages: NDArray[np.float32]
    targets: NDArray[np.float32]
    covariates: NDArray[np.float32] | None = None
    leads: int | None = None


@dataclass(frozen=True, slots=True)
class AlignedFrames:
    """Aligned samples on disk, made on first use.

    Attributes:
        cube: where they come from.
        recipe: how.
        folder: of all caches of the product, a folder for each recipe.
        covariates: what the network is told besides; None: nothing.
        area: the part of the grid that is read, and nothing beside it, not even for the motion; None: all of it.
    """

    cube: Cube
    recipe: Recipe
    folder: Path
    covariates: Covariates | None = None
    area: Window | None = None

    @property
    def key(self) -> str:
        """Name of the recipe's folder; its areas lie side by side inside."""
        told = "" if self.covariates is None else self.covariates.digest
        facts = json.dumps([VERSION, *self.recipe.facts(), told], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:KEY_LENGTH]

    def prepare(
        self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Chips, ...]:
        """Each sample over the whole area, a batch of one in float16, mapped from the disk; made where it is not there.

        What other recipes have left is removed first, as 96 init times of a full Meteosat frame take 26 GB; other areas
        of this recipe stay. A training that has mapped its samples keeps them; one that still prepares its own is
        waited for.

        Args:
            samples: which ones.
            progress: told how many are ready, of how many.

        Raises:
            ConfigError: more samples than this machine lets a process open.
        """
        _allow_open(len(samples) * len(self._parts()))
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
            if other.name != self.key:
                shutil.rmtree(other)

    def _find(self, one: Sample) -> Chips | None:
        """The sample mapped from the disk; None where a part of it is missing or cut off."""
        try:
            return self._load(one)
        except (OSError, ValueError, EOFError):
            return None

    def _load(self, one: Sample) -> Chips:
        frames, ages, targets, *told = (np.load(self._path(one, name), mmap_mode="r") for name in self._parts())
        shape = (*told[0].shape[:1], *frames.shape[1:3], *told[0].shape[3:]) if told else ()
        covariates = np.broadcast_to(told[0], shape)[np.newaxis] if told else None
        return Chips(frames[np.newaxis], ages[np.newaxis], targets[np.newaxis], covariates, len(one.targets))

    def _parts(self) -> tuple[str, ...]:
        return (*PARTS, COVARIATES) if self.covariates is not None and self.covariates.channels else PARTS

    def _path(self, one: Sample, part: str) -> Path:
        area = self.area
        place = "whole" if area is None else f"{area.y0}-{area.y1}-{area.x0}-{area.x1}"
        return self.folder / self.key / place / f"{one.init:06d}-{len(one.targets):03d}-{part}.npy"

    def _make(self, one: Sample) -> Chips:
        context, horizon = (
            read_context(self.cube, one, self.recipe.samples, area=self.area),
            self.recipe.samples.horizon,
        )
        if self.covariates is not None:
            context = self.covariates.attach(context, one.init, horizon, area=self.area)
        (trajectories,) = estimate_trajectories(context, self.recipe.motion)
        aligned = align(context, (trajectories,))
        truth = read_targets(self.cube, one, self.area).values[..., list(self.recipe.forecast_bands)]
        targets = align_targets(truth, trajectories, [slot - one.init for slot in one.targets])
        statistics = self.recipe.statistics
        self._save(one, "frames", statistics.scale(aligned.values[0]).astype(np.float16))
        self._save(one, "ages", aligned.ages[0])
        scaled = statistics.of_bands(self.recipe.forecast_bands).scale(targets)
        self._save(one, "targets", _filled_up(scaled.astype(np.float16), horizon))
        if aligned.covariates is not None:
            self._save(one, COVARIATES, _once(aligned.covariates[0]).astype(np.float16))
        return self._load(one)

    def _save(self, one: Sample, part: str, array: NDArray) -> None:
        path = self._path(one, part)
        with room(self.folder, "aligned samples are kept on disk, so that every step finds them"):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}")
            np.save(partial, array)
            partial.replace(path)


def _filled_up(targets: NDArray[np.float16], horizon: int) -> NDArray[np.float16]:
    """With missing leads up to the horizon."""
    lacking = max(horizon - len(targets), 0)
    return np.pad(targets, ((0, lacking), (0, 0), (0, 0), (0, 0)), constant_values=np.nan)


def _once(covariates: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is the same all over the grid as one pixel of it."""
    return covariates if any(covariates.strides[1:3]) else covariates[:, :1, :1]


def _allow_open(files: int) -> None:
    """Makes room for mapped files, each of which keeps one open: 1024 is the usual limit, 500 samples take 1500.

    Raises:
        ConfigError: the machine does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files + OTHER_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        msg = (
            f"prepared samples stay open, {files} files and {OTHER_FILES} for all else, but this machine allows a "
            f"process {hard}: lower samples.max_inits or raise the limit (ulimit -n)"
        )
        raise ConfigError(msg)
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@dataclass(frozen=True, slots=True)
class ChipReader:
    """Draws chips; the same seed and step give the same batch, whatever was drawn before.

    Attributes:
        samples: aligned ones, each a batch of one.
        area: where chips may lie, in pixels of the samples: those of the grid, or of the part that was aligned.
        size: ``(height, width)`` of a chip, at most that of the area.
        batch: chips a batch.
        seed: of the draws.
        augment: turn and mirror the chips; in coordinates that move with the flow nothing else has to turn along.
        drop_frames: how likely each context frame is hidden, as if it had not come: its pixels are NaN, its age stays.
            The newest one too; never all, two with anything to see stay where there were as many.
        interest: where chips are drawn more often, of the same samples, area and size; None: anywhere alike.
        jitter: spread of a factor around 1 and of a shift around 0 on the standardised scale, one of each for all
            frames, targets and bands of a chip.
    """

    samples: tuple[Chips, ...]
    area: Window
    size: tuple[int, int]
    batch: int
    seed: int
    augment: bool = True
    drop_frames: float = 0.0
    interest: Interest | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if any(chip > side for chip, side in zip(self.size, self.area.shape, strict=True)):
            msg = f"a chip lies inside its area of {self.area.shape} pixels, found one of {self.size}"
            raise ValueError(msg)
        rooms = tuple(side - chip + 1 for chip, side in zip(self.size, self.area.shape, strict=True))
        known = self.interest
        if known is not None and (known.room, known.shape[0]) != (rooms, len(self.samples)):
            found = f"{known.shape[0]} and {known.room} for {len(self.samples)} and {rooms}"
            msg = f"an interest is measured on the reader's own samples and places, found {found}"
            raise ValueError(msg)

    def watching(self, samples: tuple[Chips, ...], area: Window, size: tuple[int, int]) -> ChipReader:
        """The reader of the chips that watch a training: as wide batches, else nothing of what the training varies."""
        return ChipReader(samples, area, size, self.batch, seed=0, augment=False)

    def sized(self, batch: int) -> ChipReader:
        """The same reader with batches of another length."""
        return replace(self, batch=batch)

    def iterate(self, step: int = 0) -> Iterator[Chips]:
        """The batches from a step on, without end."""
        return (self.read(at) for at in count(step))

    def read(self, step: int) -> Chips:
        """The batch of a step."""
        random = np.random.default_rng([self.seed, step])
        chips, turns = zip(*(self._draw(random) for _ in range(self.batch)), strict=True)
        frames = _stacked([chip.frames for chip in chips], turns)
        if self.drop_frames:
            _hide(frames, self.drop_frames, np.random.default_rng([self.seed, step, HIDING]))
        targets = _stacked([chip.targets for chip in chips], turns)
        if self.jitter:
            _vary((frames, targets), self.jitter, np.random.default_rng([self.seed, step, JITTERING]))
        told = [chip.covariates for chip in chips if chip.covariates is not None]
        ages = np.stack([np.asarray(chip.ages, np.float32) for chip in chips])
        return Chips(frames, ages, targets, _stacked(told, turns) if told else None)

    def _draw(self, random: np.random.Generator) -> tuple[Chips, Turn]:
        """One chip, without the axis of the batch, and how it is to be turned."""
        best: tuple[float, Chips] | None = None
        for _ in range(DRAWS):
            chip = self._cut(*self._place(random))
            filled = _filled(chip)
            if best is None or filled > best[0]:
                best = filled, chip
            if filled >= FULL:
                break
        assert best is not None
        square = self.size[0] == self.size[1]
        return best[1], _random_turn(random, square=square) if self.augment else (0, False)

    def _place(self, random: np.random.Generator) -> tuple[int, int, int]:
        """Sample, and row and column of the corner in the area."""
        if self.interest is not None:
            return self.interest.draw(random)
        sample = int(random.integers(len(self.samples)))
        y, x = (int(random.integers(side - chip + 1)) for side, chip in zip(self.area.shape, self.size, strict=True))
        return sample, y, x

    def _cut(self, sample: int, y: int, x: int) -> Chips:
        """A view."""
        whole = self.samples[sample]
        top, left = self.area.y0 + y, self.area.x0 + x
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        told = None if whole.covariates is None else whole.covariates[0, :, rows, columns]
        targets = whole.targets[0, :, rows, columns]
        return Chips(whole.frames[0, :, rows, columns], whole.ages[0], targets, told, whole.leads)


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


def _random_turn(random: np.random.Generator, *, square: bool) -> Turn:
    quarter_turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
    return quarter_turns, bool(random.integers(2))


def _filled(chip: Chips) -> float:
    """Valid part of the newest frame or of the targets that may be met, the smaller one, by pixels on a lattice."""
    newest, targets = chip.frames[-1, ::LOOK, ::LOOK], chip.targets[: chip.leads, ::LOOK, ::LOOK]
    return min(float(np.isfinite(newest).mean()), float(np.isfinite(targets).mean()))


def _hide(frames: NDArray[np.float32], share: float, random: np.random.Generator) -> None:
    """Makes frames of ``(batch, frame, y, x, band)`` missing, in place; see :class:`ChipReader`."""
    wishes = random.random(frames.shape[:2])
    for chip, wish in zip(frames, wishes, strict=True):
        seen = np.flatnonzero([np.isfinite(frame).any() for frame in chip])
        hidden = seen[np.argsort(wish[seen], kind="stable")][: max(len(seen) - KEPT, 0)]
        chip[hidden[wish[hidden] < share]] = np.nan


def _vary(batches: Sequence[NDArray[np.float32]], spread: float, random: np.random.Generator) -> None:
    """Other contrast and level for each chip of ``(batch, time, y, x, band)``, in place."""
    gains, shifts = (random.normal(middle, spread, len(batches[0])) for middle in (1.0, 0.0))
    for batch in batches:
        for chip, gain, shift in zip(batch, gains, shifts, strict=True):
            chip *= np.float32(gain)
            chip += np.float32(shift)


def _stacked(arrays: Sequence[NDArray], turns: Sequence[Turn]) -> NDArray[np.float32]:
    """Arrays of ``(time, y, x, band)``, each turned in its way, as a batch."""
    batch = np.empty((len(arrays), *arrays[0].shape), np.float32)
    for at, (array, (quarter_turns, mirrored)) in enumerate(zip(arrays, turns, strict=True)):
        turned = np.rot90(array, quarter_turns, axes=(1, 2))
        turned = turned[:, :, ::-1] if mirrored else turned
        for band in range(array.shape[-1]):  # 5 bands at once took twice as long
            batch[at, ..., band] = turned[..., band]
    return batch
