"""The seam between learning and everything else: a Context goes in, a Forecast comes out, both numpy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MEAN, MEDIAN, MATCHED = "mean", "q50", "matched"
POINTS = (MEAN, MEDIAN, MATCHED)  # one likely value each; the other quantities bound an interval

_QUANTILE = re.compile(r"q(\d+(?:\.\d+)?)")


def level(quantity: str) -> float | None:
    """Probability that a quantile is not exceeded with; None for what is no quantile.

    >>> level("q10"), level("q2.5"), level("mean")
    (0.1, 0.025, None)
    """
    found = _QUANTILE.fullmatch(quantity)
    percent = float(found[1]) if found else 0.0
    return percent / 100 if 0 < percent < 100 else None


def quantile_name(level: float) -> str:
    """Name of a quantile, the inverse of :func:`level`.

    >>> quantile_name(0.1), quantile_name(0.025)
    ('q10', 'q2.5')
    """
    if not 0 < level < 1:
        msg = f"a quantile's level lies between 0 and 1, found {level}: name it by its probability, 0.1 for q10"
        raise ValueError(msg)
    return f"q{round(100 * level, 6):g}"


class Source(IntEnum):
    """What made a pixel of a forecast; the rungs of the ladder, best first. Stored in the quality file."""

    NONE = 0
    NETWORK = 1
    EXTRAPOLATION = 2
    PERSISTENCE = 3
    CLIMATOLOGY = 4  # after persistence, not by merit: stored numbers keep their meaning


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a forecast may see: the newest observed frames up to the init time, oldest first.

    Attributes:
        values: ``(batch, frame, y, x, band)``, float32, in the units of the bands; NaN where missing.
        validity: same shape, bool; False where a value is missing or flagged.
        times: ``(batch, frame)``, int64, acquisition in seconds since 1970-01-01 UTC.
        ages: ``(batch, frame)``, float32, init time minus acquisition, in slots.
        covariates: ``(batch, frame + lead, y, x, channel)``, float32, no NaN: what is known beforehand of the times of
            the frames and the leads (:mod:`pipeline.covariates`); None where nothing is told.
    """

    values: NDArray[np.float32]
    validity: NDArray[np.bool_]
    times: NDArray[np.int64]
    ages: NDArray[np.float32]
    covariates: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 5 or self.values.shape != self.validity.shape:
            found = f"{self.values.shape} and {self.validity.shape}"
            msg = f"values and validity are both (batch, frame, y, x, band), found {found}"
            raise ValueError(msg)
        if self.times.shape != self.values.shape[:2] or self.ages.shape != self.values.shape[:2]:
            found = f"{self.times.shape} and {self.ages.shape}"
            msg = f"times and ages are (batch, frame) = {self.values.shape[:2]}, found {found}"
            raise ValueError(msg)
        if self.covariates is not None:
            self._check(self.covariates)

    def _check(self, covariates: NDArray[np.float32]) -> None:
        batch, frames, y, x, _ = self.values.shape
        found = covariates.shape
        if len(found) != 5 or (found[0], *found[2:4]) != (batch, y, x) or found[1] < frames:
            msg = (
                f"covariates are (batch, frame + lead, y, x, channel) beside values {self.values.shape}, found {found}"
            )
            raise ValueError(msg)
        if not np.isfinite(covariates.sum()):  # of a view of 10 x 4096 x 4096 x 4 a sum takes no memory
            msg = "covariates are known everywhere, found NaN or infinity: put 0 where nothing is known"
            raise ValueError(msg)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.values.shape[2], self.values.shape[3]


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What a predictor says, for leads 1, 2, ... slots after the init time.

    Attributes:
        values: ``(batch, lead, quantity, y, x, band)``, float32, in the units of the bands; NaN where nothing is known.
        source: ``(batch, lead, y, x)``, uint8, the :class:`Source` of each pixel.
        age: ``(batch, lead, y, x)``, float32, age of the newest input behind each pixel at the init time, in slots; NaN
            where there is none.
        quantities: names along the quantity axis, any of these in this order: ``mean``, which minimises the squared
            error; quantiles by their percentage, ``q10``, ``q50`` (the median, which minimises the absolute error),
            ``q90``; ``matched``, the mean's ranks with the values of the advected frame (Ebert 2001), which has the
            right distribution.
    """

    values: NDArray[np.float32]
    source: NDArray[np.uint8]
    age: NDArray[np.float32]
    quantities: tuple[str, ...] = (MEAN,)

    def __post_init__(self) -> None:
        batch, lead, quantity, y, x, _ = self.values.shape
        if self.source.shape != (batch, lead, y, x) or self.age.shape != (batch, lead, y, x):
            found = f"{self.source.shape} and {self.age.shape} beside values {self.values.shape}"
            msg = f"source and age are (batch, lead, y, x), found {found}"
            raise ValueError(msg)
        if quantity != len(self.quantities):
            msg = f"{quantity} quantities in the values, {len(self.quantities)} names: {self.quantities}"
            raise ValueError(msg)

    def of(self, quantity: str) -> NDArray[np.float32]:
        """One quantity, ``(batch, lead, y, x, band)``, a view.

        Raises:
            ValueError: the forecast does not have it.
        """
        if quantity not in self.quantities:
            msg = f"this forecast has {', '.join(self.quantities)}, asked for {quantity}: ask for one that it has"
            raise ValueError(msg)
        return self.values[:, :, self.quantities.index(quantity)]


class Predictor(Protocol):
    """Anything that forecasts: a network, a baseline, or a wrapper around another predictor."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        """Forecast for leads 1 to ``horizon`` slots after the init time.

        Raises:
            NotEnoughFramesError: the context holds fewer frames than this predictor needs.
        """
        ...
