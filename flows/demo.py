"""The demo: made-up scenes through the real flows, and a table that says what the model is worth."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows import console, verbs
from flows.watching import watched
from pipeline.errors import CubecastError, NoSkillError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.metrics import ErrorRow

FOLDER = Path("work/demo")
CONFIG = "product.toml"
WORKSPACE = "product"
MARKER = ".cubecast-demo"
FRAMES = 72
HINDCASTS = 4


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo left behind.

    Attributes:
        config: its configuration, usable with every other command.
        runs: folders of the published forecast runs, by init time.
        picture: one PNG: context, attention, forecast, truth.
        table: errors by lead over all runs.
    """

    config: Path
    runs: tuple[Path, ...]
    picture: Path
    table: tuple[ErrorRow, ...]

    def lines(self) -> list[str]:
        """Where everything lies, and how to open the pages."""
        return [
            "Forecast GeoTIFFs, one folder a run:",
            *(f"  {run}" for run in self.runs),
            f"Picture (context, attention, forecast, truth): {self.picture}",
            f"MLflow:  {self.mlflow_command}",
            f"Prefect: {self.prefect_command}",
        ]

    @property
    def mlflow_command(self) -> str:
        """Opens the page with experiments and models."""
        database = self.config.parent / WORKSPACE / "mlflow" / "mlflow.db"
        return f"{_program('mlflow')} ui --backend-store-uri sqlite:///{database}"

    @property
    def prefect_command(self) -> str:
        """Opens the page with flow runs."""
        return f"PREFECT_HOME={_prefect_home(self.config.parent)} {_program('prefect')} server start"


def demo(folder: Path) -> Demo:
    """Makes scenes, then ingests, trains, forecasts and verifies through Prefect.

    Raises:
        CubecastError: ``folder`` holds something that is no demo.
    """
    _clear(folder)
    config = write_product(folder)
    _use_prefect_in(folder)
    from flows import forecast, ingest, train, verify

    with console.progress_bar("ingesting scenes") as progress, watched(progress=progress):
        ingest.ingest(config)
    with console.training_bars() as training, watched(training=training):
        train.train(config)
    runs: list[Path] = []
    inits = verbs.unseen_inits(config, HINDCASTS)
    with console.progress_bar("forecasting, over the stretch that the training never saw") as progress:
        for init in inits:
            runs.append(Path(forecast.forecast(config, init)))
            progress(len(runs), len(inits))
    with console.progress_bar("verifying") as progress, watched(progress=progress):
        verify.verify(config)
    picture = verbs.picture(config, inits[len(inits) // 2], folder / "forecast.png")
    return Demo(config, tuple(runs), picture, verbs.verify(config).table)


def check(table: Sequence[ErrorRow]) -> None:
    """Raises NoSkillError unless the forecasts beat persistence on the mean over leads."""

    def mean(name: str) -> float:
        return sum(row.mae[name] for row in table) / len(table)

    if not table or not mean("forecast") < mean("persistence"):
        ours, theirs = (mean("forecast"), mean("persistence")) if table else (float("nan"), float("nan"))
        msg = f"the trained model must beat persistence; mean absolute error {ours:.4g}, persistence {theirs:.4g}"
        raise NoSkillError(msg)


def _prefect_home(folder: Path) -> Path:
    """Inside the workspace, where ``cubecast up`` keeps Prefect too: so its pages show the demo's runs."""
    return folder.resolve() / WORKSPACE / "prefect"


def _program(name: str) -> str:
    """A command of this environment, as a user here can type it."""
    path = Path(sys.executable).with_name(name)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        msg = f"the demo starts from an empty folder, but {folder} holds something else: choose another with --folder"
        raise CubecastError(msg)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def write_product(folder: Path) -> Path:
    """Made-up scenes, with one late, one repeated, one corrupt and one half-written, and their configuration."""
    from pipeline.config import load
    from pipeline.inspect import inspect, write
    from pipeline.synthetic import SyntheticSpec
    from pipeline.synthetic_scenes import write_scenes

    with console.progress_bar(f"making {FRAMES} scenes: clouds over ground, every 5 minutes") as progress:
        scenes = write_scenes(folder / "scenes", SyntheticSpec(frames=FRAMES)).folder
        progress(1, 1)
    path = folder / CONFIG
    write(inspect(scenes), path)
    write(_tuned(load(path), folder), path, overwrite=True)
    return path


def _tuned(settings: Settings, folder: Path) -> Settings:
    """What no look at the scenes can tell, and a training that fits a demo's time."""
    from pipeline.synthetic_scenes import AVAILABLE_TAG, PATTERN, TIME_FORMAT

    product = {"name": "demo", "title": "Made-up clouds", "licence": "CC0-1.0", "attribution": "cubecast demo"}
    scenes = {"pattern": PATTERN, "time_format": TIME_FORMAT, "available_tag": AVAILABLE_TAG}  # copies are scenes too
    return settings.model_copy(
        update={
            "workspace": folder.resolve() / WORKSPACE,
            "product": settings.product.model_copy(update=product),
            "scenes": settings.scenes.model_copy(update=scenes),
            "samples": settings.samples.model_copy(update={"horizon": 6, "test_fraction": 1 / 3}),
            "forecast": settings.forecast.model_copy(update={"delay": timedelta(minutes=3)}),
            "training": settings.training.model_copy(update={"epochs": 4, "steps_per_epoch": 40, "pixels": 300_000}),
        }
    )


def _use_prefect_in(folder: Path) -> None:
    """Prefect's own server for this process, with its database in the demo's folder; set before Prefect is imported."""
    home = _prefect_home(folder)
    home.mkdir(parents=True)  # Prefect's server dies where its parent is missing
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    os.environ.pop("PREFECT_API_URL", None)
