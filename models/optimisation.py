"""One step of a training: gradients gathered over several batches, clipped, scaled for float16; averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.devices import Engine, Gradients, Inputs
from pipeline.errors import ModelError
from pipeline.specs import TrainingSpec

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None

WEIGHT_DECAY = 1e-4
WARM_UP = 1 / 20  # part of the updates in which the learning rate rises
START, END = 0.1, 0.02  # first and last learning rate, as parts of the peak

Arrays = tuple[NDArray[Any], ...]


def update_count(spec: TrainingSpec) -> int:
    """How often a whole training moves the weights, at least once."""
    return max(1, spec.epochs * spec.steps_per_epoch // spec.accumulate)


def learning_rate(spec: TrainingSpec, update: int) -> float:
    """The learning rate of an update, counted from 0: a linear rise, then half a cosine (Loshchilov & Hutter 2017)."""
    rise = max(1, int(update_count(spec) * WARM_UP))
    if update < rise:
        return spec.learning_rate * (START + (1 - START) * update / rise)
    gone = min(1.0, (update - rise) / max(1, update_count(spec) - rise))
    return spec.learning_rate * (END + (1 - END) * (1 + math.cos(math.pi * gone)) / 2)


def make_optimizer() -> keras.Optimizer:
    """AdamW; rate and clipping are ours: Keras would clip each device's gradients before it adds them up."""
    return keras.optimizers.AdamW(0.0, weight_decay=WEIGHT_DECAY)


@dataclass(frozen=True, slots=True)
class LossScale:
    """What a loss is multiplied with, so that its gradients do not vanish in float16 (Micikevicius 2018, section 3.2).

    >>> LossScale(8.0).after(finite=False).value
    4.0

    Attributes:
        value: the factor, a power of two.
        finite: updates since it last changed.
    """

    value: float = 1.0
    finite: int = 0

    FIRST = 2.0**15
    LEAST = 2.0**-10
    PERIOD = 2000  # updates with finite gradients after which a larger factor is tried

    @classmethod
    def of(cls, precision: str) -> LossScale | None:
        """The one to begin with; None where the type of the arithmetic reaches as far as float32."""
        return cls(cls.FIRST) if precision == "mixed_float16" else None

    def after(self, *, finite: bool) -> LossScale:
        """Half of it where the gradients were too large, twice as much where they fitted for a long time.

        Raises:
            ModelError: it has become so small that the scale cannot be the reason.
        """
        if not finite:
            return self._halved()
        longer = self.finite + 1
        return LossScale(self.value, longer) if longer < self.PERIOD else LossScale(2 * self.value)

    def _halved(self) -> LossScale:
        if self.value <= self.LEAST:
            msg = (
                f"gradients in float16 stay finite, found none at a loss scale of {self.value:.3g}: lower "
                "training.learning_rate, or set training.precision to mixed_bfloat16 or float32"
            )
            raise ModelError(msg)
        return LossScale(self.value / 2)


@dataclass(frozen=True, slots=True)
class Average:
    """Moving average of weights; young ones weigh less, so that it does not remember the untrained network.

    Attributes:
        momentum: part that stays at each update in the end.
    """

    momentum: float

    def follow(self, average: Arrays, weights: Arrays, update: int) -> Arrays:
        """The average after one more update, counted from 0; in float32, like the weights.

        >>> Average(0.9).follow((np.zeros(1, "f4"),), (np.ones(1, "f4"),), 0)[0].tolist()
        [0.8999999761581421]
        """
        kept = np.float32(min(self.momentum, (1 + update) / (10 + update)))
        return tuple(
            kept * old + (1 - kept) * new if np.issubdtype(new.dtype, np.floating) else new
            for old, new in zip(average, weights, strict=True)
        )


class Optimisation:
    """Trains a network step by step; all that decides the next step can be taken out and put back.

    Gradients are summed over ``spec.accumulate`` steps and divided by the number of their valid pixels, so that steps
    of half a batch come to the same as a whole one, whatever is missing where.

    Args:
        engine: the network on its devices.
        spec: how to train.
    """

    def __init__(self, engine: Engine, spec: TrainingSpec) -> None:
        self._engine = engine
        self._spec = spec
        self._scale = LossScale.of(spec.precision)
        self._gathered: Gradients = ()
        self._valid = 0.0  # pixels in what was gathered, in whole batches
        self._average: Arrays = self._now() if spec.average else ()
        self.steps = 0

    @property
    def weights(self) -> Arrays:
        """Those to forecast with: the moving average where there is one."""
        return self._average or self._now()

    @property
    def rate(self) -> float:
        """The learning rate of the newest update."""
        return learning_rate(self._spec, max(0, self.steps // self._spec.accumulate - 1))

    def step(self, inputs: Inputs, targets: NDArray[np.float32]) -> float:
        """Trains on a batch; returns its loss, the mean over its valid pixels.

        Raises:
            ModelError: gradients in float16 are never finite.
        """
        valid = int(np.isfinite(targets).sum())
        scale = 1.0 if self._scale is None else self._scale.value
        total, gradients = self._engine.gradients(inputs, targets, scale / targets.size)
        self._gather(gradients, valid / targets.size)
        self.steps += 1
        if self.steps % self._spec.accumulate == 0:
            self._update(scale)
        return total / max(valid, 1)

    def _gather(self, gradients: Gradients, valid: float) -> None:
        both = zip(self._gathered, gradients, strict=True) if self._gathered else ()
        self._gathered = [ops.add(one, other) for one, other in both] or gradients
        self._valid += valid

    def _update(self, scale: float) -> None:
        """Moves the weights, unless a gradient has left the range of float16."""
        factor = 1 / (scale * self._valid) if self._valid else 1.0
        norm = self._engine.norm(self._gathered) * factor
        if self._scale is not None:
            self._scale = self._scale.after(finite=math.isfinite(norm))
        if self._scale is None or math.isfinite(norm):
            self._engine.optimizer.learning_rate = self.rate
            self._engine.apply(self._gathered, factor * (self._spec.clip / max(norm, self._spec.clip)))
        if self._average:
            update = self.steps // self._spec.accumulate - 1
            self._average = Average(self._spec.average).follow(self._average, self._now(), update)
        self._gathered, self._valid = (), 0.0

    def _now(self) -> Arrays:
        return _values(self._engine.model.weights)

    def arrays(self) -> dict[str, Arrays]:
        """What decides the next step, beside :meth:`numbers`."""
        return {
            "variables": _values(self._engine.model.variables),
            "optimizer": _values(self._engine.optimizer.variables),
            "gathered": _values(self._gathered),
            "average": self._average,
        }

    def numbers(self) -> dict[str, float]:
        """What decides the next step, beside :meth:`arrays`."""
        scale = self._scale or LossScale()
        return {"steps": self.steps, "valid": self._valid, "scale": scale.value, "scale_finite": scale.finite}

    def restore(self, arrays: Mapping[str, Arrays], numbers: Mapping[str, float]) -> None:
        """Goes on from what :meth:`arrays` and :meth:`numbers` said, in this or another process."""
        _assign(self._engine.model.variables, arrays["variables"])
        _assign(self._engine.optimizer.variables, arrays["optimizer"])
        self._gathered = [ops.convert_to_tensor(one) for one in arrays["gathered"]]
        self._average = tuple(arrays["average"])
        self.steps, self._valid = int(numbers["steps"]), numbers["valid"]
        if self._scale is not None:
            self._scale = LossScale(numbers["scale"], int(numbers["scale_finite"]))


def _values(variables: Sequence[Any]) -> Arrays:
    return tuple(np.array(ops.convert_to_numpy(one)) for one in variables)


def _assign(variables: Sequence[Any], values: Sequence[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
