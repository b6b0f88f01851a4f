"""Whether one forecast is better than another or was lucky: paired block bootstrap over init times.

Forecasts issued soon after each other meet the same weather, so init times are resampled in blocks of consecutive ones,
no shorter than the horizon (moving blocks: Künsch 1989, Ann. Statist. 17; no wrapping around at the end, which would
join what never met). Both forecasts keep their init times together, so that a hard day counts in both.

A bootstrap's percentiles are too narrow with few blocks, and where the errors resemble each other for longer than a
block. They are stretched by Student's t, by the variance that a mean over few blocks hides, and by the part of the
long-run variance that blocks of this length miss in a first-order autoregression (Andrews and Monahan 1992,
Econometrica 60, recolour likewise). Without the last, 95 % intervals
covered 78-89 % of simulated series of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import pi, sqrt, tan
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_BLOCKS: Final = 8
"""Independent blocks under which no difference is called one: t's tails and the blocks' own variance rule below."""

MOST_ALIKE: Final = 0.97  # correlation of successive errors; nearer to 1, the factor below would be noise

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Verdict(StrEnum):
    """What an interval says about zero."""

    LOWER = "lower"
    HIGHER = "higher"
    UNDECIDED = "no difference shown"
    INSUFFICIENT = "insufficient evidence"


@dataclass(frozen=True, slots=True)
class Resampling:
    """How a bootstrap is made.

    Attributes:
        level: nominal coverage of the interval.
        count: resamples.
        seed: of the draws.
    """

    level: float = 0.95
    count: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A statistic over init times, and the interval in which it would lie over other ones.

    Attributes:
        estimate: over all init times.
        low: lower end of the interval.
        high: upper end.
        level: nominal coverage.
        inits: how many init times.
        blocks: how many independent blocks, see :func:`independent_blocks`.
    """

    estimate: float
    low: float
    high: float
    level: float
    inits: int
    blocks: int

    @property
    def sufficient(self) -> bool:
        """Whether there are blocks enough to conclude anything."""
        return self.blocks >= LEAST_BLOCKS

    @property
    def verdict(self) -> Verdict:
        """On which side of zero the interval lies; with too few blocks, that there are too few, whatever it says."""
        if not self.sufficient or not np.isfinite([self.low, self.high]).all():
            return Verdict.INSUFFICIENT
        if self.high < 0:
            return Verdict.LOWER
        return Verdict.HIGHER if self.low > 0 else Verdict.UNDECIDED


def relative_difference(
    errors: ArrayLike,
    reference: ArrayLike,
    slots: ArrayLike,
    block: int,
    *,
    power: float = 1.0,
    resampling: Resampling | None = None,
) -> Evidence:
    """``score / reference's score - 1`` with its interval: -0.1 is an error that is 10 % smaller.

    A score is the mean over the later axes (leads, bands) of the mean error over init times, raised to ``power``: mean
    absolute errors with 1, root mean squared errors from mean squared ones with 0.5. Init times without a reference
    (NaN) count in neither.

    Args:
        errors: ``(init, ...)``, mean error of each init time, or sums over as many pixels as the reference's.
        reference: same shape, of the same pixels.
        slots: ``(init,)``, when each was issued, ascending.
        block: length of a block in slots, the horizon at least.
        power: see above.
        resampling: how often and how wide.

    Raises:
        ValueError: shapes differ, or times do not ascend.
    """
    ours, theirs, times = (np.asarray(one, np.float64) for one in (errors, reference, slots))
    if ours.shape != theirs.shape or len(ours) != len(times):
        msg = f"errors come in pairs, one an init time, found {ours.shape} and {theirs.shape} for {len(times)}"
        raise ValueError(msg)
    known = np.isfinite(ours + theirs).reshape(len(ours), -1).all(axis=1)
    pairs = np.stack([ours[known], theirs[known]], axis=1)

    def scores(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return (means**power).reshape(*means.shape[:2], -1).mean(axis=2)

    return relative_score(pairs, scores, times[known], block, resampling)


def relative_score(
    pairs: ArrayLike, score: Statistic, slots: ArrayLike, block: int, resampling: Resampling | None = None
) -> Evidence:
    """``score / reference's score - 1`` with its interval, of a score that is made from sums, as a hit rate is.

    Args:
        pairs: ``(init, 2, ...)``, what adds up over init times, of the one and of its reference.
        score: of means of ``pairs`` over init times, ``(resample, 2, ...)`` to ``(resample, 2)``.
        slots: see :func:`bootstrap`.
        block: see :func:`bootstrap`.
        resampling: how often and how wide.
    """

    def log_ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = score(means)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(scores[:, 0] / scores[:, 1])  # whose interval never promises a score under zero

    found = bootstrap(pairs, log_ratio, slots, block, resampling)
    estimate, low, high = (float(np.expm1(value)) for value in (found.estimate, found.low, found.high))
    return Evidence(estimate, low, high, found.level, found.inits, found.blocks)


def bootstrap(
    parts: ArrayLike, statistic: Statistic, slots: ArrayLike, block: int, resampling: Resampling | None = None
) -> Evidence:
    """Any statistic of sums over init times, with its interval.

    Args:
        parts: ``(init, ...)``, what adds up over init times: errors, counts, hits of all that is compared.
        statistic: of the means of ``parts`` over init times, ``(resample, ...)`` to ``(resample,)``. It gets means and
            no sums, because resamples of a series with gaps hold more or fewer init times.
        slots: ``(init,)``, when each was issued, ascending.
        block: length of a block in slots. Fewer than two of them in the span leave nothing to resample: then half the
            span is a block, and the interval a guess that :attr:`Evidence.sufficient` denies.
        resampling: how often and how wide.

    Raises:
        ValueError: times do not ascend, or a block has no length.
    """
    how = resampling or Resampling()
    sums, times = np.asarray(parts, np.float64), np.asarray(slots, np.float64)
    _check(sums, times, block)
    if len(times) < 2:
        estimate = float(statistic(sums)[0]) if len(times) else float("nan")
        return Evidence(estimate, float("nan"), float("nan"), how.level, len(times), 0)
    step = float(np.median(np.diff(times)))
    span = len(times) * step  # what init times stand for: gaps hold none
    blocks = independent_blocks(times, block)
    length = max(block, step) if blocks >= 2 else max(span / 2, step)
    held = float(_members(times, length, step).sum(axis=1).mean())  # init times in a block: fewer where there are gaps
    draws = max(round(len(times) / held), 2)
    weights = _weights(tuple(times.tolist()), length, step, draws, (how.count, how.seed))
    means = np.tensordot(weights, sums, axes=1)
    values = statistic(means)
    estimate = float(statistic(sums.mean(axis=0, keepdims=True))[0])
    if not np.isfinite(estimate):
        return Evidence(estimate, float("nan"), float("nan"), how.level, len(times), blocks)
    missed = _missed(_influences(statistic, sums, estimate), times, max(round(held), 1))
    stretch = (
        missed * _stretch(max(round(blocks / missed**2), blocks // 2, 2), how.level) * sqrt(draws * held / len(times))
    )
    tails = np.array([0.5 - how.level / 2, 0.5, 0.5 + how.level / 2])
    below, middle, above = np.quantile(values, tails) if np.isfinite(values).all() else np.full(3, np.nan)
    low, high = (float(estimate + stretch * (end - middle)) for end in (below, above))
    return Evidence(estimate, low, high, how.level, len(times), blocks)


def independent_blocks(slots: ArrayLike, block: int) -> int:
    """How many blocks of ``block`` slots the init times fill one after the other, gaps left out.

    >>> independent_blocks(range(96), 12), independent_blocks([0, 6, 12, 18], 12), independent_blocks([5], 12)
    (8, 2, 0)
    >>> independent_blocks(range(0, 50, 10), 1), independent_blocks([0, 1, 2, 3, 1000, 1001, 1002, 1003], 4)
    (5, 2)
    """
    times = np.asarray(slots, np.float64)
    if len(times) < 2:
        return 0
    end, start, blocks = float(times[-1] + np.median(np.diff(times))), float(times[0]), 0
    while start + block <= end:
        blocks += 1
        later = times[times >= start + block]
        if not len(later):
            break
        start = float(later[0])
    return blocks


def _check(sums: NDArray[np.float64], times: NDArray[np.float64], block: int) -> None:
    if len(sums) != len(times) or (np.diff(times) <= 0).any():
        msg = f"init times are one for each of the {len(sums)} parts and ascend, found {times.tolist()}"
        raise ValueError(msg)
    if block < 1:
        msg = f"a block is one slot long at least, found {block}: take the horizon"
        raise ValueError(msg)


def _members(times: NDArray[np.float64], length: float, step: float) -> NDArray[np.bool_]:
    """Which init times each whole block holds, ``(block, init)``; one starts at each init time that leaves it room."""
    starts = times[times + length <= times[-1] + step + 1e-9]
    return (times >= starts[:, None]) & (times < starts[:, None] + length)


@lru_cache(maxsize=4)
def _weights(
    times: tuple[float, ...], length: float, step: float, draws: int, how: tuple[int, int]
) -> NDArray[np.float64]:
    """Share of each init time in each resample, ``(resample, init)``; the same for all that met the same init times.

    They take nine tenths of a bootstrap's time, and whoever looks at single leads makes one after the other. ``how``:
    resamples and seed.
    """
    members, (count, seed) = _members(np.array(times), length, step), how
    counts = np.random.default_rng(seed).multinomial(draws, np.full(len(members), 1 / len(members)), size=count)
    weights = counts @ members.astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    weights.setflags(write=False)
    return weights


def _influences(statistic: Statistic, sums: NDArray[np.float64], estimate: float) -> NDArray[np.float64]:
    """How far each init time pulls the statistic, ``(init,)``: the infinitesimal jackknife (Jaeckel 1972)."""
    mean, share = sums.mean(axis=0), 1 / len(sums)
    return (statistic(mean + share * (sums - mean)) - estimate) / share


def _missed(pulls: NDArray[np.float64], times: NDArray[np.float64], length: int) -> float:
    """Deviation of a long mean over what blocks of ``length`` init times see of it; 1 where nothing is correlated."""
    gaps = np.diff(times)
    known = pulls - pulls.mean()
    near = gaps <= np.median(gaps) + 1e-9
    spread = float((known**2).mean())
    if not spread > 0 or not near.any():
        return 1.0
    found = float((known[1:] * known[:-1])[near].mean()) / spread
    likeness = min(max(found + (1 + 3 * found) / len(known), 0.0), MOST_ALIKE)  # Kendall 1954: short series seem unlike
    lags = np.arange(1, length)
    seen = 1 + 2 * float(((1 - lags / length) * likeness**lags).sum())  # a mean over a block, times its length
    return sqrt((1 + likeness) / (1 - likeness) / seen)


def _stretch(blocks: int, level: float) -> float:
    """How much wider than a bootstrap's the interval of a mean over few blocks is."""
    tail = 0.5 + level / 2
    return student(tail, blocks - 1) / NormalDist().inv_cdf(tail) * sqrt(blocks / (blocks - 1))


def student(probability: float, freedom: float) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 1964, 26.7.5.

    >>> [round(student(0.975, freedom), 2) for freedom in (1, 2, 4, 7, 30)]
    [12.71, 4.3, 2.77, 2.36, 2.04]
    """
    if freedom == 1:
        return tan(pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**order for order, term in enumerate(terms))
