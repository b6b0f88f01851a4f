"""Scores of probabilities of events: the Brier score, and how often came what was said with each probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.events import Events
from pipeline.sums import Sums, ratio

BINS: Final = 10  # of equal width; each has its lower end, the last one both
EDGES: Final = np.linspace(0, 1, BINS + 1).astype(np.float32)[1:-1]


@dataclass(frozen=True, slots=True, eq=False)
class ChanceSums(Sums):
    """Sums over the pixels where truth and probability are known.

    Attributes:
        thresholds: of the events, in the band's unit.
        below: whether an event lies below a threshold.
        squared: ``(lead, band, threshold)``, sum of squared differences of probability and event (1, or 0).
        pixels: ``(lead, band, threshold, bin)``, how many have a probability in the bin.
        said: same shape, sum of their probabilities.
        came: same shape, how many of them had the event.
    """

    SAME: ClassVar = ("thresholds", "below")

    thresholds: tuple[float, ...]
    below: tuple[bool]
    squared: NDArray[np.float64]
    pixels: NDArray[np.int64]
    said: NDArray[np.float64]
    came: NDArray[np.int64]

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], truth: NDArray[np.floating], events: Events) -> Self:
        """Sums of one forecast.

        Args:
            probabilities: ``(lead, threshold, y, x, band)``, from 0 to 1; NaN where no data.
            truth: ``(lead, y, x, band)``, in the unit of the band; NaN where no data.
            events: the same for every band.

        Raises:
            ValueError: the shapes do not fit.
        """
        expected = (truth.shape[0], len(events.thresholds), *truth.shape[1:])
        if probabilities.shape != expected:
            msg = f"probabilities are (lead, threshold, y, x, band) = {expected}, found {probabilities.shape}"
            raise ValueError(msg)
        said = np.moveaxis(probabilities, -1, 1)
        came = np.moveaxis(events.met(truth), (1, -1, 0), (0, 1, 2))
        known = np.isfinite(said) & np.isfinite(np.moveaxis(truth, -1, 1))[:, :, np.newaxis]
        cells = [_binned(said[at][known[at]], came[at][known[at]]) for at in np.ndindex(said.shape[:3])]
        parts = (np.array(part).reshape(*said.shape[:3], *np.shape(part[0])) for part in zip(*cells, strict=True))
        return cls(events.thresholds, (events.below,), *parts)

    @property
    def brier(self) -> NDArray[np.float64]:
        """Mean squared difference of probability and event, ``(lead, band, threshold)`` (Brier 1950, halved)."""
        return ratio(self.squared, self.pixels.sum(axis=-1))

    @property
    def frequency(self) -> NDArray[np.float64]:
        """How often the event came, ``(lead, band, threshold)``."""
        return ratio(self.came.sum(axis=-1), self.pixels.sum(axis=-1))

    @property
    def skill(self) -> NDArray[np.float64]:
        """Brier score against :attr:`frequency` said everywhere, same shape; NaN for what never or always is."""
        return 1 - ratio(self.brier, self.frequency * (1 - self.frequency))

    @property
    def reliability(self) -> NDArray[np.float64]:
        """``(lead, band, threshold, bin, 2)``: mean probability said in each bin, and how often the event came then."""
        return ratio(np.stack([self.said, self.came], axis=-1), self.pixels[..., np.newaxis])


def _binned(said: NDArray[np.floating], came: NDArray[np.bool_]) -> tuple[float, NDArray, NDArray, NDArray]:
    """Squared differences, pixels, probabilities and events of one threshold, the last three ``(bin,)``."""
    places = np.searchsorted(EDGES, said.astype(np.float32), side="right")
    pixels, events = (np.bincount(each, minlength=BINS) for each in (places, places[came]))
    probabilities = np.bincount(places, said, BINS)
    return float(np.square(said.astype(np.float64) - came).sum()), pixels, probabilities, events
