"""What is wrong with a pixel: bit flags of the cube's quality array, and how they are set."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from pipeline.specs import BandSpec


class Quality(IntFlag):
    """Bits of the quality array; 0 is a good pixel. Names become CF ``flag_meanings``."""

    MISSING = 1
    """No band has a value (nodata, NaN, or no scene at all)."""
    MASKED = 2
    """The scene's mask (cloud, shadow) covers it, or a rule of the firewall takes it out."""
    OUT_OF_RANGE = 4
    """A band's value lies outside its physical range; the value is kept."""
    SATURATED = 8
    """A band's value is the sensor's largest; usable unless MASKED as well."""
    LOST = 16
    """It lies in a block or line that was lost on the way: zeros, or one value, where no tag declares nodata."""
    STUCK = 32
    """Its scene repeats an earlier one (a property of the whole scene)."""
    LEVEL = 64
    """Its scene is shifted against the scenes before it (a property of the whole scene)."""
    NIGHT = 128
    """The sun is below the horizon and a band is visible light; usable unless MASKED as well."""


HIDING = Quality.MISSING | Quality.MASKED | Quality.OUT_OF_RANGE | Quality.LOST | Quality.STUCK | Quality.LEVEL
"""Bits that make a pixel unusable."""

OF_THE_SCENE = Quality.STUCK | Quality.LEVEL
"""Bits that all pixels of a scene share; which they are depends on the other scenes of the cube."""


def unusable(quality: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a pixel must not be used. Same shape."""
    return (quality & np.uint8(HIDING)) != 0


def missing(data: NDArray, band: BandSpec) -> NDArray[np.bool_]:
    """Where a band has no value: NaN, infinity, its nodata, or the cube's fill. Same shape as ``data``, in DN."""
    absent = np.zeros(data.shape, bool)
    if np.issubdtype(data.dtype, np.floating):
        absent |= ~np.isfinite(data)
    if not np.isnan(band.fill):
        absent |= data == data.dtype.type(band.fill)
    return absent


def flags(data: NDArray, bands: Sequence[BandSpec], masked: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Quality of each pixel.

    Args:
        data: ``(band, y, x)``, DN.
        bands: what each band of ``data`` means.
        masked: ``(y, x)``, True where the scene's mask makes the pixel unusable.

    Returns:
        ``(y, x)``, bits of :class:`Quality`.
    """
    result = np.zeros(data.shape[1:], np.uint8)
    absent = np.stack([missing(layer, band) for layer, band in zip(data, bands, strict=True)])
    result[absent.all(axis=0)] |= np.uint8(Quality.MISSING)
    for layer, band, gone in zip(data, bands, absent, strict=True):
        result[_out_of_range(layer, band) & ~gone] |= np.uint8(Quality.OUT_OF_RANGE)
    if masked is not None:
        result[masked] |= np.uint8(Quality.MASKED)
    return result


def _out_of_range(layer: NDArray, band: BandSpec) -> NDArray[np.bool_]:
    if band.valid_min is None and band.valid_max is None:
        return np.zeros(layer.shape, bool)
    physical = layer.astype(np.float64) * band.scale + band.offset
    low = -np.inf if band.valid_min is None else band.valid_min
    high = np.inf if band.valid_max is None else band.valid_max
    slack = abs(band.scale) * 1e-6  # 0.1 * 3 is not 0.3
    return (physical < low - slack) | (physical > high + slack)
