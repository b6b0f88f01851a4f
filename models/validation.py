"""How good weights are: the training's own loss, and squared error beside that of the extrapolation, on fixed chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from models.losses import MeanAndQuantiles
from models.networks import NetworkSpec, build
from models.optimisation import Arrays
from models.prediction import network_inputs
from pipeline.chips import Chips
from pipeline.errors import NotEnoughFramesError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What weights are worth on the validation chips, standardised, per pixel that counts.

    Attributes:
        loss: what the training makes small.
        squared: squared error of the mean.
    """

    loss: float
    squared: float


@dataclass(slots=True)
class Judge:
    """Measures weights on the validation chips and keeps the best ones.

    Attributes:
        network: in float32, with all its outputs; holds the weights that were measured last.
        forecasting: the same without its other outputs.
        chips: what it is measured on.
        spec: of the network.
        loss: what the training makes small.
        reference: squared error of the extrapolation.
        best: the best weights; empty where none were measured.
        least: their loss.
    """

    network: Any
    forecasting: Any
    chips: Sequence[Chips]
    spec: NetworkSpec
    loss: MeanAndQuantiles
    reference: float
    best: Arrays = ()
    least: float = np.inf

    @classmethod
    def over(cls, chips: Sequence[Chips], spec: NetworkSpec, loss: MeanAndQuantiles) -> Self:
        """One that has measured nothing yet.

        Raises:
            NotEnoughFramesError: no pixel of the chips can be scored.
        """
        reference = _reference(chips, spec, loss)
        network: Any = build(spec)
        forecasting = forecast_alone(network)
        forecasting.compile(jit_compile=keras.backend.backend() == "jax")  # XLA makes TensorFlow's convolutions slower
        return cls(network, forecasting, chips, spec, loss, reference)

    def measure(self, weights: Arrays) -> Verdict:
        """What a network with these weights is worth; where none had less loss they are kept."""
        self.network.set_weights(weights)
        verdict = self._verdict()
        if verdict.loss <= self.least or not self.best:
            self.best, self.least = weights, verdict.loss
        return verdict

    def _verdict(self) -> Verdict:
        loss, squared, count = 0.0, 0.0, 0
        for one in self.chips:
            met = _met(one, self.spec.bands_out)
            said = np.asarray(self.forecasting.predict_on_batch(inputs_of(one, self.spec.patch)))
            loss += float(self.loss.total(met, said))
            squared += _squared(self.loss, said[..., : met.shape[-1]], met)
            count += int(np.isfinite(met).sum())
        return Verdict(loss / count, squared / count)


def _reference(chips: Sequence[Chips], spec: NetworkSpec, loss: MeanAndQuantiles) -> float:
    """Mean squared error of the extrapolation.

    Raises:
        NotEnoughFramesError: no pixel of the chips can be scored.
    """
    total, count = 0.0, 0
    for one in chips:
        met = _met(one, spec.bands_out)
        total += _squared(loss, newest(one, spec.bands_out), met)
        count += int(np.isfinite(met).sum())
    if not count:
        msg = (
            f"validation needs pixels that are valid in context and targets, found none in {len(chips)} batches: "
            "check nodata and masks, ingest more scenes, or raise samples.validation_fraction"
        )
        raise NotEnoughFramesError(msg)
    return total / count


def _met(chips: Chips, bands: tuple[int, ...]) -> NDArray[np.float32]:
    """Targets where a newest value is known, NaN elsewhere: so every predictor is measured on the same pixels."""
    return np.where(np.isfinite(newest(chips, bands)), chips.targets, np.float32(np.nan))


def _squared(loss: MeanAndQuantiles, said: NDArray[np.float32], met: NDArray[np.float32]) -> float:
    """Sum of squared errors of a mean, in standard deviations of the band itself."""
    known = np.isfinite(met)
    one, other = (np.asarray(loss.linear(np.where(known, field, np.float32(0)))) for field in (said, met))
    return float(((one - other)[known].astype(np.float64) ** 2).sum())


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
