"""Structural similarity of forecast and truth: level, contrast and pattern of small windows, compared at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sums import Sums, ratio, valid_in_both

SIGMA: Final = 1.5  # px, of a window's Gaussian weights; this and the constants are those of Wang et al. 2004
SIDE: Final = 11  # px, of a window
LEVEL, CONTRAST = 0.01, 0.03  # parts of the span that keep the quotients finite


@dataclass(frozen=True, slots=True, eq=False)
class SimilaritySums(Sums):
    """Similarity summed over windows (SSIM; Wang et al. 2004, IEEE Trans. Image Processing 13, 600-612, eq. 13).

    Only windows all of whose pixels are valid in both count, so that no hole is taken for a pattern.

    Attributes:
        span: from the lowest to the highest value that the band can have.
        windows: ``(lead, band)``, how many count.
        similarity: same shape, sum of their similarities.
    """

    SAME: ClassVar = ("span",)

    span: tuple[float]
    windows: NDArray[np.int64]
    similarity: NDArray[np.float64]

    @classmethod
    def of(cls, forecast: NDArray[np.floating], truth: NDArray[np.floating], span: float) -> Self:
        """Sums of one forecast.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.
            span: as in the attributes, in the same units, for every band.
        """
        valid = valid_in_both(forecast, truth)
        leads, _, _, bands = truth.shape
        windows, total = np.zeros((leads, bands), np.int64), np.zeros((leads, bands))
        for place in np.ndindex(leads, bands):
            lead, band = place
            counts = valid[lead, ..., band]
            said, came = (np.where(counts, one[lead, ..., band], 0).astype(np.float64) for one in (forecast, truth))
            whole = _whole(counts)
            windows[place] = whole.sum()
            total[place] = _similarity(said, came, span)[whole].sum()
        return cls((span,), windows, total)

    @property
    def ssim(self) -> NDArray[np.float64]:
        """Mean similarity, ``(lead, band)``, 1 at best; NaN where no window is whole."""
        return ratio(self.similarity, self.windows)


def _whole(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels around which a whole window is valid."""
    window = np.ones((SIDE, SIDE), np.uint8)
    return cv2.erode(valid.astype(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.bool_)


def _similarity(forecast: NDArray[np.float64], truth: NDArray[np.float64], span: float) -> NDArray[np.float64]:
    """Similarity of the window around each pixel."""
    level, contrast = (LEVEL * span) ** 2, (CONTRAST * span) ** 2
    said, came = _mean(forecast), _mean(truth)
    both, squares = said * came, said**2 + came**2
    covariance = _mean(forecast * truth) - both
    variances = _mean(forecast**2 + truth**2) - squares
    return (2 * both + level) * (2 * covariance + contrast) / ((squares + level) * (variances + contrast))


def _mean(field: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(field, (SIDE, SIDE), SIGMA), np.float64)
