"""Losses that do not see what is missing: NaN in the truth, mean over the pixels that have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from models.frames import Tensor
from pipeline.normalise import Statistics

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
MEDIAN = 0.5
LARGEST = 20.0  # exponent: what an untrained network may say stays finite, squared too


class MaskedLoss(keras.losses.Loss):
    """Mean of :meth:`penalty` over the pixels of the whole batch whose truth is finite; 0 where there are none.

    ``y_true`` and ``y_pred`` have one shape, such as ``(batch, lead, y, x, band)``; ``y_true`` is NaN where nothing is
    known.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss, a scalar."""
        count = ops.sum(ops.cast(ops.isfinite(y_true), self.dtype))
        return self.total(y_true, y_pred) / ops.maximum(count, 1)

    def total(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The penalties' sum, a scalar.

        Sums of parts of a batch add up to that of the whole, however many valid pixels each part has; means do not.
        """
        valid = ops.isfinite(y_true)
        # finite before it is used: a NaN that is only masked afterwards still makes every gradient NaN
        error = ops.where(valid, ops.cast(y_pred, self.dtype) - ops.where(valid, y_true, 0), 0)
        return ops.sum(self.penalty(error))

    def penalty(self, error: Tensor) -> Tensor:
        """What an error costs, element by element; 0 for an error of 0."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="cubecast")
class MaskedMeanSquaredError(MaskedLoss):
    """Squared error; its minimum is the mean of what may come."""

    def penalty(self, error: Tensor) -> Tensor:
        """The square."""
        return ops.square(error)


@keras.saving.register_keras_serializable(package="cubecast")
class MaskedMeanAbsoluteError(MaskedLoss):
    """Absolute error; its minimum is the median of what may come."""

    def penalty(self, error: Tensor) -> Tensor:
        """The absolute value."""
        return ops.abs(error)


@keras.saving.register_keras_serializable(package="cubecast")
class MaskedHuber(MaskedLoss):
    """Squared error near zero, absolute error far from it (Huber 1964).

    Args:
        delta: error at which the square gives way to the line, in the units of the values.
    """

    def __init__(self, delta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.delta = delta

    def penalty(self, error: Tensor) -> Tensor:
        """Half the square up to ``delta``, a line of slope ``delta`` beyond."""
        size = ops.abs(error)
        near = ops.minimum(size, self.delta)
        return near * (size - near / 2)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "delta": self.delta}


Curve = tuple[float, float, float]
"""Slope, shift and gain: ``gain * exp(slope * z + shift)`` is the value behind the standardised logarithm ``z``."""


@keras.saving.register_keras_serializable(package="cubecast")
class MeanAndQuantiles(MaskedLoss):
    """Squared error of the mean plus the pinball loss of each quantile (Koenker & Bassett 1978).

    ``y_true`` is ``(batch, lead, y, x, band)``, NaN where nothing is known; ``y_pred`` has the same shape but for its
    last axis, which holds the mean of each band, then each quantile of each band. A quantile of a logarithm is the
    logarithm of the quantile, but the mean of logarithms is not that of the mean: the squared error of a band that is
    learned on a logarithmic scale is that of the values behind it.

    Args:
        levels: of the quantiles; empty: the squared error alone.
        weights: of the quantiles' losses, one each; by default 1 for the median and a half for the others.
        curves: of each band, None for one on its own scale; empty: all are.
    """

    def __init__(
        self,
        levels: Sequence[float],
        weights: Sequence[float] = (),
        curves: Sequence[Curve | None] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.levels = tuple(levels)
        self.weights = tuple(weights) or tuple(1.0 if level == MEDIAN else 0.5 for level in levels)
        self.curves = tuple(None if curve is None else (curve[0], curve[1], curve[2]) for curve in curves)

    def total(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The losses' sum over pixels with a truth, a scalar."""
        valid = ops.isfinite(y_true)
        known = ops.where(valid, y_true, 0)
        mean, *quantiles = ops.split(ops.cast(y_pred, self.dtype), 1 + len(self.levels), axis=-1)
        losses = ops.square(self.linear(mean) - self.linear(known))
        for level, weight, said in zip(self.levels, self.weights, quantiles, strict=True):
            short = known - said
            losses = losses + weight * ops.maximum(level * short, (level - 1) * short)
        return ops.sum(ops.where(valid, losses, 0))

    def linear(self, values: Tensor) -> Tensor:
        """Values of each band in standard deviations of the band itself, apart from a constant; the last axis is it."""
        if not any(self.curves):
            return values
        bands = ops.split(values, len(self.curves), axis=-1)
        return ops.concatenate([_behind(*pair) for pair in zip(bands, self.curves, strict=True)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "levels": self.levels, "weights": self.weights, "curves": self.curves}


def _behind(values: Tensor, curve: Curve | None) -> Tensor:
    if curve is None:
        return values
    slope, shift, gain = curve
    return gain * ops.exp(ops.minimum(slope * values + shift, LARGEST))


def loss_of(levels: Sequence[float], statistics: Statistics | None = None) -> MeanAndQuantiles:
    """The loss of forecasts of the bands of ``statistics``; None: of bands on their own scale."""
    return MeanAndQuantiles(levels, curves=() if statistics is None else _curves(statistics))


def _curves(statistics: Statistics) -> list[Curve | None]:
    each = zip(statistics.transforms, statistics.mean, statistics.deviation, strict=True)
    return [
        None if transform.kind == "none" else (deviation, mean, transform.x0 / transform.deviation)
        for transform, mean, deviation in each
    ]
