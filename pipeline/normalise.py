"""Bands on one scale for learning: mean and spread of the training split, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cube import Cube
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window

CONSTANT = 1e-6  # spread of a constant band at most, as a part of its mean


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each band, in its units, over the valid pixels of the training split.

    Attributes:
        mean: one value a band.
        deviation: one value a band, never 0.
        snapshot: the cube's snapshot that they come from.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    snapshot: str

    def scale(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Standardised values; the last axis is the band."""
        return ((values - _row(self.mean)) / _row(self.deviation)).astype(np.float32)

    def unscale(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """The inverse of :meth:`scale`."""
        return (values * _row(self.deviation) + _row(self.mean)).astype(np.float32)

    def of_bands(self, indices: tuple[int, ...]) -> Statistics:
        """Only these bands, counted from 0."""
        return Statistics(
            tuple(self.mean[i] for i in indices), tuple(self.deviation[i] for i in indices), self.snapshot
        )

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {"mean": list(self.mean), "deviation": list(self.deviation), "snapshot": self.snapshot}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Statistics:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(document["mean"]), tuple(document["deviation"]), document["snapshot"])


def _row(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def measure(cube: Cube, slots: Iterable[int], areas: Iterable[Window]) -> Statistics:
    """Statistics over some slots and areas of a cube.

    Raises:
        NotEnoughFramesError: a band has no valid pixel there.
    """
    bands = len(cube.layout.bands)
    count, total, squares = np.zeros(bands), np.zeros(bands), np.zeros(bands)
    areas = tuple(areas)
    for slot in slots:
        for area in areas:
            values = cube.read([slot], area).values.astype(np.float64)
            count += np.isfinite(values).sum(axis=(0, 1, 2))
            total += np.nansum(values, axis=(0, 1, 2))
            squares += np.nansum(values**2, axis=(0, 1, 2))
    _check(count, cube)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A constant band carries nothing to scale; the sums leave it a spread of about 1e-8 of its mean.
    deviation[deviation <= CONSTANT * np.abs(mean)] = 1
    return Statistics(tuple(mean.tolist()), tuple(deviation.tolist()), cube.snapshot)


def _check(count: NDArray[np.float64], cube: Cube) -> None:
    empty = [band.name for band, pixels in zip(cube.layout.bands, count, strict=True) if pixels == 0]
    if empty:
        msg = f"every band has valid pixels in the training split, found none in {empty}: check nodata and masks"
        raise NotEnoughFramesError(msg)
