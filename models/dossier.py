"""A ruling to look at: a table for people, numbers for programs, a figure by lead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.contest import CHALLENGER, CHAMPION, Held
from models.gate import Entrant, Ruling

FOLDER = "promotion"
"""Of the artifacts of the challenger's run."""

_OURS, _ZERO, _BASELINE = "#1b6ca8", "#555555", "#a12a1e"


def write_dossier(held: Held, ruling: Ruling, names: tuple[str, str | None], folder: Path) -> list[Path]:
    """Writes ``evidence.json``, ``evidence.md`` and ``evidence.png``; returns their paths.

    Args:
        held: the contest.
        ruling: what the gate says of it.
        names: versions of challenger and champion.
        folder: where to; it exists.
    """
    numbers, text, picture = (folder / f"evidence.{suffix}" for suffix in ("json", "md", "png"))
    numbers.write_text(json.dumps(facts(held, ruling, names), indent=1) + "\n", encoding="utf-8")
    text.write_text(_text(held, ruling, names), encoding="utf-8")
    FigureCanvasAgg(_figure(ruling, names)).print_png(picture, metadata={"Software": None})
    return [numbers, text, picture]


def facts(held: Held, ruling: Ruling, names: tuple[str, str | None]) -> dict[str, Any]:
    """All that was found, as JSON holds it."""
    trial = held.trial
    return {
        "challenger": names[0],
        "champion": names[1],
        "snapshot": held.snapshot,
        "first_init": held.first,
        "last_init": held.last,
        "block_slots": trial.block,
        "inits": trial.slots.tolist(),
        "cost": {one.name: _number(one.cost) for one in _entrants(held)},
        "promised": _number(trial.promised),
        "coverage": None if trial.coverage is None else _numbers(trial.coverage),
        "squared": {one.name: one.squared.tolist() for one in _entrants(held)},
        "ruling": ruling.to_json(),
    }


def _entrants(held: Held) -> Sequence[Entrant]:
    trial = held.trial
    return [trial.challenger, *([] if trial.champion is None else [trial.champion]), *trial.baselines]


def _text(held: Held, ruling: Ruling, names: tuple[str, str | None]) -> str:
    own, other = names
    rival = f"version {other}" if other else f"the best baseline, {ruling.rival}"
    lines = [
        f"# Version {own} against {rival}: {ruling.decision.value}",
        "",
        f"{len(held.trial.slots)} init times from {held.first} to {held.last}, snapshot `{held.snapshot}`.",
        "",
        "| condition | met | why |",
        "|---|---|---|",
        *(f"| {one.name} | {'yes' if one.met else '**no**'} | {one.reason} |" for one in ruling.conditions),
        "",
        *_errors(held, ruling),
    ]
    return "\n".join(lines) + "\n"


def _errors(held: Held, ruling: Ruling) -> list[str]:
    known = [name for name in (CHALLENGER, CHAMPION, "persistence", "extrapolation") if name in held.rows[0].rmse]
    named = [f"RMSE {name}" for name in known]
    relative = dict(zip(ruling.minutes, ruling.leads, strict=True))
    head = ["lead", "band", *named, f"against {ruling.rival}", "interval"]
    rows = []
    for row in held.rows:
        found = relative[row.lead_minutes]
        cells = [f"{row.lead_minutes} min", f"{row.band} ({row.unit})", *(f"{row.rmse[name]:.4g}" for name in known)]
        rows.append([*cells, f"{found.estimate:+.1%}", f"{found.low:+.1%} to {found.high:+.1%}"])
    return ["| " + " | ".join(one) + " |" for one in (head, ["---"] * len(head), *rows)]


def _figure(ruling: Ruling, names: tuple[str, str | None]) -> Figure:
    """Error relative to the rival's by lead, with intervals; below the line is better."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    low, middle, high = (
        100 * np.array([getattr(one, end) for one in ruling.leads]) for end in ("low", "estimate", "high")
    )
    axes.axhline(0, color=_ZERO, linewidth=1)
    axes.fill_between(ruling.minutes, low, high, color=_OURS, alpha=0.2, linewidth=0)
    axes.plot(ruling.minutes, middle, color=_OURS, marker="o", markersize=3)
    best = 100 * ruling.overall.estimate
    axes.axhline(best, color=_OURS, linewidth=1, linestyle=":")
    rival = f"version {names[1]}" if names[1] else ruling.rival
    axes.set_title(f"Version {names[0]} against {rival}: {ruling.decision.value}", loc="left")
    axes.set_xlabel("lead time, minutes")
    axes.set_ylabel("RMSE relative to the rival's, %")
    axes.annotate("better below the line", (0.01, 0.02), xycoords="axes fraction", color=_BASELINE, fontsize=8)
    return figure


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[Any]:
    return [[_number(float(one)) for one in row] for row in values]
