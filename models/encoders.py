"""Encoders: the frames of a context become hidden states on patches."""

from __future__ import annotations

from typing import Any

import keras

from models.convlstm import ConvLSTM
from models.frames import Shape, Tensor, age_features, fold, unfold

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


@keras.saving.register_keras_serializable(package="cubecast")
class FramePatches(keras.layers.Layer):
    """Each frame on its own as features of patches: space to depth, its age, what is told of it, one convolution.

    Call with ``frames`` and ``validity`` ``(batch, frame, y, x, band)``, ``ages`` ``(batch, frame)`` and, where there
    are covariates, ``told`` ``(batch, frame, y / patch, x / patch, covariates)``; returns ``(batch, frame, y / patch,
    x / patch, filters)``.

    Args:
        filters: channels of the features.
        patch: side of a patch, pixels.
        kernel_size: side of the convolution over the patches.
        covariates: channels of what is told; 0 where nothing is.
    """

    def __init__(self, filters: int, patch: int, kernel_size: int = 3, covariates: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.patch = patch
        self.kernel_size = kernel_size
        self.covariates = covariates
        own: Any = {"dtype": self.dtype_policy}
        self.patches = keras.layers.Conv2D(filters, patch, strides=patch, name="patches", **own)
        self.of_ages = keras.layers.Dense(filters, use_bias=False, name="of_ages", **own)
        self.of_covariates = keras.layers.Dense(filters, use_bias=False, name="of_covariates", **own)
        self.texture = keras.layers.Conv2D(
            filters, kernel_size, padding="same", activation="silu", name="texture", **own
        )

    def build(self, input_shape: Shape) -> None:
        """Weights for frames of ``input_shape``."""
        _, frames, _, _, bands = input_shape
        self.patches.build((None, None, None, 2 * bands))
        self.of_ages.build((None, frames, 2))
        self.texture.build((None, None, None, self.filters))
        if self.covariates:
            self.of_covariates.build((None, frames, None, None, self.covariates))

    def call(self, frames: Tensor, validity: Tensor, ages: Tensor, told: Tensor | None = None) -> Tensor:
        """See the class.

        Raises:
            ValueError: height or width is no multiple of the patch.
        """
        self._check_size(frames.shape[2:4])
        patches = self.patches(fold(ops.concatenate([frames, validity], axis=-1)))
        known = patches + fold(self.of_ages(age_features(ages)))[:, None, None, :]
        if told is not None:
            known = known + self.of_covariates(fold(told))
        return unfold(self.texture(ops.silu(known)), frames.shape[1])

    def compute_output_shape(
        self, frames_shape: Shape, validity_shape: Shape, ages_shape: Shape, told_shape: Shape | None = None
    ) -> Shape:
        """``(batch, frame, y / patch, x / patch, filters)``."""
        batch, frames, y, x, _ = frames_shape
        return batch, frames, y and y // self.patch, x and x // self.patch, self.filters

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        names = ("filters", "patch", "kernel_size", "covariates")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _check_size(self, size: Shape) -> None:
        if any(side is not None and side % self.patch for side in size):
            msg = f"height and width are multiples of the patch ({self.patch} px), found {size}: pad them"
            raise ValueError(msg)


@keras.saving.register_keras_serializable(package="cubecast")
class StackedConvLSTM(keras.layers.Layer):
    """ConvLSTMs one upon the other, with layer normalisation before the first and after each.

    Each pixel of a frame is normalised over its own channels. Batch normalisation, which such a stack is often drawn
    with, would mix missing frames with others, and pixels of a tile, so that a forecast hung on how the grid is cut.

    Call with ``(batch, frame, y, x, channel)``; returns the last one's hidden states ``(batch, frame, y, x, filters)``.

    Args:
        filters: channels of each state.
        depth: number of ConvLSTMs.
        kernel_size: side of their convolutions.
    """

    def __init__(self, filters: int, depth: int = 2, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.depth = depth
        self.kernel_size = kernel_size
        own: Any = {"dtype": self.dtype_policy}
        levels = range(depth)
        self.recurrences = [ConvLSTM(filters, kernel_size, name=f"recurrence_{level}", **own) for level in levels]
        self.norms = [keras.layers.LayerNormalization(name=f"norm_{level}", **own) for level in range(depth + 1)]

    def build(self, input_shape: Shape) -> None:
        """Weights for frames of ``input_shape``."""
        shapes = [input_shape, *[(*input_shape[:-1], self.filters)] * self.depth]
        for norm, shape in zip(self.norms, shapes, strict=True):
            norm.build(shape)
        for recurrence, shape in zip(self.recurrences, shapes[:-1], strict=True):
            recurrence.build(shape)

    def call(self, features: Tensor) -> Tensor:
        """See the class."""
        states = self.norms[0](features)
        for recurrence, norm in zip(self.recurrences, self.norms[1:], strict=True):
            states = norm(recurrence(states)[0])
        return states

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, frame, y, x, filters)``."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        own = {"filters": self.filters, "depth": self.depth, "kernel_size": self.kernel_size}
        return {**super().get_config(), **own}
