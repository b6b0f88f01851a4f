"""One product in the programs that others use: the same values, at the same place, at the same time.

The Python snippets of docs/products.md are run as they stand there.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from odc import stac
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from pipeline.predictor import Forecast, Source
from pipeline.publishing import publish
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.specs import BandSpec, ProductSpec

INIT = datetime(2020, 4, 1, 13, 10, tzinfo=UTC)
LEADS = (5, 10, 15)
LEAD = 15  # minutes; that of the snippets
QUANTITIES = ("mean", "q10", "q50", "q90", "matched")
MEDIAN = 3  # band
POLAR = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=25 +R=6371288 +units=m"  # no EPSG code
GRID = GeoBox((400, 300), Affine(1000, 0, -150e3, 0, -1000, -2.9e6), CRS(POLAR))
HOLE = (slice(0, 60), slice(0, 50))  # missing at every lead
ODC = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo 0.5 calls it
DOCS = Path(__file__).parents[2] / "docs" / "products.md"


@dataclass(frozen=True)
class Run:
    """A published run, and what it should say: ``(lead, quantity, y, x)``, in dBZ."""

    folder: Path
    values: np.ndarray

    @property
    def tif(self) -> Path:
        return self.folder / f"lead-{LEAD:04d}m.tif"

    @property
    def median(self) -> np.ndarray:
        return self.values[LEADS.index(LEAD), MEDIAN - 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    lead, quantity, y, x = np.indices((len(LEADS), len(QUANTITIES), *GRID.shape))
    values = (5 * quantity + x / 8 + y / 16 + lead - 30).astype(np.float32)  # DN of 1/32 dBZ hold it exactly
    values[:, :, *HOLE] = np.nan
    source = np.full((1, len(LEADS), *GRID.shape), Source.NETWORK, np.uint8)
    source[:, :, *HOLE] = Source.NONE
    age = np.where(source == Source.NONE, np.nan, 1).astype(np.float32)
    said = Forecast(values[np.newaxis, ..., np.newaxis], source, age, QUANTITIES)
    dbz = BandSpec(name="reflectivity", dtype="uint8", units="dBZ", scale=0.5, offset=-32, nodata=255)
    model = ModelRef("radar", "7", "network")
    record = RunRecord(INIT, timedelta(minutes=5), model, "1CECHUNKSNAPSH0T0000", ("a",), "{}", "0.1.0")
    root = tmp_path_factory.mktemp("forecasts")
    return Run(publish(said, record, Outlet(ProductSpec(name="radar"), (dbz,), GRID, root), {}), values)


def centres(rows: Any, columns: Any) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of pixels' centres in the grid's CRS."""
    x, y = GRID.transform @ (np.asarray(columns) + 0.5, np.asarray(rows) + 0.5)
    return np.asarray(x), np.asarray(y)


def degrees(row: int, column: int) -> tuple[float, float]:
    x, y = centres(row, column)
    lon, lat = Transformer.from_crs(GRID.crs.to_wkt(), "EPSG:4326", always_xy=True).transform(x, y)
    return float(lon), float(lat)


# --- the snippets of the documentation ------------------------------------------------------------


def snippets() -> dict[str, str]:
    """By the comment in their first line."""
    blocks = re.findall(r"```python\n# ([^\n]*)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return {title.split(":")[0]: code for title, code in blocks}


def played(title: str, run: Run) -> dict[str, Any]:
    """What a snippet leaves behind."""
    names: dict[str, Any] = {"run": run.folder}
    exec(compile(snippets()[title], title, "exec"), names)
    return names


def test_rasterio_reads_the_same_values(run: Run) -> None:
    found = played("rasterio", run)
    np.testing.assert_array_equal(found["median"].filled(np.nan), run.median)
    assert found["valid_time"] == "2020-04-01T13:25:00Z"


def test_rioxarray_reads_the_same_values_at_the_same_coordinates(run: Run) -> None:
    median = played("rioxarray", run)["median"]
    np.testing.assert_array_equal(median, run.median)
    x, y = centres([0, 399], [0, 299])
    np.testing.assert_allclose([median.x[0], median.x[-1], median.y[0], median.y[-1]], [*x, *y])
    assert CRS(median.rio.crs.to_wkt()) == GRID.crs


@ODC
def test_odc_stac_loads_a_run_as_a_series_of_the_valid_times(run: Run) -> None:
    median = played("pystac and odc-stac", run)["median"]
    times = [np.datetime64((INIT + timedelta(minutes=lead)).replace(tzinfo=None)) for lead in LEADS]
    assert list(median.time.values) == times
    np.testing.assert_allclose(median, run.values[:, MEDIAN - 1], atol=1e-5)
    x, y = centres([0, 399], [0, 299])
    np.testing.assert_allclose([median.x[0], median.x[-1], median.y[0], median.y[-1]], [*x, *y])
    assert CRS(median.odc.crs) == GRID.crs


def test_the_documentation_has_no_snippet_that_is_not_run() -> None:
    assert set(snippets()) == {"rasterio", "rioxarray", "pystac and odc-stac", "titiler"}


# --- beyond them ----------------------------------------------------------------------------------


@ODC
def test_odc_stac_loads_rungs_and_ages_beside_the_values(run: Run) -> None:
    items = [pystac.Item.from_file(path) for path in sorted(run.folder.glob("lead-*.json"))]
    quality = stac.load(items, bands=["quality.1", "quality.2"])
    source, age = quality["quality.1"].values, quality["quality.2"].values
    inside = np.ones(GRID.shape, bool)
    inside[HOLE] = False
    assert (np.unique(source[:, inside]), np.unique(age[:, inside])) == (Source.NETWORK, 5)
    assert (np.unique(source[:, ~inside]), np.unique(age[:, ~inside])) == (Source.NONE, 65535)


def program(name: str, *arguments: object) -> str:
    done = subprocess.run([name, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def test_rio_samples_the_same_value(run: Run) -> None:
    x, y = centres(200, 100)
    rio = Path(sys.executable).with_name("rio")
    place = subprocess.run(
        [rio, "sample", run.tif], input=f"[{x}, {y}]\n", check=True, capture_output=True, text=True, timeout=120
    )
    assert json.loads(place.stdout)[MEDIAN - 1] / 32 - 32 == run.median[200, 100]


@pytest.fixture
def gdal() -> None:
    if shutil.which("gdalinfo") is None:
        pytest.skip("GDAL's programs are not installed (Debian: gdal-bin)")


@pytest.mark.usefixtures("gdal")
def test_gdals_programs_find_the_same_value_at_the_same_place(run: Run) -> None:
    for row, column in ((200, 100), (399, 299), (70, 3)):
        x, y = centres(row, column)
        dn = program("gdallocationinfo", "-valonly", "-b", MEDIAN, "-geoloc", run.tif, x, y)
        assert float(dn) / 32 - 32 == run.median[row, column]
        lon, lat = degrees(row, column)
        assert program("gdallocationinfo", "-valonly", "-b", MEDIAN, "-wgs84", run.tif, lon, lat) == dn
    assert float(program("gdallocationinfo", "-valonly", "-b", MEDIAN, run.tif, 10, 10)) == 65535


@pytest.mark.usefixtures("gdal")
def test_gdalinfo_shows_names_units_scale_nodata_times_and_crs(run: Run) -> None:
    shown = json.loads(program("gdalinfo", "-json", run.tif))
    band = shown["bands"][MEDIAN - 1]
    assert (band["description"], band["unit"], band["scale"], band["offset"]) == ("q50", "dBZ", 1 / 32, -32)
    assert (band["type"], band["noDataValue"], len(band["overviews"])) == ("UInt16", 65535, 1)
    assert shown["metadata"][""]["valid_time"] == "2020-04-01T13:25:00Z"
    assert shown["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert shown["geoTransform"] == [-150e3, 1000, 0, -2.9e6, 0, -1000]
    assert CRS(shown["coordinateSystem"]["wkt"]) == GRID.crs


@pytest.mark.usefixtures("gdal")
def test_gdal_translate_unscales_to_the_same_values(run: Run, tmp_path: Path) -> None:
    program("gdal_translate", "-q", "-unscale", "-ot", "Float32", "-b", MEDIAN, run.tif, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.read(1, masked=True).filled(np.nan), run.median)


# --- tiles over HTTP ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """titiler, as the documentation makes it, at a port of this machine."""

    port: int
    tif: Path

    def get(self, path: str, **options: object) -> bytes:
        query = "&".join(f"{name}={value}" for name, value in {"url": self.tif, **options}.items())
        with urlopen(f"http://127.0.0.1:{self.port}{path}?{query}", timeout=60) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    pytest.importorskip("titiler.core", reason="titiler-core is not installed")
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(played("titiler", run)["app"], log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.05)
        yield Served(listening.getsockname()[1], run.tif)
        server.should_exit = True
        thread.join(30)


@pytest.mark.server
def test_titiler_says_the_same_value_at_the_same_place(run: Run, served: Served) -> None:
    for row, column in ((200, 100), (398, 298), (70, 3)):
        lon, lat = degrees(row, column)
        said = json.loads(served.get(f"/point/{lon},{lat}", unscale="true"))
        assert said["values"] == run.values[LEADS.index(LEAD), :, row, column].tolist()


@pytest.mark.server
def test_titilers_statistics_are_those_of_the_valid_pixels(run: Run, served: Served) -> None:
    said = json.loads(served.get("/statistics", unscale="true", bidx=MEDIAN, max_size=400))
    (found,) = said.values()
    known = run.median[np.isfinite(run.median)]
    assert (found["count"], found["min"], found["max"]) == (known.size, known.min(), known.max())
    assert found["mean"] == pytest.approx(known.mean(dtype=np.float64))


@pytest.mark.server
def test_a_tile_shows_each_value_where_it_belongs_and_nothing_where_there_is_none(run: Run, served: Served) -> None:
    import morecantile

    tiles = morecantile.tms.get("WebMercatorQuad")
    for row, column in ((200, 100), (30, 25)):  # in the middle, and at the hole
        tile = tiles.tile(*degrees(row, column), 9)
        layers = np.load(io.BytesIO(served.get(f"/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", **UNSCALED)))
        expected = expected_tile(run, tiles.xy_bounds(tile))
        shown = np.where(layers[1] > 0, layers[0], np.nan)
        agreeing = np.isclose(shown, expected, atol=1e-4, equal_nan=True)
        assert agreeing.mean() > 0.95  # GDAL's transformer is off by up to an eighth of the tile's pixels
        assert np.nanmax(np.abs(shown - expected)) < 0.2  # and takes a neighbour then
    png = served.get(f"/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png", **UNSCALED, rescale="-30,60")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"


UNSCALED: dict[str, object] = {"unscale": "true", "bidx": MEDIAN}


def expected_tile(run: Run, bounds: Any) -> np.ndarray:
    """The nearest pixel at the centre of each of 256 x 256 in Web Mercator; NaN where there is none."""
    steps = (np.arange(256) + 0.5) / 256
    x, y = np.meshgrid(
        bounds.left + steps * (bounds.right - bounds.left), bounds.top - steps * (bounds.top - bounds.bottom)
    )
    own = Transformer.from_crs("EPSG:3857", GRID.crs.to_wkt(), always_xy=True).transform(x, y)
    columns, rows = (np.floor(place).astype(int) for place in ~GRID.transform @ own)
    inside = (rows >= 0) & (rows < 400) & (columns >= 0) & (columns < 300)
    return np.where(inside, run.median[rows.clip(0, 399), columns.clip(0, 299)], np.nan)
