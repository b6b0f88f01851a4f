"""Forecast runs that are missing: of slots whose scene has come, while nobody could forecast or before it came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pipeline.catalog import manifest_if_readable
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.forecast import outlet
from pipeline.shelf import Shelf, shelf_at
from pipeline.specs import ForecastSpec

HOUR: Final = timedelta(hours=1)
SLOTS: Final = 12


@dataclass(frozen=True, slots=True)
class Shelved:
    """Init times of runs on a shelf, UTC.

    Attributes:
        published: of those that readers see.
        withdrawn: of those that were taken back.
    """

    published: frozenset[datetime]
    withdrawn: frozenset[datetime]


def missed(settings: Settings, newest: datetime) -> list[datetime]:
    """Init times to be made up for, newest first.

    A run that is made up for sees what a run at its time would have seen had its scene come at once: nothing after its
    init time, whenever it came. It is no hindcast, which would not see a scene that was late.

    Args:
        settings: the product.
        newest: init time of the newest run; only what lies within :func:`reach` before it is looked at.

    Raises:
        StoreError: there is no cube.
    """
    spec, back = settings.forecast, reach(settings.forecast, settings.axis.cadence)
    if not back:
        return []
    cube, shelf = open_cube(store_of(settings)), shelf_at(outlet(settings).place, settings.product.name)
    times = [cube.layout.axis.valid_time(int(slot)) for slot in cube.observed()]
    recent = [time for time in times if newest - back <= time < newest]
    found = lacking(recent, _shelved(shelf, newest - back, newest), spec)
    began = _began(shelf, newest) if found else None
    return [init for init in found if began is not None and init > began]


def reach(spec: ForecastSpec, cadence: timedelta) -> timedelta:
    """How far back from the newest run missing ones are made up for; no further than runs stay on the shelf."""
    back = max(HOUR, SLOTS * cadence) if spec.catch_up is None else spec.catch_up
    return min(back, spec.keep_for or back)


def lacking(observed: Iterable[datetime], shelved: Shelved, spec: ForecastSpec) -> list[datetime]:
    """Init times without a run that would stay on the shelf, newest first.

    Args:
        observed: slots whose scene has come, within reach.
        shelved: what lies on the shelf, at least of the time that is made up for.
        spec: how many runs stay: what was tidied away stays away.
    """
    known = shelved.published | shelved.withdrawn
    found = sorted((time for time in observed if time not in known), reverse=True)
    later = [sum(run > time for run in shelved.published) for time in found]
    room = [spec.keep_runs is None or ahead + place < spec.keep_runs for place, ahead in enumerate(later)]
    return [time for time, fits in zip(found, room, strict=True) if fits]


def _shelved(shelf: Shelf, first: datetime, last: datetime) -> Shelved:
    entries = [entry for day in _days(first, last) for entry in shelf.entries(day)]
    published = frozenset(entry.init for entry in entries if entry.published)
    return Shelved(published, frozenset(entry.init for entry in entries if entry.withdrawn))


def _days(first: datetime, last: datetime) -> Sequence[str]:
    count = (last.date() - first.date()).days + 1
    return [f"{first.date() + timedelta(days=number):%Y/%m/%d}" for number in range(count)]


def _began(shelf: Shelf, newest: datetime) -> datetime | None:
    """Init time of the oldest run that is no hindcast: before it nobody forecast."""
    for day in shelf.days():
        for entry in sorted(shelf.entries(day), key=lambda entry: entry.init):
            facts = manifest_if_readable(shelf, entry.name) if entry.init < newest else None
            if facts is not None and facts["specification"].get("as_of") is None:
                return entry.init
    return None
