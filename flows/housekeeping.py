"""The housekeeping flow: what nobody needs any more goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow, task
from pydantic import Field

from flows import cube_verbs, shelf_verbs
from flows.runs import FLOW, QUICK

Days = Annotated[int, Field(ge=7)]


@task(**QUICK)
def clean_cube(config: Path, keep_days: int) -> cube_verbs.Cleaned | None:
    """Lets old snapshots of the cube expire, and deletes what nothing reaches."""
    return cube_verbs.clean(config, keep_days) if cube_verbs.has_cube(config) else None


@task(**QUICK)
def tidy_forecasts(config: Path) -> shelf_verbs.Tidied:
    """Removes forecast runs that the configuration keeps no longer, and what killed commands left behind."""
    return shelf_verbs.tidy(config, dry_run=False)


@flow(name="housekeeping", **FLOW)
def housekeeping(config: Path, keep_days: Days = 30) -> int:
    """Deletes old snapshots of the cube, and forecast runs beyond ``forecast.keep_for`` and ``forecast.keep_runs``.

    Args:
        config: TOML file of the product.
        keep_days: Snapshots of the last days stay, and those with a tag; a forecast that saw an older one can be
            verified no more.

    Returns:
        How many forecast runs went.
    """
    clean_cube(config, keep_days)
    return len(tidy_forecasts(config).runs)
