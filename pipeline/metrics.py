"""Scores by lead time and band, over the pixels valid in both forecast and truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ErrorSums:
    """Sums of errors that add up over init times, so that every pixel counts alike.

    Attributes:
        count: ``(lead, band)``, pixels valid in both.
        absolute: same shape, sum of ``|forecast - truth|``, of the median where there is one.
        squared: same shape, sum of ``(forecast - truth)**2``.
        signed: same shape, sum of ``forecast - truth``.
        covered: same shape, pixels whose truth lies within the forecast's interval, its ends included; None for a
            forecast without.
    """

    count: NDArray[np.int64]
    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    signed: NDArray[np.float64]
    covered: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        forecast: NDArray[np.floating],
        truth: NDArray[np.floating],
        *,
        median: NDArray[np.floating] | None = None,
        interval: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    ) -> Self:
        """Sums of one forecast, over the pixels where all that is given is valid.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.
            median: same; None: the forecast itself.
            interval: lower and upper end, same shape and units.

        Raises:
            ValueError: the shapes differ.
        """
        fields = [forecast, forecast if median is None else median, *(interval or ())]
        for one in fields:
            _check_shapes(one, truth)
        leads = [_sums([one[lead] for one in fields], truth[lead]) for lead in range(len(truth))]
        return cls(*(np.stack(part) for part in zip(*leads, strict=True)))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.signed + other.signed,
            None if self.covered is None or other.covered is None else self.covered + other.covered,
        )

    @property
    def mae(self) -> NDArray[np.float64]:
        """Mean absolute error, ``(lead, band)``; NaN where no pixel counts."""
        return _ratio(self.absolute, self.count)

    @property
    def rmse(self) -> NDArray[np.float64]:
        """Root mean squared error, ``(lead, band)``; NaN where no pixel counts."""
        return np.sqrt(_ratio(self.squared, self.count))

    @property
    def bias(self) -> NDArray[np.float64]:
        """Mean of forecast minus truth, ``(lead, band)``; NaN where no pixel counts."""
        return _ratio(self.signed, self.count)

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of the truth within the interval, ``(lead, band)``; NaN where no pixel counts, or without interval."""
        covered = np.full(self.count.shape, np.nan) if self.covered is None else self.covered.astype(np.float64)
        return _ratio(covered, self.count)


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Errors at one lead and band, by predictor, in the unit of the band.

    Attributes:
        lead_minutes: lead time.
        band: its name.
        unit: its unit.
        mae: mean absolute error, of the median where a predictor gives one, else of its mean.
        rmse: root mean squared error, of the mean.
        coverage: share of the truth within the interval, of the predictors that give one.
    """

    lead_minutes: int
    band: str
    unit: str
    mae: dict[str, float]
    rmse: dict[str, float]
    coverage: dict[str, float] = field(default_factory=dict)


def mae(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean absolute error at each lead time and band, over pixels valid in both.

    Args:
        forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
        truth: same shape and units as ``forecast``.

    Returns:
        ``(lead, band)``, in the units of the cube; NaN where no pixel is valid in both.
    """
    return ErrorSums.of(forecast, truth).mae


def rmse(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Root mean squared error; arguments and result as :func:`mae`."""
    return ErrorSums.of(forecast, truth).rmse


def bias(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean of forecast minus truth; arguments and result as :func:`mae`."""
    return ErrorSums.of(forecast, truth).bias


def csi(forecast: NDArray[np.floating], truth: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """Critical success index: hits / (hits + misses + false alarms) of "at least ``threshold``".

    Args:
        forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
        truth: same shape and units as ``forecast``.
        threshold: in the same units.

    Returns:
        ``(lead, band)``, 0 to 1; NaN where the event neither came nor was forecast.
    """
    _check_shapes(forecast, truth)
    valid = np.isfinite(forecast) & np.isfinite(truth)
    said, seen = (forecast >= threshold) & valid, (truth >= threshold) & valid
    hits, either = (said & seen).sum(axis=(1, 2)), (said | seen).sum(axis=(1, 2))
    return _ratio(hits.astype(np.float64), either)


def skill(error: NDArray[np.floating], baseline_error: NDArray[np.floating]) -> NDArray[np.float64]:
    """``1 - error / baseline_error``: 1 is perfect, 0 as good as the baseline; NaN where that makes no error."""
    return 1 - _ratio(np.asarray(error, np.float64), np.asarray(baseline_error, np.float64))


def _sums(fields: Sequence[NDArray[np.floating]], truth: NDArray[np.floating]) -> list[NDArray]:
    """The sums of :class:`ErrorSums` at one lead, ``(band,)`` each; ``fields``: forecast, median and an interval."""
    forecast, median, *interval = fields
    error = forecast.astype(np.float64) - truth
    apart = error if median is forecast else median.astype(np.float64) - truth
    valid = np.isfinite(error) & np.isfinite(apart)
    for end in interval:
        valid &= np.isfinite(end)
    pixels = (0, 1)
    clean = np.where(valid, error, 0.0)
    absolute = np.abs(np.where(valid, apart, 0.0))
    sums = [valid.sum(pixels), absolute.sum(pixels), (clean**2).sum(pixels), clean.sum(pixels)]
    if interval:
        low, high = interval
        sums.append((valid & (low <= truth) & (truth <= high)).sum(pixels))
    return sums


def _ratio(part: NDArray[np.float64], whole: NDArray) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is zero."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def _check_shapes(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
    if forecast.shape != truth.shape or forecast.ndim != 4:
        msg = f"forecast and truth are both (lead, y, x, band), found {forecast.shape} and {truth.shape}"
        raise ValueError(msg)
