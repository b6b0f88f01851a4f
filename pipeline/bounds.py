"""What a band's values can be, and forecasts kept within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.pairs import ValidRange, limits
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.specs import BandSpec


def valid_ranges(bands: Sequence[BandSpec]) -> tuple[ValidRange, ...]:
    """Lowest and highest possible value of each band, in its unit; infinite where the configuration says none."""
    return tuple((_lowest(band), np.inf if band.valid_max is None else band.valid_max) for band in bands)


def _lowest(band: BandSpec) -> float:
    known = [one for one in (band.floor, band.valid_min) if one is not None]
    return max(known, default=0.0 if band.transform == "log" else -np.inf)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A predictor that says nothing impossible.

    Attributes:
        inner: the predictor.
        valid: lowest and highest possible value of each band.
    """

    inner: Predictor
    valid: tuple[ValidRange, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        return bounded(self.inner.predict(context, horizon), self.valid)


def bounded(said: Forecast, valid: Sequence[ValidRange]) -> Forecast:
    """A forecast within the lowest and highest possible value of each band."""
    low, high = limits(valid, said.values.shape[-1]).T
    return replace(said, values=np.clip(said.values, low, high))
