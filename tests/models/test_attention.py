from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.attention import (
    AdditiveTemporalAttention,
    AttentionKeys,
    DotProductTemporalAttention,
    masked_softmax,
)

Array = NDArray[np.float32]
BATCH, FRAMES, Y, X, CHANNELS, UNITS, HEADS = 2, 5, 7, 6, 6, 8, 2
MIXED: Any = {"dtype": "mixed_float16"}
Attend = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


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


def additive(
    query: Array, values: Array, ages: Array, mask: Array, kernel_size: int = 1, reduction: int = 1
) -> tuple[Array, Array]:
    keras.utils.set_random_seed(3)
    keys = AttentionKeys(UNITS, kernel_size, reduction)(values, ages)
    context, weights = AdditiveTemporalAttention(UNITS, kernel_size, reduction)(query, keys, values, mask)
    return np.asarray(context), np.asarray(weights)


def dot_product(
    query: Array, values: Array, ages: Array, mask: Array, kernel_size: int = 1, reduction: int = 1
) -> tuple[Array, Array]:
    keras.utils.set_random_seed(3)
    keys = AttentionKeys(UNITS, kernel_size, reduction)(values, ages)
    context, weights = DotProductTemporalAttention(UNITS, HEADS, kernel_size, reduction)(query, keys, values, mask)
    return np.asarray(context), np.asarray(weights)


def heads_first(weights: Array) -> Array:
    """``(head, batch, frame, y, x)``, also for attention without heads."""
    return np.moveaxis(weights.reshape((BATCH, FRAMES, Y, X, -1)), -1, 0)


both = pytest.mark.parametrize("attend", [additive, dot_product])
every = pytest.mark.parametrize(
    "attend",
    [
        partial(kind, kernel_size=kernel, reduction=reduction)
        for kind in (additive, dot_product)
        for kernel, reduction in ((1, 1), (3, 1), (1, 2), (3, 4))
    ],
)


@every
def test_weights_sum_to_one_over_usable_frames_and_to_zero_where_there_are_none(
    attend: Attend, rng: np.random.Generator
) -> None:
    mask = random_mask(rng)
    for weights in heads_first(attend(*arrays(rng), mask)[1]):
        np.testing.assert_allclose(weights.sum(axis=1), mask.max(axis=1), atol=1e-6)


@every
def test_frames_that_are_not_usable_weigh_exactly_zero(attend: Attend, rng: np.random.Generator) -> None:
    mask = random_mask(rng)
    for weights in heads_first(attend(*arrays(rng), mask)[1]):
        assert (weights[mask == 0] == 0).all()
        assert (weights[mask == 1] > 0).all()


@every
def test_context_is_zero_where_no_frame_is_usable(attend: Attend, rng: np.random.Generator) -> None:
    context, _ = attend(*arrays(rng), random_mask(rng))
    assert (context[0, 0, 0] == 0).all()
    assert (context[1] != 0).any()


@both
def test_context_ignores_what_frames_that_are_not_usable_hold(attend: Attend, rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask = random_mask(rng)
    spoiled = np.where(mask[..., None] > 0, values, 1e3).astype("float32")
    np.testing.assert_array_equal(attend(query, spoiled, ages, mask)[0], attend(query, values, ages, mask)[0])


@both
def test_reduced_scores_of_uniform_images_are_those_at_full_size(attend: Callable, rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    query, values = (np.broadcast_to(each[..., :1, :1, :], each.shape).copy() for each in (query, values))
    mask = random_mask(rng)
    full, reduced = attend(query, values, ages, mask)[1], attend(query, values, ages, mask, reduction=4)[1]
    np.testing.assert_allclose(reduced, full, atol=1e-6)


@both
def test_reduced_blocks_start_in_the_upper_left_corner_whatever_the_size(
    attend: Callable, rng: np.random.Generator
) -> None:
    query, values, ages = arrays(rng)
    mask = np.ones(values.shape[:-1], "float32")
    whole = attend(query, values, ages, mask, reduction=2)[1]
    part = attend(query[:, :5, :5], values[:, :, :5, :5], ages, mask[:, :, :5, :5], reduction=2)[1]
    np.testing.assert_allclose(part[:, :, :2, :2], whole[:, :, :2, :2], atol=1e-6)


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


def test_dot_products_follow_the_equation_of_vaswani(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    keys, attention = AttentionKeys(UNITS)(values, ages), DotProductTemporalAttention(UNITS, HEADS)
    context, weights = attention(query, keys, values, np.ones(values.shape[:-1], "float32"))
    asked = query @ np.asarray(attention.of_query.kernel)[0, 0]
    for head in range(HEADS):
        of_keys = slice(head * UNITS // HEADS, (head + 1) * UNITS // HEADS)
        of_values = slice(head * CHANNELS // HEADS, (head + 1) * CHANNELS // HEADS)
        products = (asked[:, None, ..., of_keys] * np.asarray(keys)[..., of_keys]).sum(axis=-1)
        raised = np.exp(products / np.sqrt(UNITS / HEADS))
        expected = raised / raised.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.asarray(weights)[..., head], expected, atol=1e-6)
        seen = (expected[..., None] * values[..., of_values]).sum(axis=1)
        np.testing.assert_allclose(np.asarray(context)[..., of_values], seen, atol=1e-5)


@pytest.mark.parametrize(("units", "channels"), [(7, 6), (8, 5)])
def test_heads_that_share_unevenly_are_refused(units: int, channels: int) -> None:
    images = np.zeros((1, FRAMES, Y, X, channels), "float32")
    with pytest.raises(ValueError, match=r"shared out evenly to the heads, found [57] for 2"):
        DotProductTemporalAttention(units, HEADS)(
            images[:, 0], np.zeros((1, FRAMES, Y, X, units), "float32"), images, np.ones(images.shape[:-1], "float32")
        )


@both
def test_order_of_frames_does_not_matter_only_their_ages(attend: Attend, rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask, order = random_mask(rng), rng.permutation(FRAMES)
    context, weights = attend(query, values, ages, mask)
    shuffled_context, shuffled_weights = attend(query, values[:, order], ages[:, order], mask[:, order])
    np.testing.assert_allclose(shuffled_weights, weights[:, order], atol=1e-6)
    np.testing.assert_allclose(shuffled_context, context, atol=1e-5)


@both
def test_age_of_a_frame_changes_its_weight(attend: Attend, rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    mask = np.ones(values.shape[:-1], "float32")
    assert np.abs(attend(query, values, ages + 5, mask)[1] - attend(query, values, ages, mask)[1]).max() > 1e-3


@both
@pytest.mark.parametrize(("kernel_size", "sees_neighbour"), [(1, False), (3, True)])
def test_kernel_size_decides_whether_a_pixel_sees_its_neighbour(
    attend: Callable, rng: np.random.Generator, kernel_size: int, sees_neighbour: bool
) -> None:
    query, values, ages = arrays(rng)
    mask = np.ones(values.shape[:-1], "float32")
    moved = query.copy()
    moved[:, 0, 1] += 1
    before, after = (attend(each, values, ages, mask, kernel_size)[1] for each in (query, moved))
    assert (np.abs(after - before)[:, :, 0, 0].max() > 0) == sees_neighbour


def test_softmax_is_safe_in_float16(rng: np.random.Generator) -> None:
    scores = rng.uniform(-6e4, 6e4, (BATCH, FRAMES, Y, X)).astype("float16")
    mask = random_mask(rng).astype("float16")
    weights = np.asarray(masked_softmax(scores, mask))
    assert weights.dtype == np.float16
    np.testing.assert_allclose(weights.sum(axis=1), mask.max(axis=1), atol=2e-3)


def test_attention_runs_under_the_mixed_float16_policy(rng: np.random.Generator) -> None:
    query, values, ages = arrays(rng)
    keys, mask = AttentionKeys(UNITS, dtype="mixed_float16")(values, ages), random_mask(rng)
    for attention in (AdditiveTemporalAttention(UNITS, **MIXED), DotProductTemporalAttention(UNITS, HEADS, **MIXED)):
        context, weights = attention(query, keys, values, mask)
        assert np.isfinite(np.asarray(context)).all()
        assert np.asarray(weights).dtype == np.float16
        assert attention.of_query.kernel.dtype == "float32"


@pytest.mark.parametrize("attention", [AdditiveTemporalAttention(UNITS), DotProductTemporalAttention(UNITS, HEADS)])
def test_pixels_without_a_usable_frame_leave_the_gradients_finite(
    attention: keras.layers.Layer, rng: np.random.Generator
) -> None:
    query, values, ages = arrays(rng)
    shapes = {"query": query.shape, "values": values.shape, "ages": ages.shape, "usable": values.shape[:-1]}
    inputs = {name: keras.Input(shape[1:], name=name) for name, shape in shapes.items()}
    keys = AttentionKeys(UNITS)(inputs["values"], inputs["ages"])
    context, _ = attention(inputs["query"], keys, inputs["values"], inputs["usable"])
    model = keras.Model(inputs, context)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    before = model.get_weights()
    model.train_on_batch({"query": query, "values": values, "ages": ages, "usable": random_mask(rng)}, query)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "layer",
    [
        AttentionKeys(UNITS, 3, 2, bias=False, name="a"),
        AdditiveTemporalAttention(UNITS, 3, 2, name="a"),
        DotProductTemporalAttention(UNITS, HEADS, 3, 2, name="a"),
    ],
)
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
