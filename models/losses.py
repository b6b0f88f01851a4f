"""Losses that do not see what is missing: NaN in the truth, mean over the pixels that have one."""

from __future__ import annotations

from typing import Any

import keras

from models.frames import Tensor

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


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
