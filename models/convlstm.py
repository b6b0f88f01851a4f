"""Convolutional LSTM: one step of it, and the unrolled sequence."""

from __future__ import annotations

from typing import Any

import keras

from models.frames import Shape, Tensor, fold, unfold

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


@keras.saving.register_keras_serializable(package="cubecast")
class ConvLSTMCell(keras.layers.Layer):
    """One step of a convolutional LSTM (Shi 2015, arXiv 1506.04214, equation 3) without peepholes.

    The weights are those of ``keras.layers.ConvLSTM2D``, in its order: gates input, forget, cell, output along the last
    axis, bias of the forget gate one.

    Call with ``inputs`` ``(batch, y, x, channel)`` and ``states``, hidden and cell, each ``(batch, y, x, filters)``;
    returns the new hidden and the new cell state.

    Args:
        filters: channels of the state.
        kernel_size: side of both convolutions.
    """

    def __init__(self, filters: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size

    def build(self, input_shape: Shape) -> None:
        """Weights for inputs of ``input_shape[-1]`` channels."""
        window, gates = (self.kernel_size, self.kernel_size), 4 * self.filters
        self.kernel = self.add_weight(shape=(*window, input_shape[-1], gates), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(*window, self.filters, gates), initializer="orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight(shape=(gates,), initializer=self._forget_nothing, name="bias")

    def call(self, inputs: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.advance(self.project(inputs), states)

    def project(self, inputs: Tensor) -> Tensor:
        """What the inputs add to the gates, ``(batch, y, x, 4 * filters)``.

        It needs no state, so all frames can go at once.
        """
        return ops.conv(inputs, self.kernel, padding="same") + self.bias

    def advance(self, projected: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """New hidden and cell state from projected inputs and the states before."""
        hidden, memory = states
        gates = projected + ops.conv(hidden, self.recurrent_kernel, padding="same")
        admit, keep, candidate, show = ops.split(gates, 4, axis=-1)
        memory = ops.sigmoid(keep) * memory + ops.sigmoid(admit) * ops.tanh(candidate)
        return ops.sigmoid(show) * ops.tanh(memory), memory

    def compute_output_shape(self, inputs_shape: Shape, states_shape: tuple[Shape, Shape]) -> tuple[Shape, Shape]:
        """``(batch, y, x, filters)``, twice."""
        shape = (*inputs_shape[:-1], self.filters)
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}

    def _forget_nothing(self, shape: Shape, dtype: str) -> Tensor:
        zeros, ones = ops.zeros((self.filters,), dtype), ops.ones((self.filters,), dtype)
        return ops.concatenate([zeros, ones, zeros, zeros])


@keras.saving.register_keras_serializable(package="cubecast")
class ConvLSTM(keras.layers.Layer):
    """A convolutional LSTM over a static number of frames; equals ``keras.layers.ConvLSTM2D`` with the same weights.

    The input convolution of all frames and gates is one call, the recurrent one a call a step; the loop is unrolled.
    A training step at 4 x 4 x 32 x 32 x 24 takes 55 CPU-ms, that of Keras's layer 74.

    Call with ``(batch, frame, y, x, channel)``; returns the hidden states ``(batch, frame, y, x, filters)`` and the
    final cell state ``(batch, y, x, filters)``.

    Args:
        filters: channels of the state.
        kernel_size: side of both convolutions.
    """

    def __init__(self, filters: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell = ConvLSTMCell(filters, kernel_size, name="cell", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """Weights for frames of ``input_shape[-1]`` channels."""
        self.cell.build((input_shape[0], *input_shape[2:]))

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        projected = unfold(self.cell.project(fold(inputs)), inputs.shape[1])
        hidden = memory = ops.zeros_like(projected[:, 0, ..., : self.cell.filters])
        states = []
        for of_frame in ops.unstack(projected, axis=1):
            hidden, memory = self.cell.advance(of_frame, (hidden, memory))
            states.append(hidden)
        return ops.stack(states, axis=1), memory

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """``(batch, frame, y, x, filters)`` and ``(batch, y, x, filters)``."""
        batch, frames, y, x, _ = input_shape
        return (batch, frames, y, x, self.cell.filters), (batch, y, x, self.cell.filters)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "filters": self.cell.filters, "kernel_size": self.cell.kernel_size}
