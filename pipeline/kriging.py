"""Kriging in time: each pixel's past, weighed by a covariance that knows the year, the memory of a season and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.climatology import YEAR, lags_of, observed, provenance
from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import MEAN, Context, Forecast, Source, quantile_name

Array = NDArray[np.float64]
LEVELS = {0.1: -1.2816, 0.5: 0.0, 0.9: 1.2816}  # of the standard normal distribution
PIXELS = 150  # series that a covariance is estimated from; they differ less than dates do
FRAMES = 96  # newest ones at most: the cost grows with the third power
PIXELS_AT_ONCE = 16384
MASKS_AT_ONCE = 512  # 512 systems of 64 x 64 are 17 MB


@dataclass(frozen=True, slots=True)
class Covariance:
    """How alike a pixel's values are at two times.

    ``constant + periodic * exp(-2 sin(pi lag / year)^2 / smoothness^2 - |lag| / memory) + weather * exp(-|lag| /
    fading)``, and ``noise`` on the diagonal: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning,
    section 5.4.3, the decay exponential.

    Attributes:
        mean: of all pixels and times, units of the band.
        constant: variance of the pixels' own means, units squared, as are the other variances.
        periodic: variance of the yearly cycle.
        smoothness: of the cycle; small: it changes within few weeks.
        memory: days in which years come to differ.
        weather: variance of what is neither cycle nor noise.
        fading: days in which that is forgotten.
        noise: variance of a single value.
    """

    mean: float
    constant: float
    periodic: float
    smoothness: float
    memory: float
    weather: float
    fading: float
    noise: float

    @property
    def variance(self) -> float:
        """Of a value about the mean, noise included."""
        return self.constant + self.periodic + self.weather + self.noise

    def of(self, lags: Array) -> Array:
        """Covariance of values ``lags`` days apart, without noise."""
        away = np.abs(lags)
        cycle = np.exp(-2 * (np.sin(np.pi * away / YEAR) / self.smoothness) ** 2 - away / self.memory)
        return self.constant + self.periodic * cycle + self.weather * np.exp(-away / self.fading)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Covariance:
        """The inverse of :meth:`to_json`."""
        return cls(**document)


class Estimate(NamedTuple):
    """Best linear estimate and its standard error, noise included: both ``(lead, pixel)``."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kriging:
    """Best linear estimate of each pixel from its own past, with Gaussian quantiles.

    Attributes:
        covariances: of each band of the context.
        cadence: one slot.
    """

    covariances: tuple[Covariance, ...]
    cadence: timedelta

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`."""
        if not context.values.shape[1]:
            msg = "kriging needs at least 1 context frame, found 0: ingest older scenes or raise samples.max_age"
            raise NotEnoughFramesError(msg)
        values, lags = observed(context), lags_of(context, horizon, self.cadence)
        said = np.stack([self._item(*item) for item in zip(values, lags, strict=True)])
        names = (MEAN, *map(quantile_name, LEVELS))
        return Forecast(said, *provenance(context, horizon, Source.CLIMATOLOGY), names)

    def _item(self, values: NDArray[np.float32], lags: Array) -> NDArray[np.float32]:
        """``(lead, quantity, y, x, band)`` of one init time."""
        return np.stack([self._band(values[..., i], lags, one) for i, one in enumerate(self.covariances)], axis=-1)

    def _band(self, values: NDArray[np.float32], lags: Array, covariance: Covariance) -> NDArray[np.float32]:
        series = values.reshape(len(values), -1)
        mean, deviation = krige(covariance, series, lags)
        mean = np.where(np.isfinite(series).any(axis=0), mean, np.nan)
        said = np.stack([mean, *(mean + z * deviation for z in LEVELS.values())], axis=1)
        return said.reshape(*said.shape[:2], *values.shape[1:]).astype(np.float32)


def krige(covariance: Covariance, values: NDArray[np.floating], lags: Array) -> Estimate:
    """Estimates at each lead; the mean of everything, with its whole variance, where no frame has a value.

    Pixels with the same gaps share their weights: the systems solved are as many as patterns of gaps.

    Args:
        covariance: of the band.
        values: ``(frame, pixel)``, NaN where missing.
        lags: ``(lead, frame)``, days from each frame to each valid time.
    """
    parts = [
        _krige(covariance, values[:, start : start + PIXELS_AT_ONCE], lags)
        for start in range(0, values.shape[1], PIXELS_AT_ONCE)
    ]
    return Estimate(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def _krige(covariance: Covariance, values: NDArray[np.floating], lags: Array) -> Estimate:
    known = np.isfinite(values)
    patterns, of_pixel = _patterns(known)
    weights, deviation = _systems(covariance, patterns, lags)
    anomalies = np.where(known, values - covariance.mean, 0).T.astype(np.float32)
    mean = np.stack([np.einsum("pf,pf->p", of_lead[of_pixel], anomalies) for of_lead in weights])
    return Estimate(mean + np.float32(covariance.mean), deviation[:, of_pixel])


def _patterns(known: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Different columns, ``(pattern, frame)``, and which of them each pixel has."""
    packed = np.ascontiguousarray(np.packbits(known, axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, of_pixel = np.unique(keys, return_index=True, return_inverse=True)
    return known[:, first].T, of_pixel


def _systems(
    covariance: Covariance, patterns: NDArray[np.bool_], lags: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights ``(lead, pattern, frame)``, zero where a frame is missing, and deviations ``(lead, pattern)``."""
    between, to_target = covariance.of(lags[0][:, np.newaxis] - lags[0]), covariance.of(lags)
    weights = np.concatenate(
        [
            np.linalg.solve(_among(between, some, covariance.noise), some[:, :, np.newaxis] * to_target.T[np.newaxis])
            for some in np.array_split(patterns, -(-len(patterns) // MASKS_AT_ONCE))
        ]
    )
    explained = np.einsum("pfl,lf->lp", weights, to_target)
    deviation = np.sqrt(np.maximum(covariance.variance - explained, covariance.noise))
    return weights.transpose(2, 0, 1).astype(np.float32), deviation.astype(np.float32)


def _among(between: Array, known: NDArray[np.bool_], noise: float) -> Array:
    """Covariance matrices ``(pattern, frame, frame)``; a missing frame has its own row of the identity."""
    both = between * (known[:, :, np.newaxis] & known[:, np.newaxis])
    frames = np.arange(known.shape[1])
    both[:, frames, frames] = np.where(known, between[frames, frames] + noise, 1.0)
    return both


def estimate_covariance(values: NDArray[np.floating], days: Array, *, seed: int = 0) -> Covariance:
    """The covariance under which a training part's series are most likely, each pixel taken on its own.

    The logarithms of its numbers start at, and are held weakly to, what any yearly series has: variances of a quarter
    of all variance, a memory of years, a fading of two months.

    Args:
        values: ``(frame, pixel)``, NaN where missing; a few pixels, drawn by the seed, are looked at.
        days: ``(frame,)``, when they were acquired, ascending or not.
        seed: of the pixels.

    Raises:
        NotEnoughFramesError: no two values differ.
    """
    series = _drawn(values[-FRAMES:], seed)
    mean, variance = float(np.nanmean(series)), float(np.nanvar(series))
    if not variance > 0:
        msg = "a covariance is estimated from values that differ, found only one value: ingest more scenes"
        raise NotEnoughFramesError(msg)
    start = np.log([variance / 4, variance / 4, 0.7, 5 * YEAR, variance / 4, 60.0, variance / 4])
    spread = np.array([1.5, 1.5, 0.5, 1.0, 1.5, 1.0, 1.5])  # of logarithms: a factor of 4.5, 1.6 and 2.7
    loss = _unlikelihood(series - mean, np.asarray(days, np.float64)[-FRAMES:], start, spread)
    return Covariance(mean, *np.exp(_smallest(loss, start)).tolist())


def _drawn(values: NDArray[np.floating], seed: int) -> Array:
    seen = np.flatnonzero(np.isfinite(values).sum(axis=0) >= 2)
    if not len(seen):
        msg = "a covariance is estimated from pixels with at least 2 values, found none: ingest more scenes"
        raise NotEnoughFramesError(msg)
    drawn = np.random.default_rng(seed).choice(seen, min(PIXELS, len(seen)), replace=False)
    return values[:, drawn].astype(np.float64)


def _unlikelihood(anomalies: Array, days: Array, start: Array, spread: Array) -> Callable[[Array], float]:
    """Negative logarithm of the posterior density of the covariance's logarithms, up to a constant."""
    known = np.isfinite(anomalies).T
    values = np.where(known, anomalies.T, 0)[..., np.newaxis]
    lags, frames = days[:, np.newaxis] - days, np.arange(len(days))

    def loss(logarithms: Array) -> float:
        covariance = Covariance(0.0, *np.exp(logarithms).tolist())
        root = np.linalg.cholesky(_among(covariance.of(lags), known, covariance.noise))
        scaled = np.linalg.solve(root, values)
        misfit = 0.5 * (scaled**2).sum() + np.log(root[:, frames, frames]).sum()
        return float(misfit + 0.5 * (((logarithms - start) / spread) ** 2).sum())

    return loss


def _smallest(loss: Callable[[Array], float], start: Array) -> Array:
    from scipy.optimize import minimize  # half a second that only a training pays

    bounds = [(at - 8.0, at + 8.0) for at in start]  # a factor of 3000: matrices stay invertible
    return np.asarray(minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}).x)
