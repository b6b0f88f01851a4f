"""The product of a soak: its scenes, made beforehand and kept aside, and its configuration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio

from pipeline.config import Settings, load
from pipeline.inspect import inspect, write
from pipeline.synthetic import synthesise
from pipeline.synthetic_scenes import AVAILABLE_TAG, PATTERN, TIME_FORMAT, encode, write_scene
from tests.soak.scenario import Arrival, Fault, Scenario

NAME = "soak"
HORIZON = 2
"""Leads; short, so that a few dozen init times are enough independent ones to judge a challenger by."""
GAIN, OFFSET = 3.0, 0.5
"""What the sensor makes of the light after the drift: a network can tell the two skies apart, and the newer one's
errors, which are larger then, weigh more in its training than the older one's."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Files of a story, each in a folder of its step, as they are to appear."""

    folder: Path

    def drop(self, arrivals: tuple[Arrival, ...], inbox: Path) -> None:
        """Puts files into the inbox, each in one step."""
        for one in arrivals:
            part = inbox / f".{one.name}.part"
            shutil.copyfile(self.path(one), part)
            part.rename(inbox / one.name)

    def path(self, one: Arrival) -> Path:
        """Where a file is kept."""
        return self.folder / one.name


def fill(folder: Path, told: Scenario) -> Archive:
    """Makes all files of a story."""
    folder.mkdir(parents=True)
    archive, before, after = Archive(folder), synthesise(told.sky), synthesise(told.drifted)
    for one in (*told.history, *told.arrivals):
        values = after.values[one.slot] * GAIN + OFFSET if told.changed(one.slot) else before.values[one.slot]
        dn = encode(values.astype(np.float32), before.validity[one.slot])
        available = told.time(one.slot) if one.fault is Fault.REPEATED else told.available(one)
        write_scene(archive.path(one), dn, told.sky.grid, told.time(one.slot), available)
        if one.fault is Fault.CORRUPT:
            _corrupt(archive.path(one))
        if one.fault is Fault.CUT:
            _cut(archive.path(one))
    return archive


def _corrupt(path: Path) -> None:
    """Overwrites the first half of the first block, from its own header on; see pipeline.synthetic_scenes."""
    with rasterio.open(path) as file:
        offset, size = (int(file.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * (size // 2))


def _cut(path: Path) -> None:
    with path.open("r+b") as raw:
        raw.truncate(path.stat().st_size * 2 // 3)


def configure(folder: Path, told: Scenario, archive: Archive, ports: tuple[int, int]) -> Path:
    """Writes the configuration, and the history into the inbox; its path."""
    inbox, path = folder / "scenes", folder / "product.toml"
    inbox.mkdir(parents=True)
    archive.drop(told.history, inbox)
    with TemporaryDirectory(dir=folder) as looked_at:  # what is inspected has plain names alone
        archive.drop(told.history, Path(looked_at))
        write(inspect(Path(looked_at)), path)
    write(_tuned(load(path), folder, ports), path, overwrite=True)
    return path


def _tuned(settings: Settings, folder: Path, ports: tuple[int, int]) -> Settings:
    """A network that learns in a minute, short forecasts, and scenes that may change their level."""
    parts = {
        "product": {"name": NAME, "title": "Made-up clouds", "licence": "CC0-1.0"},
        "scenes": {
            "folder": folder / "scenes",
            "pattern": PATTERN,
            "time_format": TIME_FORMAT,
            "available_tag": AVAILABLE_TAG,
            "firewall": settings.scenes.firewall.model_copy(update={"level": "off"}),  # the drift is one of the level
        },
        # Few slots for validation: it then lies beside the training in space, and the training reaches up to the test.
        "samples": {"horizon": HORIZON, "test_fraction": 0.3, "validation_fraction": 0.04},
        "forecast": {"delay": timedelta(minutes=3)},
        "training": {"network": "head", "pixels": 200_000, "chip": 96, "budget": timedelta(minutes=2)},
        "models": {"coverage_within": 0.2, "cost_ratio": 4.0},  # few truths, on a machine that does other things
        "services": {"prefect_port": ports[0], "mlflow_port": ports[1]},
    }
    update = {part: getattr(settings, part).model_copy(update=values) for part, values in parts.items()}
    return settings.model_copy(update=update | {"workspace": folder / "workspace"})
