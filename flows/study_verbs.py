"""What can be found out about the worth of forecasts, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows.quiet import native_silence

if TYPE_CHECKING:
    from pipeline.config import Settings

Told = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a study of skill is to compare; what is left at its default, the study decides.

    ``parts``: names of variants, empty: all. ``inits``: 0: the study's own number. ``thresholds``: empty: quantiles.
    """

    seeds: int = 3
    inits: int = 0
    parts: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Studied:
    """What came of a study of skill. ``run_id`` is empty where MLflow did not take it, for the reason in ``note``."""

    key: str
    report: str
    picture: str
    text: str
    run_id: str
    note: str


@dataclass(frozen=True, slots=True)
class Hindcasted:
    """Forecasts published for past init times.

    ``model``: what made them. ``good``: the trained network beat both baselines; otherwise extrapolation made them.
    """

    workspace: str
    snapshot: str
    model: str
    good: bool
    inits: tuple[str, ...]
    runs: tuple[str, ...]


def skill(config: Path, asked: Asked, *, phase: Told | None = None, progress: Progress | None = None) -> Studied:
    """Compares the network, what lacks a part of it and the references; goes on with a study that was stopped.

    Args:
        config: TOML file of the product, ingested.
        asked: what is compared.
        phase: told the name of each phase as it starts.
        progress: told how many init times are scored, of how many.

    Raises:
        CubecastError: there is no cube, no such part, or no test init time.
    """
    from models.variants import chosen, variants_for
    from pipeline.config import load

    settings = load(config)
    variants = chosen(asked.parts, variants_for(settings))
    with native_silence():
        from models.registry import open_registry
        from models.skillrecord import record, write
        from models.skillstudy import INITS, Watcher, Wish, study
    from pipeline.errors import ServiceError

    nothing = Watcher()
    watcher = Watcher(phase or nothing.phase, progress or nothing.scored)
    wish = Wish(asked.seeds, asked.inits or INITS, variants, asked.thresholds)
    found = study(settings, wish, watcher=watcher)
    written = write(settings, found)
    run, note = "", ""
    try:
        run = record(open_registry(settings, now=False), found, (written.report, written.picture))
    except ServiceError as error:
        note = str(error)
    text = written.report.read_text(encoding="utf-8")
    return Studied(found.key, str(written.report), str(written.picture), text, run, note)


def hindcast(
    config: Path,
    inits: int,
    *,
    workspace: Path | None = None,
    phase: Told | None = None,
    progress: Progress | None = None,
) -> Hindcasted:
    """Ingests, trains and publishes a forecast for init times spread evenly over the test part, truth included.

    Each forecast is verified before the next one, whose intervals follow what is known by its init time, as they do in
    operation.

    Args:
        config: TOML file of the product.
        inits: how many init times at most.
        workspace: instead of the configured one.
        phase: told the name of each phase as it starts.
        progress: told how many runs are published, of how many.

    Raises:
        CubecastError: the configuration, the inbox, the cube or the training has a fault.
    """
    from pipeline.config import load
    from pipeline.ingest import ingest

    say = phase or (lambda _: None)
    settings = load(config)
    if workspace is not None:
        settings = cast("Settings", settings.model_copy(update={"workspace": workspace.resolve()}))
    say("ingesting scenes")
    ingest(settings)
    with native_silence():
        from models.experiment import Watcher, train
        from models.registry import open_registry

    registry = open_registry(settings)
    outcome = train(settings, registry, watcher=Watcher(phase=say))
    network = registry.load_champion(settings)
    champion = None if network is None else network.champion()
    say("publishing forecasts")
    runs, times = _publish(settings, champion, inits, progress)
    model = "extrapolation" if champion is None else f"{champion.ref.name} {champion.ref.version}"
    return Hindcasted(str(settings.workspace), outcome.snapshot, model, outcome.good, times, runs)


def _publish(
    settings: Settings, champion: object, inits: int, progress: Progress | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from pipeline.forecast import forecast
    from pipeline.rungs import Champion
    from pipeline.times import stamp
    from pipeline.verify import verify

    times, runs = hindcast_inits(settings, inits), list[str]()
    for time in times:
        runs.append(str(forecast(settings, cast("Champion | None", champion), init=time)))
        verify(settings)
        if progress is not None:
            progress(len(runs), len(times))
    return tuple(runs), tuple(stamp(time) for time in times)


def hindcast_inits(settings: Settings, count: int) -> Sequence[datetime]:
    """At most ``count`` test init times whose truth has come, spread evenly over the test part."""
    from models.appraisal import complete_tests
    from models.material import plan
    from pipeline.cube import open_cube, store_of
    from pipeline.samples import thin

    cube = open_cube(store_of(settings))
    tests = complete_tests(plan(settings, cube).split, cube)
    return [cube.layout.axis.valid_time(one.init) for one in thin(tests, count)]
