"""The grid that a folder of scenes lies on, and an area of interest cut out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Literal

from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pydantic import ValidationError
from pyproj.exceptions import ProjError

from pipeline.errors import ConfigError
from pipeline.grid import DRIFT_PX, Window, geobox, misalignment, overlap
from pipeline.header import Header, Placement
from pipeline.specs import GridSpec

Bounds = tuple[float, float, float, float]  # least x, least y, largest x, largest y


@dataclass(frozen=True, slots=True)
class Extent:
    """Where scenes lie.

    Attributes:
        grid: the commonest of their grids, or what was cut out of it.
        off_grid: whether scenes of other grids have to be warped.
        notes: what is to be said about it.
    """

    grid: GridSpec
    off_grid: Literal["refuse", "warp"]
    notes: tuple[str, ...]


def extent(headers: Sequence[Header], folder: Path, bounds: Bounds | None = None) -> Extent:
    """The grid of most scenes, the first of equally common ones, cut to ``bounds`` in its CRS where they are given.

    Raises:
        ConfigError: no scene is georeferenced, PROJ does not know the CRS, or the bounds hold nothing of the grid.
    """
    found = Counter(header.grid for header in headers if header.grid is not None)
    if not found:
        msg = (
            f"every scene has a CRS and a geotransform, but in {folder} none of the {len(headers)} looked at has both "
            f"(first: {headers[0].path.name}). Georeference them, for example with gdal_edit.py -a_srs ... -a_ullr ..."
        )
        raise ConfigError(msg)
    placement, count = found.most_common(1)[0]
    grid = _grid_spec(placement) if bounds is None else cut(_grid_spec(placement), bounds)
    others = [other for other in found if other != placement]
    warp = _has_to_warp(grid.geobox(), others)
    notes = []
    if others:
        what = (
            f"{len(found)} different grids: {count} of {len(headers)} scenes lie on the one taken here, the commonest"
        )
        notes.append(f"{what}, the first of equally common ones. {_fate(warp=warp)}")
    _, b, _, d, e, _ = placement.transform
    if b or d or e > 0:
        notes.append("the grid is rotated or its rows do not run from north to south")
    return Extent(grid, "warp" if warp else "refuse", tuple(notes))


def _fate(*, warp: bool) -> str:
    beyond = "what lies beyond it is left out, a scene that does not touch it is refused"
    return f"The others are warped onto it (scenes.off_grid): {beyond}" if warp else f"{beyond[0].upper()}{beyond[1:]}"


def _has_to_warp(grid: GeoBox, others: Iterable[Placement]) -> bool:
    """Whether a scene touches the grid and its pixels are others."""
    for other in others:
        try:
            own = geobox(other.crs, other.transform, other.shape)
            if misalignment(grid, own) is not None and overlap(grid, own) is not None:
                return True
        except ProjError:
            continue  # such a scene is refused whatever is set
    return False


def _grid_spec(placement: Placement) -> GridSpec:
    """The grid; its CRS as an authority code where that means the very same CRS, otherwise as WKT."""
    height, width = placement.shape
    try:
        spec = GridSpec(crs=placement.crs, transform=_six(placement.transform), width=width, height=height)
    except ValidationError as error:
        msg = f"the scenes have a grid that PROJ knows, but theirs is refused: {error.errors()[0]['msg']}"
        raise ConfigError(f"{msg}. Assign another, for example with gdal_edit.py -a_srs EPSG:...") from None
    crs = CRS(placement.crs)
    code = f"EPSG:{crs.epsg}"
    return spec.model_copy(update={"crs": code}) if crs.epsg is not None and CRS(code) == crs else spec


def cut(grid: GridSpec, bounds: Bounds) -> GridSpec:
    """The whole pixels of a grid that bounds in its CRS touch.

    Raises:
        ConfigError: the bounds are no area, or hold nothing of the grid.
    """
    window = _window(Affine(*grid.transform), bounds).intersection(Window(0, grid.height, 0, grid.width))
    if not (bounds[0] < bounds[2] and bounds[1] < bounds[3]) or window is None:
        rule = "bounds are minx,miny,maxx,maxy, in the scenes' CRS, of an area that the scenes cover"
        own = ",".join(f"{value:.10g}" for value in grid.geobox().boundingbox.bbox)
        msg = f"{rule}: found {','.join(f'{value:.10g}' for value in bounds)}, the scenes cover {own}"
        raise ConfigError(msg)
    transform = Affine(*grid.transform) @ Affine.translation(window.x0, window.y0)
    height, width = window.shape
    return grid.model_copy(update={"transform": _six(tuple(transform)), "width": width, "height": height})


def _window(transform: Affine, bounds: Bounds) -> Window:
    minx, miny, maxx, maxy = bounds
    corners = [~transform @ (x, y) for x in (minx, maxx) for y in (miny, maxy)]
    columns, rows = ([corner[axis] for corner in corners] for axis in (0, 1))
    first = [floor(min(values) + DRIFT_PX) for values in (rows, columns)]
    last = [ceil(max(values) - DRIFT_PX) for values in (rows, columns)]
    return Window(first[0], last[0], first[1], last[1])


def _six(transform: tuple[float, ...]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = transform[:6]
    return a, b, c, d, e, f
