"""The cube's schema: which arrays stand where, with which chunks, codecs and attributes.

One Zarr v3 group per kind of band (same type, scale, offset and fill), each a CF dataset of its own::

    /                 schema_version, layout
    /int16/           data (time, band, y, x), quality (time, y, x), acquired (time), time, band, y, x, spatial_ref
    /layers/int16/    data (layer, band, y, x), quality (layer, y, x): what scenes hold that their slot does not show
    /scenes/          one row for every scene that is or was in the cube

A slot that one scene fills is all there is of it. Where several meet (tiles that overlap, a second acquisition, a newer
revision), each keeps in a layer of its own the chunks that the slot does not show as they are, so that what was known
at a past time, or would be without a withdrawn scene, can always be composed again.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.config import Settings
from pipeline.errors import StoreError
from pipeline.quality import Quality
from pipeline.specs import AxisSpec, BandSpec, GridSpec
from pipeline.times import TimeAxis

SCHEMA_VERSION = 2
READABLE = (1, 2)  # 1 had no layers, and one slot's older versions in older snapshots alone
CHUNK = 256  # pixels a side; a slot is written once and whole, so one slot a chunk
QUALITY_CHUNK = 512  # quality is mostly one value: fewer, larger chunks cost next to nothing to read
ROWS_CHUNK = 1024  # scenes a chunk of the scenes table
REFERENCES = 8192  # chunks that a manifest names: one is written anew with every commit
UNKNOWN_TIME = np.iinfo(np.int64).min
NO_LAYER = -1
AS_IN_SLOT = 255  # quality of a layer's pixel that the slot shows as it is; all flags at once mean nothing else


# Settings of a band that say how files are read, and how it is learned: the cube's numbers do not depend on them.
NOT_OF_THE_CUBE = frozenset({"index", "source", "declared", "resampling", "transform"})

# Columns of the scenes table, in few arrays: each array that a commit touches costs it several CPU-ms.
TEXTS = ("source", "tile", "revision", "sha256")
NUMBERS = (
    *("acquired", "available_at", "slot", "superseded", "withdrawn"),
    "flags",  # bits of quality that all its pixels share
    "layer",
    *("y0", "y1", "x0", "x1"),  # the part of the grid that it covers
    "fingerprint",
    *("size", "modified_ns"),  # of the file
)
MEASURES = ("valid_fraction", "low", "middle", "high")  # the last three: 1st, 50th and 99th percentile, DN
TABLE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "texts": (str, TEXTS),
    "numbers": (np.int64, NUMBERS),
    "measures": (np.float64, MEASURES),
}


@dataclass(frozen=True, slots=True)
class BandGroup:
    """Bands that share an array: equal type, scale, offset and fill."""

    name: str
    bands: tuple[BandSpec, ...]

    @property
    def dtype(self) -> np.dtype:
        """Type of the DN."""
        return np.dtype(self.bands[0].dtype)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that fixes the arrays of a cube; kept in its root attributes."""

    product: str
    bands: tuple[BandSpec, ...]
    grid_spec: GridSpec
    axis_spec: AxisSpec

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        """The layout that a configuration asks for."""
        return cls(settings.product.name, settings.bands, settings.grid, settings.axis)

    @property
    def grid(self) -> GeoBox:
        """The cube's grid."""
        return self.grid_spec.geobox()

    @property
    def axis(self) -> TimeAxis:
        """The cube's time axis."""
        return self.axis_spec.axis()

    @property
    def groups(self) -> tuple[BandGroup, ...]:
        """Band groups, named by their type; a second group of a type gets a number."""
        kinds = groupby(sorted(self.bands, key=_kind), key=_kind)
        members = [tuple(bands) for _, bands in kinds]
        names: list[str] = []
        for bands in members:
            same = sum(name.split("-")[0] == bands[0].dtype for name in names)
            names.append(bands[0].dtype if not same else f"{bands[0].dtype}-{same + 1}")
        return tuple(BandGroup(name, bands) for name, bands in zip(names, members, strict=True))

    @property
    def leading(self) -> BandGroup:
        """The band group that the firewall looks at: that of the first forecast band."""
        first = next(band for band in self.bands if band.forecast)
        return next(group for group in self.groups if first in group.bands)

    def to_attributes(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "product": self.product,
            "bands": [band.to_json() for band in self.bands],
            "grid": self.grid_spec.model_dump(mode="json"),
            "axis": self.axis_spec.model_dump(mode="json"),
        }

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> Layout:
        """The inverse of :meth:`to_attributes`."""
        return cls(
            attributes["product"],
            tuple(BandSpec.model_validate(band) for band in attributes["bands"]),
            GridSpec.model_validate(attributes["grid"]),
            AxisSpec.model_validate(attributes["axis"]),
        )


def create(root: zarr.Group, layout: Layout) -> None:
    """Makes the empty arrays of a cube."""
    root.attrs.update({"schema_version": SCHEMA_VERSION, "layout": layout.to_attributes()})
    for group in layout.groups:
        _create_group(root.create_group(group.name), group, layout)
    create_layers(root, layout)
    create_table(root.create_group("scenes"))


def manifest_slots(layout: Layout) -> int:
    """Slots whose chunks share a manifest, so that a commit writes about as many references however old the cube is."""
    chunks = ceil(layout.grid.height / CHUNK) * ceil(layout.grid.width / CHUNK)
    return max(1, min(512, REFERENCES // chunks))


def check(root: zarr.Group, layout: Layout, *, but: frozenset[str] = frozenset()) -> None:
    """Raises StoreError where a cube was made for another layout; settings of bands named in ``but`` do not matter."""
    found = read(root)
    differences = list(_differences("", _kept(layout, but), _kept(found, but)))
    if differences:
        msg = (
            f"a cube keeps the product, bands, grid and axis it was made with, but {'; '.join(differences)}. "
            "Restore the old configuration, or choose another workspace and ingest again"
        )
        raise StoreError(msg)


def _kept(layout: Layout, but: frozenset[str]) -> dict[str, Any]:
    """What a cube keeps of its layout; how the scenes' files are read, and bands learned, may change."""
    attributes = layout.to_attributes()
    other = NOT_OF_THE_CUBE | but
    bands = [{key: value for key, value in band.items() if key not in other} for band in attributes["bands"]]
    return attributes | {"bands": bands}


def _differences(name: str, asked: Any, stored: Any) -> Iterator[str]:
    """Every value that two JSON documents do not share, by its name in the configuration."""
    if isinstance(asked, dict) and isinstance(stored, dict):
        for key in {**asked, **stored}:
            yield from _differences(f"{name}.{key}".lstrip("."), asked.get(key), stored.get(key))
    elif isinstance(asked, list) and isinstance(stored, list) and len(asked) == len(stored):
        for index, pair in enumerate(zip(asked, stored, strict=True)):
            yield from _differences(f"{name}.{index}", *pair)
    elif asked != stored:
        yield f"{name} is {asked!r} in the configuration and {stored!r} in the cube"


def read(root: zarr.Group) -> Layout:
    """The layout that a cube was made with.

    Raises:
        StoreError: no cube of ours, or of a newer schema.
    """
    version = root.attrs.get("schema_version")
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        msg = f"this cubecast reads cubes of schema_version {known}, found {version}: update cubecast"
        raise StoreError(msg)
    return Layout.from_attributes(cast("dict[str, Any]", root.attrs["layout"]))


def _kind(band: BandSpec) -> tuple[str, float, float, str]:
    return band.dtype, band.scale, band.offset, str(band.fill)


def _compressors() -> list[Any]:
    """The checksum makes a flipped bit an error: without it 104 of 120 flips read back as other numbers, silently."""
    return [BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle"), Crc32cCodec()]


def _create_group(arrays: zarr.Group, group: BandGroup, layout: Layout) -> None:
    data, quality = _create_pixels(arrays, group, layout.grid, "time", int(Quality.MISSING))
    data.attrs.update(_data_attributes(group))
    quality.attrs.update(
        {
            "flag_masks": [int(flag) for flag in Quality],
            "flag_meanings": " ".join(str(flag.name).lower() for flag in Quality),
            "grid_mapping": "spatial_ref",
        }
    )
    _create_coordinates(arrays, group, layout.grid)


def create_layers(root: zarr.Group, layout: Layout) -> None:
    """Makes the empty layers of a cube."""
    layers = root.create_group("layers")
    for group in layout.groups:
        _create_pixels(layers.create_group(group.name), group, layout.grid, "layer", AS_IN_SLOT)


def _create_pixels(
    arrays: zarr.Group, group: BandGroup, grid: GeoBox, axis: str, quality_fill: int
) -> tuple[zarr.Array, zarr.Array]:
    """The empty arrays ``data`` and ``quality`` over an axis of slots or layers."""
    data = arrays.create_array(
        "data",
        shape=(0, len(group.bands), *grid.shape),
        chunks=(1, len(group.bands), *_tile(grid, CHUNK)),
        dtype=group.dtype,
        fill_value=group.dtype.type(group.bands[0].fill),
        compressors=_compressors(),
        dimension_names=(axis, "band", "y", "x"),
    )
    quality = arrays.create_array(
        "quality",
        shape=(0, *grid.shape),
        chunks=(1, *_tile(grid, QUALITY_CHUNK)),
        dtype="uint8",
        fill_value=quality_fill,  # a slot without a scene is missing, not good
        compressors=_compressors(),
        dimension_names=(axis, "y", "x"),
    )
    return data, quality


def _tile(grid: GeoBox, side: int) -> tuple[int, int]:
    return min(side, grid.height), min(side, grid.width)


def _data_attributes(group: BandGroup) -> dict[str, Any]:
    band = group.bands[0]
    units = [band.units for band in group.bands]
    fill = group.dtype.type(band.fill).item()
    # xarray keeps a float's fill as base64 of its bytes, because JSON has no NaN
    encoded = base64.b64encode(struct.pack("<d", fill)).decode() if group.dtype.kind == "f" else fill
    attributes = {"_FillValue": encoded, "grid_mapping": "spatial_ref", "band_units": units}
    if band.scale != 1 or band.offset != 0:
        attributes |= {"scale_factor": band.scale, "add_offset": band.offset}
    if any(band.period for band in group.bands):
        attributes["band_cell_methods"] = [_cell_method(band) for band in group.bands]
    return attributes | ({"units": units[0]} if len(set(units)) == 1 else {})


def _cell_method(band: BandSpec) -> str:
    """How a band's value belongs to its time, as CF writes it (CF 1.11, section 7.3)."""
    if band.period is None:
        return "time: point"
    return f"time: sum (interval: {band.period.total_seconds():.0f} s comment: time is the {band.time_labels})"


def _create_coordinates(arrays: zarr.Group, group: BandGroup, grid: GeoBox) -> None:
    unknown: dict[str, Any] = {"fill_value": UNKNOWN_TIME}

    def put(name: str, values: NDArray, chunks: int, **attributes: Any) -> None:
        array = arrays.create_array(
            name,
            shape=values.shape,
            chunks=(max(1, chunks),) * values.ndim,
            dtype=str if values.dtype.kind in "UO" else values.dtype,
            compressors=_compressors() if values.ndim else None,
            dimension_names=(name,) if name not in {"acquired", "spatial_ref"} else ("time",)[: values.ndim],
            **(unknown if name == "acquired" else {}),
        )
        array[...] = values
        array.attrs.update(attributes)

    epoch = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    none = np.empty(0, np.int64)
    put("time", none, 4096, standard_name="time", axis="T", **epoch)
    put(
        "acquired", none, 4096, long_name="exact acquisition time of the slot's scene", _FillValue=UNKNOWN_TIME, **epoch
    )
    put("band", np.array([band.name for band in group.bands], dtype=object), len(group.bands))
    straight = grid.transform.b == grid.transform.d == 0
    for name, axis in (("y", "Y"), ("x", "X")) if straight else ():  # a rotated grid has no y of a row
        values = _pixel_centres(grid, name)
        put(name, values, len(values), axis=axis, **_coordinate_attributes(grid, axis))
    put("spatial_ref", np.array(0, np.int32), 1, **_grid_mapping(grid))
    arrays.attrs.update(_geozarr(grid))


def _pixel_centres(grid: GeoBox, name: str) -> NDArray[np.float64]:
    t = grid.transform
    corner, step, size = (t.f, t.e, grid.height) if name == "y" else (t.c, t.a, grid.width)
    return corner + np.arange(0.5, size, dtype=np.float64) * step


def _coordinate_attributes(grid: GeoBox, axis: str) -> dict[str, str]:
    name, unit = ("latitude", "degrees_north") if axis == "Y" else ("longitude", "degrees_east")
    if grid.crs is not None and grid.crs.geographic:
        return {"standard_name": name, "units": unit}
    metres = grid.crs is not None and grid.crs.units[0] in {"metre", "meter", "m"}
    return {"standard_name": f"projection_{axis.lower()}_coordinate"} | ({"units": "m"} if metres else {})


def _grid_mapping(grid: GeoBox) -> dict[str, Any]:
    """CF grid mapping, with the WKT and the transform as GDAL and rioxarray read them."""
    wkt = _wkt(grid)
    t = grid.transform
    return {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": f"{t.c!r} {t.a!r} {t.b!r} {t.f!r} {t.d!r} {t.e!r}"}


def _geozarr(grid: GeoBox) -> dict[str, Any]:
    epsg = grid.crs.epsg if grid.crs is not None else None
    code = {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": _wkt(grid)}
    return code | {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(grid.transform)[:6],
        "spatial:shape": list(grid.shape),
    }


def _wkt(grid: GeoBox) -> str:
    if grid.crs is None:
        msg = "a cube's grid has a CRS"
        raise StoreError(msg)
    return grid.crs.to_wkt()


def create_table(table: zarr.Group) -> None:
    """Makes the empty scenes table; the attribute ``columns`` names what stands in each array."""
    for name, (dtype, columns) in TABLE.items():
        array = table.create_array(
            name,
            shape=(0, len(columns)),
            chunks=(ROWS_CHUNK, len(columns)),
            dtype=dtype,
            compressors=_compressors(),
            dimension_names=("scene", f"{name}_column"),
        )
        array.attrs["columns"] = list(columns)
