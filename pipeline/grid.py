"""Helpers over odc-geo's GeoBox, the grid type of cubecast: alignment, windows, tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

DRIFT_PX = 0.01  # anywhere in the scene; less than what a bilinear resampling would show at 8 bit


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


def misalignment(grid: GeoBox, other: GeoBox) -> str | None:
    """Why ``other`` cannot be put onto ``grid`` pixel by pixel, or None where it can.

    Equal CRS, size and orientation of pixels, corner on a whole pixel (to 0.01 px at the far corner), inside the grid.
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
    window = placement(grid, other)
    if window.y0 < 0 or window.x0 < 0 or window.y1 > grid.height or window.x1 > grid.width:
        return f"it covers rows {window.y0}-{window.y1} and columns {window.x0}-{window.x1} of a {grid.shape} grid"
    return None


def placement(grid: GeoBox, other: GeoBox) -> Window:
    """Where the aligned grid ``other`` lies in ``grid``."""
    relative = ~grid.transform @ other.transform
    x, y = round(relative.c), round(relative.f)
    return Window(y, y + other.height, x, x + other.width)


def _crs_name(grid: GeoBox) -> str:
    if grid.crs is None:
        return "missing"
    return f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else repr(grid.crs.proj.name)


def _pixel(grid: GeoBox) -> str:
    t = grid.transform
    return f"{t.a:g} x {t.e:g}" + (f" rotated by {t.b:g}, {t.d:g}" if t.b or t.d else "")
