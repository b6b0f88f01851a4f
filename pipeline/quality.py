"""What is wrong with a pixel: bit flags of the cube's quality array, and how they are set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntFlag
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from pipeline.specs import INTEGER_TYPES, BandSpec, FirewallSpec

FIREWALL = FirewallSpec()
STRIP = 1 << 17  # px whose temporary arrays stay in the cache: 0.04 CPU-s instead of 0.11 for 134 MB and two limits
SLACK = 1e-6  # DN; 0.1 * 3 is not 0.3


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
    absent = np.zeros(data.shape, bool) if np.isnan(band.fill) else data == data.dtype.type(band.fill)
    return absent | ~np.isfinite(data) if np.issubdtype(data.dtype, np.floating) else absent


def flags(
    data: NDArray,
    bands: Sequence[BandSpec],
    masked: NDArray[np.bool_] | None = None,
    *,
    night: NDArray[np.bool_] | None = None,
    firewall: FirewallSpec = FIREWALL,
) -> NDArray[np.uint8]:
    """Quality of each pixel, as far as the pixel alone tells it.

    Args:
        data: ``(band, y, x)``, DN; the bands' special DN are their fill already.
        bands: what each band of ``data`` means.
        masked: ``(y, x)``, True where the scene's mask makes the pixel unusable.
        night: ``(y, x)``, True where the sun is below the horizon; for bands of visible light.
        firewall: its rules for saturation and night, of which ``mask`` sets MASKED as well.

    Returns:
        ``(y, x)``, bits of :class:`Quality`.
    """
    result = np.zeros(data.shape[1:], np.uint8)
    step = max(1, STRIP // max(1, data.shape[2]))
    for start in range(0, data.shape[1], step):
        rows = slice(start, start + step)
        _flag(result[rows], list(zip(data[:, rows], bands, strict=True)), firewall.saturation)
    if firewall.night != "off":
        _mark(result, night, _bits(Quality.NIGHT, firewall.night))
    _mark(result, masked, Quality.MASKED)
    return result


def _flag(quality: NDArray[np.uint8], layers: Sequence[tuple[NDArray, BandSpec]], saturation: str) -> None:
    _mark(quality, _absent_from_all(layers), Quality.MISSING)
    for layer, band in layers:
        _mark(quality, _out_of_range(layer, band), Quality.OUT_OF_RANGE)
        if saturation != "off":
            _mark(quality, _saturated(layer, band), _bits(Quality.SATURATED, saturation))


def dn_range(band: BandSpec) -> tuple[float | None, float | None]:
    """Smallest and largest DN within ``valid_min`` and ``valid_max``; None where no DN of the band's type lies outside.

    >>> dn_range(BandSpec(name="rain", dtype="uint8", scale=0.1, valid_min=0.0, valid_max=20))
    (None, 200)
    """
    ends = [None if end is None else (end - band.offset) / band.scale for end in (band.valid_min, band.valid_max)]
    low, high = ends if band.scale > 0 else reversed(ends)
    low, high = None if low is None else low - SLACK, None if high is None else high + SLACK
    if band.dtype not in INTEGER_TYPES:
        return low, high
    info = np.iinfo(band.dtype)
    return (
        None if low is None or low <= info.min else ceil(low),
        None if high is None or high >= info.max else floor(high),
    )


def _mark(quality: NDArray[np.uint8], where: NDArray[np.bool_] | None, bits: Quality) -> None:
    if where is not None:
        quality |= where.view(np.uint8) * np.uint8(bits)


def _bits(bit: Quality, rule: str) -> Quality:
    return bit | Quality.MASKED if rule == "mask" else bit


def _absent_from_all(layers: Iterable[tuple[NDArray, BandSpec]]) -> NDArray[np.bool_] | None:
    """Where no band has a value; None where there is no such pixel, which mostly the first band tells."""
    absent = None
    for layer, band in layers:
        gone = missing(layer, band)
        absent = gone if absent is None else absent & gone
        if not absent.any():
            return None
    return absent


def _out_of_range(layer: NDArray, band: BandSpec) -> NDArray[np.bool_] | None:
    """Where a value lies outside the band's range; None where there is no such pixel."""
    low, high = dn_range(band)
    below = None if low is None else layer < low
    above = None if high is None else layer > high
    outside = above if below is None else below if above is None else below | above
    return None if outside is None or not outside.any() else outside & ~missing(layer, band)


def _saturated(layer: NDArray, band: BandSpec) -> NDArray[np.bool_] | None:
    """Where a value is at the sensor's upper end; None where there is no such pixel."""
    start = band.saturated
    if start is None and band.dtype in INTEGER_TYPES:
        largest = float(np.iinfo(band.dtype).max)
        start = None if band.fill == largest else largest
    if start is None or not (np.fmax.reduce(layer, axis=None) >= start):
        return None
    return (layer >= start) & ~missing(layer, band)
