"""Convolutional LSTM: one step of it, and the unrolled sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from models.frames import Shape, Tensor, fold, unfold

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
WRITTEN_OUT = frozenset({"tensorflow", "jax"})  # backends whose custom gradients are tested here


class Step(NamedTuple):
    """One step's values, each ``(batch, y, x, filters)``: what it gives, and what its gradient needs.

    Attributes:
        hidden: the new hidden state, ``show * squashed``.
        memory: the new cell state, ``kept + admitted``.
        admit: input gate.
        keep: forget gate.
        candidate: what the input gate may let in.
        show: output gate.
        admitted: ``admit * candidate``.
        kept: ``keep`` times the cell state before.
        squashed: hyperbolic tangent of ``memory``.
    """

    hidden: Tensor
    memory: Tensor
    admit: Tensor
    keep: Tensor
    candidate: Tensor
    show: Tensor
    admitted: Tensor
    kept: Tensor
    squashed: Tensor

    @classmethod
    def of(cls, gates: Tensor, memory: Tensor | None) -> Step:
        """The step with these gates, ``(batch, y, x, 4 * filters)``, not yet activated, and this cell state before."""
        admit, keep, candidate, show = ops.split(gates, 4, axis=-1)
        admit, keep, show = ops.sigmoid(admit), ops.sigmoid(keep), ops.sigmoid(show)
        candidate = ops.tanh(candidate)
        admitted = admit * candidate
        kept = ops.zeros_like(admitted) if memory is None else keep * memory
        memory = kept + admitted
        squashed = ops.tanh(memory)
        return cls(show * squashed, memory, admit, keep, candidate, show, admitted, kept, squashed)

    def gradients(self, of_hidden: Tensor, of_memory: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the gates, and of the cell state before, from those of the new hidden and cell state.

        A sigmoid ``s`` of ``g`` and a factor ``f`` of it give ``f * s * (1 - s)``, here ``p - p * s`` with the product
        ``p = f * s``, which the forward pass has made.
        """
        shown = of_hidden * self.hidden
        of_memory = of_memory + of_hidden * self.show - shown * self.squashed
        admitted, kept = of_memory * self.admitted, of_memory * self.kept
        of_gates = [
            admitted - admitted * self.admit,
            kept - kept * self.keep,
            of_memory * self.admit - admitted * self.candidate,
            shown - shown * self.show,
        ]
        return ops.concatenate(of_gates, axis=-1), of_memory * self.keep


def _gates(projected: Tensor, hidden: Tensor | None, kernel: Tensor) -> Tensor:
    """Gates of a step before their activations; no hidden state is one of zeros."""
    return projected if hidden is None else projected + ops.conv(hidden, kernel, padding="same")


def _unroll(projected: Tensor, kernel: Tensor, frames: int) -> list[Step]:
    """The steps over ``(frame * batch, y, x, 4 * filters)``."""
    batch = ops.shape(projected)[0] // frames
    steps: list[Step] = []
    for frame in range(frames):
        hidden, memory = steps[-1][:2] if steps else (None, None)
        of_frame = projected[frame * batch : (frame + 1) * batch]
        steps.append(Step.of(_gates(of_frame, hidden, kernel), memory))
    return steps


def _attach(steps: list[Step], kernel: Tensor, projected: Tensor, recurrent: Tensor, bias: Tensor) -> Any:
    """Hidden states and final cell state of the steps, as a function of what made their gates.

    The values are there already: only gradients pass through the arguments, those of all steps at once, and so reach
    the kernels in one call. What ``recurrent`` is, nobody asks, and a compiled graph never computes it. One gathered
    gradient of a 3 x 3 kernel takes 8.6 CPU-ms, ten of a frame each 11.0 (4 x 10 x 16 x 16 x 32).

    Args:
        steps: of all frames, made of values through which no gradient flows.
        kernel: of the recurrent convolution, likewise.
        projected: convolution of the inputs, ``(frame * batch, y, x, 4 * filters)``.
        recurrent: convolution of all hidden states but the last, ``((frame - 1) * batch, y, x, 4 * filters)``.
        bias: ``(4 * filters,)``.
    """
    batch = ops.shape(steps[0].hidden)[0]

    def values(projected: Tensor, recurrent: Tensor, bias: Tensor) -> Any:
        def gradients(*upstream: Any) -> tuple[Tensor, Tensor, Tensor]:
            of_hidden, of_memory = keras.tree.flatten(upstream)  # JAX gives one pair, TensorFlow two arguments
            of_gates = _through_time(steps, kernel, ops.unstack(of_hidden, axis=1), of_memory)
            return of_gates, of_gates[batch:], _sum_of_pixels(of_gates)

        return (ops.stack([step.hidden for step in steps], axis=1), steps[-1].memory * 1), gradients

    return ops.custom_gradient(values)(projected, recurrent, bias)


def _through_time(steps: list[Step], kernel: Tensor, of_hidden: list[Tensor], of_memory: Tensor) -> Tensor:
    """Gradients of the gates of all steps, ``(frame * batch, y, x, 4 * filters)``, from the last step to the first."""
    of_gates, of_memory = steps[-1].gradients(of_hidden[-1], of_memory)
    gathered = [of_gates]
    for step, outside in zip(steps[-2::-1], of_hidden[-2::-1], strict=True):
        through_kernel = ops.conv_transpose(of_gates, kernel, padding="same")
        of_gates, of_memory = step.gradients(outside + through_kernel, of_memory)
        gathered.append(of_gates)
    return ops.concatenate(gathered[::-1], axis=0)


def _sum_of_pixels(images: Tensor) -> Tensor:
    """``(channel,)``: a product with ones, 5 CPU-ms where TensorFlow's sum takes 22 (20 x 64 x 64 x 256)."""
    pixels = ops.reshape(images, (-1, images.shape[-1]))
    return ops.matmul(ops.ones((1, ops.shape(pixels)[0]), images.dtype), pixels)[0]


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

    def advance(self, projected: Tensor, states: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """New hidden and cell state from projected inputs and the states before; None: both are zero, at no cost."""
        hidden, memory = states or (None, None)
        step = Step.of(_gates(projected, hidden, self.recurrent_kernel), memory)
        return step.hidden, step.memory

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

    The input convolution of all frames and gates is one call, the recurrent one a call a step but the first; the loop
    is unrolled. In training (``training=True``, as ``fit`` calls it) the gradient through time is written out, so that
    the gradient of the recurrent kernel is one call for all steps too. Forward pass and gradients at 4 x 4 x 16 x 16 x
    32 (batch, frames, height, width, channels) take 23 CPU-ms, those of Keras's layer 36; at 2 x 4 x 64 x 64 x 64 they
    take 541 and 626 (tests/benchmarks/bench_convlstm.py).

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

    def call(self, inputs: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """See the class."""
        written_out = training and inputs.shape[1] > 1 and keras.backend.backend() in WRITTEN_OUT
        return self._unrolled_backwards(inputs) if written_out else self._unrolled(inputs)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """``(batch, frame, y, x, filters)`` and ``(batch, y, x, filters)``."""
        batch, frames, y, x, _ = input_shape
        return (batch, frames, y, x, self.cell.filters), (batch, y, x, self.cell.filters)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "filters": self.cell.filters, "kernel_size": self.cell.kernel_size}

    def _unrolled(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        projected = unfold(self.cell.project(fold(inputs)), inputs.shape[1])
        first, *later = ops.unstack(projected, axis=1)
        zeros = ops.zeros_like(first[..., : self.cell.filters])
        states = [self.cell.advance(first, None if later else (zeros, zeros))]  # Keras warns of unused weights
        for of_frame in later:
            states.append(self.cell.advance(of_frame, states[-1]))
        return ops.stack([hidden for hidden, _ in states], axis=1), states[-1][1]

    def _unrolled_backwards(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The same values; gradients by :func:`_attach`.

        The frames lie one after the other, not sample by sample, so that a step's slice of the projections is no copy.
        """
        images = fold(ops.swapaxes(inputs, 0, 1))
        kernel, bias = self.cell.recurrent_kernel * 1, self.cell.bias * 1  # tensors: no variable may be an argument
        projected = ops.conv(images, self.cell.kernel, padding="same")
        steps = _unroll(*map(ops.stop_gradient, (projected + bias, kernel)), frames=inputs.shape[1])
        before = ops.concatenate([step.hidden for step in steps[:-1]], axis=0)
        recurrent = ops.conv(ops.stop_gradient(before), kernel, padding="same")
        return _attach(steps, ops.stop_gradient(kernel), projected, recurrent, bias)
