"""One acquisition: find it, take a private copy, open it safely, check it against the contract, read windows of it."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from pipeline.errors import CubecastError, SceneError, StoreError
from pipeline.grid import Window, misalignment, placement
from pipeline.specs import BandSpec, MaskSpec, SceneSpec
from pipeline.times import parse_time, stamp

# Only GeoTIFF, and nothing beside the file: a VRT named .tif would read other files, an .aux.xml would change this one.
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}
COPY_BLOCK = 1 << 20
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Staged:
    """A private copy of a scene file that nobody else writes to.

    Attributes:
        source: where the scene lies in the inbox.
        path: the copy.
        sha256: of the bytes, hexadecimal.
    """

    source: Path
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What makes a scene itself, and which of two versions of it is the newer one.

    Attributes:
        source: file name in the inbox.
        tile: name of the tile, where the product's scenes come in tiles.
        acquired: acquisition time, UTC, whole seconds.
        available_at: when the scene could first be used, UTC, whole seconds.
        revision: processing baseline or time from the scene; the highest wins, then the highest hash.
        sha256: of the file.
    """

    source: str
    tile: str
    acquired: datetime
    available_at: datetime
    revision: str
    sha256: str

    @property
    def id(self) -> str:
        """Name of the scene in records: acquisition time and hash."""
        return f"{stamp(self.acquired)}-{self.sha256[:12]}"

    @property
    def identity(self) -> tuple[str, datetime]:
        """Equal for two versions of one acquisition."""
        return self.tile, self.acquired

    @property
    def version(self) -> tuple[str, datetime, str]:
        """Equal for two copies of one file. Equal bytes alone are not enough: radar without an echo looks the same."""
        return self.tile, self.acquired, self.sha256

    @property
    def rank(self) -> tuple[str, str]:
        """Orders versions of one acquisition; it comes from the scene alone, never from arrival."""
        return self.revision, self.sha256


@dataclass(frozen=True, slots=True)
class Contract:
    """What a scene must be to enter the cube."""

    bands: tuple[BandSpec, ...]
    grid: GeoBox


def discover(spec: SceneSpec) -> list[Path]:
    """Files of the inbox whose names match the pattern, by name; links and folders are left out.

    Raises:
        CubecastError: the folder does not exist.
    """
    if not spec.folder.is_dir():
        msg = f"scenes.folder is a folder of GeoTIFF scenes, found none at {spec.folder}: mend the configuration"
        raise CubecastError(msg)
    return sorted(path for path in spec.folder.glob(spec.glob) if path.is_file() and not path.is_symlink())


def stage(source: Path, folder: Path) -> Staged:
    """Copies a scene into ``folder``, under its own name, and hashes it on the way.

    Raises:
        SceneError: ``unstable``, the file changed while it was copied; ``unavailable``, it cannot be read.
        StoreError: the copy cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    try:
        before = source.stat()
        digest = _copy(source, target)
        after = source.stat()
    except OSError as error:
        if error.errno in DISK_FULL or error.filename == str(target):
            msg = f"a scene is copied aside before it is read, but {folder} cannot take it: {error}. Free space there"
            raise StoreError(msg) from None
        raise SceneError("unavailable", f"{source.name} cannot be copied: {error}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        target.unlink()
        raise SceneError("unstable", f"{source.name} changed while it was read; it is tried again at the next ingest")
    return Staged(source, target, digest)


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(COPY_BLOCK):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


@contextmanager
def open_geotiff(path: Path) -> Iterator[DatasetReader]:
    """Opens a GeoTIFF by content, and nothing else.

    Raises:
        SceneError: ``unreadable``.
    """
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path, driver="GTiff", sharing=False) as dataset:
            yield dataset
    except RasterioError as error:
        said = str(error.__cause__ or error).replace(str(path), path.name)  # our private copy is nobody's business
        raise SceneError("unreadable", said) from None


def identify(staged: Staged, spec: SceneSpec) -> Scene:
    """The scene that a file says it is.

    Raises:
        SceneError: ``unreadable``, or ``no-time``: neither name nor tag holds a time that can be parsed.
    """
    with open_geotiff(staged.path) as dataset:
        tags = dataset.tags()
    acquired = acquisition_time(staged.source.name, tags, spec)
    return Scene(
        source=staged.source.name,
        tile=spec.tile_text(staged.source.name),
        acquired=acquired,
        available_at=_available(acquired, tags, spec),
        revision=tags.get(spec.revision_tag or "", ""),
        sha256=staged.sha256,
    )


def acquisition_time(name: str, tags: dict[str, str], spec: SceneSpec) -> datetime:
    """Acquisition time from the configured tag, otherwise from the file name; the cube knows no parts of a second.

    Raises:
        SceneError: ``no-time``.
    """
    where = f"tag {spec.time_tag}" if spec.time_tag else "its name"
    text = tags.get(spec.time_tag) if spec.time_tag else spec.time_text(name)
    if text is None:
        raise SceneError("no-time", f"{name} has no time in {where}; expected {spec.pattern} with {spec.time_format}")
    try:
        time = datetime.strptime(text, spec.time_format)  # noqa: DTZ007 - made aware on the next line
        aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SceneError("no-time", f"{name}: {text!r} in {where} does not read as {spec.time_format}") from None
    return aware.replace(microsecond=0)


def _available(acquired: datetime, tags: dict[str, str], spec: SceneSpec) -> datetime:
    text = tags.get(spec.available_tag or "")
    try:
        time = parse_time(text) if text else acquired + spec.latency
        return time + timedelta(microseconds=-time.microsecond % 1_000_000)  # up, so that nothing is seen too early
    except (ValueError, OverflowError) as error:
        raise SceneError("no-time", f"tag {spec.available_tag}: {error}") from None


def check(dataset: DatasetReader, contract: Contract) -> Window:
    """Where the scene lies in the cube's grid.

    Raises:
        SceneError: ``missing-band``, ``wrong-dtype``, ``wrong-crs``, ``off-grid`` or ``incomplete``.
    """
    for band in contract.bands:
        if band.index > dataset.count:
            raise SceneError(
                "missing-band", f"band {band.name!r} is number {band.index}, the scene has {dataset.count}"
            )
        found = dataset.dtypes[band.index - 1]
        if found != band.dtype:
            raise SceneError("wrong-dtype", f"band {band.name!r} is {band.dtype}, the scene's is {found}")
    place = locate(dataset, contract.grid)
    _check_whole(dataset, contract.bands)
    return place


def _check_whole(dataset: DatasetReader, bands: Sequence[BandSpec]) -> None:
    """A GeoTIFF that is still being written opens, and reads as zeros where a block has no place in the file yet."""
    for band in bands:
        if dataset.nodatavals[band.index - 1] is not None:
            continue  # such blocks read as missing, which is true
        height, width = dataset.block_shapes[band.index - 1]
        blocks = product(range(ceil(dataset.width / width)), range(ceil(dataset.height / height)))
        names = [f"BLOCK_OFFSET_{x}_{y}" for x, y in blocks]
        absent = sum(dataset.get_tag_item(name, "TIFF", bidx=band.index) is None for name in names)
        if absent:
            detail = f"{absent} of {len(names)} blocks of band {band.name!r} are not in the file, which has no nodata: "
            raise SceneError("incomplete", f"{detail}is it still being written, or written with SPARSE_OK?")


def locate(dataset: DatasetReader, grid: GeoBox) -> Window:
    """Where a raster lies in a grid.

    Raises:
        SceneError: ``wrong-crs`` or ``off-grid``.
    """
    if dataset.crs is None:
        raise SceneError("wrong-crs", "it has no CRS")
    if not all(map(isfinite, dataset.transform)):
        raise SceneError("off-grid", f"its transform is {tuple(dataset.transform)[:6]}")
    own = GeoBox(dataset.shape, dataset.transform, dataset.crs.to_wkt())
    fault = misalignment(grid, own)
    if fault is not None:
        raise SceneError("wrong-crs" if own.crs != grid.crs else "off-grid", fault)
    return placement(grid, own)


def read(dataset: DatasetReader, bands: Sequence[BandSpec], window: Window) -> NDArray:
    """DN of ``bands`` in a window of the scene: ``(band, y, x)``, in the bands' common type; missing pixels are fill.

    Raises:
        SceneError: ``unreadable``, a block cannot be decoded.
    """
    data = dataset.read([band.index for band in bands], window=_rasterio_window(window))
    for layer, band in zip(data, bands, strict=True):
        declared = dataset.nodatavals[band.index - 1]
        if declared is not None and isfinite(declared) and declared != band.fill:
            layer[layer == np.float64(declared).astype(_wide(layer.dtype))] = band.fill
    return data


def _wide(dtype: np.dtype) -> np.dtype:
    """A type that holds a declared nodata as exactly as the scene does: files declare 3.5 for bytes."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def mask_path(scene: Path, spec: MaskSpec) -> Path:
    """The mask that belongs to a scene."""
    return spec.folder / f"{scene.stem}{spec.suffix}{scene.suffix}"


def stage_mask(scene: Path, spec: MaskSpec, folder: Path) -> Path:
    """A private copy of the mask that belongs to a scene.

    Raises:
        SceneError: ``no-mask``, or the faults of :func:`stage`.
    """
    path = mask_path(scene, spec)
    if not path.is_file():
        raise SceneError("no-mask", f"the mask {path.name} is not there (yet); the scene is tried again at next ingest")
    return stage(path, folder).path


def check_mask(path: Path, grid: GeoBox, place: Window) -> None:
    """Checks that a mask covers its scene, which lies at ``place`` in the grid.

    Raises:
        SceneError: ``bad-mask``.
    """
    with _open_mask(path) as dataset:
        _inside(dataset, grid, place)


def read_mask(path: Path, spec: MaskSpec, grid: GeoBox, window: Window) -> NDArray[np.bool_]:
    """Where a mask makes pixels of the cube's window unusable: ``(y, x)``.

    Raises:
        SceneError: ``bad-mask``.
    """
    with _open_mask(path) as dataset:
        return np.isin(dataset.read(1, window=_rasterio_window(_inside(dataset, grid, window))), spec.values)


@contextmanager
def _open_mask(path: Path) -> Iterator[DatasetReader]:
    """A fault of a mask is no fault of its scene, which is tried again."""
    try:
        with open_geotiff(path) as dataset:
            yield dataset
    except SceneError as fault:
        detail = f"the mask {path.name}: {fault.detail}; mend the mask, the scene is tried again at the next ingest"
        raise SceneError("bad-mask", detail) from None


def _inside(dataset: DatasetReader, grid: GeoBox, window: Window) -> Window:
    inner = window.within(locate(dataset, grid))
    if inner.y0 < 0 or inner.x0 < 0 or inner.y1 > dataset.height or inner.x1 > dataset.width:
        raise SceneError("off-grid", "it is smaller than the scene")
    return inner


def _rasterio_window(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window.from_slices(*window.slices)
