"""The axis of frames: folded into the batch, and what is newest along it."""

from __future__ import annotations

from typing import Any

import keras

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
Tensor = Any  # shapes stand in the docstrings
Shape = tuple[Any, ...]  # whole numbers, or None where a side is not fixed
NEAREST_SLOTS = 0.5  # two frames of one slot each are at least about half a slot apart


def fold(sequence: Tensor) -> Tensor:
    """``(batch, frame, ...)`` as ``(batch * frame, ...)``: one convolution for all frames."""
    return ops.reshape(sequence, (-1, *ops.shape(sequence)[2:]))


def unfold(images: Tensor, frames: int) -> Tensor:
    """``(batch * frame, ...)`` as ``(batch, frame, ...)``: the inverse of :func:`fold`."""
    return ops.reshape(images, (-1, frames, *ops.shape(images)[1:]))


def age_features(ages: Tensor) -> Tensor:
    """``(..., 2)``: the age in slots and the logarithm of one plus it, near and far at one scale."""
    ages = ops.maximum(ages, 0)  # a scene of the init slot may be acquired a little after the slot's time
    return ops.stack([ages, ops.log1p(ages)], axis=-1)


@keras.saving.register_keras_serializable(package="cubecast")
class NewestValid(keras.layers.Layer):
    """Newest valid value of each pixel, its rate of change since the valid value before it, and its age.

    Call with ``frames`` and ``validity`` ``(batch, frame, y, x, band)``, oldest frame first, and ``ages``
    ``(batch, frame)`` in slots. Returns two tensors ``(batch, y, x, 2 * len(bands))``: the values, first the newest
    value of each band and then the rate of each band (units a slot); and whether they are known (1 or 0). What is
    unknown is 0: a newest value where no frame is valid, a rate where fewer than two are. The third tensor ``(batch, y,
    x, len(bands))`` is the age of the newest value, in slots, at least 0; 0 where there is none.

    Args:
        bands: indices of the bands to keep.
    """

    def __init__(self, bands: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bands = tuple(bands)

    def call(self, frames: Tensor, validity: Tensor, ages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        valid = ops.take(validity, self.bands, axis=-1) > 0
        values = ops.take(frames, self.bands, axis=-1)
        times = -ages[:, :, None, None, None] * ops.ones_like(values)
        newest = previous = time = time_before = ops.zeros_like(values[:, 0])
        known = both_known = ops.zeros_like(valid[:, 0])
        for frame in range(frames.shape[1]):
            now = valid[:, frame]
            previous, time_before = ops.where(now, newest, previous), ops.where(now, time, time_before)
            both_known = ops.where(now, known, both_known)
            newest, time = ops.where(now, values[:, frame], newest), ops.where(now, times[:, frame], time)
            known = ops.logical_or(known, now)
        gap = ops.maximum(time - time_before, NEAREST_SLOTS)
        rate = ops.where(both_known, (newest - previous) / gap, 0)
        flags = ops.concatenate([known, both_known], axis=-1)
        age = ops.where(known, ops.maximum(-time, 0), 0)
        return ops.concatenate([newest, rate], axis=-1), ops.cast(flags, values.dtype), age

    def compute_output_shape(
        self, frames_shape: Shape, validity_shape: Shape, ages_shape: Shape
    ) -> tuple[Shape, Shape, Shape]:
        """``(batch, y, x, 2 * len(bands))`` twice, and ``(batch, y, x, len(bands))``."""
        batch, _, y, x, _ = frames_shape
        shape = (batch, y, x, 2 * len(self.bands))
        return shape, shape, (*shape[:-1], len(self.bands))

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "bands": self.bands}


@keras.saving.register_keras_serializable(package="cubecast")
class PatchMask(keras.layers.Layer):
    """Whether a patch of a frame holds any valid pixel.

    Call with ``validity`` ``(batch, frame, y, x, band)``; returns 1 or 0, ``(batch, frame, y / patch, x / patch)``.

    Args:
        patch: side of a patch, pixels.
    """

    def __init__(self, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch = patch

    def call(self, validity: Tensor) -> Tensor:
        """See the class."""
        any_band = ops.max(validity, axis=-1, keepdims=True)
        patches = ops.max_pool(fold(any_band), self.patch, self.patch)
        return unfold(patches, validity.shape[1])[..., 0]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, frame, y / patch, x / patch)``."""
        batch, frames, y, x, _ = input_shape
        return batch, frames, y and y // self.patch, x and x // self.patch

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "patch": self.patch}


@keras.saving.register_keras_serializable(package="cubecast")
class CovariatePatches(keras.layers.Layer):
    """Means of the covariates over patches, first those that belong to the frames, then those of the leads.

    Call with ``(batch, frame + lead, y, x, channel)``; returns ``(batch, frame, y / patch, x / patch, channel)`` and
    the same with leads.

    Args:
        frames: how many of the steps are frames.
        patch: side of a patch, pixels.
    """

    def __init__(self, frames: int, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frames = frames
        self.patch = patch

    def call(self, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        means = unfold(ops.average_pool(fold(covariates), self.patch, self.patch), covariates.shape[1])
        return means[:, : self.frames], means[:, self.frames :]

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """``(batch, frame, y / patch, x / patch, channel)``, and with leads instead of frames."""
        batch, steps, y, x, channels = input_shape
        place = (y and y // self.patch, x and x // self.patch, channels)
        return (batch, self.frames, *place), (batch, steps - self.frames, *place)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "frames": self.frames, "patch": self.patch}
