"""What can be done with published runs, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.quiet import native_silence

if TYPE_CHECKING:
    from pipeline.catalog import PublishedRun
    from pipeline.config import Settings
    from pipeline.passport import Passport
    from pipeline.record import ModelRef
    from pipeline.rungs import Champion
    from pipeline.viewing import RunFacts, Skill


@dataclass(frozen=True, slots=True)
class Listed:
    """A published run in a line. ``rungs``: part of the pixels, over all leads, that each rung of the ladder made."""

    init: datetime
    created: datetime
    run_key: str
    model: str
    leads: tuple[int, ...]
    rungs: dict[str, float]
    newest: bool


def listing(config: Path, count: int) -> tuple[Listed, ...]:
    """The newest runs, newest first."""
    from pipeline.catalog import latest, runs
    from pipeline.config import load
    from pipeline.forecast import outlet

    settings = load(config)
    root, product = outlet(settings).place, settings.product.name
    found = sorted(runs(root, product), key=lambda run: run.order, reverse=True)[:count]
    newest = latest(root, product)
    return tuple(_listed(_facts(run, newest)) for run in found)


def _facts(run: PublishedRun, newest: PublishedRun | None, skill: Skill | None = None) -> RunFacts:
    from pipeline.catalog import at_hand
    from pipeline.viewing import NOTHING, run_facts

    with at_hand(run) as here:
        return replace(run_facts(here, newest, skill or NOTHING), path=str(run.path))


def _listed(run: RunFacts) -> Listed:
    leads = tuple(lead.minutes for lead in run.leads)
    return Listed(run.init, run.created, run.run_key, run.model, leads, run.rungs, run.newest)


def show(config: Path, name: str = "") -> RunFacts:
    """What is known of a run.

    Args:
        config: TOML file of the product.
        name: init time, run key or path; empty: the newest.

    Raises:
        CubecastError: no such run.
    """
    from pipeline.catalog import latest
    from pipeline.config import load
    from pipeline.forecast import outlet
    from pipeline.viewing import skill_of

    settings = load(config)
    run, newest = _run(settings, name), latest(outlet(settings).place, settings.product.name)
    return _facts(run, newest, skill_of(settings, run))


def _run(settings: Settings, name: str) -> PublishedRun:
    from pipeline.catalog import find_run, latest
    from pipeline.errors import PublishError
    from pipeline.forecast import outlet

    root, product = outlet(settings).place, settings.product.name
    if name:
        return find_run(root, product, name)
    newest = latest(root, product)
    if newest is None:
        msg = f"a run is shown once it is published, {product} has none: cubecast forecast makes one"
        raise PublishError(msg)
    return newest


def draw(config: Path, name: str, path: Path) -> Path:
    """Writes a picture of a run (empty: the newest), a page as .png or a film as .gif; returns its path.

    Raises:
        CubecastError: no such run, its cube is gone, or the file's name ends otherwise.
    """
    from pipeline.config import load
    from pipeline.errors import CubecastError, room

    kind = path.suffix.lower()
    if kind not in {".png", ".gif"}:
        raise CubecastError(f"a picture is a .png or a .gif, found {path.name}: name it so")
    settings = load(config)
    from pipeline.catalog import at_hand
    from pipeline.viewing import portrait_of

    with at_hand(_run(settings, name)) as run:
        portrait = portrait_of(settings, run)
    with room(path.parent, "a picture is written into its folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".gif":
            from pipeline.film import write_film

            write_film(path, portrait)
        else:
            from pipeline.portrait import write_portrait

            write_portrait(path, portrait)
    return path


def verify(config: Path, name: str = "", *, hashes: bool = False) -> Passport:
    """Checks a run's files and, unless ``hashes``, makes its pixels again and compares them.

    Args:
        config: TOML file of the product.
        name: init time, run key or path of the run, or path of a copy; empty: the newest.
        hashes: only the files.

    Raises:
        CubecastError: no such run.
    """
    from pipeline.catalog import at_hand
    from pipeline.config import load
    from pipeline.passport import check_files
    from pipeline.passport import verify as run

    settings = load(config)
    found = _run(settings, name)
    with at_hand(found) as here:
        passport = check_files(here.path) if hashes else run(settings, here.path, _champion)
    return replace(passport, path=found.path)


def _champion(settings: Settings, ref: ModelRef) -> Champion:
    with native_silence():  # the model's load imports TensorFlow
        from models.registry import open_registry

        return open_registry(settings, now=False).load_version(settings, ref.version).champion()
