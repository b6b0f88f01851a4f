"""Arrived truth against published forecasts: each lead of each run scored once, beside the baselines it must beat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from pipeline import durable
from pipeline.catalog import PublishedRun, runs
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.errors import StoreError
from pipeline.evaluation import Answer, errors
from pipeline.forecast import baselines, outlet
from pipeline.metrics import ErrorRow, ErrorSums
from pipeline.predictor import Context
from pipeline.samples import Sample, read_context
from pipeline.specs import BandSpec
from pipeline.times import parse_time, stamp

FORECAST = "forecast"  # the published one; the other names are those of the baselines
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Score:
    """Error sums of one predictor at one lead and band of one run; they add up over runs.

    Attributes:
        lead_minutes: lead time.
        band: name.
        predictor: ``forecast``, or a baseline.
        pixels: how many counted: truth, newest input and all predictors valid there.
        absolute: sum of absolute errors of the median, or of the mean where there is none, in the unit of the band.
        squared: sum of squared errors of the mean.
        covered: how many of the pixels lie within the interval of :data:`pipeline.evaluation.INTERVAL`; None where the
            predictor gives none.
    """

    lead_minutes: int
    band: str
    predictor: str
    pixels: int
    absolute: float
    squared: float
    covered: int | None = None


@dataclass(frozen=True, slots=True)
class RunScores:
    """What is known of one run's skill so far."""

    run_key: str
    init: datetime
    model: str
    scores: tuple[Score, ...]

    def scored_leads(self) -> set[int]:
        """Lead times, in minutes, whose truth has been met."""
        return {score.lead_minutes for score in self.scores}


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
    path = _path(settings, run)
    before = _load(path, run)
    due = _due(cube, run, before)
    if not due:
        return Checked(before)
    seen = _cube_of(settings, run)
    if seen is None:
        return Checked(before, lost=True)
    after = replace(before, scores=(*before.scores, *_score(settings, cube, run, due, seen)))
    _save(path, after)
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
    context = _inputs(settings, run, seen)
    said = {name: p.predict(context, max(due.values()) - init) for name, p in baselines(settings, bands).items()}
    scores: list[Score] = []
    for lead, slot in due.items():
        ahead = slot - init
        answers = {name: Answer.of(one.values[0, ahead - 1 : ahead], one.quantities) for name, one in said.items()}
        answers[FORECAST] = Answer.of(run.read(lead)[np.newaxis], run.quantities)
        truth = cube.read([slot]).values[..., list(bands)]
        found = errors(answers, truth, context.validity[0, -1][..., list(bands)])
        scores += [one for name, sums in found.items() for one in _scores(lead, name, run.bands, sums)]
    return scores


def _inputs(settings: Settings, run: PublishedRun, seen: Cube) -> Context:
    """The very frames that the run saw."""
    used = set(run.scenes)
    slots = sorted({row.slot for row in seen.rows if row.scene.id in used and not row.superseded})
    spec = settings.samples.model_copy(update={"context_frames": len(slots)})
    return read_context(seen, Sample(seen.layout.axis.slot(run.init), tuple(slots), ()), spec)


def _scores(lead: int, name: str, bands: tuple[str, ...], sums: ErrorSums) -> Iterator[Score]:
    for index, band in enumerate(bands):
        pixels, absolute, squared = (part[0, index].item() for part in (sums.count, sums.absolute, sums.squared))
        covered = None if sums.covered is None else int(sums.covered[0, index])
        yield Score(lead, band, name, int(pixels), absolute, squared, covered)


def _path(settings: Settings, run: PublishedRun) -> Path:
    return settings.paths.verification / f"{stamp(run.init)}-{run.run_key}.json"


def _load(path: Path, run: PublishedRun) -> RunScores:
    if not path.is_file():
        return RunScores(run.run_key, run.init, f"{run.model.name} {run.model.version}", ())
    document = json.loads(path.read_text(encoding="utf-8"))
    scores = tuple(Score(**score) for score in document["scores"])
    return RunScores(document["run_key"], parse_time(document["init"]), document["model"], scores)


def _save(path: Path, scores: RunScores) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = asdict(scores) | {"init": scores.init.isoformat()}
    durable.replace_text(path, json.dumps(document, indent=1) + "\n")
