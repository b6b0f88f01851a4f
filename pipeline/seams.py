"""The certificate of a forecast that was made in pieces: that nothing of them can be seen in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.predictor import Forecast
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

Reader = Callable[[Window], Iterable[NDArray[np.float32]]]
"""Every layer in a window, ``(layer, y, x)``, lead by lead."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found at the lines between pieces.

    Attributes:
        pieces: how many there are.
        difference: largest difference between the forecast and windows across lines that were made in one go, in the
            range of the forecast's values; nothing is known in one where the other knows something: infinite.
        step: mean change from pixel to pixel across the lines, over that on parallel lines close by; of the quantity
            and band where it is largest, beside ``natural``. NaN where nothing changes there. What is made of certified
            quantities pixel by pixel, matched field and probabilities, is left out.
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
        self._ends: NDArray[np.float32] = np.empty(0, np.float32)

    def put(self, part: Forecast, window: Window, outer: Window) -> None:
        """See :class:`pipeline.tiling.Canvas`."""
        if not self._windows:
            return
        ends = np.stack([way.reduce(part.values, axis=(0, 1, 2, 3, 4)) for way in (np.fmin, np.fmax)])
        before = self._ends if len(self._ends) else ends
        self._ends = np.stack([np.fmin(before[0], ends[0]), np.fmax(before[1], ends[1])])
        for across_, seen in zip(self._windows, self._seen, strict=True):
            shared = window.intersection(across_)
            if shared is not None:
                seen.put(part, shared.within(across_), outer.within(across_))

    @property
    def layers(self) -> int:
        """How many there are, of quantities and bands."""
        _, _, quantities, _, _, bands = self._seen[0].forecast.values.shape
        return quantities * bands

    def difference(self, again: Again) -> float:
        """See :attr:`Certificate.difference`; each band in its own range."""
        span = np.maximum(self._ends[1] - self._ends[0], np.finfo(np.float32).tiny)
        pairs = zip(self._windows, self._seen, strict=True)
        return max(_difference(seen.forecast, again(window), span) for window, seen in pairs)


def certify(canvas: Canvas, windows: Sequence[Window], leads: int, witness: Witness, again: Again) -> Certificate:
    """Looks at a forecast of one init time that was put together from windows.

    Args:
        canvas: what came out; its first layers are those that ``again`` makes.
        windows: what it was put together from.
        leads: how many.
        witness: saw it being put together.
        again: makes a window in one go.
    """
    if len(windows) == 1:
        return Certificate(1, 0.0, float("nan"))
    found = steps(_stored(canvas, leads), windows)[: witness.layers]
    difference, natural = witness.difference(again), np.ones_like(found)
    if (found > LARGEST_STEP).any():
        natural = np.fmax(steps(_made(again), windows), 1)
    worst = int(np.nanargmax(found / natural)) if np.isfinite(found).any() else 0
    return Certificate(len(windows), difference, float(found[worst]), float(natural[worst]))


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


def steps(read: Reader, windows: Sequence[Window]) -> NDArray[np.float64]:
    """See :attr:`Certificate.step`, of each layer; NaN where nothing changes."""
    changes = (_changes(layers, at, axis) for strip, at, axis in _strips(windows) for layers in read(strip))
    over, overs, beside, besides = reduce(np.add, changes)
    known = (overs > 0) & (besides > 0) & (beside > 0)
    return np.where(known, over * np.maximum(besides, 1) / np.maximum(overs * beside, 1e-300), np.nan)


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
    """Layers of windows that are made in one go."""

    def read(window: Window) -> Iterator[NDArray[np.float32]]:
        canvas, whole = Assembly(window.shape), Window(0, window.shape[0], 0, window.shape[1])
        canvas.put(again(window), whole, whole)
        return (canvas.layers(lead, whole) for lead in range(len(canvas.forecast.source[0])))

    return read


def _stored(canvas: Canvas, leads: int) -> Reader:
    """Layers that come out."""
    return lambda window: (canvas.layers(lead, window) for lead in range(leads))


def _difference(said: Forecast, made: Forecast, span: NDArray[np.float32]) -> float:
    """Largest, in parts of ``(band,)``."""
    if (np.isnan(said.values) != np.isnan(made.values)).any():
        return float("inf")
    return float(np.nanmax(np.abs(said.values - made.values) / span, initial=0.0))
