"""What is known of every place and time beforehand: time of day and year, the sun, the ground.

They are the last input of a network, one array for the frames and the leads of a forecast. Values of a time are those
of its acquisition, or of the valid time of a lead.

====================== =========================================================================================
channel                meaning
====================== =========================================================================================
``day_sine``           sine and cosine of the mean solar time at the grid's centre, 0 at midnight: the same all over
``day_cosine``         the grid (UTC where the centre has no longitude). Where it is morning or evening on a grid
                       that spans many time zones, ``sun_cosine`` tells.
``year_sine``          sine and cosine of the part of a mean Gregorian year since 2000-01-01: the same all over
``year_cosine``        the grid
``sun_cosine``         cosine of the sun's zenith angle, negative at night, between nodes 16 px apart; 0 off the earth
``NAME``, ``NAME-2``   a layer of a GeoTIFF, warped onto the grid (bilinear) and standardised over it; 0 where it has
                       no value
====================== =========================================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite, pi
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from pipeline.config import Settings
from pipeline.errors import ConfigError, SceneError
from pipeline.geotiff import open_geotiff
from pipeline.grid import Window
from pipeline.predictor import Context
from pipeline.solar import NODE, elevation
from pipeline.specs import CovariateSpec
from pipeline.times import TimeAxis, from_seconds, seconds

DAY = 86400.0  # s
YEAR = 365.2425 * DAY  # mean Gregorian year
YEAR_START = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Covariates:
    """The covariates of a product, for any time and any part of its grid.

    Attributes:
        names: of the channels, in order.
        spec: which ones.
        grid: of the product.
        axis: of the product.
        layers: ``(y, x, layer)``, float32: what lasts, standardised.
    """

    names: tuple[str, ...]
    spec: CovariateSpec
    grid: GeoBox
    axis: TimeAxis
    layers: NDArray[np.float32]

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def digest(self) -> str:
        """What decides their values, beside grid and axis; empty where there are none."""
        if not self.channels:
            return ""
        return hashlib.sha256(repr(self.names).encode() + np.ascontiguousarray(self.layers).tobytes()).hexdigest()

    def attach(self, context: Context, init: int, horizon: int, *, area: Window | None = None) -> Context:
        """The context with its covariates; as it is where there are none.

        Those that are the same all over the grid take no memory unless others are not.

        Args:
            context: of one product, as observed.
            init: slot of the init time, of all batch items.
            horizon: how many leads.
            area: where on the grid the context lies; None: all of it.

        Raises:
            ValueError: the context does not have the area's size.
        """
        if not self.channels:
            return context
        window = area or Window(0, self.grid.height, 0, self.grid.width)
        if window.shape != context.grid_shape:
            msg = f"a context gets the covariates of its area, found {context.grid_shape} px for {window.shape}"
            raise ValueError(msg)
        leads = [seconds(self.axis.valid_time(init + lead)) for lead in range(1, horizon + 1)]
        times = np.concatenate([context.times, np.tile(np.array(leads, np.int64), (len(context.times), 1))], axis=1)
        return replace(context, covariates=self._values(times, window))

    def _values(self, times: NDArray[np.int64], window: Window) -> NDArray[np.float32]:
        """``(batch, time, y, x, channel)``."""
        moments = self._moments(times)[:, :, np.newaxis, np.newaxis]
        shape = (*times.shape, *window.shape)
        alike = moments.shape[-1]
        if alike == self.channels:
            return np.broadcast_to(moments, (*shape, alike))
        values = np.empty((*shape, self.channels), np.float32)
        values[..., :alike] = moments
        if self.spec.solar_zenith:
            for at in np.ndindex(times.shape):
                values[(*at, ..., alike)] = sun_cosine(from_seconds(int(times[at])), self.grid, window)
        layers = self.layers[window.slices]
        values[..., self.channels - layers.shape[-1] :] = layers
        return values

    def _moments(self, times: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(batch, time, channel)`` of those that are the same all over the grid."""
        angles: list[NDArray[np.floating]] = []
        if self.spec.time_of_day:
            angles.append(2 * pi * (times / DAY + _longitude(self.grid) / 360))
        if self.spec.time_of_year:
            angles.append(2 * pi * (times - seconds(YEAR_START)) / YEAR)
        waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        return np.stack(waves, axis=-1).astype(np.float32) if waves else np.empty((*times.shape, 0), np.float32)


def covariates_of(settings: Settings) -> Covariates:
    """The covariates that a configuration asks for; reads its static layers.

    Raises:
        ConfigError: a static layer is not there, cannot be read or says nothing about the grid.
    """
    spec, grid = settings.covariates, settings.grid.geobox()
    names = [*("day_sine", "day_cosine") * spec.time_of_day, *("year_sine", "year_cosine") * spec.time_of_year]
    names += ["sun_cosine"] * spec.solar_zenith
    layers: list[NDArray[np.float32]] = [np.empty((*grid.shape, 0), np.float32)]
    for path in spec.static:
        layers.append(static_layers(path, grid))
        names += [path.stem if not band else f"{path.stem}-{band + 1}" for band in range(layers[-1].shape[-1])]
    return Covariates(tuple(names), spec, grid, settings.axis.axis(), np.concatenate(layers, axis=-1))


def sun_cosine(time: datetime, grid: GeoBox, window: Window) -> NDArray[np.float32]:
    """Cosine of the sun's zenith angle over a window of a grid, ``(y, x)``; 0 off the earth.

    Bilinear between the middles of squares that lie alike in every window, so that the window does not matter.
    """
    rows = _squares(window.y0, window.y1, grid.height)
    columns = _squares(window.x0, window.x1, grid.width)
    outer = Window(rows.start * NODE, rows.stop * NODE, columns.start * NODE, columns.stop * NODE)
    nodes = np.sin(np.radians(elevation(time, grid, outer)[NODE // 2 :: NODE, NODE // 2 :: NODE]))
    pixels = cv2.resize(nodes, outer.shape[::-1], interpolation=cv2.INTER_LINEAR)[window.within(outer).slices]
    return np.nan_to_num(np.asarray(pixels, np.float32), nan=0.0)


def _squares(start: int, stop: int, size: int) -> range:
    """Squares that reach a side of a window and one more at each end, as far as the grid has any."""
    return range(max(0, start // NODE - 1), min(-(-size // NODE), -(-stop // NODE) + 1))


def static_layers(path: Path, grid: GeoBox) -> NDArray[np.float32]:
    """Bands of a GeoTIFF on a grid, ``(y, x, layer)``: mean 0 and deviation 1 over the pixels that it knows, 0 beyond.

    Raises:
        ConfigError: the file is not there, cannot be read, has no CRS or covers no pixel of the grid.
    """
    if not path.is_file():
        msg = f"covariates.static names GeoTIFFs that are there, found none at {path}: mend the path"
        raise ConfigError(msg)
    try:
        warped = _warped(path, grid)
    except SceneError as error:
        msg = f"a static layer is a GeoTIFF that can be read, but {path} is not: {error.detail}. Write it again"
        raise ConfigError(msg) from None
    known = np.isfinite(warped)
    if not known.any(axis=(0, 1)).all():
        msg = f"each band of a static layer covers a part of the grid, but one of {path} covers none: check its CRS"
        raise ConfigError(msg)
    mean = warped.mean(axis=(0, 1), where=known, dtype=np.float64)
    deviation = warped.std(axis=(0, 1), where=known, dtype=np.float64)
    # A constant layer says nothing: it becomes 0, not noise of rounding.
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    return np.where(known, (warped - mean) / scale, 0).astype(np.float32)


def _warped(path: Path, grid: GeoBox) -> NDArray[np.float32]:
    """``(y, x, layer)``, NaN where the file has nothing."""
    with open_geotiff(path) as dataset:
        if not dataset.crs:
            raise SceneError("wrong-crs", "it has no CRS")
        bands = np.full((dataset.count, *grid.shape), np.nan, np.float32)
        for index, band in zip(dataset.indexes, bands, strict=True):
            reproject(
                rasterio.band(dataset, index),
                band,
                dst_transform=grid.transform,
                dst_crs=CRS.from_wkt(_wkt(grid)),
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
            )
    return np.moveaxis(bands, 0, -1)


def _wkt(grid: GeoBox) -> str:
    if grid.crs is None:
        msg = "the grid of a product has a CRS, found none"
        raise ValueError(msg)
    return grid.crs.to_wkt()


def _longitude(grid: GeoBox) -> float:
    """Of the grid's centre, degrees east; 0 where it is off the earth."""
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    longitude, _ = Transformer.from_crs(_wkt(grid), "EPSG:4326", always_xy=True).transform(x, y)
    return longitude if isfinite(longitude) else 0.0
