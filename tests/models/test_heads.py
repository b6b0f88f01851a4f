from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.heads import FIRST_SPREAD, SUMMARY, CascadeHead, PixelScales

Array = NDArray[np.float32]
BANDS, LEADS, PATCH, UNITS, FEATURES = 2, 3, 4, 5, 6
LEVELS = (0.1, 0.5, 0.9)
MEDIAN = 2  # of the quantities, after the mean and q10


@pytest.fixture
def rng() -> np.random.Generator:
    keras.utils.set_random_seed(9)
    return np.random.default_rng(9)


def field(rng: np.random.Generator, *, holes: float = 0.2) -> tuple[Array, Array, Array]:
    """Values and rates, what of them is known, and ages."""
    known = (rng.random((2, 16, 24, 2 * BANDS)) >= holes).astype("float32")
    values = rng.normal(size=known.shape).astype("float32") * known
    return values, known, rng.integers(0, 3, known[..., :BANDS].shape).astype("float32")


def pixels_of(seen: tuple[Array, Array, Array], patch: int = PATCH) -> Array:
    return np.asarray(PixelScales(BANDS, patch)(*seen))


def head(*, patch: int = PATCH, levels: Sequence[float] = LEVELS, units: int = UNITS, **options: Any) -> CascadeHead:
    scales = PixelScales(BANDS, patch).scales
    return CascadeHead(BANDS, LEADS, scales, levels=levels, units=units, patch=patch, name="head", **options)


def features(rng: np.random.Generator) -> Array:
    return rng.normal(size=(2, LEADS, 16 // PATCH, 24 // PATCH, FEATURES)).astype("float32")


def with_random_weights(layer: CascadeHead, rng: np.random.Generator) -> CascadeHead:
    for weight in layer.weights:
        chosen = rng.normal(size=weight.shape, scale=0.3)
        weight.assign(1 + np.abs(chosen) if weight.path.endswith("usual") else chosen)
    return layer


def quantities(said: Any, levels: Sequence[float] = LEVELS) -> Array:
    """``(quantity, batch, lead, y, x, band)``."""
    return np.stack(np.split(np.asarray(said), 1 + len(levels), axis=-1))


# --- what a head knows of a pixel -----------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 4, 8])
def test_scales_of_values_sum_to_the_newest_value_and_those_of_rates_to_the_rate(
    rng: np.random.Generator, patch: int
) -> None:
    values, known, ages = field(rng)
    layer = PixelScales(BANDS, patch)
    pixels = np.asarray(layer(values, known, ages))
    assert pixels.shape == layer.compute_output_shape(values.shape, known.shape, ages.shape)
    np.testing.assert_array_equal(pixels[..., :BANDS], values[..., :BANDS])
    scales = pixels[..., BANDS : BANDS + layer.scales].reshape(2, 16, 24, -1, 2 * BANDS)
    np.testing.assert_allclose(scales.sum(axis=-2), values, atol=1e-5)


def test_last_of_all_a_pixel_tells_what_is_known_and_how_old_it_is(rng: np.random.Generator) -> None:
    values, known, ages = field(rng)
    pixels = pixels_of((values, known, ages))
    np.testing.assert_array_equal(pixels[..., -3 * BANDS : -BANDS], known)
    np.testing.assert_allclose(pixels[..., -BANDS:], np.log1p(ages), rtol=1e-6)


def test_roughness_around_a_pixel_grows_with_the_small_scales_and_knows_no_level(rng: np.random.Generator) -> None:
    values, known, ages = field(rng, holes=0)
    layer = PixelScales(BANDS, PATCH)
    first = BANDS + layer.scales

    def roughness(field: Array) -> Array:
        return np.asarray(layer(field, known, ages))[..., first : -3 * BANDS]

    calm = roughness(values)
    assert (calm > 0).all()
    np.testing.assert_allclose(roughness(3 * values), 3 * calm, rtol=0.01)
    np.testing.assert_allclose(roughness(values + 5), calm, rtol=1e-3)


# --- an untrained head ----------------------------------------------------------------------------


def test_an_untrained_head_is_the_newest_field_in_mean_and_median_exactly(rng: np.random.Generator) -> None:
    seen = field(rng)
    said = quantities(head(anchored=(0,), features=FEATURES)(pixels_of(seen), features(rng)))
    newest = np.repeat(seen[0][:, None, ..., :BANDS], LEADS, axis=1)
    np.testing.assert_array_equal(said[0], newest)
    np.testing.assert_array_equal(said[MEDIAN], newest)
    np.testing.assert_allclose(newest - said[1], FIRST_SPREAD, rtol=1e-4)
    np.testing.assert_allclose(said[3] - newest, FIRST_SPREAD, rtol=1e-4)


@pytest.mark.parametrize("options", [{"units": 0}, {"levels": ()}, {"units": 0, "levels": ()}], ids=str)
def test_a_cascade_alone_and_a_head_without_levels_say_the_mean_alone(
    rng: np.random.Generator, options: dict[str, Any]
) -> None:
    seen = field(rng)
    said = np.asarray(head(**options)(pixels_of(seen)))
    np.testing.assert_array_equal(said, np.repeat(seen[0][:, None, ..., :BANDS], LEADS, axis=1))


# --- the cascade ----------------------------------------------------------------------------------


def told_scales(layer: CascadeHead, of_values: float, of_rates: float) -> Array:
    """Weights of lead 1; each band is told of its own scales alone."""
    weights = np.zeros(layer.cascade.shape[1:], "float32").reshape(-1, 2 * BANDS, BANDS)
    for band in range(BANDS):
        weights[:, band, band], weights[:, BANDS + band, band] = of_values, of_rates
    return weights.reshape(-1, BANDS)


def test_weights_of_one_on_values_damp_each_band_to_nothing(rng: np.random.Generator) -> None:
    pixels, layer = pixels_of(field(rng)), head(units=0)
    layer.build(pixels.shape)
    layer.cascade.assign(np.stack([told_scales(layer, 1, 0)] * LEADS))
    np.testing.assert_allclose(np.asarray(layer(pixels)), 0, atol=1e-5)


def test_weights_of_minus_the_lead_on_rates_follow_the_tendency(rng: np.random.Generator) -> None:
    seen = field(rng)
    pixels, layer = pixels_of(seen), head(units=0)
    layer.build(pixels.shape)
    layer.cascade.assign(np.stack([told_scales(layer, 0, -lead) for lead in range(1, LEADS + 1)]))
    newest, rate = np.split(seen[0], 2, axis=-1)
    expected = np.stack([newest + lead * rate for lead in range(1, LEADS + 1)], axis=1)
    np.testing.assert_allclose(np.asarray(layer(pixels)), expected, atol=1e-4)


def test_an_untrained_network_corrects_nothing_whatever_the_cascade(rng: np.random.Generator) -> None:
    pixels, whole, alone = pixels_of(field(rng)), head(), head(units=0)
    whole.build(pixels.shape)
    alone.build(pixels.shape)
    weights = rng.normal(size=alone.cascade.shape)
    whole.cascade.assign(weights)
    alone.cascade.assign(weights)
    said = quantities(whole(pixels))
    np.testing.assert_array_equal(said[0], np.asarray(alone(pixels)))
    np.testing.assert_array_equal(said[MEDIAN], said[0])


# --- a trained head -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [LEVELS, (0.5,), (0.05, 0.25, 0.5, 0.75), (0.5, 0.9)], ids=str)
def test_quantiles_never_cross(rng: np.random.Generator, levels: tuple[float, ...]) -> None:
    pixels, layer = pixels_of(field(rng)), head(levels=levels)
    layer.build(pixels.shape)
    said = quantities(with_random_weights(layer, rng)(20 * pixels), levels)
    assert said.shape == (1 + len(levels), 2, LEADS, 16, 24, BANDS)
    assert (np.diff(said[1:], axis=0) >= 0).all()
    assert said[1:].std() > 1


def test_a_head_that_is_given_features_starts_as_one_that_is_not(rng: np.random.Generator) -> None:
    pixels, given = pixels_of(field(rng)), features(rng)
    deaf, listening = head(), head(features=FEATURES)
    deaf.build(pixels.shape)
    listening.build(pixels.shape)
    with_random_weights(deaf, rng)
    own = {weight.path: weight for weight in deaf.weights}
    for weight in listening.weights:
        if weight.path in own:
            weight.assign(own[weight.path])
    before = np.asarray(deaf(pixels))
    np.testing.assert_array_equal(np.asarray(listening(pixels, given)), before)
    listening.of_summary.kernel.assign(rng.normal(size=(SUMMARY, UNITS)))
    moved = np.abs(np.asarray(listening(pixels, given)) - before).max(axis=(0, 2, 3, 4))
    assert (moved > 1e-2).all()


def test_features_of_a_lead_change_that_lead_alone(rng: np.random.Generator) -> None:
    pixels, given = pixels_of(field(rng)), features(rng)
    layer = head(features=FEATURES)
    layer.build(pixels.shape)
    before = np.asarray(with_random_weights(layer, rng)(pixels, given))
    given[:, 1] += 1
    moved = np.abs(np.asarray(layer(pixels, given)) - before).max(axis=(0, 2, 3, 4)) > 1e-3
    assert moved.tolist() == [False, True, False]


def test_a_pixel_is_forecast_from_what_is_known_of_it_alone(rng: np.random.Generator) -> None:
    pixels, layer = pixels_of(field(rng)), head()
    layer.build(pixels.shape)
    whole = np.asarray(with_random_weights(layer, rng)(pixels))
    alone = np.asarray(layer(pixels[:, 3:4, 5:6]))
    np.testing.assert_allclose(alone[:, :, 0, 0], whole[:, :, 3, 5], atol=1e-5)


# --- levels ---------------------------------------------------------------------------------------


def smoothest(layer: CascadeHead) -> slice:
    """Of the scales: the smoothest version of the values of each band."""
    return slice(layer.scales - 2 * BANDS, layer.scales - BANDS)


def moved_by_a_level(layer: CascadeHead, rng: np.random.Generator, level: Array) -> Array:
    """How far forecasts move when the level of each band does: ``(quantity, batch, lead, y, x, band)``."""
    values, known, ages = field(rng, holes=0)
    higher = values + np.concatenate([level, np.zeros(BANDS, "float32")])
    before, after = (np.asarray(layer(pixels_of((one, known, ages)))) for one in (values, higher))
    return quantities(after - before, layer.levels)


def test_a_shift_of_a_band_that_is_not_anchored_shifts_its_forecasts_alike(rng: np.random.Generator) -> None:
    layer = head()
    layer.build((None, None, None, PixelScales(BANDS, PATCH).channels))
    with_random_weights(layer, rng)
    weights = np.asarray(layer.cascade).copy()
    weights[:, smoothest(layer)] = 0
    layer.cascade.assign(weights)
    level = np.array([3, -2], "float32")
    moved = moved_by_a_level(layer, rng, level)
    np.testing.assert_allclose(moved, np.broadcast_to(level, moved.shape), atol=2e-3)


def test_a_cascade_damps_a_shift_by_its_own_weight_of_the_smoothest_scale(rng: np.random.Generator) -> None:
    layer = head(units=0)
    layer.build((None, None, None, PixelScales(BANDS, PATCH).channels))
    with_random_weights(layer, rng)
    level = np.array([3, -2], "float32")
    moved = moved_by_a_level(layer, rng, level)[0]
    expected = level - level @ np.asarray(layer.cascade)[:, smoothest(layer)]
    np.testing.assert_allclose(moved, np.broadcast_to(expected[None, :, None, None], moved.shape), atol=2e-3)


def test_the_network_looks_at_the_level_of_an_anchored_band_and_of_no_other(rng: np.random.Generator) -> None:
    layer = head(anchored=(1,))
    layer.build((None, None, None, PixelScales(BANDS, PATCH).channels))
    with_random_weights(layer, rng)
    layer.cascade.assign(np.zeros(layer.cascade.shape))
    for band, expected in ((0, False), (1, True)):
        level = np.where(np.arange(BANDS) == band, 3, 0).astype("float32")
        moved = moved_by_a_level(layer, rng, level)
        corrected = np.abs(moved - level).max(axis=(0, 1, 3, 4, 5)) > 0.02
        assert corrected.tolist() == [expected] * LEADS


def test_dropout_hides_channels_from_the_network_in_training_alone_and_never_from_the_cascade(
    rng: np.random.Generator,
) -> None:
    pixels = pixels_of(field(rng))
    plain, forgetful = head(), head(dropout=0.5)
    for layer in (plain, forgetful):
        layer.build(pixels.shape)
    with_random_weights(plain, rng)
    forgetful.set_weights(plain.get_weights())
    np.testing.assert_array_equal(forgetful(pixels, training=False), plain(pixels))
    assert np.abs(np.asarray(forgetful(pixels, training=True)) - np.asarray(plain(pixels))).max() > 0.01
    forgetful.correction.kernel.assign(np.zeros(forgetful.correction.kernel.shape))
    np.testing.assert_array_equal(forgetful(pixels, training=True), forgetful(pixels, training=False))


# --- layers ---------------------------------------------------------------------------------------


def test_shapes_are_known_before_the_layers_are_called(rng: np.random.Generator) -> None:
    pixels, given = pixels_of(field(rng)), features(rng)
    for layer, told in ((head(features=FEATURES), (given,)), (head(), ()), (head(units=0), ())):
        shapes = [one.shape for one in (pixels, *told)]
        assert layer(pixels, *told).shape == layer.compute_output_shape(*shapes)


@pytest.mark.parametrize(
    "layer",
    [
        PixelScales(2, 3, name="a"),
        head(levels=(0.05, 0.5), anchored=(1,), features=FEATURES),
        head(units=0),
        head(levels=()),
        head(dropout=0.25),
    ],
)
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()


def test_every_weight_of_a_head_learns_but_what_channels_are_divided_by(rng: np.random.Generator) -> None:
    pixels, given = pixels_of(field(rng)), features(rng)
    layer = head(anchored=(0, 1), features=FEATURES)
    layer.build(pixels.shape)
    with_random_weights(layer, rng)
    before = {weight.path: np.asarray(weight).copy() for weight in layer.weights}
    inputs = keras.Input(pixels.shape[1:]), keras.Input(given.shape[1:])
    model = keras.Model(inputs, layer(*inputs))
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", jit_compile=False)
    model.train_on_batch([pixels, given], rng.normal(size=(2, LEADS, 16, 24, 4 * BANDS)).astype("float32"))
    unmoved = [weight.path for weight in layer.weights if (np.asarray(weight) == before[weight.path]).all()]
    assert unmoved == ["head/usual"]
