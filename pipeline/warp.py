"""What a file of another grid gives on the cube's: windows of warped DN, the same however a grid is cut into them."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from math import ceil, floor, isfinite
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.warp import reproject

from pipeline.errors import SceneError
from pipeline.pixels import BandRequest, Request, Target, read_window

if TYPE_CHECKING:
    from pyproj import Transformer

MIB = 1 << 20
SOURCE_BYTES = 256 * MIB  # decoded, behind one block of a warped window
WARP_BLOCK = 256  # px
LATTICE = 16  # px between the points at which a grid is followed into another CRS
REACH = {"nearest": 1, "average": 1, "mode": 1, "bilinear": 1, "cubic": 2}  # px of a kernel; 3 for the others

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, or column and row, of the points of a lattice: two arrays of ``(y, x)``."""


def read_warped(dataset: DatasetReader, request: Request, target: Target, out: NDArray) -> None:
    """Reads a window of a target that a file is warped onto; fill where the file has nothing.

    Warps whole blocks of the target: GDAL's result for a pixel depends on the row that it is warped in.

    Args:
        dataset: the file.
        request: what to read; its window is inside the target.
        target: the grid, the request's.
        out: ``(band, y, x)`` of the window, to read into.

    Raises:
        SceneError: ``wrong-crs`` and ``off-grid``, the file cannot be warped; ``too-large``, one pixel of the target
            covers too many of the file.
    """
    if not dataset.crs:
        raise SceneError("wrong-crs", "a scene is warped from its own CRS, and it has none")
    if not isfinite(dataset.transform.determinant) or dataset.transform.determinant == 0:
        raise SceneError("off-grid", f"its transform is {tuple(dataset.transform)[:6]}")
    y0, y1, x0, x1 = request.window
    for y in range(y0 - y0 % WARP_BLOCK, y1, WARP_BLOCK):
        for x in range(x0 - x0 % WARP_BLOCK, x1, WARP_BLOCK):
            block = _warped_block(dataset, request, target.part(y, x, WARP_BLOCK))
            top, left, bottom, right = max(y, y0), max(x, x0), min(y + WARP_BLOCK, y1), min(x + WARP_BLOCK, x1)
            inner = block[:, top - y : bottom - y, left - x : right - x]
            out[:, top - y0 : bottom - y0, left - x0 : right - x0] = inner


def _warped_block(dataset: DatasetReader, request: Request, block: Target) -> NDArray:
    """``(band, y, x)`` of all of a block."""
    groups = groupby(request.bands, key=lambda band: (repr(band.fill), band.resampling))
    return np.concatenate([_warped_group(dataset, tuple(bands), request.dtype, block) for _, bands in groups])


def _warped_group(dataset: DatasetReader, bands: tuple[BandRequest, ...], dtype: str, block: Target) -> NDArray:
    """``(band, y, x)`` of bands that share fill and resampling."""
    fill, resampling = bands[0].fill, bands[0].resampling
    result = np.full((len(bands), *block.shape), fill, dtype)
    window = _source_window(dataset, block, REACH.get(resampling, 3))
    if window is None:
        return result
    source = _source(dataset, bands, window, dtype)
    reproject(
        source,
        result,
        src_transform=dataset.transform @ Affine.translation(window[2], window[0]),
        src_crs=dataset.crs,
        src_nodata=fill,
        dst_transform=Affine(*block.transform),
        dst_crs=_crs(block.crs),
        dst_nodata=fill,
        resampling=Resampling[resampling],
        num_threads=1,
        UNIFIED_SRC_NODATA="NO",  # each band has holes of its own
    )
    return result


def _source(
    dataset: DatasetReader, bands: tuple[BandRequest, ...], window: tuple[int, int, int, int], dtype: str
) -> NDArray:
    y0, y1, x0, x1 = window
    shape = (len(bands), y1 - y0, x1 - x0)
    needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if needed > SOURCE_BYTES:
        detail = (
            f"{WARP_BLOCK} x {WARP_BLOCK} warped pixels take at most {SOURCE_BYTES // MIB} MiB of the scene, found "
        )
        raise SceneError("too-large", f"{detail}{needed // MIB}: give the scene pixels nearer to the cube's in size")
    source = np.empty(shape, dtype)
    read_window(dataset, bands, window, source)
    if source.dtype.kind == "f":
        source[~np.isfinite(source)] = bands[0].fill
    return source


def _source_window(dataset: DatasetReader, block: Target, reach: int) -> tuple[int, int, int, int] | None:
    """Rows and columns of the file that a block's pixels are made of; None where the two do not overlap."""
    for step in (LATTICE, 1):  # the rim of the earth's disc may lie between two points
        columns, rows = _followed(dataset, _corners(block, step), block.crs)
        if np.isfinite(columns).all() and np.isfinite(rows).all():
            break
    horizontal = _span(columns, step, reach, dataset.width)
    vertical = _span(rows, step, reach, dataset.height)
    return None if horizontal is None or vertical is None else (*vertical, *horizontal)


def _corners(block: Target, step: int) -> Points:
    """Coordinates of every ``step``-th pixel's corner, the last one included: two arrays of ``(y, x)``."""
    y, x = (np.append(np.arange(0, size, step), size).astype(np.float64) for size in block.shape)
    columns, rows = np.meshgrid(x, y)
    return _placed(Affine(*block.transform), columns, rows)


def _followed(dataset: DatasetReader, points: Points, crs: str) -> Points:
    """Columns and rows of the file at coordinates of another CRS, NaN where its own has no such place."""
    x, y = (
        np.where(np.isfinite(axis), axis, np.nan) for axis in _transformer(crs, dataset.crs.to_wkt()).transform(*points)
    )
    if dataset.crs.is_geographic:  # 190 degrees east are 170 west
        centre = (dataset.transform @ (dataset.width / 2, dataset.height / 2))[0]
        x = centre + (x - centre + 180) % 360 - 180
    return _placed(~dataset.transform, x, y)


def _placed(transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


@lru_cache(maxsize=8)
def _transformer(source: str, target: str) -> Transformer:
    from pyproj import Transformer  # 0.1 s, for the few that warp
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise SceneError("wrong-crs", f"there is no way from the scene's CRS to the cube's: {error}") from None


@lru_cache(maxsize=8)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def _span(places: NDArray[np.float64], step: int, reach: int, size: int) -> tuple[int, int] | None:
    """First and last + 1 of the file's rows or columns that a lattice of places needs, with a kernel's reach."""
    finite = places[np.isfinite(places)]
    if finite.size == 0:
        return None
    stride = sum(_greatest(np.diff(places, axis=axis)) for axis in (0, 1)) / step
    bend = sum(_greatest(np.diff(places, n=2, axis=axis)) for axis in (0, 1))  # between two points of the lattice
    margin = reach * max(1.0, stride) + bend + 2
    first, last = max(0, floor(finite.min() - margin)), min(size, ceil(finite.max() + margin))
    return (first, last) if first < last else None


def _greatest(steps: NDArray[np.float64]) -> float:
    size = np.abs(steps)
    return float(np.max(size, where=np.isfinite(size), initial=0))
