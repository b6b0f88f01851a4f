"""The evidence for the gate: challenger, champion and baselines at the same held-out init times, on the same pixels."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from statistics import mean

import numpy as np

from models.appraisal import complete_tests
from models.gate import Entrant, Trial
from models.material import plan
from models.prediction import Network
from pipeline.bounds import valid_ranges
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.coverage import Coverage
from pipeline.cube import Cube, open_cube, store_of
from pipeline.errors import CubecastError, ModelError, NotEnoughFramesError
from pipeline.evaluation import Answer, Scores, counted
from pipeline.metrics import ErrorRow, ErrorSums
from pipeline.pairs import Pair, bound_levels, with_interval
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.rehearsal import rehearse
from pipeline.rungs import baselines, forecast_bands, ladder
from pipeline.samples import Sample, Split, read_context, read_targets, thin
from pipeline.specs import SampleSpec
from pipeline.times import minutes

CHALLENGER = "challenger"
CHAMPION = "champion"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Held:
    """A contest that took place.

    Attributes:
        trial: for the gate.
        rows: errors by lead and band, all init times together.
        snapshot: of the cube.
        first: init time of the first forecast, as UTC text.
        last: of the last one.
    """

    trial: Trial
    rows: tuple[ErrorRow, ...]
    snapshot: str
    first: str
    last: str


@dataclass(slots=True)
class _Book:
    """What is noted while forecasts are made, init time by init time."""

    sums: dict[str, list[ErrorSums]] = field(default_factory=dict)
    spent: dict[str, list[float]] = field(default_factory=dict)
    coverage: Coverage | None = None


def hold(
    settings: Settings,
    challenger: Network,
    champion: Network | None,
    snapshot: str,
    *,
    progress: Progress | None = None,
) -> Held:
    """Holds a contest over the test part of the challenger's own snapshot.

    Args:
        settings: the product.
        challenger: who wants to serve.
        champion: who serves; None: nobody.
        snapshot: of the cube, that the challenger learned from.
        progress: told how many init times are done, of how many.

    Raises:
        ModelError: the champion has learned from what is to judge it, or nobody knows.
        NotEnoughFramesError: no test init time has all its truth.
        StoreError: the snapshot cannot be opened.
    """
    cube = open_cube(store_of(settings), snapshot=snapshot)
    own = settings.model_copy(update={"samples": _split_as_trained(settings, challenger)})
    parts = plan(own, cube).split
    tests = thin(complete_tests(parts, cube), settings.models.inits)
    if not tests:
        msg = (
            "versions are compared at test init times whose truth has come, the snapshot has none: ingest more scenes "
            "and train again, or lower samples.horizon"
        )
        raise NotEnoughFramesError(msg)
    _require_new(champion, parts, cube)
    networks = {CHALLENGER: challenger} | ({} if champion is None else {CHAMPION: champion})
    tile = settings.forecast.tile
    predictors = {name: ladder(settings, one.champion(tile)) for name, one in networks.items()} | baselines(settings)
    book = _Book()
    for done, one in enumerate(tests, start=1):
        _meet(settings, cube, one, predictors, book)
        if progress is not None:
            progress(done, len(tests))
    return _held(settings, cube, tests, book, rehearsed(settings, challenger))


def rehearsed(settings: Settings, network: Network) -> str:
    """What is wrong with a forecast of a network that is made and published aside; empty: nothing."""
    with tempfile.TemporaryDirectory(prefix="cubecast-rehearsal-") as folder:
        try:
            rehearse(settings, network.champion(), Path(folder))
        except CubecastError as error:
            return str(error).strip().partition("\n")[0]
        except Exception as error:  # noqa: BLE001 - whatever a network does, it is the network that is looked at
            return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    return ""


def _split_as_trained(settings: Settings, challenger: Network) -> SampleSpec:
    """The fractions that the challenger's training split the cube by, with context and horizon as configured."""
    then, now = challenger.card.samples, settings.samples
    return then.model_copy(update={"context_frames": now.context_frames, "horizon": now.horizon})


def _require_new(champion: Network | None, parts: Split, cube: Cube) -> None:
    if champion is None:
        return
    version, seen = champion.ref.version, champion.card.seen
    if seen is None:
        raise ModelError(
            f"a champion is compared over what it has not learned from, but nobody noted what version {version} has "
            "seen: promote by your own word, cubecast models promote VERSION --force --reason TEXT"
        )
    if seen.knows(parts.test, cube.layout.axis):
        raise ModelError(
            f"a champion is compared over what it has not learned from, but version {version} has seen scenes up to "
            f"{seen.until:%Y-%m-%d %H:%M}Z, which reach into the challenger's test part: ingest newer scenes and train "
            "again, or promote by your own word, cubecast models promote VERSION --force --reason TEXT"
        )


def _meet(settings: Settings, cube: Cube, one: Sample, predictors: Mapping[str, Predictor], book: _Book) -> None:
    """One init time: everybody's forecast, its cost, and its errors where all say something."""
    spec, bands = settings.samples, list(forecast_bands(settings))
    context = covariates_of(settings).attach(read_context(cube, one, spec), one.init, spec.horizon)
    truth = read_targets(cube, one, horizon=spec.horizon).values[: spec.horizon, ..., bands]
    said = {name: _asked(predictor, context, spec.horizon, name, book) for name, predictor in predictors.items()}
    answers = {name: Answer.of(forecast.values[0], forecast.quantities) for name, forecast in said.items()}
    met = counted(answers, truth, context.validity[0, -1][..., bands])
    for name, answer in answers.items():
        book.sums.setdefault(name, []).append(answer.sums(met))
    own = said[CHALLENGER]
    if len(bound_levels(own)) >= 2:
        ranges = valid_ranges([settings.bands[band] for band in bands])
        found = Coverage.of(Pair(own, with_interval(own, met)), ranges)
        book.coverage = found if book.coverage is None else book.coverage + found


def _asked(predictor: Predictor, context: Context, horizon: int, name: str, book: _Book) -> Forecast:
    began = time.process_time()
    said = predictor.predict(context, horizon)
    book.spent.setdefault(name, []).append(time.process_time() - began)
    return said


def _held(settings: Settings, cube: Cube, tests: Sequence[Sample], book: _Book, fault: str) -> Held:
    axis, cadence = cube.layout.axis, settings.axis.cadence
    entrants = {name: _entrant(name, sums, book.spent[name]) for name, sums in book.sums.items()}
    leads = tuple(minutes(number * cadence) for number in range(1, settings.samples.horizon + 1))
    trial = Trial(
        np.array([one.init for one in tests], np.int64),
        settings.samples.horizon,
        leads,
        entrants[CHALLENGER],
        entrants.get(CHAMPION),
        tuple(one for name, one in entrants.items() if name not in {CHALLENGER, CHAMPION}),
        None if book.coverage is None else book.coverage.randomised,
        float("nan") if book.coverage is None else book.coverage.nominal,
        fault,
    )
    bands = [settings.bands[band] for band in forecast_bands(settings)]
    pooled = {name: reduce(add, sums) for name, sums in book.sums.items()}
    rows = Scores(pooled, len(tests)).rows(bands, cadence)
    first, last = (f"{axis.valid_time(one.init):%Y-%m-%d %H:%M}Z" for one in (tests[0], tests[-1]))
    return Held(trial, tuple(rows), cube.snapshot, first, last)


def _entrant(name: str, sums: Sequence[ErrorSums], spent: Sequence[float]) -> Entrant:
    """The first forecast also compiles what all the others only run."""
    return Entrant(name, np.stack([one.squared for one in sums]), mean(spent[1:] or spent))
