"""``cubecast forecast``: publishes a run, and looks after those that are published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.command import STYLE, DebugOption, JsonOption, errors, time_of

ALONE: dict[str, Any] = {**STYLE, "no_args_is_help": False}

app = typer.Typer(
    name="forecast",
    help="Publish one forecast run as GeoTIFFs; or, with a command, look after published runs.",
    **ALONE,
)


@app.callback(invoke_without_command=True)
def forecast(
    context: typer.Context,
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the product.")] = None,
    init: Annotated[
        str, typer.Option("--init", help="Init time of a hindcast, UTC, like 2020-04-01T13:10Z. Default: newest scene.")
    ] = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish one forecast run as GeoTIFFs; or, with a command, look after published runs."""
    from flows import console, verbs

    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("missing option --config / -c: the TOML file of the product")
    with errors(debug=debug):
        done = verbs.forecast(config, init=time_of("--init", init))
        if json:
            console.as_json(done)
            return
        console.out().print(f"init {done.init}, by {done.model}")
        for file in done.files:
            console.out().print(f"  {file}", markup=False)
