"""The forecast product as others see it: GeoTIFF in rasterio, rioxarray and rio; STAC against the published schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rioxarray
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pystac.validation import JsonSchemaSTACValidator
from rio_cogeo.cogeo import cog_validate

from pipeline.predictor import Forecast, Source
from pipeline.publishing import publish
from pipeline.raster import sha256
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.specs import BandSpec, ProductSpec, ProviderSpec
from pipeline.stac import footprint

INIT = datetime(2020, 4, 1, 13, 10, tzinfo=UTC)
MARK = (123, 57)  # row and column of the landmark's corner
SETS = {
    "hrv_1km_20200401": BandSpec(name="hrv", dtype="int16", units="1"),
    "fmi_1km_20160928": BandSpec(name="dbz", dtype="uint8", units="dBZ", scale=0.5, offset=-32, nodata=255),
    "knmi_1km_20100826": BandSpec(name="rain", dtype="uint16", units="mm", scale=0.01, nodata=65535),
    "s2_slovenia": BandSpec(name="ndvi", dtype="float32", units="1", nodata=float("nan")),
}
STORED = {  # type, nodata and scale of a published file: 16 steps in one of the scenes'
    "hrv": ("int32", "-2147483648.0", 1 / 16),
    "dbz": ("uint16", "65535.0", 1 / 32),
    "rain": ("uint32", "4294967295.0", 0.01 / 16),
    "ndvi": ("float32", "nan", 1.0),
}
QUANTITIES = ("mean", "q10", "q50", "q90", "matched")


@dataclass(frozen=True, slots=True)
class Case:
    """A published run beside the scene that it should lie upon."""

    scene: Path
    band: BandSpec
    grid: GeoBox
    folder: Path

    @property
    def tif(self) -> Path:
        return self.folder / "lead-0005m.tif"

    @property
    def stored(self) -> tuple[str, str, float]:
        return STORED[self.band.name]


@pytest.fixture(scope="module", params=SETS)
def case(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    scene = min((shared_data / request.param).glob("*.tif"))
    band = SETS[request.param]
    with rasterio.open(scene) as dataset:
        grid = GeoBox(dataset.shape, dataset.transform, CRS(dataset.crs.to_wkt()))
        shown = dataset.read(1, masked=True)
    values = (shown.astype(np.float32) * band.scale + band.offset).filled(np.nan)
    mark = _landmark(band)
    values[_place(mark, grid)] = mark
    folder = publish(_forecast(values), RUN, _outlet(band, grid, tmp_path_factory.mktemp("forecasts")), {"crs": True})
    return Case(scene, band, grid, folder)


RUN = RunRecord(
    init=INIT,
    cadence=timedelta(minutes=5),
    model=ModelRef("hrv", "7", "network"),
    snapshot="1CECHUNKSNAPSH0T0000",
    scenes=("hrv_20200401T1305Z.tif", "hrv_20200401T1310Z.tif"),
    specification='{"horizon": 2}',
    code_version="0.1.0",
)


def _outlet(band: BandSpec, grid: GeoBox, root: Path) -> Outlet:
    provider = ProviderSpec(name="Institute", roles=("licensor", "producer"), url="https://example.org")
    terms = ProductSpec(
        name="p", title="A product", licence="CC-BY-4.0", attribution="© Institut", providers=(provider,)
    )
    return Outlet(terms, (band,), grid, root)


def _landmark(band: BandSpec) -> np.ndarray:
    """An F, which no flip and no turn maps onto itself."""
    letter = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    return band.offset + band.scale * 2 + letter * band.scale * 90


def _place(mark: np.ndarray, grid: GeoBox) -> tuple[slice, slice]:
    row, column = MARK[0] % (grid.height - 9), MARK[1]
    return slice(row, row + mark.shape[0]), slice(column, column + mark.shape[1])


def _forecast(values: np.ndarray) -> Forecast:
    """Two leads of the same field, in every quantity."""
    leads = np.broadcast_to(values[..., None], (1, 2, len(QUANTITIES), *values.shape, 1))
    shape = (1, 2, *values.shape)
    return Forecast(leads, np.full(shape, Source.NETWORK, np.uint8), np.ones(shape, np.float32), QUANTITIES)


def _marked(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The landmark, and the coordinates in the scene of its pixels' centres."""
    mark = _landmark(case.band)
    rows, columns = np.mgrid[_place(mark, case.grid)]
    with rasterio.open(case.scene) as scene:
        x, y = rasterio.transform.xy(scene.transform, rows.ravel(), columns.ravel())
    return mark, np.reshape(x, mark.shape), np.reshape(y, mark.shape)


def test_a_pixel_lies_where_the_scenes_pixel_lies_in_rasterio(case: Case) -> None:
    mark, x, y = _marked(case)
    with rasterio.open(case.tif) as dataset:
        found = np.array([dn[0] for dn in dataset.sample(zip(x.ravel(), y.ravel(), strict=True))], np.float64)
        physical = found * dataset.scales[0] + dataset.offsets[0]
    np.testing.assert_allclose(physical.reshape(mark.shape), mark, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray multiplies affines with *
def test_a_pixel_lies_where_the_scenes_pixel_lies_in_rioxarray(case: Case) -> None:
    mark, x, y = _marked(case)
    with rioxarray.open_rasterio(case.tif, mask_and_scale=True) as raster:
        found = raster.sel(band=1).sel(x=x[0], y=y[:, 0], method="nearest", tolerance=0.01 * abs(x[0, 1] - x[0, 0]))
        np.testing.assert_allclose(found.values, mark, atol=1e-5)
        assert raster.rio.crs == _scene_crs(case)


def test_every_quantity_is_found_by_its_name_and_says_the_same_in_every_reader(case: Case) -> None:
    mark = _landmark(case.band)
    with rioxarray.open_rasterio(case.tif, mask_and_scale=True) as raster, rasterio.open(case.tif) as dataset:
        assert dataset.descriptions == raster.attrs["long_name"] == QUANTITIES
        dn, layers = dataset.read(masked=True), raster.values
    scaled = np.ma.filled(dn.astype(np.float64) * case.stored[2] + case.band.offset, np.nan)
    np.testing.assert_allclose(layers, scaled, atol=1e-4)
    place = (slice(None), *_place(mark, case.grid))
    np.testing.assert_allclose(layers[place], np.broadcast_to(mark, layers[place].shape), atol=1e-5)


def test_a_missing_pixel_is_missing_in_the_file(case: Case) -> None:
    with rasterio.open(case.tif) as dataset:
        np.testing.assert_array_equal(np.ma.getmaskarray(dataset.read(3, masked=True)), _absent(case))


def test_an_overview_is_missing_where_all_that_it_stands_for_is(case: Case) -> None:
    with rasterio.open(case.tif) as dataset:
        if not dataset.overviews(1):
            pytest.skip("a small file has none")
    with rasterio.open(case.tif, OVERVIEW_LEVEL=0) as overview:
        found = np.ma.getmaskarray(overview.read(3, masked=True))
    height, width = (side // 2 for side in case.grid.shape)
    blocks = _absent(case)[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    agreeing = found[:height, :width] == blocks.all(axis=(1, 3))
    assert agreeing.mean() > 0.99  # sides of odd length are thinned by a little more than 2


def _absent(case: Case) -> np.ndarray:
    with rasterio.open(case.scene) as scene:
        absent = np.ma.getmaskarray(scene.read(1, masked=True)).copy()
    absent[_place(_landmark(case.band), case.grid)] = False
    return absent


def _scene_crs(case: Case) -> Any:
    with rasterio.open(case.scene) as scene:
        return scene.crs


def test_rio_info_shows_the_scenes_grid_and_what_the_bands_are(case: Case) -> None:
    command = [str(Path(sys.executable).with_name("rio")), "info", str(case.tif)]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    with rasterio.open(case.scene) as scene:
        assert rasterio.CRS.from_string(shown["crs"]) == scene.crs
        assert shown["transform"] == list(scene.transform)
        assert (shown["shape"], shown["dtype"]) == (list(scene.shape), case.stored[0])
    assert (shown["descriptions"], shown["units"]) == (list(QUANTITIES), [case.band.units] * 5)
    assert str(float(shown["nodata"])) == case.stored[1]


def test_crs_transform_offset_and_units_are_the_scenes_and_their_steps_are_finer(case: Case) -> None:
    dtype, nodata, scale = case.stored
    with rasterio.open(case.tif) as ours, rasterio.open(case.scene) as scene:
        assert (ours.crs, ours.transform, ours.shape) == (scene.crs, scene.transform, scene.shape)
        assert (ours.dtypes[0], str(float(ours.nodata))) == (dtype, nodata)
        assert {*zip(ours.scales, ours.offsets, ours.units, strict=True)} == {
            (scale, case.band.offset, case.band.units)
        }


def test_with_the_scenes_resolution_type_nodata_and_scale_are_theirs_too(case: Case, tmp_path: Path) -> None:
    values = np.full(case.grid.shape, case.band.offset, np.float32)
    outlet = replace(_outlet(case.band, case.grid, tmp_path), resolution="scenes")
    folder = publish(_forecast(values), RUN, outlet, {})
    with rasterio.open(folder / case.tif.name) as ours, rasterio.open(case.scene) as scene:
        assert (ours.dtypes[0], ours.scales[0]) == (scene.dtypes[0], case.band.scale)
        assert str(float(ours.nodata)) == str(case.band.fill)
        assert scene.nodata is None or str(scene.nodata) == str(case.band.fill)


def test_times_and_lineage_are_inside_the_tiff(case: Case) -> None:
    with rasterio.open(case.folder / "lead-0010m.tif") as dataset:
        tags = dataset.tags()
        band_tags = dataset.tags(2)
    expected = {
        "product": "p",
        "init_time": "2020-04-01T13:10:00Z",
        "valid_time": "2020-04-01T13:20:00Z",
        "lead_minutes": "10",
        "run_key": case.folder.name,
        "model": "hrv",
        "model_version": "7",
        "model_source": "network",
        "snapshot": "1CECHUNKSNAPSH0T0000",
        "scenes": '["hrv_20200401T1305Z.tif", "hrv_20200401T1310Z.tif"]',
        "licence": "CC-BY-4.0",
        "attribution": "© Institut",
        "TIFFTAG_DATETIME": "2020:04:01 13:20:00",
        "TIFFTAG_SOFTWARE": "cubecast 0.1.0",
        "TIFFTAG_COPYRIGHT": "© Institut",
        "TIFFTAG_IMAGEDESCRIPTION": "A product",
        "AREA_OR_POINT": "Area",
    }
    assert tags == expected
    assert band_tags == {"cube_band": case.band.name, "quantity": "q10", "probability": "0.1"}


def test_every_tiff_is_a_valid_cog_without_side_files(case: Case) -> None:
    for path in case.folder.glob("*.tif"):
        assert cog_validate(path, quiet=True) == (True, [], [])
    assert {path.suffix for path in case.folder.iterdir()} == {".tif", ".json"}


class _Offline(pystac.StacIO):
    def read_text(self, source: Any, *_: Any, **__: Any) -> str:
        msg = f"a test reads no schema from the network: {source}"
        raise AssertionError(msg)

    def write_text(self, dest: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(dest)


@pytest.fixture(scope="module")
def validator(shared_schemas: Path) -> JsonSchemaSTACValidator:
    checker = JsonSchemaSTACValidator()
    for path in shared_schemas.rglob("schema.json"):
        schema = json.loads(path.read_text())
        checker.schema_cache[schema["$id"].removesuffix("#")] = schema
    return checker


def _validate(validator: JsonSchemaSTACValidator, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pystac.StacIO, "default", classmethod(lambda _: _Offline()))
    kind = pystac.STACObjectType.ITEM if content["type"] == "Feature" else pystac.STACObjectType.CATALOG
    validated = validator.validate(content, kind, content["stac_version"], content.get("stac_extensions", []))
    assert len(validated) == 1 + len(content.get("stac_extensions", []))


def test_items_fit_stac_1_1_and_their_extensions(
    case: Case, validator: JsonSchemaSTACValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in case.folder.glob("lead-*.json"):
        content = json.loads(path.read_text())
        assert (content["stac_version"], len(content["stac_extensions"])) == ("1.1.0", 5)
        _validate(validator, content, monkeypatch)


def test_a_broken_item_does_not_pass_the_same_validation(
    case: Case, validator: JsonSchemaSTACValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((case.folder / "lead-0005m.json").read_text())
    content["properties"]["forecast:horizon"] = 5
    with pytest.raises(pystac.STACValidationError):
        _validate(validator, content, monkeypatch)


def test_an_item_says_when_where_and_under_which_terms(case: Case) -> None:
    content = json.loads((case.folder / "lead-0010m.json").read_text())
    properties = content["properties"]
    assert properties["datetime"] == "2020-04-01T13:20:00Z"
    assert properties["forecast:reference_datetime"] == "2020-04-01T13:10:00Z"
    assert properties["forecast:horizon"] == "PT10M"
    assert CRS(properties["proj:code"] or properties["proj:wkt2"]) == case.grid.crs
    assert properties["proj:transform"] == list(case.grid.transform)[:6]
    assert properties["proj:shape"] == list(case.grid.shape)
    assert (properties["license"], properties["attribution"]) == ("CC-BY-4.0", "© Institut")
    assert properties["providers"][0] == {
        "name": "Institute",
        "roles": ["licensor", "producer"],
        "url": "https://example.org",
    }


def test_assets_have_the_checksum_size_and_bands_of_their_files(case: Case) -> None:
    assets = json.loads((case.folder / "lead-0005m.json").read_text())["assets"]
    assert {name: asset["href"] for name, asset in assets.items()} == {
        "data": "./lead-0005m.tif",
        "quality": "./lead-0005m-quality.tif",
    }
    for asset in assets.values():
        path = case.folder / asset["href"]
        assert asset["file:checksum"] == "1220" + sha256(path)  # multihash: 0x12 is SHA2-256, 0x20 its length
        assert asset["file:size"] == path.stat().st_size
        assert asset["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    band = assets["data"]["bands"][0]
    dtype, nodata, scale = case.stored
    assert (band["name"], band["data_type"], band["unit"]) == ("mean", dtype, case.band.units)
    assert (band["raster:scale"], band["raster:offset"]) == (scale, case.band.offset)
    assert str(float(band["nodata"])) == nodata


def test_an_item_says_what_each_band_of_the_forecast_means(case: Case) -> None:
    content = json.loads((case.folder / "lead-0005m.json").read_text())
    assert content["properties"]["cubecast:quantities"] == list(QUANTITIES)
    bands = content["assets"]["data"]["bands"]
    assert [(band["cubecast:band"], band["cubecast:quantity"]) for band in bands] == [
        (case.band.name, quantity) for quantity in QUANTITIES
    ]
    assert [band.get("cubecast:probability") for band in bands] == [None, 0.1, 0.5, 0.9, None]
    assert bands[3]["description"] == "Quantile: the truth is at most this with a probability of 0.9"


def test_the_days_catalogue_links_every_item(
    case: Case, validator: JsonSchemaSTACValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = case.folder.parents[1]
    content = json.loads((day / "catalog.json").read_text())
    _validate(validator, content, monkeypatch)
    linked = {(day / link["href"]).resolve() for link in content["links"] if link["rel"] == "item"}
    assert linked == {path.resolve() for path in case.folder.glob("lead-*.json")}
    parents = [link["href"] for link in json.loads(min(linked).read_text())["links"] if link["rel"] == "parent"]
    assert [(case.folder / href).resolve() for href in parents] == [(day / "catalog.json").resolve()]


def test_pystac_walks_the_catalogue(case: Case) -> None:
    catalogue = pystac.Catalog.from_file(case.folder.parents[1] / "catalog.json")
    items = list(catalogue.get_items())
    assert [item.datetime for item in items] == [INIT + timedelta(minutes=5), INIT + timedelta(minutes=10)]
    assert {Path(asset.get_absolute_href() or "").is_file() for item in items for asset in item.assets.values()} == {
        True
    }


def _lonlat_grid(left: float, top: float, size: float) -> GeoBox:
    return GeoBox((40, 60), Affine(size / 60, 0, left, 0, -size / 60, top), CRS("EPSG:4326"))


def test_a_footprint_goes_round_its_grid_anticlockwise() -> None:
    place = footprint(_lonlat_grid(5, 50, 6))
    assert place.bbox == [5, 46, 11, 50]
    x, y = np.array(place.geometry["coordinates"][0]).T
    assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2 == pytest.approx(24)


@pytest.mark.parametrize("left", [177, -183])
def test_a_footprint_across_the_antimeridian_is_cut_there(left: float) -> None:
    place = footprint(_lonlat_grid(left, 50, 6))
    assert place.bbox == [177, 46, -177, 50]
    assert [np.ptp(np.array(part[0])[:, 0]) for part in place.geometry["coordinates"]] == [3, 3]


def test_a_footprint_round_a_pole_takes_in_every_longitude() -> None:
    grid = GeoBox((100, 100), Affine(50e3, 0, -2.5e6, 0, -50e3, 2.5e6), CRS("EPSG:3413"))
    place = footprint(grid)
    assert (place.bbox[0], place.bbox[2]) == (-180, 180)
    assert place.bbox[3] > 89


def test_a_footprint_of_the_full_disc_leaves_space_out() -> None:
    disc = "+proj=geos +lon_0=140 +h=35785831 +ellps=WGS84 +units=m"
    place = footprint(GeoBox((110, 110), Affine(1e5, 0, -5.5e6, 0, -1e5, 5.5e6), CRS(disc)))
    west, south, east, north = place.bbox
    assert 60 < west < 75
    assert -155 < east < -140  # 80 degrees on either side of 140 E, beyond the antimeridian
    assert (-82 < south < -70, 70 < north < 82) == (True, True)
