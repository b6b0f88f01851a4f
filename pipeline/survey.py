"""What the windows of a scene show of the whole, in a form that adds up: counts, zeros, rows, levels, fingerprint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.quality import FIREWALL, STRIP, Quality, missing, unusable
from pipeline.specs import BandSpec, FirewallSpec

CELL = 16  # px; the blocks of a TIFF are multiples of it
LATTICE = 1 << 17  # px of a scene that percentiles and fingerprint look at, at most
DARK = Quality.MISSING | Quality.NIGHT
NOTHING_FELL = re.compile(r"dBZ|mm(\W.*)?|kg\W*m\W*2(\W.*)?", re.IGNORECASE)


def zeros_are_values(bands: Sequence[BandSpec], spec: FirewallSpec) -> bool:
    """Whether a DN of 0 is a measurement, unless ``spec`` says it: of rain, reflectivity or categories.

    >>> zeros_are_values([BandSpec(name="rain", dtype="uint8", units="mm h-1")], FirewallSpec())
    True
    """
    if spec.zeros_are_values is not None:
        return spec.zeros_are_values
    return any(_has_zeros(band) for band in bands if band.forecast)


def _has_zeros(band: BandSpec) -> bool:
    category = band.resampling in {"nearest", "mode"}
    return category or band.floor is not None or NOTHING_FELL.fullmatch(band.units.strip()) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a scene's leading band, over pixels that have a value and are not at night.

    Attributes:
        valid: how many such pixels.
        least: their smallest DN; the type's largest where there is none.
        most: their largest DN; the type's smallest where there is none.
    """

    valid: NDArray[np.int64]
    least: NDArray
    most: NDArray

    def merged(self, other: Self) -> Self:
        """The rows of both parts of a scene."""
        least, most = np.minimum(self.least, other.least), np.maximum(self.most, other.most)
        return type(self)(self.valid + other.valid, least, most)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What windows of a scene show of the whole; those of all its windows merge into one, in any order.

    Attributes:
        place: the scene in the cube's grid.
        pixels: how many.
        missing: how many of them have no value.
        usable: how many have no bit that hides them.
        out_of_range: how many have that bit.
        lit: how many have a value and are not at night.
        zero: how many of these are 0 in all bands; none where zeros are values.
        zeros: the same by the cells of the grid that the scene touches, ``(row, column)``; None: there is none.
        rows: what its rows hold.
        sample: usable DN of the leading band on the lattice, in no order.
        fingerprint: sum over bands and lattice, modulo 2^64.
    """

    place: Window
    pixels: int
    missing: int
    usable: int
    out_of_range: int
    lit: int
    zero: int
    zeros: NDArray[np.uint16] | None
    rows: Rows
    sample: NDArray
    fingerprint: int

    @classmethod
    def of(
        cls,
        data: NDArray,
        quality: NDArray[np.uint8],
        bands: Sequence[BandSpec],
        *,
        window: Window,
        place: Window,
        spec: FirewallSpec = FIREWALL,
    ) -> Self:
        """The survey of one window. The leading band is the first that is forecast.

        Args:
            data: ``(band, y, x)``, DN.
            quality: ``(y, x)``, from :func:`pipeline.quality.flags`.
            bands: what each band of ``data`` means.
            window: where ``data`` lies in the cube's grid.
            place: where the whole scene lies in the cube's grid.
            spec: whether zeros are values.
        """
        zero = _zero(data, quality, bands, spec)
        lead, step = leading(bands), lattice_step(place.shape)
        nodes = (slice(-window.y0 % step, None, step), slice(-window.x0 % step, None, step))
        return cls(
            place=place,
            pixels=quality.size,
            missing=_count(quality, Quality.MISSING),
            usable=quality.size - (int(np.count_nonzero(unusable(quality))) if quality.any() else 0),
            out_of_range=_count(quality, Quality.OUT_OF_RANGE),
            lit=quality.size - _count(quality, DARK),
            zero=0 if zero is None else int(np.count_nonzero(zero)),
            zeros=None if zero is None else _by_cell(zero, window, place),
            rows=_rows(data[lead], quality, bands[lead], window=window, place=place),
            sample=_usable(data[lead][nodes], quality[nodes], bands[lead]),
            fingerprint=_fingerprint(data[:, *nodes], bands, window, step),
        )

    def merged(self, other: Self) -> Self:
        """The survey of both parts of a scene, which do not overlap."""
        if self.place != other.place:
            msg = f"parts of one scene lie in one place, found {self.place} and {other.place}"
            raise ValueError(msg)
        both = [zeros for zeros in (self.zeros, other.zeros) if zeros is not None]
        return type(self)(
            place=self.place,
            pixels=self.pixels + other.pixels,
            missing=self.missing + other.missing,
            usable=self.usable + other.usable,
            out_of_range=self.out_of_range + other.out_of_range,
            lit=self.lit + other.lit,
            zero=self.zero + other.zero,
            zeros=sum(both[1:], both[0]) if both else None,
            rows=self.rows.merged(other.rows),
            sample=np.concatenate([self.sample, other.sample]),
            fingerprint=(self.fingerprint + other.fingerprint) % 2**64,
        )


def leading(bands: Sequence[BandSpec]) -> int:
    """Index of the first band that is forecast, otherwise 0."""
    return next((index for index, band in enumerate(bands) if band.forecast), 0)


def lattice_step(shape: tuple[int, int]) -> int:
    """Every how many-th row and column of the grid belongs to the lattice of a scene of ``shape``.

    >>> lattice_step((891, 1843)), lattice_step((10980, 10980))
    (4, 31)
    """
    return max(1, ceil(sqrt(shape[0] * shape[1] / LATTICE)))


def _count(quality: NDArray[np.uint8], bits: Quality) -> int:
    return int(np.count_nonzero(quality & np.uint8(bits)))


def _zero(
    data: NDArray, quality: NDArray[np.uint8], bands: Sequence[BandSpec], spec: FirewallSpec
) -> NDArray[np.bool_] | None:
    """Where all bands are 0 by day; None where there is no such pixel, or zeros are values or nodata."""
    if zeros_are_values(bands, spec) or any(band.fill == 0 for band in bands):
        return None
    zero = data[0] == 0
    for layer in data[1:]:
        if not zero.any():
            return None
        zero &= layer == 0
    zero &= (quality & np.uint8(DARK)) == 0
    return zero if zero.any() else None


def _by_cell(zero: NDArray[np.bool_], window: Window, place: Window) -> NDArray[np.uint16]:
    """Counts in the cells that ``place`` touches; ``(row, column)``."""
    y0, x0 = window.y0 // CELL, window.x0 // CELL
    rows, columns = ceil(window.y1 / CELL) - y0, ceil(window.x1 / CELL) - x0
    padded = np.zeros((rows, CELL, columns * CELL), np.uint8)
    top, left = window.y0 % CELL, window.x0 % CELL
    padded.reshape(rows * CELL, -1)[top : top + zero.shape[0], left : left + zero.shape[1]] = zero
    strips = padded.sum(axis=1, dtype=np.uint8).reshape(rows, columns, CELL)  # neighbours in memory are added: fast
    result = np.zeros([len(edges) - 1 for edges in cell_edges(place)], np.uint16)
    y, x = y0 - place.y0 // CELL, x0 - place.x0 // CELL
    result[y : y + rows, x : x + columns] = strips.sum(axis=2, dtype=np.uint16)
    return result


def cell_edges(place: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the cells that a scene touches begin and end in it: rows and columns of the grid."""
    rows = CELL * np.arange(place.y0 // CELL, ceil(place.y1 / CELL) + 1)
    columns = CELL * np.arange(place.x0 // CELL, ceil(place.x1 / CELL) + 1)
    return rows.clip(place.y0, place.y1), columns.clip(place.x0, place.x1)


def _rows(layer: NDArray, quality: NDArray[np.uint8], band: BandSpec, *, window: Window, place: Window) -> Rows:
    info = np.finfo(layer.dtype) if np.issubdtype(layer.dtype, np.floating) else np.iinfo(layer.dtype)
    height = place.shape[0]
    valid, least = np.zeros(height, np.int64), np.full(height, info.max, layer.dtype)
    most = np.full(height, info.min, layer.dtype)
    step = max(1, STRIP // max(1, layer.shape[1]))
    for start in range(0, layer.shape[0], step):
        part = slice(start, start + step)
        dark = missing(layer[part], band) | ((quality[part] & np.uint8(Quality.NIGHT)) != 0)
        whole = not dark.any()
        to = slice(window.y0 - place.y0 + start, window.y0 - place.y0 + start + len(dark))
        valid[to] = dark.shape[1] if whole else dark.shape[1] - np.count_nonzero(dark, axis=1)
        least[to] = (layer[part] if whole else np.where(dark, least[0], layer[part])).min(axis=1)
        most[to] = (layer[part] if whole else np.where(dark, most[0], layer[part])).max(axis=1)
    return Rows(valid, least, most)


def _usable(layer: NDArray, quality: NDArray[np.uint8], band: BandSpec) -> NDArray:
    return layer[~unusable(quality) & ~missing(layer, band)]


def _fingerprint(nodes: NDArray, bands: Sequence[BandSpec], window: Window, step: int) -> int:
    """Sum of value x weight of its row x of its column x of its band, modulo 2^64; a missing value adds nothing."""
    rows = _weights(np.arange(nodes.shape[1]) + ceil(window.y0 / step), 1)
    columns = _weights(np.arange(nodes.shape[2]) + ceil(window.x0 / step), 2)
    total = 0
    for layer, band, weight in zip(nodes, bands, _weights(np.arange(len(bands)), 3).tolist(), strict=True):
        floats = np.issubdtype(layer.dtype, np.floating)
        bits = np.ascontiguousarray(layer).view(f"u{layer.itemsize}") if floats else layer
        values = np.where(missing(layer, band), np.uint64(0), bits.astype(np.uint64) + np.uint64(1))
        total += int((((values * columns).sum(axis=1)) * rows).sum()) * weight
    return total % 2**64


def _weights(index: NDArray[np.int64], salt: int) -> NDArray[np.uint64]:
    """An odd number for each index: splitmix64 (Steele, Lea and Flood 2014), so that each value's bits all count."""
    state = (index.astype(np.uint64) + np.uint64(salt << 32)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
