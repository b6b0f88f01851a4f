"""A tiny product with its cube, a network for it, and what one short training makes of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from models.networks import build
from models.prediction import Card, Network
from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.normalise import Statistics
from pipeline.record import ModelRef
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import NODATA, PATTERN, SCALE, TIME_FORMAT, Faults, write_scenes

if TYPE_CHECKING:
    from models.experiment import Outcome
    from models.registry import Registry

SKY = SyntheticSpec(height=48, width=48, frames=16, speed=1.5, noise=0)
TINY = {"filters": 4, "attention_units": 4, "head_units": 6, "pixels": 4000}
TINY |= {"chip": 16, "batch": 2, "steps_per_epoch": 3, "epochs": 2}


@dataclass(frozen=True, slots=True)
class Trained:
    """A product after a training, and the phases that it went through."""

    settings: Settings
    registry: Registry
    outcome: Outcome
    phases: tuple[str, ...]


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[..., Settings]:
    """Settings of the made-up sky in a folder; whole sections can be replaced."""

    def make(root: Path, **changed: Any) -> Settings:
        grid = SKY.grid
        document: dict[str, Any] = {
            "workspace": root / "work",
            "product": {"name": "tiny", "title": "Tiny clouds"},
            "scenes": {"folder": root / "inbox", "pattern": PATTERN, "time_format": TIME_FORMAT},
            "bands": [{"name": "reflectance", "dtype": "uint16", "scale": SCALE, "nodata": NODATA}],
            "grid": {
                "crs": SKY.crs,
                "transform": tuple(grid.transform)[:6],
                "width": grid.width,
                "height": grid.height,
            },
            "axis": {"origin": SKY.start, "cadence": SKY.cadence},
            "samples": {"context_frames": 2, "max_age": 4, "horizon": 2},
            "training": TINY,
        }
        return Settings(**document | changed)

    return make


@pytest.fixture(scope="session")
def sky(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Callable[..., Settings]) -> Settings:
    """Sixteen scenes of 48 x 48 px in their cube."""
    root = tmp_path_factory.mktemp("sky")
    write_scenes(root / "inbox", SKY, Faults.none())
    settings = tiny_settings(root)
    ingest(settings)
    return settings


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    """A network for settings; ``trained`` gives every weight some value, as a training would."""

    from models.material import network_spec

    def make(settings: Settings, *, trained: bool = False, seed: int = 0) -> Network:
        keras.utils.set_random_seed(seed)
        spec = network_spec(settings)
        model = build(spec)
        if trained:
            random = np.random.default_rng(seed)
            model.set_weights([random.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
        bands = tuple(band.name for band in settings.bands)
        statistics = Statistics((0.3,) * len(bands), (0.2,) * len(bands), "snapshot")
        card = Card(spec, statistics, settings.samples, settings.motion, bands)
        return Network(model, card, ModelRef(settings.product.name, "1", "network"))

    return make


@pytest.fixture(scope="session")
def trained(sky: Settings) -> Trained:
    """The sky after 2 epochs of 3 steps; real MLflow on SQLite."""
    from models.experiment import Watcher, train
    from models.registry import open_registry

    phases: list[str] = []
    registry = open_registry(sky)
    outcome = train(sky, registry, watcher=Watcher(phase=phases.append))
    return Trained(sky, registry, outcome, tuple(phases))
