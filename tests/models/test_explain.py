from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from models.explain import AttentionMaps, attention_maps, write_attention
from models.networks import NetworkSpec, build
from models.prediction import Card, NetworkPredictor
from pipeline.grid import geobox
from pipeline.normalise import Statistics
from pipeline.predictor import Context
from pipeline.specs import MotionSpec, SampleSpec
from pipeline.times import seconds

NETWORK = NetworkSpec(context_frames=3, horizon=2, bands_in=1, bands_out=(0,), patch=4, filters=4, attention_units=4)
INIT = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)
CADENCE = timedelta(minutes=5)
GRID = geobox("EPSG:32633", (1000, 0, 372_000, 0, -1000, 5_262_000), (50, 70))
STILL = MotionSpec.model_validate({"method": "none"})


@pytest.fixture(scope="module")
def network() -> NetworkPredictor:
    keras.utils.set_random_seed(3)
    return NetworkPredictor(build(NETWORK), NETWORK)


def card(motion: MotionSpec = STILL) -> Card:
    return Card(
        NETWORK,
        Statistics((0.5,), (0.2,), "snapshot"),
        SampleSpec.model_validate({"context_frames": 3}),
        motion,
        ("one",),
    )


def context(shape: tuple[int, int] = (50, 70), speed: int = 0) -> Context:
    """Cloudy noise that moves ``speed`` columns a slot, seen 2, 1 and 0 slots before the init time."""
    height, width = shape
    sky = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(height, width + 64)), (0, 0), 3)
    sky = (0.5 + 0.2 * sky / sky.std()).astype(np.float32)
    ages = np.array([[2, 1, 0]], np.float32)
    starts = [16 + speed * int(age) for age in ages[0]]
    values = np.stack([sky[:, start : start + width] for start in starts])[np.newaxis, ..., np.newaxis]
    times = np.array([[seconds(INIT - int(age) * CADENCE) for age in ages[0]]], np.int64)
    return Context(values, np.isfinite(values), times, ages)


def holed(whole: Context, frame: int, rows: slice, columns: slice) -> Context:
    values = whole.values.copy()
    values[0, frame, rows, columns] = np.nan
    return replace(whole, values=values, validity=np.isfinite(values))


def maps_of(weights: NDArray[np.float32], observed: tuple[bool, ...]) -> AttentionMaps:
    ages = np.arange(len(observed), dtype=np.float32)[::-1]
    acquired = np.array([seconds(INIT - int(age) * CADENCE) for age in ages], np.int64)
    return AttentionMaps(weights, acquired, ages, np.array(observed), patch=4)


def test_weights_sum_to_one_where_anything_is_known_and_are_nan_elsewhere(network: NetworkPredictor) -> None:
    seen = context()
    for frame in range(3):
        seen = holed(seen, frame, slice(8, 16), slice(20, 40))
    weights = attention_maps(network, card(), seen, tile=1024).weights
    nowhere = np.zeros(weights.shape[2:], bool)
    nowhere[2:4, 5:10] = True
    assert np.isnan(weights[:, :, nowhere]).all()
    np.testing.assert_allclose(weights.sum(axis=1)[:, ~nowhere], 1, atol=1e-5)
    assert np.ptp(weights[:, :, ~nowhere]) > 0.01  # an untrained network, yet no constant


def test_maps_cover_the_grid_with_whole_patches(network: NetworkPredictor) -> None:
    maps = attention_maps(network, card(), context(), tile=1024)
    assert maps.weights.shape == (2, 3, 13, 18)
    assert maps.weights.dtype == np.float32
    outer = maps.grid(GRID)
    assert outer.transform @ (0, 0) == GRID.transform @ (0, 0)
    assert outer.transform @ (3, 2) == GRID.transform @ (12, 8)
    assert outer.shape == (13, 18)


def test_a_missing_frame_has_no_weight_and_no_claim_to_be_observed(network: NetworkPredictor) -> None:
    maps = attention_maps(network, card(), holed(context(), 0, slice(None), slice(None)), tile=1024)
    assert maps.observed.tolist() == [False, True, True]
    assert (maps.weights[:, 0] == 0).all()
    assert maps.ages.tolist() == [2, 1, 0]


def test_tiles_leave_no_trace(network: NetworkPredictor) -> None:
    seen = holed(context((130, 210)), 1, slice(30, 90), slice(50, 120))
    whole = attention_maps(network, card(), seen, tile=1024).weights
    np.testing.assert_allclose(attention_maps(network, card(), seen, tile=64).weights, whole, atol=1e-5)


def test_tiles_leave_no_trace_where_scores_are_made_for_blocks() -> None:
    keras.utils.set_random_seed(3)
    spec = replace(NETWORK, attention_reduction=3)
    coarse = NetworkPredictor(build(spec), spec)
    seen = holed(context((130, 210)), 1, slice(30, 90), slice(50, 120))
    whole, tiled = (attention_maps(coarse, replace(card(), network=spec), seen, tile).weights for tile in (1024, 40))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_leave_no_trace_of_covariates_either() -> None:
    keras.utils.set_random_seed(3)
    spec = replace(NETWORK, covariates=2)
    listening = NetworkPredictor(build(spec), spec)
    seen = context((130, 210))
    told = replace(seen, covariates=np.random.default_rng(1).normal(size=(1, 5, 130, 210, 2)).astype(np.float32))
    whole, tiled = (attention_maps(listening, replace(card(), network=spec), told, tile).weights for tile in (1024, 64))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    flat = replace(told, covariates=np.zeros((1, 5, 130, 210, 2), np.float32))
    assert np.abs(attention_maps(listening, replace(card(), network=spec), flat, 1024).weights - whole).max() > 1e-4


def test_weights_see_standardised_values(network: NetworkPredictor) -> None:
    seen = context()
    scaled = replace(seen, values=(seen.values - 0.5) / np.float32(0.2))
    expected = network.attention(scaled)[0]
    np.testing.assert_allclose(attention_maps(network, card(), seen, tile=1024).weights, expected, atol=1e-5)


def test_maps_lie_where_the_flow_has_brought_things_at_the_init_time(network: NetworkPredictor) -> None:
    seen = holed(context((96, 160), speed=6), 0, slice(32, 64), slice(40, 72))
    maps = attention_maps(network, card(MotionSpec.model_validate({})), seen, tile=1024)
    unused = set(np.flatnonzero((maps.weights[0, 0, 8:16] == 0).all(axis=0)).tolist()) - {0, 1, 2, 3}
    assert {14, 15, 16, 17, 18, 19} <= unused <= set(range(13, 21))  # columns 40 to 72, 12 px further east


def test_several_init_times_are_refused(network: NetworkPredictor) -> None:
    one = context()
    two = Context(one.values.repeat(2, 0), one.validity.repeat(2, 0), one.times.repeat(2, 0), one.ages.repeat(2, 0))
    with pytest.raises(ValueError, match="one init time, found a context of 2"):
        attention_maps(network, card(), two, tile=1024)


def test_the_file_says_when_and_where_its_weights_are(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).uniform(size=(2, 3, 13, 18)).astype(np.float32)
    weights[:, :, 0, 17] = np.nan
    maps = maps_of(weights, (False, True, True))
    write_attention(tmp_path / "attention.tif", maps, GRID, 2, INIT, CADENCE)
    with rasterio.open(tmp_path / "attention.tif") as file:
        np.testing.assert_array_equal(file.read(), weights[1, 1:])
        assert (file.crs.to_epsg(), file.dtypes[0]) == (32633, "float32")
        assert np.isnan(file.nodata)
        assert file.index(GRID.transform.c + 17_500, GRID.transform.f - 9_500) == (2, 4)
        assert file.descriptions == ("20240601T1155Z", "20240601T1200Z")
        assert file.tags(1)["age_minutes"] == "5"
        tags = file.tags()
    assert (tags["lead_minutes"], tags["lead_slots"], tags["patch_pixels"]) == ("10", "2", "4")
    assert (tags["init_time"], tags["valid_time"]) == ("2024-06-01T12:00:00Z", "2024-06-01T12:10:00Z")


@pytest.mark.parametrize(
    ("lead", "observed", "rule"),
    [(0, (True, True), "1 to 2 slots, found 0"), (3, (True, True), "found 3"), (1, (False, False), "found none")],
)
def test_maps_that_are_not_there_are_refused(tmp_path: Path, lead: int, observed: tuple[bool, ...], rule: str) -> None:
    maps = maps_of(np.zeros((2, 2, 13, 18), np.float32), observed)
    with pytest.raises(ValueError, match=rule):
        write_attention(tmp_path / "attention.tif", maps, GRID, lead, INIT, CADENCE)
    assert not list(tmp_path.iterdir())
