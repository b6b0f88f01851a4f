"""Several devices: those of the tests are parts of the one processor, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from models.devices import Engine, choose, engine
from models.losses import MaskedMeanSquaredError
from models.optimisation import make_optimizer
from models.seeds import deterministic
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[2]

# Trains on one device, on two, and says what came out of both.
TWICE = """
import json, sys
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from models.training import fit
from pipeline.chips import ChipReader
from pipeline.grid import Window
from tests.faults.training_child import NETWORK, SPEC, Silence, toy

class Uneven(ChipReader):
    def read(self, step):
        chips = super().read(step)
        chips.targets[:2, :, :, :10] = np.nan  # the first device's part
        return chips

reader = Uneven((toy(),), Window(0, 32, 0, 32), (16, 16), 4, 0)
for devices in (1, 2):
    spec = SPEC.model_copy(update={"devices": devices, "batch": 4, "epochs": 2, **json.loads(sys.argv[1])})
    fitted = fit(NETWORK, spec, reader, [reader.read(99)], Silence())
    print(json.dumps([fitted.history, [weight.tolist() for weight in fitted.model.get_weights()]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "changed"),
    [
        ("tensorflow", {"accumulate": 1, "average": 0}),
        ("tensorflow", {"accumulate": 2, "clip": 0.01}),
        ("jax", {"accumulate": 2, "clip": 0.01}),
    ],
)
def test_two_devices_train_like_one_also_where_one_of_them_sees_fewer_valid_pixels(
    backend: str, changed: dict[str, float]
) -> None:
    pytest.importorskip(backend)
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", TWICE, json.dumps(changed)]
    said = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert said.returncode == 0, said.stderr
    (one, weights), (two, others) = map(json.loads, said.stdout.splitlines())
    for before, after in zip(one, two, strict=True):
        assert after == pytest.approx(before, rel=1e-5)
    # over all of them: AdamW moves a weight as far for a gradient of rounding errors as for any other
    first, second = (np.concatenate([np.ravel(one) for one in each]) for each in (weights, others))
    assert np.linalg.norm(second - first) < 1e-5 * np.linalg.norm(first)


def test_graphics_processors_are_taken_first_and_all_of_them_where_none_are_counted() -> None:
    assert choose(2, ["GPU:0", "GPU:1", "GPU:2"], ["CPU:0"]) == ["GPU:0", "GPU:1"]
    assert choose(0, ["GPU:0", "GPU:1"], ["CPU:0"]) == ["GPU:0", "GPU:1"]
    assert choose(2, [], ["CPU:0", "CPU:1"]) == ["CPU:0", "CPU:1"]
    assert choose(1, [], ["CPU:0", "CPU:1"]) == choose(0, [], ["CPU:0", "CPU:1"]) == ["CPU:0"]


@pytest.mark.parametrize(
    ("wanted", "gpus", "found"), [(3, ["GPU:0", "GPU:1"], "2 GPUs"), (2, [], "1 CPU devices and no GPU")]
)
def test_more_devices_than_there_are_is_an_error(wanted: int, gpus: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.devices asks for {wanted}, this machine has {found}"):
        choose(wanted, gpus, ["CPU:0"])


def line() -> Any:
    """A network that multiplies."""
    inputs = keras.Input((1,), name="frames")
    return keras.Model({"frames": inputs}, keras.layers.Dense(1, use_bias=False)(inputs))


def one_device(**options: int) -> Engine:
    return engine(line, make_optimizer, MaskedMeanSquaredError(), **{"devices": 1, "batch": 2} | options)


def test_asking_for_devices_that_are_not_there_fails_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"training\.devices asks for 99"):
        one_device(devices=99, batch=99)


def test_gradients_are_those_of_a_sum_over_what_is_known() -> None:
    device = one_device()
    [weight] = device.model.get_weights()
    frames, targets = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([[5.0], [np.nan], [7.0]], np.float32)
    total, gradients = device.gradients({"frames": frames}, targets, 0.5)
    error = (frames * weight - targets)[[0, 2]]
    assert total == pytest.approx(float((error**2).sum()), rel=1e-6)
    assert float(gradients[0][0, 0]) == pytest.approx(float((error * frames[[0, 2]]).sum()), rel=1e-6)
    assert device.norm(gradients) == pytest.approx(abs(float(gradients[0][0, 0])), rel=1e-6)


def test_the_same_seed_makes_the_same_network() -> None:
    made = []
    for seed in (3, 3, 4):
        deterministic(seed)
        made.append(one_device().model.get_weights()[0])
    assert made[0] == made[1] != made[2]
