"""The GeoTIFFs of a run as files: valid, small, with overviews that mean something, and the same whoever makes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from pipeline.ingest import ingest
from pipeline.inspect import inspect, write
from pipeline.predictor import Forecast, Source
from pipeline.publishing import publish
from pipeline.raster import encode
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.sheets import stored_bands
from pipeline.specs import BandSpec, ProductSpec
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes

INIT = datetime(2020, 4, 1, 13, 10, tzinfo=UTC)
GRID = GeoBox((560, 520), Affine(1000, 0, 5e5, 0, -1000, 5e6), CRS("EPSG:32633"))
QUANTITIES = ("mean", "q10", "q50", "q90", "matched")
BANDS = {
    "uint16": BandSpec(name="dbz", dtype="uint8", units="dBZ", scale=0.5, offset=-32, nodata=255),
    "int16": BandSpec(name="t", dtype="int8", units="degC"),
    "int32": BandSpec(name="hrv", dtype="int16"),
    "uint32": BandSpec(name="rain", dtype="uint16", units="mm", scale=0.01, nodata=65535),
    "float32": BandSpec(name="ndvi", dtype="float32", nodata=float("nan")),
}


def said() -> Forecast:
    """Noise between 0 and 20, quantiles in order; blocks of 3 pixels and single ones are missing."""
    random = np.random.default_rng(0)
    field = random.uniform(0, 10, GRID.shape)
    layers = np.stack([field + 4, field, field + 5, field + 9, np.rint(field)])
    layers[:, random.random(GRID.shape) < 0.1] = np.nan
    layers[:, 100:160, 200:290] = np.nan
    known = np.isfinite(layers[0])
    source = np.where(known, random.integers(1, 5, GRID.shape), Source.NONE).astype(np.uint8)
    age = np.where(known, random.integers(0, 4, GRID.shape), np.nan).astype(np.float32)
    values = layers[np.newaxis, np.newaxis, ..., np.newaxis].astype(np.float32)
    return Forecast(values, source[np.newaxis, np.newaxis], age[np.newaxis, np.newaxis], QUANTITIES)


@pytest.fixture(scope="module", params=BANDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BandSpec]:
    """A run, and how its band is stored."""
    band = BANDS[request.param]
    run = RunRecord(INIT, timedelta(minutes=5), ModelRef("m", "1", "network"), "S", ("a",), "{}", "0.1.0")
    outlet = Outlet(ProductSpec(name="p"), (band,), GRID, tmp_path_factory.mktemp("runs"))
    (stored,) = stored_bands((band,), "fine")
    assert stored.dtype == request.param
    return publish(said(), run, outlet, {}), stored


def test_every_file_is_a_valid_cog_without_a_warning(published: tuple[Path, BandSpec]) -> None:
    files = sorted(published[0].glob("*.tif"))
    assert len(files) == 2
    for path in files:
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_every_file_has_the_predictor_of_its_type(published: tuple[Path, BandSpec]) -> None:
    for path in published[0].glob("*.tif"):
        with rasterio.open(path) as file:
            expected = "3" if file.dtypes[0].startswith("float") else "2"
            about = file.tags(ns="IMAGE_STRUCTURE")
            assert (about["COMPRESSION"], about["PREDICTOR"]) == ("DEFLATE", expected)


def halves(layer: np.ndarray) -> np.ndarray:
    """``(y / 2, x / 2, 4)``: what each pixel of the first overview stands for."""
    height, width = layer.shape
    return layer.reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).reshape(height // 2, width // 2, 4)


def test_an_overview_of_values_is_the_mean_of_the_valid_ones(published: tuple[Path, BandSpec]) -> None:
    folder, stored = published
    with rasterio.open(folder / "lead-0005m.tif", OVERVIEW_LEVEL=0) as overview:
        assert overview.shape == (280, 260)
        shown = overview.read(masked=True)
    for layer, values in zip(shown, said().values[0, 0, ..., 0], strict=True):
        dn = halves(np.ma.masked_where(np.isnan(values), encode(values, stored)).astype(np.float64).filled(np.nan))
        known = np.isfinite(dn)
        np.testing.assert_array_equal(np.ma.getmaskarray(layer), ~known.any(axis=-1))
        mean = np.where(known, dn, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
        step = 1e-5 if stored.dtype == "float32" else 0.5
        assert np.abs(layer.astype(np.float64) - mean).max() <= step


def test_quantiles_stay_in_order_in_every_overview(published: tuple[Path, BandSpec]) -> None:
    with rasterio.open(published[0] / "lead-0005m.tif") as file:
        levels = len(file.overviews(1))
    assert levels == 2
    for level in range(levels):
        with rasterio.open(published[0] / "lead-0005m.tif", OVERVIEW_LEVEL=level) as overview:
            low, middle, high = overview.read([2, 3, 4], masked=True)
        assert (low <= middle).all()
        assert (middle <= high).all()


def test_an_overview_of_codes_and_ages_holds_those_of_one_of_its_pixels(published: tuple[Path, BandSpec]) -> None:
    with rasterio.open(published[0] / "lead-0005m-quality.tif") as file:
        whole = file.read()
    with rasterio.open(published[0] / "lead-0005m-quality.tif", OVERVIEW_LEVEL=0) as overview:
        shown = overview.read()
    pairs = np.stack([halves(layer) for layer in whole])
    assert (pairs == shown[..., np.newaxis]).all(axis=0).any(axis=-1).all()  # both bands of the same pixel


# --- the same bytes -------------------------------------------------------------------------------

FRESH = """
import sys
from pathlib import Path
from pipeline.config import load
from pipeline.forecast import forecast

print(forecast(load(Path(sys.argv[1])), None))
"""


def test_another_process_in_another_workspace_makes_the_same_bytes(tmp_path: Path) -> None:
    """Of copies of one cube, under another time zone, number of threads, language, order of hashes and folder."""
    first, second = tmp_path / "one", tmp_path / "elsewhere" / "two"
    write_scenes(first / "inbox", SyntheticSpec(height=300, width=280, frames=12), Faults.none())
    config = first / "product.toml"
    write(inspect(first / "inbox"), config)
    text = config.read_text(encoding="utf-8").replace('latency = "PT0S"', 'latency = "PT0S"\nsettle = "PT0S"')
    config.write_text(text.replace(str(first / "inbox"), "inbox"), encoding="utf-8")
    from pipeline.config import load

    ingest(load(config))
    shutil.copytree(first, second)
    runs = [
        made(first / "product.toml", {"TZ": "UTC", "PYTHONHASHSEED": "1"}),
        made(second / "product.toml", {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2", **ONE_THREAD, "LC_ALL": "C"}),
    ]
    assert runs[0].relative_to(first) == runs[1].relative_to(second)
    ours, theirs = ({path.name: path.read_bytes() for path in run.iterdir()} for run in runs)
    manifests = [json.loads(files.pop("run.json")) for files in (ours, theirs)]
    assert len(ours) > 6
    assert ours == theirs
    times = [manifest.pop("created") for manifest in manifests]
    assert manifests[0] == manifests[1]
    assert times[0] < times[1]


ONE_THREAD = {"OMP_NUM_THREADS": "1", "GDAL_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}


def made(config: Path, environment: dict[str, str]) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", FRESH, config],
        env=os.environ | environment,
        cwd=config.parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Path(done.stdout.strip())
