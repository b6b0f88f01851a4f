"""The forecast flow: the newest snapshot and the champion into published GeoTIFFs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow, task
from prefect.logging import get_run_logger

from flows import verbs
from flows.runs import FLOW, QUICK
from pipeline.specs import UtcTime


@task(**QUICK)
def publish_forecast(config: Path, init: datetime | None) -> verbs.Forecasted:
    """Makes and publishes one run."""
    return verbs.forecast(config, init=init)


@flow(name="forecast", **FLOW)
def forecast(config: Path, init: UtcTime | None = None) -> str:
    """Publishes one forecast run; the same run again changes nothing.

    Args:
        config: TOML file of the product.
        init: for a hindcast, the init time, UTC; it sees only what was available then. Empty: the newest scene,
            or with ``forecast.issue = "due"`` the newest slot that is due.

    Returns:
        Folder of the published run.
    """
    done = publish_forecast(config, init)
    if done.warning:
        get_run_logger().warning("forecast by %s: %s", done.model, done.warning)
    return done.run
