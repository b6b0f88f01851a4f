"""``cubecast study``: what the product's forecasts are worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.command import STYLE, ConfigOption, DebugOption, JsonOption, errors

app = typer.Typer(name="study", help="Find out what the forecasts are worth, and which part earned it.", **STYLE)


@app.command()
def skill(  # noqa: PLR0913 - options, by keyword only
    config: ConfigOption,
    *,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each network.")] = 3,
    inits: Annotated[int, typer.Option("--inits", min=0, help="Test init times, spread evenly; 0: 24.")] = 0,
    parts: Annotated[
        str, typer.Option("--parts", help="Networks to train, comma between; default: all, each without a part.")
    ] = "",
    thresholds: Annotated[
        str, typer.Option("--thresholds", help="Of events, comma between, in the bands' unit; default: quantiles.")
    ] = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare network, parts, baselines and pysteps on the same init times; stopped, the same command goes on."""
    from flows import console, study_verbs

    with errors(debug=debug):
        limits = tuple(_number(one) for one in _list(thresholds))
        asked = study_verbs.Asked(seeds, inits, tuple(_list(parts)), limits)
        with console.progress_bar("scoring init times") as progress:
            done = study_verbs.skill(config, asked, phase=_say(json=json), progress=progress)
        if json:
            console.as_json(done)
            return
        console.out().print(done.text, markup=False)
        console.out().print(f"report {done.report}", markup=False)
        if done.note:
            console.warn(done.note)


@app.command()
def hindcast(
    config: ConfigOption,
    *,
    inits: Annotated[int, typer.Option("--inits", min=1, help="Test init times, spread evenly.")] = 5,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", help="Folder of everything, instead of the configured one.")
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Ingest, train, and publish a forecast for each of some init times that the training never saw."""
    from flows import console, study_verbs

    with errors(debug=debug):
        with console.progress_bar("publishing runs") as progress:
            done = study_verbs.hindcast(config, inits, workspace=workspace, phase=_say(json=json), progress=progress)
        if json:
            console.as_json(done)
            return
        console.out().print(f"{len(done.runs)} run(s) by {done.model} in {done.workspace}", markup=False)
        if not done.good:
            console.warn("the trained network does not beat both baselines, so it did not become champion")


def _say(*, json: bool) -> Callable[[str], None]:
    from flows import console

    return (lambda _: None) if json else (lambda text: console.err().print(text, markup=False))


def _list(text: str) -> list[str]:
    """What stands between commas.

    >>> _list("attention, convlstm,"), _list("")
    (['attention', 'convlstm'], [])
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--thresholds are numbers, comma between, found {text!r}") from None
