"""What a training learns from: the cube split without leaks, statistics, aligned frames, and readers of chips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from models.networks import NetworkSpec
from models.prediction import Card
from models.seen import Seen
from pipeline.chips import AlignedFrames, ChipReader, Chips, Recipe, chip_size
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.grid import Window, pixel_size
from pipeline.interest import measure_interest
from pipeline.leaks import LeakReport, audit, refuse
from pipeline.normalise import measure
from pipeline.rungs import forecast_bands
from pipeline.samples import Split, SplitMode, split
from pipeline.specs import BandSpec, TrainingSpec
from pipeline.stripes import survey
from pipeline.together import JointReader, partners

VALIDATION_CHIPS = 48

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which part of a cube is for what.

    Attributes:
        cube: the data, at one snapshot.
        split: the parts.
        statistics: slots whose values make the scale.
        leaks: what the audit found.
    """

    cube: Cube
    split: Split
    statistics: tuple[int, ...]
    leaks: LeakReport


@dataclass(frozen=True, slots=True)
class Basis:
    """What a training stands on, whatever it learns from.

    Attributes:
        plan: which part of the cube is for what.
        card: what the weights will mean.
    """

    plan: Plan
    card: Card

    @property
    def cube(self) -> Cube:
        """The data, at one snapshot."""
        return self.plan.cube

    @property
    def split(self) -> Split:
        """Which part is for what."""
        return self.plan.split


@dataclass(frozen=True, slots=True)
class Material(Basis):
    """What a training learns from.

    Attributes:
        training: where chips are drawn from.
        validation: the chips that watch.
    """

    training: ChipReader | JointReader
    validation: tuple[Chips, ...]


def plan(settings: Settings, cube: Cube) -> Plan:
    """Splits the cube and audits the split.

    Raises:
        NotEnoughFramesError: the cube is too short.
    """
    height, width = cube.layout.grid.shape
    look = partial(survey, cube, bands=forecast_bands(settings))
    buffer = settings.samples.block_buffer
    parts = split(cube.observed(), settings.samples, (height, width), buffer, survey=look)
    slots = {slot for one in parts.training for slot in one.slots} & set(cube.observed().tolist())
    statistics = tuple(sorted(slots))
    return Plan(cube, parts, statistics, audit(parts, statistics, axis=cube.layout.axis))


def prepare(settings: Settings, planned: Plan, *, progress: Progress | None = None) -> Material:
    """Measures statistics and aligns what a training needs.

    Args:
        settings: the product.
        planned: which part of the cube is for what.
        progress: told how many samples are aligned, of how many.

    Raises:
        ConfigError: the grid is too small for the network's patches.
        LeakError: a part would see what another must meet.
        NotEnoughFramesError: a band has no valid pixel to learn from.
    """
    parts = planned.split
    for area in (parts.training_area, parts.validation_area):
        chip_size(area, settings.training.chip, settings.training.patch)  # refuses before the long work, not after it
    card = basis(settings, planned).card
    training, validation = _readers(settings, planned.cube, parts, card, progress)
    return Material(planned, card, _joined(settings, training), validation)


def basis(settings: Settings, planned: Plan) -> Basis:
    """Measures statistics.

    Raises:
        LeakError: a part would see what another must meet.
        NotEnoughFramesError: a band has no valid pixel to learn from.
    """
    refuse(planned.leaks)
    areas = [planned.split.training_area]
    statistics = measure(planned.cube, planned.statistics, areas, bands=settings.bands)
    names = tuple(band.name for band in settings.bands)
    digest = covariates_of(settings).digest
    known = network_spec(settings), statistics, settings.samples, settings.motion, names, settings.covariates, digest
    layout, seen = planned.cube.layout, Seen.of(planned.split, planned.cube.layout.axis)
    return Basis(planned, Card(*known, pixel=pixel_size(layout.grid), seen=seen))


def _readers(
    settings: Settings, cube: Cube, parts: Split, card: Card, progress: Progress | None
) -> tuple[ChipReader, tuple[Chips, ...]]:
    """Where training chips are drawn from, and the chips of the validation."""
    recipe = Recipe(settings.samples, settings.motion, card.statistics, card.network.bands_out)
    source = AlignedFrames(cube, recipe, settings.paths.cache, covariates_of(settings))
    spec = settings.training
    if parts.mode is SplitMode.BLOCKS:
        training, watching = _aligned_apart(source, parts, progress)
        areas = _from_corner(parts.training_area), _from_corner(parts.validation_area)
    else:
        training, watching = _aligned_together(source, parts, progress)
        areas = parts.training_area, parts.validation_area
    reader = _training_reader(spec, training, areas[0], card.network)
    watcher = reader.watching(watching, areas[1], chip_size(areas[1], spec.chip, spec.patch))
    return reader, tuple(watcher.read(step) for step in range(-(-VALIDATION_CHIPS // spec.batch)))


def _joined(settings: Settings, own: ChipReader) -> ChipReader | JointReader:
    """The reader of a product and of those that it learns together with, each on its own scale."""
    others = partners(settings)
    if not others:
        return own
    readers = [own]
    for number, other in enumerate(others, 1):
        training = settings.training.model_copy(update={"seed": settings.training.seed + number, "together": ()})
        alike = other.model_copy(update={"training": training, "samples": settings.samples})
        planned = plan(alike, open_cube(store_of(other)))
        found = prepare(alike, planned).training
        assert isinstance(found, ChipReader)
        readers.append(found)
    size = min(reader.size[0] for reader in readers), min(reader.size[1] for reader in readers)
    bands, spec = forecast_bands(settings), settings.training
    return JointReader(tuple(_of_size(reader, size, spec, bands) for reader in readers), spec.seed)


def _of_size(reader: ChipReader, size: tuple[int, int], spec: TrainingSpec, bands: tuple[int, ...]) -> ChipReader:
    """A reader of chips of a common size; what is of interest is measured on chips of that size."""
    if reader.size == size or spec.interest == "none":
        return replace(reader, size=size)
    interest = measure_interest(reader.samples, reader.area, size, spec.interest, bands=bands)
    return replace(reader, size=size, interest=interest)


def _training_reader(spec: TrainingSpec, samples: tuple[Chips, ...], area: Window, network: NetworkSpec) -> ChipReader:
    """Contrast and level vary only where no level means anything: moved off its floor, no rain would be some."""
    size = chip_size(area, spec.chip, spec.patch)
    interest = (
        None
        if spec.interest == "none"
        else measure_interest(samples, area, size, spec.interest, bands=network.bands_out)
    )
    return ChipReader(
        samples,
        area,
        size,
        spec.batch,
        spec.seed,
        drop_frames=spec.drop_frames,
        interest=interest,
        jitter=0.0 if network.anchored else spec.jitter,
    )


def _aligned_together(
    source: AlignedFrames, parts: Split, progress: Progress | None
) -> tuple[tuple[Chips, ...], tuple[Chips, ...]]:
    """Samples of both parts over the whole grid, each made once."""
    wanted = sorted({*parts.training, *parts.validation}, key=lambda one: one.init)
    aligned = dict(zip(wanted, source.prepare(wanted, progress=progress), strict=True))
    return tuple(aligned[one] for one in parts.training), tuple(aligned[one] for one in parts.validation)


def _aligned_apart(
    source: AlignedFrames, parts: Split, progress: Progress | None
) -> tuple[tuple[Chips, ...], tuple[Chips, ...]]:
    """Samples of each part from its own area alone: not even the motion carries anything from one to the other."""
    total = len(parts.training) + len(parts.validation)

    def after(ready: int) -> Progress:
        return lambda done, _: None if progress is None else progress(ready + done, total)

    training = replace(source, area=parts.training_area).prepare(parts.training, progress=after(0))
    watching = replace(source, area=parts.validation_area)
    return training, watching.prepare(parts.validation, progress=after(len(parts.training)))


def _from_corner(area: Window) -> Window:
    """An area in pixels of its own."""
    height, width = area.shape
    return Window(0, height, 0, width)


def network_spec(settings: Settings) -> NetworkSpec:
    """The network that a configuration asks for."""
    spec = settings.training
    forecast = [settings.bands[index] for index in forecast_bands(settings)]
    return NetworkSpec(
        context_frames=settings.samples.context_frames,
        horizon=settings.samples.horizon,
        bands_in=len(settings.bands),
        bands_out=forecast_bands(settings),
        patch=spec.patch,
        filters=spec.filters,
        attention_units=spec.attention_units,
        kind=spec.network,
        attention_heads=spec.attention_heads,
        attention_kernel=spec.attention_kernel,
        attention_reduction=spec.attention_reduction,
        covariates=covariates_of(settings).channels,
        head_units=spec.head_units,
        anchored=tuple(at for at, band in enumerate(forecast) if _anchored(band)),
        levels=spec.quantiles,
    )


def _anchored(band: BandSpec) -> bool:
    """Amounts that begin at nothing mean the same at all times; brightness does not, as the sun sinks."""
    return band.floor is not None or band.transform == "log"
