"""The train flow: the newest snapshot into a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow, task
from prefect.logging import get_run_logger

from flows import verbs
from flows.artifacts import show_training, training_progress
from flows.runs import FLOW, ONCE, log_watcher
from flows.waiting import in_turn


@task(**ONCE)
def train_network(config: Path, start: str) -> verbs.Trained:
    """Trains the network and registers it."""
    watcher = training_progress(log_watcher())
    return in_turn(lambda: verbs.train(config, watcher=watcher, start=start), get_run_logger().info)


@flow(name="train", **FLOW)
def train(config: Path, start: Literal["auto", "resume", "fresh"] = "auto") -> str:
    """Trains the network on the newest snapshot, records it in MLflow and registers it.

    The first version that beats both baselines, on validation chips and over the test part, becomes champion. A run
    that was cancelled, or whose worker died, is gone on with by the next one.

    Args:
        config: TOML file of the product.
        start: ``auto``: an interrupted training of the same settings and snapshot goes on, else a new one; ``resume``:
            the newest interrupted one goes on; ``fresh``: a new one.

    Returns:
        The registered model as ``models:/name/version``, or ``trainings/ID`` while MLflow does not answer.
    """
    trained = train_network(config, start)
    show_training(config, trained)
    return f"models:/{trained.model}/{trained.version}" if trained.version else f"trainings/{trained.training}"
