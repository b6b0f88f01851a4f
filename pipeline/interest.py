"""Where training chips are worth drawing: texture, change or rain, measured once on coarse cells of aligned samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window

CELL = 16  # px
UNIFORM = 0.5  # of the draws go anywhere: what is dull must not be forgotten

Kind = Literal["texture", "change", "activity"]


class Seen(Protocol):
    """An aligned sample: ``frames`` ``(1, frame, y, x, band)`` and ``targets`` ``(1, lead, y, x, forecast band)``."""

    @property
    def frames(self) -> NDArray:
        """Oldest first; NaN where missing, standardised."""
        ...

    @property
    def targets(self) -> NDArray:
        """Of the leads; NaN where missing, standardised."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Interest:
    """How likely chips of one size are drawn at each corner, a cell's side apart.

    Attributes:
        rising: ``(sample * row * column,)``, float64: sums of the chances up to each corner; the last one is 1.
        shape: ``(sample, row, column)`` of the corners.
        room: ``(height, width)``, how many corners there are, pixel by pixel.
    """

    rising: NDArray[np.float64]
    shape: tuple[int, int, int]
    room: tuple[int, int]

    @property
    def chances(self) -> NDArray[np.float64]:
        """``(sample, row, column)``, summing to one."""
        return np.diff(self.rising, prepend=0).reshape(self.shape)

    def draw(self, random: np.random.Generator) -> tuple[int, int, int]:
        """Sample, and row and column of a chip's upper left corner, counted from the area's."""
        corner = int(np.searchsorted(self.rising, random.random(), side="right"))
        sample, row, column = np.unravel_index(min(corner, len(self.rising) - 1), self.shape)
        y, x = (
            int(at) * CELL + int(random.integers(min(CELL, room - int(at) * CELL)))
            for at, room in zip((row, column), self.room, strict=True)
        )
        return int(sample), y, x


def measure_interest(
    samples: Sequence[Seen], area: Window, size: tuple[int, int], kind: Kind, *, bands: tuple[int, ...]
) -> Interest:
    """Chances of chips: half of the draws anywhere, half in proportion to the mean interest of the cells under a chip.

    The interest of a cell is, over what is known there: for ``texture`` the spread of the newest frame; for ``change``
    the mean absolute difference between the targets' mean and the newest frame; for ``activity`` the mean of the newest
    frame's first band where it is above its average (rain).

    Args:
        samples: aligned ones; each is read once.
        area: where chips may lie.
        size: ``(height, width)`` of a chip, at most that of the area.
        kind: what counts.
        bands: indices of the targets' bands among those of the frames.
    """
    means = np.stack([_under_chips(_cells(one, area, kind, bands), area, size) for one in samples])
    room = (area.shape[0] - size[0] + 1, area.shape[1] - size[1] + 1)
    corners = np.outer(*(np.minimum(CELL, side - np.arange(0, side, CELL)) for side in room))
    alike, worth = np.broadcast_to(corners, means.shape), means * corners
    total = worth.sum()
    chances = UNIFORM * alike / alike.sum() + (1 - UNIFORM) * worth / total if total > 0 else alike
    rising = np.cumsum(chances.ravel())
    return Interest(rising / rising[-1], (means.shape[0], means.shape[1], means.shape[2]), room)


def _cells(one: Seen, area: Window, kind: Kind, bands: tuple[int, ...]) -> NDArray[np.float64]:
    """``(row, column)``; 0 where nothing is known."""
    rows, columns = area.slices
    newest = one.frames[0, -1, rows, columns].astype(np.float32)
    if kind == "texture":
        mean = _cell_means(newest)
        spread = _cell_means(newest**2) - mean**2
        return np.sqrt(np.maximum(spread, 0)).mean(axis=-1)
    if kind == "activity":
        return _cell_means(np.maximum(newest[..., :1], 0)).mean(axis=-1)
    difference = np.abs(_mean(one.targets[0, :, rows, columns]) - newest[..., list(bands)])
    return _cell_means(difference).mean(axis=-1)


def _mean(layers: NDArray) -> NDArray[np.float32]:
    """Over the first axis, of what is known; NaN where nothing is."""
    total, count = np.zeros(layers.shape[1:], np.float32), np.zeros(layers.shape[1:], np.float32)
    for layer in layers:
        values = layer.astype(np.float32)
        known = np.isfinite(values)
        total += np.where(known, values, 0)
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))


def _cell_means(field: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means over cells of ``(y, x, band)``, ``(row, column, band)``; 0 where nothing is known."""
    known = np.isfinite(field)
    total, count = (_cell_sums(part) for part in (np.where(known, field, 0), known))
    return total / np.maximum(count, 1)


def _cell_sums(field: NDArray) -> NDArray[np.float64]:
    rows, columns = (np.arange(0, side, CELL) for side in field.shape[:2])
    return np.add.reduceat(np.add.reduceat(field, rows, axis=0, dtype=np.float64), columns, axis=1)


def _under_chips(cells: NDArray[np.float64], area: Window, size: tuple[int, int]) -> NDArray[np.float64]:
    """Means of the cells under a chip at each corner, ``(row, column)``."""
    sums = np.pad(cells, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    top, left = (np.arange(0, side - chip + 1, CELL) // CELL for side, chip in zip(area.shape, size, strict=True))
    bottom, right = (
        np.minimum(first + -(-chip // CELL), count)
        for first, chip, count in zip((top, left), size, cells.shape, strict=True)
    )
    whole = (
        sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    )
    return np.maximum(whole, 0) / np.outer(bottom - top, right - left)  # differences of sums may end below 0
