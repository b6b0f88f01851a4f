"""``cubecast tracking``: what MLflow knows of the trainings, and telling it the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows.command import STYLE, USER_FAULT, ConfigOption, DebugOption, JsonOption, errors

if TYPE_CHECKING:
    from flows.tracking_verbs import Sent, Tracked

app = typer.Typer(name="tracking", help="See what MLflow knows of the trainings; tell it the rest.", **STYLE)


@app.command()
def status(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the trainings: how each is, and what of it MLflow does not know."""
    from flows import console, tracking_verbs

    with errors(debug=debug):
        found = tracking_verbs.status(config)
        if json:
            console.as_json({"trainings": found})
            return
        rows = [(one.id, console.time_text(one.started), _state(one), _known(one), one.model) for one in found]
        columns = ("training", "started", "state", "MLflow", "model")
        console.print_list(columns, rows, "no trainings yet: cubecast train")


@app.command()
def sync(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Tell MLflow what it missed, and register the models that wait; exit code 1 where it does not take something."""
    from flows import console, tracking_verbs

    with errors(debug=debug):
        done = tracking_verbs.sync(config)
        if json:
            console.as_json(done)
        else:
            for one in done.sent:
                console.out().print(_sent(one), markup=False)
            if not done.sent:
                console.out().print("MLflow knows everything")
        for one in done.sent:
            if one.fault and not json:
                console.warn(one.fault)
        if any(one.fault for one in done.sent):
            raise typer.Exit(USER_FAULT)


def _state(one: Tracked) -> str:
    parts = [one.state] if one.state == "finished" else [one.state, f"after {one.epochs} epoch(s)"]
    return " ".join(parts) + (f": {one.note.partition(': ')[0]}" if one.note else "")


def _known(one: Tracked) -> str:
    return f"{one.waiting} waiting: tracking sync" if one.waiting else "delivered"


def _sent(one: Sent) -> str:
    model = f"; model {one.model}{', now the champion' if one.champion else ''}" if one.model else ""
    return f"{one.id}: {one.entries} entries delivered to run {one.run_id}{model}"
