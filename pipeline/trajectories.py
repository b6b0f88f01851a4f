"""Where the pattern of a whole frame comes from and goes to, by time: found once, looked at through windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.motion import Motion, displacements

GRAIN = 256  # parts of a pixel: what is added to a pixel's number must come out alike in every window


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """Displacements of a whole frame at one time, ``(y, x, 2)`` in pixels, in memory or in a file; and the longest."""

    field: NDArray[np.float32] | Path
    longest: float

    def rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Some rows of it, ``last`` not among them."""
        if isinstance(self.field, Path):
            return np.array(np.load(self.field, mmap_mode="r")[first:last])
        return self.field[first:last]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """Displacements along a stationary flow, as :func:`pipeline.motion.displacements` gives them, of a part of a frame.

    A piece of a forecast must be moved exactly as the whole is, or its edges show: so trajectories are followed over
    the whole frame, kept in steps of 1/256 px, and cut out. Of a large frame they are followed on a coarser grid,
    between whose points they are bilinear.

    Attributes:
        motion: of the whole frame, on a grid ``step`` times as coarse, in pixels of that grid.
        shape: ``(height, width)`` of the whole frame.
        window: the part that is looked at.
        step: pixels of the frame in one of the motion's grid.
        folder: where what was followed is kept, so that it takes no memory and other processes find it; None: nowhere.
    """

    motion: Motion
    shape: tuple[int, int]
    window: Window
    step: int = 1
    folder: Path | None = None
    _known: dict[float, Way] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        expected = tuple(-(-side // self.step) for side in self.shape)
        if self.motion.flow.shape[:2] != expected:
            msg = f"the flow of a frame of {self.shape} px in steps of {self.step} is {expected}, found a flow of "
            raise ValueError(msg + str(self.motion.flow.shape[:2]))

    @classmethod
    def of(cls, motion: Motion) -> Trajectories:
        """Of a whole frame, on its own grid."""
        height, width = motion.flow.shape[:2]
        return cls(motion, (height, width), Window(0, height, 0, width))

    def within(self, window: Window) -> Trajectories:
        """Of a window of the whole frame."""
        return replace(self, window=window)

    def follow(self, slots: Sequence[float]) -> None:
        """Finds the displacements at some times, each from the one before: in order of distance they cost least."""
        missing = [time for time in slots if time not in self._known]
        for time, travelled in zip(missing, displacements(self.motion, missing), strict=True):
            self._known[time] = self._kept(time, _grained(travelled * np.float32(self.step)))

    def at(self, slots: float) -> NDArray[np.float32]:
        """How far what arrives ``slots`` after the init time has come: ``(y, x, 2)`` of the window, in pixels."""
        self.follow((slots,))
        way, window = self._known[slots], self.window
        if self.step == 1:
            return way.rows(window.y0, window.y1)[:, window.x0 : window.x1]
        return _grained(_finer(way, self.motion.flow.shape[0], window, self.step))

    def reach(self) -> int:
        """The longest way of those that were followed, in whole pixels: what lies farther away plays no part."""
        longest = max((way.longest for way in self._known.values()), default=0.0)
        return math.ceil(longest) + (longest > 0)  # and the bilinear neighbour

    def _kept(self, time: float, travelled: NDArray[np.float32]) -> Way:
        longest = float(np.abs(travelled).max())
        if self.folder is None:
            return Way(travelled, longest)
        path = self.folder / f"{time!r}.npy"
        np.save(path, travelled)
        return Way(path, longest)


def _grained(travelled: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.rint(travelled * GRAIN) / GRAIN, np.float32)


def _finer(way: Way, height: int, window: Window, step: int) -> NDArray[np.float32]:
    """Bilinear between the centres of the coarse cells, in the order of the whole frame's pixels."""
    rows, columns = ((np.arange(first, last) + 0.5) / step - 0.5 for first, last in _spans(window))
    rows = np.clip(rows, 0, height - 1)
    first = max(0, min(int(rows[0]), height - 2))
    across = _between(way.rows(first, int(rows[-1]) + 2), columns, axis=1)
    return _between(across, rows - first, axis=0)


def _spans(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.y0, window.y1), (window.x0, window.x1)


def _between(field_: NDArray[np.float32], places: NDArray[np.float64], *, axis: int) -> NDArray[np.float32]:
    """Linear along an axis; beyond the outermost points as there."""
    held = np.clip(places, 0, field_.shape[axis] - 1)
    below = np.minimum(held.astype(int), max(field_.shape[axis] - 2, 0))
    share = (held - below).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(field_.ndim)])
    above = np.minimum(below + 1, field_.shape[axis] - 1)
    return np.asarray(field_.take(below, axis) * (1 - share) + field_.take(above, axis) * share, np.float32)
