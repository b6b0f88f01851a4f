"""What stands in the two GeoTIFFs of a lead: the forecast itself, and where each of its pixels comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.chances import PROBABILITY, Chance, chances, probabilities, stored
from pipeline.document import iso
from pipeline.predictor import Forecast, Source, level
from pipeline.quality import dn_range
from pipeline.raster import Overviews, RasterBand, encode
from pipeline.specs import INTEGER_TYPES, BandSpec, Resolution

UNKNOWN = 65535  # nodata of the quality file
FINE = 16  # steps of a fine forecast in one DN of the scenes: its rounding is 1/16 of theirs, and below any error
ROOMS = ("uint16", "int16", "uint32", "int32")  # for fine steps, the first that holds them


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The content of one GeoTIFF.

    Attributes:
        data: ``(band, y, x)``, DN.
        bands: one for each layer.
        nodata: DN of a missing pixel.
        overviews: how its overviews are made.
    """

    data: NDArray
    bands: tuple[RasterBand, ...]
    nodata: float
    overviews: Overviews


def stored_bands(bands: tuple[BandSpec, ...], resolution: Resolution) -> tuple[BandSpec, ...]:
    """The bands as the files of a forecast store them: one type and one nodata, which is all that a GeoTIFF can have.

    ``scenes``: as the scenes do, or as physical float32 where their types or fills differ. ``fine``: integers as
    integers of 1/16 of the scale, in 16 bits where these hold the range of every band, else in 32. Rounded to the DN
    of the scenes, 0.12 mm/h is the least rain of a composite that counts 0.01 mm in 5 minutes.
    """
    finer = _finer(bands) if resolution == "fine" else None
    if finer is not None:
        return finer
    kinds = {(band.dtype, repr(band.fill)) for band in bands}  # repr: NaN equals no NaN
    if len(kinds) == 1:
        return bands
    plain = {"dtype": "float32", "nodata": None, "scale": 1.0, "offset": 0.0}
    return tuple(band.model_copy(update=plain) for band in bands)


def _finer(bands: tuple[BandSpec, ...]) -> tuple[BandSpec, ...] | None:
    """None where a band is of floats, or no type holds them all."""
    if any(band.dtype not in INTEGER_TYPES for band in bands):
        return None
    ends = np.array([_ends(band) for band in bands], np.float64) * FINE
    fitting = (dtype for dtype in ROOMS if _holds(dtype, ends.min(), ends.max()))
    dtype = next(fitting, None)
    if dtype is None:
        return None
    scenes_only = {"nodata": None, "special": (), "saturated": None, "declared": None}  # they are DN of the scenes
    return tuple(band.model_copy(update={**scenes_only, "dtype": dtype, "scale": band.scale / FINE}) for band in bands)


def _ends(band: BandSpec) -> tuple[float, float]:
    """Smallest and largest DN of the scenes: of what is possible, or of their type."""
    low, high = dn_range(band)
    info = np.iinfo(band.dtype)
    return (info.min if low is None else low), (info.max if high is None else high)


def _holds(dtype: str, low: float, high: float) -> bool:
    """Whether a type has room from low to high and for its fill, the end at which :attr:`BandSpec.fill` puts it."""
    info = np.iinfo(dtype)
    return info.min + (info.min < 0) <= low and high <= info.max - (info.min == 0)


def value_sheet(
    forecast: Forecast, lead: int, bands: tuple[BandSpec, ...], thresholds: Mapping[str, Sequence[float]] | None = None
) -> Sheet:
    """The forecast of one lead: for each quantity, every cube band; then the probabilities of events.

    A band is called ``mean``, ``q10`` and so on where the cube has one band, else ``NAME_mean``.

    Args:
        forecast: of one init time.
        lead: index along the lead axis, from 0.
        bands: how each cube band is stored; one type and one fill.
        thresholds: by band, whose probabilities stand behind the quantities; a forecast without quantiles has none.
    """
    pairs = [(q, quantity, b, band) for q, quantity in enumerate(forecast.quantities) for b, band in enumerate(bands)]
    layers = [encode(forecast.values[0, lead, q, :, :, b], band) for q, _, b, band in pairs]
    described = [_value_band(band, quantity, alone=len(bands) == 1) for _, quantity, _, band in pairs]
    asked, said = thresholds or {}, forecast.values[0, lead]
    layers += [encode(one, stored(bands[0])) for one in probabilities(said, forecast.quantities, bands, asked)]
    described += _chance_bands(bands, chances(bands, asked, forecast.quantities))
    return Sheet(np.stack(layers), tuple(described), bands[0].fill, "average")


def quality_sheet(forecast: Forecast, lead: int, cadence: timedelta) -> Sheet:
    """Rung of the ladder and age of the newest input (minutes, of an input after the init time 0) behind each pixel.

    Args:
        forecast: of one init time.
        lead: index along the lead axis, from 0.
        cadence: one slot, the unit of the forecast's ages.
    """
    age = forecast.age[0, lead] * (cadence / timedelta(minutes=1))
    stored = np.where(np.isnan(age), UNKNOWN, np.clip(np.rint(age), 0, UNKNOWN - 1))
    data = np.stack([forecast.source[0, lead], stored]).astype(np.uint16)
    meanings = {
        "flag_values": " ".join(str(source.value) for source in Source),
        "flag_meanings": " ".join(source.name.lower() for source in Source),
    }
    return Sheet(data, (RasterBand("source", tags=meanings), RasterBand("input_age", "min")), UNKNOWN, "nearest")


def _value_band(band: BandSpec, quantity: str, *, alone: bool) -> RasterBand:
    name = quantity if alone else f"{band.name}_{quantity}"
    tags = {"cube_band": band.name, "quantity": quantity}
    probability = level(quantity)
    if probability is not None:
        tags["probability"] = f"{probability:g}"  # with which the truth is not above it
    return RasterBand(name, band.units, band.scale, band.offset, tags | _period(band))


def _chance_bands(bands: tuple[BandSpec, ...], asked: Sequence[Chance]) -> Iterator[RasterBand]:
    about, own = stored(bands[0]), {band.name: band for band in bands}
    for one in asked:
        tags = {"cube_band": one.band, "quantity": PROBABILITY}
        event = {"threshold": one.number, "unit": one.unit, "event": one.sign}
        name = one.name(alone=len(bands) == 1)
        yield RasterBand(name, about.units, about.scale, about.offset, tags | event | _period(own[one.band]))


def _period(band: BandSpec) -> dict[str, str]:
    """Of accumulations, tags that say over how long."""
    return {} if band.period is None else {"period": iso(band.period), "time_labels": band.time_labels}
