"""The ingest flow: new scenes into the cube."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from prefect import flow, task
from prefect.logging import get_run_logger
from pydantic import Field

from flows import verbs
from flows.artifacts import progress
from flows.events import CUBE_UPDATED, emit
from flows.runs import FLOW, QUICK, log_progress
from flows.tending import changes
from flows.waiting import give_up

LOOK: Final = 5.0  # seconds between two looks at an inbox that is watched
TOLD: Final = 50  # scenes that an event names at most

Minutes = Annotated[float, Field(ge=0, le=300)]


@task(**QUICK)
def ingest_scenes(config: Path) -> verbs.Ingested:
    """Brings new scenes into the cube."""
    return verbs.ingest(config, progress=progress("scenes ingested", log_progress("files")))


@flow(name="ingest", **FLOW)
def ingest(config: Path, watch: Minutes = 0.0) -> str | None:
    """Brings every new scene of the inbox into the cube; a second run of the same scenes changes nothing.

    Args:
        config: TOML file of the product.
        watch: Minutes for which it stays and ingests whenever the inbox changes; 0: once.

    Returns:
        Id of the newest snapshot; None where no scene was ever accepted.
    """
    log, snapshot = get_run_logger(), None
    looks = changes(config, timedelta(minutes=watch), every=LOOK, failed=lambda error: log.warning("%s", error))
    for look, _ in enumerate(looks):
        began = datetime.now(UTC)
        done = ingest_scenes(config)
        if look == 0:  # who is asked for later takes over from a run that watches
            give_up(began)
        snapshot = done.snapshot
        if done.changed:
            _tell(config, done)
    return snapshot


def _tell(config: Path, done: verbs.Ingested) -> None:
    news = {"snapshot": done.snapshot, "newest": done.newest, "scenes": done.scenes[:TOLD], "count": len(done.scenes)}
    emit(CUBE_UPDATED, verbs.product_name(config), news)
