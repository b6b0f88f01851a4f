"""Arrived truth against published forecasts: each lead of each run scored once, beside the baselines it must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.catalog import PublishedRun, runs
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.errors import StoreError
from pipeline.forecast import outlet
from pipeline.metrics import ErrorRow
from pipeline.scorebook import RunScores, Score, load, load_cards, page, save, save_cards
from pipeline.scoretable import ScoreRow, score_rows
from pipeline.scoring import MINUTE, Case, predecessors, score
from pipeline.specs import BandSpec

NEWEST = 500  # runs of twelve leads make a table of scores in 6 CPU-s


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
    published = list(runs(outlet(settings).place, settings.product.name))
    checked: list[Checked] = []
    for run in published:
        checked.append(_check(settings, cube, run, published))
        if progress is not None:
            progress(len(checked), len(published))
    return Report(
        sum(one.scored for one in checked),
        tuple(one.scores for one in checked if one.scores.scores),
        outlet(settings).bands,
        tuple(one.scores.run_key for one in checked if one.lost),
    )


def scores(settings: Settings, report: Report) -> list[ScoreRow]:
    """Every score by lead, band and predictor, pooled over the :data:`NEWEST` runs that have some."""
    folder = settings.paths.verification
    newest = [(run, load_cards(page(folder, run.run_key, run.init), run)) for run in report.runs[-NEWEST:]]
    return score_rows(newest, report.bands, settings.verification)


def _check(settings: Settings, cube: Cube, run: PublishedRun, published: Sequence[PublishedRun]) -> Checked:
    """Scores what is due of one run, and keeps it."""
    before = _before(settings, run)
    due = _due(cube, run, before)
    if not due:
        return Checked(before)
    seen = _cube_of(settings, run)
    if seen is None:
        return Checked(before, lost=True)
    found = score(Case(settings, cube, run, seen, predecessors(published, run)), due)
    path, after = _path(settings, run), replace(before, scores=(*before.scores, *found.scores))
    save_cards(path, (*load_cards(path, before), *found.cards))
    save(path, after)
    return Checked(after, scored=len(due))


def _due(cube: Cube, run: PublishedRun, scores: RunScores) -> dict[int, int]:
    """Slots of the leads (minutes) that truth has reached and that have no score."""
    axis, observed = cube.layout.axis, set(cube.observed().tolist())
    slots = {lead: axis.slot(run.init + lead * MINUTE) for lead in run.leads}
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
        for one in run.scores:
            by_name = pooled.setdefault((one.lead_minutes, one.band), {})
            by_name.setdefault(one.predictor, []).append(one)
    return [_row(lead, band, units[band], by_name) for (lead, band), by_name in sorted(pooled.items()) if band in units]


def _row(lead: int, band: str, unit: str, by_name: dict[str, list[Score]]) -> ErrorRow:
    def mean(name: str, part: str) -> float:
        pixels = sum(score.pixels for score in by_name[name])
        return sum(getattr(score, part) for score in by_name[name]) / pixels if pixels else float("nan")

    most = max(map(len, by_name.values()))
    names = [name for name in by_name if len(by_name[name]) == most]  # a reference of some runs saw other weather
    mae = {name: mean(name, "absolute") for name in names}
    rmse = {name: mean(name, "squared") ** 0.5 for name in names}
    return ErrorRow(lead, band, unit, mae, rmse, _coverage(by_name))


def _coverage(by_name: dict[str, list[Score]]) -> dict[str, float]:
    """Of the predictors with an interval, over those of their runs that had one."""
    pixels = {
        name: [(one.covered, one.pixels) for one in scores if one.covered is not None]
        for name, scores in by_name.items()
    }
    sums = {name: np.sum(pairs, axis=0) for name, pairs in pixels.items() if pairs}
    return {name: float(inside / count) for name, (inside, count) in sums.items() if count}


def _before(settings: Settings, run: PublishedRun) -> RunScores:
    model = f"{run.model.name} {run.model.version}"
    return load(_path(settings, run)) or RunScores(run.run_key, run.init, model, ())


def _path(settings: Settings, run: PublishedRun) -> Path:
    return page(settings.paths.verification, run.run_key, run.init)
