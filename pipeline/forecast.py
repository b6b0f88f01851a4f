"""A predictor over whole scenes: normalised, in tiles, with lower rungs where it knows nothing; then published."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.baselines import Ladder, Persistence, extrapolation
from pipeline.bounds import valid_ranges
from pipeline.bucket import Bucket
from pipeline.config import Settings
from pipeline.covariates import Covariates, covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.drift import Widened, widths
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window, tiles
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.publishing import publish, published_alike
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.samples import Sample, read_context, sample
from pipeline.scorebook import book

WIDTHS = "widths"  # in a run's specification: how many times as wide its intervals were made


@dataclass(frozen=True, slots=True)
class Normalised:
    """A predictor that works on standardised values, for contexts in the units of the bands.

    Covariates are standardised from the start and pass unchanged.

    Attributes:
        inner: the predictor.
        statistics: of all bands of the context.
        forecast_bands: which of them the predictor answers for, counted from 0.
    """

    inner: Predictor
    statistics: Statistics
    forecast_bands: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        scaled = replace(context, values=self.statistics.scale(context.values))
        said = self.inner.predict(scaled, horizon)
        values = self.statistics.of_bands(self.forecast_bands).unscale(said.values)
        return Forecast(values, said.source, said.age, said.quantities)


@dataclass(frozen=True, slots=True)
class Tiled:
    """A predictor run tile by tile, so that memory does not grow with the scene.

    Each tile sees ``halo`` pixels around it, as far as the predictor can look, so the result equals the one made whole.

    Attributes:
        inner: the predictor.
        size: pixels a side, a multiple of ``step``.
        halo: how far an output pixel can see, in pixels.
        step: tiles and their halos start at multiples of this, because the predictor works on patches.
    """

    inner: Predictor
    size: int
    halo: int
    step: int = 1

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        shape = context.grid_shape
        if shape[0] * shape[1] <= self.size**2:  # no more memory than a tile, and no halo
            return self.inner.predict(context, horizon)
        whole: Forecast | None = None
        margin = _round_up(self.halo, self.step)
        for window in tiles(shape, _round_up(self.size, self.step)):
            outer = window.grown(margin, shape)
            said = self.inner.predict(crop(context, outer), horizon)
            whole = whole or _blank(said, shape)
            _place(whole, said, window, outer)
        assert whole is not None
        return whole


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def crop(context: Context, window: Window) -> Context:
    """A window of a context."""
    rows, columns = window.slices
    return replace(
        context,
        values=context.values[:, :, rows, columns],
        validity=context.validity[:, :, rows, columns],
        covariates=None if context.covariates is None else context.covariates[:, :, rows, columns],
    )


def _blank(like: Forecast, shape: tuple[int, int]) -> Forecast:
    batch, lead, quantity, _, _, band = like.values.shape
    return Forecast(
        np.full((batch, lead, quantity, *shape, band), np.nan, np.float32),
        np.zeros((batch, lead, *shape), np.uint8),
        np.full((batch, lead, *shape), np.nan, np.float32),
        like.quantities,
    )


def _place(whole: Forecast, part: Forecast, window: Window, outer: Window) -> None:
    rows, columns = window.slices
    inner_rows, inner_columns = window.within(outer).slices
    whole.values[:, :, :, rows, columns] = part.values[:, :, :, inner_rows, inner_columns]
    whole.source[:, :, rows, columns] = part.source[:, :, inner_rows, inner_columns]
    whole.age[:, :, rows, columns] = part.age[:, :, inner_rows, inner_columns]


@dataclass(frozen=True, slots=True)
class OfBands:
    """A predictor of all bands, of which only some are wanted.

    Attributes:
        inner: the predictor.
        bands: indices of the wanted bands, counted from 0.
    """

    inner: Predictor
    bands: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        said = self.inner.predict(context, horizon)
        return Forecast(said.values[..., list(self.bands)], said.source, said.age, said.quantities)


@dataclass(frozen=True, slots=True)
class Untold:
    """A predictor that gets no covariates: one that asks for none need not have them moved along the flow.

    Attributes:
        inner: the predictor.
    """

    inner: Predictor

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        return self.inner.predict(replace(context, covariates=None), horizon)


@dataclass(frozen=True, slots=True)
class Champion:
    """A predictor for forecast bands on whole grids, and which model it is."""

    predictor: Predictor
    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Situation:
    """What a forecast sees.

    Attributes:
        cube: the cube, as it was known then.
        sample: which of its frames are the context, and which slots are ahead.
    """

    cube: Cube
    sample: Sample


def forecast_bands(settings: Settings) -> tuple[int, ...]:
    """Indices of the bands that are forecast, counted from 0."""
    return tuple(index for index, band in enumerate(settings.bands) if band.forecast)


def baselines(settings: Settings, bands: tuple[int, ...] | None = None) -> dict[str, Predictor]:
    """The references of every score: persistence, and extrapolation filled up by it.

    Args:
        settings: the product.
        bands: for which bands, counted from 0; None: those that are forecast.
    """
    wanted = forecast_bands(settings) if bands is None else bands
    still = OfBands(Persistence(), wanted)
    moved = Untold(OfBands(extrapolation(settings.motion), wanted))
    return {"persistence": still, "extrapolation": Ladder((moved, still))}


def ladder(settings: Settings, champion: Champion | None) -> Predictor:
    """The champion where it knows something, extrapolation elsewhere, persistence where that fails too."""
    below = baselines(settings)["extrapolation"]
    return below if champion is None else Ladder((champion.predictor, below))


def choose_init(cube: Cube, init: datetime | None) -> int:
    """The slot to forecast from: the one nearest to ``init``, or the newest observed one.

    Raises:
        NotEnoughFramesError: the cube is empty, or starts after ``init``.
    """
    observed = cube.observed()
    if len(observed) == 0:
        msg = "a forecast starts from an observed slot, the cube has none: ingest scenes"
        raise NotEnoughFramesError(msg)
    if init is None:
        return int(observed[-1])
    slot = cube.layout.axis.slot(init)
    if slot < observed[0]:
        first = cube.layout.axis.valid_time(int(observed[0]))
        msg = (
            f"an init time lies in the cube: {init:%Y-%m-%d %H:%M}Z is before its first scene, {first:%Y-%m-%d %H:%M}Z"
        )
        raise NotEnoughFramesError(msg)
    return slot


def forecast(settings: Settings, champion: Champion | None, *, init: datetime | None = None) -> Path:
    """Makes and publishes one run; the same run again is a no-op.

    Args:
        settings: the product.
        champion: the model to use; None: extrapolation.
        init: for a hindcast, which sees only what was available then; None: from the newest scene.

    Returns:
        Folder of the published run.

    Raises:
        ConfigError: a static covariate cannot be read.
        NotEnoughFramesError: nothing to start from.
        PublishError: the run fails a check.
        WithdrawnError: the run was withdrawn.
    """
    situation = look(settings, open_cube(store_of(settings)), init)
    told = None if champion is None else covariates_of(settings)
    run = _record(settings, champion, situation, told)
    there = published_alike(run, outlet(settings), but=WIDTHS)
    if there is not None:
        return there
    run, champion = _following(settings, champion, run)
    horizon = settings.samples.horizon
    context = read_context(situation.cube, situation.sample, settings.samples)
    if told is not None:
        context = told.attach(context, situation.sample.init, horizon)
    said = ladder(settings, champion).predict(context, horizon)
    return publish(said, run, outlet(settings), checks={})


def _following(settings: Settings, champion: Champion | None, run: RunRecord) -> tuple[RunRecord, Champion | None]:
    """Run and champion with intervals as wide as the newest scores ask for."""
    if champion is None or not settings.forecast.follow:
        return run, champion
    bands = [settings.bands[index] for index in forecast_bands(settings)]
    leads = [run.lead(number).minutes for number in range(1, settings.samples.horizon + 1)]
    model = f"{run.model.name} {run.model.version}"
    factors = widths(book(settings.paths.verification), model, run.init, leads, [band.name for band in bands])
    if factors is None:
        return run, champion
    factors = factors.round(3)
    specification = json.loads(run.specification) | {WIDTHS: factors.tolist()}
    widened = replace(champion, predictor=Widened(champion.predictor, factors, valid_ranges(bands)))
    return replace(run, specification=json.dumps(specification, sort_keys=True)), widened


def look(settings: Settings, newest: Cube, init: datetime | None) -> Situation:
    """What a forecast for ``init`` has before it; None: one from the newest scene, which sees everything.

    Raises:
        NotEnoughFramesError: nothing to start from.
    """
    slot = choose_init(newest, init)
    time = newest.layout.axis.valid_time(slot)
    cube = newest if init is None else replace(newest, as_of=time + settings.forecast.delay)
    found = sample(cube.observed(), slot, settings.samples)
    if not found.context:
        msg = (
            f"a forecast sees at least one scene of the last {settings.samples.max_age} slots before its init time, "
            f"found none before {time:%Y-%m-%d %H:%M}Z{_known_then(cube)}: "
            "ingest newer scenes or raise samples.max_age"
        )
        raise NotEnoughFramesError(msg)
    return Situation(cube, found)


def _known_then(cube: Cube) -> str:
    return "" if cube.as_of is None else f" that was available {cube.as_of:%Y-%m-%d %H:%M}Z (forecast.delay)"


def outlet(settings: Settings) -> Outlet:
    """Where and in which form the product's forecasts come out."""
    bands = tuple(settings.bands[index] for index in forecast_bands(settings))
    grid, folder, store = settings.grid.geobox(), settings.paths.forecasts, settings.forecast.store
    bucket = Bucket(store.url, store.endpoint, store.region) if store.url else None
    return Outlet(settings.product, bands, grid, folder, settings.forecast.resolution, bucket)


def _record(settings: Settings, champion: Champion | None, situation: Situation, told: Covariates | None) -> RunRecord:
    cube, one = situation.cube, situation.sample
    scenes = tuple(scene.id for scene in cube.scenes(one.context))
    model = ModelRef("extrapolation", "1", "extrapolation") if champion is None else champion.ref
    specification: dict[str, Any] = {
        "as_of": None if cube.as_of is None else cube.as_of.isoformat(),
        "samples": settings.samples.model_dump(mode="json"),
        "motion": settings.motion.model_dump(mode="json"),
        "tile": settings.forecast.tile,
    }
    if told is not None and told.channels:
        specification["covariates"] = told.digest
    return RunRecord(
        init=cube.layout.axis.valid_time(one.init),
        cadence=cube.layout.axis.cadence,
        model=model,
        snapshot=cube.snapshot,
        scenes=scenes,
        specification=json.dumps(specification, sort_keys=True),
        code_version=version("cubecast"),
    )
