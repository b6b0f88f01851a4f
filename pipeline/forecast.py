"""One forecast run: what it sees and is made of, its ladder of predictors over the whole scene, and its publication."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import attempt, fill
from pipeline.bounds import valid_ranges
from pipeline.bucket import Bucket
from pipeline.config import Settings
from pipeline.covariates import Covariates, covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.drift import Widened, widths
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.matching import with_matched
from pipeline.pieces import View, around, follow, plan
from pipeline.predictor import MEAN, Forecast, Source
from pipeline.publishing import publish, published_alike
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.rungs import Champion, baselines, forecast_bands
from pipeline.samples import Sample, sample
from pipeline.scorebook import book
from pipeline.seams import Certificate, certify
from pipeline.specs import BandSpec, MotionSpec
from pipeline.tiling import Assembly, cut
from pipeline.trajectories import Trajectories

WIDTHS = "widths"  # in a run's specification: how many times as wide its intervals were made


@dataclass(frozen=True, slots=True)
class Situation:
    """What a forecast sees.

    Attributes:
        cube: the cube, as it was known then.
        sample: which of its frames are the context, and which slots are ahead.
    """

    cube: Cube
    sample: Sample


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
    run = record(settings, champion, situation, told)
    there = published_alike(run, outlet(settings), but=WIDTHS)
    if there is not None:
        return there
    run, champion = _following(settings, champion, run)
    view = View(situation.cube, situation.sample, settings.samples, told)
    said, certificate = make(settings, champion, view)
    return publish(said, run, outlet(settings), certificate.checks())


def make(settings: Settings, champion: Champion | None, view: View) -> tuple[Forecast, Certificate]:
    """The ladder's answer over the whole grid, made in pieces of at most ``forecast.tile`` pixels a side.

    The matched field comes last: it ranks the pixels of the whole grid.
    """
    motion = _motion(settings, champion)
    settings = settings.model_copy(update={"motion": motion})  # every rung moves along the same flow
    trajectories = follow(view, motion)
    halo, step = (0, 1) if champion is None else (champion.halo, champion.step)
    margin = halo + trajectories.reach()
    pieces = plan(view.shape, settings.forecast.tile, margin, step)

    def answers(outer: Window) -> tuple[Forecast, Forecast]:
        return _answers(settings, champion, view, outer, (trajectories.within(outer),))

    def again(window: Window) -> Forecast:
        seen = around(window, margin, view.shape, step)
        return cut(answers(seen)[0], window.within(seen))

    said, surest = Assembly(view.shape), Assembly(view.shape)
    for piece in pieces:
        for whole, part in zip((said, surest), answers(piece.outer), strict=True):
            whole.put(part, piece.window, piece.outer)
    finished = _matched(said.forecast, surest.forecast, champion)
    return finished, certify(finished, pieces, again)


def _matched(said: Forecast, surest: Forecast, champion: Champion | None) -> Forecast:
    """With the field that has the distribution of the rung below, where the champion spoke."""
    if champion is None or champion.matched is None or MEAN not in said.quantities:
        return said
    by_champion = (said.source == Source.NETWORK)[..., np.newaxis]
    reference = np.where(by_champion, surest.of(MEAN), np.float32(np.nan))
    return with_matched(said, reference, partly=champion.matched)


def _answers(
    settings: Settings, champion: Champion | None, view: View, window: Window, along: tuple[Trajectories, ...]
) -> tuple[Forecast, Forecast]:
    """Of the ladder, and of its rungs below the champion."""
    seen, horizon = view.context(window), view.spec.horizon
    below = baselines(settings, trajectories=along)["extrapolation"].predict(seen, horizon)
    best = None if champion is None else attempt(champion.along(along), seen, horizon)
    if champion is None or best is None:
        return below, below
    return fill(best, below if champion.doubt is None else champion.doubt.of(below)), below


def _motion(settings: Settings, champion: Champion | None) -> MotionSpec:
    """The champion's way to find it: that is how its training saw the frames."""
    return settings.motion if champion is None or champion.motion is None else champion.motion


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
    return replace(run, specification=json.dumps(specification, sort_keys=True)), widened(champion, factors, bands)


def widened(champion: Champion, factors: NDArray[np.float64], bands: Sequence[BandSpec]) -> Champion:
    """The champion with intervals ``factors`` times as wide, ``(lead, band)``."""
    return replace(champion, still=Widened(champion.still, factors, valid_ranges(bands)))


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


def record(settings: Settings, champion: Champion | None, situation: Situation, told: Covariates | None) -> RunRecord:
    """What a run is made of, apart from what the newest scores ask for."""
    cube, one = situation.cube, situation.sample
    scenes = tuple(scene.id for scene in cube.scenes(one.context))
    model = ModelRef("extrapolation", "1", "extrapolation") if champion is None else champion.ref
    specification: dict[str, Any] = {
        "as_of": None if cube.as_of is None else cube.as_of.isoformat(),
        "samples": settings.samples.model_dump(mode="json"),
        "motion": _motion(settings, champion).model_dump(mode="json"),
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
