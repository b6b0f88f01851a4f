"""How good weights are: squared error on chips that never change, in float32, beside that of the extrapolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from models.networks import NetworkSpec, build
from models.optimisation import Arrays
from models.prediction import network_inputs
from pipeline.chips import Chips
from pipeline.errors import NotEnoughFramesError


@dataclass(slots=True)
class Judge:
    """Measures weights on the validation chips and keeps the best ones.

    Attributes:
        network: in float32, with all its outputs; holds the weights that were measured last.
        forecasting: the same without its other outputs.
        chips: what it is measured on.
        spec: of the network.
        reference: squared error of the extrapolation.
        best: the best weights; empty where none were measured.
        least: their error.
    """

    network: Any
    forecasting: Any
    chips: Sequence[Chips]
    spec: NetworkSpec
    reference: float
    best: Arrays = ()
    least: float = np.inf

    @classmethod
    def over(cls, chips: Sequence[Chips], spec: NetworkSpec) -> Self:
        """One that has measured nothing yet.

        Raises:
            NotEnoughFramesError: no pixel of the chips can be scored.
        """
        reference = squared_error(chips, spec.bands_out, lambda one: newest(one, spec.bands_out))
        network: Any = build(spec)
        forecasting = forecast_alone(network)
        forecasting.compile(jit_compile=keras.backend.backend() == "jax")  # XLA makes TensorFlow's convolutions slower
        return cls(network, forecasting, chips, spec, reference)

    def error(self, weights: Arrays) -> float:
        """Mean squared error of a network with these weights, standardised; where none was less they are kept."""
        self.network.set_weights(weights)
        error = squared_error(self.chips, self.spec.bands_out, self._forecast)
        if error <= self.least or not self.best:
            self.best, self.least = weights, error
        return error

    def _forecast(self, chips: Chips) -> NDArray[np.float32]:
        return self.forecasting.predict_on_batch(inputs_of(chips, self.spec.patch))


def forecast_alone(network: Any) -> Any:
    """A network without its other outputs."""
    return keras.Model(network.inputs, network.output["forecast"])


def inputs_of(chips: Chips, patch: int) -> dict[str, NDArray[np.float32]]:
    """Chips as the network takes them, with covariates where they have some."""
    covariates = getattr(chips, "covariates", None)
    known = () if covariates is None else (covariates,)
    return network_inputs(chips.frames, chips.ages, patch, *known)


def skill(error: float, reference: float) -> float:
    """Part of the reference's error that is gone; NaN where that makes none."""
    return 1 - error / reference if reference else float("nan")


def newest(chips: Chips, bands: tuple[int, ...]) -> NDArray[np.float32]:
    """The extrapolation in coordinates that move with the flow: each pixel's newest value, for every lead.

    Args:
        chips: frames and targets.
        bands: indices of the targets' bands.

    Returns:
        Shape of the targets; NaN where no frame has a value.
    """
    value = np.full((*chips.frames[:, 0].shape[:3], len(bands)), np.nan, np.float32)
    for layer in np.moveaxis(chips.frames[..., list(bands)], 1, 0):
        value = np.where(np.isfinite(layer), layer, value)
    return np.repeat(value[:, np.newaxis], chips.targets.shape[1], axis=1)


def squared_error(
    validation: Sequence[Chips], bands: tuple[int, ...], predict: Callable[[Chips], NDArray[np.float32]]
) -> float:
    """Mean squared error over the pixels of all chips whose target and newest value are known, standardised.

    So every predictor is measured on the same pixels; NaN where one says nothing about one of them.

    Args:
        validation: the chips.
        bands: indices of the targets' bands.
        predict: makes what is compared with the targets.

    Raises:
        NotEnoughFramesError: there is no such pixel.
    """
    total, count = 0.0, 0
    for chips in validation:
        known = np.isfinite(chips.targets) & np.isfinite(newest(chips, bands))
        error = (np.asarray(predict(chips)) - chips.targets)[known].astype(np.float64)
        total += float((error**2).sum())
        count += error.size
    if not count:
        msg = (
            f"validation needs pixels that are valid in context and targets, found none in {len(validation)} batches: "
            "check nodata and masks, ingest more scenes, or raise samples.validation_fraction"
        )
        raise NotEnoughFramesError(msg)
    return total / count
