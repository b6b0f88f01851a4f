from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from models.exhibit import draw_forecast, write_exhibits
from models.prediction import Network
from pipeline.config import Settings
from pipeline.cube import open_cube
from pipeline.errors import NotEnoughFramesError
from pipeline.samples import sample
from pipeline.store import CubeStore

Networks = Callable[..., Network]


@pytest.mark.slow
def test_an_exhibit_is_the_attention_of_first_and_last_lead_and_a_picture(
    sky: Settings, make_network: Networks, tmp_path: Path
) -> None:
    cube = open_cube(CubeStore(sky.paths.cube))
    situation = sample(cube.observed(), 10, sky.samples)
    paths = write_exhibits(sky, make_network(sky, trained=True), cube, situation, tmp_path)
    assert [path.name for path in paths] == ["attention-0005m.tif", "attention-0010m.tif", "forecast.png"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[2].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with rasterio.open(paths[1]) as maps:
        assert (maps.count, maps.shape) == (2, (12, 12))
        assert maps.tags()["init_time"] == cube.layout.axis.valid_time(10).isoformat().replace("+00:00", "Z")
        np.testing.assert_allclose(maps.read().sum(axis=0), 1, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_attends_to_nothing_and_is_told_covariates_is_shown_without_maps(
    sky: Settings, make_network: Networks, tmp_path: Path
) -> None:
    document: dict[str, Any] = sky.model_dump()
    document["training"] |= {"network": "convlstm"}
    document["covariates"] = {"time_of_day": True, "solar_zenith": True}
    plain = Settings(**document)
    cube = open_cube(CubeStore(plain.paths.cube))
    situation = sample(cube.observed(), 10, plain.samples)
    paths = write_exhibits(plain, make_network(plain, trained=True), cube, situation, tmp_path)
    assert [path.name for path in paths] == ["forecast.png"]


@pytest.mark.slow
def test_a_picture_can_be_drawn_before_its_truth_has_come(
    sky: Settings, make_network: Networks, tmp_path: Path
) -> None:
    network, axis = make_network(sky), sky.axis.axis()
    document: dict[str, Any] = sky.model_dump() | {"forecast": {"delay": timedelta(minutes=3)}}
    waiting = Settings(**document)
    path = draw_forecast(waiting, network, axis.valid_time(15), tmp_path / "newest.png")
    assert path == tmp_path / "newest.png"
    assert path.stat().st_size > 10_000


def test_a_picture_of_nothing_is_an_error(sky: Settings, make_network: Networks, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughFramesError, match="at least one scene of the last 4 slots"):
        draw_forecast(sky, make_network(sky), sky.axis.axis().valid_time(40), tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
