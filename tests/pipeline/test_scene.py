from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint

from pipeline.errors import SceneError
from pipeline.geotiff import Facts, FileBand, Request, facts, open_geotiff, read
from pipeline.grid import Window
from pipeline.header import read_header
from pipeline.scene import (
    Contract,
    Fit,
    Staged,
    acquisition_time,
    blaming_mask,
    check,
    check_mask,
    identify,
    mask_path,
    mask_request,
    request,
)
from pipeline.specs import BandSpec, MaskSpec, SceneSpec

law = settings(deadline=None)  # a busy machine is no fault
NAN = float("nan")
WHOLE = Window(0, 40, 0, 48)


def contract_of(product: Any, **changes: Any) -> Contract:
    return replace(Contract(product.settings.bands, product.settings.grid.geobox()), **changes)


def refusal(path: Path, contract: Contract) -> SceneError:
    with pytest.raises(SceneError) as caught:
        check(facts(path), contract)
    return caught.value


def pixels(asked: Request) -> NDArray:
    with open_geotiff(asked.path) as dataset:
        return read(dataset, asked)


def read_as(path: Path, contract: Contract, window: Window | None = None) -> NDArray:
    """DN of all bands where the scene lies, or in a window of the cube's grid."""
    fit = check(facts(path), contract)
    return pixels(request(path, fit, [band.name for band in contract.bands], window or fit.place))


def said(**band: Any) -> Facts:
    """What a file of 40 x 48 px says that fits the tiny product but for what is given."""
    kept = {"dtype": "uint16", "nodata": 65535, "scale": 1.0, "offset": 0.0, "description": "", "units": "", "tags": {}}
    own = FileBand(**{**kept, "block": (8, 48), "hollow": False, **band})
    wkt = rasterio.CRS.from_epsg(32633).to_wkt()
    return Facts(
        48, 40, wkt, (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), (own,), {}, 1000, interleaved=False, ground_points=False
    )


def one_band(**fields: Any) -> Contract:
    grid = GeoBox((40, 48), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
    return Contract((BandSpec.model_validate({"name": "b", "dtype": "uint16", **fields}),), grid)


# What a scene is


def test_a_scene_knows_its_times_its_tile_and_its_revision() -> None:
    spec = SceneSpec.model_validate(
        {
            "pattern": "{tile}_{time}.tif",
            "time_format": "%Y%m%dT%H%M%SZ",
            "revision_tag": "BASELINE",
            "available_tag": "AVAILABLE",
            "latency": timedelta(minutes=7),
        }
    )
    tags = {"BASELINE": "05.11", "AVAILABLE": "2024-06-01T06:00:00.25Z"}
    staged = [Staged(Path(f"T{n}_20240601T050103Z.tif"), Path("copy.tif"), "ab12") for n in (33, 34)]
    tagged = identify(staged[0], replace(said(), tags=tags), spec)
    bare = identify(staged[1], said(), spec)
    assert (tagged.tile, tagged.revision, tagged.sha256, bare.tile) == ("T33", "05.11", "ab12", "T34")
    assert tagged.acquired == bare.acquired == datetime(2024, 6, 1, 5, 1, 3, tzinfo=UTC)
    assert tagged.available_at == datetime(2024, 6, 1, 6, 0, 1, tzinfo=UTC)  # never sooner than the tag says
    assert bare.available_at == bare.acquired + timedelta(minutes=7)


@pytest.mark.parametrize(
    ("text", "time_format"),
    [
        ("2024-06-01 05:01:03.999", "%Y-%m-%d %H:%M:%S.%f"),
        ("2024-06-01 07:01:03 +0200", "%Y-%m-%d %H:%M:%S %z"),
        ("2024153 05:01:03", "%Y%j %H:%M:%S"),
    ],
)
def test_the_acquisition_time_of_a_tag_is_utc_in_whole_seconds(text: str, time_format: str) -> None:
    spec = SceneSpec(folder=Path(), time_tag="TIME", time_format=time_format)
    assert acquisition_time("any.tif", {"TIME": text}, spec) == datetime(2024, 6, 1, 5, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("tags", [{}, {"TIME": "yesterday"}, {"TIME": "0001-01-01 00:00:00 +0500"}])
def test_a_scene_without_a_time_that_reads_is_refused(tags: dict[str, str]) -> None:
    spec = SceneSpec(folder=Path(), time_tag="TIME", time_format="%Y-%m-%d %H:%M:%S %z")
    with pytest.raises(SceneError, match="no-time"):
        acquisition_time("any.tif", tags, spec)


# Where it lies


def test_a_scene_lies_where_its_corner_says(product: Any) -> None:
    place = product.transform @ Affine.translation(5, 7)
    dn = product.dn(1, (1, 10, 20))
    path = product.scene(0, dn, transform=place)
    fit = check(facts(path), contract_of(product))
    assert (fit.place, fit.offset, fit.warp, fit.indices) == (Window(7, 17, 5, 25), (0, 0), False, (1,))
    np.testing.assert_array_equal(read_as(path, contract_of(product), Window(9, 12, 5, 8)), dn[:, 2:5, :3])


@law
@given(st.integers(-39, 39), st.integers(-47, 47))
def test_of_a_scene_that_goes_beyond_the_grid_the_grid_is_kept(row: int, column: int) -> None:
    moved = replace(said(), transform=(10.0, 0.0, 5e5 + 10 * column, 0.0, -10.0, 5e6 - 10 * row))
    fit = check(moved, one_band())
    assert fit.place == Window(max(row, 0), min(row + 40, 40), max(column, 0), min(column + 48, 48))
    asked = request(Path("copy.tif"), fit, ["b"], fit.place)
    y0, y1, x0, x1 = asked.window
    assert (y0 + row, y1 + row, x0 + column, x1 + column) == (fit.place.y0, fit.place.y1, fit.place.x0, fit.place.x1)
    assert 0 <= y0 < y1 <= 40
    assert 0 <= x0 < x1 <= 48


def test_a_scene_larger_than_the_grid_is_cropped_to_it(product: Any) -> None:
    dn = product.dn(1, (1, 60, 70))
    path = product.scene(0, dn, transform=product.transform @ Affine.translation(-9, -11))
    np.testing.assert_array_equal(read_as(path, contract_of(product)), dn[:, 11:51, 9:57])


@pytest.mark.parametrize("off_grid", ["refuse", "warp"])
@pytest.mark.parametrize("transform", [(10, 0, 5e5 + 480, 0, -10, 5e6), (20, 0, 6e5, 0, -20, 5e6)])
def test_a_scene_that_does_not_touch_the_grid_is_refused(
    product: Any, transform: tuple[float, ...], off_grid: str
) -> None:
    path = product.scene(0, transform=Affine(*transform))
    expected = "off-grid" if (off_grid, transform[0]) == ("refuse", 20) else "outside"
    assert refusal(path, contract_of(product, off_grid=off_grid)).reason == expected


OFF_GRID: list[tuple[dict[str, Any], str]] = [
    ({"crs": "EPSG:32632"}, "wrong-crs"),
    ({"transform": Affine(10, 0, 5e5 + 4, 0, -10, 5e6)}, "off-grid"),
    ({"transform": Affine(20, 0, 5e5, 0, -20, 5e6)}, "off-grid"),
    ({"transform": Affine(10, 0, 5e5, 0, 10, 5e6 - 400)}, "off-grid"),
    ({"transform": Affine(10, 0.5, 5e5, 0.5, -10, 5e6)}, "off-grid"),
]


@pytest.mark.parametrize(("profile", "reason"), OFF_GRID)
def test_a_scene_of_another_grid_is_refused_with_the_way_out(
    product: Any, profile: dict[str, Any], reason: str
) -> None:
    fault = refusal(product.scene(0, **profile), contract_of(product))
    assert (fault.reason, 'scenes.off_grid = "warp"' in fault.detail) == (reason, True)


@pytest.mark.parametrize("profile", [profile for profile, _ in OFF_GRID[1:]])
def test_a_scene_of_another_grid_is_warped_where_that_is_asked_for(product: Any, profile: dict[str, Any]) -> None:
    contract = contract_of(product, off_grid="warp")
    path = product.scene(0, np.full((1, 40, 48), 77, np.uint16), **profile)
    fit = check(facts(path), contract)
    assert (fit.warp, fit.offset) == (True, (0, 0))
    found = read_as(path, contract)[0]
    assert found.shape == fit.place.shape
    assert set(np.unique(found)) <= {77, 65535}
    assert (found == 77).mean() > 0.8


def test_scenes_on_the_grid_are_not_warped_even_where_warping_is_allowed(product: Any) -> None:
    assert not check(facts(product.scene(0)), contract_of(product, off_grid="warp")).warp


def test_a_scene_turned_upside_down_comes_out_as_it_was(product: Any) -> None:
    dn = product.dn(3)
    path = product.scene(0, dn[:, ::-1], transform=Affine(10, 0, 5e5, 0, 10, 5e6 - 400))
    contract = contract_of(product, off_grid="warp")
    contract = replace(contract, bands=(contract.bands[0].model_copy(update={"resampling": "nearest"}),))
    np.testing.assert_array_equal(read_as(path, contract, WHOLE), dn)


@pytest.mark.parametrize("off_grid", ["refuse", "warp"])
@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"crs": None}, "wrong-crs"),
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, "wrong-crs"),
        ({"transform": Affine(NAN, 0, 5e5, 0, -10, 5e6)}, "off-grid"),
        ({"transform": Affine(0, 0, 5e5, 0, -10, 5e6)}, "off-grid"),
    ],
)
def test_a_scene_without_a_place_on_earth_is_refused_whatever_is_set(
    product: Any, profile: dict[str, Any], reason: str, off_grid: str
) -> None:
    path = product.scene(0, **profile)
    assert refusal(path, contract_of(product, off_grid=off_grid)).reason == reason


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # it has no georeference: the fault
def test_a_scene_placed_by_control_points_or_not_at_all_is_off_grid(product: Any) -> None:
    path = product.inbox / "scene_20240601T050000Z.tif"
    points = [GroundControlPoint(r, c, 5e5 + 10 * c, 5e6 - 10 * r) for r, c in ((0, 0), (0, 48), (40, 0))]
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 48, "dtype": "uint16"}
    contract = contract_of(product, off_grid="warp")
    with rasterio.open(path, "w", **profile, gcps=points, crs="EPSG:32633") as file:
        file.write(product.dn(1))
    fault = refusal(path, contract)
    assert (fault.reason, "ground control points" in fault.detail) == ("off-grid", True)
    with rasterio.open(path, "w", **profile, crs="EPSG:32633") as file:
        file.write(product.dn(1))
    assert refusal(path, contract).reason == "off-grid"


# Its bands


def test_a_scene_of_another_type_is_refused(product: Any) -> None:
    path = product.scene(0, product.dn(1).astype(np.int16), nodata=-1)
    assert refusal(path, contract_of(product)).reason == "wrong-dtype"


def test_a_scene_with_too_few_bands_is_refused(make_product: Callable[..., Any]) -> None:
    bands = [{"name": name, "dtype": "uint16", "index": index} for index, name in enumerate("ab", 1)]
    product = make_product(bands=bands)
    assert refusal(product.scene(0, product.dn(1)[:1]), contract_of(product)).reason == "missing-band"


def test_bands_come_in_the_configured_order_whatever_the_scene_has(product: Any) -> None:
    dn = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    path = product.scene(0, dn, nodata=None, photometric="RGB")
    bands = tuple(BandSpec.model_validate({"name": f"b{n}", "dtype": "uint8", "index": n}) for n in (3, 1))
    fit = check(facts(path), contract_of(product, bands=bands))
    assert fit.indices == (3, 1)
    np.testing.assert_array_equal(pixels(request(path, fit, ["b3", "b1"], Window(0, 2, 1, 3))), dn[[2, 0], :, 1:3])
    np.testing.assert_array_equal(pixels(request(path, fit, ["b1"], Window(0, 2, 0, 4))), dn[:1])


def test_a_named_band_is_found_wherever_it_stands(product: Any) -> None:
    path = product.scene(0, np.stack([product.dn(n)[0] for n in range(3)]))
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "nir", "red")
    spec = contract_of(product).bands[0]

    def contract(source: str) -> Contract:
        return contract_of(product, bands=(spec.model_copy(update={"source": source, "index": 99}),))

    assert check(facts(path), contract("nir")).indices == (2,)
    assert refusal(path, contract("red")).reason == "ambiguous-band"
    missing = refusal(path, contract("blue"))
    assert (missing.reason, "it has red, nir, red" in missing.detail) == ("missing-band", True)


@pytest.mark.parametrize(
    ("declared", "file", "reason"),
    [
        (None, (0.3, 7), ""),
        ((0.1, -3), (0.1, -3), ""),
        ((0.1, 0), (0.1 * (1 + 1e-12), 1e-13), ""),
        ((0.1, -3), (0.1, 0), "wrong-scale"),
        ((0.0001, 0), (0.0001, -0.1), "wrong-scale"),
        ((0.1, -3), (1, 0), "wrong-scale"),
        ((1, 0), (0.1, -3), "wrong-scale"),
    ],
)
def test_a_scene_that_declares_another_scale_than_the_others_is_refused(
    declared: tuple[float, float] | None, file: tuple[float, float], reason: str
) -> None:
    scene, contract = said(scale=float(file[0]), offset=float(file[1])), one_band(declared=declared)
    try:
        check(scene, contract)
        found = ""
    except SceneError as fault:
        found = fault.reason
    assert found == reason


def test_a_scale_that_stands_in_text_only_is_declared_too() -> None:
    text = '<GDALMetadata><Item name="Gain">0.5</Item><Item name="Offset">-32.0</Item></GDALMetadata>'
    scene = replace(said(), tags={"GDAL_METADATA": text})
    assert check(scene, one_band(declared=(0.5, -32))).place == WHOLE
    with pytest.raises(SceneError, match="wrong-scale"):
        check(scene, one_band(declared=(0.5, -30)))


@pytest.mark.parametrize(
    ("dtype", "declared", "configured", "dn", "expected"),
    [
        ("uint16", 0, 65535, [0, 1, 65535], [65535, 1, 65535]),
        ("uint16", None, 65535, [0, 1, 65535], [0, 1, 65535]),
        ("uint16", 0, None, [0, 1, 2], [65535, 1, 2]),
        ("int16", -9999, -32768, [-9999, 0, 1], [-32768, 0, 1]),
        ("float32", -9999.9, None, [-9999.9, 0, NAN], [NAN, 0, NAN]),
        ("float32", -9999.9, -1.0, [-9999.9, 0, NAN], [-1, 0, NAN]),
        ("float32", NAN, -1.0, [NAN, 0, 1], [NAN, 0, 1]),
    ],
)
def test_another_nodata_than_the_configured_one_becomes_the_cubes_fill_and_never_zero(
    product: Any, dtype: str, declared: float | None, configured: float | None, dn: list[float], expected: list[float]
) -> None:
    band = BandSpec.model_validate({"name": "b", "dtype": dtype, "nodata": configured})
    path = product.scene(0, np.array([[dn]], dtype), nodata=declared)
    found = read_as(path, contract_of(product, bands=(band,)))
    np.testing.assert_array_equal(found, np.array([[expected]], dtype))


def test_special_values_are_missing_as_well(product: Any) -> None:
    band = BandSpec.model_validate({"name": "b", "dtype": "float32", "nodata": -3, "special": (-1, 0.1)})
    path = product.scene(0, np.array([[[-3, -1, 0.1, 0.2]]], np.float32), nodata=None)
    found = read_as(path, contract_of(product, bands=(band,)))
    np.testing.assert_array_equal(found, np.array([[[-3, -3, -3, 0.2]]], np.float32))


def test_a_declared_nodata_that_no_pixel_can_have_hides_none(product: Any) -> None:
    path = product.scene(0, np.array([[[3, 4, 255]]], np.uint8), nodata=200)
    path.write_bytes(path.read_bytes().replace(b"200\0", b"3.5\0"))
    band = BandSpec.model_validate({"name": "b", "dtype": "uint8", "nodata": 255})
    assert read_as(path, contract_of(product, bands=(band,))).tolist() == [[[3, 4, 255]]]


@pytest.mark.parametrize("hollow", [True, False])
@pytest.mark.parametrize("nodata", [None, 65535.0])
def test_blocks_without_a_place_in_the_file_are_waited_for_where_they_would_read_as_zeros(
    nodata: float | None, hollow: bool
) -> None:
    scene = said(hollow=hollow, nodata=nodata)
    if hollow and nodata is None:
        with pytest.raises(SceneError, match="incomplete"):
            check(scene, one_band())
    else:
        assert check(scene, one_band()).place == WHOLE


# Masks


@pytest.fixture
def masked(make_product: Callable[..., Any]) -> Any:
    return make_product(mask={"suffix": "_clm", "values": [1, 3]})


def test_a_mask_bears_the_name_of_its_scene() -> None:
    spec = MaskSpec(folder=Path("masks"), suffix="_clm")
    assert mask_path(Path("inbox/a_20240601.tif"), spec) == Path("masks/a_20240601_clm.tif")


def test_a_mask_is_read_where_its_scene_is(masked: Any) -> None:
    values = np.random.default_rng(0).integers(0, 5, (40, 48))
    scene = masked.scene(0)
    path, contract = masked.mask(scene, values), contract_of(masked)
    fit = check_mask(facts(path), masked.settings.scenes.mask, contract, check(facts(scene), contract))
    np.testing.assert_array_equal(pixels(mask_request(path, fit, Window(3, 9, 10, 40)))[0], values[3:9, 10:40])


def test_a_masks_own_nodata_stays_a_value(masked: Any) -> None:
    values, scene = np.arange(40 * 48).reshape(40, 48) % 4, masked.scene(0)
    path = masked.mask(scene, values)
    with rasterio.open(path, "r+") as file:
        file.nodata = 2
    fit = check_mask(facts(path), masked.settings.scenes.mask, contract_of(masked), Fit(WHOLE, (0, 0), (), (8, 48)))
    np.testing.assert_array_equal(pixels(mask_request(path, fit, WHOLE))[0], values)


@pytest.mark.parametrize(
    "profile",
    [
        {"crs": "EPSG:32632"},
        {"transform": Affine(10, 0, 5e5, 0, -10, 5e6 - 10), "height": 39},
        {"transform": Affine(20, 0, 5e5, 0, -20, 5e6), "height": 20, "width": 24},
    ],
)
def test_a_mask_that_does_not_fit_is_no_fault_of_its_scene(masked: Any, profile: dict[str, Any]) -> None:
    scene, contract = masked.scene(0), contract_of(masked)
    path = masked.mask(scene, np.zeros((profile.get("height", 40), profile.get("width", 48))), **profile)
    with pytest.raises(SceneError, match=f"bad-mask: the mask {path.name}") as caught, blaming_mask(path.name):
        check_mask(facts(path), masked.settings.scenes.mask, contract, check(facts(scene), contract))
    with pytest.raises(SceneError) as again, blaming_mask("another"):
        raise caught.value
    assert again.value.detail == caught.value.detail


def test_a_coarser_mask_is_warped_onto_its_scene(masked: Any) -> None:
    values = np.random.default_rng(0).integers(0, 5, (20, 24))
    scene, contract = masked.scene(0), contract_of(masked, off_grid="warp")
    path = masked.mask(scene, values, transform=Affine(20, 0, 5e5, 0, -20, 5e6))
    fit = check_mask(facts(path), masked.settings.scenes.mask, contract, check(facts(scene), contract))
    np.testing.assert_array_equal(pixels(mask_request(path, fit, WHOLE))[0], values.repeat(2, 0).repeat(2, 1))


def test_beside_a_warped_scene_a_mask_on_the_grid_covers_its_place_and_is_unusable_beyond_itself(masked: Any) -> None:
    contract = contract_of(masked, off_grid="warp")
    smaller = {"transform": Affine(10, 0, 5e5 + 104, 0, -10, 5e6 - 104)}
    scene = masked.scene(0, masked.dn(1, (1, 20, 20)), **smaller)
    values = np.random.default_rng(0).integers(0, 5, (21, 21))
    path = masked.mask(scene, values, transform=Affine(10, 0, 5e5 + 100, 0, -10, 5e6 - 100))
    own = check(facts(scene), contract)
    fit = check_mask(facts(path), masked.settings.scenes.mask, contract, own)
    found = pixels(mask_request(path, fit, own.place))[0]
    inner = Window(10, 31, 10, 31).within(own.place)
    np.testing.assert_array_equal(found[inner.slices], values)
    found[inner.slices] = 1
    assert np.isin(found, masked.settings.scenes.mask.values).all()


def test_a_mask_that_is_still_being_written_is_no_mask_yet() -> None:
    spec, scene = MaskSpec(folder=Path()), Fit(WHOLE, (0, 0), (), (8, 48))
    with pytest.raises(SceneError, match="incomplete"):
        check_mask(said(dtype="uint8", nodata=None, hollow=True), spec, one_band(), scene)


# Real scenes


def real(folder: Path, *, nth: int = 0, off_grid: Any = "refuse") -> tuple[Path, Contract]:
    """A scene, and the contract that the first one of its folder keeps."""
    paths = sorted(folder.glob("*.tif"))
    header = read_header(paths[0])
    assert header.grid is not None
    grid = GeoBox(header.grid.shape, Affine(*header.grid.transform), header.grid.crs)
    return paths[nth], Contract(header.bands, grid, off_grid)


@pytest.mark.parametrize("name", ["fmi_250m_20160928", "tura_ndvi", "s2_slovenia", "mrms_conus_1km_20190610"])
def test_real_scenes_of_one_grid_keep_the_contract(shared_data: Path, name: str) -> None:
    for nth in (0, -1):
        path, contract = real(shared_data / name, nth=nth)
        fit = check(facts(path), contract)
        assert (fit.warp, fit.offset, fit.place.shape) == (False, (0, 0), tuple(contract.grid.shape))


def test_a_nodata_that_stands_in_text_only_is_missing_in_a_real_scene(shared_data: Path) -> None:
    path, contract = real(shared_data / "fmi_250m_20160928")
    spec = contract.bands[0].model_copy(update={"nodata": 254})
    found = read_as(path, replace(contract, bands=(spec,)), Window(0, 512, 0, 512))
    raw = read_as(path, contract, Window(0, 512, 0, 512))
    assert (raw == 255).any()
    np.testing.assert_array_equal(found == 254, (raw == 255) | (raw == 254))


@pytest.mark.parametrize("name", ["l8_newyork_2018", "typhoon200717_ir"])
def test_real_scenes_that_have_a_grid_each_are_warped_onto_the_first(shared_data: Path, name: str) -> None:
    path, contract = real(shared_data / name, nth=3)
    assert refusal(path, contract).reason == ("off-grid" if name.startswith("l8") else "wrong-crs")
    path, contract = real(shared_data / name, nth=3, off_grid="warp")
    found = read_as(path, contract, Window(20, 70, 20, 70))
    assert check(facts(path), contract).warp
    assert (found != np.uint16(contract.bands[0].fill)).mean() > 0.9
    with open_geotiff(path) as dataset:
        own = dataset.read()
    for band, warped, values in zip(contract.bands, found, own, strict=True):
        assert values.min() <= warped.min() <= warped.max() <= values.max()
        if band.name == "BQA":
            assert set(np.unique(warped)) <= set(np.unique(values))  # quality bits are never mixed


def test_real_masks_lie_on_their_scenes(shared_data: Path) -> None:
    path, contract = real(shared_data / "s2_slovenia", nth=5)
    spec = MaskSpec(folder=shared_data / "s2_slovenia" / "mask", suffix="_clm")
    fit = check_mask(facts(mask_path(path, spec)), spec, contract, check(facts(path), contract))
    found = pixels(mask_request(mask_path(path, spec), fit, fit.place))
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= {0, 1, 255}
