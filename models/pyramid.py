"""Fields split into scales, small ones at pixels and large ones at patches, with holes left out of every average."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.frames import Shape, Tensor

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
SPLINE = np.array([1, 4, 6, 4, 1]) / 16  # cubic B-spline: standard deviation of one tap (Starck 1998, a-trous)
COARSEST_PX = 16  # tap distance of the largest average; its standard deviation is then about 18 px
LEAST_WEIGHT = 1e-6  # an average of less than this of valid pixels takes the next smoother one's value


def fine_dilations(patch: int) -> list[int]:
    """Tap distances (px) of the averages that stay clearly smaller than a patch.

    >>> fine_dilations(1), fine_dilations(4), fine_dilations(8)
    ([], [1], [1, 2])
    """
    return [2**level for level in range(4) if 4 * 2**level <= patch]


def coarse_dilations(patch: int) -> list[int]:
    """Tap distances (patches) of the averages over patches.

    >>> coarse_dilations(4), coarse_dilations(1)
    ([1, 2, 4], [1, 2, 4, 8, 16])
    """
    return [2**level for level in range(5) if 2**level * patch <= COARSEST_PX]


@keras.saving.register_keras_serializable(package="cubecast")
class Enlarge(keras.layers.Layer):
    """Bilinear enlargement by a whole factor, each value at the centre of its block, edges repeated.

    It equals ``keras.layers.UpSampling2D``, which in Keras 3.15 raises where height or width is not fixed.

    Call with ``(batch, y, x, channel)``; returns ``(batch, y * factor, x * factor, channel)``.

    Args:
        factor: side of a block, pixels.
    """

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, images: Tensor) -> Tensor:
        """See the class."""
        factor, channels = self.factor, images.shape[-1]
        _, height, width, _ = ops.shape(images)
        around = ops.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="symmetric")
        blocks = ops.depthwise_conv(around, _constant(_bilinear_kernel(factor), channels, images.dtype))
        places = ops.reshape(blocks, (-1, height, width, channels, factor, factor))
        rows = ops.transpose(places, (0, 1, 4, 2, 5, 3))
        return ops.reshape(rows, (-1, height * factor, width * factor, channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, y * factor, x * factor, channel)``."""
        batch, y, x, channels = input_shape
        return batch, y and y * self.factor, x and x * self.factor, channels

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "factor": self.factor}


def pooled(images: Tensor, factor: int) -> Tensor:
    """Means over blocks of ``factor`` by ``factor``, the first block in the upper left corner.

    A block that reaches over the lower or right edge is the mean of what it has: a backend's own padding to the "same"
    size would split the overhang between both edges, so that blocks moved with the size of the image.

    Args:
        images: ``(batch, y, x, channel)``.
        factor: side of a block.

    Returns:
        ``(batch, ceil(y / factor), ceil(x / factor), channel)``.
    """
    if factor == 1:
        return images
    overhang = (0, factor - 1)
    counted = ops.concatenate([images, ops.ones_like(images[..., :1])], axis=-1)
    blocks = ops.average_pool(ops.pad(counted, [(0, 0), overhang, overhang, (0, 0)]), factor, factor)
    return blocks[..., :-1] / blocks[..., -1:]


def _bilinear_kernel(factor: int) -> NDArray[np.float64]:
    """``(3, 3, factor * factor)``: what a value and its neighbours add to each pixel of the value's block."""
    offset = (np.arange(factor) + 0.5) / factor - 0.5  # of a pixel from the centre of its block, in blocks
    taps = np.stack([np.maximum(-offset, 0), 1 - np.abs(offset), np.maximum(offset, 0)])
    return np.einsum("yi,xj->yxij", taps, taps).reshape(3, 3, factor**2)


def _constant(kernel: NDArray[np.float64], channels: int, dtype: Any) -> Tensor:
    return ops.convert_to_tensor(np.tile(kernel[:, :, None], (1, 1, channels, 1)), dtype=dtype)


@keras.saving.register_keras_serializable(package="cubecast")
class ScaleDetails(keras.layers.Layer):
    """Differences between ever smoother versions of a field, which sum to the field.

    The versions are the field, its averages over a few pixels, its mean over patches and averages of those; a pixel
    that is not known counts in none of them (normalised convolution, Knutsson 1993). A shift of whole patches shifts
    all of them.

    Call with ``values`` and ``known`` (1 or 0), both ``(batch, y, x, channel)``; returns the small scales at pixels,
    ``(batch, y, x, fine_scales * channel)``, and the large ones at patches, ``(batch, y / patch, x / patch,
    coarse_scales * channel)``, scale by scale; the last one is the smoothest version itself. The small ones, plus the
    large ones enlarged by ``enlarge``, sum to the values where known and to 0 elsewhere.

    Args:
        patch: side of a patch, pixels.
    """

    def __init__(self, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch = patch
        self.fine_scales = len(fine_dilations(patch)) + 1
        self.coarse_scales = len(coarse_dilations(patch)) + 1
        self.enlarge = Enlarge(patch, name="enlarge", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """No weights, but Keras warns of a loaded layer whose inner layers are not built."""
        self.enlarge.build(input_shape)

    def call(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        seen = values * known
        moments = ops.concatenate([seen, known], axis=-1)
        blocks = ops.average_pool(moments, self.patch, self.patch)
        nothing = ops.zeros_like(blocks[..., : values.shape[-1]])
        coarse = _means(smoothed(blocks, coarse_dilations(self.patch)), nothing)
        fine = _means(smoothed(moments, fine_dilations(self.patch))[1:], self.enlarge(coarse[0]))
        return _steps([seen, *fine]), _steps(coarse)

    def compute_output_shape(self, values_shape: Shape, known_shape: Shape) -> tuple[Shape, Shape]:
        """``(batch, y, x, ...)`` and ``(batch, y / patch, x / patch, ...)``."""
        batch, y, x, channels = values_shape
        coarse = (batch, y and y // self.patch, x and x // self.patch, self.coarse_scales * channels)
        return (batch, y, x, self.fine_scales * channels), coarse

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "patch": self.patch}


def smoothed(moments: Tensor, dilations: list[int]) -> list[Tensor]:
    """``(batch, y, x, channel)`` as it is, and averaged over ever wider surroundings, at these tap distances."""
    versions = [moments]
    kernel = _constant(np.outer(SPLINE, SPLINE)[..., None], moments.shape[-1], moments.dtype)
    for dilation in dilations:
        versions.append(ops.depthwise_conv(versions[-1], kernel, padding="same", dilation_rate=dilation))
    return versions


def _means(versions: list[Tensor], smoothest: Tensor) -> list[Tensor]:
    means = [smoothest]
    for moments in reversed(versions):
        total, weight = ops.split(moments, 2, axis=-1)
        mean = total / ops.maximum(weight, LEAST_WEIGHT)
        means.insert(0, ops.where(weight > LEAST_WEIGHT, mean, means[0]))
    return means


def _steps(versions: list[Tensor]) -> Tensor:
    return ops.concatenate([sharp - smooth for sharp, smooth in pairwise(versions)], axis=-1)
