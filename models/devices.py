"""Where the arithmetic of a training runs: one device, or several that share each batch; on TensorFlow or JAX.

Gradients of a *sum* of penalties are made here. Sums over the parts of a batch add up to the batch's own, also where
the parts have different numbers of valid pixels; whoever uses them divides by the number of the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from models.losses import MaskedLoss
from pipeline.errors import ConfigError, ModelError

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
Model = Any  # Keras is untyped
Inputs = Mapping[str, NDArray[np.float32]]
Gradients = Sequence[Any]  # a tensor for each trainable variable


@lru_cache(maxsize=4)
def forward(model: Model) -> Callable[[Inputs], dict[str, Any]]:
    """The model's forecast as a function of its inputs, on TensorFlow a graph for each shape of them.

    A graph takes half of the processor time of one operation after the other. One graph for all shapes, as Keras's
    ``predict_on_batch`` makes it, fails: dilated convolutions divide a side that it does not know (TensorFlow 2.21).
    """
    if _backend() == "jax":
        return lambda inputs: model(inputs, training=False)
    import tensorflow as tf

    tf.get_logger().addFilter(_expected)
    return tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=False)


def _expected(record: logging.LogRecord) -> bool:
    """Whether a warning is worth being told: a graph for each shape is what is wanted here."""
    return "retracing" not in record.getMessage()


class Engine(Protocol):
    """A network and its optimizer on their devices.

    Attributes:
        model: inputs by name to the forecast ``(batch, lead, y, x, band)``.
        optimizer: of the model's trainable variables, built.
    """

    model: Model
    optimizer: keras.Optimizer

    def gradients(self, inputs: Inputs, targets: NDArray[np.float32], scale: float) -> tuple[float, Gradients]:
        """The sum of the penalties over a batch, and the gradients of ``scale`` times it."""
        ...

    def norm(self, gradients: Gradients) -> float:
        """Their global norm; not finite where one of them is not."""
        ...

    def apply(self, gradients: Gradients, factor: float) -> None:
        """Moves the weights along ``factor`` times the gradients."""
        ...


Make = Callable[[], Model]
MakeOptimizer = Callable[[], keras.Optimizer]


def engine(make: Make, optimizer: MakeOptimizer, loss: MaskedLoss, *, devices: int, batch: int) -> Engine:
    """A new network on its devices.

    Args:
        make: makes the network.
        optimizer: makes its optimizer.
        loss: whose sum is made small.
        devices: how many share each batch; 0: all GPUs, or the one CPU where there are none.
        batch: chips of a batch.

    Raises:
        ConfigError: there are fewer devices, or they cannot share a batch evenly.
        ModelError: Keras runs on something else than TensorFlow or JAX.
    """
    makers: dict[str, Callable[..., Engine]] = {"tensorflow": _TensorFlowEngine, "jax": _JaxEngine}
    return makers[_backend()](make, optimizer, loss, devices, batch)


def _backend() -> str:
    backend = keras.backend.backend()
    if backend not in {"tensorflow", "jax"}:
        msg = f"networks are trained on TensorFlow or JAX, Keras runs on {backend}: set KERAS_BACKEND"
        raise ModelError(msg)
    return backend


def _check_share(batch: int, devices: int) -> None:
    if batch % devices:
        multiple = -(-batch // devices) * devices
        msg = (
            f"each of the {devices} devices takes as many chips of a batch as the others, found a batch of {batch}: "
            f"set training.batch to {multiple}, or lower training.devices"
        )
        raise ConfigError(msg)


def choose(wanted: int, gpus: Sequence[Any], cpus: Sequence[Any]) -> list[Any]:
    """The devices that are wanted: GPUs where there are any.

    >>> choose(0, ["GPU:0", "GPU:1"], ["CPU:0"]), choose(0, [], ["CPU:0"])
    (['GPU:0', 'GPU:1'], ['CPU:0'])

    Raises:
        ConfigError: there are fewer.
    """
    there = list(gpus) or list(cpus)[: wanted or 1]
    if wanted > len(there):
        kind = "GPUs" if gpus else "CPU devices and no GPU"
        msg = f"training.devices asks for {wanted}, this machine has {len(there)} {kind}: lower it; 0 takes all GPUs"
        raise ConfigError(msg)
    return there[: wanted or len(there)]


class _TensorFlowEngine:
    """See :class:`Engine`; several devices by a mirrored strategy."""

    def __init__(self, make: Make, optimizer: MakeOptimizer, loss: MaskedLoss, devices: int, batch: int) -> None:
        import tensorflow as tf

        chosen = choose(devices, *(tf.config.list_logical_devices(kind) for kind in ("GPU", "CPU")))
        _check_share(batch, len(chosen))
        names = [device.name for device in chosen]
        self._tf: Any = tf
        self._strategy: Any = tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()
        self._loss = loss
        with self._strategy.scope():
            self.model = make()
            self.optimizer = optimizer()
            self.optimizer.build(self.model.trainable_variables)
        self._gradients = tf.function(self._sum_of_gradients)
        self._norm = tf.function(_norm)
        self._apply = tf.function(self._apply_everywhere)

    def gradients(self, inputs: Inputs, targets: NDArray[np.float32], scale: float) -> tuple[float, Gradients]:
        total, gradients = self._gradients(*self._shared_out(inputs, targets), np.float32(scale))
        return float(total), gradients

    def norm(self, gradients: Gradients) -> float:
        return float(self._norm(gradients))

    def apply(self, gradients: Gradients, factor: float) -> None:
        self._apply(gradients, np.float32(factor))

    def _shared_out(self, inputs: Inputs, targets: NDArray[np.float32]) -> tuple[Any, Any]:
        """Each replica's part of a batch."""
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            return dict(inputs), targets

        def part(context: Any) -> tuple[Any, Any]:
            mine = slice(*(len(targets) * (context.replica_id_in_sync_group + end) // replicas for end in (0, 1)))
            return self._tf.nest.map_structure(lambda one: self._tf.constant(one[mine]), (dict(inputs), targets))

        return self._strategy.experimental_distribute_values_from_function(part)

    def _sum_of_gradients(self, inputs: Any, targets: Any, scale: Any) -> Any:
        each = self._strategy.run(self._of_replica, args=(inputs, targets, scale))
        return self._tf.nest.map_structure(lambda one: self._strategy.reduce("SUM", one, axis=None), each)

    def _of_replica(self, inputs: Any, targets: Any, scale: Any) -> tuple[Any, Any]:
        zero = self._tf.UnconnectedGradients.ZERO
        with self._tf.GradientTape() as tape:
            total = self._loss.total(targets, self.model(inputs, training=True))
            scaled = total * scale
        return total, tape.gradient(scaled, self.model.trainable_variables, unconnected_gradients=zero)

    def _apply_everywhere(self, gradients: Any, factor: Any) -> None:
        self._strategy.run(self._apply_on_replica, args=(gradients, factor))

    def _apply_on_replica(self, gradients: Any, factor: Any) -> None:
        # the optimizer adds up what the replicas bring, and each of them brings the whole
        share = factor / self._strategy.num_replicas_in_sync
        self.optimizer.apply([one * share for one in gradients], self.model.trainable_variables)


class _JaxEngine:
    """See :class:`Engine`; several devices by a data-parallel distribution: XLA shares out the sums."""

    def __init__(self, make: Make, optimizer: MakeOptimizer, loss: MaskedLoss, devices: int, batch: int) -> None:
        import jax

        platform: str = jax.default_backend()
        there = keras.distribution.list_devices(platform)
        chosen = choose(devices, there if platform != "cpu" else [], there)
        _check_share(batch, len(chosen))
        self._distribution: Any = keras.distribution.DataParallel(devices=chosen) if len(chosen) > 1 else None
        self._loss = loss
        with self._scope():
            self.model = make()
            self.optimizer = optimizer()
            self.optimizer.build(self.model.trainable_variables)
        self._gradients = jax.jit(jax.value_and_grad(self._scaled_total, has_aux=True))
        self._norm = jax.jit(_norm)
        self._apply = jax.jit(self._applied)

    def gradients(self, inputs: Inputs, targets: NDArray[np.float32], scale: float) -> tuple[float, Gradients]:
        trainable, others = (
            self._values(self.model.trainable_variables),
            self._values(self.model.non_trainable_variables),
        )
        (_, total), gradients = self._gradients(trainable, others, *self._shared_out(inputs, targets), scale)
        return float(total), gradients

    def norm(self, gradients: Gradients) -> float:
        return float(self._norm(gradients))

    def apply(self, gradients: Gradients, factor: float) -> None:
        before = self._values(self.optimizer.variables), self._values(self.model.trainable_variables)
        weights, state = self._apply(*before, gradients, factor)
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(self.optimizer.variables, state, strict=True):
            variable.assign(value)

    def _scope(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._distribution is None else self._distribution.scope()

    @staticmethod
    def _values(variables: Sequence[Any]) -> list[Any]:
        return [variable.value for variable in variables]

    def _shared_out(self, inputs: Inputs, targets: NDArray[np.float32]) -> tuple[Any, Any]:
        if self._distribution is None:
            return dict(inputs), targets
        return {name: self._spread(one) for name, one in inputs.items()}, self._spread(targets)

    def _spread(self, array: NDArray[np.float32]) -> Any:
        return keras.distribution.distribute_tensor(array, self._distribution.get_data_layout(array.shape))

    def _scaled_total(self, trainable: Any, others: Any, inputs: Any, targets: Any, scale: Any) -> tuple[Any, Any]:
        forecast, _ = self.model.stateless_call(trainable, others, inputs, training=True)
        total = self._loss.total(targets, forecast)
        return total * scale, total

    def _applied(self, state: Any, trainable: Any, gradients: Any, factor: Any) -> tuple[Any, Any]:
        return self.optimizer.stateless_apply(state, [one * factor for one in gradients], trainable)


def _norm(gradients: Gradients) -> Any:
    return ops.sqrt(sum(ops.sum(ops.square(one)) for one in gradients))
