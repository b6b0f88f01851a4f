"""``cubecast models``: which versions of the model there are, which one serves, and how that is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import STYLE, ConfigOption, DebugOption, JsonOption, errors

if TYPE_CHECKING:
    from flows.model_verbs import Change, Comparison, Promoted, Retrained, VersionLine

app = typer.Typer(name="models", help="See the versions of the model, compare, retrain, promote, and go back.", **STYLE)

VersionArgument = Annotated[str, typer.Argument(help="Number of a version, as `models list` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


@app.command("list")
def listing(
    config: ConfigOption,
    *,
    history: Annotated[bool, typer.Option("--history", help="Also what happened to them, and why.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the versions: which one serves, and what the gate said of the others."""
    from flows import console, model_verbs

    with errors(debug=debug):
        found = model_verbs.listing(config)
        if json:
            console.as_json(found)
            return
        heads = ("version", "role", "made", "snapshot", "squared error", "gate")
        console.print_list(heads, [_row(one) for one in found.versions], "no versions yet: cubecast train")
        if history and found.versions:
            heads = ("when", "what", "version", "instead of", "why")
            console.out().print(console.table(heads, [_change(one) for one in found.history]))


@app.command()
def compare(
    version: VersionArgument, config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Hold a version against the champion at the same held-out init times; changes nothing."""
    from flows import console, model_verbs

    with errors(debug=debug):
        with console.progress_bar("comparing at init times") as progress:
            done = model_verbs.compare(config, version, progress=progress)
        if json:
            console.as_json(done)
        else:
            _show(done)


@app.command()
def promote(
    version: VersionArgument,
    config: ConfigOption,
    *,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gate says; needs a reason.")] = False,
    reason: ReasonOption = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a version champion, if it proves better at held-out init times; with --force and a reason in any case."""
    from flows import console, model_verbs

    with errors(debug=debug):
        with console.progress_bar("comparing at init times") as progress:
            done = model_verbs.promote(config, version, force=force, reason=reason, progress=progress)
        if json:
            console.as_json(done)
        else:
            _tell(done)


@app.command()
def retrain(
    config: ConfigOption,
    *,
    warm: Annotated[bool, typer.Option("--warm", help="Weights start from the champion's, not anew.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs a reason.")] = False,
    reason: ReasonOption = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a challenger on the newest snapshot, and promote it if it proves better than the champion."""
    from flows import console, model_verbs

    with errors(debug=debug):
        with console.training_bars() as watcher:
            done = model_verbs.retrain(config, warm=warm, force=force, reason=reason, watcher=watcher)
        if json:
            console.as_json(done)
        else:
            _settled(done)


@app.command()
def rollback(
    config: ConfigOption, *, reason: ReasonOption = "", json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Let the version serve again that served before."""
    from flows import console, model_verbs

    with errors(debug=debug):
        done = model_verbs.rollback(config, reason)
        if json:
            console.as_json(done)
        else:
            _tell(done)


def _row(one: VersionLine) -> tuple[str, ...]:
    from flows import console

    skills = ", ".join(f"{-100 * value:+.0f} % of {name}'s" for name, value in one.skills.items()) or "-"
    gate = one.ruling.partition(":")[0] or "-"
    return one.version, ", ".join(one.roles) or "-", console.time_text(one.created), one.snapshot[:8], skills, gate


def _change(one: Change) -> tuple[str, ...]:
    from flows import console

    return console.time_text(one.time), one.step, one.version, one.before or "-", one.reason


def _show(done: Comparison) -> None:
    from flows import console

    rival = f"version {done.champion}" if done.champion else f"the best baseline, {done.rival}"
    out = console.out()
    out.print(f"{done.product} version {done.version} against {rival}: {done.decision}", markup=False)
    rows = [(name, "yes" if met else "no", reason) for name, met, reason in done.conditions]
    out.print(console.table(("condition", "met", "why"), rows))
    numbers = [
        (console.lead_text(one.lead_minutes), f"{one.estimate:+.1%}", f"{one.low:+.1%} to {one.high:+.1%}")
        for one in done.leads
    ]
    out.print(console.table(("lead", "RMSE against it", "interval"), numbers))
    if done.promotes:
        out.print(f"To promote it: cubecast models promote {done.version}", markup=False)


def _settled(done: Retrained) -> None:
    from flows import console

    made = f"version {done.version}" if done.version else f"training {done.training}, which MLflow does not know yet"
    out = console.out()
    out.print(f"{done.product} {made}: {done.decision}", markup=False)
    for reason in done.reasons:
        out.print(f"- {reason}", markup=False)
    out.print(f"version {done.champion} serves" if done.champion else "nobody serves: extrapolation", markup=False)


def _tell(done: Promoted) -> None:
    from flows import console

    instead = f" instead of version {done.before}" if done.before else ""
    console.out().print(f"{done.product} version {done.champion} serves now{instead}, {done.step}", markup=False)
    if done.reason:
        console.out().print(done.reason, markup=False)
