"""The same seed, the same weights, whatever other threads draw."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import keras
import numpy as np
import pytest

from models.seeds import seeded
from pipeline.errors import ModelError


def two_layers(meanwhile: Callable[[], object]) -> Any:
    """A model whose second weight is made after ``meanwhile``."""
    first, second = keras.layers.Dense(3), keras.layers.Dense(2)
    inputs = keras.Input((4,))
    hidden = first(inputs)
    meanwhile()
    return keras.Model(inputs, second(hidden))


def weights(model: Any) -> list[Any]:
    """Its kernels, row by row."""
    return [np.asarray(one).tolist() for one in model.weights]


def test_a_thread_that_draws_while_a_network_is_made_changes_nothing() -> None:
    quiet = weights(seeded(3, lambda: two_layers(lambda: None)))
    draws = chain([random.random], repeat(lambda: 0.0))
    assert weights(seeded(3, lambda: two_layers(next(draws)))) == quiet
    assert weights(seeded(4, lambda: two_layers(lambda: None))) != quiet


def test_a_process_in_which_no_two_networks_are_alike_is_refused() -> None:
    numbers = iter(range(1, 1000))
    with pytest.raises(ModelError, match="Python's random numbers"):
        seeded(3, lambda: two_layers(lambda: random.seed(next(numbers))))
