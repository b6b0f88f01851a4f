from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from pipeline.errors import SceneError
from pipeline.geotiff import open_geotiff, read
from pipeline.pixels import BandRequest, Request, Target

NAN = float("nan")
PLACE = Affine(10, 0, 5e5, 0, -10, 5e6)
GEOSTATIONARY = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(dn: NDArray, **profile: Any) -> Path:
        path, layers = tmp_path / "scene.tif", dn if dn.ndim == 3 else dn[np.newaxis]
        count, height, width = layers.shape
        own = {"count": count, "height": height, "width": width, "dtype": layers.dtype}
        place = {"crs": "EPSG:32633", "transform": PLACE}
        with rasterio.open(path, "w", driver="GTiff", **own, **place | profile) as file:
            file.write(layers)
        return path

    return make


def _read(path: Path, window: tuple[int, int, int, int], *bands: BandRequest, target: Target) -> NDArray:
    with open_geotiff(path) as dataset:
        return read(dataset, Request(path, bands, dataset.dtypes[0], window, target))


def _warp(path: Path, target: Target, band: BandRequest) -> NDArray:
    return _read(path, (0, target.shape[0], 0, target.shape[1]), band, target=target)[0]


def _target(crs: str, transform: Affine, shape: tuple[int, int]) -> Target:
    return Target(crs, tuple(transform)[:6], shape)


def _hills(height: int, width: int) -> NDArray[np.uint16]:
    y, x = np.mgrid[:height, :width]
    return (3000 + 1000 * np.sin(y / 20) + 800 * np.cos(x / 17)).astype(np.uint16)


GEOGRAPHIC = _target("EPSG:4326", Affine(0.00012, 0, 15.001, 0, -0.00009, 45.15), (400, 450))
TURNED = _target("EPSG:32633", PLACE @ Affine.translation(20, 10) @ Affine.rotation(20) @ Affine.scale(1.3), (280, 330))
COARSE = _target("EPSG:3035", Affine(55, 0, 4.7145e6, 0, -55, 2.4622e6), (60, 70))


def test_a_warp_onto_the_files_own_grid_changes_nothing(write: Write) -> None:
    dn = np.random.default_rng(1).integers(1, 65534, (300, 520)).astype(np.uint16)
    path = write(dn)
    moved = _target("EPSG:32633", PLACE @ Affine.translation(-30, 40), (300, 520))
    for resampling in ("nearest", "bilinear", "cubic"):
        found = _warp(path, moved, BandRequest(1, 65535, (), resampling))
        np.testing.assert_array_equal(found[:260, 30:], dn[40:, :490])
        assert (found[260:] == 65535).all()
        assert (found[:, :30] == 65535).all()


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize("target", [GEOGRAPHIC, TURNED, COARSE])
def test_windows_of_a_target_tile_what_one_warp_gives(write: Write, target: Target, resampling: str) -> None:
    path = write(_hills(360, 410), nodata=0)
    band = BandRequest(1, 0, (), resampling)
    whole = _warp(path, target, band)
    assert (whole != 0).mean() > 0.3
    height, width = target.shape
    rows, columns = pairwise((0, 13, height // 2 + 1, height)), tuple(pairwise((0, width // 3, width - 5, width)))
    pieces = [[_read(path, (*row, *column), band, target=target)[0] for column in columns] for row in rows]
    np.testing.assert_array_equal(np.block(pieces), whole)


def _columns(target: Target, crs: str, place: Affine) -> Iterator[NDArray[np.float64]]:
    """Column and row of a file at the centres of a target's pixels, without GDAL."""
    y, x = np.mgrid[: target.shape[0], : target.shape[1]] + 0.5
    a, b, c, d, e, f = target.transform
    there = Transformer.from_crs(target.crs, crs, always_xy=True).transform(a * x + b * y + c, d * x + e * y + f)
    east, north = (np.where(np.isfinite(axis), axis, NAN) for axis in there)
    a, b, c, d, e, f = tuple(~place)[:6]
    yield a * east + b * north + c
    yield d * east + e * north + f


@pytest.mark.parametrize("target", [GEOGRAPHIC, TURNED])
def test_a_warped_pixel_is_the_one_that_lies_there(write: Write, target: Target) -> None:
    row, column = np.mgrid[:360, :410].astype(np.uint16)
    path = write(np.stack([column, row]))
    window = (0, target.shape[0], 0, target.shape[1])
    found = _read(path, window, BandRequest(1, 65535), BandRequest(2, 65535), target=target)
    x, y = _columns(target, "EPSG:32633", PLACE)
    inside = (x > 0.2) & (x < 409.8) & (y > 0.2) & (y < 359.8)
    outside = (x < -0.2) | (x > 410.2) | (y < -0.2) | (y > 360.2)
    assert (found[:, outside] == 65535).all()
    for layer, exact in zip(found, (x, y), strict=True):
        assert np.abs(layer[inside] + 0.5 - exact[inside]).max() < 0.7  # half a pixel, and what GDAL approximates


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "lanczos", "average"])
@pytest.mark.parametrize(
    ("dtype", "declared", "fill"),
    [("uint16", 65535, 65535), ("uint16", None, 0), ("int8", -128, 5), ("float32", None, NAN), ("float32", -9, -9)],
)
def test_missing_pixels_never_bleed_into_valid_ones(
    write: Write, dtype: str, declared: float | None, fill: float, resampling: str
) -> None:
    hole = 65535 if dtype == "uint16" else -128 if dtype == "int8" else np.inf if declared is None else -9
    dn = np.full((2, 200, 200), 100, dtype)
    dn[0, 60:130, 70:140] = hole
    path = write(dn, nodata=declared)
    bands = [BandRequest(index, fill, (hole,), resampling) for index in (1, 2)]
    target = _target(
        "EPSG:32633", PLACE @ Affine.translation(30, 10) @ Affine.rotation(7) @ Affine.scale(0.9), (150, 150)
    )
    first, second = _read(path, (0, 150, 0, 150), *bands, target=target)
    empty = np.isnan(first) if np.isnan(fill) else first == fill
    assert 0.1 < empty.mean() < 0.5
    assert np.allclose(first[~empty], 100)
    assert np.allclose(second, 100)


def test_a_mean_that_would_read_as_missing_moves_beside_it(write: Write) -> None:
    path = write(np.tile(np.array([-1, 1], np.int16), (20, 10)))
    between = _target("EPSG:32633", PLACE @ Affine.translation(0.5, 0), (20, 18))
    assert (_warp(path, between, BandRequest(1, 0, (), "bilinear")) != 0).all()


def test_a_target_elsewhere_is_all_fill(write: Write) -> None:
    path = write(np.ones((40, 40), np.uint8))
    far = _target("EPSG:3857", Affine(10, 0, -8e6, 0, -10, 4e6), (300, 30))
    assert (_warp(path, far, BandRequest(1, 7, (), "cubic")) == 7).all()


def test_pixels_beyond_the_earths_rim_are_fill_and_those_before_it_are_there(write: Write) -> None:
    world = _target("EPSG:4326", Affine(0.5, 0, -90, 0, -0.5, 90), (360, 360))
    place = Affine(20000, 0, -5.6e6, 0, -20000, 5.6e6)
    path = write(np.full((560, 560), 9, np.uint8), crs=GEOSTATIONARY, transform=place)
    found = _warp(path, world, BandRequest(1, 0))
    x, _ = _columns(world, GEOSTATIONARY, place)
    np.testing.assert_array_equal(found == 9, np.isfinite(x))


@pytest.mark.parametrize("west", [-180, 0])
def test_a_map_of_the_world_is_whole_across_its_edge(write: Write, west: float) -> None:
    path = write(_hills(90, 360) + np.uint16(1), crs="EPSG:4326", transform=Affine(1, 0, west, 0, -1, 90))
    pole = _target("EPSG:3413", Affine(25000, 0, -4e6, 0, -25000, 4e6), (320, 320))
    assert (_warp(path, pole, BandRequest(1, 0, (), "bilinear")) != 0).all()


@pytest.mark.parametrize(
    ("profile", "reason"),
    [({"crs": None}, "wrong-crs"), ({"transform": Affine(10, 10, 5e5, 10, 10, 5e6)}, "off-grid")],
)
def test_a_file_without_a_place_is_not_warped(write: Write, profile: dict[str, Any], reason: str) -> None:
    path = write(np.ones((4, 4), np.uint8), **profile)
    with pytest.raises(SceneError, match=reason):
        _warp(path, TURNED, BandRequest(1, 0))


def test_pixels_of_a_target_that_hold_too_many_of_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fine.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "crs": "EPSG:32633", "transform": PLACE, "tiled": True}
    with rasterio.open(path, "w", **profile, height=20000, width=20000, SPARSE_OK=1):
        pass
    with pytest.raises(SceneError, match=r"too-large.*at most 256 MiB"):
        _warp(path, _target("EPSG:32633", Affine(2000, 0, 5e5, 0, -2000, 5e6), (100, 100)), BandRequest(1, 0))
