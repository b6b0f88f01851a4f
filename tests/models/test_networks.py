import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.losses import MaskedMeanSquaredError
from models.networks import NetworkSpec, build

Array = NDArray[np.float32]
Sample = dict[str, Array]
SPEC = NetworkSpec(context_frames=3, horizon=2, bands_in=2, bands_out=(1,), filters=6, attention_units=4)


@pytest.fixture
def rng() -> np.random.Generator:
    keras.utils.set_random_seed(11)
    return np.random.default_rng(11)


def inputs(
    rng: np.random.Generator, spec: NetworkSpec = SPEC, size: tuple[int, int] = (32, 48), batch: int = 2
) -> Sample:
    shape = (batch, spec.context_frames, *size, spec.bands_in)
    validity = (rng.random(shape) < 0.9).astype("float32")
    ages = np.tile(np.arange(spec.context_frames)[::-1], (batch, 1)).astype("float32")
    return {"frames": rng.normal(size=shape).astype("float32") * validity, "validity": validity, "ages": ages}


def without_frame(sample: Sample, frame: int) -> Sample:
    keep = np.ones(sample["frames"].shape[1], "float32")
    keep[frame] = 0
    keep = keep[None, :, None, None, None]
    return {**sample, "frames": sample["frames"] * keep, "validity": sample["validity"] * keep}


def with_random_weights(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.2))
    return model


def run(model: keras.Model, sample: Sample) -> Sample:
    return {name: np.asarray(array) for name, array in model(sample).items()}


def newest(sample: Sample, bands: tuple[int, ...]) -> Array:
    found = np.zeros_like(sample["frames"][:, 0])
    for frame in range(sample["frames"].shape[1]):
        found = np.where(sample["validity"][:, frame] > 0, sample["frames"][:, frame], found)
    return found[..., list(bands)]


@pytest.mark.parametrize("missing", [None, 0, 2])
def test_an_untrained_network_is_the_extrapolation_exactly(rng: np.random.Generator, missing: int | None) -> None:
    sample = inputs(rng)
    if missing is not None:
        sample = without_frame(sample, missing)
    forecast = run(build(SPEC), sample)["forecast"]
    assert forecast.shape == (2, 2, 32, 48, 1)
    for lead in range(SPEC.horizon):
        np.testing.assert_array_equal(forecast[:, lead], newest(sample, SPEC.bands_out))


def test_extrapolation_stays_exact_in_mixed_precision(rng: np.random.Generator) -> None:
    sample, before = inputs(rng), keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        forecast = run(build(SPEC), sample)["forecast"]
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(forecast[:, 0], newest(sample, SPEC.bands_out))


def test_attention_is_at_patches_and_sums_to_one_over_the_frames_that_came(rng: np.random.Generator) -> None:
    attention = run(with_random_weights(build(SPEC), rng), without_frame(inputs(rng), 1))["attention"]
    assert attention.shape == (2, 2, 3, 8, 12)
    np.testing.assert_allclose(attention.sum(axis=2), 1, atol=1e-6)
    assert (attention[:, :, 1] == 0).all()


def test_attention_differs_between_leads(rng: np.random.Generator) -> None:
    attention = run(with_random_weights(build(SPEC), rng), inputs(rng))["attention"]
    assert np.abs(attention[:, 0] - attention[:, 1]).max() > 1e-3


def test_nothing_valid_gives_a_finite_forecast_and_no_attention(rng: np.random.Generator) -> None:
    sample = {name: np.zeros_like(array) for name, array in inputs(rng).items()}
    outputs = run(with_random_weights(build(SPEC), rng), sample)
    assert np.isfinite(outputs["forecast"]).all()
    assert (outputs["attention"] == 0).all()


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_a_tile_grown_by_the_receptive_radius_gives_what_the_whole_gives(rng: np.random.Generator, patch: int) -> None:
    spec = NetworkSpec(2, 2, 1, (0,), patch=patch, filters=3, attention_units=2)
    radius, tile = spec.receptive_radius(), 16
    assert radius % patch == 0
    sample = inputs(rng, spec, size=(2 * radius + 2 * tile, 2 * radius + tile), batch=1)
    model = with_random_weights(build(spec), rng)
    part = {**sample, **{name: sample[name][:, :, tile:] for name in ("frames", "validity")}}
    whole, tiled = run(model, sample)["forecast"], run(model, part)["forecast"]
    np.testing.assert_allclose(tiled[:, :, radius:], whole[:, :, tile + radius :], atol=2e-5)
    assert np.abs(tiled[:, :, :patch] - whole[:, :, tile : tile + patch]).max() > 1e-3


def test_one_network_takes_every_multiple_of_the_patch(rng: np.random.Generator) -> None:
    model = build(SPEC)
    assert model.predict(inputs(rng, size=(16, 20)), verbose=0)["forecast"].shape == (2, 2, 16, 20, 1)
    assert model.predict(inputs(rng, size=(24, 8)), verbose=0)["forecast"].shape == (2, 2, 24, 8, 1)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_both_numbers(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"multiples of the patch \(4 px\), found \(32, 46\)"):
        build(SPEC)(inputs(rng, size=(32, 46)))


def blurred(values: Array) -> Array:
    padded = np.pad(values, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")
    height, width = values.shape[1:3]
    shifts = [padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5)]
    return np.mean(shifts, axis=0)


def test_a_hundred_steps_learn_that_small_scales_decay(rng: np.random.Generator) -> None:
    sample = inputs(rng, batch=4)
    truth = np.repeat(blurred(newest(sample, SPEC.bands_out))[:, None], SPEC.horizon, axis=1)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    model = build(SPEC)
    model.compile(
        optimizer=keras.optimizers.AdamW(5e-3), loss={"forecast": MaskedMeanSquaredError()}, jit_compile=False
    )
    losses = [float(np.ravel(model.train_on_batch(sample, {"forecast": truth}))[0]) for _ in range(100)]
    assert losses[-1] < 0.2 * losses[0]


def test_loaded_network_predicts_bit_equal(rng: np.random.Generator, tmp_path: Path) -> None:
    model, sample = with_random_weights(build(SPEC), rng), inputs(rng)
    model.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    for name, expected in run(model, sample).items():
        np.testing.assert_array_equal(run(loaded, sample)[name], expected)


LOAD_AND_PREDICT = """
import sys, keras, numpy as np
import models.networks
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.savez(sys.argv[3], **model.predict(dict(np.load(sys.argv[2])), verbose=0))
"""


@pytest.mark.slow
def test_network_loaded_in_a_fresh_process_predicts_bit_equal(rng: np.random.Generator, tmp_path: Path) -> None:
    model, sample = with_random_weights(build(SPEC), rng), inputs(rng)
    network, given, found = (tmp_path / name for name in ("network.keras", "given.npz", "found.npz"))
    model.save(network)
    np.savez(given, **sample)
    subprocess.run([sys.executable, "-c", LOAD_AND_PREDICT, network, given, found], check=True)
    for name, expected in model.predict(sample, verbose=0).items():
        np.testing.assert_array_equal(np.load(found)[name], expected)


def test_spec_survives_json() -> None:
    assert NetworkSpec.from_dict(json.loads(json.dumps(SPEC.as_dict()))) == SPEC


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon of a network is at least 1, found 0"),
        ({"bands_out": ()}, r"at least one; found \(\)"),
        ({"bands_out": (2,)}, r"indices of the 2 input bands, counted from 0, at least one; found \(2,\)"),
    ],
)
def test_an_impossible_spec_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSpec.from_dict({**SPEC.as_dict(), **changes})
