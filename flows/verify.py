"""The verify flow: arrived truth against published forecasts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task

from flows import verbs
from flows.artifacts import progress, show_verification
from flows.events import emit
from flows.runs import FLOW, QUICK, log_progress
from flows.waiting import give_up


@task(**QUICK)
def score_forecasts(config: Path) -> verbs.Verified:
    """Scores every published lead whose truth has come."""
    return verbs.verify(config, progress=progress("runs verified", log_progress("runs")))


@flow(name="verify", **FLOW)
def verify(config: Path) -> int:
    """Scores every published lead whose truth has come, once, beside persistence and extrapolation.

    Args:
        config: TOML file of the product.

    Returns:
        How many leads were scored now.
    """
    began = datetime.now(UTC)
    done = score_forecasts(config)
    give_up(began)
    for alarm in getattr(done, "alarms", ()):
        emit(alarm.kind, verbs.product_name(config), asdict(alarm))
    if done.scored:
        show_verification(config, done)
    return done.scored
