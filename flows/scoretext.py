"""What the command line says of the scores of published forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.console import lead_text, out, table

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.scoretable import ScoreRow

OURS = "forecast"


def scores(rows: Sequence[ScoreRow]) -> None:
    """Prints what the published forecasts scored, then each event; the references' own scores are in the JSON."""
    ours = [row for row in rows if row.predictor == OURS]
    if ours:
        out().print(score_table(ours))
    if any(row.events for row in ours):
        out().print(event_table(ours))
    if any(row.chances for row in ours):
        out().print(chance_table(ours))


def score_table(rows: Sequence[ScoreRow]) -> Table:
    """One line a lead and band; columns of what nobody knows are left out."""
    references = list(dict.fromkeys(name for row in rows for name in row.skill))
    columns = {
        "bias": [_text(row.bias) for row in rows],
        "correlation": [_text(row.correlation) for row in rows],
        "SSIM": [_text(row.ssim) for row in rows],
        "PSNR": [_text(row.psnr) for row in rows],
        "CRPS": [_text(row.crps) for row in rows],
        "jumpiness": [_text(row.jumpiness) for row in rows],
        "flip-flop": [_text(row.flip_flop) for row in rows],
    }
    for name in references:
        columns[f"skill, {name}"] = [_text(row.skill[name].mae if name in row.skill else None) for row in rows]
    return _table(rows, {name: cells for name, cells in columns.items() if set(cells) != {"-"}})


def event_table(rows: Sequence[ScoreRow]) -> Table:
    """One line a lead, band and event."""
    pairs = [(row, event) for row in rows for event in row.events]
    scales = list(dict.fromkeys(scale for _, event in pairs for scale in event.fss))
    columns = {
        "event": [f"{'<' if event.below else '≥'} {event.threshold:g}" for _, event in pairs],
        "CSI": [_text(event.csi) for _, event in pairs],
        "POD": [_text(event.pod) for _, event in pairs],
        "FAR": [_text(event.far) for _, event in pairs],
    }
    columns |= {f"FSS {scale} px": [_text(event.fss.get(scale)) for _, event in pairs] for scale in scales}
    return _table([row for row, _ in pairs], columns)


def chance_table(rows: Sequence[ScoreRow]) -> Table:
    """One line a lead, band and event whose probability was forecast; reliability is in the JSON."""
    pairs = [(row, chance) for row in rows for chance in row.chances]
    columns = {
        "probability of": [f"{'<' if chance.below else '≥'} {chance.threshold:g}" for _, chance in pairs],
        "Brier": [_text(chance.brier) for _, chance in pairs],
        "skill, frequency": [_text(chance.skill) for _, chance in pairs],
        "frequency": [_text(chance.frequency) for _, chance in pairs],
    }
    return _table([row for row, _ in pairs], columns)


def _table(rows: Sequence[ScoreRow], columns: dict[str, list[str]]) -> Table:
    several = len({row.band for row in rows}) > 1
    leads = {"lead": [lead_text(row.lead_minutes) for row in rows]}
    bands = {"band": [row.band for row in rows]} if several else {}
    whole = leads | bands | columns
    return table(list(whole), list(zip(*whole.values(), strict=True)))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
