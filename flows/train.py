"""The train flow: the newest snapshot into a registered model."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows import verbs
from flows.runs import FLOW_TIMEOUT, ONCE, log_watcher, run_name


@task(**ONCE)
def train_network(config: Path) -> verbs.Trained:
    """Trains the network and registers it."""
    return verbs.train(config, watcher=log_watcher())


@flow(name="train", flow_run_name=run_name, timeout_seconds=FLOW_TIMEOUT, persist_result=False)
def train(config: Path) -> str:
    """Trains the attention ConvLSTM on the newest snapshot, records it in MLflow and registers it.

    The first version that beats both baselines, on validation chips and over the test part, becomes champion.

    Args:
        config: TOML file of the product.

    Returns:
        The registered model as ``models:/name/version``.
    """
    trained = train_network(config)
    return f"models:/{trained.model}/{trained.version}"
