"""The head: scales of the newest field damped and followed (the cascade), then a small network at every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from models.frames import Shape, Tensor
from models.pyramid import Enlarge, ScaleDetails, smoothed

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
FIRST_SPREAD = 0.1  # between quantiles before training, on the standardised scale
LEAST_ENERGY = 1e-6  # under the root, whose slope is infinite at 0
MEDIAN = 0.5
SUMMARY = 8  # channels of the features at pixels: as many as hidden units made a forecast a third dearer


@keras.saving.register_keras_serializable(package="cubecast")
class PixelScales(keras.layers.Layer):
    """What the head knows of each pixel: its newest value, its scales, how rough it is around, what is missing.

    Call with ``values`` and ``known`` ``(batch, y, x, 2 * bands)`` and ``ages`` ``(batch, y, x, bands)`` of
    :class:`models.frames.NewestValid`; returns ``(batch, y, x, channel)``: the newest values, the scales of values and
    rates (:class:`models.pyramid.ScaleDetails`), root mean squares of the small scales near the pixel and farther
    around, what is known, and the logarithm of one plus the age.

    Args:
        bands: number of bands of the forecast.
        patch: side of a patch, pixels.
    """

    def __init__(self, bands: int, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bands = bands
        self.patch = patch
        self.details = ScaleDetails(patch, name="details", dtype=self.dtype_policy)

    @property
    def scales(self) -> int:
        """How many scales a pixel has, over all bands, values and rates."""
        return 2 * self.bands * (self.details.fine_scales + self.details.coarse_scales)

    @property
    def channels(self) -> int:
        """How many numbers tell of a pixel."""
        return self.bands + self.scales + 4 * self.bands * self.details.fine_scales + 3 * self.bands

    def build(self, input_shape: Shape) -> None:
        """No weights, but Keras warns of a loaded layer whose inner layers are not built."""
        self.details.build(input_shape)

    def call(self, values: Tensor, known: Tensor, ages: Tensor) -> Tensor:
        """See the class."""
        fine, coarse = self.details(values, known)
        far = self.details.enlarge(coarse)
        newest = values[..., : self.bands]
        return ops.concatenate([newest, fine, far, self._energies(fine, known), known, ops.log1p(ages)], axis=-1)

    def _energies(self, fine: Tensor, known: Tensor) -> Tensor:
        """Of what is known alone: at other pixels the small scales hold the level around them."""
        seen = fine * ops.concatenate([known] * self.details.fine_scales, axis=-1)
        blocks = ops.average_pool(ops.square(seen), self.patch, self.patch)
        _, near, far = smoothed(blocks, [1, 2])
        return self.details.enlarge(ops.sqrt(ops.concatenate([near, far], axis=-1) + LEAST_ENERGY))

    def compute_output_shape(self, values_shape: Shape, known_shape: Shape, ages_shape: Shape) -> Shape:
        """``(batch, y, x, channel)``."""
        return (*values_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "bands": self.bands, "patch": self.patch}


@keras.saving.register_keras_serializable(package="cubecast")
class CascadeHead(keras.layers.Layer):
    """Forecasts of every lead from what is known of each pixel.

    The first guess is the cascade: ``guess_l = newest - sum_s w_{l,s} * scale_s`` over the scales of the newest field
    and of its rate of change (after S-PROG, Seed 2003; the weights are fitted by least squares, see
    :mod:`models.cascade`). With ``units`` a network of two hidden layers corrects the guess into a mean and quantiles
    that cannot cross. With ``features`` it listens to those as well, through weights that start at zero; so do those of
    the correction. An untrained head returns the newest field as mean and median, and one that is given features starts
    as one that is not.

    Call with ``pixels`` ``(batch, y, x, channel)`` of :class:`PixelScales` and, with ``features``, those of each lead
    at patches ``(batch, lead, y / patch, x / patch, channel)``; returns ``(batch, lead, y, x, quantity * band)``,
    quantity by quantity, the mean first.

    Args:
        bands: number of bands of the forecast.
        leads: number of leads.
        scales: how many of the channels, after the newest values, are scales.
        levels: of the quantiles, ascending, with the median among them; empty: the mean alone.
        units: channels of each hidden layer; 0: the cascade alone, which has no quantiles.
        anchored: bands, counted from 0, whose level means the same at all times, as that of rain does, which begins at
            none; of the others the hidden layers see differences alone.
        features: channels of the features that it is given; 0: none.
        patch: side of a patch of the features, pixels.
        dropout: share of what the hidden layers are told of a pixel that is hidden from them in training.
    """

    def __init__(  # noqa: PLR0913 - the shape of a layer
        self,
        bands: int,
        leads: int,
        scales: int,
        *,
        levels: Sequence[float] = (),
        units: int = 0,
        anchored: Sequence[int] = (),
        features: int = 0,
        patch: int = 1,
        dropout: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bands = bands
        self.anchored = tuple(anchored)
        self.leads = leads
        self.scales = scales
        self.levels = tuple(levels) if units else ()
        self.units = units
        self.features = features
        self.patch = patch
        self.dropout = dropout
        own: Any = {"dtype": self.dtype_policy}
        zeros: Any = {"kernel_initializer": "zeros", "use_bias": False, **own}
        self.of_pixels = keras.layers.Dense(units or 1, name="of_pixels", **own)
        self.of_guess = keras.layers.Dense(units or 1, use_bias=False, name="of_guess", **own)
        self.of_features = keras.layers.Dense(SUMMARY, name="of_features", **own)
        self.of_summary = keras.layers.Dense(units or 1, name="of_summary", **zeros)
        self.hidden = keras.layers.Dense(units or 1, activation="relu", name="hidden", **own)
        self.correction = keras.layers.Dense(self.outputs, name="correction", **zeros)
        self.enlarge = Enlarge(patch, name="enlarge", **own)
        self.hide = keras.layers.Dropout(dropout, name="hide", **own) if dropout else None

    @property
    def outputs(self) -> int:
        """Channels of the forecast of a lead."""
        return (1 + len(self.levels)) * self.bands

    def build(self, input_shape: Shape) -> None:
        """Weights for pixels of ``input_shape``."""
        channels = input_shape[-1]
        self.cascade = self.add_weight(shape=(self.leads, self.scales, self.bands), initializer="zeros", name="cascade")
        if not self.units:
            return
        # what each channel is divided by: its root mean square over training pixels
        self.usual = self.add_weight(shape=(channels,), initializer="ones", trainable=False, name="usual")
        self.of_leads = self.add_weight(shape=(self.leads, self.units), initializer="glorot_uniform", name="of_leads")
        self.offsets = self.add_weight(shape=(self.leads, self.outputs), initializer="zeros", name="offsets")
        self.of_pixels.build((None, None, None, channels))
        self.of_guess.build((None, None, None, self.bands))
        self.hidden.build((None, None, None, self.units))
        self.correction.build((None, None, None, self.units))
        if self.features:
            self.of_features.build((None, None, None, None, self.features))
            self.of_summary.build((None, None, None, SUMMARY))

    def call(self, pixels: Tensor, features: Tensor | None = None) -> Tensor:
        """See the class."""
        newest, scales = pixels[..., : self.bands], pixels[..., self.bands : self.bands + self.scales]
        weights = ops.unstack(ops.convert_to_tensor(self.cascade), self.leads)  # JAX unstacks no variable
        guesses = [newest - ops.matmul(scales, one) for one in weights]
        if not self.units:
            return ops.stack(guesses, axis=1)
        told_of = pixels / self.usual * self._seen(pixels.shape[-1])
        seen = self.of_pixels(told_of if self.hide is None else self.hide(told_of))
        leads = zip(range(self.leads), guesses, self._summaries(features), strict=True)
        return ops.stack([self._lead(at, guess, [guess - newest, *told], seen) for at, guess, told in leads], axis=1)

    def _seen(self, channels: int) -> Tensor:
        """1 for each channel that the hidden layers look at, 0 for the levels of bands that are not anchored."""
        seen = np.ones(channels, np.float32)
        smoothest = self.bands + self.scales - 2 * self.bands  # the values' smoothest version, before the rates'
        for band in set(range(self.bands)) - set(self.anchored):
            seen[[band, smoothest + band]] = 0
        return ops.convert_to_tensor(seen)

    def _summaries(self, features: Tensor | None) -> list[list[Tensor]]:
        """What the features say of each lead, at pixels; nothing where there are none."""
        if features is None:
            return [[]] * self.leads
        return [[self.enlarge(one)] for one in ops.unstack(self.of_features(features), self.leads, axis=1)]

    def _lead(self, at: int, guess: Tensor, told: list[Tensor], seen: Tensor) -> Tensor:
        """The forecast of a lead from what is told of it: how the guess changes the newest value, and a summary."""
        layers = self.of_guess, self.of_summary
        kernels = [layer.kernel for layer in layers[: len(told)]]  # the second one is built where there are features
        own = ops.matmul(ops.concatenate(told, axis=-1), ops.concatenate(kernels, axis=0))
        hidden = self.hidden(ops.relu(seen + (own + self.of_leads[at])))
        return self._quantities(guess, self.correction(hidden) + self.offsets[at])

    def _quantities(self, guess: Tensor, raw: Tensor) -> Tensor:
        """Mean and quantiles: the median corrects the guess, the others go on from it outwards, never back."""
        mean, *parts = ops.split(raw, 1 + len(self.levels), axis=-1)
        if not parts:
            return guess + mean
        middle = self.levels.index(MEDIAN)
        quantiles = {middle: guess + parts[middle]}
        for at in range(middle - 1, -1, -1):
            quantiles[at] = quantiles[at + 1] - _spread(parts[at])
        for at in range(middle + 1, len(parts)):
            quantiles[at] = quantiles[at - 1] + _spread(parts[at])
        return ops.concatenate([guess + mean, *(quantiles[at] for at in range(len(parts)))], axis=-1)

    def compute_output_shape(self, pixels_shape: Shape, features_shape: Shape | None = None) -> Shape:
        """``(batch, lead, y, x, quantity * band)``."""
        batch, y, x, _ = pixels_shape
        return batch, self.leads, y, x, self.outputs

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        names = ("bands", "leads", "scales", "levels", "units", "anchored", "features", "patch", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _spread(raw: Tensor) -> Tensor:
    """A positive width, :data:`FIRST_SPREAD` at 0."""
    return ops.softplus(raw + float(np.log(np.expm1(FIRST_SPREAD))))
