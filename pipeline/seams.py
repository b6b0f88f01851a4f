"""The certificate of a forecast that was made in pieces: that nothing of them can be seen in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.predictor import MATCHED, Forecast
from pipeline.tiling import Assembly, Canvas

LARGEST_DIFFERENCE = 1e-4  # of the range of the values
LARGEST_STEP = 1.05  # times the steps beside the line
BESIDE = (2, 3, 4, 5)  # px from a line, on both sides, where steps are compared with those across it
HALF = max(BESIDE) + 1  # px on each side of a line that have to be read for that
LENGTH = 1024  # px of a line that are read at once
SIDE = 64  # px of a window that is made anew
WINDOWS = 2

Check = dict[str, str | float | bool]
Again = Callable[[Window], Forecast]
"""Makes a window in one go: a forecast of the window, without the matched field."""

Reader = Callable[[int, Window], NDArray[np.float32]]
"""Every layer of a lead, ``(layer, y, x)``, in a window."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found at the lines between pieces.

    Attributes:
        pieces: how many there are.
        difference: largest difference between the forecast and windows across lines that were made in one go, in the
            range of the forecast's values; nothing is known in one where the other knows something: infinite.
        step: mean change from pixel to pixel across the lines, over that on parallel lines close by; the largest of all
            layers. NaN where nothing changes there.
        natural: the same of a forecast that has no lines there, where a scene's own edge may lie; looked at where
            ``step`` is conspicuous, else 1.
    """

    pieces: int
    difference: float
    step: float
    natural: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether nothing shows."""
        return self.difference <= LARGEST_DIFFERENCE and not self.step > LARGEST_STEP * max(self.natural, 1.0)

    def checks(self) -> Check:
        """For the manifest, whose publication a False stops."""
        if self.pieces == 1:
            return {"pieces": 1}
        found: Check = {"pieces": self.pieces, "seam_difference": self.difference, "seamless": self.holds}
        steps = {"seam_step": self.step} | ({} if self.natural == 1.0 else {"seam_step_natural": self.natural})
        return found if np.isnan(self.step) else found | steps


class Witness:
    """What is put together, as it was before it was stored: its range, and some windows across lines."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = across(windows) if len(windows) > 1 else []
        self._seen = [Assembly(window.shape) for window in self._windows]
        self._low, self._high = np.inf, -np.inf

    def put(self, part: Forecast, window: Window, outer: Window) -> None:
        """See :class:`pipeline.tiling.Canvas`."""
        if not self._windows:
            return
        self._low = min(self._low, float(np.fmin.reduce(part.values, axis=None)))
        self._high = max(self._high, float(np.fmax.reduce(part.values, axis=None)))
        for across_, seen in zip(self._windows, self._seen, strict=True):
            shared = window.intersection(across_)
            if shared is not None:
                seen.put(part, shared.within(across_), outer.within(across_))

    def difference(self, again: Again) -> float:
        """See :attr:`Certificate.difference`."""
        span = max(self._high - self._low, float(np.finfo(np.float32).tiny))
        pairs = zip(self._windows, self._seen, strict=True)
        return max(_difference(seen.forecast, again(window)) for window, seen in pairs) / span


def certify(
    canvas: Canvas, windows: Sequence[Window], leads: int, witness: Witness, again: Callable[[Window], Forecast]
) -> Certificate:
    """Looks at a forecast of one init time that was put together from windows.

    Args:
        canvas: what came out.
        windows: what it was put together from.
        leads: how many.
        witness: saw it being put together.
        again: makes a window in one go.
    """
    if len(windows) == 1:
        return Certificate(1, 0.0, float("nan"))
    found, difference = step(canvas.layers, windows, leads), witness.difference(again)
    natural = step(_made(again), windows, leads) if found > LARGEST_STEP else 1.0
    return Certificate(len(windows), difference, found, natural)


def across(windows: Sequence[Window]) -> list[Window]:
    """Some windows across the lines between others: around their corners, or the middle of a line where none meet."""
    height, width = _shape(windows)
    rows, columns = _lines(windows)
    corners = [(y, x) for y in rows or [height // 2] for x in columns or [width // 2]]
    chosen = corners[:: max(1, len(corners) // WINDOWS)][:WINDOWS]
    return [
        Window(max(0, y - SIDE // 2), min(height, y + SIDE // 2), max(0, x - SIDE // 2), min(width, x + SIDE // 2))
        for y, x in chosen
    ]


def step(read: Reader, windows: Sequence[Window], leads: int) -> float:
    """See :attr:`Certificate.step`."""
    tallies = [_changes(read(lead, strip), at, axis) for lead in range(leads) for strip, at, axis in _strips(windows)]
    over, overs, beside, besides = np.sum(tallies, axis=0)  # (layer,) each
    known = (overs > 0) & (besides > 0) & (beside > 0)
    if not known.any():
        return float("nan")
    return float(((over / np.maximum(overs, 1))[known] / (beside / np.maximum(besides, 1))[known]).max())


def _shape(windows: Sequence[Window]) -> tuple[int, int]:
    """Of the grid that windows cover."""
    return max(one.y1 for one in windows), max(one.x1 for one in windows)


def _lines(windows: Sequence[Window]) -> tuple[list[int], list[int]]:
    """First rows and first columns of windows, but for those at the edge of the grid."""
    return sorted({one.y0 for one in windows} - {0}), sorted({one.x0 for one in windows} - {0})


def _strips(windows: Sequence[Window]) -> Iterator[tuple[Window, int, int]]:
    """Windows along the lines, at which row or column of theirs a line begins, and the axis across it."""
    (height, width), (rows, columns) = _shape(windows), _lines(windows)
    for y in rows:
        for x in range(0, width, LENGTH):
            yield Window(max(0, y - HALF), min(height, y + HALF), x, min(width, x + LENGTH)), min(y, HALF), 1
    for x in columns:
        for y in range(0, height, LENGTH):
            yield Window(y, min(height, y + LENGTH), max(0, x - HALF), min(width, x + HALF)), min(x, HALF), 2


def _changes(layers: NDArray[np.float32], at: int, axis: int) -> NDArray[np.float64]:
    """Sum and number of changes across a line and on those beside it: ``(4, layer)``."""
    change = np.abs(np.diff(np.moveaxis(layers, axis, 0), axis=0))  # that into row n is at n - 1
    beside = [at + sign * far - 1 for far in BESIDE for sign in (-1, 1) if 0 < at + sign * far <= len(change)]
    found = [part for rows in ([at - 1], beside) for part in _sum_and_number(change[rows])]
    return np.array(found, np.float64)


def _sum_and_number(change: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of ``(line, layer, pixel)``, where known."""
    known = np.isfinite(change)
    return np.where(known, change, 0).sum(axis=(0, 2), dtype=np.float64), known.sum(axis=(0, 2))


def _made(again: Again) -> Reader:
    """Layers of windows that are made in one go, for every lead at once."""
    known: dict[Window, Assembly] = {}

    def read(lead: int, window: Window) -> NDArray[np.float32]:
        if window not in known:
            known[window] = Assembly(window.shape)
            whole = Window(0, window.shape[0], 0, window.shape[1])
            known[window].put(again(window), whole, whole)
        return known[window].layers(lead, Window(0, window.shape[0], 0, window.shape[1]))

    return read


def _difference(said: Forecast, made: Forecast) -> float:
    kept = [index for index, name in enumerate(said.quantities) if name != MATCHED]
    there = said.values[:, :, kept]
    if (np.isnan(there) != np.isnan(made.values)).any():
        return float("inf")
    return float(np.nanmax(np.abs(there - made.values), initial=0.0))
