from __future__ import annotations

import os
import struct
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from pipeline.errors import SceneError
from pipeline.geotiff import Facts, FileBand, check_size, facts, open_geotiff, read
from pipeline.pixels import BandRequest, Request

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


def _read(path: Path, window: tuple[int, int, int, int], *bands: BandRequest) -> NDArray:
    with open_geotiff(path) as dataset:
        return read(dataset, Request(path, bands or (BandRequest(1, 0),), dataset.dtypes[0], window))


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
