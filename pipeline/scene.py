"""One acquisition: find it, take a private copy, open it safely, check it against the contract, read windows of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from pipeline.config import BandSpec, MaskSpec, SceneSpec
from pipeline.errors import CubecastError, SceneError
from pipeline.grid import Window, misalignment, placement
from pipeline.times import parse_time, stamp

# Only GeoTIFF, and nothing beside the file: a VRT named .tif would read other files, an .aux.xml would change this one.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "GTIFF_IGNORE_READ_ERRORS": "NO"}
COPY_BLOCK = 1 << 20


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
        acquired: acquisition time, exactly as the scene has it, UTC.
        available_at: when the scene could first be used, UTC.
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
    """Copies a scene into ``folder`` and hashes it on the way.

    Raises:
        SceneError: ``unstable``, the file changed while it was copied; ``unreadable``, it cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{os.getpid()}-{source.name}"
    try:
        before = source.stat()
        digest = _copy(source, target)
        after = source.stat()
    except OSError as error:
        raise SceneError("unreadable", f"{source.name} cannot be copied: {error}") from None
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
        raise SceneError("unreadable", f"{error.__cause__ or error}") from None


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
    """Acquisition time from the configured tag, otherwise from the file name.

    Raises:
        SceneError: ``no-time``.
    """
    where = f"tag {spec.time_tag}" if spec.time_tag else "its name"
    text = tags.get(spec.time_tag) if spec.time_tag else spec.time_text(name)
    if text is None:
        raise SceneError("no-time", f"{name} has no time in {where}; expected {spec.pattern} with {spec.time_format}")
    try:
        time = datetime.strptime(text, spec.time_format)  # noqa: DTZ007 - made aware below
    except ValueError:
        raise SceneError("no-time", f"{name}: {text!r} in {where} does not read as {spec.time_format}") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _available(acquired: datetime, tags: dict[str, str], spec: SceneSpec) -> datetime:
    text = tags.get(spec.available_tag or "")
    if not text:
        return acquired + spec.latency
    try:
        return parse_time(text)
    except ValueError as error:
        raise SceneError("no-time", f"tag {spec.available_tag}: {error}") from None


def check(dataset: DatasetReader, contract: Contract) -> Window:
    """Where the scene lies in the cube's grid.

    Raises:
        SceneError: ``missing-band``, ``wrong-dtype``, ``wrong-crs`` or ``off-grid``.
    """
    for band in contract.bands:
        if band.index > dataset.count:
            raise SceneError(
                "missing-band", f"band {band.name!r} is number {band.index}, the scene has {dataset.count}"
            )
        found = dataset.dtypes[band.index - 1]
        if found != band.dtype:
            raise SceneError("wrong-dtype", f"band {band.name!r} is {band.dtype}, the scene's is {found}")
    return locate(dataset, contract.grid)


def locate(dataset: DatasetReader, grid: GeoBox) -> Window:
    """Where a raster lies in a grid.

    Raises:
        SceneError: ``wrong-crs`` or ``off-grid``.
    """
    if dataset.crs is None:
        raise SceneError("wrong-crs", "the scene has no CRS")
    own = GeoBox(dataset.shape, dataset.transform, dataset.crs.to_wkt())
    fault = misalignment(grid, own)
    if fault is not None:
        raise SceneError("wrong-crs" if "CRS" in fault else "off-grid", fault)
    return placement(grid, own)


def read(dataset: DatasetReader, bands: Sequence[BandSpec], window: Window) -> NDArray:
    """DN of ``bands`` in a window of the scene: ``(band, y, x)``, in the bands' common type; missing pixels are fill.

    Raises:
        SceneError: ``unreadable``, a block cannot be decoded.
    """
    data = dataset.read([band.index for band in bands], window=_rasterio_window(window))
    for layer, band in zip(data, bands, strict=True):
        declared = dataset.nodatavals[band.index - 1]
        if declared is not None and np.isfinite(declared):
            layer[layer == layer.dtype.type(declared)] = band.fill
    return data


def mask_path(scene: Path, spec: MaskSpec) -> Path:
    """The mask that belongs to a scene."""
    return spec.folder / f"{scene.stem}{spec.suffix}{scene.suffix}"


def read_mask(path: Path, spec: MaskSpec, grid: GeoBox, window: Window) -> NDArray[np.bool_]:
    """Where a mask makes pixels of the cube's window unusable: ``(y, x)``.

    Raises:
        SceneError: ``no-mask``, or the faults of :func:`locate`.
    """
    if not path.is_file():
        raise SceneError(
            "no-mask", f"the mask {path.name} is not there (yet); the scene is tried again at the next ingest"
        )
    with open_geotiff(path) as dataset:
        place = locate(dataset, grid)
        inner = window.within(place)
        if inner.y0 < 0 or inner.x0 < 0 or inner.y1 > dataset.height or inner.x1 > dataset.width:
            raise SceneError("off-grid", f"the mask {path.name} is smaller than the scene")
        return np.isin(dataset.read(1, window=_rasterio_window(inner)), spec.values)


def _rasterio_window(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window.from_slices(*window.slices)
