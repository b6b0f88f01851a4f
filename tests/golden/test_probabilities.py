"""Probabilities in a published run, as others read them: names, tags, scale, nodata, overviews, STAC."""

from __future__ import annotations

import json
import shutil
import subprocess
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
from odc import stac
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pystac.validation import JsonSchemaSTACValidator
from rio_cogeo.cogeo import cog_validate
from scipy.stats import norm

from pipeline.catalog import PublishedRun, read_run
from pipeline.predictor import Forecast, Source
from pipeline.publishing import publish
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.specs import BandSpec, ProductSpec

GRID = GeoBox((400, 600), Affine(1000, 0, 5e5, 0, -1000, 5e6), CRS("EPSG:32633"))
HOLE = (slice(0, 60), slice(0, 50))
QUANTITIES = ("mean", "q10", "q50", "q90")
RAIN = BandSpec(name="rain", dtype="uint8", units="mm", scale=0.5, nodata=255, transform="log", period="PT5M")
TOP = BandSpec(name="top", dtype="float32", units="K", valid_min=150, valid_max=350)
THRESHOLDS = {"rain": (0.5, 5.0)}
RECORD = RunRecord(
    datetime(2020, 4, 1, 13, 10, tzinfo=UTC),
    timedelta(minutes=5),
    ModelRef("r", "1", "network"),
    "S",
    ("a",),
    "{}",
    "1",
)


def a_forecast(bands: int = 1) -> Forecast:
    """Rain from 0 to 10 mm along x, within an interval of 4 mm about the median; what is negative is 0. A hole."""
    middle = np.broadcast_to(np.linspace(0, 10, GRID.shape[1]), GRID.shape)
    layers = np.stack([np.clip(middle + off, 0, None) for off in (0, -2, 0, 2)])
    values = np.stack([np.stack([layers, layers + 1])] * bands, axis=-1)[np.newaxis].astype(np.float32)
    values[:, :, :, *HOLE] = np.nan
    values[..., 1:] += 250
    shape = (1, 2, *GRID.shape)
    return Forecast(values, np.full(shape, Source.NETWORK, np.uint8), np.zeros(shape, np.float32), QUANTITIES)


def published(root: Path, *bands: BandSpec, **options: Any) -> PublishedRun:
    outlet = Outlet(ProductSpec(name="radar"), bands, GRID, root, **{"probabilities": THRESHOLDS} | options)
    return read_run(publish(a_forecast(len(bands)), RECORD, outlet, {}))


@dataclass(frozen=True)
class Case:
    """A published run of rain."""

    run: PublishedRun

    @property
    def tif(self) -> Path:
        return self.run.leads[5]

    @property
    def item(self) -> dict[str, Any]:
        return json.loads(self.tif.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(published(tmp_path_factory.mktemp("forecasts"), RAIN))


def expected(threshold: float) -> np.ndarray:
    """Of the first lead: the two-piece normal law; a tail that reaches below zero lies there."""
    low, middle, high = a_forecast().values[0, 0, 1:, ..., 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        spread = np.where(threshold < middle, middle - low, high - middle) / norm.ppf(0.9)
        return norm.sf((threshold - middle) / spread)


@pytest.mark.filterwarnings("ignore:(Scales|Offsets) differ across bands:UserWarning")  # rioxarray takes each its own
def test_probabilities_stand_behind_the_quantities_in_every_reader(case: Case) -> None:
    names = (*QUANTITIES, "p_ge_0p5", "p_ge_5")
    with rioxarray.open_rasterio(case.tif, mask_and_scale=True) as raster, rasterio.open(case.tif) as dataset:
        assert dataset.descriptions == raster.attrs["long_name"] == names
        assert (dataset.dtypes, dataset.nodata) == (("uint16",) * 6, 65535)
        assert dataset.units[4:] == ("1", "1")
        assert (dataset.scales[4:], dataset.offsets[4:]) == ((1e-4, 1e-4), (0, 0))
        found = raster.values[4:]
    for layer, threshold in zip(found, THRESHOLDS["rain"], strict=True):
        np.testing.assert_allclose(layer, expected(threshold), atol=0.51e-4)
    assert np.isnan(found[:, *HOLE]).all()


def test_tags_say_which_event_it_is(case: Case) -> None:
    with rasterio.open(case.tif) as dataset:
        assert dataset.tags(6) == {
            "cube_band": "rain",
            "quantity": "probability",
            "threshold": "5",
            "unit": "mm",
            "event": ">=",
            "period": "PT5M",
            "time_labels": "end",
        }


def test_overviews_are_the_mean_of_the_valid_pixels(case: Case) -> None:
    with rasterio.open(case.tif) as dataset, rasterio.open(case.tif, OVERVIEW_LEVEL=0) as smaller:
        full, small = dataset.read(6, masked=True).astype(float), smaller.read(6, masked=True)
    means = full.reshape(200, 2, 300, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(small.astype(float).filled(0), means.filled(0), atol=0.51)
    assert cog_validate(case.tif, quiet=True) == (True, [], [])


def test_gdal_finds_the_same_by_the_band_s_name(case: Case) -> None:
    if shutil.which("gdalinfo") is None:
        pytest.skip("GDAL's programs are not installed (Debian: gdal-bin)")
    shown = json.loads(subprocess.run(["gdalinfo", "-json", case.tif], check=True, capture_output=True).stdout)
    band = next(one for one in shown["bands"] if one["description"] == "p_ge_5")
    assert (band["scale"], band["metadata"][""]["event"]) == (1e-4, ">=")


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo 0.5 calls it
def test_odc_stac_loads_a_probability_by_its_name(case: Case) -> None:
    items = [pystac.Item.from_file(case.tif.with_name(f"lead-{lead:04d}m.json")) for lead in (5, 10)]
    bands = items[0].assets["data"].extra_fields["bands"]
    aliases = {band["name"]: ("data", number) for number, band in enumerate(bands, 1)}
    dn = stac.load(items, bands=["p_ge_0p5"], stac_cfg={"aliases": aliases})["p_ge_0p5"]
    found = dn.where(dn != 65535)[0] * 1e-4
    np.testing.assert_allclose(found, expected(0.5), atol=0.51e-4)


def test_an_item_says_the_same_and_keeps_probabilities_apart_from_quantities(case: Case) -> None:
    assert case.item["properties"]["cubecast:quantities"] == list(QUANTITIES)
    assert case.item["assets"]["data"]["bands"][5] == {
        "name": "p_ge_5",
        "data_type": "uint16",
        "unit": "1",
        "raster:scale": 1e-4,
        "raster:offset": 0.0,
        "nodata": 65535,
        "cubecast:band": "rain",
        "cubecast:quantity": "probability",
        "cubecast:event": ">=",
        "cubecast:threshold": 5.0,
        "cubecast:threshold_unit": "mm",
        "description": "Probability that rain is at least 5 mm",
    }


def test_an_item_with_probabilities_fits_stac_1_1_and_its_extensions(case: Case, shared_schemas: Path) -> None:
    checker = JsonSchemaSTACValidator()
    for path in shared_schemas.rglob("schema.json"):
        schema = json.loads(path.read_text())
        checker.schema_cache[schema["$id"].removesuffix("#")] = schema
    item = case.item
    found = checker.validate(item, pystac.STACObjectType.ITEM, "1.1.0", item["stac_extensions"])
    assert len(found) == 1 + len(item["stac_extensions"])


# --- as cubecast reads it -------------------------------------------------------------------------


def test_a_run_gives_quantities_as_ever_and_probabilities_by_band_and_threshold(case: Case) -> None:
    said = case.run.read(5)
    assert said.shape == (4, *GRID.shape, 1)
    np.testing.assert_allclose(said, a_forecast().values[0, 0], atol=1 / 64)
    np.testing.assert_allclose(case.run.probability(5, "rain", 5), expected(5), atol=0.51e-4)


def test_a_probability_that_a_run_does_not_say_is_refused_with_those_that_it_says(case: Case) -> None:
    for band, threshold in (("rain", 1.0), ("top", 5.0)):
        with pytest.raises(Exception, match=r"says \['rain >= 0.5', 'rain >= 5'\], not one of"):
            case.run.probability(5, band, threshold)


def test_several_bands_name_theirs_and_a_temperature_is_an_event_below(tmp_path: Path) -> None:
    run = published(tmp_path, RAIN, TOP, probabilities={"top": (253.0,), "rain": (5.0,)})
    with rasterio.open(run.leads[5]) as dataset:
        assert dataset.descriptions[8:] == ("rain_p_ge_5", "top_p_lt_253")
        assert (dataset.tags(10)["event"], dataset.tags(10)["unit"], dataset.dtypes[0]) == ("<", "K", "float32")
    said = a_forecast(2).values[0, 0]
    np.testing.assert_allclose(run.read(5), said, atol=1e-5)
    cold = run.probability(5, "top", 253)
    at_median = np.isclose(said[2, ..., 1], 253, atol=0.01)
    np.testing.assert_allclose(cold[at_median], 0.5, atol=0.01)
    assert np.nanmin(np.diff(-cold, axis=1)) >= -1e-6  # the warmer, the less likely


def test_in_the_scenes_eight_bits_a_step_is_a_254th(tmp_path: Path) -> None:
    run = published(tmp_path, RAIN, resolution="scenes")
    with rasterio.open(run.leads[5]) as dataset:
        assert (dataset.dtypes[5], dataset.scales[5], dataset.nodata) == ("uint8", 1 / 254, 255)
    np.testing.assert_allclose(run.probability(5, "rain", 5), expected(5), atol=0.51 / 254)


def test_a_run_without_quantiles_has_no_probabilities(tmp_path: Path) -> None:
    outlet = Outlet(ProductSpec(name="radar"), (RAIN,), GRID, tmp_path, probabilities=THRESHOLDS)
    said = a_forecast()
    run = read_run(publish(replace(said, values=said.values[:, :, :1], quantities=("mean",)), RECORD, outlet, {}))
    assert run.chances == ()
    with rasterio.open(run.leads[5]) as dataset:
        assert dataset.descriptions == ("mean",)
