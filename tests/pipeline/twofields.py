"""A forecast and its truth, the same for every reference package: smooth, alike, and made by a fixed generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TENTH = (np.arange(10) + 0.5) / 10  # levels at which the midpoint rule is exact


def fields() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Forecast and truth of one lead and band, ``(1, 40, 48, 1)``, about 5 with a spread of half a unit."""
    noise = np.random.default_rng(7).random((2, 40, 48))
    smooth = sum(np.roll(noise, (y, x), (1, 2)) for y in range(5) for x in range(5)) / 25
    forecast, truth = 6 * smooth[0] + 4 * smooth[1], 10 * smooth[0]
    return forecast[np.newaxis, ..., np.newaxis].astype(np.float32), truth[np.newaxis, ..., np.newaxis].astype(
        np.float32
    )


def holes() -> NDArray[np.bool_]:
    """A fifth of the pixels, shape of the fields."""
    return (np.random.default_rng(8).random((40, 48)) < 0.2)[np.newaxis, ..., np.newaxis]


def quantiles() -> NDArray[np.float32]:
    """Quantiles of the forecast at the levels :data:`TENTH`, ``(1, 10, 40, 48, 1)``."""
    noise = np.random.default_rng(9).random((10, 40, 48))
    spread = fields()[0][0, ..., 0] + 2 * (TENTH[:, np.newaxis, np.newaxis] - 0.5) + 0.3 * noise
    return np.sort(spread, axis=0).astype(np.float32)[np.newaxis, ..., np.newaxis]


def plane(field: NDArray[np.floating]) -> NDArray[np.float64]:
    """``(y, x)`` of the only lead and band, as reference packages take it."""
    return field[0, ..., 0].astype(np.float64)
