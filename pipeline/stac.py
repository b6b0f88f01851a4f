"""STAC 1.1 items and day catalogues: what a run says about itself to catalogues and loaders, as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from pipeline.chances import PROBABILITY
from pipeline.predictor import MATCHED, MEAN, level
from pipeline.raster import RasterBand, RasterInfo
from pipeline.record import Lead, Outlet, RunRecord, iso, run_key

if TYPE_CHECKING:
    import pystac

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("forecast/v0.2.0", "projection/v2.0.0", "raster/v2.0.0", "file/v2.1.0", "processing/v1.2.0")
)
CATALOGUE = "catalog.json"
SHA2_256 = "1220"  # multihash prefix: code 0x12, 0x20 bytes
EDGE = 33  # points a side: a radar composite is drawn to 0.1 km, a Meteosat sector near the limb to 5 km
MESH = 64

_POINTS = {
    MEAN: "Mean: the value with the least squared error",
    MATCHED: "Probability-matched: the mean's pattern with the distribution of what was last seen",
}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a run: name in the run's folder, SHA-256 in hexadecimal, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class RasterFile:
    """A GeoTIFF of a run and what it says about itself."""

    file: StoredFile
    info: RasterInfo


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a grid covers, in degrees east and north: a GeoJSON geometry and ``[west, south, east, north]``."""

    geometry: dict[str, Any] | None
    bbox: list[float] | None


def lead_item(run: RunRecord, outlet: Outlet, lead: Lead, values: RasterFile, quality: RasterFile) -> dict[str, Any]:
    """The STAC item of one lead; its datetime is the valid time."""
    import pystac

    place = footprint(outlet.grid)
    item = pystac.Item(
        id=f"{outlet.product.name}-{run.init:%Y%m%dT%H%M%SZ}-{run_key(run, outlet)}-{lead.name}",
        geometry=place.geometry,
        bbox=place.bbox,
        datetime=lead.valid_time,
        properties=_properties(run, outlet, lead) | {"cubecast:quantities": _quantities(values.info)},
        stac_extensions=list(EXTENSIONS),
    )
    if outlet.product.providers:
        item.common_metadata.providers = _providers(outlet)
    item.add_asset("data", _asset(values, "Forecast", "data"))
    item.add_asset("quality", _asset(quality, "Source and input age of each pixel", "quality-mask"))
    item.add_link(pystac.Link("parent", f"../../{CATALOGUE}", pystac.MediaType.JSON))
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def day_catalogue(product: str, day: date, items: Iterable[str]) -> dict[str, Any]:
    """The STAC catalogue of one day's runs; ``items`` are paths relative to it."""
    import pystac

    catalogue = pystac.Catalog(f"{product}-{day:%Y-%m-%d}", f"Forecasts of {product} issued on {day:%Y-%m-%d} (UTC)")
    catalogue.clear_links()
    for path in items:
        catalogue.add_link(pystac.Link("item", f"./{path}", pystac.MediaType.GEOJSON))
    return catalogue.to_dict(include_self_link=False, transform_hrefs=False)


def footprint(grid: GeoBox) -> Footprint:
    """Where a grid lies on the Earth.

    Its outline; or a box where the outline leaves the visible disc, rounds a pole or crosses the antimeridian, where
    it is cut in two and its west is greater than its east (RFC 7946, sections 3.1.9 and 5.2).
    """
    ring = _lonlat(grid, *_outline(grid))
    if np.isfinite(ring).all() and np.abs(np.diff(ring[:, 0])).max() < 180:
        (west, south), (east, north) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
        return Footprint({"type": "Polygon", "coordinates": [ring.tolist()]}, [west, south, east, north])
    mesh = np.meshgrid(np.linspace(0, grid.width, MESH), np.linspace(0, grid.height, MESH))
    points = _lonlat(grid, mesh[0].ravel(), mesh[1].ravel())
    return _box(points[np.isfinite(points).all(axis=1)])


def iso_duration(duration: timedelta) -> str:
    """A duration of whole minutes as ISO 8601 writes it.

    >>> iso_duration(timedelta(minutes=65)), iso_duration(timedelta(days=8))
    ('PT1H5M', 'P8D')
    """
    hours, seconds = divmod(duration.seconds, 3600)
    time = _counted(hours, "H") + _counted(seconds // 60, "M")
    text = "P" + _counted(duration.days, "D") + ("T" + time if time else "")
    return "PT0M" if text == "P" else text


def _counted(number: int, unit: str) -> str:
    return f"{number}{unit}" if number else ""


def _properties(run: RunRecord, outlet: Outlet, lead: Lead) -> dict[str, Any]:
    product = outlet.product
    origin = ", ".join(run.scenes) or "no recent scene"
    return {
        "title": f"{product.title or product.name}, {lead.minutes} minutes ahead",
        "license": product.licence,
        **({"attribution": product.attribution} if product.attribution else {}),
        "forecast:reference_datetime": iso(run.init),
        "forecast:horizon": iso_duration(lead.valid_time - run.init),
        **_projection(outlet.grid),
        "processing:level": "L4",
        "processing:lineage": f"Forecast by {run.model.name} {run.model.version} from {origin}",
        "processing:software": {"cubecast": run.code_version, run.model.name: run.model.version},
        "cubecast:product": product.name,
        "cubecast:run_key": run_key(run, outlet),
        "cubecast:snapshot": run.snapshot,
        "cubecast:scenes": list(run.scenes),
    }


def _projection(grid: GeoBox) -> dict[str, Any]:
    if grid.crs is None:
        msg = "a forecast's grid has a CRS, found none: take the grid of the scenes"
        raise ValueError(msg)
    epsg = grid.crs.epsg
    # PROJ's guess of a code may be a relative of the CRS only: equal, or no code.
    code = f"EPSG:{epsg}" if epsg and CRS(f"EPSG:{epsg}") == CRS(grid.crs.to_wkt()) else None
    return {
        "proj:code": code,
        "proj:wkt2": grid.crs.to_wkt(),
        "proj:transform": list(grid.transform)[:6],
        "proj:shape": list(grid.shape),
    }


def _providers(outlet: Outlet) -> list[pystac.Provider]:
    import pystac

    return [
        pystac.Provider(one.name, roles=[pystac.ProviderRole(role) for role in one.roles], url=one.url)
        for one in outlet.product.providers
    ]


def _asset(raster: RasterFile, title: str, role: str) -> pystac.Asset:
    import pystac

    fields = {
        "bands": _bands(raster.info),
        "file:checksum": SHA2_256 + raster.file.sha256,
        "file:size": raster.file.size,
    }
    return pystac.Asset(
        f"./{raster.file.name}", title, media_type=pystac.MediaType.COG, roles=[role], extra_fields=fields
    )


def _bands(info: RasterInfo) -> list[dict[str, Any]]:
    nodata = {} if info.nodata is None else {"nodata": "nan" if np.isnan(info.nodata) else info.nodata}
    return [
        {
            "name": band.name,
            "data_type": info.dtype,
            "unit": band.units,
            "raster:scale": band.scale,
            "raster:offset": band.offset,
            **nodata,
            **_meaning(band),
        }
        for band in info.bands
    ]


def _quantities(info: RasterInfo) -> list[str]:
    """Names along the quantity axis; probabilities stand beside it."""
    return list(dict.fromkeys(one.tags["quantity"] for one in info.bands if one.tags["quantity"] != PROBABILITY))


def _meaning(band: RasterBand) -> dict[str, Any]:
    """What a band of a forecast says of which band of the cube; empty for one of another file."""
    quantity = band.tags.get("quantity")
    if quantity is None:
        return {}
    probability = level(quantity)
    about = {"cubecast:band": band.tags["cube_band"], "cubecast:quantity": quantity}
    if quantity == PROBABILITY:
        return about | _event(band)
    if probability is None:
        return about | {"description": _POINTS.get(quantity, quantity)}
    below = f"the truth is at most this with a probability of {probability:g}"
    return about | {"description": f"Quantile: {below}", "cubecast:probability": probability}


def _event(band: RasterBand) -> dict[str, Any]:
    sign, threshold, unit = (band.tags[name] for name in ("event", "threshold", "unit"))
    value = threshold if unit == "1" else f"{threshold} {unit}"
    return {
        "description": f"Probability that {band.tags['cube_band']} is {'under' if sign == '<' else 'at least'} {value}",
        "cubecast:event": sign,
        "cubecast:threshold": float(threshold),
        "cubecast:threshold_unit": unit,
    }


def _outline(grid: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel coordinates ``(x, y)`` round a grid, closed, anticlockwise where north is up (RFC 7946, section 3.1.6)."""
    step = np.linspace(0, 1, EDGE)
    ones, zeros = np.ones(EDGE), np.zeros(EDGE)
    x = np.concatenate([zeros, step[1:], ones[1:], step[::-1][1:]])
    y = np.concatenate([step, ones[1:], step[::-1][1:], zeros[1:]])
    return x * grid.width, y * grid.height


def _lonlat(grid: GeoBox, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(point, 2)``: degrees east (-180 to 180) and north of pixel coordinates, to 0.1 m; not finite off the Earth."""
    if grid.crs is None:
        msg = "a forecast's grid has a CRS, found none: take the grid of the scenes"
        raise ValueError(msg)
    t = grid.transform
    to_degrees = grid.crs.transformer_to_crs(CRS("EPSG:4326"))
    lon, lat = to_degrees(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)
    with np.errstate(invalid="ignore"):
        wrapped = np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon)
    return np.stack([wrapped, lat], axis=1).round(6)


def _box(points: NDArray[np.float64]) -> Footprint:
    if not len(points):
        return Footprint(None, None)
    south, north = float(points[:, 1].min()), float(points[:, 1].max())
    west, east = _longitudes(np.unique(points[:, 0]))
    if west <= east:
        return Footprint(
            {"type": "Polygon", "coordinates": [_ring(west, south, east, north)]}, [west, south, east, north]
        )
    halves = [[_ring(west, south, 180.0, north)], [_ring(-180.0, south, east, north)]]
    return Footprint({"type": "MultiPolygon", "coordinates": halves}, [west, south, east, north])


def _longitudes(lon: NDArray[np.float64]) -> tuple[float, float]:
    """West and east ends of sorted longitudes: what is left of the circle without their widest gap."""
    gaps = np.append(np.diff(lon), lon[0] + 360 - lon[-1])
    widest = int(gaps.argmax())
    if gaps[widest] < 360 / MESH * 2:
        return -180.0, 180.0
    return float(lon[(widest + 1) % len(lon)]), float(lon[widest])


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]
