"""What a slot is made of: one or several scenes, composed best first, written in strips on dask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import cube as cubes
from pipeline.errors import SceneError
from pipeline.grid import Window
from pipeline.quality import Quality, flags
from pipeline.scene import Scene, Staged, open_geotiff, read, read_mask
from pipeline.schema import CHUNK, BandGroup, Layout
from pipeline.specs import MaskSpec
from pipeline.times import TimeAxis

STRIP = 2 * CHUNK  # rows a task: whole chunks, and whole blocks of common GeoTIFFs

T = TypeVar("T")
Version = tuple[str, datetime, str]  # Scene.version


@dataclass(frozen=True, slots=True)
class Layer:
    """A scene on its way into a slot.

    Attributes:
        staged: the private copy of its file.
        mask: the private copy of its mask, where the product has masks.
        scene: what it is.
        slot: where it belongs.
        place: where it lies in the cube's grid.
    """

    staged: Staged
    mask: Path | None
    scene: Scene
    slot: int
    place: Window


@dataclass(frozen=True, slots=True)
class Mosaic:
    """The layers of one slot, best first."""

    slot: int
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, slot: int, layers: Iterable[Layer], axis: TimeAxis) -> Mosaic:
        """Nearest to the slot's time first; it looks at the scenes alone, so that arrival order cannot matter."""

        def rank(layer: Layer) -> tuple:
            distance = abs(axis.valid_time(slot) - layer.scene.acquired)
            return distance, layer.scene.acquired, layer.scene.tile, layer.scene.sha256

        return cls(slot, tuple(sorted(layers, key=rank)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of writing mosaics.

    Attributes:
        good: usable pixels of each scene, summed over band groups.
        broken: faults; where there is one, nothing of the work may be committed.
    """

    good: dict[Version, int]
    broken: dict[Version, SceneError]


@dataclass(frozen=True, slots=True)
class Canvas:
    """One strip of one slot and band group while it is composed: ``data (band, y, x)`` in DN, ``quality (y, x)``."""

    group: BandGroup
    window: Window
    data: NDArray
    quality: NDArray[np.uint8]

    @classmethod
    def empty(cls, group: BandGroup, window: Window) -> Canvas:
        """A strip where all is missing."""
        data = np.full((len(group.bands), *window.shape), group.bands[0].fill, group.dtype)
        return cls(group, window, data, np.full(window.shape, Quality.MISSING, np.uint8))


def on_dask(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Results of independent calls, run by dask on threads, in order."""
    from dask.base import compute
    from dask.delayed import delayed

    tasks = [delayed(call, pure=False, traverse=False)() for call in calls]
    return list(compute(*tasks, scheduler="threads"))


def write(root: zarr.Group, mosaics: Sequence[Mosaic], layout: Layout, mask: MaskSpec | None) -> Outcome:
    """Writes every strip of every mosaic into the uncommitted cube at ``root``."""
    if not mosaics:
        return Outcome({}, {})
    cubes.grow(root, layout, max(mosaic.slot for mosaic in mosaics) + 1)
    height, width = layout.grid.shape
    strips = [Window(y, min(y + STRIP, height), 0, width) for y in range(0, height, STRIP)]
    results = on_dask(
        partial(_write_strip, root, layout, mask, mosaic, strip) for mosaic in mosaics for strip in strips
    )
    good: dict[Version, int] = defaultdict(int)
    broken: dict[Version, SceneError] = {}
    for result in results:
        broken |= result.broken
        for version, count in result.good.items():
            good[version] += count
    for mosaic in mosaics:
        cubes.write_acquired(root, layout, mosaic.slot, mosaic.layers[0].scene.acquired)
    return Outcome(dict(good), broken)


def _write_strip(root: zarr.Group, layout: Layout, mask: MaskSpec | None, mosaic: Mosaic, strip: Window) -> Outcome:
    good: dict[Version, int] = defaultdict(int)
    for group in layout.groups:
        canvas = Canvas.empty(group, strip)
        for layer in mosaic.layers:
            try:
                good[layer.scene.version] += _lay(layer, canvas, layout, mask)
            except SceneError as fault:
                return Outcome({}, {layer.scene.version: fault})
        cubes.write_window(root, group, mosaic.slot, strip, canvas.data, canvas.quality)
    return Outcome(good, {})


def _lay(layer: Layer, canvas: Canvas, layout: Layout, mask: MaskSpec | None) -> int:
    """Lays a scene under what is there: it shows where that is missing, or where that is unusable and this is good."""
    common = layer.place.intersection(canvas.window)
    if common is None:
        return 0
    data, quality = _read_layer(layer, canvas.group, common, layout, mask)
    rows, columns = common.within(canvas.window).slices
    present = canvas.quality[rows, columns]
    shows = ((present & Quality.MISSING) > 0) | ((present != 0) & (quality == 0))
    canvas.quality[rows, columns] = np.where(shows, quality, present)
    canvas.data[:, rows, columns] = np.where(shows, data, canvas.data[:, rows, columns])
    return int((quality == 0).sum())


def _read_layer(
    layer: Layer, group: BandGroup, window: Window, layout: Layout, mask: MaskSpec | None
) -> tuple[NDArray, NDArray[np.uint8]]:
    with open_geotiff(layer.staged.path) as dataset:
        data = read(dataset, group.bands, window.within(layer.place))
    masked = None if mask is None or layer.mask is None else read_mask(layer.mask, mask, layout.grid, window)
    return data, flags(data, group.bands, masked)
