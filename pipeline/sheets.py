"""What stands in the two GeoTIFFs of a lead: the forecast itself, and where each of its pixels comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.document import iso
from pipeline.predictor import Forecast, Source
from pipeline.raster import Overviews, RasterBand, encode
from pipeline.specs import BandSpec

UNKNOWN = 65535  # nodata of the quality file


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


def value_sheet(forecast: Forecast, lead: int, bands: tuple[BandSpec, ...]) -> Sheet:
    """The forecast of one lead: for each quantity, every cube band.

    Args:
        forecast: of one init time.
        lead: index along the lead axis, from 0.
        bands: how each cube band is stored; one type and one fill.
    """
    pairs = [(q, quantity, b, band) for q, quantity in enumerate(forecast.quantities) for b, band in enumerate(bands)]
    data = np.stack([encode(forecast.values[0, lead, q, :, :, b], band) for q, _, b, band in pairs])
    described = tuple(_value_band(band, quantity, alone=len(bands) == 1) for _, quantity, _, band in pairs)
    return Sheet(data, described, bands[0].fill, "average")


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
    if band.period is not None:
        tags |= {"period": iso(band.period), "time_labels": band.time_labels}
    return RasterBand(name, band.units, band.scale, band.offset, tags)
