"""What a GeoTIFF says and holds: header facts, size limits, windows of DN as they are or warped onto another grid."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # pyright: ignore[reportMissingModuleSource] - some faults of GDAL escape as such
from rasterio.enums import Interleaving
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from pipeline.errors import SceneError
from pipeline.pixels import Request, read_window
from pipeline.tiffdirectory import hollow
from pipeline.warp import read_warped

# Only GeoTIFF, and nothing beside the file: a VRT named .tif would read other files, an .aux.xml would change this one.
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}
MIB = 1 << 20
BLOCK_BYTES = 256 * MIB  # decoded; a reader needs up to twice as much, and all of an ingest stays under 1 GiB
BANDS = 65535  # TIFF counts them in 16 bits
SMALL_BYTES = 1 << 30  # declared; what is smaller is never a bomb
SHRINKAGE = 10_000  # no codec of TIFF packs real pixels so densely; a sparse file can declare any size

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
        hollow(dataset, interleaved=interleaved),
        strict=True,
    )
    return tuple(FileBand(*values) for values in columns)


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
            read_window(dataset, request.bands, request.window, result)
        else:
            _check_inside(request.window, request.target.shape)
            read_warped(dataset, request, request.target, result)
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
