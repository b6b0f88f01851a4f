"""What is usual at a season: the past of each pixel, weighed by how near its season is to the one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import Context, Forecast, Source

YEAR = 365.2422  # days, the tropical year
WIDTHS = (10.0, 15.0, 20.0, 30.0, 45.0)  # days: from the dates of two passes to half a season
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Climatology:
    """Mean of what a pixel showed at that season, as far as the context goes back: nothing later is seen.

    Frames are weighed by a Gaussian of the distance between seasons, folded at half a year. A season that was never
    seen takes the nearest one that was.

    Attributes:
        cadence: one slot.
        width: standard deviation of the Gaussian, days; see :func:`season_width`.
    """

    cadence: timedelta
    width: float = 20.0

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`."""
        if not context.values.shape[1]:
            msg = "a climatology needs at least 1 context frame, found 0: ingest older scenes or raise samples.max_age"
            raise NotEnoughFramesError(msg)
        lags = lags_of(context, horizon, self.cadence)
        frames = observed(context)
        said = [[usual(frame, lag, self.width) for lag in of] for frame, of in zip(frames, lags, strict=True)]
        values = np.asarray(said, np.float32)[:, :, np.newaxis]
        return Forecast(values, *provenance(context, horizon, Source.CLIMATOLOGY))


def season_distance(days: NDArray[np.floating]) -> NDArray[np.floating]:
    """Days between the seasons of two times that many days apart, at most half a year.

    >>> season_distance(np.array([-10.0, YEAR + 3, YEAR / 2])).round(1).tolist()
    [10.0, 3.0, 182.6]
    """
    return np.abs((days + YEAR / 2) % YEAR - YEAR / 2)


def usual(values: NDArray[np.floating], lags: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """Mean over frames ``lags`` days before the time asked for, weighed by season; NaN where no frame has a value.

    Args:
        values: ``(frame, ...)``, NaN where missing.
        lags: ``(frame,)``, days.
        width: standard deviation of the weights, days.
    """
    weights = np.exp(-0.5 * (season_distance(lags) / width) ** 2).reshape(-1, *[1] * (values.ndim - 1))
    total = np.zeros(values.shape[1:])
    said = np.zeros(values.shape[1:])
    for weight, frame in zip(weights, values, strict=True):  # frame by frame: no copy of the context
        known = np.isfinite(frame)
        total += weight * known
        said += weight * np.where(known, frame, 0)
    return np.where(total > 0, said / np.where(total > 0, total, 1), np.nan)


def season_width(values: NDArray[np.floating], days: NDArray[np.floating], widths: Sequence[float] = WIDTHS) -> float:
    """The width whose climatology of all other frames comes nearest to each frame, by mean absolute error.

    Args:
        values: ``(frame, pixel)``, NaN where missing; a few thousand pixels do.
        days: ``(frame,)``, when they were acquired.
        widths: the ones to choose from, days.
    """
    return min(widths, key=lambda width: _left_out_error(values, days, width))


def _left_out_error(values: NDArray[np.floating], days: NDArray[np.floating], width: float) -> float:
    total, count = 0.0, 0
    for left_out in range(len(days)):
        others = np.arange(len(days)) != left_out
        error = np.abs(usual(values[others], days[left_out] - days[others], width) - values[left_out])
        total, count = total + float(np.nansum(error)), count + int(np.isfinite(error).sum())
    return total / max(count, 1)


def lags_of(context: Context, horizon: int, cadence: timedelta) -> NDArray[np.float64]:
    """Days from each frame to each valid time, ``(batch, lead, frame)``."""
    leads = np.arange(1, horizon + 1)[:, np.newaxis]
    return (context.ages[:, np.newaxis].astype(np.float64) + leads) * (cadence / DAY)


def observed(context: Context) -> NDArray[np.float32]:
    """Values that count, ``(batch, frame, y, x, band)``, NaN elsewhere."""
    return np.where(context.validity, context.values, np.float32(np.nan))


def provenance(context: Context, horizon: int, source: Source) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Source and age of a forecast that knows a pixel where any frame of the context does, both ``(batch, lead, ...)``.

    The age is that of the newest frame with a value there.
    """
    valid = context.validity.any(axis=-1)
    ages = np.where(valid, context.ages[:, :, np.newaxis, np.newaxis], np.inf).min(axis=1)
    known = np.isfinite(ages)
    sources = np.where(known, np.uint8(source), np.uint8(Source.NONE))
    ages = np.where(known, ages, np.nan).astype(np.float32)
    return np.repeat(sources[:, np.newaxis], horizon, axis=1), np.repeat(ages[:, np.newaxis], horizon, axis=1)
