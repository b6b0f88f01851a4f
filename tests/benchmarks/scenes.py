"""Scenes to measure with: their texture packs like that of real ones (134 MB to about 80), in layouts of the field."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from tests.benchmarks.product import BANDS, CADENCE, CRS, LEFT, ORIGIN, PIXEL, TOP

SIDE = 4096  # px of texture before it repeats: deflate and the codecs look back less than one row of blocks
FINE = 30  # DN, standard deviation of what differs from pixel to pixel: 12 bits of DN pack to 9.4
COARSE = ((256, 500), (64, 250), (16, 120), (4, 60))  # px and DN of what a neighbourhood shares

FAR = (37, 101)  # px by which a scene's texture lies elsewhere than the one's before: like no other
LONG_AGO = 1_700_000_000  # a file that was just written is looked at twice

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tiled": True, "blockxsize": 256, "blockysize": 256, "predictor": 2, "interleave": "pixel"},
    "bands": {"tiled": True, "blockxsize": 256, "blockysize": 256, "predictor": 2, "interleave": "band"},
    "strips": {"predictor": 2, "interleave": "pixel"},
    "cog": {"predictor": "YES", "blocksize": 512},
}


def write_scene(
    inbox: Path,
    slot: int,
    side: int,
    *,
    layout: str = "tiled",
    bands: int = len(BANDS),
    shift: tuple[int, int] = FAR,
) -> Path:
    """Writes the scene of a slot, which is like no other slot's, but for a shift (px a slot, down and right)."""
    path = inbox / f"scene_{ORIGIN + slot * CADENCE:%Y%m%dT%H%MZ}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path if layout != "cog" else path.with_suffix(".plain")
    moved = (shift[0] * slot, shift[1] * slot)
    _write_plain(plain, moved, side, LAYOUTS["tiled" if layout == "cog" else layout], bands)
    if layout == "cog":
        rasterio.shutil.copy(plain, path, driver="COG", compress="deflate", **LAYOUTS["cog"])
        plain.unlink()
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def _write_plain(path: Path, moved: tuple[int, int], side: int, options: dict[str, Any], bands: int) -> None:
    place = {"crs": CRS, "transform": Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP), "nodata": 0}
    shape = {"width": side, "height": side, "count": bands, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", compress="deflate", **shape, **place, **options) as file:
        for row in range(0, side, SIDE):
            rows = min(SIDE, side - row)
            file.write(_pixels(moved, rows, side, bands), window=((row, row + rows), (0, side)))


def _pixels(moved: tuple[int, int], rows: int, columns: int, bands: int) -> NDArray[np.uint16]:
    texture = np.roll(_texture(min(SIDE, max(rows, columns)))[:bands], moved, (1, 2))
    repeats = -(-columns // texture.shape[2])
    return np.tile(texture, (1, 1, repeats))[:, :rows, :columns] + np.uint16(sum(moved) % 7)


@cache
def _texture(side: int) -> NDArray[np.uint16]:
    """Four bands that share most of their structure, 1 to 10000 DN: ``(band, side, side)``."""
    random = np.random.default_rng(0)
    shared = sum(amplitude * _smooth(random, side, pixels) for pixels, amplitude in COARSE)
    bands = []
    for index in range(len(BANDS)):
        own = 100 * _smooth(random, side, 32) + FINE * random.standard_normal((side, side), np.float32)
        bands.append(np.clip(1800 + 300 * index + shared * (0.7 + 0.2 * index) + own, 1, 10_000).astype(np.uint16))
    return np.stack(bands)


def _smooth(random: np.random.Generator, side: int, pixels: int) -> NDArray[np.float32]:
    coarse = random.standard_normal((side // pixels + 2,) * 2, np.float32)
    return np.asarray(ndimage.zoom(coarse, pixels, order=1), np.float32)[:side, :side]
