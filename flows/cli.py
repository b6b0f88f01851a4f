"""The command line. Heavy imports stay inside the verbs: ``cubecast --help`` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import cube_cli, forecast_cli, models_cli, quality_cli, scenes_cli, study_cli, tracking_cli
from flows.command import PRODUCT, STYLE, USER_FAULT, ConfigOption, DebugOption, JsonOption, errors

if TYPE_CHECKING:
    from flows.verbs import Ingested

app = typer.Typer(
    name="cubecast", help="Satellite and radar GeoTIFF scenes in, georeferenced forecast GeoTIFFs out.", **STYLE
)
app.add_typer(forecast_cli.app)
app.add_typer(cube_cli.app)
app.add_typer(scenes_cli.app)
app.add_typer(tracking_cli.app)
app.add_typer(models_cli.app)
app.add_typer(study_cli.app)
app.add_typer(quality_cli.app)


@app.command()
def init(
    scenes: Annotated[Path, typer.Argument(help="Folder of GeoTIFF scenes.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Configuration to write.")] = PRODUCT,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what was guessed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    bounds: Annotated[
        str, typer.Option("--bounds", help="Only this area: MINX,MINY,MAXX,MAXY in the scenes' CRS.")
    ] = "",
    debug: DebugOption = False,
) -> None:
    """Look at a folder of scenes and write a configuration for it."""
    from flows import console

    with errors(debug=debug):
        from pipeline.inspect import inspect, write

        guess = inspect(scenes, bounds=_bounds(bounds))
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
def ingest(
    config: ConfigOption,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: ingest whenever the inbox changes, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks at the inbox.")] = 10.0,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring new scenes into the cube."""
    from flows import console, verbs

    with errors(debug=debug):
        if watch:
            _tend(config, every, json=json)
            return
        with console.progress_bar("ingesting scenes") as progress:
            done = verbs.ingest(config, progress=progress)
        if json:
            console.as_json(done)
            return
        console.ingested(done)
        if done.snapshot is None:
            console.out().print("The inbox holds no scene that fits the configuration: run cubecast doctor.")
            raise typer.Exit(USER_FAULT)


def _tend(config: Path, every: float, *, json: bool) -> None:
    from flows import console
    from flows.tending import tend

    def done(found: Ingested) -> None:
        if json:
            console.as_json(found, lines=True)
        else:
            console.out().print(console.ingest_line(found), markup=False)

    tend(config, every, done=done, failed=lambda error: console.warn(f"{error}. It is tried again"))


@app.command()
def train(
    config: ConfigOption,
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest interrupted training, on its own snapshot.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever was interrupted.")] = False,
    limit: Annotated[
        float, typer.Option("--limit", min=0, help="Minutes after which it stops, to be resumed; 0: none.")
    ] = 0.0,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the network and register it; stopped anywhere, the same command goes on from there."""
    from flows import console, verbs

    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other")
    with errors(debug=debug):
        start = "resume" if resume else "fresh" if fresh else "auto"
        with console.training_bars() as watcher:
            trained = verbs.train(config, watcher=watcher, start=start, limit=timedelta(minutes=limit) or None)
        if json:
            console.as_json(trained)
            return
        for line in console.trained_lines(trained):
            console.out().print(line)
        if trained.test:
            console.out().print(console.error_table(trained.test, "Mean absolute error over the test part"))


@app.command()
def verify(
    config: ConfigOption,
    *,
    scores: Annotated[bool, typer.Option("--scores", help="Also print every other score (docs/scores.md).")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score published forecasts whose truth has come."""
    from flows import console, scoretext, verbs

    with errors(debug=debug):
        with console.progress_bar("verifying runs") as progress:
            done = verbs.verify(config, scores=scores or json, progress=progress)
        if json:
            console.as_json(done)
            return
        console.out().print(f"{done.scored} lead(s) scored now, {done.runs} run(s) with scores")
        if done.lost:
            console.out().print(f"{len(done.lost)} run(s) can never be scored: the cube that they saw is gone")
        for one in done.alarms:
            console.warn(
                f"{one.kind} ({one.measure}) of {one.model} since {console.time_text(one.since)}: {one.advice}"
            )
        if done.untold:
            console.warn(f"the scores wait to be told to MLflow: {done.untold}")
        if done.table:
            console.out().print(console.error_table(done.table, "Mean absolute error of published forecasts"))
        if scores:
            scoretext.scores(done.scores)


@app.command()
def up(
    *,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="TOML file of a product, several times for several; default: the demo's."),
    ] = None,
    feed: Annotated[
        bool, typer.Option("--feed", help="A product of made-up scenes in work/up that come while you watch.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Prefect, MLflow and workers on this machine, deployed and scheduled, until Ctrl-C."""
    from flows import console

    if feed and config:
        raise typer.BadParameter("--feed makes up a product of its own: give it or --config")
    with errors(debug=debug):
        from flows.stack import DEMO, up

        def say(line: str) -> None:
            console.out().print(line, markup=False)

        if feed:
            from flows.feed import made_up

            config = [made_up(say=say)]
        up(config or [DEMO], say=say, feed=feed)


@app.command()
def sweep(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Watch as long as a run may be silent, three minutes, and end.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Bury flow runs whose process is gone, and have their work done again; part of cubecast up.

    The server is the one that PREFECT_API_URL names.
    """
    from flows import console

    def say(line: str) -> None:
        console.out().print(line, markup=False)

    with errors(debug=debug):
        from flows.server import Server
        from flows.sweeper import Patience, Sweeper
        from flows.sweeper import sweep as run
        from pipeline.errors import ServiceError

        server = Server.of_environment()
        if server is None:
            raise ServiceError("a sweeper looks at a Prefect server: set PREFECT_API_URL=http://host:4200/api")
        if once:
            run(server, say=say)
        else:
            Sweeper(server, Patience.of_environment(), say).watch()


def _bounds(text: str) -> tuple[float, float, float, float] | None:
    """The area that ``--bounds`` names.

    >>> _bounds("500000,4999600,500480,5e6")
    (500000.0, 4999600.0, 500480.0, 5000000.0)
    """
    try:
        numbers = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = [0.0]
    if not numbers:
        return None
    if len(numbers) != 4:
        raise typer.BadParameter(f"--bounds is four numbers, MINX,MINY,MAXX,MAXY, found {text!r}")
    min_x, min_y, max_x, max_y = numbers
    return min_x, min_y, max_x, max_y


def _terminated(number: int, _: object) -> None:
    """An order to stop ends as an exception, so that what is open is closed: a training's record says KILLED."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on every import
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(app(standalone_mode=True))
