"""What was usual at a season and time of day, from the cube's own past.

Two climatologies: that of verification, :func:`usual_at`, a reference that asks for a year of frames; and that of the
forecast's lowest rung, :mod:`pipeline.filling`, which has to say something and takes what there is, :func:`at_least`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

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
    lags = days(cube, slot - chosen)
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
    lags = days(cube, slot - known)
    if not len(known) or lags[0] < YEAR:
        return known[:0]
    apart = season_distance(lags)
    candidates = np.flatnonzero(_same_time_of_day(cube, lags) & (apart <= REACH))
    nearest = candidates[np.argsort(apart[candidates], kind="stable")]
    shown = [index for index in nearest[: 2 * frames].tolist() if cube.shown(int(known[index]))]
    return np.sort(known[shown[:frames]])


def at_least(
    cube: Cube, slot: int, init: int, frames: int, *, besides: Collection[int] = frozenset()
) -> NDArray[np.int64]:
    """At most ``frames`` slots like one, ascending; one at least, if any can be known at an init time.

    Those of the same time of day that are nearest in season, however far that is and however short the cube. Where
    there is none, as in the first day of a cube, all that there are, spread evenly.

    Args:
        cube: as it was then.
        slot: what to say something of.
        init: the slot of the init time; later frames are not looked at.
        frames: how many.
        besides: slots to leave out.
    """
    observed = cube.table.standing_slots()
    known = np.setdiff1d(observed[observed <= init], list(besides))
    lags = days(cube, slot - known)
    alike = known[_same_time_of_day(cube, lags)]
    nearest = alike[np.argsort(season_distance(days(cube, slot - alike)), kind="stable")]
    chosen = list(islice((one for one in nearest.tolist() if cube.shown(one)), frames))
    if chosen:
        return np.array(sorted(chosen), np.int64)
    seen = np.intersect1d(known, cube.observed())
    return seen[np.linspace(0, len(seen) - 1, min(frames, len(seen))).round().astype(int)]


def _same_time_of_day(cube: Cube, lags: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some lags (days) lead to the same time of day, to half a slot."""
    return np.abs(lags - np.round(lags)) * (DAY / cube.layout.axis.cadence) <= 0.5


def days(cube: Cube, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """How long some numbers of slots are."""
    return slots.astype(np.float64) * (cube.layout.axis.cadence / DAY)
