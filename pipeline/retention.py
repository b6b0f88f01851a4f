"""Which published runs stay: those that are young enough and new enough, the latest, and those with a pin."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.bucket import Location
from pipeline.catalog import as_json, entries_named, manifest_if_readable, newest, one_of, refresh
from pipeline.record import MANIFEST, iso
from pipeline.shelf import LEFTOVERS, PINNED, Entry, Shelf, shelf_at
from pipeline.specs import ForecastSpec
from pipeline.times import EPOCH, parse_time
from pipeline.withdrawal import forget_manifest


@dataclass(frozen=True, slots=True)
class Tidied:
    """What a tidying removed, or would remove.

    Attributes:
        runs: paths of runs, oldest first.
        leftovers: what killed commands left behind.
    """

    runs: tuple[str, ...]
    leftovers: tuple[str, ...]


def pin(place: Location, product: str, name: str) -> str:
    """Keeps a run, published or withdrawn, from ever being removed; returns its path.

    Raises:
        PublishError: no or several runs of that name.
    """
    return _set_pin(place, product, name, as_json({"pinned": iso(datetime.now(UTC))}))


def unpin(place: Location, product: str, name: str) -> str:
    """Lets a run be removed when its time comes; returns its path.

    Raises:
        PublishError: no or several runs of that name.
    """
    return _set_pin(place, product, name, None)


def tidy(
    place: Location, product: str, spec: ForecastSpec, *, now: datetime | None = None, dry_run: bool = False
) -> Tidied:
    """Removes runs that are too old or too many, and leftovers; mends what killed commands left half done.

    Catalogues forget a run before it goes, and it goes in one step, so that no reader finds a part of one.

    Args:
        place: where published runs lie.
        product: whose runs.
        spec: how long and how many runs stay.
        now: from when ages count; now, unless given.
        dry_run: removes nothing.
    """
    shelf = shelf_at(place, product)
    leftovers = shelf.sweep(LEFTOVERS, dry_run=True)
    with shelf.alone():
        entries = [entry for day in shelf.days() for entry in shelf.entries(day)]
        doomed = _doomed(shelf, entries, spec, now or datetime.now(UTC))
        if not dry_run:
            refresh(shelf, shelf.days(), without=frozenset(entry.name for entry in doomed))
            for entry in entries:
                if entry.withdrawn and MANIFEST in entry.files:
                    forget_manifest(shelf, entry)
            for entry in doomed:
                shelf.drop(entry)
    if not dry_run:
        shelf.sweep(LEFTOVERS)
    return Tidied(tuple((shelf.path / entry.name).as_posix() for entry in doomed), tuple(leftovers))


def _set_pin(place: Location, product: str, name: str, text: str | None) -> str:
    shelf = shelf_at(place, product)
    with shelf.alone():
        entry = one_of([one for one in entries_named(shelf, name) if one.published or one.withdrawn], name)
        if entry.pinned != (text is not None):
            shelf.update(f"{entry.name}/{PINNED}", lambda: text)
    return (shelf.path / entry.name).as_posix()


def _doomed(shelf: Shelf, entries: list[Entry], spec: ForecastSpec, now: datetime) -> list[Entry]:
    """Runs that go, oldest first."""
    latest = newest(shelf)
    free = [one for one in entries if not one.pinned and (latest is None or shelf.path / one.name != latest.path)]
    goes = _too_old(shelf, free, spec, now) | _too_many(shelf, entries, spec)
    return [entry for entry in free if entry.name in goes]


def _too_old(shelf: Shelf, entries: list[Entry], spec: ForecastSpec, now: datetime) -> set[str]:
    if spec.keep_for is None:
        return set()
    limit = now - spec.keep_for
    # A run is made at its init time or later, so that the manifests of young ones need not be read.
    old = [one for one in entries if (one.published or one.withdrawn) and one.init < limit]
    return {entry.name for entry in old if _created(shelf, entry) < limit}


def _too_many(shelf: Shelf, entries: list[Entry], spec: ForecastSpec) -> set[str]:
    """Published runs after the newest so many, and what was withdrawn and is older than these."""
    if spec.keep_runs is None:
        return set()
    ordered = _newest_first(shelf, [entry for entry in entries if entry.published])
    kept, beyond = ordered[: spec.keep_runs], ordered[spec.keep_runs :]
    if len(kept) < spec.keep_runs:
        return set()
    withdrawn = [entry for entry in entries if entry.withdrawn and entry.init < kept[-1].init]
    return {entry.name for entry in (*beyond, *withdrawn)}


def _newest_first(shelf: Shelf, entries: list[Entry]) -> list[Entry]:
    """By (init, created); where an init time has one run, it need not be read."""
    runs_of = Counter(entry.init for entry in entries)
    made = {entry.name: _created(shelf, entry) if runs_of[entry.init] > 1 else EPOCH for entry in entries}
    return sorted(entries, key=lambda entry: (entry.init, made[entry.name]), reverse=True)


def _created(shelf: Shelf, entry: Entry) -> datetime:
    facts = manifest_if_readable(shelf, entry.name)
    return entry.init if facts is None else parse_time(facts["created"])
