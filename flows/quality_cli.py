"""``cubecast quality``: what the published forecasts are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import STYLE, ConfigOption, DebugOption, JsonOption, errors

if TYPE_CHECKING:
    from pipeline.alarms import Alarm
    from pipeline.qualityreport import Quality, Row, Spread

app = typer.Typer(**STYLE)


@app.command()
def quality(
    config: ConfigOption,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page too: one file that opens without a server.")
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what the forecasts of the last 30 days are worth: skill, coverage, rungs, latency, alarms."""
    from flows import console, quality_verbs

    with errors(debug=debug):
        found = quality_verbs.quality(config, page=html)
        if json:
            console.as_json(found)
        else:
            _print(found)
        if html is not None:
            console.err().print(f"wrote {html}", markup=False)


def _print(found: Quality) -> None:
    from flows import console

    out = console.out()
    if not found.leads:
        out.print("no run has met its truth yet: cubecast verify scores those that have")
        return
    out.print(console.facts_table(_facts(found)))
    out.print(_table("lead", [(console.lead_text(int(row.name)), row) for row in found.leads], found))
    out.print(_table("rung", [(row.name, row) for row in found.rungs], found))
    out.print(_table("region", [(row.name, row) for row in found.regions], found))
    for one in found.alarms:
        for line in _alarm(one):
            out.print(line, markup=False)
    if not found.alarms:
        out.print("no alarm")


def _facts(found: Quality) -> dict[str, str]:
    from flows import console

    assert found.first is not None
    assert found.last is not None
    latency = found.latency
    late = f"; {latency.late} hindcast(s) without" if latency.late else ""
    return {
        "runs": f"{found.runs}, init {console.time_text(found.first)} to {console.time_text(found.last)}",
        "model": found.models[-1].model if found.models else "-",
        "acquisition to publication": _spread(latency.acquisition) + late,
        "availability to publication": _spread(latency.availability),
        "age of the inputs": _spread(found.ages),
    }


def _table(what: str, named: list[tuple[str, Row]], found: Quality) -> object:
    from flows import console

    several = len(found.units) > 1
    references = list(dict.fromkeys(name for _, row in named for name in row.skill))
    columns = (what, *(("band",) if several else ()), "runs", "error", *(f"skill, {name}" for name in references))
    rows = [
        (
            name,
            *((row.band,) if several else ()),
            str(row.runs),
            _error(row, found.units.get(row.band, "1")),
            *(_share(row.skill.get(reference)) for reference in references),
            f"{_share(row.held)} of {_share(row.promised)}" if row.held is not None else "-",
        )
        for name, row in named
    ]
    return console.table((*columns, "in interval"), rows)


def _alarm(one: Alarm) -> tuple[str, ...]:
    from flows import console

    evidence = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in one.evidence.items())
    what = f"ALARM {one.kind} ({one.measure}) of {one.model}, since {console.time_text(one.since)}: {evidence}"
    return what, f"  to do: {one.advice}"


def _error(row: Row, unit: str) -> str:
    return "-" if row.mae is None else f"{row.mae:.3g}{'' if unit == '1' else f' {unit}'}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _spread(spread: Spread) -> str:
    if spread.p50 is None or spread.p95 is None:
        return "not known"
    return f"p50 {spread.p50:.3g} min, p95 {spread.p95:.3g} min, {spread.runs} run(s)"
