"""Fractions skill score: did an event come near to where it was forecast? (Roberts and Lean 2008, MWR 136, 78-97)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.events import Events
from pipeline.sums import Sums, ratio, valid_in_both


@dataclass(frozen=True, slots=True, eq=False)
class FractionSums(Sums):
    """How far apart the parts of each neighbourhood are in which an event was forecast and came.

    A pixel that is unknown in either counts as one without an event in both, as those beyond the edge do.

    Attributes:
        thresholds: of the events, in the band's unit.
        below: whether an event lies below a threshold.
        scales: sides of the square neighbourhoods, pixels.
        difference: ``(lead, band, threshold, scale)``, sum over pixels of the squared difference of the two parts.
        reference: same shape, sum of both parts squared: the greatest difference that such parts could have.
    """

    SAME: ClassVar = ("thresholds", "below", "scales")

    thresholds: tuple[float, ...]
    below: tuple[bool]
    scales: tuple[int, ...]
    difference: NDArray[np.float64]
    reference: NDArray[np.float64]

    @classmethod
    def of(
        cls, forecast: NDArray[np.floating], truth: NDArray[np.floating], events: Events, scales: Sequence[int]
    ) -> Self:
        """Sums of one forecast.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.
            events: the same for every band.
            scales: odd, so that a neighbourhood has a pixel in its middle.

        Raises:
            ValueError: the shapes differ, or a scale is not odd.
        """
        if any(scale < 1 or scale % 2 == 0 for scale in scales):
            msg = f"a neighbourhood is an odd number of pixels wide, found {tuple(scales)}: take 5 for 4 or 6"
            raise ValueError(msg)
        valid = valid_in_both(forecast, truth)
        leads, _, _, bands = truth.shape
        found = np.zeros((leads, bands, len(events.thresholds), len(scales), 2))
        for lead, band in np.ndindex(leads, bands):
            counts = valid[lead, ..., band]
            said, came = (events.met(field[lead, ..., band]) & counts for field in (forecast, truth))
            for index in np.ndindex(*found.shape[2:4]):
                found[lead, band, *index] = _apart(said[index[0]], came[index[0]], scales[index[1]])
        return cls(events.thresholds, (events.below,), tuple(scales), found[..., 0], found[..., 1])

    @property
    def fss(self) -> NDArray[np.float64]:
        """Fractions skill score, ``(lead, band, threshold, scale)``, 0 to 1; NaN where none was forecast or came."""
        return 1 - ratio(self.difference, self.reference)


def _apart(said: NDArray[np.bool_], came: NDArray[np.bool_], scale: int) -> tuple[float, float]:
    """Difference and reference at one threshold and scale."""
    forecast, truth = (_around(field, scale) for field in (said, came))
    whole = float(scale) ** 4
    squares = [float(np.square(part, dtype=np.float64).sum()) for part in (forecast - truth, forecast, truth)]
    return squares[0] / whole, (squares[1] + squares[2]) / whole


def _around(events: NDArray[np.bool_], scale: int) -> NDArray[np.float32]:
    """Events in the neighbourhood of each pixel; whole numbers, exact below 2^24."""
    field = events.astype(np.uint8)
    sums = cv2.boxFilter(field, cv2.CV_32F, (scale, scale), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(sums, np.float32)
