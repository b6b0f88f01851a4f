"""The command line. Heavy imports stay inside the verbs: ``cubecast --help`` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

USER_FAULT = 1
CONFIG_FAULT = 2
INTERRUPTED = 130
LEARNING = {"keras", "tensorflow"}

app = typer.Typer(
    name="cubecast",
    help="Satellite and radar GeoTIFF scenes in, georeferenced forecast GeoTIFFs out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="TOML file of the product.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """Errors become one text and an exit code: 2 for the configuration, 1 for the rest, 130 for Ctrl-C."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("interrupted; what was committed or published stays", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        from flows.console import fail
        from pipeline.errors import ConfigError

        fail(explain(error))
        raise typer.Exit(CONFIG_FAULT if isinstance(error, ConfigError) else USER_FAULT) from None


def explain(error: Exception) -> str:
    """What to tell a user: our own errors speak for themselves."""
    from pipeline.errors import CubecastError

    if isinstance(error, CubecastError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in LEARNING:
        return f"this needs {error.name}, which the base installation leaves out: install the extra cpu or gpu"
    return f"a fault of cubecast's own, {type(error).__name__}: {error}. --debug shows where"


@app.command()
def init(
    scenes: Annotated[Path, typer.Argument(help="Folder of GeoTIFF scenes.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Configuration to write.")] = Path("product.toml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what was guessed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    debug: DebugOption = False,
) -> None:
    """Look at a folder of scenes and write a configuration for it."""
    from flows import console

    with errors(debug=debug):
        from pipeline.inspect import inspect, write

        guess = inspect(scenes)
        if not yes:
            guess = guess.answered(lambda question: typer.prompt(question.text, default=question.default))
        write(guess, output, overwrite=overwrite)
        for note in guess.notes:
            console.out().print(f"note: {note}", markup=False)
        console.out().print(f"wrote {output}. Next: cubecast doctor --config {output}", markup=False)


@app.command()
def doctor(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check configuration, scenes and services, and say what to do about each fault."""
    from flows import console, verbs

    with errors(debug=debug):
        findings = verbs.examine(config)
        if json:
            console.as_json({"findings": findings})
        else:
            console.findings(findings)
        if any(finding.level == "fault" for finding in findings):
            raise typer.Exit(USER_FAULT)


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo lives; made anew.")] = Path("work/demo"),
    debug: DebugOption = False,
) -> None:
    """Made-up scenes through the real flows: ingest, train, forecast, verify."""
    from flows import console

    with errors(debug=debug):
        from flows.demo import check, demo

        done = demo(folder)
        title = "Mean absolute error, over a stretch whose motion the training never saw"
        console.out().print(console.error_table(done.table, title))
        for line in done.lines():
            console.out().print(line, markup=False)
        check(done.table)


@app.command()
def ingest(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Bring new scenes into the cube."""
    from flows import console, verbs

    with errors(debug=debug):
        with console.progress_bar("ingesting scenes") as progress:
            done = verbs.ingest(config, progress=progress)
        if json:
            console.as_json(done)
            return
        counts = ", ".join(f"{count} {state}" for state, count in done.states.items() if count) or "nothing new"
        console.out().print(f"{counts}; snapshot {done.snapshot or 'none'}")
        for one in done.refused:
            console.out().print(f"  {one.file}: {one.state}, {one.reason}: {one.detail}", markup=False)
        if done.snapshot is None:
            console.out().print("The inbox holds no scene that fits the configuration: run cubecast doctor.")
            raise typer.Exit(USER_FAULT)


@app.command()
def train(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Train the network on the newest snapshot and register it."""
    from flows import console, verbs

    with errors(debug=debug):
        with console.training_bars() as watcher:
            trained = verbs.train(config, watcher=watcher)
        if json:
            console.as_json(trained)
            return
        for line in console.trained_lines(trained):
            console.out().print(line)
        if trained.test:
            console.out().print(console.error_table(trained.test, "Mean absolute error over the test part"))


@app.command()
def forecast(
    config: ConfigOption,
    *,
    init: Annotated[
        str, typer.Option("--init", help="Init time of a hindcast, UTC, like 2020-04-01T13:10Z. Default: newest scene.")
    ] = "",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish one forecast run as GeoTIFFs."""
    from flows import console, verbs

    with errors(debug=debug):
        done = verbs.forecast(config, init=_time(init))
        if json:
            console.as_json(done)
            return
        console.out().print(f"init {done.init}, by {done.model}")
        for file in done.files:
            console.out().print(f"  {file}", markup=False)


@app.command()
def verify(config: ConfigOption, *, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Score published forecasts whose truth has come."""
    from flows import console, verbs

    with errors(debug=debug):
        with console.progress_bar("verifying runs") as progress:
            done = verbs.verify(config, progress=progress)
        if json:
            console.as_json(done)
            return
        console.out().print(f"{done.scored} lead(s) scored now, {done.runs} run(s) with scores")
        if done.lost:
            console.out().print(f"{len(done.lost)} run(s) can never be scored: the cube that they saw is gone")
        if done.table:
            console.out().print(console.error_table(done.table, "Mean absolute error of published forecasts"))


@app.command()
def up(
    *,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="TOML file of the product; default: the demo's.")
    ] = Path("work/demo/product.toml"),
    debug: DebugOption = False,
) -> None:
    """Prefect, MLflow and workers on this machine, deployed and scheduled, until Ctrl-C."""
    from flows import console

    with errors(debug=debug):
        from flows.stack import up

        up(config, say=lambda line: console.out().print(line, markup=False))


def _time(text: str):  # noqa: ANN202 - datetime is not imported at start-up
    from pipeline.errors import CubecastError
    from pipeline.times import parse_time

    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise CubecastError(f"--init: {error}") from None


def _terminated(number: int, _: object) -> None:
    """An order to stop ends as an exception, so that what is open is closed: a training's record says FAILED."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on every import
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(app(standalone_mode=True))
