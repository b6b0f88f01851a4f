"""Scores by lead time and band, over the pixels valid in both forecast and truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ErrorSums:
    """Sums of errors that add up over init times, so that every pixel counts alike.

    Attributes:
        count: ``(lead, band)``, pixels valid in both.
        absolute: same shape, sum of ``|forecast - truth|``.
        squared: same shape, sum of ``(forecast - truth)**2``.
        signed: same shape, sum of ``forecast - truth``.
    """

    count: NDArray[np.int64]
    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    signed: NDArray[np.float64]

    @classmethod
    def of(cls, forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> Self:
        """Sums of one forecast.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.

        Raises:
            ValueError: the shapes differ.
        """
        _check_shapes(forecast, truth)
        errors = (one.astype(np.float64) - other for one, other in zip(forecast, truth, strict=True))
        count, absolute, squared, signed = zip(*(_sums(error) for error in errors), strict=True)
        return cls(np.stack(count), np.stack(absolute), np.stack(squared), np.stack(signed))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.signed + other.signed,
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


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Mean absolute and root mean squared error at one lead and band, by predictor, in the unit of the band."""

    lead_minutes: int
    band: str
    unit: str
    mae: dict[str, float]
    rmse: dict[str, float]


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


def _sums(error: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Count and sums of ``|e|``, ``e**2`` and ``e``, ``(band,)`` each, of an error ``(y, x, band)``."""
    valid = np.isfinite(error)
    clean = np.where(valid, error, 0.0)
    pixels = (0, 1)
    return valid.sum(pixels), np.abs(clean).sum(pixels), (clean**2).sum(pixels), clean.sum(pixels)


def _ratio(part: NDArray[np.float64], whole: NDArray) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is zero."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def _check_shapes(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
    if forecast.shape != truth.shape or forecast.ndim != 4:
        msg = f"forecast and truth are both (lead, y, x, band), found {forecast.shape} and {truth.shape}"
        raise ValueError(msg)
