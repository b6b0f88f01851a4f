"""What Prefect's pages show of a product: a report of the newest forecast, verification and training, and its lineage.

Each has one key a product, so that Prefect shows its history. Nothing here fails a run.
"""

from __future__ import annotations

import logging
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from flows import digest_verbs, verbs
from flows.console import OUR_NAMES, lead_text, time_text

if TYPE_CHECKING:
    from uuid import UUID

    from flows import model_verbs
    from flows.digest_verbs import Digest
    from models.experiment import Watcher
    from models.training import Progress as TrainingProgress
    from pipeline.metrics import ErrorRow

LONG: Final = 64  # things to do from which on a task shows how far it is
EVERY: Final = 5.0  # seconds between two words on it
AWAY: Final = 600.0  # seconds after words that no server took

Progress = Callable[[int, int], None]


def key(what: str, product: str) -> str:
    """An artifact's key: small letters, digits and dashes.

    >>> key("forecast", "hrv_1km")
    'forecast-hrv-1km'
    """
    return re.sub(r"[^a-z0-9]+", "-", f"{what}-{product}".lower()).strip("-")


def show_forecast(config: Path, run: str) -> None:
    """Shows a published run, and what it came from."""
    with _harmless("a forecast's report") as wanted:
        if not wanted:
            return
        found = digest_verbs.digest(config, run)
        _markdown(
            key("forecast", found.facts.product), forecast_text(found), f"Newest forecast of {found.facts.product}"
        )
        _table(key("lineage", found.facts.product), lineage(found), "Scene, snapshot, run and files of a forecast")


def show_verification(config: Path, done: verbs.Verified) -> None:
    """Shows what published forecasts scored."""
    with _harmless("a verification's report") as wanted:
        if not wanted:
            return
        product = verbs.product_name(config)
        _markdown(key("verification", product), verification_text(product, done), f"Skill of {product}")


def show_training(config: Path, done: verbs.Trained) -> None:
    """Shows what came of a training."""
    with _harmless("a training's report") as wanted:
        if not wanted:
            return
        page = digest_verbs.training_page(config, done.run_id)
        _markdown(key("training", done.model), training_text(done, page), f"Newest training of {done.model}")


def show_retraining(config: Path, done: model_verbs.Retrained) -> None:
    """Shows what came of a challenger, and why."""
    with _harmless("a retraining's report") as wanted:
        if not wanted:
            return
        page = digest_verbs.training_page(config, done.run_id)
        name = key("retraining", done.product)
        _markdown(name, retraining_text(done, page), f"Newest challenger of {done.product}")


def forecast_text(found: Digest) -> str:
    """A forecast's report, Markdown."""
    facts = found.facts
    shown = ", ".join(lead_text(lead) for lead in found.shown)
    model = f"[{facts.model}]({found.model_page})" if found.model_page else facts.model
    rows = [
        ("published", f"{time_text(facts.created)}, {span_text(found.latency)} after its init time"),
        ("model", f"{model} ({facts.source})"),
        *([("because", facts.why)] if facts.why else []),
        ("snapshot", f"`{facts.snapshot}`"),
        ("run", f"`{facts.run_key}`"),
        ("files", f"`{facts.path}`"),
    ]
    lines = [
        f"# {facts.product} {time_text(facts.init)}",
        f"![{facts.bands[0]} at {shown}](data:image/png;base64,{b64encode(found.picture).decode()})",
        f"*{facts.bands[0]} at {shown}; one colour scale*",
        markdown_table(("", ""), rows),
        "## Leads",
        markdown_table(("lead", "valid", "made by", "input age"), list(_lead_rows(found))),
        "## Skill",
        skill_table(found.skill),
        *([f"*Of the newest {digest_verbs.NEWEST} runs of {facts.model}*"] if found.skill else []),
    ]
    return "\n\n".join(lines)


def verification_text(product: str, done: verbs.Verified) -> str:
    """A verification's report, Markdown."""
    lost = f" {len(done.lost)} run(s) can never be scored: the cube that they saw is gone." if done.lost else ""
    alarms = [f"- **{one.kind}** since {time_text(one.since)}: {one.advice}" for one in done.alarms]
    lines = [
        f"# Skill of {product}",
        f"{done.scored} lead(s) scored now, {done.runs} run(s) with scores.{lost}",
        *alarms,
        skill_table(done.table),
    ]
    return "\n\n".join(lines)


def training_text(done: verbs.Trained, page: str) -> str:
    """A training's report, Markdown."""
    name = f"{done.model} {done.version}" if done.version else f"{done.training}, which MLflow does not know yet"
    rows = [
        ("model", f"[{name}]({page})" if page else name),
        ("champion", "yes" if done.champion else "no"),
        ("beats both baselines", "yes" if done.good else "no"),
        ("snapshot", f"`{done.snapshot}`"),
        ("epochs", str(done.epochs)),
        ("skill on validation chips", f"{done.validation_skill:.3f}"),
    ]
    lines = [f"# Training of {done.model}", markdown_table(("", ""), rows), "## Test part", skill_table(done.test)]
    return "\n\n".join(lines)


def retraining_text(done: model_verbs.Retrained, page: str) -> str:
    """A retraining's report, Markdown."""
    name = f"{done.product} {done.version}" if done.version else f"{done.training}, which MLflow does not know yet"
    rows = [
        ("challenger", f"[{name}]({page})" if page else name),
        ("decision", done.decision),
        ("serves now", f"version {done.champion}" if done.champion else "nobody: extrapolation"),
        *([("asked for by", done.why)] if done.why else []),
        ("snapshot", f"`{done.snapshot}`"),
    ]
    reasons = "\n".join(f"- {reason}" for reason in done.reasons)
    lines = [
        f"# Challenger of {done.product}",
        markdown_table(("", ""), rows),
        "## Why",
        reasons or "- nothing was said",
    ]
    return "\n\n".join([*lines, "## Test part", skill_table(done.test)])


def lineage(found: Digest) -> list[dict[str, str]]:
    """A row a scene: the file, the scene, the snapshot of the cube, the run and the folder of its files."""
    facts = found.facts
    then = {"snapshot": facts.snapshot, "run": f"{time_text(facts.init)} {facts.run_key}", "model": facts.model}
    return [{"file": file, "scene": scene, **then, "product": facts.path} for scene, file in found.sources.items()] or [
        {"file": "", "scene": "none", **then, "product": facts.path}
    ]


def skill_table(rows: Sequence[ErrorRow]) -> str:
    """Errors by lead beside the baselines', and coverage."""
    if not rows:
        return "No truth has come yet."
    heads = ("lead", "band", "forecast", "extrapolation", "persistence", "in interval")
    note = "*Mean absolute error; in brackets the forecast's against that one's*"
    return f"{markdown_table(heads, [_skill_row(row) for row in rows])}\n\n{note}"


def span_text(span: timedelta) -> str:
    """A span for people.

    >>> span_text(timedelta(minutes=7, seconds=40)), span_text(timedelta(days=3, hours=4))
    ('8 min', '3 d')
    """
    minutes = round(span / timedelta(minutes=1))
    return f"{minutes} min" if span < timedelta(days=2) else f"{span.days} d"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (heads, *rows)]
    return "\n".join([body[0], "|" + " --- |" * len(heads), *body[1:]])


def progress(what: str, then: Progress) -> Progress:
    """Shows on the run's page how far a long task is, beside telling ``then``.

    Args:
        what: is worked on, for the page.
        then: told as well.
    """
    shown: list[UUID] = []
    due = 0.0

    def step(done: int, total: int) -> None:
        nonlocal due
        then(done, total)
        if total >= LONG and (done == total or time.monotonic() >= due):
            due = time.monotonic() + AWAY  # where it is not shown: a client tries for a minute, and the task waits
            with _harmless("a task's progress") as wanted:
                if wanted:
                    _show_progress(shown, what, 100 * done / total)
                due = time.monotonic() + EVERY

    return step


def training_progress(watcher: Watcher) -> Watcher:
    """The same watcher, which also shows on the run's page how far a training is."""
    told = watcher.step
    counted = progress("training steps", lambda done, total: None)

    def step(at: TrainingProgress) -> None:
        if told is not None:
            told(at)
        counted((at.epoch - 1) * at.steps + at.step, at.epochs * at.steps)

    return replace(watcher, step=step)


def _show_progress(shown: list[UUID], what: str, percent: float) -> None:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    if shown:
        update_progress_artifact(shown[0], percent)
    else:
        shown.append(cast("UUID", create_progress_artifact(percent, description=what)))


def _lead_rows(found: Digest) -> Iterator[tuple[str, ...]]:
    from pipeline.shares import shares_text

    for lead in found.facts.leads:
        age = "-" if lead.oldest is None else f"{lead.middle} min, at most {lead.oldest}"
        yield lead_text(lead.minutes), time_text(lead.valid_time), shares_text(lead.rungs), age


def _skill_row(row: ErrorRow) -> tuple[str, ...]:
    ours = next(row.mae[name] for name in OUR_NAMES if name in row.mae)
    held = next((row.coverage[name] for name in OUR_NAMES if name in row.coverage), None)
    unit = "" if row.unit == "1" else f" {row.unit}"
    against = [_against(ours, row.mae.get(name)) for name in ("extrapolation", "persistence")]
    inside = "-" if held is None else f"{held:.0%}"
    return lead_text(row.lead_minutes), row.band, f"{ours:.4g}{unit}", *against, inside


def _against(ours: float, theirs: float | None) -> str:
    if theirs is None:
        return "-"
    return f"{theirs:.4g} ({round(100 * (ours / theirs - 1)):+d} %)" if theirs else f"{theirs:.4g}"


def _markdown(name: str, text: str, description: str) -> None:
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(text, key=name, description=description)


def _table(name: str, rows: list[dict[str, str]], description: str) -> None:
    from prefect.artifacts import create_table_artifact

    create_table_artifact(rows, key=name, description=description)


@contextmanager
def _harmless(what: str) -> Iterator[bool]:
    """Whether there is a run whose page can show something; faults are told."""
    from prefect.context import FlowRunContext, TaskRunContext

    try:
        yield FlowRunContext.get() is not None or TaskRunContext.get() is not None
    except Exception as error:  # noqa: BLE001 - a page is no reason to lose a forecast
        logging.getLogger("cubecast.artifacts").warning("%s is not shown: %s: %s", what, type(error).__name__, error)
