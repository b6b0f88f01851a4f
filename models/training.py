"""Fit a network to chips: masked loss, cosine schedule, best weights by validation, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from models.losses import MaskedMeanSquaredError
from models.networks import NetworkSpec, build
from models.prediction import network_inputs
from pipeline.chips import ChipReader, Chips
from pipeline.config import TrainingSpec

PATIENCE = 4  # epochs without a better validation loss
CLIP = 1.0  # norm of a gradient
WEIGHT_DECAY = 1e-4


class Tracker(Protocol):
    """Where a training writes its record; it does not know what stands behind."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Settings and facts that hold for the whole run."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an epoch or a lead."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """A file to keep."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network.

    Attributes:
        model: with the weights of its best epoch.
        history: one entry an epoch: ``loss``, ``val_loss`` and ``val_skill``, the part of the extrapolation's squared
            error that it takes away on the validation chips.
    """

    model: Any
    history: tuple[dict[str, float], ...]

    @property
    def best(self) -> dict[str, float]:
        """The epoch whose weights were kept."""
        return min(self.history, key=lambda epoch: epoch["val_loss"])


def fit(
    network: NetworkSpec,
    spec: TrainingSpec,
    training: ChipReader,
    validation: Sequence[Chips],
    tracker: Tracker,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Trains a new network.

    Args:
        network: its shape.
        spec: how to train.
        training: where chips are drawn from.
        validation: the chips that watch, always the same.
        tracker: told the metrics of each epoch.
        progress: told each step.
    """
    keras.utils.set_random_seed(spec.seed)
    whole: Any = build(network)
    model: Any = keras.Model(whole.inputs, whole.output["forecast"])
    model.compile(optimizer=_optimizer(spec), loss=MaskedMeanSquaredError(), jit_compile=False)
    started = time.monotonic()
    reference = squared_error(validation, lambda chips: newest(chips.frames, network.bands_out, chips.targets.shape[1]))
    history: list[dict[str, float]] = []
    best = whole.get_weights()
    for epoch in range(spec.epochs):
        loss = _epoch(model, network, spec, training, epoch, progress)
        val_loss = squared_error(validation, lambda chips: model(_inputs(chips, network), training=False))
        history.append({"loss": loss, "val_loss": val_loss, "val_skill": 1 - val_loss / reference})
        tracker.metrics(history[-1], epoch)
        losses = [entry["val_loss"] for entry in history]
        if losses[-1] == min(losses):
            best = whole.get_weights()
        if epoch - int(np.argmin(losses)) >= PATIENCE or time.monotonic() - started > spec.budget.total_seconds():
            break
    whole.set_weights(best)
    return Fitted(whole, tuple(history))


def _optimizer(spec: TrainingSpec) -> keras.Optimizer:
    steps = spec.epochs * spec.steps_per_epoch
    warmup = max(1, steps // 20)
    rate: Any = keras.optimizers.schedules.CosineDecay(
        spec.learning_rate / 10, steps - warmup, alpha=0.02, warmup_target=spec.learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY, clipnorm=CLIP)


def _epoch(
    model: Any,
    network: NetworkSpec,
    spec: TrainingSpec,
    training: ChipReader,
    epoch: int,
    progress: Callable[[Progress], None] | None,
) -> float:
    first = epoch * spec.steps_per_epoch
    losses: list[float] = []
    with ThreadPoolExecutor(1) as reader:  # the next batch is read while this one trains
        upcoming = reader.submit(training.read, first)
        for step in range(spec.steps_per_epoch):
            chips = upcoming.result()
            upcoming = reader.submit(training.read, first + step + 1)
            losses.append(float(model.train_on_batch(_inputs(chips, network), chips.targets)))
            if progress is not None:
                progress(Progress(epoch + 1, spec.epochs, step + 1, spec.steps_per_epoch, losses[-1]))
    return float(np.mean(losses))


def _inputs(chips: Chips, network: NetworkSpec) -> dict[str, Any]:
    return network_inputs(chips.frames, chips.ages, network.patch)


def newest(frames: Any, bands: tuple[int, ...], horizon: int) -> Any:
    """The extrapolation in coordinates that move with the flow: each pixel's newest value, for every lead."""
    value = np.full((len(frames), *frames.shape[2:4], len(bands)), np.nan, np.float32)
    for frame in range(frames.shape[1]):
        layer = frames[:, frame][..., list(bands)]
        value = np.where(np.isfinite(layer), layer, value)
    return np.repeat(value[:, np.newaxis], horizon, axis=1)


def squared_error(validation: Sequence[Chips], predict: Callable[[Chips], Any]) -> float:
    """Mean squared error over the valid pixels of all chips where a newest value is known, standardised."""
    total = count = 0.0
    for chips in validation:
        said = np.asarray(predict(chips))
        error = (said - chips.targets).astype(np.float64)
        known = np.isfinite(chips.targets) & np.isfinite(error)
        total += float((error[known] ** 2).sum())
        count += float(known.sum())
    return total / max(count, 1.0)
