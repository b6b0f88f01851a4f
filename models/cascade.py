"""The cascade: how far each scale of the newest field fades, and how far its tendency is followed, by lead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-4  # of the mean variance of the scales: as if so much noise lay on each


def fit_cascade(
    newest: NDArray[np.float32], scales: NDArray[np.float32], targets: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weights of the cascade by least squares, each lead on its own (after S-PROG, Seed 2003).

    Args:
        newest: ``(pixel, band)``, newest values, standardised.
        scales: ``(pixel, scale)``.
        targets: ``(pixel, lead, band)``; NaN where missing.

    Returns:
        ``(lead, scale, band)``, for :class:`models.heads.CascadeHead`: ``newest - scales @ weights`` comes nearest to
        the targets. A lead that fewer pixels have met than there are scales takes the weights of the lead before it,
        the first one zeros.
    """
    weights: list[NDArray[np.float64]] = []
    for target in np.moveaxis(targets, 1, 0):
        lost = newest - target
        known = np.isfinite(lost).all(axis=-1)
        if known.sum() >= scales.shape[-1]:
            weights.append(_solved(scales[known], lost[known]))
        else:
            weights.append(weights[-1] if weights else np.zeros((scales.shape[-1], newest.shape[-1])))
    return np.stack(weights).astype(np.float32)


def _solved(scales: NDArray[np.float32], lost: NDArray[np.float32]) -> NDArray[np.float64]:
    squares, products = (scales.T @ scales).astype(np.float64), (scales.T @ lost).astype(np.float64)
    noise = max(RIDGE * np.trace(squares) / len(squares), 1e-12)
    return np.linalg.solve(squares + noise * np.eye(len(squares)), products)
