"""How much successive runs contradict each other about the same valid time, whatever comes true.

Zsoter et al. (2009, MWR 137, 3823-3836) call it jumpiness. Two numbers say it here, both in the unit of the band: the
mean revision, the absolute difference of two successive runs, and the flip-flop index of Griffiths et al. (2019,
Meteorological Applications 26, 30-35), which leaves out what moves steadily in one direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.sums import Sums, ratio


@dataclass(frozen=True, slots=True, eq=False)
class RevisionSums(Sums):
    """Sums over the pixels that a run and the ones before it have forecast for the same valid time.

    Attributes:
        count: ``(lead, band)``, pixels of this run and the one before it.
        revised: same shape, sum of their absolute differences.
        thrice: same shape, pixels of this run and the two before it.
        turned: same shape, sum of the flip-flop indices of these three.
    """

    count: NDArray[np.int64]
    revised: NDArray[np.float64]
    thrice: NDArray[np.int64]
    turned: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        forecast: NDArray[np.floating],
        before: NDArray[np.floating],
        earlier: NDArray[np.floating] | None = None,
    ) -> Self:
        """Sums of one run.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            before: what the run before it said for the same valid times, same shape.
            earlier: what the one before that said; None: there is none.
        """
        pixels = (1, 2)
        change = np.abs(forecast.astype(np.float64) - before)
        third = np.full_like(forecast, np.nan) if earlier is None else earlier
        turn = flip_flop(np.stack([third, before, forecast]))
        return cls(
            np.isfinite(change).sum(pixels),
            np.nansum(change, axis=pixels),
            np.isfinite(turn).sum(pixels),
            np.nansum(turn, axis=pixels),
        )

    @property
    def revision(self) -> NDArray[np.float64]:
        """Mean absolute difference to the run before, ``(lead, band)``; NaN where there is none."""
        return ratio(self.revised, self.count)

    @property
    def flip_flop(self) -> NDArray[np.float64]:
        """Mean flip-flop index of three successive runs, ``(lead, band)``; NaN where there were fewer."""
        return ratio(self.turned, self.thrice)


def flip_flop(series: NDArray[np.floating]) -> NDArray[np.float64]:
    """Flip-flop index of each pixel: the way that its forecasts went beyond the span that they cover.

    Args:
        series: ``(run, ...)``, successive forecasts for one valid time, three or more; NaN where missing.

    Returns:
        The way from run to run, less the greatest difference of any two, over ``run - 2``; NaN where a run is missing.

    Raises:
        ValueError: there are fewer than three runs.

    >>> float(flip_flop(np.array([50.0, 20.0, 40.0, 80.0])))
    15.0
    """
    if len(series) < 3:
        msg = f"runs turn back and forth from the third on, found {len(series)}"
        raise ValueError(msg)
    values = series.astype(np.float64)
    way = np.abs(np.diff(values, axis=0)).sum(axis=0)
    return (way - (values.max(axis=0) - values.min(axis=0))) / (len(values) - 2)
