"""The stripe of the grid that validation reads where a series is too short to give it frames of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.cube import Cube
from pipeline.grid import Window

BUFFER_SHARE = 1 / 3  # of what the stripe leaves of a grid; more would leave too little to learn from
LEAST = 0.5  # of a side's fraction: a stripe is never thinner, however much is known at the edge of a grid
PAIRS = 6  # of frames that show where something happens

Areas = tuple[Window, Window]
"""What training reads, and the stripe."""


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What happens where on a grid.

    Attributes:
        known: ``(y, x)``, how often a pixel is known in two frames that follow each other.
        change: ``(y, x)``, sum of how much it changes between them, relative to the mean of its band.
    """

    known: NDArray[np.float64]
    change: NDArray[np.float64]


def survey(cube: Cube, slots: Sequence[int], bands: Sequence[int]) -> Ground:
    """What happens where, seen in a few pairs of frames spread evenly over observed slots.

    Args:
        cube: the data.
        slots: observed, ascending, and none that training may not see.
        bands: which bands of the cube count.
    """
    pairs = list(pairwise(slots))
    picked = np.unique(np.linspace(0, len(pairs) - 1, min(PAIRS, len(pairs))).round().astype(int))
    known, change = np.zeros(cube.layout.grid.shape), np.zeros(cube.layout.grid.shape)
    for one in picked:
        frames = cube.read(pairs[one])
        values = np.where(frames.validity, frames.values, np.nan)[..., list(bands)]
        steps = np.abs(values[1] - values[0])
        both = np.isfinite(steps)
        usual = np.nansum(steps, axis=(0, 1), dtype=np.float64) / np.maximum(both.sum(axis=(0, 1)), 1)
        known += both.sum(axis=-1)
        change += np.where(both, steps / np.where(usual > 0, usual, 1), 0).sum(axis=-1)
    return Ground(known, change)


def representative(ground: Ground, fraction: float, buffer: int) -> Areas:
    """The stripe along one of the four sides in which as much happens, for a known pixel, as on the whole grid.

    It holds ``fraction`` of what is known, so that of a radar's disc in an empty frame it takes no empty corner.

    Args:
        ground: what happens where.
        fraction: of the known pixels.
        buffer: pixels to keep free beside it, as far as the grid allows.
    """
    shape = ground.known.shape
    if not ground.known.any() or not ground.change.any() or max(shape) < 2:
        return at_the_end(shape, fraction, buffer)
    return min(_candidates(ground, fraction), key=lambda one: one[0])[1].areas(shape, buffer)


def at_the_end(shape: tuple[int, int], fraction: float, buffer: int) -> Areas:
    """The stripe at the end of the longer side, ``buffer`` pixels from what training reads.

    >>> [area.slices[1] for area in at_the_end((100, 400), 0.2, 48)]  # room enough
    [slice(0, 272, None), slice(320, 400, None)]
    >>> [area.slices[1] for area in at_the_end((100, 101), 0.2, 48)]  # a third of 81 is 27
    [slice(0, 54, None), slice(81, 101, None)]
    """
    axis = int(shape[1] >= shape[0])
    return _Stripe(axis, last=True, width=min(max(1, round(shape[axis] * fraction)), shape[axis] - 1)).areas(
        shape, buffer
    )


@dataclass(frozen=True, slots=True)
class _Stripe:
    """Along the first or last rows (``axis`` 0) or columns (1)."""

    axis: int
    last: bool
    width: int

    def areas(self, shape: tuple[int, int], buffer: int) -> Areas:
        """Training area and stripe."""
        side = shape[self.axis]
        left = side - self.width
        kept = left - min(buffer, int(left * BUFFER_SHARE))
        spans = ((0, kept), (left, side)) if self.last else ((side - kept, side), (0, self.width))
        training, stripe = (
            Window(*span, 0, shape[1]) if self.axis == 0 else Window(0, shape[0], *span) for span in spans
        )
        return training, stripe


def _candidates(ground: Ground, fraction: float) -> Iterator[tuple[float, _Stripe]]:
    """The stripe of each side, the end of the longer one first, and how far what happens there is from usual."""
    longer = int(ground.known.shape[1] >= ground.known.shape[0])
    usual = ground.change.sum() / ground.known.sum()
    for axis in (one for one in (longer, 1 - longer) if ground.known.shape[one] > 1):
        for last in (True, False):
            known, change = (part.sum(axis=1 - axis)[:: -1 if last else 1] for part in (ground.known, ground.change))
            enough = int(np.searchsorted(known.cumsum(), fraction * known.sum())) + 1
            width = int(np.clip(enough, max(1, round(LEAST * fraction * len(known))), max(1, len(known) // 2)))
            happens = change[:width].sum() / max(known[:width].sum(), 1)
            yield abs(float(np.log(max(happens / usual, np.finfo(float).tiny)))), _Stripe(axis, last, width)
