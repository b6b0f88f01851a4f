"""How far to move a bound so that it is missed as often as it should be: counts over a grid of moves that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

NODES = 64
ROUNDING = 1e-6  # pixels: 1 - 0.9 is a little less than 0.1
NEAR = 0.1  # around the level wanted the nodes lie densely: every half per cent of the truths
COARSE = 0.01  # of the truths between the move and the node before it: fresh nodes are due
REACH = (0.5, 1.0, 2.0, 4.0)  # nodes beyond all errors seen, in spreads of the errors: room to follow a drift


@dataclass(frozen=True, slots=True, eq=False)
class Misses:
    """Truths beyond one bound (of one lead, band, level and class), had it been moved outward by each of some moves.

    Outward is down for a lower bound and up for an upper one; a bound never moves beyond the floor of its band.

    Attributes:
        moves: ``(NODES,)``, ascending, in the unit of the band; 0 is one of them.
        missed: ``(NODES,)``, weight of pixels whose moved bound is off the floor and whose truth lies beyond it.
        floored: ``(NODES,)``, weight of pixels whose moved bound is at the floor.
        dry: ``(NODES,)``, the part of ``floored`` whose truth is at the floor as well.
        total: weight of all pixels.
    """

    moves: NDArray[np.float64]
    missed: NDArray[np.float64]
    floored: NDArray[np.float64]
    dry: NDArray[np.float64]
    total: float

    @classmethod
    def over(cls, moves: NDArray[np.float64]) -> Self:
        """Nothing counted yet."""
        return cls(moves, np.zeros(NODES), np.zeros(NODES), np.zeros(NODES), 0.0)

    def aged(self, weight: float) -> Misses:
        """The same pixels at a part of their weight."""
        return Misses(self.moves, weight * self.missed, weight * self.floored, weight * self.dry, weight * self.total)

    def at(self, moves: NDArray[np.float64]) -> Misses:
        """The same pixels at other nodes, as the counts between the old ones would be if they ran straight."""
        counts = (np.interp(moves, self.moves, count) for count in (self.missed, self.floored, self.dry))
        return Misses(moves, *counts, total=self.total)

    def seeing(self, beyond: NDArray[np.float64], height: NDArray[np.float64], *, upper: bool, weight: float) -> Misses:
        """These and more pixels.

        Args:
            beyond: how far outside of the bound each truth lies (negative: inside), in the unit of the band.
            height: how far each bound lies above the floor; infinite where there is none.
            upper: an upper bound.
            weight: of one pixel.
        """
        first_held = np.searchsorted(self.moves, beyond, side="left")  # the truth is inside from this node on
        dry = -beyond == height if upper else beyond == height
        if upper:
            first_off = np.searchsorted(self.moves, -height, side="right")  # at the floor before this node
            floored, dried = _before(first_off), _before(first_off[dry])
            missed = _between(first_off, first_held)
        else:
            first_on = np.searchsorted(self.moves, height, side="left")  # at the floor from this node on
            floored, dried = len(height) - _before(first_on), np.count_nonzero(dry) - _before(first_on[dry])
            missed = _before(first_held)
        return Misses(
            self.moves,
            self.missed + weight * missed,
            self.floored + weight * floored,
            self.dry + weight * dried,
            self.total + weight * len(beyond),
        )

    def move(self, miss: float, *, upper: bool) -> float:
        """The move nearest to none with which the bound is missed by a part ``miss`` of the truths at most, and just.

        A bound off the floor is missed by the truths beyond it. Of n such pixels (weights summed, the newest weigh 1)
        at most ``miss * (n + 1) - 1`` may be: the rule of split conformal prediction (Romano et al. 2019, arXiv
        1905.03222), with weights that of nonexchangeable conformal prediction (Barber et al. 2023, arXiv 2202.13415).

        A bound at the floor carries a mass: as a randomised PIT draws within the mass, a truth there misses it now and
        then. In the mean these are the nominal part wherever the floor came true often enough for the bound to belong
        there, and what was observed where it did not. So floored pixels neither pay for others nor are paid for.

        Returns:
            Outward, in the unit of the band; 0 where nothing was seen.
        """
        return float(self.moves[self._chosen(miss, upper=upper)]) if self.total else 0.0

    def is_coarse(self, miss: float, *, upper: bool) -> bool:
        """Whether the nodes end at the move or are too far apart there: truths have drifted since they were chosen."""
        chosen = self._chosen(miss, upper=upper)
        if chosen in (0, NODES - 1):
            return True
        return bool(self.missed[chosen - 1] - self.missed[chosen] > COARSE * self.total)

    def _chosen(self, miss: float, *, upper: bool) -> int:
        """Node of :meth:`move`."""
        wanted = miss * self.floored
        wet = self.floored - self.dry
        at_floor = np.maximum(wanted, wet) if upper else np.minimum(wanted, self.dry)
        free = self.total - self.floored
        allowed = np.where(free > 0.5, miss * (free + 1) - 1, 0.0) + ROUNDING
        further_in = (free > 0.5) | (not upper)  # upper bounds that are all at the floor are as far in as can be
        return self._nearest(self.missed + at_floor - wanted <= allowed, further_in)

    def _nearest(self, held: NDArray[np.bool_], further_in: NDArray[np.bool_]) -> int:
        """Of the nodes without too many misses the last one on the way inward from 0, else the first one outward."""
        node = int(np.searchsorted(self.moves, 0.0))
        if not held[node]:
            outward = np.flatnonzero(held[node:])
            return node + int(outward[0]) if len(outward) else NODES - 1
        while node and held[node - 1] and further_in[node]:
            node -= 1
        return node


def nodes(beyond: NDArray[np.float64], miss: float) -> NDArray[np.float64]:
    """Moves to count at: ``(NODES,)``, ascending, 0 among them, densest where ``miss`` of the truths are missed.

    Args:
        beyond: how far outside of the bound truths lie, see :meth:`Misses.seeing`; may be empty.
        miss: wanted part of truths beyond the bound.
    """
    if not len(beyond):
        return np.zeros(NODES)
    dense = np.linspace(max(0.0, 1 - miss - NEAR), min(1.0, 1 - miss + NEAR), 41)
    exact = np.ceil((len(beyond) + 1) * (1 - miss) - ROUNDING) / len(beyond)  # what split conformal prediction takes
    coarse = np.linspace(0, 1, NODES - 41 - 2 - 2 * len(REACH))
    chances = np.concatenate([dense, [min(exact, 1.0)], coarse])
    inside = np.quantile(beyond, chances, method="inverted_cdf")
    spread = inside.max() - inside.min()
    outside = [inside.max() + reach * spread for reach in REACH] + [inside.min() - reach * spread for reach in REACH]
    return np.sort(np.concatenate([inside, outside, [0.0]]))


def _before(index: NDArray[np.intp]) -> NDArray[np.float64]:
    """How many of ``index`` lie after each node: pixels that count at the nodes before theirs."""
    return np.cumsum(np.bincount(index, minlength=NODES + 1)[::-1])[::-1][1:].astype(np.float64)


def _between(first: NDArray[np.intp], end: NDArray[np.intp]) -> NDArray[np.float64]:
    """How many pixels count at each node, each from ``first`` up to before ``end``."""
    return _before(np.maximum(first, end)) - _before(first)
