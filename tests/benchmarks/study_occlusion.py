"""Ground that a cloud has hidden: what attention over the past frames remembers of it, and a plain ConvLSTM forgets.

A made-up ground, a band of cloud that sweeps over it in any direction, wide enough to hide a pixel for HIDDEN frames;
quality flags say where it is. Two networks, alike but for the attention, with the same layers as the product's and as
many parameters, get the same processor time; neither is told the newest clear value, which the product's own head is.
Scored: ground that was hidden in all of the newest HIDDEN frames, was seen before, and is clear at the lead.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench import Bar, Figure, answer, in_fresh_process, report

Array = NDArray[np.float32]
SIDE, FRAMES, HIDDEN, BATCH = 32, 10, 8, 8
SPEED = 2.0  # px a frame
WIDTH = SPEED * HIDDEN + 1  # px: what it passes is hidden for HIDDEN frames, and was clear in the first one
NOISE = 0.02
FILTERS, UNITS = 20, 16
SEED_OF_TEST = 10**6
TESTS = 16  # batches
RATE = 3e-3
KINDS = ("attention", "convlstm")


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """A batch: ``frames`` and ``validity`` ``(batch, frame, y, x, 1)``, the lead ``truth`` ``(batch, y, x, 1)``, NaN
    under cloud, and where ground is re-exposed."""

    frames: Array
    validity: Array
    truth: Array
    exposed: NDArray[np.bool_]


def scenes(seed: int) -> Scenes:
    """The batch of a seed."""
    random = np.random.default_rng(seed)
    frames, clear = zip(*(_scene(random) for _ in range(BATCH)), strict=True)
    values, valid = np.stack(frames)[..., None], np.stack(clear)[..., None]
    seen = valid[:, :-1]
    hidden = ~seen[:, -HIDDEN:].any(axis=1) & seen[:, :-HIDDEN].any(axis=1) & valid[:, -1]
    truth = np.where(valid[:, -1], values[:, -1], np.float32(np.nan))
    return Scenes(np.where(seen, values[:, :-1], np.float32(0)), seen.astype(np.float32), truth, hidden)


def _scene(random: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """``(frame, y, x)`` of the ground with noise, and where no cloud is; the last frame is the lead."""
    import cv2

    ground = cv2.GaussianBlur(random.normal(size=(SIDE, SIDE)), (0, 0), 2.0)
    ground /= ground.std()
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    along = x * math.cos(angle) + y * math.sin(angle)
    rear = random.uniform(-SIDE / 3, SIDE / 3) - SPEED * FRAMES  # the cloud's rear edge has just passed at the lead
    places = [along - (rear + SPEED * frame) for frame in range(FRAMES + 1)]
    clear = np.stack([(place < 0) | (place > WIDTH) for place in places])
    frames = ground + NOISE * random.normal(size=clear.shape)
    return frames.astype(np.float32), clear


def network(kind: str, filters: int) -> Any:
    """Frames, validity and ages to the lead's ground."""
    import keras

    from models.convlstm import ConvLSTM
    from models.decoders import AttentionDecoder, Decoder
    from models.encoders import FramePatches
    from models.frames import PatchMask

    shape = (FRAMES, SIDE, SIDE, 1)
    frames, validity, ages = keras.Input(shape), keras.Input(shape), keras.Input((FRAMES,))
    states, memory = ConvLSTM(filters)(FramePatches(filters, 1)(frames, validity, ages))
    if kind == "attention":
        decoder = AttentionDecoder(1, filters, attention={"units": UNITS})
        features, _ = decoder(states, memory, PatchMask(1)(validity), ages)
    else:
        features = Decoder(1, filters)(states, memory)
    return keras.Model([frames, validity, ages], keras.layers.Dense(1)(features[:, 0]))


def matched_filters(filters: int) -> int:
    """Filters of the plain network that has as many parameters as the one with attention and ``filters``."""
    wanted = network("attention", filters).count_params()
    return min(range(filters, 2 * filters), key=lambda one: abs(network("convlstm", one).count_params() - wanted))


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """One training and its error, in this process."""
    import keras

    from models.losses import MaskedMeanSquaredError

    keras.utils.set_random_seed(task["seed"])
    filters = task["filters"]
    model = network(task["kind"], filters if task["kind"] == "attention" else matched_filters(filters))
    model.compile(keras.optimizers.AdamW(RATE, clipnorm=1.0), MaskedMeanSquaredError())
    steps = _train(model, task["seed"], task["budget"])
    errors, still = zip(*_errors(model), strict=True)
    return {"mae": float(np.mean(errors)), "still": float(np.mean(still)), "steps": steps} | {
        "parameters": model.count_params()
    }


def _train(model: Any, seed: int, budget: float) -> int:
    """Trains for ``budget`` CPU-seconds with a rate that falls to nothing; returns the steps."""
    model.train_on_batch(*_batch(seed * SEED_OF_TEST // 10))  # the first one compiles
    began, steps = time.process_time(), 0
    while (gone := (time.process_time() - began) / budget) < 1:
        model.optimizer.learning_rate = RATE * (1 + math.cos(math.pi * gone)) / 2
        model.train_on_batch(*_batch(seed * SEED_OF_TEST // 10 + steps))
        steps += 1
    return steps


def _batch(seed: int) -> tuple[list[Array], Array]:
    one = scenes(seed)
    return _inputs(one), one.truth


def _inputs(one: Scenes) -> list[Array]:
    ages = np.broadcast_to(np.arange(FRAMES, 0, -1, dtype=np.float32), (BATCH, FRAMES))
    return [one.frames, one.validity, ages]


def _errors(model: Any) -> Iterator[tuple[float, float]]:
    """Mean absolute errors on re-exposed ground, of the network and of its last clear view."""
    for seed in range(SEED_OF_TEST, SEED_OF_TEST + TESTS):
        one = scenes(seed)
        said = model.predict_on_batch(_inputs(one))
        last = np.zeros_like(one.truth)
        for frame, valid in zip(np.moveaxis(one.frames, 1, 0), np.moveaxis(one.validity, 1, 0), strict=True):
            last = np.where(valid > 0, frame, last)
        if one.exposed.any():
            yield tuple(float(np.abs(field - one.truth)[one.exposed].mean()) for field in (said, last))  # type: ignore[misc]


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, prints the errors and writes build/bench/occlusion.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=50, help="CPU-seconds a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--filters", type=int, default=FILTERS, help="of the network with attention")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.task:
        answer(run_task(asked.task))
        return
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = {
        kind: [
            in_fresh_process(__file__, {"kind": kind, "seed": seed, "budget": asked.budget, "filters": asked.filters})
            for seed in range(asked.seeds)
        ]
        for kind in KINDS
    }
    report("occlusion", _figures(done), asked.results)


def _figures(done: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    errors = {kind: [run["mae"] for run in runs] for kind, runs in done.items()}
    ratios = [own / other for own, other in zip(errors["attention"], errors["convlstm"], strict=True)]
    figures = [Figure("attention / plain ConvLSTM, error on re-exposed ground", ratios, "ratio", Bar(1 / 3))]
    figures += [Figure(f"{kind}, MAE (ground: 1)", values, "deviations") for kind, values in errors.items()]
    figures += [Figure(f"{kind}, parameters", [run["parameters"] for run in runs], "") for kind, runs in done.items()]
    figures += [Figure(f"{kind}, steps", [run["steps"] for run in runs], "") for kind, runs in done.items()]
    still = statistics.mean(run["still"] for run in done["attention"])
    return [*figures, Figure("last clear view, MAE", [still], "deviations")]


if __name__ == "__main__":
    main()
