from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.convlstm import ConvLSTMCell
from models.decoders import AttentionDecoder, Decoder, DotProductDecoder, PixelHead

Array = NDArray[np.float32]
LEADS, FRAMES, FILTERS = 3, 2, 4
ADDITIVE = {"units": 4, "kernel_size": 1, "reduction": 1}
HEADED = {**ADDITIVE, "heads": 2}


@pytest.fixture
def rng() -> np.random.Generator:
    keras.utils.set_random_seed(6)
    return np.random.default_rng(6)


def encoded(rng: np.random.Generator) -> tuple[Array, Array]:
    states = rng.normal(size=(2, FRAMES, 5, 6, FILTERS)).astype("float32")
    return states, rng.normal(size=states[:, 0].shape).astype("float32")


def usable(states: Array) -> tuple[Array, Array]:
    return np.ones(states.shape[:-1], "float32"), np.tile([1, 0], (len(states), 1)).astype("float32")


def test_a_step_is_a_convlstm_step_over_context_and_lead_joined_to_the_state(rng: np.random.Generator) -> None:
    states, memory = encoded(rng)
    decoder = AttentionDecoder(1, FILTERS, attention=ADDITIVE)
    given, ages = usable(states)
    features, _ = decoder(states, memory, given, ages)
    context, _ = decoder.attention(states[:, -1], decoder.keys(states, ages), states, given)
    cell = ConvLSTMCell(FILTERS)
    cell.build((None, None, None, FILTERS))
    kernel = np.zeros((3, 3, FILTERS, 4 * FILTERS), "float32")
    kernel[1, 1] = np.asarray(decoder.of_context.kernel)
    bias = np.asarray(decoder.cell.bias) + np.asarray(decoder.leads)[0]
    cell.set_weights([kernel, np.asarray(decoder.cell.recurrent_kernel), bias])
    hidden, _ = cell(context, (states[:, -1], memory))
    np.testing.assert_allclose(np.asarray(features)[:, 0], np.asarray(hidden + context), atol=1e-5)


def test_without_attention_a_step_sees_state_and_lead_only(rng: np.random.Generator) -> None:
    states, memory = encoded(rng)
    decoder = Decoder(LEADS, FILTERS)
    before = np.asarray(decoder(states, memory))
    states[:, 0] += 1
    np.testing.assert_array_equal(np.asarray(decoder(states, memory)), before)
    decoder.leads.assign(decoder.leads + np.array([[0], [1], [0]], "float32"))
    after = np.asarray(decoder(states, memory))
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert (np.abs(after - before).max(axis=(0, 2, 3, 4))[1:] > 1e-3).all()


@pytest.mark.parametrize(("kind", "attention"), [(AttentionDecoder, ADDITIVE), (DotProductDecoder, HEADED)])
def test_attention_reaches_frames_that_the_last_state_has_forgotten(
    kind: type[AttentionDecoder | DotProductDecoder], attention: dict[str, int], rng: np.random.Generator
) -> None:
    states, memory = encoded(rng)
    decoder = kind(LEADS, FILTERS, attention=attention)

    def features() -> Array:
        given: Any = (states, memory) if kind is AttentionDecoder else (states,)
        return np.asarray(decoder(*given, *usable(states))[0])

    before = features()
    states[:, 0] += 1
    assert (np.abs(features() - before).max(axis=(0, 2, 3, 4)) > 1e-3).all()


def test_covariates_of_a_lead_act_from_that_lead_on(rng: np.random.Generator) -> None:
    states, memory = encoded(rng)
    decoder, told = Decoder(LEADS, FILTERS, 2), np.zeros((2, LEADS, 5, 6, 2), "float32")
    before = np.asarray(decoder(states, memory, told))
    told[:, 1] = 1
    moved = np.abs(np.asarray(decoder(states, memory, told)) - before).max(axis=(0, 2, 3, 4)) > 1e-4
    assert moved.tolist() == [False, True, True]


def test_all_leads_of_dot_product_attention_are_made_at_once_each_from_its_own_covariates(
    rng: np.random.Generator,
) -> None:
    states, _ = encoded(rng)
    decoder, told = DotProductDecoder(LEADS, FILTERS, 2, attention=HEADED), np.zeros((2, LEADS, 5, 6, 2), "float32")
    before = np.asarray(decoder(states, *usable(states), told)[0])
    told[:, 1] = 1
    moved = np.abs(np.asarray(decoder(states, *usable(states), told)[0]) - before).max(axis=(0, 2, 3, 4)) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_a_pixel_head_starts_as_the_newest_value_and_sees_one_pixel(rng: np.random.Generator) -> None:
    features = rng.normal(size=(2, LEADS, 5, 6, FILTERS)).astype("float32")
    values = rng.normal(size=(2, 5, 6, 4)).astype("float32")
    head = PixelHead(2, 8)
    before = np.asarray(head(features, values))
    np.testing.assert_array_equal(before, np.repeat(values[:, None, ..., :2], LEADS, axis=1))
    head.correction.kernel.assign(rng.normal(size=(8, 2)))
    before = np.asarray(head(features, values))
    features[1, 2, 3, 4] += 1
    moved = np.abs(np.asarray(head(features, values)) - before).max(axis=-1) > 1e-6
    assert np.argwhere(moved).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    "layer",
    [
        Decoder(LEADS, FILTERS, 2, kernel_size=1, name="a"),
        AttentionDecoder(LEADS, FILTERS, 2, attention={**ADDITIVE, "reduction": 2}, name="a"),
        DotProductDecoder(LEADS, FILTERS, 2, attention={**HEADED, "kernel_size": 3}, name="a"),
        PixelHead(2, 8, name="a"),
    ],
)
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
