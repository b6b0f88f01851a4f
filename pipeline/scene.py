"""One acquisition: what it is, whether it keeps the contract, and how its pixels are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import isclose, isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from pipeline.errors import SceneError
from pipeline.geotiff import Facts, FileBand
from pipeline.grid import Window, misalignment, overlap, placement
from pipeline.header import declaration
from pipeline.pixels import BandRequest, Request, Target
from pipeline.specs import FLOAT_TYPES, INTEGER_TYPES, BandSpec, MaskSpec, SceneSpec
from pipeline.times import parse_time, stamp

MASK = "mask"  # the name of a mask's only band
WARPED = 50  # the place of a warped file is too large by up to a few pixels and this part of the grid's side
TOLERANCE = 1e-9  # of scale and offset, relative: they pass through text in TIFF tags


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
    """What a scene must be to enter the cube.

    Attributes:
        bands: the cube's.
        grid: the cube's, and so the area of interest: what lies beyond is left out.
        off_grid: what is done about a scene whose pixels are not those of the grid.
    """

    bands: tuple[BandSpec, ...]
    grid: GeoBox
    off_grid: Literal["refuse", "warp"] = "refuse"


@dataclass(frozen=True, slots=True)
class Source:
    """A band of the cube as a file holds it.

    Attributes:
        name: the band's in the cube.
        dtype: of the DN.
        asked: number, fill, DN that mean missing, resampling.
    """

    name: str
    dtype: str
    asked: BandRequest


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a file lies in the cube's grid, and which of its bands are meant.

    Attributes:
        place: the part of the cube's grid that it covers; of a warped file up to a few pixels too large.
        offset: row and column of the file's pixel at the corner of ``place``; (0, 0) where it is warped.
        sources: in the contract's order of bands.
        block: rows and columns of a block of the file.
        target: the cube's grid, where the file is warped onto it.
    """

    place: Window
    offset: tuple[int, int]
    sources: tuple[Source, ...]
    block: tuple[int, int]
    target: Target | None = None

    @property
    def warp(self) -> bool:
        """Whether the file is warped onto the cube's grid."""
        return self.target is not None

    @property
    def indices(self) -> tuple[int, ...]:
        """Numbers of the bands in the file, in the contract's order."""
        return tuple(source.asked.index for source in self.sources)


def identify(staged: Staged, facts: Facts, spec: SceneSpec) -> Scene:
    """The scene that a file says it is.

    Raises:
        SceneError: ``no-time``: neither name nor tag holds a time that can be parsed.
    """
    acquired = acquisition_time(staged.source.name, facts.tags, spec)
    return Scene(
        source=staged.source.name,
        tile=spec.tile_text(staged.source.name),
        acquired=acquired,
        available_at=_available(acquired, facts.tags, spec),
        revision=facts.tags.get(spec.revision_tag or "", ""),
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


def check(facts: Facts, contract: Contract) -> Fit:
    """Where a scene lies in the cube's grid and which of its bands are meant, once it keeps the contract.

    Raises:
        SceneError: ``missing-band``, ``ambiguous-band``, ``wrong-dtype``, ``wrong-scale``, ``wrong-crs``, ``off-grid``,
            ``outside`` or ``incomplete``.
    """
    indices = [_index(facts, band) for band in contract.bands]
    for index, band in zip(indices, contract.bands, strict=True):
        _check_values(facts, index, band)
    fit = _placed(facts, contract, [_source(facts, *pair) for pair in zip(indices, contract.bands, strict=True)])
    for source in fit.sources:
        _check_whole(facts.bands[source.asked.index - 1], source.name)
    return fit


def _index(facts: Facts, band: BandSpec) -> int:
    """Number of a band in the file, from 1."""
    if not band.source:
        if band.index > len(facts.bands):
            detail = f"band {band.name!r} is number {band.index}, the scene has {len(facts.bands)}"
            raise SceneError("missing-band", detail)
        return band.index
    found = [index for index, own in enumerate(facts.bands, 1) if own.description.strip() == band.source]
    if len(found) == 1:
        return found[0]
    rule = f"band {band.name!r} is the one that the scene calls {band.source!r}"
    if found:
        raise SceneError("ambiguous-band", f"{rule}, but bands {', '.join(map(str, found))} are called so: set index")
    names = ", ".join(own.description or f"band {index}, nameless" for index, own in enumerate(facts.bands, 1))
    raise SceneError("missing-band", f"{rule}, but it has {names}")


def _check_values(facts: Facts, index: int, band: BandSpec) -> None:
    own = facts.bands[index - 1]
    if own.dtype != band.dtype:
        raise SceneError("wrong-dtype", f"band {band.name!r} is {band.dtype}, the scene's is {own.dtype}")
    if band.declared is None:
        return
    said, (scale, offset) = declaration(own, facts.tags), band.declared
    same = isclose(said.offset, offset, rel_tol=TOLERANCE, abs_tol=TOLERANCE * abs(scale))
    if not (same and isclose(said.scale, scale, rel_tol=TOLERANCE)):
        rule = f"scenes declare DN * {scale:.10g} + {offset:.10g} for band {band.name!r}"
        fix = "convert its DN, or mend declared in [[bands]]"
        raise SceneError("wrong-scale", f"{rule}, this one DN * {said.scale:.10g} + {said.offset:.10g}: {fix}")


def _source(facts: Facts, index: int, band: BandSpec) -> Source:
    declared = declaration(facts.bands[index - 1], facts.tags).nodata
    missing = (*band.special, *(() if declared is None else (declared,)))
    return Source(band.name, band.dtype, BandRequest(index, band.fill, missing, band.resampling))


def _check_whole(band: FileBand, name: str) -> None:
    """A GeoTIFF that is still being written opens, and reads as zeros where a block has no place in the file yet."""
    if band.hollow and band.nodata is None:  # with a nodata in its header such blocks read as missing, which is true
        detail = f"blocks of band {name!r} are not in the file, which has no nodata: "
        raise SceneError("incomplete", f"{detail}is it still being written, or written with SPARSE_OK?")


def _placed(facts: Facts, contract: Contract, sources: Sequence[Source]) -> Fit:
    """Where a file lies: on whole pixels of the cube's grid, or anywhere where it may be warped."""
    own, grid, block = _own_grid(facts), contract.grid, facts.bands[0].block
    fault = misalignment(grid, own)
    if fault is None:
        whole = placement(grid, own)
        place = whole.intersection(Window(0, grid.height, 0, grid.width))
        if place is None:
            seen = f"rows {whole.y0} to {whole.y1} and columns {whole.x0} to {whole.x1}"
            raise SceneError("outside", f"it covers {seen} of a grid of {grid.height} rows and {grid.width} columns")
        return Fit(place, (place.y0 - whole.y0, place.x0 - whole.x0), tuple(sources), block)
    if contract.off_grid == "refuse":
        fix = 'warp the scenes first, or set scenes.off_grid = "warp"'
        raise SceneError("wrong-crs" if own.crs != grid.crs else "off-grid", f"{fault}: {fix}")
    return Fit(_reached(grid, own), (0, 0), tuple(sources), block, _target(grid))


def _own_grid(facts: Facts) -> GeoBox:
    if facts.ground_points:
        fix = "warp it to a grid first, for example with gdalwarp"
        raise SceneError("off-grid", f"it is placed by ground control points (or RPCs) alone, it has no grid: {fix}")
    if not facts.crs:
        raise SceneError("wrong-crs", "it has no CRS: assign it, for example with gdal_edit.py -a_srs")
    transform = Affine(*facts.transform)
    if not all(map(isfinite, facts.transform)) or transform.is_identity or transform.is_degenerate:
        raise SceneError("off-grid", f"it has no place on earth: its transform is {facts.transform}")
    try:
        return GeoBox((facts.height, facts.width), transform, facts.crs)
    except ProjError as error:
        raise SceneError("wrong-crs", f"PROJ does not know its CRS: {error}") from None


def _reached(grid: GeoBox, own: GeoBox) -> Window:
    """The part of the cube's grid that a file of another grid covers."""
    try:
        place = overlap(grid, own)
    except ProjError as error:
        raise SceneError("wrong-crs", f"no transformation leads from its CRS to the cube's: {error}") from None
    if place is None:
        raise SceneError("outside", "no part of it lies on the cube's grid")
    return place


def _target(grid: GeoBox) -> Target:
    return Target(str(grid.crs), tuple(grid.transform)[:6], (grid.height, grid.width))


def request(path: Path, fit: Fit, names: Sequence[str], window: Window) -> Request:
    """What to ask of a file for some bands in a window of the cube's grid.

    Args:
        path: the private copy of the file.
        fit: where the file lies.
        names: bands of the cube, all of one type.
        window: in the cube's grid, inside ``fit.place``.
    """
    by_name = {source.name: source for source in fit.sources}
    chosen = [by_name[name] for name in names]
    rows, columns = (0, 0) if fit.warp else (fit.place.y0 - fit.offset[0], fit.place.x0 - fit.offset[1])
    own = (window.y0 - rows, window.y1 - rows, window.x0 - columns, window.x1 - columns)
    return Request(path, tuple(source.asked for source in chosen), chosen[0].dtype, own, fit.target)


def mask_path(scene: Path, spec: MaskSpec) -> Path:
    """The mask that belongs to a scene."""
    return spec.folder / f"{scene.stem}{spec.suffix}{scene.suffix}"


def check_mask(facts: Facts, spec: MaskSpec, contract: Contract, scene: Fit) -> Fit:
    """Where a mask lies, once it covers its scene; the rest of the grid it says is unusable.

    Beside a warped scene a mask is warped as well, whatever its grid: the place of such a scene is a little too large.

    Raises:
        SceneError: ``wrong-dtype``, ``wrong-crs``, ``off-grid``, ``outside`` or ``incomplete``; see
            :func:`blaming_mask`.
    """
    band = facts.bands[0]
    fit = _placed(facts, contract, [Source(MASK, band.dtype, BandRequest(1, _outside(band, spec)))])
    if scene.warp and not fit.warp:
        fit = replace(fit, offset=(0, 0), target=scene.target)
    height, width = contract.grid.shape
    slack = 4 + max(height, width) // WARPED if fit.warp else 0
    if fit.place.grown(slack, (height, width)).intersection(scene.place) != scene.place:
        raise SceneError("off-grid", "it is smaller than the scene")
    _check_whole(band, MASK)
    return fit


def _outside(band: FileBand, spec: MaskSpec) -> float:
    """What a mask reads as where it is not: its nodata, which so stays what it is, or a value that means unusable.

    Raises:
        SceneError: ``wrong-dtype``.
    """
    if band.dtype not in (*INTEGER_TYPES, *FLOAT_TYPES):
        raise SceneError("wrong-dtype", f"it is {band.dtype}, a mask is an integer of up to 32 bit or a float")
    info = np.iinfo(band.dtype) if band.dtype in INTEGER_TYPES else np.finfo(band.dtype)
    known = [float(value) for value in (band.nodata, *spec.values) if value is not None]
    return next((value for value in known if info.min <= value <= info.max and value.is_integer()), 0.0)


def mask_request(path: Path, fit: Fit, window: Window) -> Request:
    """What to ask of a mask for a window of the cube's grid that its scene covers; ``(1, y, x)`` in its own type."""
    return request(path, fit, (MASK,), window)


@contextmanager
def blaming_mask(name: str) -> Iterator[None]:
    """Turns any fault of a file into ``bad-mask``: it is no fault of the scene, which is tried again."""
    try:
        yield
    except SceneError as fault:
        if fault.reason == "bad-mask":
            raise
        detail = f"the mask {name}: {fault.detail}; mend the mask, the scene is tried again at the next ingest"
        raise SceneError("bad-mask", detail) from None
