"""From a folder of real scenes to verified forecast GeoTIFFs, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray

from pipeline.config import Settings, load
from pipeline.times import parse_time

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SHORT = {
    "CUBECAST_TRAINING__EPOCHS": "1",
    "CUBECAST_TRAINING__STEPS_PER_EPOCH": "4",
    "CUBECAST_TRAINING__PIXELS": "100000",
    "CUBECAST_SAMPLES__MAX_INITS": "2",
    "CUBECAST_SAMPLES__HORIZON": "3",
}


@dataclass(frozen=True, slots=True)
class Journey:
    """One example product and an init time of its test part, whose first lead has come true."""

    example: str
    init: str


JOURNEYS = [
    Journey("hrv_1km", "2020-04-01T13:10Z"),
    Journey("fmi_1km", "2016-09-28T16:40Z"),
    Journey("s2_slovenia", "2017-06-30T10:00:08Z"),
]


def cubecast(*arguments: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("cubecast")), *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=JOURNEYS, ids=lambda journey: journey.example)
def travelled(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Travelled:
    journey: Journey = request.param
    assert shared_data.is_dir()
    config = EXAMPLES / f"{journey.example}.toml"
    environment = os.environ | SHORT | {"CUBECAST_WORKSPACE": str(tmp_path_factory.mktemp(journey.example))}
    ingested = cubecast("ingest", "--config", str(config), environment=environment)
    trained = cubecast("train", "--config", str(config), environment=environment)
    forecast = cubecast("forecast", "--config", str(config), "--init", journey.init, environment=environment)
    again = cubecast("forecast", "--config", str(config), "--init", journey.init, environment=environment)
    verified = cubecast("verify", "--config", str(config), environment=environment)
    with pytest.MonkeyPatch.context() as patch:
        for name in environment.keys() - os.environ.keys():
            patch.setenv(name, environment[name])
        settings = load(config)
    return Travelled(settings, ingested, trained, forecast, again, verified)


@dataclass(frozen=True, slots=True)
class Travelled:
    settings: Settings
    ingested: dict[str, Any]
    trained: dict[str, Any]
    forecast: dict[str, Any]
    again: dict[str, Any]
    verified: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        return [Path(file) for file in self.forecast["files"]]

    def scene(self) -> Path:
        return sorted(self.settings.scenes.folder.glob(self.settings.scenes.glob))[0]


def test_every_scene_enters_the_cube(travelled: Travelled) -> None:
    scenes = len(list(travelled.settings.scenes.folder.glob(travelled.settings.scenes.glob)))
    assert travelled.ingested["states"]["accepted"] == scenes == sum(travelled.ingested["seen"].values())


def test_the_first_good_model_is_champion_and_is_scored_against_both_baselines(travelled: Travelled) -> None:
    assert travelled.trained["version"] == "1"
    assert travelled.trained["champion"] is travelled.trained["good"]
    assert {"model", "persistence", "extrapolation"} == set(travelled.trained["test"][0]["mae"])


def test_there_is_a_geotiff_for_every_lead_and_a_repeat_changes_nothing(travelled: Travelled) -> None:
    assert len(travelled.files) == travelled.settings.samples.horizon
    assert (travelled.forecast["fresh"], travelled.again["fresh"]) == (True, False)
    assert travelled.again | {"fresh": True} == travelled.forecast


def test_a_forecast_lies_on_the_scenes_grid_in_sixteenths_of_their_steps(travelled: Travelled) -> None:
    with rasterio.open(travelled.scene()) as scene, rasterio.open(travelled.files[0]) as forecast:
        assert forecast.crs == scene.crs
        assert forecast.transform.almost_equals(scene.transform, 1e-9)
        assert forecast.shape == scene.shape
        band = next(band for band in travelled.settings.bands if band.forecast)
        whole = np.issubdtype(scene.dtypes[0], np.integer)
        scale = band.scale / 16 if whole else band.scale
        assert set(forecast.dtypes) == ({"uint16"} if whole else {scene.dtypes[0]})
        assert set(zip(forecast.scales, forecast.offsets, forecast.units, strict=True)) == {
            (scale, band.offset, band.units)
        }
        nodata = np.iinfo("uint16").max if whole else band.fill
        assert np.array_equal(forecast.nodata, nodata, equal_nan=True)


def test_a_forecast_says_when_it_is_true_and_what_its_bands_are(travelled: Travelled) -> None:
    init = parse_time(travelled.forecast["init"])
    for lead, file in enumerate(travelled.files, start=1):
        with rasterio.open(file) as forecast:
            tags = forecast.tags()
            assert parse_time(tags["init_time"]) == init
            assert parse_time(tags["valid_time"]) == init + lead * travelled.settings.axis.cadence
            assert forecast.descriptions == ("mean", "q10", "q50", "q90", "matched")


def test_rioxarray_and_rio_read_the_same_place_and_values(travelled: Travelled) -> None:
    file = travelled.files[0]
    with rasterio.open(file) as forecast, rioxarray.open_rasterio(file) as opened:
        assert opened.rio.crs == forecast.crs  # pyright: ignore[reportAttributeAccessIssue]
        assert opened.rio.transform() == forecast.transform  # pyright: ignore[reportAttributeAccessIssue]
        assert np.array_equal(opened.values, forecast.read(), equal_nan=True)  # pyright: ignore
        shape = list(forecast.shape)
    told = subprocess.run(
        [str(Path(sys.executable).with_name("rio")), "info", str(file)], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["shape"] == shape


def test_forecasts_whose_truth_is_in_the_cube_are_scored(travelled: Travelled) -> None:
    assert travelled.verified["scored"] >= 1
    row = travelled.verified["table"][0]
    assert {"forecast", "persistence", "extrapolation"} == set(row["mae"])
    assert row["lead_minutes"] * timedelta(minutes=1) >= travelled.settings.axis.cadence


def test_a_forecast_holds_values_wherever_the_newest_scene_does(travelled: Travelled) -> None:
    with rasterio.open(travelled.files[-1]) as forecast:
        values = forecast.read(1, masked=True)
    assert values.count() > 0.25 * values.size
    low, high = float(values.min()), float(values.max())
    assert np.isfinite([low, high]).all()
    assert high > low
