from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.convlstm import ConvLSTM, ConvLSTMCell

Array = NDArray[np.float32]
FILTERS = 5
RATE = 1000.0  # of plain descent: large, so that a gradient is not lost in the rounding of the weights


@pytest.fixture
def sequence() -> Array:
    keras.utils.set_random_seed(1)
    return np.random.default_rng(1).normal(size=(2, 4, 6, 7, 3)).astype("float32")


def with_random_weights(layer: keras.layers.Layer) -> keras.layers.Layer:
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(size=weight.shape, scale=0.3) for weight in layer.get_weights()])
    return layer


def of_keras(kernel_size: int) -> Any:
    options: dict[str, Any] = {"recurrent_activation": "sigmoid", "return_sequences": True, "return_state": True}
    return keras.layers.ConvLSTM2D(FILTERS, kernel_size, padding="same", **options)


class Shift(keras.layers.Layer):
    """Adds a weight of the inputs' shape, whose gradient is theirs."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.offset: Any = self.add_weight(shape=input_shape[1:], initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return inputs + self.offset


def gradients(layer: Any, sequence: Array, *, eagerly: bool = True) -> dict[str, Array]:
    """Of a loss on the hidden states and the final cell state, from one step of descent as ``fit`` makes it."""
    inputs = keras.Input(sequence.shape[1:])
    states, *_, memory = layer(Shift(name="shift")(inputs))
    with_random_weights(layer)
    model: Any = keras.Model(inputs, [states, memory])
    model.compile(keras.optimizers.SGD(RATE), loss=["mse", "mse"], run_eagerly=eagerly, jit_compile=False)
    rng = np.random.default_rng(3)
    targets = [rng.normal(size=(len(sequence), *output.shape[1:])).astype("float32") for output in model.outputs]
    before = model.get_weights()
    model.train_on_batch(sequence, targets)
    names = ("inputs", "kernel", "recurrent kernel", "bias")
    return {name: (a - b) / RATE for name, a, b in zip(names, before, model.get_weights(), strict=True)}


def assert_gradients_close(found: dict[str, Array], expected: dict[str, Array], tolerance: float = 1e-4) -> None:
    for name, values in expected.items():
        scale = np.abs(values).max() or 1  # the recurrent kernel of one frame meets zeros only
        np.testing.assert_allclose(found[name] / scale, values / scale, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_layer_equals_that_of_keras_with_the_same_weights(sequence: Array, kernel_size: int, *, training: bool) -> None:
    theirs, ours = of_keras(kernel_size), ConvLSTM(FILTERS, kernel_size)
    ours(sequence)
    states, memory = with_random_weights(ours)(sequence, training=training)
    theirs(sequence)
    theirs.set_weights(ours.get_weights())
    expected_states, _, expected_memory = theirs(sequence)
    np.testing.assert_allclose(np.asarray(states), np.asarray(expected_states), atol=1e-5)
    np.testing.assert_allclose(np.asarray(memory), np.asarray(expected_memory), atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_gradients_equal_those_of_keras_with_the_same_weights(sequence: Array, kernel_size: int) -> None:
    expected = gradients(of_keras(kernel_size), sequence)
    assert_gradients_close(gradients(ConvLSTM(FILTERS, kernel_size), sequence), expected)


@pytest.mark.parametrize("shape", [(1, 2, 5, 3, 1), (3, 6, 8, 8, 2), (2, 1, 4, 5, 3), (1, 3, 1, 1, 2)])
def test_gradients_equal_those_of_keras_at_other_sizes(shape: tuple[int, ...]) -> None:
    sequence = np.random.default_rng(4).normal(size=shape).astype("float32")
    assert_gradients_close(gradients(ConvLSTM(FILTERS), sequence), gradients(of_keras(3), sequence))


def test_a_compiled_step_has_the_same_gradients(sequence: Array) -> None:
    expected = gradients(ConvLSTM(FILTERS), sequence)
    assert_gradients_close(gradients(ConvLSTM(FILTERS), sequence, eagerly=False), expected)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless it is told at its start")
def test_gradient_is_the_slope_of_the_loss(sequence: Array) -> None:
    layer = ConvLSTM(FILTERS, dtype="float64")
    layer(sequence)
    found = gradients(layer, sequence.astype("float64"))["recurrent kernel"]
    weights, rng = with_random_weights(layer).get_weights(), np.random.default_rng(3)
    targets = [rng.normal(size=np.shape(output)).astype("float32") for output in layer(sequence)]

    def loss(change: float, place: tuple[int, ...]) -> float:
        kernels = [np.array(weight) for weight in weights]
        kernels[1][place] += change
        layer.set_weights(kernels)
        found = zip(layer(sequence), targets, strict=True)
        return sum(float(np.mean((np.asarray(output) - target) ** 2)) for output, target in found)

    for place in ((0, 0, 0, 0), (1, 1, 2, 7), (2, 1, 4, 13), (1, 2, 3, 19)):
        slope = (loss(1e-5, place) - loss(-1e-5, place)) / 2e-5
        assert found[place] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_training_gives_the_values_of_prediction(sequence: Array) -> None:
    layer = ConvLSTM(FILTERS)
    for trained, predicted in zip(layer(sequence, training=True), layer(sequence, training=False), strict=True):
        np.testing.assert_allclose(np.asarray(trained), np.asarray(predicted), atol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
def test_mixed_precision_has_nearly_the_gradients_of_float32(sequence: Array, precision: str, tolerance: float) -> None:
    rounded = gradients(ConvLSTM(FILTERS, dtype=precision), sequence)
    assert_gradients_close(rounded, gradients(ConvLSTM(FILTERS), sequence), tolerance)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_network_of_any_height_and_width_learns_and_comes_back(
    sequence: Array, precision: str, tmp_path: Path
) -> None:
    inputs = keras.Input((4, None, None, 3))
    states, _ = ConvLSTM(FILTERS, dtype=precision)(inputs)
    model: Any = keras.Model(inputs, states)
    optimizer: Any = keras.optimizers.Adam(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer
    model.compile(optimizer, loss="mse", jit_compile=False)
    targets = 0.3 * np.sign(sequence[..., :1]).repeat(FILTERS, axis=-1)
    pieces = [(sequence, targets), (sequence[:1, :, :5, :4], targets[:1, :, :5, :4])]
    losses = [float(np.squeeze(model.train_on_batch(*pieces[step % 2]))) for step in range(30)]
    assert losses[-2] < 0.8 * losses[0]
    model.save(tmp_path / "network.keras")
    twin: Any = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(twin.predict(sequence, verbose=0), model.predict(sequence, verbose=0))


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


def test_cell_without_a_state_starts_from_zeros(sequence: Array) -> None:
    cell, frame = ConvLSTMCell(FILTERS), sequence[:, 0]
    zeros = np.zeros((*frame.shape[:-1], FILTERS), "float32")
    expected = cell(frame, (zeros, zeros))
    for found, value in zip(cell.advance(cell.project(frame)), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(value), atol=1e-6)


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
