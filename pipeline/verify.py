"""Arrived truth against published forecasts: each lead of each run scored once, beside the baselines it must beat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import durable
from pipeline.catalog import PublishedRun, runs
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube
from pipeline.forecast import baselines, forecast_bands
from pipeline.metrics import ErrorSums
from pipeline.predictor import Context
from pipeline.samples import Sample, read_context
from pipeline.store import CubeStore
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
        absolute: sum of absolute errors, in the unit of the band.
        squared: sum of squared errors.
    """

    lead_minutes: int
    band: str
    predictor: str
    pixels: int
    absolute: float
    squared: float


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
class Row:
    """Mean errors at one lead and band over runs, by predictor."""

    lead_minutes: int
    band: str
    runs: int
    mae: dict[str, float]
    rmse: dict[str, float]

    def skill(self, baseline: str) -> float:
        """Part of the baseline's mean absolute error that the forecast takes away."""
        return 1 - self.mae[FORECAST] / self.mae[baseline] if self.mae[baseline] else float("nan")


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification did.

    Attributes:
        scored: leads of runs scored now.
        runs: every run with at least one score.
    """

    scored: int
    runs: tuple[RunScores, ...]

    def table(self) -> list[Row]:
        """Errors by lead and band, pooled over all runs."""
        return tabulate(self.runs)


def verify(settings: Settings, *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Scores every published lead whose truth is in the cube and that has no score yet.

    Raises:
        StoreError: there is no cube.
    """
    cube = open_cube(CubeStore(settings.paths.cube))
    published = list(runs(settings.paths.forecasts, settings.product.name))
    known: list[RunScores] = []
    scored = 0
    for done, run in enumerate(published, start=1):
        before = _load(_path(settings, run), run)
        after = _score_run(settings, cube, run, before)
        if after is not before:
            scored += len(after.scored_leads() - before.scored_leads())
            _save(_path(settings, run), after)
        known.append(after)
        if progress is not None:
            progress(done, len(published))
    return Report(scored, tuple(run for run in known if run.scores))


def tabulate(scored: Iterable[RunScores]) -> list[Row]:
    """Errors by lead and band, every pixel counting alike, over runs."""
    pooled: dict[tuple[int, str], dict[str, list[Score]]] = {}
    for run in scored:
        for score in run.scores:
            by_name = pooled.setdefault((score.lead_minutes, score.band), {})
            by_name.setdefault(score.predictor, []).append(score)
    return [_row(lead, band, by_name) for (lead, band), by_name in sorted(pooled.items())]


def _row(lead: int, band: str, by_name: dict[str, list[Score]]) -> Row:
    def mean(name: str, part: str) -> float:
        pixels = sum(score.pixels for score in by_name[name])
        return sum(getattr(score, part) for score in by_name[name]) / pixels if pixels else float("nan")

    mae = {name: mean(name, "absolute") for name in by_name}
    rmse = {name: mean(name, "squared") ** 0.5 for name in by_name}
    return Row(lead, band, len(by_name[FORECAST]), mae, rmse)


def _score_run(settings: Settings, cube: Cube, run: PublishedRun, before: RunScores) -> RunScores:
    axis = cube.layout.axis
    observed = set(cube.observed().tolist())
    due = {lead: axis.slot(run.init + lead * _MINUTE) for lead in run.leads if lead not in before.scored_leads()}
    due = {lead: slot for lead, slot in due.items() if slot in observed}
    if not due:
        return before
    context = _inputs(settings, run)
    horizon = max(due.values()) - axis.slot(run.init)
    said = {name: p.predict(context, horizon) for name, p in baselines(settings).items()}
    scores: list[Score] = list(before.scores)
    for lead, slot in due.items():
        step = slot - axis.slot(run.init) - 1
        fields = {name: forecast.values[0, step, 0] for name, forecast in said.items()}
        fields[FORECAST] = run.read(lead)[0]
        truth = cube.read([slot]).values[0][..., list(forecast_bands(settings))]
        scores += _score_lead(lead, fields, truth, context, settings)
    return RunScores(run.run_key, run.init, f"{run.model.name} {run.model.version}", tuple(scores))


def _inputs(settings: Settings, run: PublishedRun) -> Context:
    """The very frames that the run saw, from its snapshot."""
    cube = open_cube(CubeStore(settings.paths.cube), snapshot=run.snapshot)
    used = set(run.scenes)
    slots = sorted({row.slot for row in cube.rows if row.scene.id in used and not row.superseded})
    situation = Sample(cube.layout.axis.slot(run.init), tuple(slots[-settings.samples.context_frames :]), ())
    return read_context(cube, situation, settings.samples)


def _score_lead(
    lead: int, fields: dict[str, NDArray], truth: NDArray, context: Context, settings: Settings
) -> list[Score]:
    bands = forecast_bands(settings)
    common = np.isfinite(truth) & context.validity[0, -1][..., list(bands)]
    for field in fields.values():
        common &= np.isfinite(field)
    met = np.where(common, truth, np.nan)[np.newaxis]
    scores: list[Score] = []
    for name, field in fields.items():
        sums = ErrorSums.of(field[np.newaxis], met)
        for index, band in enumerate(bands):
            pixels, absolute, squared = (part[0, index].item() for part in (sums.count, sums.absolute, sums.squared))
            scores.append(Score(lead, settings.bands[band].name, name, int(pixels), absolute, squared))
    return scores


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


def mean_errors(rows: Sequence[Row], predictor: str) -> float:
    """Mean over leads and bands of a predictor's mean absolute error."""
    return float(np.mean([row.mae[predictor] for row in rows])) if rows else float("nan")
