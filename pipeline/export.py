"""A cube for programs that do not know Icechunk: plain Zarr, or one Cloud-Optimised GeoTIFF a slot."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.compose import Pixels
from pipeline.cube import Cube
from pipeline.durable import make_folders, move_folder
from pipeline.errors import StoreError
from pipeline.filesystem import sync_filesystem
from pipeline.grid import Window, tiles
from pipeline.quality import Quality
from pipeline.raster import RasterBand, write_cog
from pipeline.record import iso
from pipeline.scenetable import SceneRow
from pipeline.schema import UNKNOWN_TIME, BandGroup
from pipeline.times import seconds, stamp
from pipeline.workers import on_threads

CHUNK = 512  # px a side: every chunk of plain Zarr is a file, and the cube's chunks would be four times as many
WINDOW_BYTES = 16 << 20  # of the DN of a window: what a thread holds at a time
BATCH = 16  # slots between two words of progress
SCENES = "scenes.json"
PIXELS = ("data", "quality")

Progress = Callable[[int, int], None]
Slots = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where it lies.
        names: of the files and Zarr folders in it, beside ``scenes.json``.
        slots: how many slots.
        scenes: how many scenes these are made of.
    """

    folder: Path
    names: tuple[str, ...]
    slots: int
    scenes: int


def to_zarr(cube: Cube, folder: Path, slots: Slots | None = None, *, progress: Progress | None = None) -> Exported:
    """Writes ``PRODUCT.zarr`` into a new folder, beside a list of its scenes: Zarr v3 with consolidated metadata.

    Its arrays and attributes are those of :meth:`pipeline.cube.Cube.dataset`, at the root, or where the bands fall
    into several groups, in a group each. The DN are those of the cube.

    Args:
        cube: a snapshot; under its ``as_of`` every slot is as it was known then.
        folder: a new or an empty one; it appears whole.
        slots: which ones; None: all, under ``as_of`` those that were known.
        progress: told how many slots are written, of how many.

    Raises:
        StoreError: the folder holds something, the disk takes no more, or a chunk is damaged.
    """
    chosen = _chosen(cube, slots, range(cube.size) if cube.as_of is None else cube.observed())
    name = f"{cube.layout.product}.zarr"
    with _aside(folder) as stage:
        root = zarr.open_group(stage / name, mode="w")
        groups = cube.layout.groups
        targets = [root if len(groups) == 1 else root.create_group(group.name) for group in groups]
        for group, target in zip(groups, targets, strict=True):
            _make_arrays(cube, group, target, chosen)
        shown = {slot: index for index, slot in enumerate(chosen) if cube.shown(slot)}
        calls = {
            slot: [partial(_copy_slot, cube, *pair, slot, shown[slot]) for pair in zip(groups, targets, strict=True)]
            for slot in shown
        }
        _run(calls, progress)
        _consolidate(stage / name)
        scenes = _write_scenes(cube, chosen, stage)
    return Exported(folder, (name,), len(chosen), scenes)


def to_cogs(cube: Cube, folder: Path, slots: Slots | None = None, *, progress: Progress | None = None) -> Exported:
    """Writes a Cloud-Optimised GeoTIFF for every observed slot into a new folder, beside a list of the scenes.

    ``PRODUCT_20200401T1200Z.tif`` holds the DN as stored, also of pixels that must not be used, with scale, offset,
    units and nodata inside, and ``PRODUCT_20200401T1200Z-quality.tif`` the bits that say which these are. Where the
    bands fall into several groups, their names follow the time.

    Args:
        cube: a snapshot; under its ``as_of`` every slot is as it was known then.
        folder: a new or an empty one; it appears whole.
        slots: which ones, of which those without a scene are left out; None: all.
        progress: told how many slots are written, of how many.

    Raises:
        StoreError: the folder holds something, the disk takes no more, or a chunk is damaged.
    """
    observed = cube.observed()
    chosen = [slot for slot in _chosen(cube, slots, observed) if slot in set(observed.tolist())]
    names: list[str] = []
    with _aside(folder) as stage:
        for done, slot in enumerate(chosen, 1):
            for group in cube.layout.groups:
                names += _write_slot(cube, group, slot, stage)
            if progress is not None:
                progress(done, len(chosen))
        scenes = _write_scenes(cube, chosen, stage)
    return Exported(folder, tuple(names), len(chosen), scenes)


def _chosen(cube: Cube, slots: Slots | None, default: Iterable[int]) -> list[int]:
    asked = sorted({int(slot) for slot in (default if slots is None else slots)})
    chosen = [slot for slot in asked if 0 <= slot < cube.size]
    if not chosen:
        last = f"{cube.layout.axis.valid_time(cube.size - 1):%Y-%m-%d %H:%M}Z"
        msg = f"an export holds a slot at least, but the cube, which ends {last}, shows none in that time: ask for more"
        raise StoreError(msg)
    return chosen


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder that takes its place once everything in it is on the disk; a fault on the way leaves nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"an export has a folder of its own, but {folder} is or holds other files: choose a new or empty folder"
        raise StoreError(msg)
    try:
        make_folders(folder.absolute().parent)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as name:
            stage = Path(name) / folder.name  # of usual permissions, unlike the one around it
            stage.mkdir()
            yield stage
            sync_filesystem(stage)
            move_folder(stage, folder.absolute())
    except OSError as error:
        msg = f"an export's folder can be written, but {folder} cannot: {error}. Mend its permissions or free space"
        raise StoreError(msg) from error


def _make_arrays(cube: Cube, group: BandGroup, target: zarr.Group, slots: Sequence[int]) -> None:
    """The arrays of a band group: coordinates filled, pixels still empty."""
    source: Any = cube.root[group.name]
    target.attrs.update(source.attrs.asdict())
    for name, array in source.arrays():
        along_time = "time" in (array.metadata.dimension_names or ())
        shape = (len(slots), *array.shape[1:]) if along_time else array.shape
        copy = _like(target, name, array, shape)
        if name not in PIXELS:
            copy[...] = _acquired(cube, slots) if name == "acquired" else array[:][slots] if along_time else array[...]


def _like(target: zarr.Group, name: str, array: Any, shape: tuple[int, ...]) -> zarr.Array:
    """An empty array of the same kind and another length."""
    side = [min(CHUNK, pixels) for pixels in shape[-2:]]
    return target.create_array(
        name,
        shape=shape,
        chunks=(*array.chunks[:-2], *side) if name in PIXELS else array.chunks,
        dtype=array.metadata.data_type,
        fill_value=array.fill_value,
        compressors=array.compressors,
        dimension_names=array.metadata.dimension_names,
        attributes=array.attrs.asdict(),
    )


def _acquired(cube: Cube, slots: Sequence[int]) -> NDArray[np.int64]:
    first = (next(iter(cube.shown(slot)), None) for slot in slots)
    return np.array([UNKNOWN_TIME if row is None else seconds(row.scene.acquired) for row in first], np.int64)


def _copy_slot(cube: Cube, group: BandGroup, target: zarr.Group, slot: int, index: int) -> None:
    pixel = CHUNK * CHUNK * (len(group.bands) * group.dtype.itemsize + 1)
    grid = cube.layout.grid
    for window in tiles((grid.height, grid.width), CHUNK * max(1, isqrt(WINDOW_BYTES // pixel))):
        pixels = cube.pixels(group, slot, window)
        rows, columns = window.slices
        cast("zarr.Array", target["data"])[index, :, rows, columns] = pixels.data
        cast("zarr.Array", target["quality"])[index, rows, columns] = pixels.quality


def _run(calls: dict[int, list[Callable[[], None]]], progress: Progress | None) -> None:
    slots = list(calls)
    for start in range(0, len(slots), BATCH):
        batch = slots[start : start + BATCH]
        on_threads(call for slot in batch for call in calls[slot])
        if progress is not None:
            progress(start + len(batch), len(slots))


def _consolidate(path: Path) -> None:
    with warnings.catch_warnings():  # zarr says that the specification does not have it yet; xarray opens faster by it
        warnings.filterwarnings("ignore", "Consolidated metadata")
        zarr.consolidate_metadata(str(path))


def _write_slot(cube: Cube, group: BandGroup, slot: int, folder: Path) -> list[str]:
    pixels = cube.pixels(group, slot, Window(0, cube.layout.grid.height, 0, cube.layout.grid.width))
    name = f"{cube.layout.product}_{stamp(cube.layout.axis.valid_time(slot))}"
    if len(cube.layout.groups) > 1:
        name += f"-{group.name}"
    tags = _tags(cube, slot)
    grid, fill = cube.layout.grid, group.bands[0].fill
    write_cog(folder / f"{name}.tif", pixels.data, grid, _raster_bands(group), nodata=fill, tags=tags)
    _write_quality(cube, pixels, folder / f"{name}-quality.tif", tags)
    return [f"{name}.tif", f"{name}-quality.tif"]


def _write_quality(cube: Cube, pixels: Pixels, path: Path, tags: dict[str, str]) -> None:
    meanings = {
        "flag_masks": " ".join(str(int(flag)) for flag in Quality),
        "flag_meanings": " ".join(str(flag.name).lower() for flag in Quality),
    }
    band = RasterBand("quality", tags=meanings)
    write_cog(path, pixels.quality[None], cube.layout.grid, [band], nodata=None, tags=tags, overviews="nearest")


def _raster_bands(group: BandGroup) -> list[RasterBand]:
    return [RasterBand(band.name, band.units, band.scale, band.offset) for band in group.bands]


def _tags(cube: Cube, slot: int) -> dict[str, str]:
    shown, time = cube.shown(slot), cube.layout.axis.valid_time(slot)
    return {
        "product": cube.layout.product,
        "valid_time": iso(time),
        "acquired": json.dumps([iso(row.scene.acquired) for row in shown]),
        "scenes": json.dumps([row.scene.id for row in shown]),
        "snapshot": cube.snapshot,
        "TIFFTAG_DATETIME": f"{time:%Y:%m:%d %H:%M:%S}",
    } | ({} if cube.as_of is None else {"as_of": iso(cube.as_of)})


def _write_scenes(cube: Cube, slots: Sequence[int], folder: Path) -> int:
    """Writes what the slots are made of; returns how many scenes that are."""
    rows = [row for slot in slots for row in cube.shown(slot)]
    document = {
        "product": cube.layout.product,
        "snapshot": cube.snapshot,
        "as_of": None if cube.as_of is None else iso(cube.as_of),
        "scenes": [_scene(cube, row) for row in rows],
    }
    (folder / SCENES).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(rows)


def _scene(cube: Cube, row: SceneRow) -> dict[str, Any]:
    scene, place = row.scene, row.place
    return {
        "id": scene.id,
        "slot_time": iso(cube.layout.axis.valid_time(row.slot)),
        "source": scene.source,
        "tile": scene.tile,
        "acquired": iso(scene.acquired),
        "available_at": iso(scene.available_at),
        "revision": scene.revision,
        "sha256": scene.sha256,
        "rows": [place.y0, place.y1],
        "columns": [place.x0, place.x1],
        "valid_fraction": row.valid_fraction,
        "flags": [str(flag.name).lower() for flag in Quality if row.flags & flag],
    }
