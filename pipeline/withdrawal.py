"""A published run is taken back, with a reason, and can be put back; its rasters stay as they are.

First the run's withdrawn.json says so, which decides; then day catalogue and latest.json forget the run; last its
manifest goes, which withdrawn.json keeps. The same command again goes on where a killed one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.bucket import Location
from pipeline.catalog import (
    PublishedRun,
    as_json,
    entries_named,
    find_run,
    manifest,
    one_of,
    published_or_withdrawn,
    refresh,
)
from pipeline.errors import PublishError
from pipeline.record import MANIFEST, iso
from pipeline.shelf import WITHDRAWN, Entry, Shelf, shelf_at
from pipeline.times import parse_time

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A run that is not to be used any more.

    Attributes:
        run_key: which run.
        init: its init time, UTC.
        withdrawn: when, UTC.
        reason: why.
        path: the run's folder.
    """

    run_key: str
    init: datetime
    withdrawn: datetime
    reason: str
    path: str


def withdraw(place: Location, product: str, name: str, reason: str, *, now: datetime | None = None) -> Withdrawal:
    """Takes a run back; one that is withdrawn already keeps its first reason.

    Args:
        place: where published runs lie.
        product: whose run.
        name: the run's key, init time or path.
        reason: for those who have fetched the run.
        now: when; now, unless given.

    Raises:
        PublishError: no or several runs of that name, no reason, or a manifest that cannot be read.
    """
    if not reason.strip():
        msg = "a run is withdrawn for a reason that its users can read, found none: say what is wrong with it"
        raise PublishError(msg)
    shelf = shelf_at(place, product)
    with shelf.alone():
        entry = one_of(published_or_withdrawn(shelf, name), name)
        if not entry.withdrawn:
            text = _record(shelf, entry, reason.strip(), now or datetime.now(UTC))
            shelf.update(f"{entry.name}/{WITHDRAWN}", lambda: text)
        refresh(shelf, [entry.day])
        forget_manifest(shelf, entry)
        return _withdrawal(shelf, entry)


def restore(place: Location, product: str, name: str) -> PublishedRun:
    """Puts a withdrawn run back, with the manifest that it had; one that is published stays as it is.

    Raises:
        PublishError: no or several withdrawn runs of that name, or one that lost a file meanwhile.
    """
    shelf = shelf_at(place, product)
    with shelf.alone():
        found = entries_named(shelf, name)
        entry = one_of([one for one in found if one.withdrawn] or [one for one in found if one.published], name)
        facts = manifest(shelf, entry.name) or {}
        _check_whole(shelf, entry, facts)
        shelf.update(f"{entry.name}/{MANIFEST}", lambda: as_json(facts))
        shelf.update(f"{entry.name}/{WITHDRAWN}", lambda: None)
        refresh(shelf, [entry.day])
    return find_run(place, product, entry.name)


def withdrawals(place: Location, product: str) -> Iterator[Withdrawal]:
    """Every withdrawn run that still lies there, oldest first."""
    shelf = shelf_at(place, product)
    for day in shelf.days():
        for entry in shelf.entries(day):
            if entry.withdrawn:
                yield _withdrawal(shelf, entry)


def forget_manifest(shelf: Shelf, entry: Entry) -> None:
    """The last step of a withdrawal, which a killed one may owe."""
    shelf.update(f"{entry.name}/{MANIFEST}", lambda: None)


def _record(shelf: Shelf, entry: Entry, reason: str, now: datetime) -> str:
    said = {
        "schema_version": SCHEMA_VERSION,
        "product": shelf.product,
        "init": iso(entry.init),
        "run_key": entry.key,
        "withdrawn": iso(now),
        "reason": reason,
        "run": manifest(shelf, entry.name),
    }
    return as_json(said)


def _withdrawal(shelf: Shelf, entry: Entry) -> Withdrawal:
    said = json.loads(shelf.read(f"{entry.name}/{WITHDRAWN}") or "{}")
    path = (shelf.path / entry.name).as_posix()
    return Withdrawal(entry.key, entry.init, parse_time(said["withdrawn"]), said["reason"], path)


def _check_whole(shelf: Shelf, entry: Entry, facts: dict[str, Any]) -> None:
    named = {lead[part]["name"] for lead in facts["leads"] for part in ("values", "quality", "item")}
    lost = sorted(named - entry.files)
    if lost:
        msg = (
            f"a run is put back whole, but {shelf.path / entry.name} has lost {', '.join(lost)}: bring them back, or "
            "remove the folder and forecast again"
        )
        raise PublishError(msg)
