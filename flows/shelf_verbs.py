"""What can be done with published runs, one function a verb, as in :mod:`flows.verbs`.

A run is named by its key, its init time or its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.record import Outlet
    from pipeline.withdrawal import Withdrawal


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A withdrawn run, and which run is the latest now (none where it is empty)."""

    run: str
    run_key: str
    init: datetime
    withdrawn: datetime
    reason: str
    latest: str


@dataclass(frozen=True, slots=True)
class Restored:
    """A run that was put back, and which run is the latest now."""

    run: str
    latest: str


@dataclass(frozen=True, slots=True)
class Pinned:
    """A run, and whether it stays for ever."""

    run: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class Tidied:
    """What was removed, or would be: runs, and what killed commands left behind."""

    runs: tuple[str, ...]
    leftovers: tuple[str, ...]
    dry_run: bool


def withdraw(config: Path, run: str, reason: str) -> Withdrawn:
    """Takes a published run back.

    Raises:
        CubecastError: no such run, or no reason.
    """
    from pipeline.withdrawal import withdraw as take_back

    where = _outlet(config)
    done = take_back(where.place, where.product.name, run, reason)
    return Withdrawn(done.path, done.run_key, done.init, done.withdrawn, done.reason, _latest(where))


def withdrawn(config: Path) -> list[Withdrawal]:
    """Every withdrawn run that still lies there, oldest first."""
    from pipeline.withdrawal import withdrawals

    where = _outlet(config)
    return list(withdrawals(where.place, where.product.name))


def restore(config: Path, run: str) -> Restored:
    """Puts a withdrawn run back.

    Raises:
        CubecastError: no such run, or it lost a file.
    """
    from pipeline.withdrawal import restore as put_back

    where = _outlet(config)
    return Restored(put_back(where.place, where.product.name, run).path.as_posix(), _latest(where))


def pin(config: Path, run: str, *, keep: bool) -> Pinned:
    """Keeps a run from ever being removed, or no longer.

    Raises:
        CubecastError: no such run.
    """
    from pipeline.retention import pin as set_pin
    from pipeline.retention import unpin

    where = _outlet(config)
    act = set_pin if keep else unpin
    return Pinned(act(where.place, where.product.name, run), keep)


def tidy(config: Path, *, dry_run: bool) -> Tidied:
    """Removes runs that the configuration keeps no longer, and what killed commands left behind.

    Raises:
        CubecastError: the configuration has a fault, or a manifest cannot be read.
    """
    from pipeline.config import load
    from pipeline.retention import tidy as clean

    where = _outlet(config)
    done = clean(where.place, where.product.name, load(config).forecast, dry_run=dry_run)
    return Tidied(done.runs, done.leftovers, dry_run)


def _outlet(config: Path) -> Outlet:
    from pipeline.config import load
    from pipeline.forecast import outlet

    return outlet(load(config))


def _latest(where: Outlet) -> str:
    from pipeline.catalog import latest

    run = latest(where.place, where.product.name)
    return "" if run is None else run.path.as_posix()
