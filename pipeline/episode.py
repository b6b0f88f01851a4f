"""One forecast of one band and all around it, in numbers and words: what it saw, said and met, how far off it was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]

NO_UNITS = ("", "1")  # of a ratio


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """Everything that a picture of a forecast shows.

    Attributes:
        product: its name.
        band: the band's name.
        units: of the band.
        model: what made the forecast.
        attribution: credit that must accompany every picture; may be empty.
        init: init time, UTC.
        cadence: one slot.
        acquired: times of the context frames, UTC, oldest first.
        context: ``(frame, y, x)``, as observed, in the units of the band; NaN where missing.
        forecast: ``(lead, y, x)``, for leads 1, 2, ... slots, the median if there is one; NaN where nothing is known.
        truth: shape of ``forecast``, NaN where missing; None where nothing has come yet.
        attention: ``(lead, frame, y / patch, x / patch)``, weights from 0 to 1 where things are at the init time, NaN
            where no frame has a valid pixel; None for a forecast without.
        patch: side of a patch of ``attention``, pixels.
        interval: ``(2, lead, y, x)``, the forecast's lower and upper end (q10 and q90); None for a forecast without.
    """

    product: str
    band: str
    units: str
    model: str
    attribution: str
    init: datetime
    cadence: timedelta
    acquired: tuple[datetime, ...]
    context: Maps
    forecast: Maps
    truth: Maps | None = None
    attention: Maps | None = None
    patch: int = 1
    interval: Maps | None = None

    def __post_init__(self) -> None:
        frames, height, width = self.context.shape
        if len(self.acquired) != frames or not frames:
            msg = f"an episode has one time for each of its context frames, found {len(self.acquired)} for {frames}"
            raise ValueError(msg)
        if self.forecast.shape[1:] != (height, width) or not len(self.forecast):
            msg = f"an episode's forecast is (lead, {height}, {width}) as its context, found {self.forecast.shape}"
            raise ValueError(msg)
        if self.truth is not None and self.truth.shape != self.forecast.shape:
            msg = f"an episode's truth has the shape of its forecast, {self.forecast.shape}, found {self.truth.shape}"
            raise ValueError(msg)
        needed = (len(self.forecast), frames, -(-height // self.patch), -(-width // self.patch))
        if self.attention is not None and self.attention.shape != needed:
            msg = f"an episode's attention is (lead, frame, y, x) = {needed}, found {self.attention.shape}"
            raise ValueError(msg)
        if self.interval is not None and self.interval.shape != (2, *self.forecast.shape):
            msg = f"an episode's interval is (2, lead, y, x) = {(2, *self.forecast.shape)}, found {self.interval.shape}"
            raise ValueError(msg)

    @property
    def horizon(self) -> int:
        """Number of leads."""
        return len(self.forecast)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.context.shape[1], self.context.shape[2]

    def valid_time(self, lead: int) -> datetime:
        """When the forecast for a lead (slots, from 1) is true."""
        return self.init + lead * self.cadence

    def newest_frames(self, count: int) -> tuple[int, ...]:
        """The newest ``count`` frames that show anything, oldest first."""
        filled = np.flatnonzero(np.isfinite(self.context).any(axis=(1, 2)))
        return tuple(filled[-count:].tolist())

    def spread_leads(self, count: int) -> tuple[int, ...]:
        """At most ``count`` leads (slots, from 1), spread evenly from the first to the last."""
        return tuple(sorted(set(np.linspace(1, self.horizon, count).round().astype(int).tolist())))

    def persistence(self) -> Maps:
        """``(y, x)``: the newest valid value of each pixel; NaN where there is none."""
        newest = self.context[0]
        for frame in self.context[1:]:
            newest = np.where(np.isfinite(frame), frame, newest)
        return newest

    def error(self, lead: int) -> Maps:
        """``(y, x)``: forecast minus truth at a lead; NaN where either is missing."""
        return self.forecast[lead - 1] - self.truth_at(lead)

    def persistence_error(self, lead: int) -> Maps:
        """``(y, x)``: persistence minus truth at a lead; NaN where either is missing."""
        return self.persistence() - self.truth_at(lead)

    def width(self, lead: int) -> Maps:
        """``(y, x)``: upper minus lower end of the interval at a lead; NaN where the forecast has none."""
        if self.interval is None:
            return np.full(self.grid_shape, np.nan, np.float32)
        return self.interval[1, lead - 1] - self.interval[0, lead - 1]

    def held(self, lead: int) -> float | None:
        """Share of the truth of a lead within the interval, its ends included; None where there is nothing to hold."""
        known = np.isfinite(self.width(lead)) & np.isfinite(self.truth_at(lead))
        if self.interval is None or not known.any():
            return None
        low, high = self.interval[:, lead - 1, known]
        truth = self.truth_at(lead)[known]
        return float(((low <= truth) & (truth <= high)).mean())

    def mean_errors(self) -> dict[int, MeanErrors]:
        """Mean absolute errors by lead (slots, from 1), where forecast, persistence and truth are known.

        Leads without such a pixel are left out.
        """
        if self.truth is None:
            return {}
        still = self.persistence()
        pairs = zip(self.forecast, self.truth, strict=True)
        found = {lead: _mean_errors(said, still, came) for lead, (said, came) in enumerate(pairs, start=1)}
        return {lead: errors for lead, errors in found.items() if errors is not None}

    def mean_weights(self) -> Maps:
        """``(lead, frame)``: mean weight over the patches where anything is known; NaN without attention."""
        if self.attention is None:
            return np.full((self.horizon, len(self.acquired)), np.nan, np.float32)
        known = np.isfinite(self.attention)
        return np.where(known, self.attention, 0).sum(axis=(2, 3)) / np.maximum(known.sum(axis=(2, 3)), 1)

    def clock(self, time: datetime) -> str:
        """A time as briefly as it is clear beside the init time."""
        if self.cadence >= timedelta(days=1):
            return f"{time:%Y-%m-%d}"
        return f"{time:%H:%M}Z" if time.date() == self.init.date() else f"{time:%d %b %H:%M}Z"

    def age(self, frame: int) -> str:
        """How long before the init time a context frame was acquired."""
        age = self.init - self.acquired[frame]
        if age < timedelta(0):
            return f"{span(-age)} after"
        return f"{span(age)} before" if age else "newest"

    def ahead(self, lead: int) -> str:
        """A lead (slots, from 1) as a duration."""
        return f"+{span(lead * self.cadence)}"

    def verdict(self, errors: dict[int, MeanErrors]) -> str:
        """In one sentence how far off the forecast is at the last lead with truth, against persistence."""
        if not errors:
            return "The truth is not known yet."
        lead, last = max(errors.items())
        rest = f"persistence ({number(last.persistence)})"
        change = f"{abs(last.skill()):.0%} {'less' if last.skill() > 0 else 'more'} than {rest}"
        against = change if abs(last.skill()) >= 0.005 else f"no better than {rest}"
        units = "" if self.units in NO_UNITS else f" {self.units}"
        return f"{span(lead * self.cadence)} ahead it is {number(last.forecast)}{units} off on average: {against}."

    def labelled(self, name: str) -> str:
        """A quantity of the band with its unit."""
        return name if self.units in NO_UNITS else f"{name} ({self.units})"

    def value_label(self) -> str:
        """What a colour bar of values says: their unit, or the band's name where they have none."""
        return self.band if self.units in NO_UNITS else self.units

    def truth_at(self, lead: int) -> Maps:
        """``(y, x)``: what came true at a lead; all NaN where nothing has come yet."""
        return np.full(self.grid_shape, np.nan, np.float32) if self.truth is None else self.truth[lead - 1]


@dataclass(frozen=True, slots=True)
class MeanErrors:
    """Mean absolute errors on the same pixels, in the units of the band.

    Attributes:
        forecast: of the forecast.
        persistence: of the newest values left as they are.
    """

    forecast: float
    persistence: float

    def skill(self) -> float:
        """Part of persistence's error that the forecast takes away; 0 where persistence makes none.

        >>> MeanErrors(forecast=15.0, persistence=20.0).skill()
        0.25
        """
        return 1 - self.forecast / self.persistence if self.persistence > 0 else 0.0


def _mean_errors(said: Maps, still: Maps, came: Maps) -> MeanErrors | None:
    known = np.isfinite(said) & np.isfinite(still) & np.isfinite(came)
    if not known.any():
        return None
    truth = came[known]
    return MeanErrors(*(float(np.abs(values[known] - truth).mean(dtype=np.float64)) for values in (said, still)))


def span(duration: timedelta) -> str:
    """A duration of no less than nothing in words, to the minute; in days from two on.

    >>> span(timedelta(minutes=95)), span(timedelta(hours=3)), span(timedelta(days=5, hours=1))
    ('1 h 35 min', '3 h', '5 days')
    """
    if duration >= timedelta(days=2):
        return f"{round(duration / timedelta(days=1))} days"
    hours, rest = divmod(round(duration / timedelta(minutes=1)), 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{rest} min"] * (rest > 0 or not hours)
    return " ".join(parts)


def number(value: float) -> str:
    """Three digits of a number, without an exponent where it is readable without.

    >>> number(0.08014), number(41.23), number(12345.6)
    ('0.0801', '41.2', '12346')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
