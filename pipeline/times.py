"""Time as cubecast counts it: evenly spaced slots in UTC; init time, lead time, valid time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Evenly spaced slots from a fixed origin; slot ``i`` is true at ``origin + i * cadence``.

    >>> axis = TimeAxis(datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=5))
    >>> axis.valid_time(3).date().isoformat()
    '2024-01-16'
    >>> axis.slot(datetime(2024, 1, 15, tzinfo=UTC))
    3
    """

    origin: datetime
    cadence: timedelta

    def __post_init__(self) -> None:
        if self.origin.utcoffset() != timedelta(0):
            msg = f"the origin of a time axis is in UTC, found {self.origin.isoformat()}: add a Z"
            raise ValueError(msg)
        if self.cadence < timedelta(seconds=1) or self.cadence % timedelta(seconds=1):
            msg = f"the cadence of a time axis is a whole number of seconds, found {self.cadence}"
            raise ValueError(msg)

    def slot(self, time: datetime) -> int:
        """Index of the slot nearest to ``time``; of two equally near ones the earlier; negative before the origin."""
        return -((self.origin - time + self.cadence / 2) // self.cadence)

    def reached(self, time: datetime) -> int:
        """Index of the newest slot whose time has come by ``time``; negative before the origin.

        >>> TimeAxis(datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=5)).reached(datetime(2024, 1, 15, tzinfo=UTC))
        2
        """
        return (time - self.origin) // self.cadence

    def valid_time(self, slot: int) -> datetime:
        """When slot ``slot`` is true."""
        return self.origin + slot * self.cadence

    def age(self, init: int, acquired: datetime) -> float:
        """Age of an input at slot ``init``, in slots; negative where it was acquired after the slot's time."""
        return (self.valid_time(init) - acquired) / self.cadence


def seconds(time: datetime) -> int:
    """Whole seconds since 1970-01-01 UTC.

    >>> seconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400
    """
    return (time - EPOCH) // timedelta(seconds=1)


def from_seconds(value: int) -> datetime:
    """The inverse of :func:`seconds`."""
    return EPOCH + timedelta(seconds=int(value))


def stamp(time: datetime) -> str:
    """A time as folder and file names carry it; seconds only where there are any.

    >>> stamp(datetime(2020, 4, 1, 13, 10, tzinfo=UTC))
    '20200401T1310Z'
    """
    return f"{time:%Y%m%dT%H%M%SZ}" if time.second else f"{time:%Y%m%dT%H%MZ}"


def parse_time(text: str) -> datetime:
    """A time given by a user: ISO 8601 or the form of :func:`stamp`; UTC unless it says otherwise.

    Raises:
        ValueError: the text is neither.

    >>> parse_time("20200401T1310Z") == parse_time("2020-04-01 13:10") == parse_time("2020-04-01T14:10+01:00")
    True
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        msg = f"a time is written like 2020-04-01T13:10Z or 20200401T1310Z, found {text!r}"
        raise ValueError(msg) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def minutes(duration: timedelta) -> int:
    """Whole minutes of a duration, rounded.

    >>> minutes(timedelta(hours=1, seconds=20))
    60
    """
    return round(duration / timedelta(minutes=1))
