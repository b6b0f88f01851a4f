"""Array + grid + times -> Cloud-Optimised GeoTIFF with everything inside; physical values to DN and back; checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window as RasterWindow

from pipeline.grid import tiles
from pipeline.quality import missing
from pipeline.specs import BandSpec

Overviews = Literal["average", "nearest"]

TILE = 1024  # px, side of what is compared at once
CACHE = 128  # MB for GDAL's blocks, which would else take 5 % of the machine's memory
PLAIN = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band", "BIGTIFF": "IF_SAFER"}

# Deflate is the one codec besides LZW that every GeoTIFF reader knows; one thread writes the same bytes as many.
COG_OPTIONS = {"driver": "COG", "compress": "DEFLATE", "level": 4, "predictor": "YES", "blocksize": 256}
COG_OPTIONS |= {"BIGTIFF": "IF_SAFER"}  # how small it gets shows when it is too late


@dataclass(frozen=True, slots=True)
class RasterBand:
    """What a GeoTIFF says about one of its bands. Physical value = DN * scale + offset."""

    name: str
    units: str = "1"
    scale: float = 1.0
    offset: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a GeoTIFF says about itself, read back from the file."""

    bands: tuple[RasterBand, ...]
    dtype: str
    nodata: float | None
    grid: GeoBox
    tags: Mapping[str, str]


def encode(values: NDArray[np.floating], band: BandSpec) -> NDArray:
    """DN of physical values, in the band's own type.

    Integers are rounded; all are clipped into the range of the type; a valid value that would read as missing moves to
    the nearest other DN.

    Args:
        values: any shape, in the units of the band; NaN where missing.
        band: type, scale, offset and fill.

    Returns:
        Same shape; ``band.fill`` where missing.
    """
    absent = np.isnan(values)
    exact = (np.where(absent, band.offset, values).astype(np.float64) - band.offset) / band.scale
    dtype = np.dtype(band.dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    whole = np.rint(exact) if dtype.kind in "iu" else exact
    dn = np.clip(whole, float(limits.min), float(limits.max)).astype(dtype)
    _leave_fill(dn, exact, band.fill)
    dn[absent] = band.fill
    return dn


def decode(dn: NDArray, band: BandSpec) -> NDArray[np.float32]:
    """The inverse of :func:`encode`, to half a DN: physical values, NaN where missing."""
    return _physical(dn, missing(dn, band), band.scale, band.offset)


def write_cog(  # noqa: PLR0913 - the last three are options, by keyword only
    path: Path,
    data: NDArray,
    grid: GeoBox,
    bands: Sequence[RasterBand],
    *,
    nodata: float | None,
    tags: Mapping[str, str] | None = None,
    overviews: Overviews = "average",
) -> None:
    """Writes a Cloud-Optimised GeoTIFF that needs no side file; the same input gives the same bytes.

    The file appears under its name while it is being written: publish by renaming.

    Args:
        path: file to write; its folder exists.
        data: ``(band, y, x)``, DN.
        grid: CRS, transform and shape.
        bands: one for each layer of ``data``.
        nodata: DN of a missing pixel, NaN for floats; None where every pixel is valid.
        tags: dataset tags.
        overviews: ``nearest`` for codes, which have no average.

    Raises:
        ValueError: shapes do not fit, or the grid has no CRS.
    """
    _check_fit(data, grid, bands)
    with _memory_dataset(data, grid, nodata) as dataset:
        dataset.write(data)
        _describe(dataset, bands)
        dataset.update_tags(**(tags or {}))
        rasterio.shutil.copy(dataset, path, overview_resampling=overviews.upper(), **COG_OPTIONS)


def create_plain(
    path: Path,
    dtype: np.dtype,
    grid: GeoBox,
    bands: Sequence[RasterBand],
    *,
    nodata: float | None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """A GeoTIFF of nothing but missing pixels, not compressed: to be written to in pieces, and copied by :func:`copy`.

    Args:
        path: file to write.
        dtype: of all bands.
        grid: CRS, transform and shape.
        bands: one for each layer.
        nodata: DN of a missing pixel.
        tags: dataset tags.
    """
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": len(bands), "dtype": dtype}
    place = {"crs": _crs(grid), "transform": grid.transform, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **PLAIN) as dataset:
        _describe(dataset, bands)
        dataset.update_tags(**(tags or {}))


@contextmanager
def plain(path: Path, mode: Literal["r", "r+"] = "r") -> Iterator[Any]:
    """A file of :func:`create_plain`, opened, in little memory."""
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=CACHE),
        rasterio.open(path, mode, driver="GTiff", sharing=False) as dataset,
    ):
        yield dataset


def copy(source: Path, path: Path, *, overviews: Overviews = "average") -> None:
    """A GeoTIFF as a Cloud-Optimised one, see :func:`write_cog`; memory does not grow with the grid."""
    with plain(source) as dataset:
        rasterio.shutil.copy(dataset, path, overview_resampling=overviews.upper(), **COG_OPTIONS)


def same_pixels(one: Path, other: Path) -> bool:
    """Whether two GeoTIFFs of the same shape and bands hold the same DN everywhere.

    Raises:
        rasterio.errors.RasterioError: a block cannot be decoded.
    """
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs(one, other))


def pairs(one: Path, other: Path, band: int | None = None) -> Iterator[tuple[NDArray, NDArray]]:
    """The same windows of two GeoTIFFs of the same shape, DN; of one band, counted from 1, or of all.

    Raises:
        rasterio.errors.RasterioError: a block cannot be decoded.
    """
    with plain(one) as first, plain(other) as second:
        for window in tiles(first.shape, TILE):
            at = RasterWindow.from_slices(*window.slices)
            yield first.read(band, window=at), second.read(band, window=at)


def read_dn(path: Path) -> NDArray:
    """Every pixel of a GeoTIFF as stored: ``(band, y, x)``, DN.

    Raises:
        rasterio.errors.RasterioError: a block cannot be decoded; opening alone does not show a truncated file.
    """
    with _opened(path) as dataset:
        return dataset.read()


def read_physical(path: Path, places: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Every pixel of a GeoTIFF in the units of its bands: ``(band, y, x)``, NaN where missing.

    Args:
        path: the file.
        places: of the bands to read, from 0; all, unless given.
    """
    with _opened(path) as dataset:
        read = range(dataset.count) if places is None else places
        layers = dataset.read([place + 1 for place in read], masked=True)
        scales, offsets = ([every[place] for place in read] for every in (dataset.scales, dataset.offsets))
    absent = np.ma.getmaskarray(layers)
    return np.stack([_physical(layers.data[i], absent[i], scale, offsets[i]) for i, scale in enumerate(scales)])


def read_small(path: Path, place: int, side: int) -> NDArray[np.float32]:
    """A band of a GeoTIFF in its units, at most ``side`` pixels a side, ``(y, x)``; NaN where missing.

    Its overviews are read where it has some: the cost does not grow with the grid.

    Args:
        path: the file.
        place: of the band, from 0.
        side: longest side, pixels.
    """
    with _opened(path) as dataset:
        shrunk = max(1.0, max(dataset.shape) / side)
        shape = tuple(max(1, round(length / shrunk)) for length in dataset.shape)
        layer = dataset.read(place + 1, out_shape=shape, masked=True)
        scale, offset = dataset.scales[place], dataset.offsets[place]
    return _physical(layer.data, np.ma.getmaskarray(layer), scale, offset)


def describe(path: Path) -> RasterInfo:
    """What a GeoTIFF says about itself."""
    with _opened(path) as dataset:
        bands = tuple(
            RasterBand(name or "", units or "1", scale, offset, dataset.tags(index))
            for index, name, units, scale, offset in zip(
                dataset.indexes, dataset.descriptions, dataset.units, dataset.scales, dataset.offsets, strict=True
            )
        )
        grid = GeoBox(dataset.shape, dataset.transform, dataset.crs.to_wkt())
        return RasterInfo(bands, dataset.dtypes[0], dataset.nodata, grid, dataset.tags())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leave_fill(dn: NDArray, exact: NDArray[np.float64], fill: float) -> None:
    """Moves what landed on the fill value to the nearer neighbour, in place; ``exact`` is the DN before rounding."""
    if np.isnan(fill):
        return
    hit = dn == dn.dtype.type(fill)
    below, above = _neighbours(fill, dn.dtype)
    dn[hit] = np.where(exact[hit] < fill, below, above)


def _neighbours(fill: float, dtype: np.dtype) -> tuple[float, float]:
    """The DN below and above ``fill``; at an end of an integer type both are the one that exists."""
    if dtype.kind == "f":
        code = dtype.type(fill)
        return float(np.nextafter(code, dtype.type(-np.inf))), float(np.nextafter(code, dtype.type(np.inf)))
    limits = np.iinfo(dtype)
    return fill - 1 if fill > limits.min else fill + 1, fill + 1 if fill < limits.max else fill - 1


def _physical(dn: NDArray, absent: NDArray[np.bool_], scale: float, offset: float) -> NDArray[np.float32]:
    values = dn.astype(np.float64) * scale + offset
    values[absent] = np.nan
    return values.astype(np.float32)


def _check_fit(data: NDArray, grid: GeoBox, bands: Sequence[RasterBand]) -> None:
    expected = (len(bands), *grid.shape)
    if data.shape != expected:
        msg = f"a raster's data are (band, y, x) = {expected}, as its bands and its grid say, found {data.shape}"
        raise ValueError(msg)
    if grid.crs is None:
        msg = "a raster's grid has a CRS, found none: take the grid of the scenes"
        raise ValueError(msg)


@contextmanager
def _memory_dataset(data: NDArray, grid: GeoBox, nodata: float | None) -> Iterator[DatasetWriter]:
    """A dataset in memory: the COG driver only copies."""
    with rasterio.open(
        "product",
        "w",
        driver="MEM",
        count=data.shape[0],
        height=data.shape[1],
        width=data.shape[2],
        dtype=data.dtype,
        crs=_crs(grid),
        transform=grid.transform,
        nodata=nodata,
    ) as dataset:
        yield dataset


def _crs(grid: GeoBox) -> CRS | None:
    return None if grid.crs is None else CRS.from_wkt(grid.crs.to_wkt())


def _describe(dataset: DatasetWriter, bands: Sequence[RasterBand]) -> None:
    # Left alone, GDAL takes three bytes for red, green and blue, and a fourth band for alpha.
    dataset.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(bands) - 1)
    dataset.descriptions = tuple(band.name for band in bands)
    dataset.units = tuple(band.units for band in bands)
    dataset.scales = tuple(band.scale for band in bands)
    dataset.offsets = tuple(band.offset for band in bands)
    for index, band in enumerate(bands, 1):
        dataset.update_tags(index, **band.tags)


@contextmanager
def _opened(path: Path) -> Iterator[DatasetReader]:
    """By content as a GeoTIFF, with everything from inside the file: side files (.aux.xml, .msk) are not looked at."""
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(path, driver="GTiff", sharing=False) as dataset,
    ):
        yield dataset
