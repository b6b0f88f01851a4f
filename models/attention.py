"""Additive attention over the encoder's frames; it returns its context and its weights."""

from __future__ import annotations

from typing import Any

import keras

from models.frames import Shape, Tensor, age_features, fold, unfold

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


@keras.saving.register_keras_serializable(package="cubecast")
class AttentionKeys(keras.layers.Layer):
    """Projected keys of the encoder's frames: ``W_k h + W_age (age, log(1 + age))``.

    They depend on no query, so a decoder computes them once, before its loop (Bahdanau 2015, arXiv 1409.0473,
    appendix A.1.2).

    Call with ``values`` ``(batch, frame, y, x, channel)`` and ``ages`` ``(batch, frame)`` in slots, finite also for
    missing frames; returns ``(batch, frame, y, x, units)``.

    Args:
        units: channels of the projection.
        kernel_size: side of the convolution over a frame.
    """

    def __init__(self, units: int, kernel_size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kernel_size = kernel_size
        self.of_values = keras.layers.Conv2D(
            units, kernel_size, padding="same", name="of_values", dtype=self.dtype_policy
        )
        self.of_ages = keras.layers.Dense(units, use_bias=False, name="of_ages", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """Weights for values of ``input_shape``."""
        self.of_values.build((None, *input_shape[2:]))
        self.of_ages.build((*input_shape[:2], 2))

    def call(self, values: Tensor, ages: Tensor) -> Tensor:
        """See the class."""
        keys = unfold(self.of_values(fold(values)), values.shape[1])
        return keys + self.of_ages(age_features(ages))[:, :, None, None, :]

    def compute_output_shape(self, values_shape: Shape, ages_shape: Shape) -> Shape:
        """``(batch, frame, y, x, units)``."""
        return (*values_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "units": self.units, "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="cubecast")
class AdditiveTemporalAttention(keras.layers.Layer):
    """At each pixel, which frames a query wants: ``softmax over frames of v^T tanh(W_q q + key)``.

    Bahdanau 2015 (arXiv 1409.0473, section 3.1), each pixel on its own.

    Call with ``query`` ``(batch, y, x, channel)``, ``keys`` ``(batch, frame, y, x, units)`` of :class:`AttentionKeys`,
    ``values`` ``(batch, frame, y, x, channel)`` and ``usable`` ``(batch, frame, y, x)``, 1 or 0. Returns the context
    ``(batch, y, x, channel)`` and the weights ``(batch, frame, y, x)``. The weights are exactly zero in frames that are
    not usable and sum to one over the others; where no frame is usable, weights and context are zero.

    Args:
        units: channels of query and keys once projected.
        kernel_size: side of the convolution over the query.
    """

    def __init__(self, units: int, kernel_size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kernel_size = kernel_size
        self.of_query = keras.layers.Conv2D(
            units, kernel_size, padding="same", use_bias=False, name="of_query", dtype=self.dtype_policy
        )

    def build(self, input_shape: Shape) -> None:
        """Weights for queries of ``input_shape``."""
        self.of_query.build(input_shape)
        self.direction = self.add_weight(shape=(self.units, 1), initializer="glorot_uniform", name="direction")

    def call(self, query: Tensor, keys: Tensor, values: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        joined = ops.tanh(self.of_query(query)[:, None] + keys)
        scores = ops.matmul(joined, self.direction)[..., 0]  # 4-D: TensorFlow's softmax aborts the process above 5-D
        weights = masked_softmax(scores, usable)
        # multiply and sum: 1.4 CPU-ms a step at 4 x 4 x 32 x 32 x 24 with its gradient, an einsum takes 5.1
        return ops.sum(weights[..., None] * values, axis=1), weights

    def compute_output_shape(
        self, query_shape: Shape, keys_shape: Shape, values_shape: Shape, usable_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, y, x, channel)`` and ``(batch, frame, y, x)``."""
        return (*query_shape[:-1], values_shape[-1]), usable_shape

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "units": self.units, "kernel_size": self.kernel_size}


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax along axis 1 over the entries whose mask is positive; the others are exactly zero.

    Args:
        scores: ``(batch, frame, y, x)``.
        mask: same shape.

    Returns:
        Same shape; sums to one along axis 1, or to zero where nothing is usable.
    """
    usable = mask > 0
    lowest = ops.min(scores, axis=1, keepdims=True)
    highest = ops.max(ops.where(usable, scores, lowest), axis=1, keepdims=True)
    shifted = ops.where(usable, scores - ops.stop_gradient(highest), 0)  # exp() of float16 overflows above 11
    raised = ops.where(usable, ops.exp(shifted), 0)
    return raised / ops.maximum(ops.sum(raised, axis=1, keepdims=True), 1)  # the largest usable one is exp(0) = 1
