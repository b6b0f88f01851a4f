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

from pipeline import schema
from pipeline.bounds import valid_ranges
from pipeline.bucket import Bucket
from pipeline.config import Settings
from pipeline.covariates import Covariates, covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.drift import NEWEST, Widened, widths
from pipeline.errors import NotEnoughFramesError
from pipeline.filling import CLIMATOLOGY
from pipeline.matching import with_room
from pipeline.pieces import View
from pipeline.piecework import Answer, Work, answers, past
from pipeline.publishing import drafting, publish, published_alike, published_by_a_network
from pipeline.ranking import Ranking
from pipeline.record import YIELDED, ModelRef, Outlet, RunRecord
from pipeline.rungs import Champion, forecast_bands, remarks
from pipeline.samples import Sample, sample
from pipeline.schema import Layout
from pipeline.scorebook import recent
from pipeline.seams import Certificate, Witness, certify
from pipeline.specs import BandSpec, MotionSpec
from pipeline.tiling import Canvas
from pipeline.yielding import giving_way, usefulness, with_yielded

WIDTHS = "widths"  # in a run's specification: how many times as wide its intervals were made
FRAMES = "climatology_frames"  # likewise; runs of before there was a climatology have none
FOLLOWED = (WIDTHS, YIELDED)  # in it, too: all that the newest scores ask for


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


def forecast(
    settings: Settings,
    champion: Champion | None,
    *,
    init: datetime | None = None,
    now: datetime | None = None,
    why: str = "",
) -> Path:
    """Makes and publishes one run; the same run again is a no-op.

    Args:
        settings: the product.
        champion: the model to use; None: extrapolation.
        init: for a hindcast, which sees only what was available then; None: from the newest scene, or as ``now`` says.
        now: for a run from the newest slot that is due at this time, whether or not its scene has come.
        why: ``champion`` is not the one that MLflow has; noted in the manifest, decides no byte of any other file.
            Where a network has spoken for that init time already, and nothing new has come, its run stays.

    Returns:
        Folder of the published run.

    Raises:
        ConfigError: a static covariate cannot be read.
        NotEnoughFramesError: nothing to start from.
        PublishError: the run fails a check.
        StoreError: no cube, or one of another layout than the configuration's.
        WithdrawnError: the run was withdrawn.
    """
    situation = _situation(settings, init, now)
    if not situation.sample.context:
        _require_past(settings, situation)
        champion = None
    told = None if champion is None else covariates_of(settings)
    run = record(settings, champion, situation, told)
    there = published_alike(run, outlet(settings), but=FOLLOWED)
    if there is None and champion is None and why:
        there = published_by_a_network(run, outlet(settings))  # what stands in takes nobody's place
    if there is not None:
        return there
    run, champion = _following(settings, champion, with_yielded(settings, champion, run))
    if champion is not None:
        champion = giving_way(settings, champion, run)
    view = View(situation.cube, situation.sample, settings.samples, told)
    with drafting(run, outlet(settings)) as draft:
        certificate = make(settings, champion, view, draft, draft.folder)
        told_of = remarks(champion, why) | usefulness(settings, run) | past(settings, view).remarks(draft)
        return publish(draft, run, outlet(settings), certificate.checks(), remarks=told_of)


def published_already(
    settings: Settings, champion: Champion, *, init: datetime | None = None, now: datetime | None = None
) -> Path | None:
    """Folder of the run that :func:`forecast` would make, where it is published; the champion's network is not asked.

    Args:
        settings: the product.
        champion: which model it is and how it finds motion; nothing else of it matters.
        init: as of :func:`forecast`.
        now: likewise.

    Raises:
        CubecastError: as :func:`forecast`.
    """
    situation = _situation(settings, init, now)
    if not situation.sample.context:
        return None
    run = record(settings, champion, situation, covariates_of(settings))
    return published_alike(run, outlet(settings), but=FOLLOWED)


def _situation(settings: Settings, init: datetime | None, now: datetime | None) -> Situation:
    cube = open_cube(store_of(settings))
    schema.check(cube.root, Layout.of(settings), but=frozenset({"forecast"}))  # any bands of the cube can be
    return situate(settings, cube, init, now)


def make(
    settings: Settings, champion: Champion | None, view: View, canvas: Canvas, folder: Path | None = None
) -> Certificate:
    """Puts the ladder's answer on a canvas of the whole grid, in pieces of at most ``forecast.tile`` pixels a side.

    Args:
        settings: the product.
        champion: the best rung; None: extrapolation is.
        view: what the run sees.
        canvas: where the forecast goes.
        folder: for what does not stay in memory, and what workers exchange; None: all is made here, in memory.
    """
    motion = _motion(settings, champion)
    settings = settings.model_copy(update={"motion": motion})  # every rung moves along the same flow
    work = Work.begun(settings, champion, view, folder)
    windows = [piece.window for piece in work.pieces]
    ranking = _ranking(champion, view)
    witness = Witness(windows)
    for answer in answers(work, folder, settings.services.dask):
        _put(answer, canvas, witness, ranking)
    if ranking is not None:
        ranking.paint(canvas)  # last: it ranks the pixels of the whole grid
    return certify(canvas, windows, settings.samples.horizon, witness, work.again)


def _ranking(champion: Champion | None, view: View) -> Ranking | None:
    """For a champion with a matched field."""
    if champion is None or champion.matched is None:
        return None
    return Ranking(view.shape, view.spec.horizon * len(champion.bands), champion.matched)


def _put(answer: Answer, canvas: Canvas, witness: Witness, ranking: Ranking | None) -> None:
    said, (window, outer) = answer.said, (answer.piece.window, answer.piece.outer)
    witness.put(said, window, outer)
    if ranking is not None:
        ranking.put(said, answer.below, window, outer)
        said = with_room(said)
    canvas.put(said, window, outer)


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
    newest = recent(settings.paths.verification, model, run.init, NEWEST)
    factors = widths(newest, model, run.init, leads, [band.name for band in bands])
    if factors is None:
        return run, champion
    factors = factors.round(3)
    specification = json.loads(run.specification) | {WIDTHS: factors.tolist()}
    return replace(run, specification=json.dumps(specification, sort_keys=True)), widened(champion, factors, bands)


def widened(champion: Champion, factors: NDArray[np.float64], bands: Sequence[BandSpec]) -> Champion:
    """The champion with intervals ``factors`` times as wide, ``(lead, band)``."""
    return replace(champion, still=Widened(champion.still, factors, valid_ranges(bands)))


def look(settings: Settings, newest: Cube, init: datetime | None) -> Situation:
    """What a forecast for ``init`` has before it, a context frame at least; None: one from the newest scene.

    Raises:
        NotEnoughFramesError: nothing to start from.
    """
    found = situate(settings, newest, init)
    if not found.sample.context:
        raise _nothing_seen(settings, found)
    return found


def situate(settings: Settings, newest: Cube, init: datetime | None, now: datetime | None = None) -> Situation:
    """What a forecast has before it, which may be nothing recent; times as of :func:`forecast`.

    A hindcast sees what was available at its init time; the others see everything up to it, whenever it came. A slot
    beyond the end of the cube's time axis is one without a scene: the cube is only read.

    Raises:
        NotEnoughFramesError: the cube is empty, or starts after the init time.
    """
    axis = newest.layout.axis
    due = None if now is None else axis.valid_time(axis.reached(now - settings.forecast.delay))
    slot = choose_init(newest, due if init is None else init)
    cube = newest if init is None else replace(newest, as_of=axis.valid_time(slot) + settings.forecast.delay)
    return Situation(cube, sample(cube.observed(), slot, settings.samples))


def _require_past(settings: Settings, situation: Situation) -> None:
    """Lets no run begin that cannot even be a climatology.

    Raises:
        NotEnoughFramesError: the cube has no frame before it.
    """
    if not past(settings, View(situation.cube, situation.sample, settings.samples)).speaks:
        raise _nothing_seen(settings, situation)


def _nothing_seen(settings: Settings, situation: Situation) -> NotEnoughFramesError:
    time = situation.cube.layout.axis.valid_time(situation.sample.init)
    return NotEnoughFramesError(
        f"a forecast sees at least one scene of the last {settings.samples.max_age} slots before its init time, "
        f"found none before {time:%Y-%m-%d %H:%M}Z{_known_then(situation.cube)}: "
        "ingest newer scenes or raise samples.max_age"
    )


def _known_then(cube: Cube) -> str:
    return "" if cube.as_of is None else f" that was available {cube.as_of:%Y-%m-%d %H:%M}Z (forecast.delay)"


def outlet(settings: Settings) -> Outlet:
    """Where and in which form the product's forecasts come out."""
    bands = tuple(settings.bands[index] for index in forecast_bands(settings))
    grid, folder, store = settings.grid.geobox(), settings.paths.forecasts, settings.forecast.store
    bucket = Bucket(store.url, store.endpoint, store.region) if store.url else None
    asked = settings.forecast.probabilities
    return Outlet(settings.product, bands, grid, folder, settings.forecast.resolution, bucket, asked)


def record(settings: Settings, champion: Champion | None, situation: Situation, told: Covariates | None) -> RunRecord:
    """What a run is made of, apart from what the newest scores ask for."""
    cube, one = situation.cube, situation.sample
    scenes = tuple(scene.id for scene in cube.scenes(one.context))
    specification: dict[str, Any] = {
        "as_of": None if cube.as_of is None else cube.as_of.isoformat(),
        "samples": settings.samples.model_dump(mode="json"),
        "motion": _motion(settings, champion).model_dump(mode="json"),
        "tile": settings.forecast.tile,
    }
    if told is not None and told.channels:
        specification["covariates"] = told.digest
    if settings.forecast.climatology_frames:
        specification[FRAMES] = settings.forecast.climatology_frames
    return RunRecord(
        init=cube.layout.axis.valid_time(one.init),
        cadence=cube.layout.axis.cadence,
        model=_model(champion, one),
        snapshot=cube.snapshot,
        scenes=scenes,
        specification=json.dumps(specification, sort_keys=True),
        code_version=version("cubecast"),
    )


def _model(champion: Champion | None, one: Sample) -> ModelRef:
    """What speaks where it can, and lends the run its name."""
    if champion is not None:
        return champion.ref
    return ModelRef("extrapolation", "1", "extrapolation") if one.context else CLIMATOLOGY
