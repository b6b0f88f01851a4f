"""The layers and networks know no backend: their own quick tests, once more on JAX."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# outside a training JAX compiles every operation for every shape: of the tests those with the fewest shapes
CHOSEN = {
    "attention": "sum_to_one or exactly_zero or equation",
    "convlstm": "layer_equals or compiled",
    "heads": "exactly or never_cross or features",
    "losses": "logarithm",
    "networks": "is_the_extrapolation",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed; it comes with the dev extra"),
]


@pytest.mark.parametrize("name", CHOSEN)
def test_layers_and_networks_keep_their_laws_on_jax(name: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-m", "not slow", "-k", CHOSEN[name]]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / f"test_{name}.py")],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
