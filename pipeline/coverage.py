"""Whether intervals hold as many truths as they promise, and how wide they are for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.pairs import Pair, ValidRange, limits
from pipeline.predictor import Forecast, level, quantile_name
from pipeline.quantiles import crps, loss
from pipeline.sums import ratio


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Sums over the pixels where truth and all quantiles are known; they add up over init times.

    The last axis of ``count``, ``floor`` and ``inside`` is how many of the quantiles are at the band's floor, from
    none to all: a quantile there says that the floor itself has a mass.

    Attributes:
        levels: of the quantiles, ascending; the interval lies between the first and the last.
        count: ``(lead, band, floored)``, pixels.
        floor: same shape, pixels whose truth is at the floor.
        inside: same shape, pixels whose truth lies above the floor and in the closed interval.
        width: ``(lead, band)``, sum of interval widths, in the unit of the band.
        pinball: ``(lead, band, level)``, sum of quantile losses, same unit.
    """

    levels: tuple[float, ...]
    count: NDArray[np.int64]
    floor: NDArray[np.int64]
    inside: NDArray[np.int64]
    width: NDArray[np.float64]
    pinball: NDArray[np.float64]

    @classmethod
    def of(cls, pair: Pair, valid: Sequence[ValidRange]) -> Self:
        """Sums of one forecast.

        Args:
            pair: a forecast with two quantiles or more, and its truth.
            valid: lowest and highest possible value of each band; the lowest is the floor, -inf where there is none.
                What lies outside counts as the limit.

        Raises:
            ValueError: there are fewer than two quantiles.
        """
        levels = quantile_levels(pair.said)
        leads, _, _, bands = pair.truth.shape
        ranges = limits(valid, bands)
        names = [quantile_name(one) for one in levels]
        cells = [
            _cell([pair.said.of(name)[0, lead, ..., band] for name in names], pair.truth[lead, ..., band], ranges[band])
            for lead in range(leads)
            for band in range(bands)
        ]
        parts = (_sums(quantiles, truth, ranges[i % bands, 0], levels) for i, (quantiles, truth) in enumerate(cells))
        arrays = (np.stack(part).reshape(leads, bands, *part[0].shape) for part in zip(*parts, strict=True))
        return cls(levels, *arrays)

    def __add__(self, other: Coverage) -> Coverage:
        if self.levels != other.levels:
            msg = f"coverage adds up over forecasts of the same quantiles, found {self.levels} and {other.levels}"
            raise ValueError(msg)
        names = [field.name for field in fields(self)][1:]
        return Coverage(self.levels, *(getattr(self, name) + getattr(other, name) for name in names))

    def total(self) -> Coverage:
        """All leads as one: shapes ``(1, band, ...)``, every pixel counts alike."""
        names = [field.name for field in fields(self)][1:]
        return Coverage(self.levels, *(getattr(self, name).sum(axis=0, keepdims=True) for name in names))

    @property
    def nominal(self) -> float:
        """Part of the truths that the interval promises to hold."""
        return self.levels[-1] - self.levels[0]

    @property
    def closed(self) -> NDArray[np.float64]:
        """Part of the truths in the closed interval, ``(lead, band)``; large by nature where much is at the floor."""
        return ratio(self._closed().sum(axis=-1), self.count.sum(axis=-1))

    @property
    def above_floor(self) -> NDArray[np.float64]:
        """As :attr:`closed` where the upper end is above the floor; still large where the lower end is at the floor."""
        return ratio(self._closed()[..., :-1].sum(axis=-1), self.count[..., :-1].sum(axis=-1))

    @property
    def randomised(self) -> NDArray[np.float64]:
        """Part of the truths whose randomised PIT lies between the outer levels, ``(lead, band)``.

        The predictive CDF F runs through the quantiles, and has a mass at the floor where quantiles lie there. A truth
        at the floor then has a PIT drawn evenly from 0 to F(floor): it counts by the part of that stretch between the
        outer levels, which is the mean over all draws and needs no seed (the nonrandomised PIT of Czado et al. 2009,
        Biometrics 65). The k quantiles at the floor leave F(floor) between the k-th level and the next (1 after the
        last): within these limits it is the part of truths at the floor that the pixels with k quantiles there have
        met. Other truths count where they lie.
        """
        return self._counting(self._part(self._mass()))

    @property
    def randomised_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the greatest :attr:`randomised` that masses within the quantiles' limits can give."""
        ends = [self._part(np.broadcast_to(mass, self.count.shape)) for mass in self._mass_limits()]
        return self._counting(np.minimum(*ends)), self._counting(np.maximum(*ends))

    @property
    def mean_width(self) -> NDArray[np.float64]:
        """Mean width of the interval, ``(lead, band)``, in the unit of the band."""
        return ratio(self.width, self.count.sum(axis=-1))

    @property
    def mean_pinball(self) -> NDArray[np.float64]:
        """Mean quantile loss (Koenker and Bassett 1978), ``(lead, band, level)``, in the unit of the band."""
        return ratio(self.pinball, self.count.sum(axis=-1)[..., np.newaxis])

    @property
    def crps(self) -> NDArray[np.float64]:
        """CRPS, ``(lead, band)``, in the unit of the band; see :func:`pipeline.quantiles.crps`."""
        return crps(self.mean_pinball, self.levels)

    def _closed(self) -> NDArray[np.float64]:
        held = (self.inside + self.floor).astype(np.float64)
        held[..., 0] = self.inside[..., 0]  # with no quantile at the floor a truth there is below the interval
        return held

    def _mass_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest F(floor) by how many quantiles are there."""
        steps = np.array([0.0, *self.levels, 1.0])
        return steps[:-1], steps[1:]

    def _mass(self) -> NDArray[np.float64]:
        observed = np.nan_to_num(ratio(self.floor.astype(np.float64), self.count))
        return np.clip(observed, *self._mass_limits())

    def _part(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Part of the stretch from 0 to ``mass`` that lies between the outer levels; 0 if none is at the floor."""
        lowest, highest = self.levels[0], self.levels[-1]
        part = np.zeros(mass.shape)
        part[..., 1:] = (np.minimum(mass[..., 1:], highest) - lowest) / mass[..., 1:]
        return part

    def _counting(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coverage where each truth at the floor counts by this part."""
        return ratio((self.inside + part * self.floor).sum(axis=-1), self.count.sum(axis=-1))


def quantile_levels(said: Forecast) -> tuple[float, ...]:
    """Levels of a forecast's quantiles, the median's too, ascending.

    Raises:
        ValueError: there are fewer than two.
    """
    levels = tuple(sorted(found for found in map(level, said.quantities) if found is not None))
    if len(levels) < 2:
        msg = f"an interval lies between two quantiles, found {said.quantities}: train a network that gives some"
        raise ValueError(msg)
    return levels


def _cell(
    quantiles: list[NDArray[np.float32]], truth: NDArray[np.float32], limit: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Quantiles ``(level, pixel)`` and truth ``(pixel,)`` where all are known, within the limits."""
    known = np.isfinite(truth)
    for one in quantiles:
        known &= np.isfinite(one)
    return np.clip(np.stack([one[known] for one in quantiles]), *limit), np.clip(truth[known], *limit)


def _sums(
    quantiles: NDArray[np.float32], truth: NDArray[np.float32], floor: np.float32, levels: tuple[float, ...]
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """The fields of :class:`Coverage` for one lead and band."""
    groups, size = (quantiles <= floor).sum(axis=0), len(levels) + 1
    dry = truth <= floor
    inside = ~dry & (quantiles[0] <= truth) & (truth <= quantiles[-1])
    rest = [float(loss(one, truth, level).sum()) for one, level in zip(quantiles, levels, strict=True)]
    return (
        np.bincount(groups, minlength=size),
        np.bincount(groups[dry], minlength=size),
        np.bincount(groups[inside], minlength=size),
        np.asarray((quantiles[-1] - quantiles[0]).sum(dtype=np.float64)),
        np.array(rest),
    )
