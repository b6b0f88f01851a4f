import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.losses import loss_of
from models.networks import Kind, NetworkSpec, build, matched, parameters

Array = NDArray[np.float32]
Sample = dict[str, Array]
SPEC = NetworkSpec(3, 2, bands_in=2, bands_out=(1,), filters=6, attention_units=4, head_units=5)
DOT = replace(SPEC, kind=Kind.DOT_PRODUCT, attention_heads=2)
PLAIN = replace(SPEC, kind=Kind.CONVLSTM)
PIXEL = replace(SPEC, kind=Kind.PIXEL_LSTM, patch=1)
HEAD = replace(SPEC, kind=Kind.HEAD)
CASCADE = replace(SPEC, kind=Kind.CASCADE)
KINDS = {spec.kind: spec for spec in (SPEC, DOT, PLAIN, PIXEL, HEAD, CASCADE)}
RECURRENT = [spec for spec in KINDS.values() if spec.recurs]
SMALL = NetworkSpec(2, 2, 1, (0,), filters=3, attention_units=2, attention_heads=2, head_units=4)
every_kind = pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
every_recurrent_kind = pytest.mark.parametrize("spec", RECURRENT, ids=[spec.kind for spec in RECURRENT])
with_attention = pytest.mark.parametrize("spec", [SPEC, DOT], ids=[SPEC.kind, DOT.kind])


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
    sample = {"frames": rng.normal(size=shape).astype("float32") * validity, "validity": validity, "ages": ages}
    if spec.covariates:
        told = (batch, spec.context_frames + spec.horizon, *size, spec.covariates)
        sample["covariates"] = rng.normal(size=told).astype("float32")
    return sample


def without_frame(sample: Sample, frame: int) -> Sample:
    keep = np.ones(sample["frames"].shape[1], "float32")
    keep[frame] = 0
    keep = keep[None, :, None, None, None]
    return {**sample, "frames": sample["frames"] * keep, "validity": sample["validity"] * keep}


def with_random_weights(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    for weight in model.weights:
        chosen = rng.normal(size=weight.shape, scale=0.2)
        weight.assign(1 + np.abs(chosen) if weight.path.endswith("usual") else chosen)
    return model


def run(model: keras.Model, sample: Sample) -> Sample:
    return {name: np.asarray(array) for name, array in model(sample).items()}


def newest(sample: Sample, bands: tuple[int, ...]) -> Array:
    found = np.zeros_like(sample["frames"][:, 0])
    for frame in range(sample["frames"].shape[1]):
        found = np.where(sample["validity"][:, frame] > 0, sample["frames"][:, frame], found)
    return found[..., list(bands)]


def quantity(spec: NetworkSpec, forecast: Array, name: str) -> Array:
    """``(batch, lead, y, x, band)``."""
    return np.split(forecast, len(spec.quantities), axis=-1)[spec.quantities.index(name)]


@every_kind
def test_an_untrained_network_is_the_extrapolation_exactly(rng: np.random.Generator, spec: NetworkSpec) -> None:
    model, sample = build(spec), inputs(rng, spec)
    for seen in (sample, without_frame(sample, 0), without_frame(sample, 2)):
        forecast = run(model, seen)["forecast"]
        assert forecast.shape == (2, 2, 32, 48, len(spec.quantities))
        for name in {"mean", "q50"} & {*spec.quantities}:
            for lead in np.moveaxis(quantity(spec, forecast, name), 1, 0):
                np.testing.assert_array_equal(lead, newest(seen, spec.bands_out))


def test_a_network_says_the_mean_and_then_its_quantiles() -> None:
    assert {kind: spec.quantities for kind, spec in KINDS.items() if kind in {"attention", "head", "cascade"}} == {
        "attention": ("mean", "q10", "q50", "q90"),
        "head": ("mean", "q10", "q50", "q90"),
        "cascade": ("mean",),
    }
    assert PIXEL.quantities == replace(SPEC, levels=()).quantities == ("mean",)
    assert replace(SPEC, levels=(0.025, 0.5)).quantities == ("mean", "q2.5", "q50")


@every_kind
def test_quantiles_of_a_network_never_cross(rng: np.random.Generator, spec: NetworkSpec) -> None:
    forecast = run(with_random_weights(build(spec), rng), inputs(rng, spec))["forecast"]
    quantiles = np.stack([quantity(spec, forecast, name) for name in spec.quantities[1:]] or [forecast])
    assert (np.diff(quantiles, axis=0) >= 0).all()


@pytest.mark.parametrize("spec", [SPEC, DOT, PLAIN], ids=[SPEC.kind, DOT.kind, PLAIN.kind])
def test_a_branch_that_is_not_listened_to_changes_nothing(rng: np.random.Generator, spec: NetworkSpec) -> None:
    head, whole, sample = with_random_weights(build(HEAD), rng), build(spec), inputs(rng)
    own = {weight.path: weight for weight in head.weights}
    for weight in whole.weights:
        if weight.path in own:
            weight.assign(own[weight.path])
    np.testing.assert_array_equal(run(whole, sample)["forecast"], run(head, sample)["forecast"])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@every_kind
def test_extrapolation_stays_exact_in_mixed_precision(
    rng: np.random.Generator, spec: NetworkSpec, precision: str
) -> None:
    sample, model = inputs(rng, spec), build(spec, precision)
    outputs = run(model, sample)
    mean = quantity(spec, outputs["forecast"], "mean")
    np.testing.assert_array_equal(mean[:, 0], newest(sample, spec.bands_out))
    assert {str(array.dtype) for array in outputs.values()} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {"float32"}


@every_recurrent_kind
def test_weights_of_a_mixed_network_give_nearly_the_same_forecast_in_float32(
    rng: np.random.Generator, spec: NetworkSpec
) -> None:
    sample, mixed, whole = inputs(rng, spec), with_random_weights(build(spec, "mixed_bfloat16"), rng), build(spec)
    whole.set_weights(mixed.get_weights())
    rough, exact = run(mixed, sample)["forecast"], run(whole, sample)["forecast"]
    moved = np.abs(exact - newest(sample, spec.bands_out)[:, None]).mean()
    assert 0 < np.abs(rough - exact).mean() < 0.03 * moved  # bfloat16 keeps 8 bits


@with_attention
def test_attention_is_at_patches_and_sums_to_one_over_the_frames_that_came(
    rng: np.random.Generator, spec: NetworkSpec
) -> None:
    attention = run(with_random_weights(build(spec), rng), without_frame(inputs(rng), 1))["attention"]
    assert attention.shape == (2, 2, 3, 8, 12)
    np.testing.assert_allclose(attention.sum(axis=2), 1, atol=1e-6)
    assert (attention[:, :, 1] == 0).all()


@with_attention
def test_attention_differs_between_leads(rng: np.random.Generator, spec: NetworkSpec) -> None:
    attention = run(with_random_weights(build(spec), rng), inputs(rng))["attention"]
    assert np.abs(attention[:, 0] - attention[:, 1]).max() > 1e-3


@every_kind
def test_only_a_network_that_attends_shows_attention(spec: NetworkSpec) -> None:
    assert set(build(spec).output) == ({"forecast", "attention"} if spec.attends else {"forecast"})


@every_kind
def test_nothing_valid_gives_a_finite_forecast_and_no_attention(rng: np.random.Generator, spec: NetworkSpec) -> None:
    sample = {name: np.zeros_like(array) for name, array in inputs(rng).items()}
    outputs = run(with_random_weights(build(spec), rng), sample)
    assert np.isfinite(outputs["forecast"]).all()
    assert (outputs.get("attention", np.zeros(1)) == 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        *({"patch": patch} for patch in (1, 2, 4, 8)),
        {"attention_kernel": 3},
        {"attention_reduction": 2},
        {"attention_kernel": 3, "attention_reduction": 2, "covariates": 2},
        {"kind": "convlstm"},
        {"kind": "convlstm", "covariates": 2},
        {"kind": "dot_product"},
        {"kind": "dot_product", "attention_kernel": 3, "attention_reduction": 2, "covariates": 2},
        {"kind": "pixel_lstm", "patch": 1, "covariates": 2},
        *({"kind": kind, "patch": patch} for kind in ("head", "cascade") for patch in (1, 4, 8)),
        {"kind": "head", "anchored": (0,), "levels": (0.5,)},
    ],
    ids=str,
)
def test_a_tile_grown_by_the_receptive_radius_gives_what_the_whole_gives(
    rng: np.random.Generator, changes: dict[str, Any]
) -> None:
    spec = replace(SMALL, **changes)
    radius, tile = spec.receptive_radius(), 16
    assert radius % spec.alignment == tile % spec.alignment == 0
    sample = inputs(rng, spec, size=(2 * radius + 2 * tile, radius + tile), batch=1)
    model = with_random_weights(build(spec), rng)
    part = {name: array if name == "ages" else array[:, :, tile:] for name, array in sample.items()}
    whole, tiled = run(model, sample)["forecast"], run(model, part)["forecast"]
    np.testing.assert_allclose(tiled[:, :, radius:], whole[:, :, tile + radius :], atol=2e-5)
    if radius:
        assert np.abs(tiled[:, :, : spec.patch] - whole[:, :, tile : tile + spec.patch]).max() > 1e-3


@every_kind
def test_what_lies_beyond_the_receptive_radius_changes_nothing(rng: np.random.Generator, spec: NetworkSpec) -> None:
    radius, width = spec.receptive_radius(), 2 * spec.receptive_radius() + 8
    sample = inputs(rng, spec, size=(8, width), batch=1)
    model = with_random_weights(build(spec), rng)
    frames = sample["frames"].copy()
    frames[:, :, 3, 3] += 5
    before, after = run(model, sample)["forecast"], run(model, {**sample, "frames": frames})["forecast"]
    change = np.abs(after - before).max(axis=(0, 1, 2, 4))
    np.testing.assert_allclose(change[3 + radius + 1 :], 0, atol=1e-5)
    assert change[3] > 1e-2


def test_a_pixel_lstm_sees_its_own_pixel_only(rng: np.random.Generator) -> None:
    assert PIXEL.receptive_radius() == 0
    sample, model = inputs(rng, PIXEL, size=(6, 7), batch=1), with_random_weights(build(PIXEL), rng)
    alone = {name: array if name == "ages" else array[:, :, 2:3, 4:5] for name, array in sample.items()}
    np.testing.assert_allclose(
        run(model, alone)["forecast"][:, :, 0, 0], run(model, sample)["forecast"][:, :, 2, 4], atol=1e-5
    )


@every_recurrent_kind
def test_covariates_of_frames_and_leads_change_the_forecast(rng: np.random.Generator, spec: NetworkSpec) -> None:
    told = replace(spec, covariates=3)
    sample, model = inputs(rng, told, size=(8, 8)), with_random_weights(build(told), rng)
    before = run(model, sample)["forecast"]
    for step in (0, told.context_frames):
        changed = sample["covariates"].copy()
        changed[:, step] *= -5
        assert np.abs(run(model, {**sample, "covariates": changed})["forecast"] - before).max() > 2e-5


@pytest.mark.parametrize("spec", [HEAD, CASCADE], ids=[HEAD.kind, CASCADE.kind])
def test_a_network_without_a_branch_takes_covariates_and_leaves_them_alone(
    rng: np.random.Generator, spec: NetworkSpec
) -> None:
    sample, model = inputs(rng, replace(spec, covariates=3), size=(8, 8)), build(replace(spec, covariates=3))
    before = run(with_random_weights(model, rng), sample)["forecast"]
    after = run(model, {**sample, "covariates": -5 * sample["covariates"]})["forecast"]
    np.testing.assert_array_equal(after, before)


@every_kind
def test_one_network_takes_every_multiple_of_the_patch(rng: np.random.Generator, spec: NetworkSpec) -> None:
    model = build(replace(spec, attention_reduction=2))
    for size in ((16, 20), (24, 4), (4, 4)):
        assert run(model, inputs(rng, size=size))["forecast"].shape == (2, 2, *size, len(spec.quantities))


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
    whole = build(SPEC)
    model = keras.Model(whole.inputs, whole.output["forecast"])
    model.compile(optimizer=keras.optimizers.AdamW(5e-3), loss=loss_of(SPEC.levels), jit_compile=False)
    losses = [float(model.train_on_batch(sample, truth)) for _ in range(100)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
@every_kind
def test_every_weight_of_a_network_learns(rng: np.random.Generator, spec: NetworkSpec) -> None:
    told = replace(spec, covariates=2)
    whole = with_random_weights(build(told), rng)
    model = keras.Model(whole.inputs, whole.output["forecast"])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=loss_of(spec.quantile_levels), jit_compile=False)
    before = model.get_weights()
    sample = inputs(rng, told, size=(8, 8))
    model.train_on_batch(sample, rng.normal(size=(2, 2, 8, 8, 1)).astype("float32"))
    moved = [bool((old != new).any()) for old, new in zip(before, model.get_weights(), strict=True)]
    assert dict(zip((weight.path for weight in model.weights), moved, strict=True)) == {
        weight.path: weight.trainable for weight in model.weights
    }
    assert {weight.path for weight in model.non_trainable_weights} <= {"head/usual"}


@every_kind
def test_loaded_network_predicts_bit_equal(rng: np.random.Generator, tmp_path: Path, spec: NetworkSpec) -> None:
    told = replace(spec, covariates=1, attention_kernel=3, attention_reduction=2, levels=(0.25, 0.5), anchored=(0,))
    model, sample = with_random_weights(build(told), rng), inputs(rng, told, size=(16, 20))
    model.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.get_layer("head").get_config() == model.get_layer("head").get_config()
    found = run(loaded, sample)
    for name, expected in run(model, sample).items():
        np.testing.assert_array_equal(found[name], expected)


LOAD_AND_PREDICT = """
import sys, keras, numpy as np
from pathlib import Path
import models.networks
for network in Path(sys.argv[1]).glob("*.keras"):
    model = keras.saving.load_model(network, safe_mode=True)
    found = model(dict(np.load(network.with_suffix(".given.npz"))))
    np.savez(network.with_suffix(".found.npz"), **{name: np.asarray(array) for name, array in found.items()})
"""


@pytest.mark.slow
def test_networks_loaded_in_a_fresh_process_predict_bit_equal(rng: np.random.Generator, tmp_path: Path) -> None:
    expected = {}
    for kind, spec in KINDS.items():
        for precision in ("float32", "mixed_bfloat16"):
            told = replace(spec, covariates=2)
            model, sample = with_random_weights(build(told, precision), rng), inputs(rng, told)
            model.save(tmp_path / f"{kind}-{precision}.keras")
            np.savez(tmp_path / f"{kind}-{precision}.given.npz", **sample)
            expected[f"{kind}-{precision}"] = run(model, sample)
    subprocess.run([sys.executable, "-c", LOAD_AND_PREDICT, tmp_path], check=True)
    for name, outputs in expected.items():
        found = np.load(tmp_path / f"{name}.found.npz")
        for output, array in outputs.items():
            np.testing.assert_array_equal(found[output], array)


@pytest.mark.parametrize("kind", sorted(spec.kind for spec in RECURRENT))
def test_matched_networks_differ_as_little_as_filters_allow(kind: str) -> None:
    spec = replace(SPEC, filters=12)
    other = matched(spec, kind)
    assert other.kind == kind
    distances = [
        abs(parameters(replace(other, filters=other.filters + more)) - parameters(spec)) for more in (-1, 0, 1)
    ]
    assert distances[1] == min(distances)
    assert distances[1] < 0.1 * parameters(spec)


def test_a_network_matched_to_its_own_kind_is_itself() -> None:
    assert matched(SPEC, SPEC.kind) == SPEC


@every_kind
def test_spec_survives_json(spec: NetworkSpec) -> None:
    for one in (spec, replace(spec, levels=(0.025, 0.5, 0.975), anchored=(0,), head_units=7)):
        assert NetworkSpec.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_spec_of_an_older_version_is_an_attention_network() -> None:
    old = {"context_frames": 3, "horizon": 2, "bands_in": 2, "bands_out": [1], "patch": 4}
    old |= {"filters": 6, "attention_units": 4}
    assert NetworkSpec.from_dict(old) == replace(SPEC, head_units=NetworkSpec(1, 1, 1, (0,)).head_units)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon of a network is at least 1, found 0"),
        ({"bands_out": ()}, r"at least one; found \(\)"),
        ({"bands_out": (2,)}, r"indices of the 2 input bands, counted from 0, at least one; found \(2,\)"),
        ({"kind": "lstm"}, "one of attention, convlstm, dot_product, pixel_lstm, head, cascade, seasonal; found lstm"),
        ({"kind": "pixel_lstm"}, "sees each pixel alone: patch is 1, found 4"),
        ({"kind": "dot_product", "attention_units": 6}, "shared out evenly to attention_heads, found 6 for 4"),
        ({"attention_kernel": 2}, "attention_kernel is odd, found 2"),
        ({"head_units": 0}, "head_units of a network is at least 1, found 0"),
        ({"levels": (0.1, 0.9)}, r"rise between 0 and 1 with 0\.5 among them, found \(0\.1, 0\.9\)"),
        ({"levels": (0.5, 0.1)}, "levels rise"),
        ({"levels": (0.5, 0.5)}, "levels rise"),
        ({"levels": (0.0, 0.5)}, "levels rise between 0 and 1"),
        ({"covariates": -1}, "covariates of a network are at least 0, found -1"),
    ],
)
def test_an_impossible_spec_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSpec.from_dict({**SPEC.as_dict(), **changes})
