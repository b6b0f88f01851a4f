"""Intervals that follow the running event: wider where the newest truths fell outside too often, narrower where seldom.

A calibration is of the past, and a forecast's errors drift. What was published is held against what came, and the next
intervals answer it (adaptive conformal inference, Gibbs & Candes 2021, arXiv 2106.00170, here on the interval's width).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.pairs import ValidRange, bound_levels, limits
from pipeline.predictor import MEDIAN, Context, Forecast, Predictor, quantile_name
from pipeline.scorebook import FORECAST, RunScores, Score

GAIN = 1.0  # change of the width's logarithm for a coverage that is wrong by one; a normal law asks for 2.2 at 80 %
HALF_LIFE = 6.0  # runs
NEWEST = 200  # runs that are looked at: what is older weighs less than 1e-9
LIMIT = 3.0  # times as wide, or a third, at most
_MINUTE = timedelta(minutes=1)


def widths(
    scored: Iterable[RunScores], model: str, init: datetime, leads: Sequence[int], bands: Sequence[str]
) -> NDArray[np.float64] | None:
    """How many times as wide intervals become, ``(lead, band)``; None where nothing has been learned.

    Every scored run of the same model moves the width of a lead by ``GAIN * (promise - coverage)``, half as much for
    every :data:`HALF_LIFE` newer runs. A lead that no truth has met takes the width of the lead before it.

    Args:
        scored: what is known of earlier runs.
        model: name and version of the model that forecasts now.
        init: init time of the forecast; truths of later times are left aside, as they were not known then.
        leads: in minutes, ascending.
        bands: names of the forecast bands.
    """
    earlier = sorted((one for one in scored if one.model == model and one.init < init), key=lambda one: one.init)
    steps = np.array([[_step(earlier, init, lead, band) for band in bands] for lead in leads])
    if not len(earlier) or np.isnan(steps).all():
        return None
    for lead in range(1, len(steps)):
        steps[lead] = np.where(np.isnan(steps[lead]), steps[lead - 1], steps[lead])
    return np.exp(np.clip(np.nan_to_num(steps), -np.log(LIMIT), np.log(LIMIT)))


def _step(earlier: Sequence[RunScores], init: datetime, lead: int, band: str) -> float:
    """Logarithm of the width of one lead and band; NaN where no truth has met it."""
    known = [one for one in earlier if one.init + lead * _MINUTE <= init]
    found = [score for one in known if (score := _of(one, lead, band)) is not None]
    missed = [score.missed for score in found if score.missed is not None]
    weights = 0.5 ** (np.arange(len(missed))[::-1] / HALF_LIFE)
    return float(GAIN * np.sum(weights * np.array(missed))) if missed else np.nan


def _of(one: RunScores, lead: int, band: str) -> Score | None:
    wanted = (lead, band, FORECAST)
    return next((score for score in one.scores if (score.lead_minutes, score.band, score.predictor) == wanted), None)


@dataclass(frozen=True, slots=True, eq=False)
class Widened:
    """A predictor whose quantiles move away from the median, or towards it.

    Attributes:
        inner: the predictor; without quantiles it is left as it is.
        factors: ``(lead, band)``, how many times as wide.
        valid: lowest and highest possible value of each band.
    """

    inner: Predictor
    factors: NDArray[np.float64]
    valid: tuple[ValidRange, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        said = self.inner.predict(context, horizon)
        levels = bound_levels(said)
        if MEDIAN not in said.quantities or not levels:
            return said
        low, high = limits(self.valid, said.values.shape[-1]).T
        values, median = said.values.copy(), said.of(MEDIAN)
        factors = self.factors[: values.shape[1], None, None].astype(np.float32)
        for level in levels:
            at = said.quantities.index(quantile_name(level))
            values[:, :, at] = np.clip(median + factors * (values[:, :, at] - median), low, high)
        return replace(said, values=values)
