"""What held-out truths showed of the forecasts that a network publishes, by lead and band: intervals and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline import calibrating, guard
from pipeline.bounds import bounded
from pipeline.calibration import Calibration, calibrated
from pipeline.coverage import Coverage, quantile_levels
from pipeline.guard import Contest, Guard, blended
from pipeline.pairs import Pair, ValidRange, limits
from pipeline.predictor import MEAN, MEDIAN, Forecast, quantile_name
from pipeline.quantiles import QuantileSums

LEAST_INITS = 3  # with two, what is judged is fitted to a single one
PIXELS = 20_000  # judged of an init time, evenly strewn: more say no more, the init times do
DIGITS = 5


class Judged(StrEnum):
    """What the guard and the calibration were fitted to that the figures judge.

    ``LEFT_OUT``: each init time by what all others taught: as the next one will be. ``FITTED``: all by what they taught
    themselves, which flatters.
    """

    LEFT_OUT = "left out"
    FITTED = "fitted"


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Coverage, reliability and errors of finished forecasts: guarded, bounded and calibrated.

    Attributes:
        judged: how honest the figures are.
        levels: of the quantiles, ascending; the interval lies between the first and the last.
        inits: ``(lead, band)``, init times with a pixel where truth and all quantiles are known.
        pixels: same shape, such pixels, of those that were looked at.
        coverage: same shape, part of the truths in the interval, to compare with the last level minus the first; see
            :attr:`pipeline.coverage.Coverage.randomised`. NaN where there is no pixel, as below.
        reliability: ``(lead, band, level, 2)``, parts of the truths below each quantile, and below it or at it; a level
            between the two is reliable.
        error: ``(lead, band)``, mean absolute error over the baseline's on the same pixels, the geometric mean of the
            init times; of the median where there is one. NaN also where nothing but a calm was met.
    """

    judged: Judged
    levels: tuple[float, ...]
    inits: NDArray[np.int64]
    pixels: NDArray[np.int64]
    coverage: NDArray[np.float64]
    reliability: NDArray[np.float64]
    error: NDArray[np.float64]

    @classmethod
    def of(cls, contests: Sequence[Contest], valid: Sequence[ValidRange], judged: Judged) -> Self:
        """From finished forecasts, their baselines and truths, one an init time.

        Args:
            contests: one or more, all with the same two or more quantiles.
            valid: lowest and highest possible value of each band; what lies outside counts as the limit.
            judged: to be noted.
        """
        pairs = [Pair(one.model, one.truth) for one in contests]
        parts = [(Coverage.of(pair, valid), _quantiles(pair, valid)) for pair in pairs]
        coverage, quantiles = parts[0]
        for more, also in parts[1:]:
            coverage, quantiles = coverage + more, quantiles + also
        met = sum((one.count > 0).astype(np.int64) for _, one in parts)
        figures = (coverage.randomised, quantiles.reliability, _error(contests))
        held, reliability, error = (figure.round(DIGITS) for figure in figures)
        return cls(judged, coverage.levels, np.asarray(met), quantiles.count, held, reliability, error)

    def to_json(self) -> dict[str, Any]:
        """JSON form: lists by lead, band and so on; null where there is no pixel."""
        arrays = {one.name: _written(getattr(self, one.name)) for one in fields(self)[2:]}
        return {"judged": self.judged.value, "levels": list(self.levels), **arrays}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        inits, pixels = (np.array(document[name], np.int64) for name in ("inits", "pixels"))
        held, reliability = (np.array(document[name], np.float64) for name in ("coverage", "reliability"))
        error = np.array(document.get("error", np.full(held.shape, np.nan)), np.float64)  # old manifests have none
        return cls(Judged(document["judged"]), tuple(document["levels"]), inits, pixels, held, reliability, error)


def prove(contests: Sequence[Contest], valid: Sequence[ValidRange], *, seed: int = 0) -> Proof:
    """What forecasts show that are guarded, bounded and calibrated as they will be published.

    From :data:`LEAST_INITS` init times on each is judged by what the others teach.

    Args:
        contests: of a network with quantiles, which has not learned from these truths; one or more.
        valid: lowest and highest possible value of each band.
        seed: of the sample of pixels.
    """
    looked_at = [strewn(one, PIXELS, seed + number) for number, one in enumerate(contests)]
    if len(looked_at) < LEAST_INITS:
        return Proof.of(_finished(looked_at, looked_at, valid), valid, Judged.FITTED)
    numbers = range(len(looked_at))
    each = [_finished([looked_at[n] for n in numbers if n != out], [looked_at[out]], valid) for out in numbers]
    return Proof.of([one for (one,) in each], valid, Judged.LEFT_OUT)


def strewn(contest: Contest, pixels: int, seed: int) -> Contest:
    """The same at so many pixels at most, evenly strewn over those with any truth, as one row."""
    known = np.flatnonzero(np.isfinite(contest.truth).any(axis=(0, 3)))
    if len(known) > pixels:
        known = np.sort(np.random.default_rng(seed).choice(known, pixels, replace=False))
    truth = contest.truth.reshape(len(contest.truth), -1, contest.truth.shape[-1])[:, known]
    return Contest(_row(contest.model, known), _row(contest.baseline, known), truth[:, np.newaxis])


def _row(said: Forecast, known: NDArray[np.intp]) -> Forecast:
    """``known``: indices of pixels in a flattened grid."""
    batch, lead, quantity, y, x, band = said.values.shape
    values = said.values.reshape(batch, lead, quantity, 1, y * x, band)[..., known, :]
    source, age = (part.reshape(batch, lead, 1, y * x)[..., known] for part in (said.source, said.age))
    return replace(said, values=values, source=source, age=age)


def _finished(teaching: Sequence[Contest], judged: Sequence[Contest], valid: Sequence[ValidRange]) -> list[Contest]:
    """Forecasts mended by what others teach, beside their baselines and truths."""
    found = guard.fit(teaching)
    pairs = (Pair(blended(one.model, one.baseline, found), one.truth) for one in teaching)
    calibration = calibrating.fit(pairs, valid)
    return [_mended(one, found, calibration, valid) for one in judged]


def _mended(one: Contest, found: Guard, calibration: Calibration, valid: Sequence[ValidRange]) -> Contest:
    guarded = bounded(blended(one.model, one.baseline, found), valid)
    return replace(one, model=calibrated(guarded, calibration))


def _error(contests: Sequence[Contest]) -> NDArray[np.float64]:
    """As :attr:`Proof.error`, ``(lead, band)``."""
    ratios = np.stack([_ratio(one) for one in contests])
    known = np.isfinite(ratios)
    count = known.sum(axis=0)
    sums = np.where(known, ratios, 0).sum(axis=0)
    return np.exp(np.divide(sums, count, out=np.full(count.shape, np.nan), where=count > 0))


def _ratio(one: Contest) -> NDArray[np.float64]:
    """Logarithm of model's error over baseline's, ``(lead, band)``; not finite where one of both is 0 or unknown."""
    said = one.model.of(MEDIAN if MEDIAN in one.model.quantities else MEAN)[0]
    apart = [np.abs(field.astype(np.float64) - one.truth) for field in (said, one.baseline.of(MEAN)[0])]
    known = np.isfinite(apart[0] + apart[1])
    own, other = (np.where(known, part, 0).sum(axis=(1, 2)) for part in apart)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(own / other)


def _quantiles(pair: Pair, valid: Sequence[ValidRange]) -> QuantileSums:
    levels, limit = quantile_levels(pair.said), limits(valid, pair.truth.shape[-1]).T
    said = np.stack([np.clip(pair.said.of(quantile_name(one))[0], *limit) for one in levels], axis=1)
    return QuantileSums.of(said, np.clip(pair.truth, *limit), levels)


def _written(array: NDArray) -> list[Any]:
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()
