"""``cubecast cube``: what a cube holds, whether it is whole, and what keeps it small, safe and readable by others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.command import STYLE, USER_FAULT, ConfigOption, DebugOption, JsonOption, errors, time_of

app = typer.Typer(name="cube", help="Look at the cube, check it, mend it, tidy it, copy it.", **STYLE)

SnapshotOption = Annotated[str, typer.Option("--snapshot", help="Id or tag of a snapshot. Default: the newest.")]
TIME = "UTC, like 2020-04-01T13:10Z"


@app.command()
def info(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Say what the cube holds: grid, bands, slots, gaps, scenes, snapshots, size."""
    from flows import console, cube_verbs, report

    with errors(debug=debug):
        found = cube_verbs.info(config)
        if json:
            console.as_json(found)
        else:
            console.out().print(console.facts_table(report.cube_facts(found)))


@app.command()
def log(
    config: ConfigOption,
    *,
    count: Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")] = 20,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the newest snapshots."""
    from flows import console, cube_verbs

    with errors(debug=debug):
        found = cube_verbs.log(config, count)
        if json:
            console.as_json({"snapshots": found})
            return
        rows = [(console.time_text(one.written_at), one.snapshot, one.message, ", ".join(one.tags)) for one in found]
        console.out().print(console.table(("written", "snapshot", "what", "tags"), rows))


@app.command()
def verify(
    config: ConfigOption, *, snapshot: SnapshotOption = "", json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Read every chunk and compare it with what was written; exit code 1 where something is damaged."""
    from flows import console, cube_verbs, report

    with errors(debug=debug):
        with console.progress_bar("reading slots") as progress:
            found = cube_verbs.verify(config, snapshot=snapshot, progress=progress)
        if json:
            console.as_json(found)
        else:
            report.audit(found, config)
        if found.damaged:
            raise typer.Exit(USER_FAULT)


@app.command()
def repair(
    config: ConfigOption,
    *,
    slot: Annotated[
        list[str] | None,
        typer.Option("--slot", help=f"Time of a slot, {TIME}; may be repeated. Default: what verify finds damaged."),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write damaged slots again from the scenes in the inbox; exit code 1 where some stay damaged."""
    from flows import console, cube_verbs, report

    with errors(debug=debug):
        times = [time for text in slot or () if (time := time_of("--slot", text))]
        with console.progress_bar("reading slots") as progress:
            done = cube_verbs.repair(config, times, progress=progress)
        if json:
            console.as_json(done)
        else:
            report.repaired(done)
        if done.beyond or not all(one.mended for one in done.slots):
            raise typer.Exit(USER_FAULT)


@app.command()
def gc(
    config: ConfigOption,
    *,
    keep_days: Annotated[
        int, typer.Option("--keep-days", min=7, help="Snapshots of the last days stay, and tagged ones.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Let old snapshots expire and delete what nothing reaches.

    A forecast that saw an expired snapshot can be verified no more: tag what must stay.
    """
    from flows import console, cube_verbs, report

    with errors(debug=debug):
        done = cube_verbs.clean(config, keep_days, dry_run=dry_run)
        if json:
            console.as_json(done)
        else:
            console.out().print(report.cleaned_line(done))


@app.command()
def tag(  # noqa: PLR0913 - options, by keyword only
    config: ConfigOption,
    name: Annotated[str, typer.Argument(help="Name of a tag; without one, tags are listed.")] = "",
    *,
    snapshot: SnapshotOption = "",
    listed: Annotated[bool, typer.Option("--list", help="List the tags.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag; its name is never given again.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Give a snapshot a name, which keeps it from expiring."""
    from flows import console, cube_verbs

    with errors(debug=debug):
        if delete and name:
            cube_verbs.untag(config, name)
        elif delete:
            raise typer.BadParameter("--delete needs the name of a tag")
        elif name and not listed:
            cube_verbs.tag(config, name, snapshot)
        found = cube_verbs.tags(config)
        if json:
            console.as_json({"tags": found})
        elif name and not listed:
            text = f"{name} is removed" if delete else f"{name} is snapshot {found[name]}"
            console.out().print(text, markup=False)
        else:
            console.print_list(("tag", "snapshot"), list(found.items()), "no tags: cubecast cube tag NAME makes one")


@app.command()
def backup(
    config: ConfigOption,
    folder: Annotated[Path, typer.Argument(help="Where the copy lies; the next backup brings only what is new.")],
    *,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy the cube's repository, history and tags included, to another folder."""
    from flows import console, cube_verbs

    with errors(debug=debug):
        done = cube_verbs.backup(config, folder)
        if json:
            console.as_json(done)
        else:
            text = f"{done.files} file(s), {console.size_text(done.size)} copied; {folder} ends at {done.snapshot}"
            console.out().print(text, markup=False)


@app.command()
def export(  # noqa: PLR0913 - options, by keyword only
    config: ConfigOption,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    *,
    form: Annotated[
        Literal["zarr", "cog"], typer.Option("--format", help="Plain Zarr, or a GeoTIFF (COG) a slot.")
    ] = "zarr",
    as_of: Annotated[str, typer.Option("--as-of", help=f"Only what was available then, {TIME}.")] = "",
    snapshot: SnapshotOption = "",
    start: Annotated[str, typer.Option("--from", help=f"First slot, {TIME}.")] = "",
    end: Annotated[str, typer.Option("--to", help=f"Last slot, {TIME}.")] = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the cube, or a part of it, for programs that do not know Icechunk."""
    from flows import console, cube_verbs

    with errors(debug=debug):
        times = [time_of(option, text) for option, text in (("--as-of", as_of), ("--from", start), ("--to", end))]
        extract = cube_verbs.Extract(form, snapshot, *times)
        with console.progress_bar("exporting slots") as progress:
            done = cube_verbs.export(config, folder, extract, progress=progress)
        if json:
            console.as_json(done)
            return
        console.out().print(f"{done.slots} slot(s) of {done.scenes} scene(s) in {done.folder}", markup=False)
        for name in done.names[:10]:
            console.out().print(f"  {name}", markup=False)
        if len(done.names) > 10:
            console.out().print(f"  and {len(done.names) - 10} more")
