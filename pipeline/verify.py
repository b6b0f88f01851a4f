"""Arrived truth against published forecasts: each lead of each run scored once, beside the baselines it must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import valid_ranges
from pipeline.catalog import PublishedRun, runs
from pipeline.config import Settings
from pipeline.coverage import Coverage
from pipeline.cube import Cube, open_cube, store_of
from pipeline.errors import StoreError
from pipeline.evaluation import Answer, errors
from pipeline.forecast import baselines, outlet
from pipeline.metrics import ErrorRow, ErrorSums
from pipeline.pairs import Pair, bound_levels, with_interval
from pipeline.predictor import Context, Forecast
from pipeline.samples import Sample, read_context
from pipeline.scorebook import FORECAST, RunScores, Score, load, page, save
from pipeline.specs import BandSpec

_MINUTE = timedelta(minutes=1)
Held = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one run: its scores, how many leads were scored now, whether the rest can never be."""

    scores: RunScores
    scored: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification did.

    Attributes:
        scored: leads of runs scored now.
        runs: every run with at least one score.
        bands: the forecast bands.
        lost: keys of runs whose truth has come but whose snapshot of the cube cannot be opened any more (the cube was
            made again, or the snapshot expired): what they saw is gone, they keep the scores that they have.
    """

    scored: int
    runs: tuple[RunScores, ...]
    bands: tuple[BandSpec, ...]
    lost: tuple[str, ...] = ()

    def table(self) -> list[ErrorRow]:
        """Errors by lead and band, pooled over all runs."""
        return tabulate(self.runs, self.bands)


def verify(settings: Settings, *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Scores every published lead whose truth is in the cube and that has no score yet.

    Raises:
        StoreError: there is no cube, or what it holds is damaged.
    """
    cube = open_cube(store_of(settings))
    published = list(runs(settings.paths.forecasts, settings.product.name))
    checked: list[Checked] = []
    for run in published:
        checked.append(_check(settings, cube, run))
        if progress is not None:
            progress(len(checked), len(published))
    return Report(
        sum(one.scored for one in checked),
        tuple(one.scores for one in checked if one.scores.scores),
        outlet(settings).bands,
        tuple(one.scores.run_key for one in checked if one.lost),
    )


def _check(settings: Settings, cube: Cube, run: PublishedRun) -> Checked:
    """Scores what is due of one run, and keeps it."""
    before = _before(settings, run)
    due = _due(cube, run, before)
    if not due:
        return Checked(before)
    seen = _cube_of(settings, run)
    if seen is None:
        return Checked(before, lost=True)
    after = replace(before, scores=(*before.scores, *_score(settings, cube, run, due, seen)))
    save(_path(settings, run), after)
    return Checked(after, scored=len(due))


def _due(cube: Cube, run: PublishedRun, scores: RunScores) -> dict[int, int]:
    """Slots of the leads (minutes) that truth has reached and that have no score."""
    axis, observed = cube.layout.axis, set(cube.observed().tolist())
    slots = {lead: axis.slot(run.init + lead * _MINUTE) for lead in run.leads}
    return {lead: slot for lead, slot in slots.items() if slot in observed and lead not in scores.scored_leads()}


def _cube_of(settings: Settings, run: PublishedRun) -> Cube | None:
    """The cube as the run had it; None where that snapshot is gone, since the newest one can be opened."""
    try:
        return open_cube(store_of(settings), snapshot=run.snapshot)
    except StoreError:
        return None


def tabulate(scored: Iterable[RunScores], bands: Iterable[BandSpec]) -> list[ErrorRow]:
    """Errors by lead and band over runs, every pixel counting alike; ``bands`` know the units."""
    units = {band.name: band.units for band in bands}
    pooled: dict[tuple[int, str], dict[str, list[Score]]] = {}
    for run in scored:
        for score in run.scores:
            by_name = pooled.setdefault((score.lead_minutes, score.band), {})
            by_name.setdefault(score.predictor, []).append(score)
    return [_row(lead, band, units[band], by_name) for (lead, band), by_name in sorted(pooled.items()) if band in units]


def _row(lead: int, band: str, unit: str, by_name: dict[str, list[Score]]) -> ErrorRow:
    def mean(name: str, part: str) -> float:
        pixels = sum(score.pixels for score in by_name[name])
        return sum(getattr(score, part) for score in by_name[name]) / pixels if pixels else float("nan")

    mae = {name: mean(name, "absolute") for name in by_name}
    rmse = {name: mean(name, "squared") ** 0.5 for name in by_name}
    return ErrorRow(lead, band, unit, mae, rmse, _coverage(by_name))


def _coverage(by_name: dict[str, list[Score]]) -> dict[str, float]:
    """Of the predictors with an interval, over those of their runs that had one."""
    pixels = {
        name: [(one.covered, one.pixels) for one in scores if one.covered is not None]
        for name, scores in by_name.items()
    }
    sums = {name: np.sum(pairs, axis=0) for name, pairs in pixels.items() if pairs}
    return {name: float(inside / count) for name, (inside, count) in sums.items() if count}


def _score(settings: Settings, cube: Cube, run: PublishedRun, due: dict[int, int], seen: Cube) -> list[Score]:
    """Scores of the leads whose truth lies in the slots ``due``; ``seen`` is the cube as the run had it.

    Bands, context and horizon are the run's own, whatever the configuration says by now.
    """
    names = [band.name for band in cube.layout.bands]
    bands = tuple(names.index(name) for name in run.bands)
    init = cube.layout.axis.slot(run.init)
    context = inputs(settings, run, seen)
    said = {name: p.predict(context, max(due.values()) - init) for name, p in baselines(settings, bands).items()}
    scores: list[Score] = []
    for lead, slot in due.items():
        ahead = slot - init
        answers = {name: Answer.of(one.values[0, ahead - 1 : ahead], one.quantities) for name, one in said.items()}
        answers[FORECAST] = Answer.of(run.read(lead)[np.newaxis], run.quantities)
        truth = cube.read([slot]).values[..., list(bands)]
        newest = context.validity[0, -1][..., list(bands)]
        met = np.where(newest, truth, np.float32(np.nan))
        held, promised = _held(run, lead, met, [cube.layout.bands[at] for at in bands])
        for name, sums in errors(answers, truth, newest).items():
            made = _scores(lead, name, run.bands, sums, held if name == FORECAST else (None,) * len(bands))
            scores += [replace(one, promised=None if one.held is None else promised) for one in made]
    return scores


def inputs(settings: Settings, run: PublishedRun, seen: Cube) -> Context:
    """The very frames that the run saw."""
    used = set(run.scenes)
    slots = sorted({row.slot for row in seen.rows if row.scene.id in used and not row.superseded})
    spec = settings.samples.model_copy(update={"context_frames": len(slots)})
    return read_context(seen, Sample(seen.layout.axis.slot(run.init), tuple(slots), ()), spec)


def _scores(lead: int, name: str, bands: tuple[str, ...], sums: ErrorSums, held: Held) -> Iterator[Score]:
    for index, band in enumerate(bands):
        pixels, absolute, squared = (part[0, index].item() for part in (sums.count, sums.absolute, sums.squared))
        covered = None if sums.covered is None else int(sums.covered[0, index])
        yield Score(lead, band, name, int(pixels), absolute, squared, covered, held[index])


def _held(
    run: PublishedRun, lead: int, truth: NDArray[np.float32], bands: Sequence[BandSpec]
) -> tuple[Held, float | None]:
    """Coverage of a lead by randomised PIT where a network forecast, one a band, and what it is to be.

    None where the run has no interval, or no truth counts.
    """
    values = run.read(lead)[np.newaxis, np.newaxis]
    blank = np.zeros((1, 1, *truth.shape[1:3]), np.float32)
    said = Forecast(values, run.source(lead)[np.newaxis, np.newaxis], blank, run.quantities)
    if len(bound_levels(said)) < 2:
        return (None,) * len(bands), None
    found = Coverage.of(Pair(said, with_interval(said, truth)), valid_ranges(bands))
    return tuple(None if np.isnan(share) else float(share) for share in found.randomised[0]), found.nominal


def _before(settings: Settings, run: PublishedRun) -> RunScores:
    model = f"{run.model.name} {run.model.version}"
    return load(_path(settings, run)) or RunScores(run.run_key, run.init, model, ())


def _path(settings: Settings, run: PublishedRun) -> Path:
    return page(settings.paths.verification, run.run_key, run.init)
