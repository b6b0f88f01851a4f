"""What a scene says about itself without its pixels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from affine import Affine
from pydantic import ValidationError
from rasterio.enums import ColorInterp

from pipeline.geotiff import Facts, FileBand, describe, open_geotiff
from pipeline.specs import BandSpec

DTYPES = get_args(BandSpec.model_fields["dtype"].annotation)
TEXT_ITEM = re.compile(r'<Item name="([^"]{1,80})"([^>]{0,200})>([^<]{0,200})</Item>')
CATEGORIES = re.compile(r"(^|_)(b?qa|f?mask|scl|flags?|quality|class\w*|categor\w*)(_|$)", re.IGNORECASE)
ACCUMULATED = re.compile(r"\b(\d{1,3})[ -]?(min|h)(?:ute|our)?s?[ -]accumulat", re.IGNORECASE)
UNIT = re.compile(r'unit="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares of a band, in its header or, where that is silent, in text tags.

    Attributes:
        scale: DN to unit, 1 where nothing is declared.
        offset: DN to unit, 0 where nothing is declared.
        nodata: DN of a missing pixel.
        units: 1 where nothing is declared.
    """

    scale: float
    offset: float
    nodata: float | None
    units: str


@dataclass(frozen=True, slots=True)
class Placement:
    """A grid as a file declares it: CRS as WKT, affine ``(a, b, c, d, e, f)``, shape ``(height, width)``."""

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Header:
    """What a scene says about itself without its pixels.

    Attributes:
        path: the file.
        grid: None where the scene is not georeferenced.
        bands: as the file declares them, also in text tags.
        left_out: bands of a type that no cube holds.
        tags: of the whole file.
    """

    path: Path
    grid: Placement | None
    bands: tuple[BandSpec, ...]
    left_out: tuple[str, ...]
    tags: dict[str, str]


def read_header(path: Path) -> Header:
    """What a scene says about itself without its pixels.

    Raises:
        SceneError: ``unreadable``.
    """
    with open_geotiff(path) as dataset:
        own = describe(dataset)
        kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
        coloured = {index for index, kind in kinds if kind is ColorInterp.palette}  # names, not amounts
    numbered = list(enumerate(own.bands, 1))
    kept = [_band(own, index, nearest=index in coloured) for index, band in numbered if band.dtype in DTYPES]
    left_out = tuple(f"band {index} ({band.dtype})" for index, band in numbered if band.dtype not in DTYPES)
    return Header(path, _grid(own), _distinct(kept), left_out, own.tags)


def _grid(own: Facts) -> Placement | None:
    if not own.crs or own.ground_points or Affine(*own.transform).is_identity:
        return None
    return Placement(own.crs, own.transform, (own.height, own.width))


def _band(own: Facts, index: int, *, nearest: bool) -> BandSpec:
    band = own.bands[index - 1]
    said = declaration(band, own.tags)
    name = word(band.description) or f"band_{index}"
    scaling = (said.scale, said.offset)
    fields = {
        "name": name,
        "index": index,
        "dtype": band.dtype,
        "units": said.units,
        "scale": said.scale,
        "offset": said.offset,
        "declared": None if scaling == (1, 0) else scaling,
        "period": _period(own.tags.get("quantity", "")),
    }
    if nearest or categorical(name):
        fields["resampling"] = "nearest"
    return _with_nodata(fields, said.nodata)


def _period(text: str) -> timedelta | None:
    """How long values were summed up, where a text says it: 5-minute accumulated precipitation."""
    found = ACCUMULATED.search(text)
    if found is None:
        return None
    return int(found[1]) * (timedelta(minutes=1) if found[2].lower() == "min" else timedelta(hours=1)) or None


def categorical(name: str) -> bool:
    """Whether a band's name says that its values are categories or bits, between which there is nothing.

    >>> [categorical(name) for name in ("BQA", "QA_PIXEL", "SCL", "cloud_mask", "cloud_probability", "B4")]
    [True, True, True, True, False, False]
    """
    return CATEGORIES.search(name) is not None


def _with_nodata(fields: dict[str, Any], nodata: float | None) -> BandSpec:
    try:
        return BandSpec.model_validate(fields | {"nodata": nodata})
    except ValidationError:
        return BandSpec.model_validate(fields)  # a nodata that no pixel of this type can have


def declaration(band: FileBand, tags: Mapping[str, str]) -> Declaration:
    """What a file declares of a band; an FMI composite has its nodata only in text.

    Args:
        band: as its header has it.
        tags: of the whole file.
    """
    said = _said({**tags, **band.tags})
    scaling = {"scale": band.scale, "offset": band.offset}
    if scaling == {"scale": 1, "offset": 0}:
        scaling = {"scale": said.get("scale") or 1.0, "offset": said.get("offset", 0.0)}
    nodata = said.get("nodata") if band.nodata is None else band.nodata
    return Declaration(**scaling, nodata=nodata, units=band.units or said.get("units", "1"))


def _said(tags: Mapping[str, str]) -> dict[str, Any]:
    """Scale, offset, nodata and units where they stand in text tags only."""
    items = TEXT_ITEM.findall(tags.get("GDAL_METADATA", ""))
    texts = {key.lower(): value for key, value in tags.items()} | {name.lower(): text for name, _, text in items}
    units = {unit for _, attributes, _ in items for unit in UNIT.findall(attributes)}
    said = {
        "nodata": _number(texts, ("nodata", "_fillvalue", "missing_value")),
        "scale": _number(texts, ("gain", "scale_factor")),
        "offset": _number(texts, ("offset", "add_offset")),
        "units": texts.get("units") or texts.get("unit") or (units.pop() if len(units) == 1 else None),
    }
    return {key: value for key, value in said.items() if value is not None}


def _number(texts: Mapping[str, str], names: Iterable[str]) -> float | None:
    text = next((texts[name] for name in names if name in texts), "")
    try:
        return float(text)
    except ValueError:
        return None


def _distinct(bands: Sequence[BandSpec]) -> tuple[BandSpec, ...]:
    counts = Counter(band.name for band in bands)
    names = (f"{band.name}_{band.index}" if counts[band.name] > 1 else band.name for band in bands)
    return tuple(band.model_copy(update={"name": name}) for band, name in zip(bands, names, strict=True))


def word(text: str) -> str:
    """A text as a band may be called.

    >>> word("cloud probability (%)")
    'cloud_probability'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")
