"""What cubecast does, one function a verb: the command line and the Prefect tasks both call these.

A verb takes the path of a configuration and plain values, and returns a small frozen summary of keys and numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows.quiet import native_silence

if TYPE_CHECKING:
    from models.experiment import Watcher
    from pipeline.alarms import Alarm
    from pipeline.config import Settings
    from pipeline.doctor import Finding
    from pipeline.metrics import ErrorRow
    from pipeline.scoretable import ScoreRow

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that did not enter the cube, and why."""

    file: str
    state: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of an ingest: the newest snapshot, files of this run by state, files seen in all runs.

    ``changed``: the snapshot is another one than before; ``scenes``: files that came into the cube; ``newest``: time of
    the newest slot with a scene, where the snapshot changed.
    """

    snapshot: str | None
    states: dict[str, int]
    seen: dict[str, int]
    refused: tuple[Refused, ...]
    changed: bool = False
    scenes: tuple[str, ...] = ()
    newest: str = ""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: the model version, its MLflow run, and its errors over the test part.

    ``good``: it beats both baselines, on the validation chips and over the test part; only such a one can be champion.
    ``version`` and ``run_id`` are empty while MLflow does not answer; ``cubecast tracking sync`` registers the model.
    """

    training: str
    model: str
    version: str
    run_id: str
    champion: bool
    good: bool
    snapshot: str
    epochs: int
    validation_skill: float
    test: tuple[ErrorRow, ...]


@dataclass(frozen=True, slots=True)
class Forecasted:
    """A published run.

    ``warning``: what is not as it should be with the model, and what to do; empty: nothing. ``fresh``: it was
    published now, not before. ``late``: why it is later than it should be; empty: it is not.
    """

    run: str
    init: str
    model: str
    files: tuple[str, ...]
    warning: str = ""
    fresh: bool = True
    late: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of a verification: leads scored now, runs with scores, errors by lead over the newest 500 of them.

    ``scores``: every score by lead, band and predictor, where they were asked for.
    ``lost``: keys of runs that cannot be scored any more, because the snapshot that they saw is gone.
    ``alarms``: skill that was found lost, or back, by this verification.
    ``untold``: why MLflow does not know all scores yet; empty: nothing hinders.
    """

    scored: int
    runs: int
    table: tuple[ErrorRow, ...]
    scores: tuple[ScoreRow, ...]
    lost: tuple[str, ...]
    alarms: tuple[Alarm, ...] = ()
    untold: str = ""


def ingest(config: Path, *, progress: Progress | None = None) -> Ingested:
    """Brings new scenes into the cube; says of each file that it refused why.

    Raises:
        CubecastError: the configuration, the inbox or the cube has a fault.
    """
    from pipeline.config import load
    from pipeline.cube import store_of
    from pipeline.ingest import ingest as run
    from pipeline.ledger import State

    settings = load(config)
    store = store_of(settings)
    before = store.tip() if store.exists() else None
    report = run(settings, progress=progress)
    refused = tuple(
        Refused(entry.key.name, entry.state.value, entry.reason, entry.detail)
        for entry in report.entries
        if entry.state is not State.ACCEPTED
    )
    states = {state.value: report.count(state) for state in State}
    seen = {state.value: n for state, n in report.seen.items()}
    done = Ingested(report.snapshot, states, seen, refused)
    if report.snapshot in {None, before}:
        return done
    scenes = tuple(entry.key.name for entry in report.entries if entry.state is State.ACCEPTED)
    return replace(done, changed=True, scenes=scenes, newest=_newest_slot(settings))


def _newest_slot(settings: Settings) -> str:
    """Time of the newest slot with a scene; empty where there is none."""
    from pipeline.cube import open_cube, store_of
    from pipeline.times import stamp

    cube = open_cube(store_of(settings))
    observed = cube.observed()
    return stamp(cube.layout.axis.valid_time(int(observed[-1]))) if len(observed) else ""


def train(
    config: Path, *, watcher: Watcher | None = None, start: str = "auto", limit: timedelta | None = None
) -> Trained:
    """Trains the network on the newest snapshot, or goes on with an interrupted training; records and registers it.

    Args:
        config: TOML file of the product.
        watcher: told how it goes on.
        start: ``auto``, ``resume`` or ``fresh``; see :class:`models.start.Start`.
        limit: wall time after which it stops, to be resumed.

    Raises:
        CubecastError: the cube is missing or too short, the training is interrupted, there is none to resume, or
            another training of the product runs.
    """
    from pipeline.config import load

    settings = load(config)
    with native_silence():
        from models.experiment import train as run
        from models.registry import open_registry
        from models.start import Start
        from models.trainings import Trainings

    registry = open_registry(settings, now=False)
    with Trainings(settings.paths.trainings).alone():
        outcome = run(settings, registry, watcher=watcher, start=Start(start), limit=limit)
    registered = outcome.registered
    return Trained(
        outcome.training,
        settings.product.name,
        registered.version if registered else "",
        registered.run_id if registered else "",
        registered is not None and registered.champion,
        outcome.good,
        outcome.snapshot,
        len(outcome.history),
        max(epoch["val_skill"] for epoch in outcome.history),
        tuple(outcome.table(settings)),
    )


def forecast(
    config: Path, *, init: datetime | None = None, due: bool = False, now: datetime | None = None
) -> Forecasted:
    """Publishes one forecast run: from the newest scene, from the newest slot that is due, or a hindcast.

    Args:
        config: TOML file of the product.
        init: init time of a hindcast.
        due: whatever ``forecast.issue`` says, from the newest slot that is due, whether or not its scene has come.
        now: what time it is; None: the clock's.

    A champion that cannot be had or does not fit the configuration stops nothing: extrapolation stands in.

    Raises:
        CubecastError: the init time is yet to come, nothing to start from, or the run fails a check.
    """
    from pipeline.config import load

    settings = load(config)
    clock = now or datetime.now(UTC)
    _require_come(init, clock)
    return _forecast(config, settings, init, clock if due or settings.forecast.issue == "due" else None)


def missing(config: Path, newest: str) -> tuple[datetime, ...]:
    """Init times without a run, of slots whose scene has come, newest first.

    Args:
        config: TOML file of the product.
        newest: init time of the newest run: what is missing lies ``forecast.catch_up`` before it.

    Raises:
        CubecastError: there is no cube.
    """
    from pipeline.config import load
    from pipeline.missed import missed
    from pipeline.times import parse_time

    return tuple(missed(load(config), parse_time(newest)))


def make_up(config: Path, init: datetime) -> Forecasted:
    """Publishes the run of a slot that has none; it sees no later scene, but earlier ones however late they came.

    Raises:
        CubecastError: as :func:`forecast`.
    """
    from pipeline.config import load

    settings = load(config)
    done = _forecast(config, settings, None, init + settings.forecast.delay)
    age = (datetime.now(UTC) - init) // timedelta(minutes=1)
    return replace(done, late=done.late or f"it was missing, and was made up for {age} minutes after its init time")


def product_name(config: Path) -> str:
    """What the product of a configuration is called.

    Raises:
        ConfigError: the configuration is missing or breaks a rule.
    """
    from pipeline.config import load

    return load(config).product.name


def _forecast(config: Path, settings: Settings, init: datetime | None, now: datetime | None) -> Forecasted:
    from flows.issuing import issued
    from pipeline.catalog import find_run
    from pipeline.forecast import outlet
    from pipeline.times import stamp

    begun = datetime.now(UTC)
    done = issued(config, settings, init, now)
    published = find_run(outlet(settings).place, settings.product.name, done.path.as_posix())
    files = tuple(str(path) for _, path in sorted(published.leads.items()))
    fresh, late = published.created >= begun, done.warning if done.late else ""
    model = published.model.full_name
    return Forecasted(str(published.path), stamp(published.init), model, files, done.warning, fresh, late)


def _require_come(init: datetime | None, clock: datetime) -> None:
    """Lets no run be of a time to come: it would stay the latest until then.

    Raises:
        NotEnoughFramesError: ``init`` lies ahead of the clock.
    """
    from pipeline.errors import NotEnoughFramesError

    if init is not None and init > clock:
        msg = (
            f"an init time has come, {init:%Y-%m-%d %H:%M}Z is ahead of the clock, {clock:%Y-%m-%d %H:%M}Z: "
            "name an earlier one, or take --init now"
        )
        raise NotEnoughFramesError(msg)


def examine(config: Path) -> tuple[Finding, ...]:
    """What ``cubecast doctor`` finds.

    Raises:
        ConfigError: the configuration cannot even be read.
    """
    from pipeline.config import load
    from pipeline.doctor import examine as run

    return run(load(config))


def picture(config: Path, init: datetime, path: Path) -> Path:
    """Writes a PNG of the champion's forecast for ``init``: context, attention, forecast, truth; returns its path.

    Raises:
        CubecastError: no champion, or nothing to start from.
    """
    from pipeline.config import load

    settings = load(config)
    with native_silence():
        from models.exhibit import draw_forecast
        from models.registry import open_registry
    from pipeline.errors import ModelError

    network = open_registry(settings, now=False).load_champion(settings)
    if network is None:
        msg = f"a picture of attention needs a champion, {settings.product.name} has none: run cubecast train"
        raise ModelError(msg)
    return draw_forecast(settings, network, init, path)


def unseen_inits(config: Path, count: int) -> list[datetime]:
    """At most ``count`` init times, spread over the part of the cube that training never sees, truth included."""
    from pipeline.config import load
    from pipeline.cube import open_cube, store_of
    from pipeline.samples import split, thin

    settings = load(config)
    cube = open_cube(store_of(settings))
    shape = (settings.grid.height, settings.grid.width)
    parts = split(cube.observed(), settings.samples, shape, settings.samples.block_buffer)
    tests = [one for one in parts.test if one.targets[-1] < cube.size]
    return [cube.layout.axis.valid_time(one.init) for one in thin(tests, count)]


def verify(config: Path, *, scores: bool = False, progress: Progress | None = None) -> Verified:
    """Scores published forecasts whose truth has come, and tells MLflow the scores, or keeps them until it is there.

    Args:
        config: TOML file of the product.
        scores: tell every score, not the errors alone.
        progress: told (done, total) runs.

    Raises:
        CubecastError: there is no cube.
    """
    from flows.model_verbs import rival
    from flows.quality_verbs import tell_scores
    from pipeline.config import load
    from pipeline.verify import scores as every
    from pipeline.verify import verify as run

    settings = load(config)
    report = run(settings, rival=rival(settings), progress=progress)
    rows = tuple(every(settings, report)) if scores else ()
    untold = tell_scores(settings).fault
    return Verified(report.scored, report.count, tuple(report.table()), rows, report.lost, report.alarms, untold)
