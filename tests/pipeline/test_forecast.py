from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from pipeline.baselines import Ladder
from pipeline.catalog import latest, read_run, runs
from pipeline.config import Settings
from pipeline.doubt import Doubt, Doubted
from pipeline.errors import NotEnoughFramesError, StoreError
from pipeline.forecast import choose_init, forecast, look, published_already
from pipeline.predictor import Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion, baselines, forecast_bands, ladder
from pipeline.samples import read_context
from tests.pipeline.seers import Half, Listening, context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Product

REF = ModelRef("fake", "1", "network")
STILL = {"stuck": "off", "level": "off", "zeros_are_values": True}  # what nothing moves in is no fault here
SAMPLES = {"context_frames": 3, "max_age": 4, "horizon": 2}


def tuned(product: Product, **changed: Any) -> Settings:
    document: dict[str, Any] = product.settings.model_dump() | {"samples": SAMPLES} | changed
    return Settings(**document)


@pytest.fixture(scope="module")
def landmark(make_product: Callable[..., Product]) -> Product:
    """Four scenes of a motionless flag that looks different from every side."""
    product = make_product(scenes={"firewall": STILL})
    for slot in range(4):
        product.scene(slot, flag())
    product.ingest()
    return product


def flag() -> NDArray[np.uint16]:
    dn = np.full((1, 40, 48), 40, np.uint16)
    dn[0, 5:30, 7] = 150
    dn[0, 5:12, 8:20] = 120
    dn[0, 33, 40] = 180
    dn[0, :, 47] = 65535
    return dn


def test_a_landmark_stays_at_its_pixel(landmark: Product) -> None:
    run = forecast(tuned(landmark, forecast={"resolution": "scenes"}), None)
    with rasterio.open(next(landmark.inbox.glob("*.tif"))) as scene:
        before, transform, crs = scene.read(1), scene.transform, scene.crs
    for lead in ("0005", "0010"):
        with rasterio.open(run / f"lead-{lead}m.tif") as file:
            assert (file.transform, file.crs, file.nodata) == (transform, crs, 65535)
            np.testing.assert_array_equal(file.read(1), before)
            assert file.read(1)[file.index(*(transform @ (40.5, 33.5)))] == 180


def test_the_resolution_of_the_configuration_is_that_of_the_files(landmark: Product) -> None:
    scales: list[float] = []
    for resolution in ("scenes", "fine"):
        run = forecast(tuned(landmark, forecast={"resolution": resolution}), None)
        with rasterio.open(run / "lead-0005m.tif") as file:
            scales += file.scales
    assert scales == [0.1, 0.1 / 16]


def test_without_a_champion_a_run_is_the_extrapolation(landmark: Product) -> None:
    asked = tuned(landmark)
    run = read_run(forecast(asked, None))
    seen = read_context(landmark.cube(), look(asked, landmark.cube(), None).sample, asked.samples)
    expected = baselines(asked)["extrapolation"].predict(seen, 2)
    assert run.model == ModelRef("extrapolation", "1", "extrapolation")
    np.testing.assert_allclose(run.read(10), expected.values[0, 1], atol=0.05, equal_nan=True)  # DN of 0.1
    assert np.isin(expected.source, [Source.EXTRAPOLATION, Source.PERSISTENCE, Source.NONE]).all()


def test_a_champion_speaks_where_it_knows_something_and_the_ladder_elsewhere(landmark: Product) -> None:
    asked = tuned(landmark)
    run = read_run(forecast(asked, Champion(Half(), REF)))
    below = read_run(forecast(asked, None)).read(5)
    assert run.model == REF
    np.testing.assert_allclose(run.read(5)[0, :, :24], 7, atol=0.05)
    np.testing.assert_array_equal(run.read(5)[0, :, 24:], below[0, :, 24:])


def test_where_the_ladder_fills_in_for_a_champion_an_interval_has_the_width_of_its_doubt(landmark: Product) -> None:
    asked = tuned(landmark)
    doubt = Doubt((0.1, 0.9), np.array([[[-1.0], [2.0]]], np.float32), ((-np.inf, np.inf),))
    bare = Champion(Doubted(Half(), doubt), replace(REF, version="8"))
    wide = replace(bare, ref=replace(REF, version="9"), doubt=doubt)
    for champion, expected in ((bare, 0), (wide, 3)):
        run = read_run(forecast(asked, champion))
        low, high = (run.read(5)[run.quantities.index(name), :, 24:] for name in ("q10", "q90"))
        assert np.isfinite(low).any()
        np.testing.assert_allclose((high - low)[np.isfinite(low)], expected, atol=0.05)
    np.testing.assert_allclose(run.read(5)[0, :, 24:], read_run(forecast(asked, None)).read(5)[0, :, 24:], atol=0.05)
    rungs = ladder(asked, wide)
    assert isinstance(rungs, Ladder)
    assert isinstance(rungs.predictors[1], Doubted)


def test_why_a_rung_was_taken_stands_in_the_manifest_and_decides_no_other_byte(landmark: Product) -> None:
    asked = tuned(landmark, forecast={"tile": 128})
    run = forecast(asked, Champion(Half(), REF, validation={"judged": "fitted"}), why="no answer")
    facts = json.loads((run / "run.json").read_text())
    assert facts["rung"] == {"wanted": "network", "why": "no answer"}
    assert facts["validation"] == {"judged": "fitted"}
    assert forecast(asked, Champion(Half(), REF)) == run


def test_only_forecast_bands_come_out(make_product: Callable[..., Product]) -> None:
    band = {"dtype": "uint16", "units": "1", "nodata": 65535}
    bands = [band | {"name": "seen", "forecast": False}, band | {"name": "told", "index": 2}]
    product = make_product(bands=bands, scenes={"firewall": STILL})
    for slot in range(2):
        product.scene(slot, np.stack([np.full((40, 48), 5), np.full((40, 48), 9)]).astype(np.uint16))
    product.ingest()
    asked = tuned(product)
    assert forecast_bands(asked) == (1,)
    run = read_run(forecast(asked, None))
    assert run.bands == ("told",)
    assert (run.read(5) == 9).all()
    assert baselines(asked, (0, 1))["persistence"].predict(context(4, 5), 1).values.shape[-1] == 2


def test_a_champion_is_told_the_covariates_of_each_valid_time(landmark: Product) -> None:
    asked = tuned(landmark, covariates={"time_of_day": True})
    run = read_run(forecast(asked, Champion(Listening(), REF)))
    longitude = 15 + 3 / 500_000  # near the central meridian of UTM 33, at 5e5 m
    for lead in (5, 10):
        hours = (run.init + timedelta(minutes=lead)).hour + (run.init + timedelta(minutes=lead)).minute / 60
        expected = np.sin(2 * np.pi * (hours / 24 + longitude / 360))
        np.testing.assert_allclose(run.read(lead), expected, atol=0.06)  # DN of 0.1


def test_covariates_decide_the_folder_of_those_that_are_told_them(landmark: Product) -> None:
    plain, asked = tuned(landmark), tuned(landmark, covariates={"time_of_day": True})
    assert forecast(asked, None) == forecast(plain, None)
    assert forecast(asked, Champion(Half(), REF)) != forecast(plain, Champion(Half(), REF))


def test_the_same_run_again_is_the_same_folder_with_the_same_bytes(landmark: Product, tmp_path: Path) -> None:
    first, second = (tuned(landmark, workspace=tmp_path / name) for name in ("one", "two"))
    for asked in (first, second):
        tmp_path.joinpath(asked.workspace).mkdir()
        (asked.paths.cube).symlink_to(landmark.settings.paths.cube)
    run = forecast(first, Champion(Half(), REF))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    assert forecast(first, Champion(Half(), REF)) == run
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()} == before
    elsewhere = forecast(second, Champion(Half(), REF))
    assert elsewhere.relative_to(second.paths.forecasts) == run.relative_to(first.paths.forecasts)
    for name in before:
        if name.endswith(".tif"):
            assert (elsewhere / name).read_bytes() == before[name][0]


def test_whatever_decides_the_values_decides_the_folder(landmark: Product) -> None:
    asked = tuned(landmark)
    folders = [
        forecast(asked, None),
        forecast(asked, Champion(Half(), REF)),
        forecast(asked, Champion(Half(), replace(REF, version="2"))),
        forecast(tuned(landmark, samples=SAMPLES | {"context_frames": 2}), None),
        forecast(tuned(landmark, motion={"method": "none"}), None),
        forecast(tuned(landmark, forecast={"tile": 64}), None),
        forecast(asked, None, init=landmark.time(3)),
    ]
    assert len(set(folders)) == len(folders)


# --- hindcasts ------------------------------------------------------------------------------------


def tag(time: datetime) -> dict[str, str]:
    return {"AVAILABLE_AT": f"{time:%Y-%m-%dT%H:%M:%SZ}"}


@pytest.fixture(scope="module")
def late(make_product: Callable[..., Product]) -> Product:
    """Slot 2 came two slots late, the others after a minute."""
    product = make_product(scenes={"available_tag": "AVAILABLE_AT", "firewall": STILL})
    for slot in range(6):
        dn = np.full((1, 40, 48), 10 * slot, np.uint16)
        came = product.time(slot + 2) if slot == 2 else product.time(slot) + timedelta(minutes=1)
        product.scene(slot, dn, tags=tag(came))
    product.ingest()
    return product


def scenes(run: Path) -> list[str]:
    return [text.split("-")[0] for text in json.loads((run / "run.json").read_text())["scenes"]]


def names(product: Product, *slots: int) -> list[str]:
    return [f"{product.time(slot):%Y%m%dT%H%MZ}" for slot in slots]


def test_a_hindcast_sees_only_what_was_available_then(late: Product) -> None:
    asked = tuned(late, forecast={"delay": timedelta(minutes=3)})
    for init, seen in {2: (0, 1), 3: (0, 1, 3), 4: (2, 3, 4), 5: (3, 4, 5)}.items():
        assert scenes(forecast(asked, None, init=late.time(init))) == names(late, *seen)


def test_without_a_delay_the_scene_of_the_init_time_itself_is_not_there_yet(late: Product) -> None:
    run = forecast(tuned(late), None, init=late.time(5))
    assert scenes(run) == names(late, 2, 3, 4)  # slot 2 came at the very time of slot 4
    assert read_run(run).init == late.time(5)


def test_a_forecast_from_the_newest_scene_sees_everything(late: Product) -> None:
    assert scenes(forecast(tuned(late), None)) == names(late, 3, 4, 5)


def test_an_init_time_is_its_nearest_slot(late: Product) -> None:
    cube = late.cube()
    assert choose_init(cube, None) == 5
    assert choose_init(cube, late.time(3) + timedelta(minutes=2)) == 3
    assert choose_init(cube, late.time(40)) == 40


def test_an_init_time_before_the_first_scene_is_an_error(late: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match="04:00Z is before its first scene, 2024-06-01 05:00Z"):
        forecast(tuned(late), None, init=late.time(-12))


def test_nothing_new_enough_to_look_at_is_an_error_that_says_what_to_do(late: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match=r"last 4 slots.*06:40Z.*ingest newer scenes or raise samples\.max_"):
        look(tuned(late), late.cube(), late.time(20))
    with pytest.raises(NotEnoughFramesError, match=r"available 2024-06-01 05:00Z \(forecast\.delay\)"):
        forecast(tuned(late), None, init=late.time(0))


def test_a_configuration_that_the_cube_was_not_made_with_is_refused(late: Product) -> None:
    asked = tuned(late)
    slower = asked.model_copy(update={"axis": asked.axis.model_copy(update={"cadence": timedelta(hours=1)})})
    with pytest.raises(StoreError, match=r"axis\.cadence is .* in the configuration and .* in the cube"):
        forecast(slower, None)


def test_an_empty_cube_is_an_error(landmark: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match="the cube has none: ingest scenes"):
        choose_init(replace(landmark.cube(), as_of=landmark.time(-9)), None)


def test_the_ladder_of_a_champion_ends_in_the_extrapolation(landmark: Product) -> None:
    rungs = ladder(tuned(landmark), Champion(Half(), REF))
    assert isinstance(rungs, Ladder)
    assert rungs.predictors[0] == Half()
    assert rungs.predictors[1] == ladder(tuned(landmark), None)


# --- runs that are there --------------------------------------------------------------------------


def test_a_run_that_is_there_is_found_by_who_would_make_it_alone(late: Product) -> None:
    asked, silent = tuned(late), Champion(Half(), REF)
    now = late.time(3)
    assert published_already(asked, silent, now=now) is None
    folder = forecast(asked, Champion(Half(), REF), now=now)
    assert published_already(asked, silent, now=now) == folder
    assert published_already(asked, replace(silent, ref=replace(REF, version="2")), now=now) is None
    assert published_already(asked, silent, now=late.time(4)) is None


def test_a_late_scene_that_a_run_does_not_see_makes_no_second_one(make_product: Callable[..., Product]) -> None:
    product = make_product(scenes={"firewall": STILL})
    for slot in (1, 2, 3, 4, 5, 6):
        product.scene(slot, flag())
    product.ingest()
    before, asked = product.store.tip(), tuned(product)
    folder = forecast(asked, None)
    product.scene(0, flag())
    product.ingest()
    assert product.store.tip() != before
    assert forecast(asked, None) == folder


# --- runs that are due ----------------------------------------------------------------------------


def test_a_run_that_is_due_is_for_the_newest_slot_as_old_as_the_delay(late: Product) -> None:
    asked = tuned(late, forecast={"delay": timedelta(minutes=3)})
    for now, slot in {
        late.time(5) + timedelta(minutes=3): 5,
        late.time(5) + timedelta(minutes=2, seconds=59): 4,
    }.items():
        run = read_run(forecast(asked, None, now=now))
        assert run.init == late.time(slot)
        assert scenes(run.path) == names(late, *range(slot - 2, slot + 1))  # slot 2 as well, however late it came


def test_a_slot_beyond_the_end_of_the_cube_is_one_without_a_scene_and_the_cube_is_not_touched(late: Product) -> None:
    before = (late.store.tip(), late.cube().size)
    run = read_run(forecast(tuned(late), None, now=late.time(8)))
    assert before == (late.store.tip(), late.cube().size) == (run.snapshot, 6)
    assert run.init == late.time(8)
    assert scenes(run.path) == names(late, 4, 5)


def test_before_and_after_its_scene_has_come_a_slot_has_two_runs_and_the_later_one_is_the_latest(
    make_product: Callable[..., Product],
) -> None:
    product = make_product(scenes={"firewall": STILL})
    for slot in (0, 1):
        product.scene(slot, flag())
    product.ingest()
    asked, now = tuned(product), product.time(2) + timedelta(minutes=1)
    early = forecast(asked, None, now=now)
    assert forecast(asked, None, now=now + timedelta(minutes=1)) == early
    product.scene(2, flag())
    product.ingest()
    after = forecast(asked, None, now=now + timedelta(minutes=2))
    assert early != after
    assert [scenes(run) for run in (early, after)] == [names(product, 0, 1), names(product, 0, 1, 2)]
    found = list(runs(asked.paths.forecasts, "tiny"))
    assert {run.init for run in found} == {product.time(2)}
    assert {run.path for run in found} == {early, after}
    newest = latest(asked.paths.forecasts, "tiny")
    assert newest is not None
    assert newest.path == after


def test_what_is_due_before_the_first_scene_is_an_error(late: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match="is before its first scene"):
        forecast(tuned(late), None, now=late.time(-1))
