"""Scores by lead time and band, over the pixels valid in both forecast and truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.sums import Sums, ratio, valid_in_both

CONSTANT: Final = 1e-11  # of the mean: a spread below it is the rounding of sums over equal values


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
            valid_in_both(one, truth)
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
        return ratio(self.absolute, self.count)

    @property
    def rmse(self) -> NDArray[np.float64]:
        """Root mean squared error, ``(lead, band)``; NaN where no pixel counts."""
        return np.sqrt(ratio(self.squared, self.count))

    @property
    def bias(self) -> NDArray[np.float64]:
        """Mean of forecast minus truth, ``(lead, band)``; NaN where no pixel counts."""
        return ratio(self.signed, self.count)

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of the truth within the interval, ``(lead, band)``; NaN where no pixel counts, or without interval."""
        covered = np.full(self.count.shape, np.nan) if self.covered is None else self.covered.astype(np.float64)
        return ratio(covered, self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Moments(Sums):
    """Means and spreads over the pixels valid in both, which add up by the update of Chan et al. (1983).

    Attributes:
        count: ``(lead, band)``, pixels.
        forecast: same shape, mean of the forecast; 0 where no pixel counts.
        truth: same, of the truth.
        forecast_spread: same shape, sum of squared deviations of the forecast from its mean.
        truth_spread: same, of the truth.
        joint_spread: same shape, sum of the products of both deviations.
    """

    count: NDArray[np.int64]
    forecast: NDArray[np.float64]
    truth: NDArray[np.float64]
    forecast_spread: NDArray[np.float64]
    truth_spread: NDArray[np.float64]
    joint_spread: NDArray[np.float64]

    @classmethod
    def of(cls, forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> Self:
        """Moments of one forecast.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.

        Raises:
            ValueError: the shapes differ.
        """
        valid = valid_in_both(forecast, truth)
        leads = [_moments(*one) for one in zip(forecast, truth, valid, strict=True)]
        return cls(*(np.stack(part) for part in zip(*leads, strict=True)))

    def _joined(self, other: Self) -> Self:
        count = self.count + other.count
        part = np.nan_to_num(ratio(other.count, count))
        forecast, truth = other.forecast - self.forecast, other.truth - self.truth
        between = self.count * part  # what the distance of two means weighs
        return replace(
            self,
            count=count,
            forecast=self.forecast + forecast * part,
            truth=self.truth + truth * part,
            forecast_spread=self.forecast_spread + other.forecast_spread + forecast**2 * between,
            truth_spread=self.truth_spread + other.truth_spread + truth**2 * between,
            joint_spread=self.joint_spread + other.joint_spread + forecast * truth * between,
        )

    @property
    def bias(self) -> NDArray[np.float64]:
        """Mean of forecast minus truth, ``(lead, band)``; NaN where no pixel counts."""
        return ratio((self.forecast - self.truth) * self.count, self.count)

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Pearson's correlation, ``(lead, band)``, -1 to 1; NaN where forecast or truth is constant."""
        spread = np.sqrt(self.forecast_spread) * np.sqrt(self.truth_spread)
        return ratio(self.joint_spread, np.where(self._varies(), spread, 0)).clip(-1, 1)

    def _varies(self) -> NDArray[np.bool_]:
        both = (self.forecast, self.forecast_spread), (self.truth, self.truth_spread)
        forecast, truth = (spread > self.count * (CONSTANT * mean) ** 2 for mean, spread in both)
        return forecast & truth


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


def correlation(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's correlation over pixels; arguments and result as :func:`mae`, NaN where either is constant."""
    return Moments.of(forecast, truth).correlation


def psnr(error: NDArray[np.floating], span: float) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio, dB: ``20 log10(span / rmse)``.

    Args:
        error: root mean squared errors.
        span: from the lowest to the highest value that the band can have, in the same unit.

    Returns:
        The shape of ``error``; NaN where that is not known, infinite where there is none.
    """
    known = np.asarray(error, np.float64)
    decibels = 20 * np.log10(span / np.where(known > 0, known, 1))
    return np.where(known == 0, np.inf, np.where(np.isnan(known), np.nan, decibels))


def skill(error: NDArray[np.floating], baseline_error: NDArray[np.floating]) -> NDArray[np.float64]:
    """``1 - error / baseline_error``: 1 is perfect, 0 as good as the baseline; NaN where that makes no error."""
    return 1 - ratio(np.asarray(error), np.asarray(baseline_error))


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


def _moments(
    forecast: NDArray[np.floating], truth: NDArray[np.floating], valid: NDArray[np.bool_]
) -> tuple[NDArray, ...]:
    """The fields of :class:`Moments` at one lead, ``(band,)`` each."""
    pixels = (0, 1)
    count = valid.sum(pixels)
    fields = [np.where(valid, one, 0).astype(np.float64) for one in (forecast, truth)]
    means = [one.sum(pixels) / np.maximum(count, 1) for one in fields]
    said, came = (np.where(valid, one - mean, 0) for one, mean in zip(fields, means, strict=True))
    return count, *means, (said**2).sum(pixels), (came**2).sum(pixels), (said * came).sum(pixels)
