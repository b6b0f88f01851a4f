"""The lowest rung of the ladder: what no context frame knows, filled from the cube's own past.

Every pixel is looked at alone, and which frames are averaged does not depend on the window: windows agree bit by bit.
The archive is read only for pixels that lack a value and that one of these frames may show, which their quality tells:
where a radar sees a disc of the frame, what lies outside it costs 12 arrays of quality an hour of leads, and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import fill
from pipeline.grid import Window, tiles
from pipeline.pieces import View
from pipeline.predictor import Forecast, Source
from pipeline.record import ModelRef
from pipeline.tiling import Canvas, cut
from pipeline.times import from_seconds
from pipeline.usual import TILE, WIDTH, at_least, days, usual

CLIMATOLOGY = ModelRef("climatology", "1", "climatology")  # of runs that have nothing else
TOGETHER = timedelta(hours=1)  # of leads that share their frames, those of the middle one


@dataclass(frozen=True, slots=True)
class Past:
    """The lowest rung of one run.

    Attributes:
        view: what the run sees.
        bands: the forecast bands, counted from 0.
        frames: how many frames are averaged at most; 0: this rung says nothing.
    """

    view: View
    bands: tuple[int, ...]
    frames: int

    @property
    def speaks(self) -> bool:
        """Whether it has a frame to speak from."""
        return bool(self.frames) and any(len(self._chosen(leads)) for leads in self._together())

    def nothing(self, window: Window) -> Forecast:
        """A forecast of a window that knows nothing yet."""
        shape, leads = window.shape, len(self.view.sample.targets)
        return Forecast(
            np.full((1, leads, 1, *shape, len(self.bands)), np.nan, np.float32),
            np.full((1, leads, *shape), Source.NONE, np.uint8),
            np.full((1, leads, *shape), np.nan, np.float32),
        )

    def fill(self, said: Forecast, window: Window) -> None:
        """Fills a forecast of a window, in place, where it knows nothing, as far as the past goes back."""
        for leads in self._together() if self.frames else ():
            lacking = _lacking(said, leads)
            if lacking.any():
                self._fill(said, leads, lacking, window)

    def remarks(self, canvas: Canvas) -> dict[str, Any]:
        """For the manifest: which scenes filled pixels in, and why; nothing where none did."""
        scenes = [scene.id for scene in self.view.cube.scenes(self._behind(canvas))]
        return {"climatology": {"reason": self._reason(), "scenes": scenes}} if scenes else {}

    def _behind(self, canvas: Canvas) -> set[int]:
        """Slots that are averaged for leads some of whose pixels are climatology."""
        spoke = [leads for leads in self._together() if self.frames and self._spoke(canvas, leads)]
        return {slot for leads in spoke for slot in self._chosen(leads).tolist()}

    def _spoke(self, canvas: Canvas, leads: slice) -> bool:
        windows = tiles(self.view.shape, TILE)
        pairs = ((lead, window) for window in windows for lead in range(leads.start, leads.stop))
        return any((canvas.source(lead, window) == Source.CLIMATOLOGY).any() for lead, window in pairs)

    def _reason(self) -> str:
        frames, cube = self.view.sample.context, self.view.cube
        if frames:
            return f"there are pixels that none of the {len(frames)} newest frames shows"
        known = "" if cube.as_of is None else f" that was available {cube.as_of:%Y-%m-%d %H:%M}Z"
        init = cube.layout.axis.valid_time(self.view.sample.init)
        return f"no scene of the last {self.view.spec.max_age} slots before {init:%Y-%m-%d %H:%M}Z{known}"

    def _together(self) -> Iterator[slice]:
        """Indices of the leads that share their frames."""
        leads, size = len(self.view.sample.targets), max(1, TOGETHER // self.view.cube.layout.axis.cadence)
        return (slice(first, min(first + size, leads)) for first in range(0, leads, size))

    def _middle(self, leads: slice) -> int:
        return self.view.sample.targets[(leads.start + leads.stop) // 2]

    def _chosen(self, leads: slice) -> NDArray[np.int64]:
        """Slots of the frames that are averaged; those of the context have nothing to add."""
        one = self.view.sample
        return at_least(self.view.cube, self._middle(leads), one.init, self.frames, besides=one.context)

    def _fill(self, said: Forecast, leads: slice, lacking: NDArray[np.bool_], window: Window) -> None:
        """Fills pixels that lack a value, ``(y, x)`` of a window, at some leads, in place."""
        slots, seen = self._seen(self._chosen(leads), lacking, window)
        for tile in tiles(window.shape, TILE):
            if not seen[tile.slices].any():
                continue
            inner = _around(seen[tile.slices], tile)
            part = _of_leads(cut(said, inner), leads)
            full = fill(part, self._usual(slots, leads, _of_grid(inner, window), part.values.shape[1]))
            part.values[...], part.source[...], part.age[...] = full.values, full.source, full.age

    def _seen(
        self, slots: NDArray[np.int64], lacking: NDArray[np.bool_], window: Window
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of some slots those that may show pixels that lack a value, and these pixels."""
        near = _around(lacking, Window(0, window.shape[0], 0, window.shape[1]))
        wanted, found = lacking[near.slices], np.zeros_like(lacking)
        helpful: list[int] = []
        usable = self.view.cube.usable(slots.tolist(), _of_grid(near, window))
        for slot, shown in zip(slots.tolist(), usable, strict=True):
            if (shown & wanted).any():
                helpful.append(slot)
                found[near.slices] |= shown & wanted
        return np.array(helpful, np.int64), found

    def _usual(self, slots: NDArray[np.int64], leads: slice, window: Window, horizon: int) -> Forecast:
        """The mean of some frames, the same at every lead."""
        one, axis = self.view.sample, self.view.cube.layout.axis
        frames = self.view.cube.read(slots, window)
        values = frames.values[..., list(self.bands)]
        mean = usual(values, days(self.view.cube, self._middle(leads) - slots), WIDTH).astype(np.float32)
        ages = np.array([axis.age(one.init, from_seconds(time)) for time in frames.acquired], np.float32)
        known = np.isfinite(values).any(axis=-1)
        newest = np.where(known, ages[:, np.newaxis, np.newaxis], np.float32(np.inf)).min(axis=0)
        age = np.where(np.isfinite(newest), newest, np.float32(np.nan))
        source = np.where(np.isfinite(newest), np.uint8(Source.CLIMATOLOGY), np.uint8(Source.NONE))
        return Forecast(
            np.broadcast_to(mean, (1, horizon, 1, *mean.shape)),
            np.broadcast_to(source, (1, horizon, *source.shape)),
            np.broadcast_to(age, (1, horizon, *age.shape)),
        )


def _of_grid(inner: Window, window: Window) -> Window:
    """A window that is counted from the corner of another one, counted from the grid's."""
    return Window(inner.y0 + window.y0, inner.y1 + window.y0, inner.x0 + window.x0, inner.x1 + window.x0)


def _around(wanted: NDArray[np.bool_], window: Window) -> Window:
    """The smallest window around some pixels of another one."""
    rows, columns = (np.flatnonzero(wanted.any(axis=axis)).tolist() for axis in (1, 0))
    y, x = window.y0, window.x0
    return Window(y + rows[0], y + rows[-1] + 1, x + columns[0], x + columns[-1] + 1)


def _lacking(said: Forecast, leads: slice) -> NDArray[np.bool_]:
    """Where any quantity of any band is unknown at some of the leads, ``(y, x)``; lead by lead, to spare memory."""
    found = np.zeros(said.source.shape[2:], bool)
    for values in said.values[0, leads]:
        found |= np.isnan(values).any(axis=(0, -1))
    return found


def _of_leads(said: Forecast, leads: slice) -> Forecast:
    """Some leads, a view."""
    return Forecast(said.values[:, leads], said.source[:, leads], said.age[:, leads], said.quantities)


def writable(said: Forecast) -> Forecast:
    """The same in arrays that can be written to; a predictor may have given views."""
    fields = {name: getattr(said, name) for name in ("values", "source", "age")}
    return replace(said, **{name: array.copy() for name, array in fields.items() if not array.flags.writeable})
