"""A tiny product with its cube, and what one short training makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.experiment import Outcome, Watcher, train
from models.registry import Registry, open_registry
from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import NODATA, PATTERN, SCALE, TIME_FORMAT, Faults, write_scenes

SKY = SyntheticSpec(height=48, width=48, frames=16, speed=1.5, noise=0)
TINY = {"filters": 4, "attention_units": 4, "chip": 16, "batch": 2, "steps_per_epoch": 3, "epochs": 2}


@dataclass(frozen=True, slots=True)
class Trained:
    """A product after a training, and the phases that it went through."""

    settings: Settings
    registry: Registry
    outcome: Outcome
    phases: tuple[str, ...]


def tiny_settings(root: Path, **changed: Any) -> Settings:
    """The product of the made-up sky in ``root``."""
    document: dict[str, Any] = {
        "workspace": root / "work",
        "product": {"name": "tiny", "title": "Tiny clouds"},
        "scenes": {"folder": root / "inbox", "pattern": PATTERN, "time_format": TIME_FORMAT},
        "bands": [{"name": "reflectance", "dtype": "uint16", "scale": SCALE, "nodata": NODATA}],
        "grid": {"crs": SKY.crs, "transform": tuple(SKY.grid.transform)[:6], "width": SKY.width, "height": SKY.height},
        "axis": {"origin": SKY.start, "cadence": SKY.cadence},
        "samples": {"context_frames": 2, "max_age": 4, "horizon": 2},
        "training": TINY,
    }
    return Settings(**document | changed)


@pytest.fixture(scope="session")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Sixteen scenes of 48 x 48 px in their cube."""
    root = tmp_path_factory.mktemp("sky")
    write_scenes(root / "inbox", SKY, Faults.none())
    settings = tiny_settings(root)
    ingest(settings)
    return settings


@pytest.fixture(scope="session")
def trained(sky: Settings) -> Trained:
    """The sky after 2 epochs of 3 steps; real MLflow on SQLite."""
    phases: list[str] = []
    registry = open_registry(sky)
    outcome = train(sky, registry, watcher=Watcher(phase=phases.append))
    return Trained(sky, registry, outcome, tuple(phases))
