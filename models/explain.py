"""Where a network looked: its attention weights as maps on the product's grid, and as a GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from models.prediction import Card, NetworkPredictor
from pipeline.grid import Window, tiles
from pipeline.lagrangian import align, estimate_trajectories
from pipeline.predictor import Context
from pipeline.raster import RasterBand, write_cog
from pipeline.record import iso
from pipeline.tiling import crop
from pipeline.times import from_seconds, minutes, stamp

COORDINATES = "as at the init time: every frame has been moved there along the flow, by its own age"


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMaps:
    """Weight of each context frame in the forecast for each lead, patch by patch, of one init time.

    The maps lie where things are at the init time: a weight belongs to what the flow has brought there since its frame,
    and from there will carry on to where the forecast has it.

    Attributes:
        weights: ``(lead, frame, y / patch, x / patch)``, float32; patches start at the grid's first pixel, the last
            ones may reach over its edge. Weights of the frames with a valid pixel in the patch sum to one, the
            others are 0; NaN where no frame has one.
        acquired: ``(frame,)``, int64, seconds since 1970-01-01 UTC.
        ages: ``(frame,)``, float32, in slots.
        observed: ``(frame,)``, bool; False for a frame without any valid pixel.
        patch: side of a patch, pixels.
    """

    weights: NDArray[np.float32]
    acquired: NDArray[np.int64]
    ages: NDArray[np.float32]
    observed: NDArray[np.bool_]
    patch: int

    @property
    def horizon(self) -> int:
        """Number of leads."""
        return self.weights.shape[0]

    def grid(self, of: GeoBox) -> GeoBox:
        """The maps' grid on the product's: the same corner, pixels ``patch`` times as long."""
        shape = self.weights.shape[2], self.weights.shape[3]
        return GeoBox(shape, of.transform @ Affine.scale(self.patch), of.crs)


def attention_maps(predictor: NetworkPredictor, card: Card, context: Context, tile: int) -> AttentionMaps:
    """What the network attends to in a context.

    Args:
        predictor: the network itself, without wrappers.
        card: what its weights mean.
        context: as observed, of one init time, in the units of the bands.
        tile: pixels a side that are looked at at once, as in :meth:`models.prediction.Network.champion`.

    Raises:
        NotEnoughFramesError: the context has another number of frames than the network.
        ValueError: the context is of several init times.
    """
    if len(context.values) != 1:
        msg = f"attention maps belong to one init time, found a context of {len(context.values)}: ask for one at a time"
        raise ValueError(msg)
    aligned = align(context, estimate_trajectories(context, card.motion))
    weights = _weights(predictor, replace(aligned, values=card.statistics.scale(aligned.values)), tile)
    nowhere = weights.sum(axis=1, keepdims=True) == 0
    return AttentionMaps(
        np.where(nowhere, np.float32(np.nan), weights),
        context.times[0],
        context.ages[0],
        context.validity[0].any(axis=(1, 2, 3)),
        predictor.spec.patch,
    )


def write_attention(
    path: Path, maps: AttentionMaps, grid: GeoBox, lead: int, init: datetime, cadence: timedelta
) -> None:
    """Writes the maps of one lead as a Cloud-Optimised GeoTIFF: a float32 band for each observed frame, oldest first.

    Args:
        path: file to write; its folder exists.
        maps: of all leads.
        grid: of the product.
        lead: slots after the init time, from 1.
        init: init time, UTC.
        cadence: one slot.

    Raises:
        ValueError: the maps do not reach that lead, or no frame is observed.
    """
    if not 1 <= lead <= maps.horizon:
        msg = f"the lead of attention maps is 1 to {maps.horizon} slots, found {lead}"
        raise ValueError(msg)
    if not maps.observed.any():
        msg = f"attention maps have a band for each observed frame, found none before {init:%Y-%m-%d %H:%M}Z"
        raise ValueError(msg)
    write_cog(
        path,
        maps.weights[lead - 1, maps.observed],
        maps.grid(grid),
        [_band(maps, frame, cadence) for frame in np.flatnonzero(maps.observed).tolist()],
        nodata=float("nan"),
        tags=_tags(maps, lead, init, cadence),
    )


def _weights(predictor: NetworkPredictor, scaled: Context, tile: int) -> NDArray[np.float32]:
    """``(lead, frame, y / patch, x / patch)``, whatever the tile: each sees as far around it as the network does."""
    patch, spec = predictor.spec.patch, predictor.spec
    rows, columns = (-(-side // patch) for side in scaled.grid_shape)
    whole = np.zeros((spec.horizon, spec.context_frames, rows, columns), np.float32)
    for window in _tiles(scaled.grid_shape, tile, spec.alignment):
        outer = window.grown(spec.receptive_radius(), scaled.grid_shape)
        part = predictor.attention(crop(scaled, outer))[0]
        y, x = _patches(window, patch).slices
        inner_y, inner_x = _patches(window.within(outer), patch).slices
        whole[:, :, y, x] = part[:, :, inner_y, inner_x]
    return whole


def _tiles(shape: tuple[int, int], tile: int, step: int) -> Iterator[Window]:
    """Windows that start on multiples of ``step``; a grid that fits into one tile is one."""
    return tiles(shape, max(tile // step, 1) * step if max(shape) > tile else max(shape))


def _patches(window: Window, patch: int) -> Window:
    """The patches of a window that starts on one."""
    return Window(window.y0 // patch, -(-window.y1 // patch), window.x0 // patch, -(-window.x1 // patch))


def _band(maps: AttentionMaps, frame: int, cadence: timedelta) -> RasterBand:
    acquired = from_seconds(int(maps.acquired[frame]))
    age = minutes(float(maps.ages[frame]) * cadence)
    tags = {"acquired": iso(acquired), "age_minutes": str(age), "age_slots": f"{maps.ages[frame]:g}"}
    return RasterBand(stamp(acquired), tags=tags)


def _tags(maps: AttentionMaps, lead: int, init: datetime, cadence: timedelta) -> dict[str, str]:
    return {
        "content": "attention weight of each context frame, 0 to 1",
        "coordinates": COORDINATES,
        "init_time": iso(init),
        "valid_time": iso(init + lead * cadence),
        "lead_minutes": str(minutes(lead * cadence)),
        "lead_slots": str(lead),
        "patch_pixels": str(maps.patch),
    }
