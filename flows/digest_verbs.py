"""What a page says of a run, one function a verb, as in :mod:`flows.verbs`: keys, numbers and one small picture."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.metrics import ErrorRow
    from pipeline.viewing import RunFacts

NEWEST = 50  # runs of a model that its skill is told by


@dataclass(frozen=True, slots=True)
class Digest:
    """A published run for a page.

    ``facts``: what is known of it; ``latency``: from its init time to its publication; ``picture``: PNG of the leads
    in ``shown`` (minutes); ``skill``: errors of the newest runs of its model, a row a lead and band; ``model_page``:
    address in MLflow, empty where that is a database on the disk; ``sources``: file of each input scene, by its id.
    """

    facts: RunFacts
    latency: timedelta
    picture: bytes
    shown: tuple[int, ...]
    skill: tuple[ErrorRow, ...]
    model_page: str
    sources: dict[str, str]


def digest(config: Path, run: str) -> Digest:
    """What is known of a published run.

    Args:
        config: TOML file of the product.
        run: its path.

    Raises:
        CubecastError: no such run.
    """
    from pipeline.catalog import at_hand, find_run, latest
    from pipeline.config import load
    from pipeline.forecast import outlet
    from pipeline.thumbnail import panels, thumbnail
    from pipeline.viewing import run_facts

    settings = load(config)
    place, product = outlet(settings).place, settings.product.name
    published = find_run(place, product, run)
    with at_hand(published) as here:
        facts, picture = run_facts(here, latest(place, product)), thumbnail(here)
    return Digest(
        facts=facts,
        latency=facts.created - facts.init,
        picture=picture,
        shown=panels(published),
        skill=skill(config, facts.model, facts.init),
        model_page=model_page(config, published.model.version) if published.model.source == "network" else "",
        sources=_sources(config, facts.snapshot, facts.scenes),
    )


def skill(config: Path, model: str, before: datetime) -> tuple[ErrorRow, ...]:
    """Errors by lead and band of the newest runs of a model (name and version) before a time."""
    from pipeline.config import load
    from pipeline.forecast import outlet
    from pipeline.scorebook import recent
    from pipeline.verify import tabulate

    settings = load(config)
    scored = recent(settings.paths.verification, model, before, NEWEST)
    return tuple(tabulate(scored, outlet(settings).bands))


def model_page(config: Path, version: str) -> str:
    """Address of a model version in MLflow; empty where that is a database on the disk."""
    from pipeline.config import load

    settings = load(config)
    server = settings.tracking.uri.rstrip("/")
    return f"{server}/#/models/{settings.product.name}/versions/{version}" if server.startswith("http") else ""


def training_page(config: Path, run_id: str) -> str:
    """Address of an MLflow run; empty where that is a database on the disk, or there is none."""
    from pipeline.config import load

    server = load(config).tracking.uri.rstrip("/")
    return f"{server}/#/runs/{run_id}" if server.startswith("http") and run_id else ""


def _sources(config: Path, snapshot: str, scenes: tuple[str, ...]) -> dict[str, str]:
    from pipeline.config import load
    from pipeline.cube import open_cube, store_of

    cube = open_cube(store_of(load(config)), snapshot=snapshot)
    named = {row.scene.id: row.scene.source for row in cube.rows if row.scene.id in scenes}
    return {scene: named.get(scene, "") for scene in scenes}
