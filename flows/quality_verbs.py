"""What can be done about the quality of published forecasts, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.quiet import native_silence

if TYPE_CHECKING:
    from pipeline.alarms import Alarm
    from pipeline.config import Settings
    from pipeline.qualityreport import Quality


@dataclass(frozen=True, slots=True)
class Told:
    """What MLflow was told of scores.

    ``numbers``: how many. ``waiting``: runs with scores that it does not know yet. ``fault``: why; empty: nothing
    hinders.
    """

    numbers: int
    waiting: int
    fault: str = ""


def quality(config: Path, *, page: Path | None = None) -> Quality:
    """What published forecasts are worth: errors, skill, coverage, ages, rungs, latency, alarms.

    Args:
        config: TOML file of the product.
        page: HTML file to write, too; it needs no server.

    Raises:
        ConfigError: the configuration cannot be read.
        PublishError: a manifest cannot be read.
    """
    from pipeline.config import load
    from pipeline.qualityreport import quality as run

    found = run(load(config))
    if page is not None:
        from pipeline.qualitypage import write

        write(found, page)
    return found


def due_alarms(config: Path) -> tuple[Alarm, ...]:
    """Alarms that stand and were not told, or not for a while.

    Raises:
        CubecastError: the configuration cannot be read, or there is no cube.
    """
    from pipeline.alarms import history
    from pipeline.config import load
    from pipeline.reminders import due

    settings = load(config)
    said = history(settings.paths.alarms)
    return due(said, settings.paths.told, _newest_scene(settings), settings.axis.cadence) if said else ()


def is_due(config: Path, name: str) -> bool:
    """As :func:`due_alarms`, for something else that stands; see :func:`pipeline.reminders.is_due`."""
    from pipeline.config import load
    from pipeline.reminders import is_due as asked

    settings = load(config)
    return asked(name, settings.paths.told, _newest_scene(settings), settings.axis.cadence)


def note_told(config: Path, names: Iterable[str]) -> None:
    """Keeps what was told, as of the newest scene."""
    from pipeline.config import load
    from pipeline.reminders import note

    settings = load(config)
    note(settings.paths.told, names, _newest_scene(settings))


def _newest_scene(settings: Settings) -> datetime:
    from pipeline.cube import open_cube, store_of

    cube = open_cube(store_of(settings))
    return cube.layout.axis.valid_time(int(max(cube.observed())))


def tell(config: Path) -> Told:
    """Tells MLflow the scores that it does not know; where it is away they wait, and nothing fails.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    from pipeline.config import load

    return tell_scores(load(config))


def tell_scores(settings: Settings) -> Told:
    """As :func:`tell`. A database on this machine that no training has made yet is not made for scores alone."""
    from pipeline.errors import ServiceError

    with native_silence():
        from models.production import Production
        from models.registry import open_registry, tracking_uri

    uri = tracking_uri(settings)
    production = Production(settings.paths.verification, settings.axis.axis(), uri)
    waiting = len(production.untold)
    local = uri.startswith("sqlite:///")
    if not waiting or (local and not Path(uri.removeprefix("sqlite:///")).is_file()):
        return Told(0, waiting)
    try:
        numbers = open_registry(settings, now=False).tell(production)
    except ServiceError as error:
        return Told(0, len(production.untold), str(error))
    return Told(numbers, len(production.untold))
