import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.convlstm import ConvLSTM, ConvLSTMCell

Array = NDArray[np.float32]
FILTERS = 5


@pytest.fixture
def sequence() -> Array:
    keras.utils.set_random_seed(1)
    return np.random.default_rng(1).normal(size=(2, 4, 6, 7, 3)).astype("float32")


def with_random_weights(layer: keras.layers.Layer) -> keras.layers.Layer:
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(size=weight.shape, scale=0.3) for weight in layer.get_weights()])
    return layer


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_layer_equals_that_of_keras_with_the_same_weights(sequence: Array, kernel_size: int) -> None:
    theirs = keras.layers.ConvLSTM2D(
        FILTERS, kernel_size, padding="same", recurrent_activation="sigmoid", return_sequences=True, return_state=True
    )
    ours = ConvLSTM(FILTERS, kernel_size)
    ours(sequence)
    states, memory = with_random_weights(ours)(sequence)
    theirs(sequence)
    theirs.set_weights(ours.get_weights())
    expected_states, _, expected_memory = theirs(sequence)
    np.testing.assert_allclose(np.asarray(states), np.asarray(expected_states), atol=1e-5)
    np.testing.assert_allclose(np.asarray(memory), np.asarray(expected_memory), atol=1e-5)


def test_cell_stepped_over_the_frames_equals_the_layer(sequence: Array) -> None:
    layer = ConvLSTM(FILTERS)
    states, memory = layer(sequence)
    cell = ConvLSTMCell(FILTERS)
    hidden = carried = np.zeros((*sequence[:, 0].shape[:-1], FILTERS), "float32")
    cell.build(sequence[:, 0].shape)
    cell.set_weights(layer.get_weights())
    for frame in range(sequence.shape[1]):
        hidden, carried = cell(sequence[:, frame], (hidden, carried))
        np.testing.assert_allclose(np.asarray(hidden), np.asarray(states[:, frame]), atol=1e-6)
    np.testing.assert_allclose(np.asarray(carried), np.asarray(memory), atol=1e-6)


def test_later_frames_do_not_change_earlier_states(sequence: Array) -> None:
    layer = ConvLSTM(FILTERS)
    changed = sequence.copy()
    changed[:, -1] += 1
    before, after = np.asarray(layer(sequence)[0]), np.asarray(layer(changed)[0])
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    assert np.abs(after[:, -1] - before[:, -1]).max() > 1e-3


def test_forget_gate_starts_open(sequence: Array) -> None:
    layer = ConvLSTM(FILTERS)
    layer(sequence)
    gates = np.asarray(layer.cell.bias).reshape(4, FILTERS)
    np.testing.assert_array_equal(gates, [[0] * FILTERS, [1] * FILTERS, [0] * FILTERS, [0] * FILTERS])


@pytest.mark.parametrize("kind", [ConvLSTM, ConvLSTMCell])
def test_configuration_makes_the_same_layer_again(kind: type[ConvLSTM | ConvLSTMCell]) -> None:
    layer = kind(FILTERS, 5, name="memory")
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is kind
    assert twin.get_config() == layer.get_config()
