"""Scores of events, such as "at least 1 mm/h": what was forecast and came, was missed, or never came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.sums import Sums, ratio, valid_in_both

COLD_UNITS: Final = {"K", "kelvin", "degC", "celsius"}  # of cloud tops: what matters is cold


@dataclass(frozen=True, slots=True)
class Events:
    """What counts as an event in one band.

    Attributes:
        thresholds: in the band's unit.
        below: an event is a value under the threshold, not one at or over it.
    """

    thresholds: tuple[float, ...]
    below: bool = False

    def met(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """``(threshold, ...)``: where each event is; nowhere where values are NaN."""
        limits = np.array(self.thresholds, np.float32).reshape(-1, *(1,) * values.ndim)
        return values < limits if self.below else values >= limits


@dataclass(frozen=True, slots=True, eq=False)
class EventSums(Sums):
    """How often each event was forecast and came.

    Attributes:
        thresholds: of the events, in the band's unit.
        below: whether an event lies below a threshold.
        counts: ``(lead, band, threshold, 3)``: hits, false alarms, misses.
    """

    SAME: ClassVar = ("thresholds", "below")

    thresholds: tuple[float, ...]
    below: tuple[bool]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, forecast: NDArray[np.floating], truth: NDArray[np.floating], events: Events) -> Self:
        """Counts over the pixels valid in both.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.
            events: the same for every band.
        """
        valid = valid_in_both(forecast, truth)
        said, came = (events.met(field) & valid for field in (forecast, truth))
        return cls(
            events.thresholds, (events.below,), np.moveaxis(contingency(said, came, (2, 3)), (0, 1, 2), (2, 0, 1))
        )

    @property
    def csi(self) -> NDArray[np.float64]:
        """Critical success index, ``(lead, band, threshold)``; see :func:`csi`."""
        return csi(self.counts)

    @property
    def pod(self) -> NDArray[np.float64]:
        """Probability of detection, ``(lead, band, threshold)``: hits of what came; NaN where nothing came."""
        hits, _, misses = np.moveaxis(self.counts, -1, 0)
        return ratio(hits, hits + misses)

    @property
    def far(self) -> NDArray[np.float64]:
        """False alarm ratio, ``(lead, band, threshold)``: false alarms of what was forecast; NaN where nothing was."""
        hits, alarms, _ = np.moveaxis(self.counts, -1, 0)
        return ratio(alarms, hits + alarms)


def contingency(said: NDArray[np.bool_], came: NDArray[np.bool_], pixels: tuple[int, ...]) -> NDArray[np.int64]:
    """Hits, false alarms and misses along a new last axis.

    Args:
        said: where an event was forecast; only where the truth is known.
        came: where it came, same shape; only where the forecast is known.
        pixels: axes to count over.
    """
    parts = (said & came, said & ~came, came & ~said)
    return np.stack([part.sum(axis=pixels) for part in parts], axis=-1).astype(np.int64)


def csi(counts: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Hits over hits, false alarms and misses of the last axis; NaN where there are none."""
    return ratio(counts[..., 0], counts.sum(axis=-1))


def below_counts(unit: str) -> bool:
    """Whether an event of a band with this unit is a low value."""
    return unit in COLD_UNITS
