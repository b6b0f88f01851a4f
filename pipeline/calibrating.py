"""From forecasts and truths to a calibration, and on from there as newer truths arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import CLASSES, Calibration, at_floor
from pipeline.conformal import Misses, nodes
from pipeline.errors import NotEnoughFramesError
from pipeline.pairs import Pair, ValidRange, bound_levels, limits
from pipeline.predictor import quantile_name

ROWS = 50_000  # pixels kept of each lead and band: 12 leads of one band and an interval take 7 MB
LEAST_ROWS = 500  # of a class of its own; 0.9 of 500 is known to 1.3 %
LEAST_PART = 0.01  # of all pixels, for the class at the floor
HALF_LIFE = 12.0  # init times


def fit(pairs: Iterable[Pair], valid: Sequence[ValidRange], *, seed: int = 0, rows: int = ROWS) -> Calibration:
    """A calibration from forecasts and truths that no part of the predictor has learned from.

    Conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222), each bound on its own (theorem 2),
    by lead, band and class of width. All pixels of all init times count alike; see
    :meth:`pipeline.conformal.Misses.move` for the rule. The rule holds for pixels as exchangeable as the ones to come;
    those of one event depend on each other, so with few init times the coverage to come varies by more than it says.

    Args:
        pairs: read once; only a sample of their pixels is kept.
        valid: lowest and highest possible value of each band; infinite where there is none.
        seed: of the sample.
        rows: pixels kept of each lead and band.

    Raises:
        NotEnoughFramesError: there is no pair, or no forecast has a quantile that bounds an interval.
    """
    kept: dict[tuple[int, int], _Sample] = {}
    rng = np.random.default_rng(seed)
    levels, leads, inits = (), 0, 0
    for pair in pairs:
        levels, leads, inits = bound_levels(pair.said), max(leads, len(pair.truth)), inits + 1
        for place, quantiles, truth in _places(pair, levels, valid):
            kept.setdefault(place, _Sample(rows, rng)).add(np.vstack([quantiles, truth]))
    if not levels:
        msg = f"a calibration needs forecasts with quantiles and their truth, found {inits} pairs: ingest more"
        raise NotEnoughFramesError(msg)
    shape = (leads, len(valid), len(levels))
    blank = Calibration(levels, tuple(valid), np.full((*shape[:2], 2), np.inf), np.zeros(shape, bool), {}, inits)
    samples = {place: one.rows for place, one in kept.items()}
    return _counted(_divided(blank, samples), {place: (one.rows, one.weight) for place, one in kept.items()})


def updated(
    calibration: Calibration,
    pairs: Iterable[Pair],
    *,
    half_life: float = HALF_LIFE,
    seed: int = 0,
    rows: int = ROWS,
) -> Calibration:
    """The same table after newer truths, which weigh more: half as much for every ``half_life`` newer init times.

    A pixel has the weight ``0.5 ** (age / half_life)``, where its age is how many pairs came after it; all pixels that
    the calibration was fitted to are older than the first new pair. The moves follow from the weighted counts by the
    rule of :meth:`pipeline.conformal.Misses.move`. The classes stay. Each init time comes once, with all its leads.

    Args:
        calibration: as it was.
        pairs: forecasts of the predictor inside of :class:`Calibrated`, and their truth, oldest first.
        half_life: in init times; infinite: all weigh alike.
        seed: of the sample of pixels.
        rows: pixels taken of each pair, lead and band; they stand for all.
    """
    rng, weight = np.random.default_rng(seed), 0.5 ** (1 / half_life)
    for pair in pairs:
        samples = {}
        for place, quantiles, truth in _places(pair, calibration.levels, calibration.valid):
            taken = _Sample(rows, rng)
            taken.add(np.vstack([quantiles, truth]))
            samples[place] = (taken.rows, taken.weight)
        aged = {cell: misses.aged(weight) for cell, misses in calibration.misses.items()}
        calibration = _counted(replace(calibration, misses=aged, inits=weight * calibration.inits + 1), samples)
    return calibration


@dataclass(slots=True)
class _Sample:
    """An even sample of pixels from a stream: those with the smallest of random keys."""

    size: int
    rng: np.random.Generator
    rows: NDArray[np.float32] = field(init=False)
    keys: NDArray[np.float32] = field(init=False)
    seen: int = 0
    limit: float = 1.0

    def add(self, rows: NDArray[np.float32]) -> None:
        """More pixels, ``(column, pixel)``."""
        keys = self.rng.random(rows.shape[1], np.float32)
        near = keys < self.limit
        rows, keys = rows[:, near], keys[near]
        self.rows = np.concatenate([self.rows, rows], axis=1) if self.seen else rows
        self.keys = np.concatenate([self.keys, keys]) if self.seen else keys
        self.seen += len(near)
        if len(self.keys) > self.size:
            smallest = np.argpartition(self.keys, self.size - 1)[: self.size]
            self.rows, self.keys = self.rows[:, smallest], self.keys[smallest]
            self.limit = float(self.keys.max())

    @property
    def weight(self) -> float:
        """Pixels of the stream that one of the sample stands for."""
        return self.seen / max(len(self.keys), 1)


def _places(
    pair: Pair, levels: tuple[float, ...], valid: Sequence[ValidRange]
) -> Iterator[tuple[tuple[int, int], NDArray[np.float32], NDArray[np.float32]]]:
    """Lead and band, bounds ``(level, pixel)`` and truth ``(pixel,)``, where all are known, within the valid range."""
    bands = pair.truth.shape[-1]
    names = [quantile_name(level) for level in levels]
    for band, limit in enumerate(limits(valid, bands)):
        for lead, truth in enumerate(pair.truth[..., band]):
            said = [pair.said.of(name)[0, lead, ..., band] for name in names]
            known = np.isfinite(truth) & np.isfinite(sum(said))
            quantiles = np.stack([one[known] for one in said])
            yield (lead, band), np.clip(quantiles, *limit), np.clip(truth[known], *limit)


def _divided(calibration: Calibration, samples: dict[tuple[int, int], NDArray[np.float32]]) -> Calibration:
    """The same with classes fitted to samples of pixels, and nodes to count at."""
    edges, apart = calibration.edges.copy(), calibration.apart.copy()
    for (lead, band), rows in samples.items():
        quantiles, floor = rows[:-1], calibration.valid[band][0]
        widths = (quantiles[-1] - quantiles[0])[quantiles[-1] > quantiles[0]]
        if len(widths) >= 3 * LEAST_ROWS:
            edges[lead, band] = np.quantile(widths, [1 / 3, 2 / 3])
        for level in range(len(calibration.levels)):
            frequent = max(LEAST_ROWS, LEAST_PART * rows.shape[1])
            apart[lead, band, level] = np.count_nonzero(at_floor(quantiles, level, floor)) >= frequent
    divided = replace(calibration, edges=edges, apart=apart)
    misses = {}
    for place, rows in samples.items():
        for level in range(len(calibration.levels)):
            misses |= {(*place, level, kind): one for kind, one in enumerate(_blank(divided, rows, (*place, level)))}
    return replace(divided, misses=misses)


def _blank(calibration: Calibration, rows: NDArray[np.float32], place: tuple[int, int, int]) -> list[Misses]:
    """Nothing counted, one a class; a class without pixels has the nodes of all."""
    level = calibration.levels[place[2]]
    kinds = calibration.classes(rows[:-1], place)
    beyond, _ = _errors(rows, place[2], upper=level > 0.5, floor=calibration.valid[place[1]][0])
    chosen = [kinds == kind if (kinds == kind).any() else np.ones_like(kinds, bool) for kind in range(CLASSES)]
    return [Misses.over(nodes(beyond[these], min(level, 1 - level))) for these in chosen]


def _counted(
    calibration: Calibration, samples: dict[tuple[int, int], tuple[NDArray[np.float32], float]]
) -> Calibration:
    """The same with pixels counted: by lead and band rows ``(level and truth, pixel)`` and the weight of one pixel."""
    misses = dict(calibration.misses)
    for (lead, band), (rows, weight) in samples.items():
        for number, level in enumerate(calibration.levels):
            upper, floor = level > 0.5, calibration.valid[band][0]
            kinds = calibration.classes(rows[:-1], (lead, band, number))
            beyond, height = _errors(rows, number, upper=upper, floor=floor)
            for kind in np.unique(kinds).tolist():
                cell, these = (lead, band, number, kind), kinds == kind
                misses[cell] = _more(misses[cell], beyond[these], height[these], level, weight)
    return replace(calibration, misses=misses)


def _more(
    misses: Misses, beyond: NDArray[np.float64], height: NDArray[np.float64], level: float, weight: float
) -> Misses:
    """With more pixels counted, at nodes that suit them if the old ones do not."""
    miss, upper = min(level, 1 - level), level > 0.5
    counted = misses.seeing(beyond, height, upper=upper, weight=weight)
    if len(beyond) < LEAST_ROWS or not counted.is_coarse(miss, upper=upper):
        return counted
    return misses.at(nodes(beyond, miss)).seeing(beyond, height, upper=upper, weight=weight)


def _errors(
    rows: NDArray[np.float32], level: int, *, upper: bool, floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far beyond the bound each truth lies, and how far above the floor each bound."""
    bound, truth = rows[level].astype(np.float64), rows[-1].astype(np.float64)
    return truth - bound if upper else bound - truth, bound - np.float32(floor)
