"""``cubecast forecast``: publishes a run, and looks after those that are published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.command import STYLE, USER_FAULT, ConfigOption, DebugOption, JsonOption, errors, time_of

NOW = "now"
ALONE: dict[str, Any] = {**STYLE, "no_args_is_help": False}

app = typer.Typer(
    name="forecast",
    help="Publish one forecast run as GeoTIFFs; or, with a command, look after published runs.",
    **ALONE,
)


RunArgument = Annotated[
    str, typer.Argument(metavar="[RUN]", help="Init time, run key or path of a run. Default: the newest.")
]


@app.callback(invoke_without_command=True)
def forecast(
    context: typer.Context,
    *,
    config: ConfigOption,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            help="Init time of a hindcast, UTC, like 2020-04-01T13:10Z; now: the newest slot that is due, whether or "
            "not its scene has come. Default: as forecast.issue says, the newest scene.",
        ),
    ] = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish one forecast run as GeoTIFFs; or, with a command, look after published runs."""
    from flows import console, verbs

    if context.invoked_subcommand is not None:
        return
    with errors(debug=debug):
        due = init.strip().lower() == NOW
        done = verbs.forecast(config, init=None if due else time_of("--init", init), due=due)
        if done.warning:
            console.warn(f"forecast by {done.model}: {done.warning}")
        if json:
            console.as_json(done)
            return
        console.out().print(f"init {done.init}, by {done.model}")
        for file in done.files:
            console.out().print(f"  {file}", markup=False)


@app.command("list")
def listing(
    config: ConfigOption,
    *,
    count: Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")] = 10,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the newest published runs."""
    from flows import console, product_report, product_verbs

    with errors(debug=debug):
        found = product_verbs.listing(config, count)
        if json:
            console.as_json({"runs": found})
        else:
            product_report.run_list(found)


@app.command()
def show(
    config: ConfigOption,
    run: RunArgument = "",
    *,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a picture too: a page as .png or a film as .gif.")
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is known of a run: its leads, who made their pixels, input ages, skill; or draw it."""
    from flows import console, product_report, product_verbs

    with errors(debug=debug):
        found = product_verbs.show(config, run)
        if json:
            console.as_json(found)
        else:
            product_report.run_facts(found)
        if picture is not None:
            path = product_verbs.draw(config, run, picture)
            console.err().print(f"wrote {path}", markup=False)


@app.command()
def verify(
    config: ConfigOption,
    run: RunArgument = "",
    *,
    hashes: Annotated[bool, typer.Option("--hashes", help="Only check the files.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a run's files, make its pixels again and compare them; exit code 1 where anything differs."""
    from flows import console, product_report, product_verbs

    with errors(debug=debug):
        found = product_verbs.verify(config, run, hashes=hashes)
        if json:
            console.as_json(found)
        else:
            product_report.passport(found)
        if not found.good:
            raise typer.Exit(USER_FAULT)


NamedRun = Annotated[str, typer.Argument(metavar="RUN", help="Key, init time or path of a published run.")]


@app.command()
def withdraw(
    run: NamedRun,
    config: ConfigOption,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="What is wrong with it, for those who fetched it.")],
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take a published run back; latest.json moves back, and the run's folder says when and why."""
    from flows import console, shelf_verbs

    with errors(debug=debug):
        done = shelf_verbs.withdraw(config, run, reason)
        if json:
            console.as_json(done)
        else:
            console.out().print(f"{done.run} is withdrawn: {done.reason}", markup=False)
            console.out().print(f"the latest run is {done.latest or 'none'}", markup=False)


@app.command()
def withdrawn(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """List withdrawn runs: when, and why."""
    from flows import console, shelf_verbs

    with errors(debug=debug):
        found = shelf_verbs.withdrawn(config)
        if json:
            console.as_json({"withdrawn": found})
            return
        rows = [
            (console.time_text(one.init), one.run_key, console.time_text(one.withdrawn), one.reason) for one in found
        ]
        console.print_list(("init", "run", "withdrawn", "reason"), rows, "no withdrawn runs")


@app.command()
def restore(run: NamedRun, config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Put a withdrawn run back."""
    from flows import console, shelf_verbs

    with errors(debug=debug):
        done = shelf_verbs.restore(config, run)
        if json:
            console.as_json(done)
        else:
            console.out().print(f"{done.run} is published again; the latest run is {done.latest}", markup=False)


@app.command()
def pin(run: NamedRun, config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Keep a run for ever, whatever forecast.keep_for and forecast.keep_runs say."""
    _pin(run, config, keep=True, json=json, debug=debug)


@app.command()
def unpin(run: NamedRun, config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Let a run go when its time comes."""
    _pin(run, config, keep=False, json=json, debug=debug)


def _pin(run: str, config: Path, *, keep: bool, json: bool, debug: bool) -> None:
    from flows import console, shelf_verbs

    with errors(debug=debug):
        done = shelf_verbs.pin(config, run, keep=keep)
        if json:
            console.as_json(done)
        else:
            console.out().print(f"{done.run} is {'pinned' if keep else 'not pinned any more'}", markup=False)


@app.command()
def tidy(
    config: ConfigOption,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Remove runs that forecast.keep_for and forecast.keep_runs keep no longer, and what killed commands left."""
    from flows import console, shelf_verbs

    with errors(debug=debug):
        done = shelf_verbs.tidy(config, dry_run=dry_run)
        if json:
            console.as_json(done)
            return
        verb = "would go" if dry_run else "removed"
        console.out().print(f"{verb}: {len(done.runs)} run(s), {len(done.leftovers)} leftover(s)")
        for path in (*done.runs, *done.leftovers):
            console.out().print(f"  {path}", markup=False)
