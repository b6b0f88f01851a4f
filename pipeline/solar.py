"""Where the sun stands: its elevation over a window of the grid, and where it is night."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from pipeline.grid import Window

NODE = 16  # px; at 1 km a pixel the sun's elevation changes by 0.14 degrees over it
J2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)


def sun_elevation(time: datetime, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.float64]:
    """Angle between the sun's centre and the horizon, negative at night, in degrees; refraction is left out.

    Low-precision formulas of the Astronomical Almanac as in Michalsky 1988 (Solar Energy 40, 227), good to 0.01
    degrees from 1950 to 2050.

    Args:
        time: aware.
        latitude: degrees north.
        longitude: degrees east, of a shape that goes with that of ``latitude``.

    Returns:
        Of their common shape; NaN where one of them is.
    """
    right_ascension, declination = _sun(time)
    days = (time - J2000).total_seconds() / 86400
    sidereal = np.radians(280.46062 + 360.98564737 * days)  # Greenwich, 15 x (6.697375 h + 0.0657098242 h a day + UT)
    hour_angle = sidereal + np.radians(longitude) - right_ascension
    north = np.radians(latitude)
    sine = np.sin(north) * np.sin(declination) + np.cos(north) * np.cos(declination) * np.cos(hour_angle)
    return np.degrees(np.arcsin(np.clip(sine, -1, 1)))


def _sun(time: datetime) -> tuple[float, float]:
    """Right ascension and declination, in radians."""
    days = (time - J2000).total_seconds() / 86400
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * days)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    return float(right_ascension), float(np.arcsin(np.sin(obliquity) * np.sin(longitude)))


def elevation(time: datetime, grid: GeoBox, window: Window) -> NDArray[np.float32]:
    """The sun's elevation over a window of a grid, in squares of 16 px that lie alike in every window.

    Returns:
        ``(y, x)``, degrees; NaN off the earth, as in the corners of a geostationary image.
    """
    return _to_pixels(sun_elevation(time, *_coordinates(grid, window)).astype(np.float32), window)


def night(time: datetime, grid: GeoBox, window: Window) -> NDArray[np.bool_]:
    """Where the sun's centre is below the horizon; nowhere off the earth. ``(y, x)``, by squares of 16 px."""
    dark = sun_elevation(time, *_coordinates(grid, window)) < 0
    return _to_pixels(dark, window) if dark.any() else np.zeros(window.shape, bool)


@lru_cache(maxsize=512)  # a cube's windows are the same for each scene, and projecting them costs most
def _coordinates(grid: GeoBox, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of the middle of each square, in degrees; NaN off the earth."""
    rows, columns = (
        (np.arange(start // NODE, -(-end // NODE)) + 0.5) * NODE
        for start, end in ((window.y0, window.y1), (window.x0, window.x1))
    )
    column, row = np.meshgrid(columns, rows)
    to = grid.transform
    x, y = to.a * column + to.b * row + to.c, to.d * column + to.e * row + to.f
    longitude, latitude = _to_degrees(str(grid.crs)).transform(x, y)
    off = ~(np.isfinite(longitude) & np.isfinite(latitude))
    return np.where(off, np.nan, latitude), np.where(off, np.nan, longitude)


@lru_cache(maxsize=16)
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _to_pixels(squares: NDArray, window: Window) -> NDArray:
    top, left = window.y0 % NODE, window.x0 % NODE
    height, width = window.shape
    wide = np.repeat(squares, NODE, axis=1)[:, left : left + width]
    return np.repeat(wide, NODE, axis=0)[top : top + height]
