"""The certificate of a forecast that was made in pieces: that nothing of them can be seen in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.pieces import Piece
from pipeline.predictor import MATCHED, Forecast

LARGEST_DIFFERENCE = 1e-4  # of the range of the values
LARGEST_STEP = 1.05  # times the steps beside the line
BESIDE = (2, 3, 4, 5)  # px from a line, on both sides, where steps are compared with those across it
SIDE = 64  # px of a window that is made anew
WINDOWS = 2

Check = dict[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found at the lines between pieces.

    Attributes:
        pieces: how many there are.
        difference: largest difference between the forecast and windows across lines that were made in one go, in the
            range of the forecast's values; nothing is known in one where the other knows something: infinite.
        step: mean change from pixel to pixel across the lines, over that on parallel lines close by; the largest of all
            quantities and bands. NaN where nothing changes there.
    """

    pieces: int
    difference: float
    step: float

    @property
    def holds(self) -> bool:
        """Whether nothing shows."""
        return self.difference <= LARGEST_DIFFERENCE and not self.step > LARGEST_STEP

    def checks(self) -> Check:
        """For the manifest, whose publication a False stops."""
        if self.pieces == 1:
            return {"pieces": 1}
        found: Check = {"pieces": self.pieces, "seam_difference": self.difference, "seamless": self.holds}
        return found if np.isnan(self.step) else found | {"seam_step": self.step}


def certify(said: Forecast, pieces: Sequence[Piece], again: Callable[[Window], Forecast]) -> Certificate:
    """Looks at a forecast of one init time that was put together from pieces.

    Args:
        said: on the whole grid.
        pieces: what it was put together from.
        again: makes a window in one go: a forecast of the window, without the matched field.
    """
    if len(pieces) == 1:
        return Certificate(1, 0.0, float("nan"))
    span = max(float(np.nanmax(said.values) - np.nanmin(said.values)), np.finfo(np.float32).tiny)
    windows = across([piece.window for piece in pieces])
    difference = max(_difference(said, again(window), window) for window in windows)
    return Certificate(len(pieces), float(difference / span), step(said, [piece.window for piece in pieces]))


def across(windows: Sequence[Window]) -> list[Window]:
    """Some windows across the lines between others: around their corners, or the middle of a line where none meet."""
    height, width = (max(ends) for ends in zip(*((one.y1, one.x1) for one in windows), strict=True))
    rows, columns = _lines(windows)
    corners = [(y, x) for y in rows or [height // 2] for x in columns or [width // 2]]
    chosen = corners[:: max(1, len(corners) // WINDOWS)][:WINDOWS]
    return [
        Window(max(0, y - SIDE // 2), min(height, y + SIDE // 2), max(0, x - SIDE // 2), min(width, x + SIDE // 2))
        for y, x in chosen
    ]


def step(said: Forecast, windows: Sequence[Window]) -> float:
    """See :attr:`Certificate.step`."""
    rows, columns = _lines(windows)
    ratios = [
        _ratio(said.values[0, :, quantity, :, :, band], rows, columns)
        for quantity in range(said.values.shape[2])
        for band in range(said.values.shape[-1])
    ]
    known = [ratio for ratio in ratios if np.isfinite(ratio)]
    return max(known, default=float("nan"))


def _lines(windows: Sequence[Window]) -> tuple[list[int], list[int]]:
    """First rows and first columns of windows, but for those at the edge of the grid."""
    return sorted({one.y0 for one in windows} - {0}), sorted({one.x0 for one in windows} - {0})


def _difference(said: Forecast, made: Forecast, window: Window) -> float:
    rows, columns = window.slices
    kept = [index for index, name in enumerate(said.quantities) if name != MATCHED]
    there = said.values[:, :, kept, rows, columns]
    if (np.isnan(there) != np.isnan(made.values)).any():
        return float("inf")
    return float(np.nanmax(np.abs(there - made.values), initial=0.0))


def _ratio(values: NDArray[np.float32], rows: Sequence[int], columns: Sequence[int]) -> float:
    """Of ``(lead, y, x)``."""
    jumps = [_jumps(np.moveaxis(values, axis, 0), lines) for axis, lines in ((1, rows), (2, columns))]
    over = np.concatenate([one for one, _ in jumps])
    beside = np.concatenate([one for _, one in jumps])
    usual = float(np.nanmean(beside)) if np.isfinite(beside).any() else 0.0
    return float(np.nanmean(over)) / usual if usual and np.isfinite(over).any() else float("nan")


def _jumps(values: NDArray[np.float32], lines: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Changes along the first axis: across the lines, and beside them."""
    last = len(values) - 1
    near = [line + sign * far for line in lines for far in BESIDE for sign in (-1, 1) if 0 < line + sign * far <= last]
    return _change(values, lines), _change(values, near)


def _change(values: NDArray[np.float32], places: Sequence[int]) -> NDArray[np.float32]:
    return np.array([np.abs(values[place] - values[place - 1]) for place in places], np.float32).ravel()
