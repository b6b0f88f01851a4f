"""A small made-up forecast, published."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from pipeline.bucket import Location
from pipeline.catalog import PublishedRun, latest, runs
from pipeline.predictor import Forecast, Source
from pipeline.publishing import publish
from pipeline.raster import sha256
from pipeline.record import ModelRef, Outlet, RunRecord
from pipeline.specs import BandSpec, ProductSpec

PRODUCT = "radar"
INIT = datetime(2020, 4, 1, 13, 10, tzinfo=UTC)
GRID = GeoBox((30, 40), Affine(1000, 0, 5e5, 0, -1000, 5e6), CRS("EPSG:32633"))
DBZ = BandSpec(name="reflectivity", dtype="uint8", units="dBZ", scale=0.5, offset=-32, nodata=255)
RUN = RunRecord(
    init=INIT,
    cadence=timedelta(minutes=5),
    model=ModelRef("radar", "3", "network"),
    snapshot="CUBE1",
    scenes=("a.tif", "b.tif"),
    specification='{"horizon": 2}',
    code_version="0.1.0",
)


def an_outlet(place: Location, *bands: BandSpec, made_in: Path | None = None) -> Outlet:
    """Where runs come out; those of a bucket are made in a folder."""
    terms = ProductSpec(name=PRODUCT, licence="CC-BY-4.0", attribution="© FMI")
    if isinstance(place, Path):
        return Outlet(terms, bands or (DBZ,), GRID, place)
    assert made_in is not None
    return Outlet(terms, bands or (DBZ,), GRID, made_in, bucket=place)


def a_forecast(bands: int = 1, quantities: tuple[str, ...] = ("mean",), leads: int = 2) -> Forecast:
    """Every value tells its lead, quantity and band; the upper left corner is missing."""
    lead, quantity, y, x, band = np.indices((leads, len(quantities), *GRID.shape, bands))
    values = (lead + 3 * quantity + 7 * band + (y % 4) / 2 + (x % 2) / 2).astype(np.float32)[None]
    values[:, :, :, :2, :3] = np.nan
    source = np.full((1, leads, *GRID.shape), Source.NETWORK, np.uint8)
    source[:, :, :2, :3] = Source.NONE
    age = np.where(source == Source.NONE, np.nan, 1.5).astype(np.float32)
    return Forecast(values, source, age, quantities)


def publish_run(outlet: Outlet, run: RunRecord = RUN, created: datetime | None = None) -> Path:
    return publish(a_forecast(), run, outlet, {"crs": True, "coverage": 0.99, "note": "no"}, created=created)


def at(minutes: int) -> RunRecord:
    """The run that long after the first one."""
    return replace(RUN, init=INIT + timedelta(minutes=minutes))


def visible(place: Location) -> list[PublishedRun]:
    return list(runs(place, PRODUCT))


def the_latest(place: Location) -> PublishedRun:
    newest = latest(place, PRODUCT)
    assert newest is not None
    return newest


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damaged(folder: Path) -> list[str]:
    """Files of a run that are not as its manifest says."""
    leads = json.loads((folder / "run.json").read_text())["leads"]
    files = [lead[part] for lead in leads for part in ("values", "quality", "item")]
    assert len(files) == 6
    return [file["name"] for file in files if sha256(folder / file["name"]) != file["sha256"]]
