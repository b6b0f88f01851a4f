"""Helpers over odc-geo's GeoBox, the grid type of cubecast: alignment, windows, tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, cos, radians, sqrt

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox

DRIFT_PX = 0.01  # anywhere in the scene; less than what a bilinear resampling would show at 8 bit
OUTLINE = 1024  # points along a side of a grid; between them a projected edge bends by less than a pixel
LATTICE = 65
METRES_PER_DEGREE = 111_195.0  # of a great circle on a sphere of 6371 km


@dataclass(frozen=True, slots=True)
class Window:
    """A pixel slice of a grid: rows ``[y0, y1)``, columns ``[x0, x1)``.

    >>> Window(0, 4, 2, 5).shape
    (4, 3)
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """``(rows, columns)`` for indexing."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, margin: int, shape: tuple[int, int]) -> Window:
        """This window with ``margin`` pixels more on each side, cut at the grid's ``shape``."""
        return Window(
            max(0, self.y0 - margin),
            min(shape[0], self.y1 + margin),
            max(0, self.x0 - margin),
            min(shape[1], self.x1 + margin),
        )

    def intersection(self, other: Window) -> Window | None:
        """What both windows share, or None."""
        y0, y1 = max(self.y0, other.y0), min(self.y1, other.y1)
        x0, x1 = max(self.x0, other.x0), min(self.x1, other.x1)
        return Window(y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None

    def within(self, outer: Window) -> Window:
        """This window counted from the corner of ``outer``."""
        return Window(self.y0 - outer.y0, self.y1 - outer.y0, self.x0 - outer.x0, self.x1 - outer.x0)


def tiles(shape: tuple[int, int], size: int) -> Iterator[Window]:
    """Windows of at most ``size`` pixels a side that cover ``shape`` exactly once, row by row."""
    for y in range(0, shape[0], size):
        for x in range(0, shape[1], size):
            yield Window(y, min(y + size, shape[0]), x, min(x + size, shape[1]))


def geobox(crs: str, transform: tuple[float, ...], shape: tuple[int, int]) -> GeoBox:
    """Grid from a CRS (authority code or WKT), an affine transform ``(a, b, c, d, e, f)`` and ``(height, width)``."""
    return GeoBox(shape, Affine(*transform), CRS(crs))


def window_of(bounds: tuple[float, float, float, float], grid: GeoBox) -> Window | None:
    """Pixels whose centre lies within bounds; None where there is none.

    Args:
        bounds: min x, min y, max x, max y in the grid's CRS; on a rotated grid the window around them.
        grid: the grid.

    >>> window_of((10, 0, 30, 14), geobox("EPSG:32633", (10, 0, 0, 0, -10, 40), (4, 5)))
    Window(y0=3, y1=4, x0=1, x1=3)
    """
    left, bottom, right, top = bounds
    inverse = ~grid.transform
    corners = [inverse @ (x, y) for x in (left, right) for y in (bottom, top)]
    columns, rows = zip(*corners, strict=True)
    edges = [ceil(round(value - 0.5, 6)) for value in (min(rows), max(rows), min(columns), max(columns))]
    height, width = grid.shape
    return Window(*edges).intersection(Window(0, height, 0, width))


def pixel_size(grid: GeoBox) -> float:
    """Side of a pixel in metres: the root of its area, where CRS units are degrees at the grid's centre.

    >>> round(pixel_size(geobox("EPSG:4326", (0.01, 0, 25, 0, -0.01, 60.5), (100, 100))))
    786
    """
    height, width = grid.shape
    t = grid.transform
    area = abs(t.a * t.e - t.b * t.d)
    if grid.crs is None:
        return sqrt(area)
    if grid.crs.geographic:
        latitude = radians(t.d * width / 2 + t.e * height / 2 + t.f)
        return sqrt(area * max(cos(latitude), 0.0)) * METRES_PER_DEGREE
    return sqrt(area) * grid.crs.proj.axis_info[0].unit_conversion_factor


def misalignment(grid: GeoBox, other: GeoBox) -> str | None:
    """Why ``other`` cannot be put onto ``grid`` pixel by pixel, or None where it can.

    Equal CRS, size and orientation of pixels, corner on a whole pixel (to 0.01 px at the far corner); it need not lie
    inside the grid.
    """
    if grid.crs != other.crs:
        return f"its CRS is {_crs_name(other)}, the cube's is {_crs_name(grid)}"
    relative = ~grid.transform @ other.transform
    drift = max(abs(relative.a - 1) * other.width, abs(relative.e - 1) * other.height)
    skew = max(abs(relative.b) * other.height, abs(relative.d) * other.width)
    if max(drift, skew) > DRIFT_PX:
        return f"its pixels are {_pixel(other)}, the cube's are {_pixel(grid)}"
    column, row = relative.c, relative.f
    if max(abs(column - round(column)), abs(row - round(row))) > DRIFT_PX:
        return f"its corner lies {column:.3f}, {row:.3f} pixels from the cube's, not on a whole pixel"
    return None


def placement(grid: GeoBox, other: GeoBox) -> Window:
    """Where the aligned grid ``other`` lies in ``grid``, or beyond it."""
    relative = ~grid.transform @ other.transform
    x, y = round(relative.c), round(relative.f)
    return Window(y, y + other.height, x, x + other.width)


def overlap(grid: GeoBox, other: GeoBox) -> Window | None:
    """The part of ``grid`` that a grid of any kind covers, up to a few pixels too large; None where they do not touch.

    What two areas share ends where the outline of one runs inside the other. Where an area has no outline in the other
    CRS (the limb of a geostationary disc, a pole), points inside the grid tell, and the part may be 2 % too large.

    Raises:
        pyproj.exceptions.ProjError: no transformation leads from one CRS to the other.
    """
    height, width = shape = grid.shape[0], grid.shape[1]
    edge, lattice = _outline(shape), _lattice(shape)
    ends = _moved(_outline((other.height, other.width)), other, grid)
    ends = np.concatenate([ends[_inside(ends, grid)], edge[_inside(_moved(edge, grid, other), other)]])
    points = lattice[_inside(_moved(lattice, grid, other), other)]
    if len(points) and not (len(ends) and _hull(ends).intersection(_hull(points)) == _hull(points)):
        step = ceil(max(shape) / LATTICE)
        ends = np.concatenate([ends, points - step, points + step])
    if not len(ends):
        return None
    return _hull(ends).grown(1 + ceil(max(shape) / OUTLINE), shape).intersection(Window(0, height, 0, width))


def _outline(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Points along the four sides: ``(point, 2)``, column and row."""
    height, width = shape
    across = np.linspace(0, width, min(width, OUTLINE) + 1)
    down = np.linspace(0, height, min(height, OUTLINE) + 1)
    sides = [(across, 0 * across), (across, 0 * across + height), (0 * down, down), (0 * down + width, down)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def _lattice(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Points all over a grid: ``(point, 2)``, column and row."""
    rows, columns = ((np.arange(LATTICE) + 0.5) * side / LATTICE for side in shape)
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def _moved(points: NDArray[np.float64], grid: GeoBox, other: GeoBox) -> NDArray[np.float64]:
    """Columns and rows of ``grid`` as those of ``other``, ``(point, 2)``; NaN where a point has no place there."""
    x, y = _applied(grid.transform, points[:, 0], points[:, 1])
    if grid.crs is not None and other.crs is not None and grid.crs != other.crs:
        x, y = grid.crs.transformer_to_crs(other.crs)(x, y)
    x, y = (np.where(np.isfinite(values), values, np.nan) for values in (x, y))
    if other.crs is not None and other.crs.geographic:  # 190 degrees east are 170 west
        middle = other.transform.a * other.width / 2 + other.transform.b * other.height / 2 + other.transform.c
        x = middle + (x - middle + 180) % 360 - 180
    return np.stack(_applied(~other.transform, x, y), axis=1)


def _applied(
    transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _inside(points: NDArray[np.float64], grid: GeoBox) -> NDArray[np.bool_]:
    return ((points >= 0) & (points <= grid.shape[::-1])).all(axis=1)


def _hull(points: NDArray[np.float64]) -> Window:
    (x0, y0), (x1, y1) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return Window(int(y0), int(y1), int(x0), int(x1))


def _crs_name(grid: GeoBox) -> str:
    if grid.crs is None:
        return "missing"
    return f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else repr(grid.crs.proj.name)


def _pixel(grid: GeoBox) -> str:
    t = grid.transform
    return f"{t.a:g} x {t.e:g}" + (f" rotated by {t.b:g}, {t.d:g}" if t.b or t.d else "")
