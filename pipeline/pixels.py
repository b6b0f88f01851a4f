"""What is asked of a file's pixels, and its own pixels as the answer: missing ones are fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window


@dataclass(frozen=True, slots=True)
class BandRequest:
    """One band to read.

    Attributes:
        index: its number in the file, from 1.
        fill: DN that a missing pixel gets.
        missing: other DN that mean "no value"; what the file declares is known without.
        resampling: name of a :class:`rasterio.enums.Resampling`, for warping.
    """

    index: int
    fill: float
    missing: tuple[float, ...] = ()
    resampling: str = "nearest"


@dataclass(frozen=True, slots=True)
class Target:
    """A grid that pixels are warped onto.

    Attributes:
        crs: authority code or WKT.
        transform: ``(a, b, c, d, e, f)`` from columns and rows to coordinates.
        shape: rows and columns.
    """

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]

    def part(self, y: int, x: int, size: int) -> Target:
        """The piece of at most ``size`` pixels a side whose first pixel is ``(y, x)``."""
        moved = Affine(*self.transform) @ Affine.translation(x, y)
        shape = (min(size, self.shape[0] - y), min(size, self.shape[1] - x))
        return Target(self.crs, tuple(moved)[:6], shape)


@dataclass(frozen=True, slots=True)
class Request:
    """A window of some bands of one type.

    Attributes:
        path: the file.
        bands: in the order of the result.
        dtype: type of the DN of all of them.
        window: ``(y0, y1, x0, x1)``, in pixels of the file, or of the target where there is one.
        target: the grid to warp onto; None for the file's own pixels.
    """

    path: Path
    bands: tuple[BandRequest, ...]
    dtype: str
    window: tuple[int, int, int, int]
    target: Target | None = None

    def __post_init__(self) -> None:
        y0, y1, x0, x1 = self.window
        if not (0 <= y0 < y1 and 0 <= x0 < x1):
            msg = f"a window is (y0, y1, x0, x1) of at least one pixel, found {self.window}"
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(band, y, x)`` of the result."""
        y0, y1, x0, x1 = self.window
        return len(self.bands), y1 - y0, x1 - x0


def read_window(
    dataset: DatasetReader, bands: Sequence[BandRequest], window: tuple[int, int, int, int], out: NDArray
) -> None:
    """Reads the file's own pixels; what the file or the request calls missing becomes fill.

    Args:
        dataset: the file.
        bands: which, in the order of ``out``.
        window: ``(y0, y1, x0, x1)``, inside the file: GDAL would stretch what is there over all of ``out``.
        out: ``(band, y, x)`` of the window, to read into.
    """
    y0, y1, x0, x1 = window
    part = Window.from_slices((y0, y1), (x0, x1))
    dataset.read([band.index for band in bands], window=part, out=out)
    for layer, band in zip(out, bands, strict=True):
        if _has_mask(dataset, band.index):
            layer[dataset.read_masks(band.index, window=part) == 0] = band.fill
        declared = dataset.nodatavals[band.index - 1]
        for value in (*band.missing, *(() if declared is None else (declared,))):
            _replace(layer, value, band.fill)


def _has_mask(dataset: DatasetReader, index: int) -> bool:
    """Whether the file hides pixels by a mask of its own; a fourth band that GDAL takes for alpha hides none."""
    flags = dataset.mask_flag_enums[index - 1]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _replace(layer: NDArray, value: float, fill: float) -> None:
    """Makes one DN fill, in place; a value that the type cannot hold (files declare 3.5 for bytes) is nowhere."""
    code = _code(value, layer.dtype)
    if code is not None and value != fill:
        layer[layer == code] = fill


def _code(value: float, dtype: np.dtype) -> np.generic | None:
    """A number as a DN; None where no DN is that number."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            code = dtype.type(value)
        return code if np.isfinite(code) else None
    if not float(value).is_integer() or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return None
    return dtype.type(int(value))
