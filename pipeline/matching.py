"""Probability matching: where it rains is the mean's to say, how hard it rains the advected frame's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import MATCHED, MEAN, Context, Forecast, Predictor

NODES = 65_537  # ranks of a law, the first and the last among them
BLUR = 2.0  # px, standard deviation: pixels of the same mean rank by what lies around them


@dataclass(frozen=True, slots=True)
class Matched:
    """A predictor that also gives the probability-matched field, ``matched``, as its last quantity.

    Attributes:
        inner: gives the mean.
        reference: of the same bands; its mean has the distribution of values that a scene has, as extrapolation has.
        partly: how much of the way from the mean's values to the matched ones, 0 to 1.
    """

    inner: Predictor
    reference: Predictor
    partly: float = 1.0

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`; the mean itself where the reference lacks frames."""
        said = self.inner.predict(context, horizon)
        try:
            reference = self.reference.predict(context, horizon).of(MEAN)
        except NotEnoughFramesError:
            reference = np.full_like(said.of(MEAN), np.nan)
        return with_matched(said, reference, partly=self.partly)


def with_matched(said: Forecast, reference: NDArray[np.float32], *, partly: float = 1.0) -> Forecast:
    """A forecast with ``matched`` as its last quantity: see :func:`matched`.

    Args:
        said: of whole grids; it gives a mean.
        reference: ``(batch, lead, y, x, band)``, whose distribution each lead and band takes; NaN where unknown.
        partly: how much of the way from the mean's values to the reference's, 0 to 1.
    """
    mean, wider = said.of(MEAN), with_room(said)
    for item, lead, band in np.ndindex(*mean.shape[:2], mean.shape[-1]):
        place = (item, lead, ..., band)
        wider.values[item, lead, -1, ..., band] = matched(mean[place], reference[place], partly=partly)
    return wider


def with_room(said: Forecast) -> Forecast:
    """A forecast with its mean as ``matched``, its last quantity, until that is known."""
    values = np.concatenate([said.values, said.of(MEAN)[:, :, np.newaxis]], axis=2)
    return replace(said, values=values, quantities=(*said.quantities, MATCHED))


def matched(mean: NDArray[np.float32], reference: NDArray[np.float32], *, partly: float = 1.0) -> NDArray[np.float32]:
    """The mean's ranks with the reference's values (Ebert 2001, Mon. Wea. Rev. 129, 2461-2480).

    Over the pixels known in both, the pixel with the n-th largest mean gets the n-th largest value of the reference.
    Pixels of the same mean rank by a slightly blurred mean, then by their place.

    Args:
        mean: ``(y, x)``; NaN where nothing is known.
        reference: same shape and unit; NaN where nothing is known.
        partly: how much of the way from the mean's values to the reference's, 0 to 1.

    Returns:
        Shape of ``mean``; the mean itself where one of both is unknown.

    Raises:
        ValueError: the shapes differ, or ``partly`` is no share.
    """
    if mean.shape != reference.shape or mean.ndim != 2 or not 0 <= partly <= 1:
        found = f"{mean.shape}, {reference.shape} and {partly}"
        msg = f"mean and reference are both (y, x) and partly lies from 0 to 1, found {found}"
        raise ValueError(msg)
    known = np.isfinite(mean) & np.isfinite(reference)
    order = _order(mean, known)
    own = mean[known]
    values = np.empty_like(own)
    values[order] = np.sort(reference[known])
    field = mean.astype(np.float32)
    field[known] = own + np.float32(partly) * (values - own) if partly < 1 else values
    return field


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """Which value of the reference belongs to each value of the mean, learned from some pixels of a large grid.

    Attributes:
        means: ascending, each once.
        values: one for each of them.
    """

    means: NDArray[np.float32]
    values: NDArray[np.float32]

    @classmethod
    def learned(cls, mean: NDArray[np.float32], reference: NDArray[np.float32]) -> Law | None:
        """From pixels of both, same shape, NaN where unknown; None where no pixel is known in both.

        Equal means get the mean of the values at their ranks: which of them is greater, only the whole grid could tell.
        """
        known = np.isfinite(mean) & np.isfinite(reference)
        if not known.any():
            return None
        at = np.unique(np.linspace(0, np.count_nonzero(known) - 1, NODES).round().astype(int))
        means, values = np.sort(mean[known])[at], np.sort(reference[known])[at]
        each, which, count = np.unique(means, return_inverse=True, return_counts=True)
        return cls(each, (np.bincount(which, values) / count).astype(np.float32))

    def matched(self, mean: NDArray[np.float32], *, partly: float = 1.0) -> NDArray[np.float32]:
        """Like :func:`matched`, linear between the values that were learned; NaN where the mean is."""
        values = np.interp(mean, self.means, self.values).astype(np.float32)  # NaN stays NaN
        return values if partly == 1 else np.asarray(mean + np.float32(partly) * (values - mean), np.float32)


def _order(mean: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Places of the known pixels from the smallest mean to the largest.

    Mean, the leading bits of the blurred mean, and the place are one integer each: sorting those is several times
    faster than sorting places by them, and the same on every machine.
    """
    means = _sortable(mean[known]).astype(np.uint64)
    room = np.uint64(len(means).bit_length())
    places = np.arange(len(means), dtype=np.uint64)
    around = _sortable(_blurred(mean, known)[known]).astype(np.uint64)
    around >>= min(room, np.uint64(32))
    keys = (means << np.uint64(32)) | (around << room) | places
    keys.sort()
    return keys & ((np.uint64(1) << room) - np.uint64(1))


def _blurred(mean: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weighted mean of the known pixels around each."""
    weight = known.astype(np.float32)
    total = cv2.GaussianBlur(np.where(known, mean, np.float32(0)), (0, 0), BLUR)
    near = cv2.GaussianBlur(weight, (0, 0), BLUR)
    return np.divide(total, near, out=np.zeros_like(mean), where=near > 0)


def _sortable(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Integers in the order of the values: the bits of a float (IEEE 754), turned where it is negative."""
    bits = (values + np.float32(0)).view(np.uint32)  # -0 becomes 0
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))
