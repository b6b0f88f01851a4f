"""The verify flow: arrived truth against published forecasts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.logging import get_run_logger

from flows import model_verbs, quality_verbs, verbs
from flows.artifacts import progress, show_verification
from flows.events import CHAMPION_OUTDONE, emit
from flows.runs import FLOW, QUICK, log_progress
from flows.waiting import give_up
from pipeline.errors import NoCubeError


@task(**QUICK)
def score_forecasts(config: Path) -> verbs.Verified | None:
    """Scores every published lead whose truth has come; None where no scene has come yet."""
    try:
        return verbs.verify(config, progress=progress("runs verified", log_progress("runs")))
    except NoCubeError:
        return None


@task(**QUICK)
def watch_champion(config: Path) -> model_verbs.Watched | None:
    """Looks whether the predecessor of a champion on probation does better."""
    return model_verbs.probation(config)


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
    if done is None:
        get_run_logger().info("nothing to verify yet: the first scene is to come")
        return 0
    give_up(began)
    _tell_of_skill(config, done)
    if done.scored:
        _tell_of_champion(config)
        show_verification(config, done)
    return done.scored


def _tell_of_skill(config: Path, done: verbs.Verified) -> None:
    """Tells of skill that is back, once, and of skill that is lost, again and again until it is back."""
    product = verbs.product_name(config)
    for alarm in done.alarms:
        if not alarm.open:
            emit(alarm.kind, product, asdict(alarm))
    due = quality_verbs.due_alarms(config)
    told = [alarm.name for alarm in due if emit(alarm.kind, product, asdict(alarm))]
    if told:
        quality_verbs.note_told(config, told)


def _tell_of_champion(config: Path) -> None:
    """Tells where a champion on probation does worse than its predecessor, again and again until it is rolled back."""
    watched = watch_champion(config)
    if watched is None or not watched.alarm:
        return
    get_run_logger().warning("%s", watched.alarm)
    name = f"champion {watched.champion}"
    if quality_verbs.is_due(config, name) and emit(CHAMPION_OUTDONE, watched.product, asdict(watched)):
        quality_verbs.note_told(config, [name])
