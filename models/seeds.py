"""The same seed, the same network: on every machine of a kind, whatever other threads do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pipeline.errors import ModelError

ATTEMPTS = 20


def deterministic(seed: int) -> None:
    """From now on the same operations in the same order come to the same bytes; holds for the whole process.

    JAX on a GPU needs ``XLA_FLAGS=--xla_gpu_deterministic_ops=true`` in its environment besides.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """The model that ``make`` builds by ``seed``, made twice or until two are alike.

    Keras takes the seed of each weight from Python's generator, which the whole process shares. A thread that draws
    from it meanwhile, as MLflow's and Prefect's do for names and waits, would give the rest of the network other
    weights than a quiet process does.

    Args:
        seed: of the weights.
        make: builds the model, with all its variables.

    Raises:
        ModelError: no two were alike.
    """
    before, state = _made(seed, make)
    for _ in range(ATTEMPTS):
        again, after = _made(seed, make)
        if state == after and _alike(before, again):
            return again
        before, state = again, after
    msg = (
        f"a network is made anew until two have the same weights, found none in {ATTEMPTS}: something in this process "
        "draws from Python's random numbers without pause, or sets a weight without a seed; stop it"
    )
    raise ModelError(msg)


def _made(seed: int, make: Callable[[], Any]) -> tuple[Any, object]:
    """The model, and where Python's generator stands then."""
    keras.utils.set_random_seed(seed)
    return make(), random.getstate()


def _alike(one: Any, other: Any) -> bool:
    pairs = zip(one.variables, other.variables, strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
