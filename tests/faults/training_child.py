"""A small training in a process of its own: told a folder, it says every step, and its result in the end."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import Checkpoints
from models.networks import NetworkSpec
from models.training import Fitted, Progress, fit
from pipeline.chips import ChipReader, Chips
from pipeline.grid import Window
from pipeline.specs import TrainingSpec

EPOCHS, STEPS = 4, 3
NETWORK = NetworkSpec(2, 2, 1, (0,), patch=4, filters=4, attention_units=2)
SPEC = TrainingSpec(
    chip=16,
    batch=2,
    steps_per_epoch=STEPS,
    epochs=EPOCHS,
    patience=EPOCHS,
    learning_rate=0.02,
    accumulate=2,  # so that an epoch ends between two updates
    average=0.9,
    budget=timedelta(hours=1),
)


class Silence:
    """A tracker that keeps nothing."""

    def parameters(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def artifact(self, path: Path, folder: str) -> None: ...


def toy() -> Chips:
    """Two leads, each half of what was before, with holes."""
    random = np.random.default_rng(0)
    frames = random.normal(size=(1, 2, 32, 32, 1)).astype(np.float32)
    targets = np.concatenate([frames[:, -1:] / 2, frames[:, -1:] / 4], axis=1).astype(np.float32)
    targets[random.random(targets.shape) < 0.2] = np.nan
    return Chips(frames, np.array([[1, 0]], np.float32), targets)


def train(folder: Path, checkpoint: timedelta) -> Fitted:
    """The training, or the rest of it."""

    def say(at: Progress) -> None:
        print("step", (at.epoch - 1) * at.steps + at.step, flush=True)  # noqa: T201 - for the process that waits for it

    reader = ChipReader((toy(),), Window(0, 32, 0, 32), (16, 16), SPEC.batch, SPEC.seed)
    spec = SPEC.model_copy(update={"checkpoint": checkpoint})
    return fit(NETWORK, spec, reader, [reader.read(99)], Silence(), checkpoints=Checkpoints(folder), progress=say)


def main() -> None:
    """Waits for a line with a folder and the seconds between two checkpoints."""
    print("ready", flush=True)  # noqa: T201 - see above
    order = json.loads(sys.stdin.readline())
    fitted = train(Path(order["folder"]), timedelta(seconds=order["seconds"]))
    weights = hashlib.sha256(b"".join(weight.tobytes() for weight in fitted.model.get_weights()))
    print("result", weights.hexdigest(), json.dumps(fitted.history), flush=True)  # noqa: T201 - see above


if __name__ == "__main__":
    main()
