"""What was usual at a season and time of day, from the cube's own past: the climatology of verification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.climatology import DAY, YEAR, season_distance, usual
from pipeline.cube import Cube
from pipeline.grid import tiles

WIDTH = 20.0  # days, standard deviation of the weights by season
REACH = 2 * WIDTH  # days: a frame further away in season has less than an eighth of the weight of the nearest
TILE = 512  # px a side, so that memory does not grow with the scene


def usual_at(cube: Cube, slot: int, init: int, bands: Sequence[int], frames: int) -> NDArray[np.float32] | None:
    """Climatology of one slot, as it could be known at an init time.

    Args:
        cube: as it was then.
        slot: what to say something of.
        init: the slot of the init time; later frames are not looked at.
        bands: which ones, counted from 0.
        frames: how many frames are averaged: those nearest in season, of the same time of day.

    Returns:
        ``(y, x, band)``, NaN where no frame has a value; None where the cube does not reach back a year from the slot,
        or has too few frames.
    """
    chosen = alike(cube, slot, init, frames)
    if len(chosen) < max(frames, 1):
        return None
    lags = _days(cube, slot - chosen)
    shape = (cube.layout.grid.height, cube.layout.grid.width)
    said = np.full((*shape, len(bands)), np.nan, np.float32)
    for window in tiles(shape, TILE):
        values = cube.read(chosen, window).values[..., list(bands)]
        said[window.slices] = usual(values, lags, WIDTH)
    return said


def alike(cube: Cube, slot: int, init: int, frames: int) -> NDArray[np.int64]:
    """At most ``frames`` slots like one, ascending; none where the cube does not reach back a year from it."""
    observed = cube.table.standing_slots()
    known = observed[observed <= init]
    lags = _days(cube, slot - known)
    if not len(known) or lags[0] < YEAR:
        return known[:0]
    hours_apart = np.abs(lags - np.round(lags)) * (DAY / cube.layout.axis.cadence)  # in slots
    apart = season_distance(lags)
    candidates = np.flatnonzero((hours_apart <= 0.5) & (apart <= REACH))
    nearest = candidates[np.argsort(apart[candidates], kind="stable")]
    shown = [index for index in nearest[: 2 * frames].tolist() if cube.shown(int(known[index]))]
    return np.sort(known[shown[:frames]])


def _days(cube: Cube, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    return slots.astype(np.float64) * (cube.layout.axis.cadence / DAY)
