"""Scores of quantiles: their loss, the CRPS that it makes, and whether as much truth lies below each as it promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.sums import Sums, ratio


@dataclass(frozen=True, slots=True, eq=False)
class QuantileSums(Sums):
    """Sums over the pixels where the truth and all quantiles are known.

    Attributes:
        levels: of the quantiles, ascending.
        count: ``(lead, band)``, pixels.
        below: ``(lead, band, level)``, pixels whose truth lies below the quantile.
        upto: same shape, pixels whose truth lies below the quantile or at it.
        loss: same shape, sum of quantile losses, in the unit of the band.
    """

    SAME: ClassVar = ("levels",)

    levels: tuple[float, ...]
    count: NDArray[np.int64]
    below: NDArray[np.int64]
    upto: NDArray[np.int64]
    loss: NDArray[np.float64]

    @classmethod
    def of(cls, quantiles: NDArray[np.floating], truth: NDArray[np.floating], levels: Sequence[float]) -> Self:
        """Sums of one forecast.

        Args:
            quantiles: ``(lead, level, y, x, band)``, in the units of the cube; NaN where no data.
            truth: ``(lead, y, x, band)``, same units.
            levels: ascending, each between 0 and 1.

        Raises:
            ValueError: the shapes or the levels do not fit.
        """
        expected = (truth.shape[0], len(levels), *truth.shape[1:])
        if quantiles.shape != expected or list(levels) != sorted({*levels}):
            msg = f"quantiles are {expected} at rising levels, found {quantiles.shape} at {tuple(levels)}"
            raise ValueError(msg)
        leads = [_sums(one, came, levels) for one, came in zip(quantiles, truth, strict=True)]
        return cls(tuple(levels), *(np.stack(part) for part in zip(*leads, strict=True)))

    @property
    def mean_loss(self) -> NDArray[np.float64]:
        """Mean quantile loss (Koenker and Bassett 1978), ``(lead, band, level)``; NaN where no pixel counts."""
        return ratio(self.loss, self.count[..., np.newaxis])

    @property
    def crps(self) -> NDArray[np.float64]:
        """Continuous ranked probability score, ``(lead, band)``, in the unit of the band; see :func:`crps`."""
        return crps(self.mean_loss, self.levels)

    @property
    def reliability(self) -> NDArray[np.float64]:
        """Parts of the truth below each quantile, and below it or at it, ``(lead, band, level, 2)``.

        A level between the two is reliable: that is what makes a value a quantile of a law with masses, such as that of
        rain, most of which lies exactly at zero.
        """
        return ratio(np.stack([self.below, self.upto], axis=-1), self.count[..., np.newaxis, np.newaxis])


def loss(quantile: NDArray[np.floating], truth: NDArray[np.floating], level: float) -> NDArray[np.float64]:
    """Quantile (pinball) loss of each pixel, in the unit of the values."""
    error = truth.astype(np.float64) - quantile
    return np.maximum(level * error, (level - 1) * error)


def crps(mean_loss: NDArray[np.float64], levels: Sequence[float]) -> NDArray[np.float64]:
    """CRPS of a forecast that is known by its quantiles; ``mean_loss`` and result without its last axis, the levels'.

    The CRPS is twice the integral of the quantile loss over all levels (Laio and Tamea 2007, HESS 11, 1267-1277), here
    by the midpoint rule: each level stands for those nearer to it than to another one, the outer ones for the tails
    beyond them as well. With M quantiles at the levels (i - 1/2) / M this is exactly the CRPS of their empirical law,
    and where all quantiles are one value and the levels lie evenly about 1/2 it is the absolute error. With three
    levels it is good for comparing forecasts of the same levels, not as a number of its own.
    """
    middles = (np.array(levels[1:]) + np.array(levels[:-1])) / 2
    shares = np.diff(np.concatenate([[0.0], middles, [1.0]]))
    return 2 * (mean_loss * shares).sum(axis=-1)


def _sums(quantiles: NDArray[np.floating], truth: NDArray[np.floating], levels: Sequence[float]) -> list[NDArray]:
    """The arrays of :class:`QuantileSums` at one lead, ``(band,)`` or ``(band, level)``."""
    known = np.isfinite(truth) & np.isfinite(quantiles).all(axis=0)
    pixels = (0, 1)
    below = [(known & (truth < one)).sum(pixels) for one in quantiles]
    upto = [(known & (truth <= one)).sum(pixels) for one in quantiles]
    losses = [
        np.where(known, loss(one, truth, level), 0).sum(pixels) for one, level in zip(quantiles, levels, strict=True)
    ]
    return [known.sum(pixels), *(np.stack(part, axis=-1) for part in (below, upto, losses))]
