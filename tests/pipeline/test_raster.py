from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rio_cogeo.cogeo import cog_validate

from pipeline.raster import RasterBand, decode, describe, encode, read_dn, read_physical, sha256, write_cog
from pipeline.specs import FLOAT_TYPES, INTEGER_TYPES, BandSpec

UTM = GeoBox((600, 700), Affine(10, 0, 5e5, 0, -10, 5e6), CRS("EPSG:32633"))
NODATA = {"uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31)}

whole_bands = st.builds(
    lambda dtype, scale, offset, place: BandSpec(
        name="b", dtype=dtype, scale=scale, offset=offset, nodata=_whole_nodata(dtype, place)
    ),
    st.sampled_from(INTEGER_TYPES),
    st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    st.floats(-1e3, 1e3),
    st.sampled_from(["absent", "lowest", "highest", "inside"]),
)
small_integers = st.lists(st.integers(-128, 127), min_size=1, max_size=20)


def _whole_nodata(dtype: str, place: str) -> float | None:
    limits = np.iinfo(dtype)
    return {"absent": None, "lowest": float(limits.min), "highest": float(limits.max), "inside": 7.0}[place]


def _physical(band: BandSpec, dn: list[int]) -> np.ndarray:
    legal = np.clip(np.array(dn, np.float64), np.iinfo(band.dtype).min, np.iinfo(band.dtype).max)
    return (legal * band.scale + band.offset).astype(np.float32)


@given(whole_bands, small_integers)
def test_encoding_loses_half_a_dn_or_one_and_a_half_where_the_fill_is_in_the_way(band: BandSpec, dn: list[int]) -> None:
    values = _physical(band, dn)
    step = abs(band.scale)
    rounding = np.spacing(np.abs(values) + abs(np.float32(band.offset)) + 128 * np.float32(step))
    off = np.abs(decode(encode(values, band), band) - values)
    near_fill = np.abs((values - band.offset) / band.scale - band.fill) < 1
    assert (off <= np.where(near_fill, 1.5, 0.5) * step + 4 * rounding).all()


@given(whole_bands, st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=20))
def test_exactly_the_missing_values_read_as_missing(band: BandSpec, values: list[float]) -> None:
    field = np.array(values, np.float32)
    np.testing.assert_array_equal(np.isnan(decode(encode(field, band), band)), np.isnan(field))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.sampled_from([None, -9999.0, 0.0]))
def test_a_float_band_keeps_every_value_to_one_spacing(values: list[float], nodata: float | None) -> None:
    band = BandSpec(name="b", dtype="float32", nodata=nodata)
    field = np.array([*values, np.nan], np.float32)
    np.testing.assert_allclose(decode(encode(field, band), band), field, rtol=2e-7, atol=1e-37)


@pytest.mark.parametrize(
    ("nodata", "value", "dn"),
    [(255, 254.9, 254), (255, 300, 254), (0, 0.2, 1), (0, -5, 1), (100, 99.8, 99), (100, 100.2, 101), (None, 255, 254)],
)
def test_a_valid_value_that_would_be_fill_moves_to_the_nearest_other_dn(
    nodata: float | None, value: float, dn: int
) -> None:
    band = BandSpec(name="b", dtype="uint8", nodata=nodata)
    assert encode(np.array([value], np.float32), band).tolist() == [dn]


def test_values_beyond_the_type_are_clipped_not_wrapped() -> None:
    band = BandSpec(name="b", dtype="int16", nodata=-32768)
    assert encode(np.array([-1e9, 1e9, np.inf], np.float32), band).tolist() == [-32767, 32767, 32767]


def _write(path: Path, data: np.ndarray, grid: GeoBox = UTM, nodata: float | None = None) -> Path:
    bands = [RasterBand(f"band {i}", "dBZ", 0.5, -32, {"quantity": "mean"}) for i in range(len(data))]
    write_cog(path, data, grid, bands, nodata=nodata, tags={"product": "t", "attribution": "© EUMETSAT <2020> & co"})
    return path


def _noise(dtype: str, count: int = 2, grid: GeoBox = UTM) -> np.ndarray:
    return (np.random.default_rng(1).random((count, *grid.shape)) * 100).astype(dtype)


@pytest.mark.parametrize("dtype", [*INTEGER_TYPES, *FLOAT_TYPES])
def test_every_type_gives_a_valid_cog_with_everything_inside(tmp_path: Path, dtype: str) -> None:
    nodata = NODATA.get(dtype, float("nan"))
    path = _write(tmp_path / "a.tif", _noise(dtype), nodata=nodata)
    np.testing.assert_array_equal(read_dn(path), _noise(dtype))
    assert cog_validate(path, quiet=True) == (True, [], [])
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    info = describe(path)
    assert (info.dtype, str(info.nodata)) == (dtype, str(float(nodata)))
    assert info.bands[1] == RasterBand("band 1", "dBZ", 0.5, -32, {"quantity": "mean"})
    assert info.tags["attribution"] == "© EUMETSAT <2020> & co"
    assert info.grid == UTM


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (_write(tmp_path / name, _noise("int16")) for name in ("a.tif", "b.tif"))
    assert first.read_bytes() == second.read_bytes()


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_bands_are_never_taken_for_colours_or_alpha(tmp_path: Path, count: int) -> None:
    with rasterio.open(_write(tmp_path / "a.tif", _noise("uint8", count))) as dataset:
        assert not {ColorInterp.red, ColorInterp.alpha} & set(dataset.colorinterp)


@pytest.mark.parametrize(
    "transform",
    [Affine(30, 0, 0.1, 0, -30, 7), Affine(30, 0, 0, 0, 30, 0), Affine.rotation(20) @ Affine(3.3, 0, 1, 0, -4.7, 2)],
    ids=["north-up", "south-up", "rotated"],
)
def test_the_transform_comes_back_exactly(tmp_path: Path, transform: Affine) -> None:
    grid = GeoBox((30, 40), transform, UTM.crs)
    with rasterio.open(_write(tmp_path / "a.tif", _noise("uint8", grid=grid), grid)) as dataset:
        assert dataset.transform.almost_equals(transform, 1e-12)


@pytest.mark.parametrize(
    "name", ["hrv_1km_20200401", "fmi_1km_20160928", "knmi_1km_20100826", "typhoon200717_relative", "sinop_modis_ndvi"]
)
def test_a_crs_without_a_code_comes_back_equal(tmp_path: Path, shared_data: Path, name: str) -> None:
    with rasterio.open(min((shared_data / name).glob("*.tif"))) as scene:
        crs, transform = scene.crs, scene.transform
    grid = GeoBox((60, 40), transform, CRS(crs.to_wkt()))
    path = _write(tmp_path / "a.tif", _noise("uint8", grid=grid), grid)
    with rasterio.open(path) as dataset:
        assert dataset.crs == crs
        assert CRS(dataset.crs.to_wkt()) == grid.crs
        assert dataset.transform == transform
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_reading_applies_scale_offset_and_nodata_of_each_band(tmp_path: Path) -> None:
    grid = GeoBox((1, 3), UTM.transform, UTM.crs)
    bands = [RasterBand("a", scale=0.5, offset=-32), RasterBand("b", scale=2)]
    write_cog(tmp_path / "a.tif", np.array([[[0, 64, 255]], [[255, 1, 2]]], np.uint8), grid, bands, nodata=255)
    expected = [[[-32, 0, np.nan]], [[np.nan, 2, 4]]]
    np.testing.assert_array_equal(read_physical(tmp_path / "a.tif"), expected)


def test_side_files_do_not_change_what_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _noise("uint8"))
    other = '<PAMDataset><PAMRasterBand band="1"><Scale>9</Scale></PAMRasterBand></PAMDataset>'
    (tmp_path / "a.tif.aux.xml").write_text(other)
    assert describe(path).bands[0].scale == 0.5


def test_averaged_overviews_leave_missing_pixels_out(tmp_path: Path) -> None:
    data = np.full((1, *UTM.shape), 10, np.uint8)
    data[:, :, ::2] = 255
    with rasterio.open(_write(tmp_path / "a.tif", data, nodata=255), overview_level=0) as overview:
        assert np.unique(overview.read()).tolist() == [10]


def test_overviews_of_codes_hold_codes_only(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).choice([1, 9], (1, *UTM.shape)).astype(np.uint16)
    write_cog(tmp_path / "a.tif", codes, UTM, [RasterBand("source")], nodata=65535, overviews="nearest")
    with rasterio.open(tmp_path / "a.tif", overview_level=1) as overview:
        assert np.unique(overview.read()).tolist() == [1, 9]


def test_a_truncated_file_does_not_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _noise("uint16"))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(RasterioError):
        read_dn(path)


def test_data_that_do_not_fit_the_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 600, 700\).*found \(2, 700, 600\)"):
        _write(tmp_path / "a.tif", _noise("uint8").transpose(0, 2, 1))


def test_a_grid_without_crs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a CRS"):
        _write(tmp_path / "a.tif", _noise("uint8"), GeoBox(UTM.shape, UTM.transform, None))
