"""The matched field of a grid that is put together from windows: it ranks the pixels of all of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window, tiles
from pipeline.matching import Law, matched
from pipeline.predictor import MATCHED, MEAN, Forecast, Source
from pipeline.tiling import Canvas

EXACT = 4_000_000  # pixels; of a larger grid every second, third ... row and column is ranked
TILE = 1024  # px


class Ranking:
    """Mean and reference of a grid, gathered window by window, until its matched field can be made.

    Up to :data:`EXACT` pixels the field is :func:`pipeline.matching.matched`. Of a larger grid pixels are ranked that
    lie on a lattice, and every pixel takes the value that belongs to its mean by them: memory does not grow.
    """

    def __init__(self, shape: tuple[int, int], partly: float) -> None:
        self._shape = shape
        self._partly = partly
        self._step = math.ceil(math.sqrt(math.prod(shape) / EXACT))
        self._pairs: NDArray[np.float32] | None = None

    def put(self, said: Forecast, below: Forecast, window: Window, outer: Window) -> None:
        """A window of what is forecast and of the rung below, both of ``outer``.

        The reference is the rung below where a network spoke: elsewhere that rung stands in for it already.
        """
        rows, columns = (slice(_first(start, self._step), stop, self._step) for start, stop in _ends(window))
        inside = (slice(None), *_shifted((rows, columns), outer), slice(None))
        mean, reference = said.of(MEAN)[0][inside], below.of(MEAN)[0][inside]
        spoke = (said.source[0][inside[:-1]] == Source.NETWORK)[..., np.newaxis]
        pairs = self._found(len(mean), mean.shape[-1])
        places = tuple(slice(one.start // self._step, -(-one.stop // self._step)) for one in (rows, columns))
        pairs[0][:, *places] = mean
        pairs[1][:, *places] = np.where(spoke, reference, np.float32(np.nan))

    def paint(self, canvas: Canvas) -> None:
        """Puts the field on the canvas, as its quantity ``matched``."""
        if self._pairs is None:
            return
        leads, bands = self._pairs.shape[1], self._pairs.shape[-1]
        for lead, band in np.ndindex(leads, bands):
            mean, reference = self._pairs[:, lead, ..., band]
            if self._step == 1:
                field = matched(mean, reference, partly=self._partly)
                canvas.paint((lead, MATCHED, band), Window(0, self._shape[0], 0, self._shape[1]), field)
            elif (law := Law.learned(mean, reference)) is not None:
                self._paint_by(law, (lead, band), canvas)

    def _paint_by(self, law: Law, place: tuple[int, int], canvas: Canvas) -> None:
        lead, band = place
        for window in tiles(self._shape, TILE):
            mean = canvas.look((lead, MEAN, band), window)
            spoke = canvas.source(lead, window) == Source.NETWORK
            field = np.where(spoke, law.matched(mean, partly=self._partly), mean)
            canvas.paint((lead, MATCHED, band), window, field)

    def _found(self, leads: int, bands: int) -> NDArray[np.float32]:
        """``(mean or reference, lead, y, x, band)`` of the lattice."""
        if self._pairs is None:
            lattice = tuple(-(-side // self._step) for side in self._shape)
            self._pairs = np.full((2, leads, *lattice, bands), np.nan, np.float32)
        return self._pairs


def _ends(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.y0, window.y1), (window.x0, window.x1)


def _first(start: int, step: int) -> int:
    """The first multiple of ``step`` from ``start`` on."""
    return -(-start // step) * step


def _shifted(slices: tuple[slice, ...], outer: Window) -> tuple[slice, slice]:
    rows, columns = slices
    return (
        slice(rows.start - outer.y0, rows.stop - outer.y0, rows.step),
        slice(columns.start - outer.x0, columns.stop - outer.x0, columns.step),
    )
