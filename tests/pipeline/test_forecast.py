from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.baselines import Ladder, Persistence
from pipeline.catalog import read_run
from pipeline.config import Settings
from pipeline.errors import NotEnoughFramesError
from pipeline.forecast import choose_init, forecast, look
from pipeline.grid import Window
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion, OfBands, Untold, baselines, forecast_bands, ladder
from pipeline.samples import read_context
from pipeline.tiling import Normalised, Tiled, crop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Product

REF = ModelRef("fake", "1", "network")
STILL = {"stuck": "off", "level": "off", "zeros_are_values": True}  # what nothing moves in is no fault here
SAMPLES = {"context_frames": 3, "max_age": 4, "horizon": 2}


@dataclass(frozen=True)
class Blurred:
    """The newest frame under a box that reaches ``radius`` pixels, over means of patches; counts in horizon and age."""

    radius: int
    patch: int = 1

    def predict(self, context: Context, horizon: int) -> Forecast:
        newest = context.values[:, -1]
        fields = np.stack([self._blur(one) for one in newest])
        values = np.stack([fields + lead for lead in range(horizon)], axis=1)[:, :, np.newaxis]
        source = np.full((len(newest), horizon, *context.grid_shape), Source.NETWORK, np.uint8)
        age = np.repeat(newest[:, np.newaxis, ..., 0], horizon, axis=1)
        return Forecast(values.astype(np.float32), source, age)

    def _blur(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width, bands = field.shape
        side = 2 * self.radius + 1
        padded = np.pad(field, ((0, -height % self.patch), (0, -width % self.patch), (0, 0)))
        blocks = padded.reshape(-(-height // self.patch), self.patch, -(-width // self.patch), self.patch, bands)
        coarse = np.repeat(np.repeat(blocks.mean(axis=(1, 3)), self.patch, axis=0), self.patch, axis=1)
        both = coarse[:height, :width] + field
        soft = cv2.boxFilter(both, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(soft, np.float32).reshape(field.shape)


@dataclass(frozen=True)
class Half:
    """Says 7 in the left half and nothing in the right one."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        known = np.arange(context.grid_shape[1]) < context.grid_shape[1] // 2
        values = np.where(known[:, np.newaxis], np.float32(7), np.float32(np.nan))
        source = np.where(known, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
        return replace(
            said,
            values=np.broadcast_to(values, said.values.shape).copy(),
            source=np.broadcast_to(source, said.source.shape).copy(),
        )


def context(height: int, width: int, frames: int = 2, bands: int = 2, seed: int = 0) -> Context:
    values = np.random.default_rng(seed).integers(0, 100, (1, frames, height, width, bands)).astype(np.float32)
    ages = np.arange(frames, dtype=np.float32)[np.newaxis, ::-1]
    return Context(values, np.ones(values.shape, bool), (-300 * ages).astype(np.int64), ages)


def told(seen: Context, leads: int) -> Context:
    """Each pixel's covariates: its row and its column, and the number of its time."""
    y, x = np.indices(seen.grid_shape, np.float32)
    times = seen.values.shape[1] + leads
    channels = np.stack([np.dstack([y, x, np.full_like(y, time)]) for time in range(times)])
    return replace(seen, covariates=channels[np.newaxis])


@dataclass(frozen=True)
class Listening:
    """Says the covariates of each lead, in as many bands as the context has."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        leads = given_to(context)[:, -horizon:, np.newaxis, ..., : context.values.shape[-1]]
        return replace(said, values=leads.copy())


def given_to(context: Context) -> NDArray[np.float32]:
    assert context.covariates is not None
    return context.covariates


# --- wrappers -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 12), st.sampled_from([1, 2, 4]))
def test_tiles_leave_no_trace_of_a_predictor_with_finite_reach(
    height: int, width: int, size: int, radius: int, patch: int
) -> None:
    """Sides need be no multiple of tile or patch."""
    inner, seen = Blurred(radius, patch), context(height, width)
    tiled, whole = Tiled(inner, size, radius + patch - 1, patch).predict(seen, 2), inner.predict(seen, 2)
    np.testing.assert_array_equal(tiled.values, whole.values)  # sums of whole numbers are exact
    np.testing.assert_array_equal(tiled.source, whole.source)
    np.testing.assert_array_equal(tiled.age, whole.age)


def test_tiles_without_their_surroundings_do_leave_a_trace() -> None:
    inner, seen = Blurred(3), context(60, 70)
    tiled, whole = Tiled(inner, 16, 2).predict(seen, 1), inner.predict(seen, 1)
    assert (tiled.values != whole.values).any()


@dataclass
class Counted:
    """Persistence that counts how often it was asked."""

    asked: int = 0

    def predict(self, context: Context, horizon: int) -> Forecast:
        self.asked += 1
        return Persistence().predict(context, horizon)


@pytest.mark.parametrize(("shape", "calls"), [((16, 16), 1), ((8, 32), 1), ((8, 33), 3), ((17, 17), 4)])
def test_a_frame_that_needs_no_more_memory_than_a_tile_is_not_cut(shape: tuple[int, int], calls: int) -> None:
    inner = Counted()
    Tiled(inner, 16, halo=4).predict(context(*shape), 2)
    assert inner.asked == calls


def test_a_crop_holds_what_lies_in_its_window() -> None:
    seen = context(20, 30)
    part = crop(seen, Window(3, 9, 5, 25))
    np.testing.assert_array_equal(part.values, seen.values[:, :, 3:9, 5:25])
    np.testing.assert_array_equal(part.ages, seen.ages)


def test_covariates_go_with_their_pixels_through_the_wrappers() -> None:
    seen = told(context(40, 50, bands=3), 2)
    inner = Normalised(Listening(), Statistics((0, 0, 0), (1, 1, 1), ""), (0, 1, 2))
    whole = inner.predict(seen, 2).values
    np.testing.assert_array_equal(whole[:, :, 0], given_to(seen)[:, -2:])
    np.testing.assert_array_equal(Tiled(inner, 16, 5, 4).predict(seen, 2).values, whole)
    np.testing.assert_array_equal(crop(seen, Window(3, 9, 5, 25)).covariates, given_to(seen)[:, :, 3:9, 5:25])


def test_standardising_leaves_the_covariates_alone() -> None:
    seen = told(context(6, 7, bands=3), 1)
    statistics = Statistics((5, 5, 5), (2, 2, 2), "")
    said = Normalised(Listening(), statistics, (0, 1, 2)).predict(seen, 1).values
    np.testing.assert_allclose(statistics.scale(said[:, :, 0]), given_to(seen)[:, -1:], atol=1e-5)


def test_baselines_say_the_same_with_covariates_and_without(product: Product) -> None:
    seen = context(40, 48, frames=3, bands=1)
    for baseline in baselines(product.settings).values():
        alone = baseline.predict(seen, 2)
        np.testing.assert_array_equal(baseline.predict(told(seen, 2), 2).values, alone.values)


def test_a_predictor_that_asks_for_nothing_is_told_nothing() -> None:
    with pytest.raises(AssertionError):
        Untold(Listening()).predict(told(context(6, 7), 1), 1)


def test_a_predictor_of_standardised_values_sees_and_says_them() -> None:
    """Persistence does not mind the scale; a sum of 9 pixels minds the mean."""
    statistics, seen = Statistics((50, 20), (10, 5), ""), context(12, 14)
    still = Normalised(Persistence(), statistics, (0, 1)).predict(seen, 2)
    np.testing.assert_allclose(still.values, Persistence().predict(seen, 2).values, atol=1e-4)
    summed = Normalised(Blurred(1), statistics, (0, 1)).predict(seen, 1).values[0, 0, 0, 5, 5]
    around = seen.values[0, -1, 4:7, 4:7]
    np.testing.assert_allclose(summed, 2 * (around - [50, 20]).sum(axis=(0, 1)) + [50, 20], rtol=1e-4)


def test_a_network_of_one_band_answers_in_the_units_of_that_band() -> None:
    statistics, seen = Statistics((50, 20), (10, 5), ""), context(6, 7)
    said = Normalised(OfBands(Persistence(), (1,)), statistics, (1,)).predict(seen, 1)
    np.testing.assert_allclose(said.values[0, 0, 0, ..., 0], seen.values[0, -1, ..., 1], atol=1e-4)


# --- what a product's forecast is made of ---------------------------------------------------------


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


def test_nothing_new_enough_to_start_from_is_an_error_that_says_what_to_do(late: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match=r"last 4 slots.*06:40Z.*ingest newer scenes or raise samples\.max_"):
        forecast(tuned(late), None, init=late.time(20))
    with pytest.raises(NotEnoughFramesError, match=r"available 2024-06-01 05:00Z \(forecast\.delay\)"):
        forecast(tuned(late), None, init=late.time(0))


def test_an_empty_cube_is_an_error(landmark: Product) -> None:
    with pytest.raises(NotEnoughFramesError, match="the cube has none: ingest scenes"):
        choose_init(replace(landmark.cube(), as_of=landmark.time(-9)), None)


def test_the_ladder_of_a_champion_ends_in_the_extrapolation(landmark: Product) -> None:
    rungs = ladder(tuned(landmark), Champion(Half(), REF))
    assert isinstance(rungs, Ladder)
    assert rungs.predictors[0] == Half()
    assert rungs.predictors[1] == ladder(tuned(landmark), None)
