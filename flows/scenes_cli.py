"""``cubecast scenes``: what became of every file, and decisions taken back or taken by hand."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.command import STYLE, ConfigOption, DebugOption, JsonOption, errors

app = typer.Typer(name="scenes", help="See what became of every scene; retry or withdraw some.", **STYLE)

StateName = Literal["pending", "accepted", "duplicate", "superseded", "quarantined"]
NameArgument = Annotated[str, typer.Argument(help="File name in the inbox.")]


@app.command("list")
def list_(
    config: ConfigOption,
    *,
    state: Annotated[StateName | None, typer.Option("--state", help="Only these.")] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List every file ever seen, and what became of it."""
    from flows import console, scene_verbs

    with errors(debug=debug):
        found = scene_verbs.list_scenes(config, state or "")
        if json:
            console.as_json({"files": found})
            return
        rows = [(one.file, one.state, one.reason, one.decided_at[:16].replace("T", " ")) for one in found]
        empty = f"no file is {state}" if state else "no scenes yet: cubecast ingest takes them from the inbox"
        console.print_list(("file", "state", "reason", "decided (UTC)"), rows, empty)


@app.command()
def show(config: ConfigOption, name: NameArgument, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Say all that is known of a file: every version of it, why it was refused, where it lies in the cube."""
    from flows import console, report, scene_verbs

    with errors(debug=debug):
        found = scene_verbs.show(config, name)
        if json:
            console.as_json(found)
            return
        report.shown(found)


@app.command()
def retry(
    config: ConfigOption,
    names: Annotated[list[str] | None, typer.Argument(help="File names, wildcards allowed.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Everything quarantined but not withdrawn.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Ingest at once.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take decisions back, so that the next ingest looks at the files again."""
    from flows import console, scene_verbs, verbs

    if bool(names) == everything:
        raise typer.BadParameter("give file names, or --all")
    with errors(debug=debug):
        again = scene_verbs.retry(config, None if everything else names)
        done = verbs.ingest(config) if now and again else None
        if json:
            console.as_json({"retried": again, "ingest": done})
            return
        text = f"{len(again)} file(s) will be looked at again" + ("" if done else " by the next cubecast ingest")
        console.out().print(text if again else "no decision to take back: these files are pending, or there are none")
        if done:
            console.ingested(done)


@app.command()
def withdraw(
    config: ConfigOption,
    name: NameArgument,
    *,
    why: Annotated[str, typer.Option("--why", help="Kept in the ledger.")],
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Take a scene out of the cube; what stood behind it shows again, and older snapshots keep it."""
    from flows import console, scene_verbs

    with errors(debug=debug):
        done = scene_verbs.withdraw(config, name, why)
        if json:
            console.as_json(done)
            return
        instead = ", ".join(done.instead) or "nothing"
        text = f"{len(done.scenes)} scene(s) out of the cube, snapshot {done.snapshot}; their place shows {instead}"
        console.out().print(text, markup=False)
