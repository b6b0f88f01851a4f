"""Attention over the encoder's frames, pixel by pixel: additive and dot-product; each returns context and weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from models.frames import Shape, Tensor, age_features, fold, unfold
from models.pyramid import Enlarge, pooled

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


class _Projection(keras.layers.Layer):
    """What keys and queries share: channels, the convolution's side, and how much smaller the scores are."""

    def __init__(self, units: int, kernel_size: int = 1, reduction: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kernel_size = kernel_size
        self.reduction = reduction

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), **self.shape}

    @property
    def shape(self) -> dict[str, int]:
        """Its own arguments, by name."""
        return {"units": self.units, "kernel_size": self.kernel_size, "reduction": self.reduction}

    def _convolution(self, name: str, *, bias: bool) -> Any:
        return keras.layers.Conv2D(
            self.units, self.kernel_size, padding="same", use_bias=bias, name=name, dtype=self.dtype_policy
        )


@keras.saving.register_keras_serializable(package="cubecast")
class AttentionKeys(_Projection):
    """Projected keys of the encoder's frames: ``W_k h + W_age (age, log(1 + age))``.

    They depend on no query, so a decoder computes them once, before its loop (Bahdanau 2015, arXiv 1409.0473,
    appendix A.1.2).

    Call with ``values`` ``(batch, frame, y, x, channel)`` and ``ages`` ``(batch, frame)`` in slots, finite also for
    missing frames; returns ``(batch, frame, ceil(y / reduction), ceil(x / reduction), units)``.

    Args:
        units: channels of the projection.
        kernel_size: side of the convolution over a frame.
        reduction: side of the blocks whose means are projected.
        bias: whether a constant is added. Dot products need none: it would change all frames' scores alike, so that no
            weight, and no gradient, came of it.
    """

    def __init__(
        self, units: int, kernel_size: int = 1, reduction: int = 1, *, bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(units, kernel_size, reduction, **kwargs)
        self.bias = bias
        self.of_values = self._convolution("of_values", bias=bias)
        self.of_ages = keras.layers.Dense(units, use_bias=False, name="of_ages", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """Weights for values of ``input_shape``."""
        self.of_values.build((None, *input_shape[2:]))
        self.of_ages.build((*input_shape[:2], 2))

    def call(self, values: Tensor, ages: Tensor) -> Tensor:
        """See the class."""
        keys = unfold(self.of_values(pooled(fold(values), self.reduction)), values.shape[1])
        return keys + self.of_ages(age_features(ages))[:, :, None, None, :]

    def compute_output_shape(self, values_shape: Shape, ages_shape: Shape) -> Shape:
        """``(batch, frame, ceil(y / reduction), ceil(x / reduction), units)``."""
        batch, frames, y, x, _ = values_shape
        return (batch, frames, *(side and -(-side // self.reduction) for side in (y, x)), self.units)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "bias": self.bias}


class _TemporalAttention(_Projection):
    """A query's projection, and scores brought back to the size of the values."""

    def __init__(self, units: int, kernel_size: int = 1, reduction: int = 1, **kwargs: Any) -> None:
        super().__init__(units, kernel_size, reduction, **kwargs)
        self.of_query = self._convolution("of_query", bias=False)
        self.enlarge = Enlarge(reduction, name="enlarge", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """Weights for queries of ``input_shape``."""
        self.of_query.build(input_shape)

    def _asked(self, query: Tensor) -> Tensor:
        return self.of_query(pooled(query, self.reduction))[:, None]

    def _at_pixels(self, scores: Tensor, values: Tensor) -> Tensor:
        """Scores ``(batch, frame, y / reduction, x / reduction, head)`` at each pixel of the values."""
        if self.reduction == 1:
            return scores
        _, frames, height, width, _ = ops.shape(values)
        return unfold(self.enlarge(fold(scores))[:, :height, :width], frames)


@keras.saving.register_keras_serializable(package="cubecast")
class AdditiveTemporalAttention(_TemporalAttention):
    """At each pixel, which frames a query wants: ``softmax over frames of v^T tanh(W_q q + key)``.

    Bahdanau 2015 (arXiv 1409.0473, section 3.1), each pixel on its own.

    Call with ``query`` ``(batch, y, x, channel)``, ``keys`` of :class:`AttentionKeys` with the same arguments,
    ``values`` ``(batch, frame, y, x, channel)`` and ``usable`` ``(batch, frame, y, x)``, 1 or 0. Returns the context
    ``(batch, y, x, channel)`` and the weights ``(batch, frame, y, x)``. The weights are exactly zero in frames that are
    not usable and sum to one over the others; where no frame is usable, weights and context are zero. With a
    ``reduction`` that holds just as well: scores are made on means over blocks, enlarged bilinearly, and only then
    masked and normalised.

    Args:
        units: channels of query and keys once projected.
        kernel_size: side of the convolution over the query.
        reduction: side of the blocks that scores are made for.
    """

    def build(self, input_shape: Shape) -> None:
        """Weights for queries of ``input_shape``."""
        super().build(input_shape)
        self.direction = self.add_weight(shape=(self.units, 1), initializer="glorot_uniform", name="direction")

    def call(self, query: Tensor, keys: Tensor, values: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        scores = ops.matmul(ops.tanh(self._asked(query) + keys), self.direction)
        weights = masked_softmax(self._at_pixels(scores, values)[..., 0], usable)
        # multiply and sum: 1.4 CPU-ms a step at 4 x 4 x 32 x 32 x 24 with its gradient, an einsum takes 5.1
        return ops.sum(weights[..., None] * values, axis=1), weights

    def compute_output_shape(
        self, query_shape: Shape, keys_shape: Shape, values_shape: Shape, usable_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, y, x, channel)`` and ``(batch, frame, y, x)``."""
        return (*query_shape[:-1], values_shape[-1]), usable_shape


@keras.saving.register_keras_serializable(package="cubecast")
class DotProductTemporalAttention(_TemporalAttention):
    """At each pixel, which frames a query wants: ``softmax over frames of (W_q q) . key / sqrt(d)``, in several heads.

    Vaswani 2017 (arXiv 1706.03762, section 3.2), each pixel on its own. A head takes its share of the channels of query
    and keys, ``d`` of them, and weighs its share of the channels of the values.

    Call with ``query`` ``(batch, y, x, channel)``, ``keys`` of :class:`AttentionKeys` with the same ``units``,
    ``kernel_size`` and ``reduction``, ``values`` ``(batch, frame, y, x, channel)`` and ``usable`` ``(batch, frame, y,
    x)``, 1 or 0. Returns the context ``(batch, y, x, channel)`` and the weights ``(batch, frame, y, x, head)``, for
    which the laws of :class:`AdditiveTemporalAttention` hold in each head.

    Args:
        units: channels of query and keys once projected, of all heads together.
        heads: number of heads; it divides ``units`` and the channels of the values.
        kernel_size: side of the convolution over the query.
        reduction: side of the blocks that scores are made for.

    Raises:
        ValueError: units or values cannot be shared out evenly.
    """

    def __init__(self, units: int, heads: int, kernel_size: int = 1, reduction: int = 1, **kwargs: Any) -> None:
        super().__init__(units, kernel_size, reduction, **kwargs)
        self.heads = heads
        self._share(units, "units")

    def call(self, query: Tensor, keys: Tensor, values: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        scale = self._share(self.units, "units") ** -0.5
        # a matmul with zeros and ones sums a head's channels, and repeats its weight
        scores = ops.matmul(self._asked(query) * scale * keys, self._shares(self.units, keys.dtype))
        weights = masked_softmax(self._at_pixels(scores, values), usable[..., None])
        shared = ops.matmul(weights, ops.transpose(self._shares(values.shape[-1], values.dtype)))
        return ops.sum(shared * values, axis=1), weights

    def compute_output_shape(
        self, query_shape: Shape, keys_shape: Shape, values_shape: Shape, usable_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, y, x, channel)`` and ``(batch, frame, y, x, head)``."""
        return (*query_shape[:-1], values_shape[-1]), (*usable_shape, self.heads)

    @property
    def shape(self) -> dict[str, int]:
        """Its own arguments, by name."""
        return {**self.shape_of_keys, "heads": self.heads}

    @property
    def shape_of_keys(self) -> dict[str, int]:
        """The arguments of the keys that belong to it."""
        return super().shape

    def _share(self, channels: int, name: str) -> int:
        if channels % self.heads:
            msg = f"{name} are shared out evenly to the heads, found {channels} for {self.heads}"
            raise ValueError(msg)
        return channels // self.heads

    def _shares(self, channels: int, dtype: Any) -> Tensor:
        """``(channels, heads)``: 1 where a channel is a head's."""
        share = self._share(channels, "channels of the values")
        return ops.convert_to_tensor(np.repeat(np.eye(self.heads), share, axis=0), dtype=dtype)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax along axis 1 over the entries whose mask is positive; the others are exactly zero.

    Args:
        scores: ``(batch, frame, y, x)``, or with heads behind; TensorFlow's own softmax aborts the process above 5-D.
        mask: same shape, or one that spreads to it.

    Returns:
        Shape of the scores; sums to one along axis 1, or to zero where nothing is usable.
    """
    usable = mask > 0
    lowest = ops.min(scores, axis=1, keepdims=True)
    highest = ops.max(ops.where(usable, scores, lowest), axis=1, keepdims=True)
    shifted = ops.where(usable, scores - ops.stop_gradient(highest), 0)  # exp() of float16 overflows above 11
    raised = ops.where(usable, ops.exp(shifted), 0)
    return raised / ops.maximum(ops.sum(raised, axis=1, keepdims=True), 1)  # the largest usable one is exp(0) = 1
