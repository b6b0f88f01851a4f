"""A forecast made piece by piece: memory does not grow with the scene, and no piece shows in what is put together.

Motion is followed over the whole frame. Each piece sees as far around it as its pixels can: the network's halo, and the
way that the pattern moves. So it is, but for rounding, what the whole would have been there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.covariates import Covariates
from pipeline.cube import Cube
from pipeline.grid import Window, tiles
from pipeline.motion import estimate
from pipeline.predictor import Context
from pipeline.samples import Sample, read_context
from pipeline.specs import MotionSpec, SampleSpec
from pipeline.tiling import round_up
from pipeline.trajectories import Trajectories

FLOW_PIXELS = 4_000_000  # of the grid that motion is estimated on; a larger frame is taken together
STRIP = 500_000  # pixels that are read at once for it, of all bands


@dataclass(frozen=True, slots=True)
class View:
    """What a run sees of its cube, window by window.

    Attributes:
        cube: as it was known then.
        sample: which frames are the context, which slots are ahead.
        spec: context and horizon.
        covariates: what is told besides; None: nothing.
    """

    cube: Cube
    sample: Sample
    spec: SampleSpec
    covariates: Covariates | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` of the whole grid."""
        height, width = self.cube.layout.grid.shape
        return height, width

    @property
    def whole(self) -> Window:
        """The whole grid."""
        height, width = self.shape
        return Window(0, height, 0, width)

    def context(self, window: Window) -> Context:
        """Batch of one."""
        context = read_context(self.cube, self.sample, self.spec, area=window)
        if self.covariates is None:
            return context
        return self.covariates.attach(context, self.sample.init, self.spec.horizon, area=window)


@dataclass(frozen=True, slots=True)
class Piece:
    """``window`` of a grid, and what has to be seen for it: ``outer``."""

    window: Window
    outer: Window


def plan(shape: tuple[int, int], size: int, margin: int, step: int = 1) -> list[Piece]:
    """Pieces of at most ``size`` pixels a side, in rows; one alone where the whole has no more pixels than such a one.

    All of them see windows of the same shape, those at an edge more on the other side: a network's graph is made anew
    for each shape.

    Args:
        shape: of the grid.
        size: pixels a side, rounded up to ``step``.
        margin: how far a piece sees, in pixels.
        step: windows start at multiples of this.
    """
    height, width = shape
    if height * width <= size**2:
        whole = Window(0, height, 0, width)
        return [Piece(whole, whole)]
    size, margin = round_up(size, step), round_up(margin, step)
    return [Piece(window, _outer(window, size, margin, shape, step)) for window in tiles(shape, size)]


def around(window: Window, margin: int, shape: tuple[int, int], step: int) -> Window:
    """A window with what has to be seen for it; it starts at a multiple of ``step``."""
    grown = window.grown(margin, shape)
    return Window(grown.y0 // step * step, grown.y1, grown.x0 // step * step, grown.x1)


def _outer(window: Window, size: int, margin: int, shape: tuple[int, int], step: int) -> Window:
    """The window and its margin, always as many pixels, or all there are; it starts at a multiple of ``step``."""
    (y0, y1), (x0, x1) = (
        _span(start - margin, size + 2 * margin, length, step)
        for start, length in zip((window.y0, window.x0), shape, strict=True)
    )
    return Window(y0, y1, x0, x1)


def _span(start: int, side: int, length: int, step: int) -> tuple[int, int]:
    """``side`` pixels and up to ``step`` more, so that the last span of an axis can start at a multiple of it, too."""
    side += (length - side) % step
    if side >= length:
        return 0, length
    first = min(max(start, 0), length - side)
    return first, first + side


def follow(view: View, spec: MotionSpec, folder: Path | None = None) -> Trajectories:
    """Trajectories of the whole frame, of all times that a run needs; of a large frame from pixels taken together.

    Args:
        view: what the run sees.
        spec: how motion is estimated.
        folder: where they are kept; None: in memory.
    """
    step = math.ceil(math.sqrt(math.prod(view.shape) / FLOW_PIXELS))
    values, ages = _reduced(view, spec.band - 1, step)
    motion = estimate(values, np.isfinite(values), ages, _coarse(spec, step))
    found = Trajectories(motion, view.shape, view.whole, step, folder)
    found.follow(times(ages.tolist(), view.spec.horizon))
    return found


def times(ages: Sequence[float], horizon: int) -> list[float]:
    """When a run looks along its trajectories: at the ages of its frames and at its leads, before and after."""
    ahead = [float(lead) for lead in range(1, horizon + 1)]
    return [*sorted({*ages, *ahead}), *(-lead for lead in ahead)]


def reach(trajectories: Trajectories, view: View) -> int:
    """How far, in pixels, what a run says may have come: to a lead, and before that to the init time from a frame.

    Covariates are told from where the pattern will be.
    """
    ages = view.context(Window(0, 1, 0, 1)).ages[0].tolist()
    ahead = [float(lead) for lead in range(1, view.spec.horizon + 1)]
    return trajectories.longest([*ages, *(-lead for lead in ahead)]) + trajectories.longest(ahead)


def _reduced(view: View, band: int, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Frames ``(frame, y, x)`` of one band on a grid ``step`` times as coarse, and their ages."""
    height, width = view.shape
    rows = max(1, STRIP // (width * step)) * step
    strips = [view.context(Window(y, min(y + rows, height), 0, width)) for y in range(0, height, rows)]
    values = np.concatenate([coarser(strip.values[0, ..., band], step) for strip in strips], axis=1)
    return values, strips[0].ages[0]


def coarser(values: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Means of ``step`` x ``step`` pixels of ``(frame, y, x)``, of those that are known; the last ones may be fewer."""
    if step == 1:
        return values
    height, width = values.shape[1:]
    padded = np.pad(values, ((0, 0), (0, -height % step), (0, -width % step)), constant_values=np.nan)
    cells = padded.reshape(len(values), padded.shape[1] // step, step, padded.shape[2] // step, step)
    known = np.isfinite(cells)
    count = known.sum(axis=(2, 4))
    total = np.where(known, cells, np.float32(0)).sum(axis=(2, 4))
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)).astype(np.float32)


def _coarse(spec: MotionSpec, step: int) -> MotionSpec:
    """The same limit of speed in pixels that are ``step`` times as large."""
    return spec if spec.max_speed is None else spec.model_copy(update={"max_speed": spec.max_speed / step})
