"""What is to be known of a model version before it is used: a page in Markdown, from what its training knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from models.appraisal import MODEL
from models.material import Plan
from models.prediction import Card
from pipeline.config import Settings
from pipeline.metrics import ErrorRow
from pipeline.predictor import MEAN, MEDIAN
from pipeline.samples import Sample
from pipeline.significance import LEAST_BLOCKS, independent_blocks
from pipeline.skill import Skill
from pipeline.skilltext import worth

FILE: Final = "model-card.md"
NOT_KNOWN: Final = "not known"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a training knows at its end.

    Attributes:
        settings: the product.
        training: its id.
        plan: which part of the cube was for what.
        card: what the weights mean.
        rows: errors over the test part; empty where no test sample is complete.
        skills: mean part of each baseline's squared error that the model takes away.
        validation_skill: the same on the validation chips.
        parameters: numbers that were learned.
        good: whether it beats the baselines.
        tests: init times that were scored.
    """

    settings: Settings
    training: str
    plan: Plan
    card: Card
    rows: tuple[ErrorRow, ...]
    skills: Mapping[str, float]
    validation_skill: float
    parameters: int
    good: bool
    tests: tuple[Sample, ...]


def model_card(facts: Facts) -> str:
    """The page."""
    parts = {
        "": _head(facts),
        "Data": _data(facts),
        "Splits": _splits(facts),
        "Leak audit": _leaks(facts),
        "Scores": _scores(facts),
        "Calibration": _calibration(facts),
        "Share of each part": _shares(facts),
        "Limits": _limits(facts),
        "How to reproduce": _ways(facts),
    }
    sections = ["\n".join([f"## {title}\n", *lines] if title else [*lines]) for title, lines in parts.items()]
    return "\n\n".join(sections) + "\n"


def _head(facts: Facts) -> Iterator[str]:
    product, network = facts.settings.product, facts.card.network
    yield f"# Model card: {product.title or product.name}"
    yield ""
    verdict = "beats both baselines" if facts.good else "does **not** beat both baselines"
    yield (
        f"Network `{network.kind}` of the product `{product.name}`, {facts.parameters:,} parameters, made by the "
        f"training `{facts.training}` with cubecast {version('cubecast')}. It {verdict}. Which version it is in the "
        "registry, and whether it serves, the registry says: `cubecast models list`."
    )


def _data(facts: Facts) -> Iterator[str]:
    settings, cube = facts.settings, facts.plan.cube
    observed = cube.observed().tolist()
    first, last = (_time(facts, slot) for slot in (observed[0], observed[-1]))
    yield f"- snapshot `{cube.snapshot}` of the cube, tagged `training-{facts.training}`"
    yield f"- {len(observed)} scenes, {first} to {last}, a slot every {settings.axis.cadence}"
    bands = ", ".join(f"{band.name} ({band.units}{'' if band.forecast else ', input only'})" for band in settings.bands)
    yield f"- bands: {bands}"
    grid = settings.grid
    yield f"- grid: {grid.width} x {grid.height} px of {facts.card.pixel:.4g} m, {grid.crs[:40]}"
    yield f"- licence: {settings.product.licence}{_credit(settings.product.attribution)}"


def _credit(text: str) -> str:
    return f"; {text}" if text else ""


def _splits(facts: Facts) -> Iterator[str]:
    parts = facts.plan.split
    yield "| part | init times | first | last target | area |"
    yield "|---|---:|---|---|---|"
    areas = (parts.training_area, parts.validation_area, None)
    named = ("training", "validation", "test")
    for name, samples, area in zip(named, (parts.training, parts.validation, parts.test), areas, strict=True):
        place = "whole grid" if area is None else f"rows {area.y0}-{area.y1}, columns {area.x0}-{area.x1}"
        yield f"| {name} | {len(samples)} | {_ends(facts, samples)} | {place} |"
    yield ""
    how = "in time" if parts.validation_start is not None else "in time for the test part, in space for validation"
    yield f"Split {how}; {facts.settings.samples.embargo} observed slot(s) are left out before each later part."


def _ends(facts: Facts, samples: Sequence[Sample]) -> str:
    if not samples:
        return "- | -"
    return f"{_time(facts, samples[0].init)} | {_time(facts, max(one.targets[-1] for one in samples))}"


def _leaks(facts: Facts) -> Iterator[str]:
    found = facts.plan.leaks
    yield f"{'Sound' if found.sound else '**Leaking**'}: of every pair of parts, pixel-times seen too early:"
    yield ""
    for pair in found.pairs:
        yield f"- targets of {pair.targets_of} seen by {pair.seen_by} as {pair.way}: {pair.pixel_times}"
    yield "- the whole report: `split/leak-audit.json` of the MLflow run"


def _scores(facts: Facts) -> Iterator[str]:
    yield f"Validation chips: {facts.validation_skill:+.1%} of the squared error of extrapolation taken away."
    if not facts.rows:
        yield ""
        yield "No test init time has all its truth: nothing is known of whole forecasts."
        return
    mean = ", ".join(f"{value:+.1%} of {name}'s" for name, value in facts.skills.items())
    yield f"Test part, {len(facts.tests)} init times, mean over leads of the squared error taken away: {mean}."
    yield ""
    names = list(facts.rows[0].mae)
    yield _row(["lead", "band", *(f"MAE {name}" for name in names), *(f"RMSE {name}" for name in names)])
    yield _row(["---"] * (2 + 2 * len(names)))
    for row in facts.rows:
        numbers = [f"{part[name]:.4g}" for part in (row.mae, row.rmse) for name in names]
        yield _row([f"{row.lead_minutes} min", f"{row.band} ({row.unit})", *numbers])


def _calibration(facts: Facts) -> Iterator[str]:
    proof = None if facts.card.assurance is None else facts.card.assurance.proof
    if proof is None:
        yield "The network gives no intervals, or nobody looked at them."
        return
    promised = proof.levels[-1] - proof.levels[0]
    yield f"Intervals promise to hold {promised:.0%} of the truths. Validation, judged {proof.judged}, and test:"
    yield ""
    yield _row(["lead", "band", "validation", "test"])
    yield _row(["---"] * 4)
    test = {(row.lead_minutes, row.band): row.coverage.get(MODEL) for row in facts.rows}
    for lead, band, held in _cells(facts, proof.coverage):
        later = test.get((lead, band))
        yield _row([f"{lead} min", band, _percent(held), NOT_KNOWN if later is None else _percent(later)])
    yield ""
    yield "Validation counts truths at the floor of a band by randomised PIT, test by the closed interval."


def _shares(facts: Facts) -> Iterator[str]:
    assurance = facts.card.assurance
    if assurance is None:
        yield "How far extrapolation is mixed in is not known: nobody looked."
    else:
        yield "Of each forecast, the network's share beside extrapolation (the guard, learned on validation):"
        yield ""
        yield _row(["lead", "band", "mean", "median"])
        yield _row(["---"] * 4)
        mean, median = (assurance.guard.weight(name) for name in (MEAN, MEDIAN))
        medians = {(lead, band): share for lead, band, share in _cells(facts, median)}
        for lead, band, share in _cells(facts, mean):
            yield _row([f"{lead} min", band, f"{share:.0%}", f"{medians[lead, band]:.0%}"])
    yield ""
    yield from _studied(facts)


def _studied(facts: Facts) -> Iterator[str]:
    """What earlier studies of the same network found its parts to be worth."""
    found = _study(facts.settings)
    if found is None:
        yield (
            "What each part of the network (attention, recurrence, first guess) earns is **not known** for this "
            "network: `cubecast study skill` trains it without each and measures that."
        )
        return
    snapshot = found.specification["snapshot"]
    yield f"What each part is worth, by the study `{found.key}` of such a network, snapshot `{snapshot}`:"
    yield ""
    yield from worth(found)


def _study(settings: Settings) -> Skill | None:
    """The newest study of a network with these settings."""
    asked = settings.model_dump(mode="json", include={"training"}, exclude={"training": {"seed", "warm_start"}})
    paths = sorted(settings.paths.root.glob("study/*/results.json"), key=lambda one: one.stat().st_mtime, reverse=True)
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = Skill.from_json(json.loads(path.read_text(encoding="utf-8")))
            then = found.specification["settings"]["training"]
            if {key: then.get(key) for key in asked["training"]} == asked["training"]:
                return found
    return None


def _limits(facts: Facts) -> Iterator[str]:
    settings, network = facts.settings, facts.card.network
    horizon = network.horizon * settings.axis.cadence
    yield f"- forecasts {network.horizon} slots ahead ({horizon}), from {network.context_frames} frames, no further"
    yield f"- learned at one pixel size, {facts.card.pixel:.4g} m, and one cadence, {settings.axis.cadence}"
    yield f"- has seen the weather, and the season, of {_seen(facts)}; of others nothing is known"
    blocks = independent_blocks([one.init for one in facts.tests], network.horizon)
    few = "" if blocks >= LEAST_BLOCKS else f": under {LEAST_BLOCKS}, too few to conclude anything from a few per cent"
    yield f"- the test init times fill {blocks} independent blocks as long as the horizon{few}"
    worse = [name for name, value in facts.skills.items() if not value > 0]
    if worse:
        yield f"- it is no better than {', '.join(worse)} over the test part"
    if not facts.rows:
        yield "- not scored on whole forecasts"
    if not network.levels:
        yield "- gives no intervals"


def _seen(facts: Facts) -> str:
    training = facts.plan.split.training
    return f"{_time(facts, training[0].slots[0])} to {_time(facts, max(training[-1].slots))}"


def _ways(facts: Facts) -> Iterator[str]:
    settings, snapshot = facts.settings, facts.plan.cube.snapshot
    yield f"- cubecast {version('cubecast')}, cube snapshot `{snapshot}` (tag `training-{facts.training}`)"
    yield f"- seed {settings.training.seed}, warm start: {settings.training.warm_start}"
    yield "- a training with these settings on that snapshot ends with the same weights, on the same kind of machine:"
    yield ""
    yield "```json"
    parts = settings.model_dump(mode="json", include={"samples", "training", "motion", "covariates"})
    yield json.dumps(parts, indent=1, default=str).replace(str(settings.workspace), "WORKSPACE")
    yield "```"


def _cells(facts: Facts, values: np.ndarray) -> Iterable[tuple[int, str, float]]:
    """Lead in minutes, band, value, of an array ``(lead, band)``."""
    cadence = facts.settings.axis.cadence
    bands = [facts.settings.bands[at].name for at in facts.card.network.bands_out]
    for lead, row in enumerate(values, start=1):
        for band, value in zip(bands, row, strict=True):
            yield int(lead * cadence / timedelta(minutes=1)), band, float(value)


def _time(facts: Facts, slot: int) -> str:
    return f"{facts.plan.cube.layout.axis.valid_time(slot):%Y-%m-%d %H:%M}Z"


def _percent(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else NOT_KNOWN


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_card(facts: Facts, folder: Path) -> Path:
    """Writes the page; returns its path."""
    path = folder / FILE
    path.write_text(model_card(facts), encoding="utf-8")
    return path
