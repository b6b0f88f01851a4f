from __future__ import annotations

import os
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from pipeline.errors import SceneError
from pipeline.geotiff import (
    BandRequest,
    Facts,
    FileBand,
    Request,
    Target,
    check_size,
    facts,
    open_geotiff,
    read,
)

NAN = float("nan")
PLACE = Affine(10, 0, 5e5, 0, -10, 5e6)
GEOSTATIONARY = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(dn: NDArray, name: str = "scene.tif", **profile: Any) -> Path:
        layers = dn if dn.ndim == 3 else dn[np.newaxis]
        count, height, width = layers.shape
        own = {"count": count, "height": height, "width": width, "dtype": layers.dtype}
        place = {"crs": "EPSG:32633", "transform": PLACE}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tmp_path / name, "w", driver="GTiff", **own, **place | profile) as file:
                file.write(layers)
        return tmp_path / name

    return make


def _read(path: Path, window: tuple[int, int, int, int], *bands: BandRequest, target: Target | None = None) -> NDArray:
    with open_geotiff(path) as dataset:
        dtype = dataset.dtypes[0]
        return read(dataset, Request(path, bands or (BandRequest(1, 0),), dtype, window, target))


def _warp(path: Path, target: Target, band: BandRequest) -> NDArray:
    return _read(path, (0, target.shape[0], 0, target.shape[1]), band, target=target)[0]


def _target(crs: str, transform: Affine, shape: tuple[int, int]) -> Target:
    return Target(crs, tuple(transform)[:6], shape)


def _hills(height: int, width: int) -> NDArray[np.uint16]:
    y, x = np.mgrid[:height, :width]
    return (3000 + 1000 * np.sin(y / 20) + 800 * np.cos(x / 17)).astype(np.uint16)


def test_a_file_says_what_was_written(write: Write) -> None:
    path = write(np.ones((2, 40, 70), np.int16), nodata=-9, tiled=True, blockxsize=32, blockysize=16)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets, file.units, file.descriptions = (0.1, 0.2), (1, 2), ("K", "m"), ("warm", "high")
        file.update_tags(ORBIT="7")
        file.update_tags(2, SIDE="left")
    said = facts(path)
    assert (said.width, said.height, said.size, said.transform) == (70, 40, path.stat().st_size, tuple(PLACE)[:6])
    assert (said.tags["ORBIT"], said.interleaved, said.ground_points) == ("7", True, False)
    assert said.declared_bytes == 2 * 40 * 70 * 2
    assert said.bands[1] == FileBand("int16", -9.0, 0.2, 2.0, "high", "m", {"SIDE": "left"}, (16, 32), hollow=False)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", GEOSTATIONARY, 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_the_crs_is_the_one_that_the_grid_library_reads_from_the_file(write: Write, crs: str) -> None:
    path = write(np.zeros((4, 4), np.uint8), crs=crs)
    with rasterio.open(path) as dataset:
        assert odc.geo.CRS(facts(path).crs) == odc.geo.CRS(dataset.crs.to_wkt())


@pytest.mark.parametrize("nodata", [None, NAN, -1.5])
def test_facts_survive_a_round_trip_through_json(write: Write, nodata: float | None) -> None:
    said = facts(write(np.ones((2, 8, 8), np.float32), nodata=nodata))
    assert repr(Facts.from_json(said.to_json())) == repr(said)  # NaN is not equal to itself
    assert "\n" not in said.to_json()


def test_a_file_without_a_place_says_so_without_a_warning(write: Write) -> None:
    said = facts(write(np.zeros((4, 4), np.uint8), crs=None, transform=None))
    assert (said.crs, said.transform, said.ground_points) == ("", (1, 0, 0, 0, 1, 0), False)


def test_a_file_placed_by_control_points_says_so(write: Write) -> None:
    points = [GroundControlPoint(r, c, 5e5 + 10 * c, 5e6 - 10 * r) for r, c in ((0, 0), (0, 48), (40, 0))]
    path = write(np.zeros((40, 48), np.uint8), transform=None, gcps=points)
    assert facts(path).ground_points


def test_a_name_that_is_no_text_makes_a_file_unreadable(write: Write) -> None:
    path = write(np.zeros((4, 4), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("abcdefgh",)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))
    with pytest.raises(SceneError, match="unreadable"):
        facts(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scene.tif")
    with pytest.raises(SceneError, match=r"unreadable.*scene\.tif"):
        facts(tmp_path / "scene.tif")


@pytest.mark.parametrize(
    "content",
    [
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>',
        "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1/${x}</ServerUrl></Service></GDAL_WMS>",
        "",
    ],
)
def test_only_a_geotiff_is_opened_and_its_folder_is_not_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scene.tif"
    path.write_text(content)
    with pytest.raises(SceneError, match="unreadable") as caught:
        facts(path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_file_that_a_writer_has_not_finished_is_hollow_until_it_is(
    write: Write, tmp_path: Path, interleave: str
) -> None:
    whole = write(np.ones((2, 64, 48), np.uint8), blockysize=8, interleave=interleave)
    with rasterio.open(whole) as dataset:
        profile = dataset.profile
    with rasterio.open(tmp_path / "growing.tif", "w", **profile) as file:
        file.write(np.ones((2, 16, 48), np.uint8), window=((0, 16), (0, 48)))
        copy = tmp_path / "copy.tif"
        copy.write_bytes((tmp_path / "growing.tif").read_bytes())
    assert not any(band.hollow for band in facts(whole).bands)
    assert all(band.hollow for band in facts(copy).bands)


def test_one_missing_block_anywhere_makes_a_band_hollow(write: Write) -> None:
    dn = np.ones((2, 64, 48), np.uint8)
    dn[1, 24:32] = 0
    path = write(dn, blockysize=8, interleave="band", SPARSE_OK=True)
    assert [band.hollow for band in facts(path).bands] == [False, True]


@pytest.mark.parametrize("profile", [{"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"tiled": True}, {"compress": "lzw"}])
@pytest.mark.parametrize("size", [8, 300])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_whole_file_of_zeros_is_not_hollow(write: Write, profile: dict[str, Any], size: int, interleave: str) -> None:
    path = write(np.zeros((2, size, 40), np.uint8), interleave=interleave, **profile)
    assert not any(band.hollow for band in facts(path).bands)


def test_a_file_of_one_large_strip_is_not_hollow(write: Write) -> None:
    path = write(np.zeros((8192, 16384), np.uint8), blockysize=8192, compress="deflate")
    assert facts(path).bands[0].block[0] == 1  # GDAL hands it out row by row
    assert not facts(path).bands[0].hollow


@pytest.mark.parametrize("count", [0, 3])
def test_a_file_that_places_too_few_blocks_is_hollow(write: Write, count: int) -> None:
    path = write(np.ones((64, 48), np.uint8), blockysize=8)
    data = path.read_bytes()
    at = next(data.index(entry) for kind in (3, 4) if (entry := struct.pack("<HHI", 273, kind, 8)) in data) + 4
    path.write_bytes(data[:at] + struct.pack("<I", count) + data[at + 4 :])
    assert facts(path).bands[0].hollow


def test_blocks_are_looked_up_quickly_however_many_a_file_declares(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "crs": "EPSG:32633", "transform": PLACE, "tiled": True}
    with rasterio.open(path, "w", **profile, height=16384, width=16384, blockxsize=16, blockysize=16, SPARSE_OK=1) as f:
        f.write(np.ones((16, 16), np.uint8), 1, window=((0, 16), (0, 16)))
    began = time.process_time()
    assert facts(path).bands[0].hollow
    assert time.process_time() - began < 1


BAND = FileBand("uint16", None, 1, 0, "", "", {}, (256, 256), hollow=False)
SMALL = Facts(10980, 10980, "", tuple(PLACE)[:6], (BAND,) * 4, {}, 1 << 28, interleaved=True, ground_points=False)


@pytest.mark.parametrize(
    "said",
    [
        replace(SMALL, bands=(replace(BAND, block=(20000, 20000)),)),
        replace(SMALL, bands=(replace(BAND, block=(10000, 10000)),) * 4),
        replace(SMALL, width=800_000, height=800_000, size=115_000),
        replace(SMALL, bands=(BAND,) * 65536),
    ],
)
def test_a_file_that_would_need_too_much_memory_is_refused_with_the_way_out(said: Facts) -> None:
    with pytest.raises(SceneError, match=r"too-large: .* at most .* found .*: (write|select)"):
        check_size(said)


@pytest.mark.parametrize(
    "said",
    [
        SMALL,
        replace(SMALL, bands=(replace(BAND, block=(10000, 10000)),) * 4, interleaved=False),
        replace(SMALL, width=10000, height=10000, size=1000),  # 0.8 GB of nothing
    ],
)
def test_a_large_ordinary_file_is_not_refused(said: Facts) -> None:
    check_size(said)


def test_a_window_is_that_of_the_array_in_the_order_of_the_request(write: Write) -> None:
    dn = np.random.default_rng(0).integers(1, 999, (3, 50, 60)).astype(np.uint16)
    path = write(dn)
    found = _read(path, (7, 31, 5, 60), BandRequest(3, 0), BandRequest(1, 0))
    np.testing.assert_array_equal(found, dn[[2, 0], 7:31, 5:60])


def test_pixels_are_read_into_the_given_array(write: Write) -> None:
    dn, out = np.arange(40, dtype=np.uint8).reshape(5, 8), np.zeros((1, 5, 8), np.uint8)
    path = write(dn)
    with open_geotiff(path) as dataset:
        assert read(dataset, Request(path, (BandRequest(1, 255),), "uint8", (0, 5, 0, 8)), out) is out
    np.testing.assert_array_equal(out[0], dn)


@pytest.mark.parametrize(
    ("dtype", "declared", "missing", "fill", "dn", "expected"),
    [
        ("uint16", 0, (), 65535, [0, 1, 65535], [65535, 1, 65535]),
        ("uint16", None, (), 65535, [0, 1, 65535], [0, 1, 65535]),
        ("uint16", 0, (1, 7), 65535, [0, 1, 2], [65535, 65535, 2]),
        ("uint8", None, (3.5, -1, 256, 1e300), 9, [3, 4, 255], [3, 4, 255]),
        ("int16", -9999, (NAN,), -32768, [-9999, 0, 1], [-32768, 0, 1]),
        ("uint32", None, (4294967295,), 0, [4294967295, 4294967294, 1], [0, 4294967294, 1]),
        ("float32", -9999.9, (), NAN, [-9999.9, 0, NAN], [NAN, 0, NAN]),
        ("float32", -9999.9, (1e300,), -1.0, [-9999.9, np.inf, NAN], [-1, np.inf, NAN]),
        ("float32", NAN, (), -1.0, [NAN, 0, 1], [NAN, 0, 1]),
    ],
)
def test_what_the_file_or_the_request_calls_missing_becomes_fill(
    write: Write,
    dtype: str,
    declared: float | None,
    missing: tuple[float, ...],
    fill: float,
    dn: list[float],
    expected: list[float],
) -> None:
    path = write(np.array([dn], dtype), nodata=declared)
    found = _read(path, (0, 1, 0, 3), BandRequest(1, fill, missing))
    np.testing.assert_array_equal(found, np.array([[expected]], dtype))


def test_a_declared_nodata_that_no_pixel_can_have_hides_none(write: Write) -> None:
    path = write(np.array([[3, 4, 255]], np.uint8), nodata=200)
    path.write_bytes(path.read_bytes().replace(b"200\0", b"3.5\0"))
    assert _read(path, (0, 1, 0, 3), BandRequest(1, 255)).tolist() == [[[3, 4, 255]]]


@pytest.mark.parametrize(
    ("band", "dtype", "window", "reason"),
    [
        (2, "uint8", (0, 4, 0, 4), "missing-band"),
        (1, "uint16", (0, 4, 0, 4), "wrong-dtype"),
        (1, "uint8", (0, 5, 0, 4), "unreadable"),
    ],
)
def test_what_the_file_has_not_is_never_made_up(
    write: Write, band: int, dtype: str, window: tuple[int, int, int, int], reason: str
) -> None:
    path = write(np.zeros((4, 4), np.uint8))
    with pytest.raises(SceneError, match=reason), open_geotiff(path) as dataset:
        read(dataset, Request(path, (BandRequest(band, 0),), dtype, window))


@pytest.mark.parametrize("window", [(2, 2, 0, 4), (-1, 2, 0, 4), (0, 2, 4, 3)])
def test_a_window_has_pixels(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        Request(Path(), (BandRequest(1, 0),), "uint8", window)


def test_a_truncated_file_opens_but_does_not_read(write: Write) -> None:
    path = write(np.ones((64, 64), np.uint16), blockysize=8)
    os.truncate(path, path.stat().st_size - 100)
    assert facts(path).width == 64
    with pytest.raises(SceneError, match="unreadable"):
        _read(path, (0, 64, 0, 64))


def test_threads_that_open_files_leave_the_filters_of_warnings_alone(write: Write) -> None:
    path = write(np.zeros((4, 4), np.uint8), crs=None, transform=None)
    before = list(warnings.filters)
    threads = [threading.Thread(target=facts, args=(path,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


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
