"""The ingest flow: new scenes into the cube."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows import verbs
from flows.runs import FLOW, QUICK, log_progress


@task(**QUICK)
def ingest_scenes(config: Path) -> verbs.Ingested:
    """Brings new scenes into the cube."""
    return verbs.ingest(config, progress=log_progress("files"))


@flow(name="ingest", **FLOW)
def ingest(config: Path) -> str | None:
    """Brings every new scene of the inbox into the cube; a second run of the same scenes changes nothing.

    Args:
        config: TOML file of the product.

    Returns:
        Id of the newest snapshot; None where no scene was ever accepted.
    """
    return ingest_scenes(config).snapshot
