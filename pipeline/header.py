"""What a scene says about itself without its pixels."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from rasterio.errors import CRSError, NotGeoreferencedWarning
from rasterio.io import DatasetReader

from pipeline.errors import SceneError
from pipeline.scene import open_geotiff
from pipeline.specs import BandSpec

DTYPES = get_args(BandSpec.model_fields["dtype"].annotation)
TEXT_ITEM = re.compile(r'<Item name="([^"]{1,80})"([^>]{0,200})>([^<]{0,200})</Item>')
UNIT = re.compile(r'unit="([^"]+)"')


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it becomes grid=None
        with open_geotiff(path) as dataset:
            bands, left_out = _bands(dataset)
            return Header(path, _grid(dataset), bands, left_out, dataset.tags())


def _grid(dataset: DatasetReader) -> Placement | None:
    try:
        crs = dataset.crs
    except CRSError as error:
        raise SceneError("unreadable", f"its CRS cannot be read: {error}") from None
    if not crs or dataset.transform.is_identity:
        return None
    return Placement(crs.to_wkt(), tuple(dataset.transform)[:6], dataset.shape)


def _bands(dataset: DatasetReader) -> tuple[tuple[BandSpec, ...], tuple[str, ...]]:
    numbered = list(zip(dataset.indexes, dataset.dtypes, strict=True))
    kept = [_band(dataset, index) for index, dtype in numbered if dtype in DTYPES]
    return _distinct(kept), tuple(f"band {index} ({dtype})" for index, dtype in numbered if dtype not in DTYPES)


def _band(dataset: DatasetReader, index: int) -> BandSpec:
    """A band by its header, and where that is silent by text tags (an FMI composite has its nodata only there)."""
    at = index - 1
    said = _said(dataset.tags() | dataset.tags(index))
    scale, offset, nodata = dataset.scales[at], dataset.offsets[at], dataset.nodatavals[at]
    if (scale, offset) == (1, 0):
        scale, offset = said.get("scale") or 1.0, said.get("offset", 0.0)
    fields = {
        "name": word(dataset.descriptions[at] or "") or f"band_{index}",
        "index": index,
        "dtype": dataset.dtypes[at],
        "units": dataset.units[at] or said.get("units", "1"),
        "scale": scale,
        "offset": offset,
    }
    return _with_nodata(fields, said.get("nodata") if nodata is None else nodata)


def _with_nodata(fields: dict[str, Any], nodata: float | None) -> BandSpec:
    try:
        return BandSpec.model_validate(fields | {"nodata": nodata})
    except ValidationError:
        return BandSpec.model_validate(fields)  # a nodata that no pixel of this type can have


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
