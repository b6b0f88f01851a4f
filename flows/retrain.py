"""The retrain flow: a challenger as of now, which takes the champion's place if it proves better."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from prefect import flow, task
from prefect.logging import get_run_logger

from flows import model_verbs
from flows.artifacts import show_retraining, training_progress
from flows.runs import FLOW, ONCE, log_watcher
from flows.waiting import give_up, in_turn
from pipeline.errors import NoCubeError


@task(**ONCE)
def train_challenger(
    config: Path, *, start: str, warm: bool, force: bool, reason: str, why: str
) -> model_verbs.Retrained | None:
    """Trains a challenger, holds it against the champion, and promotes it or says why not; None without a cube."""
    watcher = training_progress(log_watcher())
    asked = {"start": start, "warm": warm, "force": force, "reason": reason, "why": why}
    try:
        return in_turn(lambda: model_verbs.retrain(config, **asked, watcher=watcher), get_run_logger().info)
    except NoCubeError:
        return None


@flow(name="retrain", **FLOW)
def retrain(
    config: Path,
    start: Literal["auto", "resume", "fresh"] = "auto",
    warm: bool = False,
    force: bool = False,
    reason: str = "",
    why: str = "",
) -> str:
    """Trains a challenger on the newest snapshot, and promotes it if it is better than the champion.

    Both forecast the same held-out init times, which neither has learned from; docs/training.md says what is asked of a
    challenger. One that is not promoted stays ``challenger``, with the reasons.

    Args:
        config: TOML file of the product.
        start: ``auto``: an interrupted training of the same settings and snapshot goes on, else a new one; ``resume``:
            the newest interrupted one goes on; ``fresh``: a new one.
        warm: its weights start from the champion's, and not anew.
        force: it is promoted whatever the comparison says; needs a reason.
        reason: why it is promoted by force, for the record.
        why: what the retraining is asked for, for the record; a trigger fills it in.

    Returns:
        The registered model as ``models:/name/version``, or ``trainings/ID`` while MLflow does not answer; empty where
        there is no cube yet.
    """
    log, began = get_run_logger(), datetime.now(UTC)
    if why:
        log.info("asked for by %s", why)
    done = train_challenger(config, start=start, warm=warm, force=force, reason=reason, why=why)
    if done is None:
        log.info("nothing to learn from yet: the first scene is to come")
        return ""
    give_up(began, but=("why",))  # two alarms at once ask for one challenger
    log.info("version %s %s: %s", done.version, done.decision, "; ".join(done.reasons))
    show_retraining(config, done)
    return f"models:/{done.product}/{done.version}" if done.version else f"trainings/{done.training}"
