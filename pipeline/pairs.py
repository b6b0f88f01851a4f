"""A forecast beside what came true, of one init time: what coverage, calibration and the guard are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.predictor import Forecast, Source, level

ValidRange = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One forecast and its truth.

    Attributes:
        said: of one init time, in the units of the bands.
        truth: ``(lead, y, x, band)``, float32, same units; NaN where missing, also whole leads that have not come yet.
    """

    said: Forecast
    truth: NDArray[np.float32]

    def __post_init__(self) -> None:
        check_shapes(self.said, self.truth)


def check_shapes(said: Forecast, truth: NDArray[np.float32]) -> None:
    """One init time, and a truth for each of its leads.

    Raises:
        ValueError: it is not so.
    """
    batch, lead, _, y, x, band = said.values.shape
    if batch != 1 or truth.shape != (lead, y, x, band):
        found = f"{batch} init times and truth {truth.shape} beside values {said.values.shape}"
        msg = f"a forecast of one init time meets a truth (lead, y, x, band) = {(lead, y, x, band)}, found {found}"
        raise ValueError(msg)


def bound_levels(said: Forecast) -> tuple[float, ...]:
    """Levels of the quantiles of a forecast that bound intervals: all but the median, ascending."""
    levels = (level(quantity) for quantity in said.quantities)
    return tuple(sorted(one for one in levels if one is not None and one != 0.5))


def with_interval(said: Forecast, truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Truth where a network forecast; NaN where a lower rung of the ladder filled in.

    Args:
        said: of one init time.
        truth: ``(lead, y, x, band)``.
    """
    return np.where((said.source[0] == Source.NETWORK)[..., np.newaxis], truth, np.float32(np.nan))


def limits(valid: Sequence[ValidRange], bands: int) -> NDArray[np.float32]:
    """``(band, 2)``: lowest and highest possible value of each band, rounded as forecasts are.

    Raises:
        ValueError: there is not one range a band, or a range is empty.
    """
    found = np.asarray(valid, np.float32).reshape(-1, 2)
    if len(found) != bands or not (found[:, 0] < found[:, 1]).all():
        msg = f"each of {bands} bands has a valid range (low, high) with low < high, found {tuple(valid)}"
        raise ValueError(msg)
    return found
