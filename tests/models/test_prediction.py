from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from models.assurance import Assurance
from models.networks import Kind, NetworkSpec, build
from models.prediction import Card, Network, NetworkPredictor, network_inputs
from pipeline.baselines import extrapolation
from pipeline.config import Settings
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.forecast import forecast
from pipeline.guard import Guard
from pipeline.ingest import ingest
from pipeline.predictor import Context, Source
from pipeline.specs import CovariateSpec, FirewallSpec
from pipeline.synthetic_scenes import NODATA, write_scene

Networks = Callable[..., Network]
BANDS = [{"name": "helper", "dtype": "float32", "forecast": False}, {"name": "told", "dtype": "float32", "index": 2}]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Callable[..., Settings]) -> Settings:
    return tiny_settings(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def two_bands(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Callable[..., Settings]) -> Settings:
    """Both bands are seen, the second one is forecast."""
    return tiny_settings(tmp_path_factory.mktemp("two"), bands=BANDS)


def drifting(height: int, width: int, bands: int = 1, speed: int = 3) -> Context:
    """Clouds that move eastward, two frames, with a hole in each and a corner never seen."""
    sky = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(height, width + 40)), (0, 0), 3)
    sky = (0.3 + 0.15 * sky / sky.std()).astype(np.float32)
    values = np.stack([sky[:, 20 - speed * slot :][:, :width] for slot in (0, 1)])[np.newaxis, ..., np.newaxis]
    values = np.repeat(values, bands, axis=-1)
    values[:, 0, 5:15, 5:15] = np.nan
    values[:, 1, 20:25, 20:40] = np.nan
    values[:, :, :4, :6] = np.nan
    ages = np.array([[1, 0]], np.float32)
    return Context(values, np.isfinite(values), (-300 * ages).astype(np.int64), ages)


def test_an_untrained_network_is_the_extrapolation(plain: Settings, make_network: Networks) -> None:
    network, seen = make_network(plain), drifting(70, 90)
    said = network.champion(tile=1024).predictor.predict(seen, 2)
    expected = extrapolation(plain.motion).predict(seen, 2)
    assert said.quantities == network.card.network.quantities == ("mean", "q10", "q50", "q90")
    for quantity in ("mean", "q50"):
        np.testing.assert_allclose(said.of(quantity), expected.of("mean"), atol=2e-6)
    for lower, higher in (("q10", "q50"), ("q50", "q90")):
        assert (said.of(lower) < said.of(higher))[np.isfinite(said.of("mean"))].all()
    assert np.isfinite(said.values).mean() > 0.9
    assert set(np.unique(said.source)) == {Source.NONE, Source.NETWORK}
    np.testing.assert_array_equal(said.source == Source.NONE, np.isnan(said.values[:, :, 0, ..., 0]))
    np.testing.assert_array_equal(said.age, expected.age)


def test_tiles_leave_no_trace_of_a_trained_network(plain: Settings, make_network: Networks) -> None:
    network, seen = make_network(plain, trained=True), drifting(151, 210)
    whole = network.champion(tile=1024).predictor.predict(seen, 2)
    tiled = network.champion(tile=50).predictor.predict(seen, 2)
    np.testing.assert_allclose(tiled.values, whole.values, atol=2e-5)
    np.testing.assert_array_equal(tiled.source, whole.source)
    bare = extrapolation(plain.motion).predict(seen, 2).values
    assert np.nanmax(np.abs(whole.values - bare)) > 0.01


def test_nothing_is_said_where_no_forecast_band_was_ever_seen(two_bands: Settings, make_network: Networks) -> None:
    network, seen = make_network(two_bands, trained=True), drifting(32, 40, bands=2)
    values = seen.values.copy()
    values[..., 8:16, 20:30, 1] = np.nan
    said = network.bare.predict(replace(seen, values=values, validity=np.isfinite(values)), 2)
    unseen = np.zeros((32, 40), bool)
    unseen[8:16, 20:30] = unseen[:4, :6] = True
    for lead in range(2):
        np.testing.assert_array_equal(np.isnan(said.values[0, lead, 0, ..., 0]), unseen)
        np.testing.assert_array_equal(said.source[0, lead] == Source.NONE, unseen)
        np.testing.assert_array_equal(np.isnan(said.age[0, lead]), unseen)
    assert said.age[0, 0, 22, 30] == 1
    assert said.age[0, 0, 30, 30] == 0


def test_a_shorter_horizon_is_the_start_of_the_whole_one(plain: Settings, make_network: Networks) -> None:
    network, seen = make_network(plain, trained=True).bare, drifting(20, 24)
    np.testing.assert_array_equal(network.predict(seen, 1).values, network.predict(seen, 2).values[:, :1])


def test_more_than_a_network_learned_is_refused(plain: Settings, make_network: Networks) -> None:
    network, seen = make_network(plain).bare, drifting(20, 24)
    with pytest.raises(ModelError, match="forecasts 2 slots ahead, asked for 3: train again"):
        network.predict(seen, 3)
    one = Context(seen.values[:, 1:], seen.validity[:, 1:], seen.times[:, 1:], seen.ages[:, 1:])
    with pytest.raises(NotEnoughFramesError, match="sees 2 frames, the context has 1"):
        network.predict(one, 1)


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 12, 4), (9, 10, 4), (1, 1, 8), (7, 5, 1)])
def test_a_network_gets_zeros_with_a_note_where_nothing_is_known(height: int, width: int, patch: int) -> None:
    frames = np.random.default_rng(0).normal(size=(2, 3, height, width, 2)).astype(np.float16)
    frames[:, 1, : height // 2] = np.nan
    inputs = network_inputs(frames, np.zeros((2, 3), np.float64), patch)
    assert {array.dtype for array in inputs.values()} == {np.dtype("float32")}
    assert inputs["frames"].shape == (2, 3, -(-height // patch) * patch, -(-width // patch) * patch, 2)
    inside = np.s_[:, :, :height, :width]
    known = np.isfinite(frames)
    np.testing.assert_array_equal(inputs["frames"][inside][known], frames[known])
    np.testing.assert_array_equal(inputs["validity"][inside], known)
    assert inputs["validity"].sum() == known.sum()
    assert (inputs["frames"][inputs["validity"] == 0] == 0).all()


def test_a_card_survives_json(two_bands: Settings, make_network: Networks) -> None:
    card = make_network(two_bands).card
    assert Card.from_json(card.to_json()) == card


def test_a_card_knows_the_size_of_a_pixel_and_what_held_out_truths_taught(
    two_bands: Settings, make_network: Networks
) -> None:
    shape = (2, 1)
    guard = Guard(
        np.full(shape, 9.0), np.ones((*shape, 21)), np.ones(shape), -np.ones(shape), np.ones(shape), np.full(shape, 3.0)
    )
    taught = Assurance(guard, None, (1,), ((-np.inf, 5.0),), matched=0.5)
    card = replace(make_network(two_bands).card, pixel=1000.5, assurance=taught)
    again = Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False)))
    assert again.pixel == 1000.5
    assert again.assurance is not None
    assert again.assurance.to_json() == taught.to_json()
    assert replace(again, assurance=None) == replace(card, assurance=None)
    old = {name: value for name, value in card.to_json().items() if name not in {"pixel", "assurance"}}
    assert Card.from_json(old) == replace(card, pixel=0.0, assurance=None)


def test_held_out_truths_mend_a_champion_in_coordinates_that_move(plain: Settings, make_network: Networks) -> None:
    """A guard that trusts extrapolation alone makes it of any network, whose place the matched field takes as well."""
    network, seen, shape = make_network(plain, trained=True), drifting(60, 70), (2, 1)
    absolute = np.repeat(np.linspace(1, 0, 21)[None, None], 2, axis=0)
    guard = Guard(np.full(shape, 9.0), absolute, np.ones(shape), -np.ones(shape), np.ones(shape), np.full(shape, 1e9))
    taught = Assurance(guard, None, (0,), ((-np.inf, np.inf),), matched=1.0)
    mended = replace(network, card=replace(network.card, assurance=taught))
    said = mended.champion(tile=1024).predictor.predict(seen, 2)
    expected = extrapolation(plain.motion).predict(seen, 2).of("mean")
    assert said.quantities == (*network.card.network.quantities, "matched")
    for quantity in ("mean", "q50", "matched"):
        np.testing.assert_allclose(said.of(quantity), expected, atol=1e-5)
    bare = network.champion(tile=1024).predictor.predict(seen, 2)
    assert np.nanmax(np.abs(bare.of("mean") - expected)) > 0.01
    width, before = (one.of("q90") - one.of("q10") for one in (said, bare))
    np.testing.assert_allclose(width, before, atol=1e-5)


def test_a_card_of_before_covariates_says_that_there_are_none(two_bands: Settings, make_network: Networks) -> None:
    card = make_network(two_bands).card
    document = card.to_json()
    del document["covariates"]
    assert Card.from_json(document) == card
    told = replace(card, covariates=CovariateSpec(time_of_day=True, static=(Path("elevation.tif"),)))
    assert Card.from_json(told.to_json()) == told


def test_covariates_are_filled_up_with_their_edge() -> None:
    frames, told = np.zeros((1, 2, 5, 6, 1), np.float32), np.random.default_rng(0).normal(size=(1, 4, 5, 6, 3))
    padded = network_inputs(frames, np.zeros((1, 2), np.float32), 4, told)["covariates"]
    assert (padded.shape, padded.dtype) == ((1, 4, 8, 8, 3), np.float32)
    np.testing.assert_allclose(padded, told[:, :, np.minimum(np.arange(8), 4)][:, :, :, np.minimum(np.arange(8), 5)])


def told_network() -> NetworkPredictor:
    keras.utils.set_random_seed(0)
    spec = NetworkSpec(2, 2, 1, (0,), filters=4, attention_units=4, covariates=3)
    model, random = build(spec), np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
    return NetworkPredictor(model, spec)


def with_covariates(context: Context, leads: int, channels: int = 3) -> Context:
    shape = (1, 2 + leads, *context.grid_shape, channels)
    return replace(context, covariates=np.random.default_rng(1).normal(size=shape).astype(np.float32))


def test_what_is_told_of_a_lead_changes_that_lead_and_none_before_it() -> None:
    network, seen = told_network(), with_covariates(drifting(18, 22), leads=2)
    assert seen.covariates is not None
    other = replace(seen, covariates=seen.covariates.copy())
    assert other.covariates is not None
    other.covariates[:, -1] += 1
    before, after = (network.predict(context, 2).values for context in (seen, other))
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert np.nanmax(np.abs(after[:, 1] - before[:, 1])) > 1e-3


def test_a_shorter_horizon_needs_no_covariates_past_it() -> None:
    network, seen = told_network(), with_covariates(drifting(18, 22), leads=2)
    assert seen.covariates is not None
    short = replace(seen, covariates=seen.covariates[:, :3])
    np.testing.assert_array_equal(network.predict(short, 1).values, network.predict(seen, 1).values)
    with pytest.raises(ModelError, match="3 covariates at 4 times, the context has 3 at 3"):
        network.predict(short, 2)


@pytest.mark.parametrize(("channels", "found"), [(0, "none"), (2, "2 at 4")])
def test_a_context_without_what_the_network_is_told_is_refused(channels: int, found: str) -> None:
    seen = drifting(18, 22)
    context = with_covariates(seen, 2, channels) if channels else seen
    with pytest.raises(ModelError, match=f"3 covariates at 4 times, the context has {found}: attach those"):
        told_network().predict(context, 2)


def test_a_network_without_attention_has_none_to_show() -> None:
    spec = NetworkSpec(2, 2, 1, (0,), filters=4, kind=Kind.CONVLSTM)
    with pytest.raises(ModelError, match="in a network that has some, found a convlstm"):
        NetworkPredictor(build(spec), spec).attention(drifting(16, 16))


@pytest.mark.parametrize(
    ("kind", "patch", "reduction"),
    [
        ("attention", 4, 2),
        ("convlstm", 4, 1),
        ("dot_product", 4, 1),
        ("pixel_lstm", 1, 1),
        ("head", 4, 1),
        ("head", 8, 1),
        ("cascade", 4, 1),
    ],
)
def test_tiles_leave_no_trace_of_any_network(
    plain: Settings, make_network: Networks, kind: str, patch: int, reduction: int
) -> None:
    keras.utils.set_random_seed(0)
    shape: dict[str, Any] = {"filters": 4, "attention_units": 4, "attention_reduction": reduction}
    spec = NetworkSpec(2, 2, 1, (0,), patch=patch, kind=kind, **shape)
    model, random = build(spec), np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    known = make_network(plain)
    network = replace(known, model=model, card=replace(known.card, network=spec))
    seen = drifting(101, 203)
    whole = network.champion(tile=1024).predictor.predict(seen, 2)
    tiled = network.champion(tile=36).predictor.predict(seen, 2)
    np.testing.assert_allclose(tiled.values, whole.values, atol=2e-5)


def flag() -> NDArray[np.uint16]:
    """Looks different from every side."""
    dn = np.full((48, 48), 200, np.uint16)
    dn[5:30, 7] = 800
    dn[5:12, 8:20] = 600
    dn[33, 40] = 900
    dn[:, 47] = NODATA
    return dn


def test_a_landmark_stays_at_its_pixel_through_the_network(
    tmp_path: Path, tiny_settings: Callable[..., Settings], make_network: Networks
) -> None:
    plain = tiny_settings(tmp_path)
    scenes = plain.scenes.model_copy(update={"firewall": FirewallSpec(stuck="off")})  # the same picture three times
    coarse = plain.forecast.model_copy(update={"resolution": "scenes"})
    settings = plain.model_copy(update={"scenes": scenes, "forecast": coarse})
    (tmp_path / "inbox").mkdir()
    axis, grid = settings.axis.axis(), settings.grid.geobox()
    for slot in range(3):
        time = axis.valid_time(slot)
        write_scene(tmp_path / "inbox" / f"synthetic_{time:%Y%m%dT%H%M}Z.tif", flag(), grid, time)
    ingest(settings)
    run = forecast(settings, make_network(settings).champion(tile=16))
    for lead in ("0005", "0010"):
        with rasterio.open(run / f"lead-{lead}m.tif") as file, rasterio.open(run / f"lead-{lead}m-quality.tif") as made:
            assert file.descriptions[:3:2] == ("mean", "q50")
            for band in (1, 3):
                np.testing.assert_array_equal(file.read(band), flag())
            assert file.transform == grid.transform
            assert file.read(1)[file.index(*(grid.transform @ (40.5, 33.5)))] == 900
            assert set(np.unique(made.read(1)[:, :47])) == {Source.NETWORK}
