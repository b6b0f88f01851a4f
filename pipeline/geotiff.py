"""What a GeoTIFF says and holds: header facts, size limits, windows of DN as they are or warped onto another grid."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from math import ceil, floor, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # pyright: ignore[reportMissingModuleSource] - some faults of GDAL escape as such
from rasterio.crs import CRS
from rasterio.enums import Interleaving, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from pipeline.errors import SceneError

if TYPE_CHECKING:
    from pyproj import Transformer

# Only GeoTIFF, and nothing beside the file: a VRT named .tif would read other files, an .aux.xml would change this one.
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}
MIB = 1 << 20
BLOCK_BYTES = 512 * MIB  # decoded; a reader needs two or three times as much
BANDS = 65535  # TIFF counts them in 16 bits
SMALL_BYTES = 1 << 30  # declared; what is smaller is never a bomb
SHRINKAGE = 10_000  # no codec of TIFF packs real pixels so densely; a sparse file can declare any size
SOURCE_BYTES = 256 * MIB  # decoded, behind one block of a warped window
MOST_BLOCKS = 1 << 24
STRIP_OFFSETS, ROWS_PER_STRIP, TILE_OFFSETS = 273, 278, 324  # TIFF tags
UNSIGNED = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # types of TIFF tags
WARP_BLOCK = 256  # px
LATTICE = 16  # px between the points at which a grid is followed into another CRS
REACH = {"nearest": 1, "average": 1, "mode": 1, "bilinear": 1, "cubic": 2}  # px of a kernel; 3 for the others

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, or column and row, of the points of a lattice: two arrays of ``(y, x)``."""

_OPENING = threading.Lock()


@dataclass(frozen=True, slots=True)
class FileBand:
    """What a file says about one band. Physical value = DN * scale + offset.

    Attributes:
        dtype: numpy's name of the type of the DN.
        nodata: DN that means "no value"; None where none is declared.
        scale: 1 where none is declared.
        offset: 0 where none is declared.
        description: the band's name.
        units: of the physical values.
        tags: of the band.
        block: rows and columns that are stored together.
        hollow: a block has no place in the file: a writer is still at work, or left out empty ones.
    """

    dtype: str
    nodata: float | None
    scale: float
    offset: float
    description: str
    units: str
    tags: dict[str, str]
    block: tuple[int, int]
    hollow: bool

    @property
    def itemsize(self) -> int:
        """Bytes of a pixel."""
        return 4 if self.dtype == "complex_int16" else np.dtype(self.dtype).itemsize  # numpy has no such type


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says about itself; nothing of its pixels was read.

    Attributes:
        width: columns.
        height: rows.
        crs: as WKT; empty where there is none.
        transform: ``(a, b, c, d, e, f)`` from columns and rows to coordinates.
        bands: in the file's order.
        tags: of the dataset.
        size: bytes of the file.
        interleaved: one block holds all bands.
        ground_points: it is placed by ground control points or RPCs instead of a transform.
    """

    width: int
    height: int
    crs: str
    transform: tuple[float, ...]
    bands: tuple[FileBand, ...]
    tags: dict[str, str]
    size: int
    interleaved: bool
    ground_points: bool

    @property
    def declared_bytes(self) -> int:
        """Bytes of all pixels, decoded."""
        return self.width * self.height * sum(band.itemsize for band in self.bands)

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block, decoded."""
        sizes = [band.block[0] * band.block[1] * band.itemsize for band in self.bands]
        return sum(sizes) if self.interleaved else max(sizes, default=0)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError: something is missing.
            TypeError: something is of another kind.
            ValueError: as TypeError, or it is no JSON.
        """
        said = json.loads(text)
        return cls(
            width=int(said["width"]),
            height=int(said["height"]),
            crs=str(said["crs"]),
            transform=tuple(float(number) for number in said["transform"]),
            bands=tuple(_band_from_json(band) for band in said["bands"]),
            tags=_texts(said["tags"]),
            size=int(said["size"]),
            interleaved=bool(said["interleaved"]),
            ground_points=bool(said["ground_points"]),
        )


def _band_from_json(said: dict[str, Any]) -> FileBand:
    rows, columns = said["block"]
    return FileBand(
        dtype=str(said["dtype"]),
        nodata=None if said["nodata"] is None else float(said["nodata"]),
        scale=float(said["scale"]),
        offset=float(said["offset"]),
        description=str(said["description"]),
        units=str(said["units"]),
        tags=_texts(said["tags"]),
        block=(int(rows), int(columns)),
        hollow=bool(said["hollow"]),
    )


def _texts(tags: dict[str, str]) -> dict[str, str]:
    return {str(key): str(value) for key, value in tags.items()}


@dataclass(frozen=True, slots=True)
class BandRequest:
    """One band to read.

    Attributes:
        index: its number in the file, from 1.
        fill: DN that a missing pixel gets.
        missing: other DN that mean "no value"; what the file declares is known without.
        resampling: name of a :class:`rasterio.enums.Resampling`, for warping.
    """

    index: int
    fill: float
    missing: tuple[float, ...] = ()
    resampling: str = "nearest"


@dataclass(frozen=True, slots=True)
class Target:
    """A grid that pixels are warped onto.

    Attributes:
        crs: authority code or WKT.
        transform: ``(a, b, c, d, e, f)`` from columns and rows to coordinates.
        shape: rows and columns.
    """

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]

    def part(self, y: int, x: int, size: int) -> Target:
        """The piece of at most ``size`` pixels a side whose first pixel is ``(y, x)``."""
        moved = Affine(*self.transform) @ Affine.translation(x, y)
        shape = (min(size, self.shape[0] - y), min(size, self.shape[1] - x))
        return Target(self.crs, tuple(moved)[:6], shape)


@dataclass(frozen=True, slots=True)
class Request:
    """A window of some bands of one type.

    Attributes:
        path: the file.
        bands: in the order of the result.
        dtype: type of the DN of all of them.
        window: ``(y0, y1, x0, x1)``, in pixels of the file, or of the target where there is one.
        target: the grid to warp onto; None for the file's own pixels.
    """

    path: Path
    bands: tuple[BandRequest, ...]
    dtype: str
    window: tuple[int, int, int, int]
    target: Target | None = None

    def __post_init__(self) -> None:
        y0, y1, x0, x1 = self.window
        if not (0 <= y0 < y1 and 0 <= x0 < x1):
            msg = f"a window is (y0, y1, x0, x1) of at least one pixel, found {self.window}"
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(band, y, x)`` of the result."""
        y0, y1, x0, x1 = self.window
        return len(self.bands), y1 - y0, x1 - x0


@contextmanager
def open_geotiff(path: Path) -> Iterator[DatasetReader]:
    """Opens a GeoTIFF by content, and nothing else.

    Raises:
        SceneError: ``unreadable``; also for a pipe or a device, which a reader would wait for.
    """
    if path.exists() and not path.is_file():
        raise SceneError("unreadable", f"a scene is a regular file, {path.name} is none")
    with _faults(path), rasterio.Env(**GDAL_OPTIONS), _opened(path) as dataset:
        yield dataset


def _opened(path: Path) -> DatasetReader:
    with _OPENING, warnings.catch_warnings():  # which changes the filters of all threads: one at a time
        warnings.simplefilter(
            "ignore", NotGeoreferencedWarning
        )  # the contract asks for a transform, with its own words
        return rasterio.open(path, driver="GTiff", sharing=False)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Whatever GDAL finds wrong with a file becomes a fault of the scene."""
    try:
        yield
    except (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError) as error:
        said = str(error.__cause__ or error).replace(str(path), path.name)  # our private copy is nobody's business
        raise SceneError("unreadable", said) from None


def facts(path: Path) -> Facts:
    """What a file says about itself.

    Raises:
        SceneError: ``unreadable``.
    """
    with open_geotiff(path) as dataset:
        return describe(dataset)


def describe(dataset: DatasetReader) -> Facts:
    """What an open file says about itself.

    Raises:
        SceneError: ``unreadable``, a tag or the CRS cannot be understood.
    """
    path = Path(dataset.name)
    with _faults(path):
        interleaved = dataset.count > 1 and dataset.interleaving == Interleaving.pixel
        return Facts(
            width=dataset.width,
            height=dataset.height,
            crs=dataset.crs.to_wkt() if dataset.crs else "",
            transform=tuple(float(number) for number in tuple(dataset.transform)[:6]),
            bands=_bands(dataset, interleaved=interleaved),
            tags=dataset.tags(),
            size=path.stat().st_size,
            interleaved=interleaved,
            ground_points=dataset.transform.is_identity and bool(dataset.gcps[0] or dataset.tags(ns="RPC")),
        )


def _bands(dataset: DatasetReader, *, interleaved: bool) -> tuple[FileBand, ...]:
    columns = zip(
        dataset.dtypes,
        dataset.nodatavals,
        dataset.scales,
        dataset.offsets,
        [text or "" for text in dataset.descriptions],
        [text or "" for text in dataset.units],
        [dataset.tags(index) for index in dataset.indexes],
        dataset.block_shapes,
        _hollow(dataset, interleaved=interleaved),
        strict=True,
    )
    return tuple(FileBand(*values) for values in columns)


def _hollow(dataset: DatasetReader, *, interleaved: bool) -> list[bool]:
    """Of each band, whether a block has no place in the file, as in one that a GDAL writer has not finished.

    GDAL knows the places too, but not those of a strip that it hands out row by row.
    """
    tags = _layout(Path(dataset.name))
    places = tags.get(TILE_OFFSETS, tags.get(STRIP_OFFSETS, np.zeros(0, np.uint64)))
    rows, columns = dataset.block_shapes[0]
    if TILE_OFFSETS not in tags:
        rows, columns = min(int(tags.get(ROWS_PER_STRIP, [dataset.height])[0]), dataset.height), dataset.width
    blocks = ceil(dataset.height / max(rows, 1)) * ceil(dataset.width / columns)
    if interleaved or dataset.count == 1:
        return [places.size < blocks or not places.all()] * dataset.count
    parts = [places[blocks * band : blocks * (band + 1)] for band in range(dataset.count)]
    return [part.size < blocks or not part.all() for part in parts]


def _layout(path: Path) -> dict[int, NDArray[np.unsignedinteger]]:
    """Where the blocks of a file lie: the tags of its first directory that tell it (TIFF 6.0, section 2; BigTIFF).

    Raises:
        SceneError: ``unreadable``.
    """
    try:
        with path.open("rb") as file:
            return _layout_tags(file)
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise SceneError("unreadable", f"the directory of {path.name} is broken: {error}") from None


def _layout_tags(file: BinaryIO) -> dict[int, NDArray[np.unsignedinteger]]:
    head = file.read(16)
    order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    pointer, counter = (f"{order}u8", f"{order}u8") if big else (f"{order}u4", f"{order}u2")
    file.seek(int(np.frombuffer(head[8:16] if big else head[4:8], pointer)[0]))
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", pointer), ("at", pointer)])
    entries = _integers(file, 1, np.dtype(counter))[0]
    start, table = file.tell(), _integers(file, int(entries), entry)
    tags = {}
    for row, (tag, kind, count, at) in enumerate(table.tolist()):
        if tag in (TILE_OFFSETS, STRIP_OFFSETS, ROWS_PER_STRIP):
            dtype = np.dtype(f"{order}{UNSIGNED[kind]}")
            inside = count * dtype.itemsize <= entry["at"].itemsize  # few values stand in the entry itself
            file.seek(start + (row + 1) * entry.itemsize - entry["at"].itemsize if inside else at)
            tags[tag] = _integers(file, count, dtype)
    return tags


def _integers(file: BinaryIO, count: int, dtype: np.dtype) -> NDArray:
    """What there is of ``count`` numbers, and never more than a file of this world needs."""
    data = file.read(min(count, MOST_BLOCKS) * dtype.itemsize)
    return np.frombuffer(data, dtype, len(data) // dtype.itemsize)


def check_size(said: Facts) -> None:
    """Refuses a file that would need too much memory, before any of its pixels is read.

    Raises:
        SceneError: ``too-large``.
    """
    if len(said.bands) > BANDS:
        raise SceneError("too-large", f"a scene has at most {BANDS} bands, found {len(said.bands)}: select bands")
    if said.block_bytes > BLOCK_BYTES:
        detail = f"a block is at most {BLOCK_BYTES // MIB} MiB decoded, found {said.block_bytes // MIB} MiB"
        raise SceneError("too-large", f"{detail}: write the scene again, tiled")
    if said.declared_bytes > max(SMALL_BYTES, SHRINKAGE * said.size):
        detail = f"pixels are at most {SHRINKAGE} times as large as their file, found {said.declared_bytes:.3g} bytes"
        raise SceneError("too-large", f"{detail} in a file of {said.size}: write the scene again, tiled and whole")


def read(dataset: DatasetReader, request: Request, out: NDArray | None = None) -> NDArray:
    """DN of a window: ``(band, y, x)``, in the request's type; missing pixels are fill.

    Missing is what the request or the file calls so; in a warped window also NaN, infinity and all outside of the file.

    Args:
        dataset: the file, as :func:`open_geotiff` opens it.
        request: what to read.
        out: array to read into, of the request's shape and type.

    Raises:
        SceneError: ``unreadable``, a block cannot be decoded or the window is not inside the file; ``missing-band``;
            ``wrong-dtype``; ``wrong-crs`` and ``off-grid``, it cannot be warped; ``too-large``, one pixel of the target
            covers too many of the file.
    """
    _check_bands(dataset, request)
    result = np.empty(request.shape, request.dtype) if out is None else out
    with _faults(Path(dataset.name)):
        if request.target is None:
            _check_inside(request.window, dataset.shape)
            _read_clean(dataset, request.bands, request.window, result)
        else:
            _check_inside(request.window, request.target.shape)
            _read_warped(dataset, request, request.target, result)
    return result


def _check_bands(dataset: DatasetReader, request: Request) -> None:
    for band in request.bands:
        if band.index > dataset.count:
            raise SceneError("missing-band", f"band {band.index} is asked for, the file has {dataset.count}")
        found = dataset.dtypes[band.index - 1]
        if found != request.dtype:
            raise SceneError("wrong-dtype", f"band {band.index} is read as {request.dtype}, the file's is {found}")


def _check_inside(window: tuple[int, int, int, int], shape: tuple[int, ...]) -> None:
    """GDAL would stretch what is there over the whole window."""
    y0, y1, x0, x1 = window
    if y1 > shape[0] or x1 > shape[1]:
        detail = f"rows {y0}-{y1} and columns {x0}-{x1} are asked for, there are {shape[0]} and {shape[1]}"
        raise SceneError("unreadable", detail)


def _read_clean(
    dataset: DatasetReader, bands: Sequence[BandRequest], window: tuple[int, int, int, int], out: NDArray
) -> None:
    y0, y1, x0, x1 = window
    dataset.read([band.index for band in bands], window=Window.from_slices((y0, y1), (x0, x1)), out=out)
    for layer, band in zip(out, bands, strict=True):
        declared = dataset.nodatavals[band.index - 1]
        for value in (*band.missing, *(() if declared is None else (declared,))):
            _replace(layer, value, band.fill)


def _replace(layer: NDArray, value: float, fill: float) -> None:
    """Makes one DN fill, in place; a value that the type cannot hold (files declare 3.5 for bytes) is nowhere."""
    code = _code(value, layer.dtype)
    if code is not None and value != fill:
        layer[layer == code] = fill


def _code(value: float, dtype: np.dtype) -> np.generic | None:
    """A number as a DN; None where no DN is that number."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            code = dtype.type(value)
        return code if np.isfinite(code) else None
    if not float(value).is_integer() or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return None
    return dtype.type(int(value))


def _read_warped(dataset: DatasetReader, request: Request, target: Target, out: NDArray) -> None:
    """Warps whole blocks of the target: GDAL's result for a pixel depends on the row that it is warped in."""
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
    _read_clean(dataset, bands, window, source)
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
