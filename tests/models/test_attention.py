import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.attention import AdditiveTemporalAttention, AttentionKeys, masked_softmax

Array = NDArray[np.float32]
BATCH, FRAMES, Y, X, CHANNELS, UNITS = 2, 5, 4, 3, 6, 7


def arrays(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    query = rng.normal(size=(BATCH, Y, X, CHANNELS)).astype("float32")
    values = rng.normal(size=(BATCH, FRAMES, Y, X, CHANNELS)).astype("float32")
    ages = np.tile(np.arange(FRAMES, 0, -1), (BATCH, 1)).astype("float32")
    return query, values, ages


def random_mask(rng: np.random.Generator) -> Array:
    mask = (rng.random((BATCH, FRAMES, Y, X)) < 0.5).astype("float32")
    mask[0, :, 0, 0] = 0
    return mask


@pytest.fixture
def rng() -> np.random.Generator:
    keras.utils.set_random_seed(3)
    return np.random.default_rng(3)


def attend(query: Array, values: Array, ages: Array, mask: Array, kernel_size: int = 1) -> tuple[Array, Array]:
    keras.utils.set_random_seed(3)
    keys = AttentionKeys(UNITS, kernel_size)(values, ages)
    context, weights = AdditiveTemporalAttention(UNITS, kernel_size)(query, keys, values, mask)
    return np.asarray(context), np.asarray(weights)


def test_weights_sum_to_one_over_usable_frames_and_to_zero_where_there_are_none(rng: np.random.Generator) -> None:
    mask = random_mask(rng)
    _, weights = attend(*arrays(rng), mask)
    np.testing.assert_allclose(weights.sum(axis=1), mask.max(axis=1), atol=1e-6)


def test_frames_that_are_not_usable_weigh_exactly_zero(rng: np.random.Generator) -> None:
    mask = random_mask(rng)
    _, weights = attend(*arrays(rng), mask)
    assert (weights[mask == 0] == 0).all()
    assert (weights[mask == 1] > 0).all()


def test_context_is_zero_where_no_frame_is_usable(rng: np.random.Generator) -> None:
    context, _ = attend(*arrays(rng), random_mask(rng))
    assert (context[0, 0, 0] == 0).all()
    assert (context[1] != 0).any()


def test_context_ignores_what_frames_that_are_not_usable_hold(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask = random_mask(rng)
    spoiled = np.where(mask[..., None] > 0, values, 1e3).astype("float32")
    np.testing.assert_array_equal(attend(query, spoiled, ages, mask)[0], attend(query, values, ages, mask)[0])


def test_scores_follow_the_equation_of_bahdanau(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    keys_layer, attention = AttentionKeys(UNITS), AdditiveTemporalAttention(UNITS)
    context, weights = attention(query, keys_layer(values, ages), values, np.ones(values.shape[:-1], "float32"))
    of_query, of_values, bias, of_ages, direction = (
        np.asarray(weight)
        for weight in (
            attention.of_query.kernel,
            *keys_layer.of_values.weights,
            keys_layer.of_ages.kernel,
            attention.direction,
        )
    )
    aged = np.stack([ages, np.log1p(ages)], axis=-1) @ of_ages
    keys = values @ of_values[0, 0] + bias + aged[:, :, None, None]
    scores = (np.tanh((query @ of_query[0, 0])[:, None] + keys) @ direction)[..., 0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(weights), expected, atol=1e-6)
    np.testing.assert_allclose(np.asarray(context), (expected[..., None] * values).sum(axis=1), atol=1e-5)


def test_order_of_frames_does_not_matter_only_their_ages(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask, order = random_mask(rng), rng.permutation(FRAMES)
    context, weights = attend(query, values, ages, mask)
    shuffled_context, shuffled_weights = attend(query, values[:, order], ages[:, order], mask[:, order])
    np.testing.assert_allclose(shuffled_weights, weights[:, order], atol=1e-6)
    np.testing.assert_allclose(shuffled_context, context, atol=1e-5)


def test_age_of_a_frame_changes_its_weight(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask = np.ones(values.shape[:-1], "float32")
    assert np.abs(attend(query, values, ages + 5, mask)[1] - attend(query, values, ages, mask)[1]).max() > 1e-3


@pytest.mark.parametrize(("kernel_size", "sees_neighbour"), [(1, False), (3, True)])
def test_kernel_size_decides_whether_a_pixel_sees_its_neighbour(
    rng: np.random.Generator, kernel_size: int, sees_neighbour: bool
) -> None:
    query, values, ages = arrays(rng)
    mask = np.ones(values.shape[:-1], "float32")
    moved = query.copy()
    moved[:, 0, 1] += 1
    before, after = (attend(each, values, ages, mask, kernel_size)[1] for each in (query, moved))
    assert (np.abs(after - before)[..., 0, 0].max() > 0) == sees_neighbour


def test_softmax_is_safe_in_float16(rng: np.random.Generator) -> None:
    scores = rng.uniform(-6e4, 6e4, (BATCH, FRAMES, Y, X)).astype("float16")
    mask = random_mask(rng).astype("float16")
    weights = np.asarray(masked_softmax(scores, mask))
    assert weights.dtype == np.float16
    np.testing.assert_allclose(weights.sum(axis=1), mask.max(axis=1), atol=2e-3)


def test_attention_runs_under_the_mixed_float16_policy(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    keys = AttentionKeys(UNITS, dtype="mixed_float16")(values, ages)
    context, weights = AdditiveTemporalAttention(UNITS, dtype="mixed_float16")(query, keys, values, random_mask(rng))
    assert np.isfinite(np.asarray(context)).all()
    assert np.asarray(weights).dtype == np.float16


def test_pixels_without_a_usable_frame_leave_the_gradients_finite(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    shapes = {"query": query.shape, "values": values.shape, "ages": ages.shape, "usable": values.shape[:-1]}
    inputs = {name: keras.Input(shape[1:], name=name) for name, shape in shapes.items()}
    keys = AttentionKeys(UNITS)(inputs["values"], inputs["ages"])
    context, _ = AdditiveTemporalAttention(UNITS)(inputs["query"], keys, inputs["values"], inputs["usable"])
    model = keras.Model(inputs, context)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = model.get_weights()
    model.train_on_batch({"query": query, "values": values, "ages": ages, "usable": random_mask(rng)}, query)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("layer", [AttentionKeys(UNITS, 3, name="a"), AdditiveTemporalAttention(UNITS, 3, name="a")])
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
