"""Fit a network to chips: masked loss, cosine schedule, best weights by validation, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from models.losses import MaskedMeanSquaredError
from models.networks import NetworkSpec, build
from models.prediction import network_inputs
from pipeline.chips import ChipReader, Chips
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.specs import TrainingSpec

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
    """Trains a new network until its epochs, its time or our patience end.

    Args:
        network: its shape.
        spec: how to train.
        training: where chips are drawn from.
        validation: the chips that watch, always the same.
        tracker: told the metrics of each epoch.
        progress: told each step.

    Raises:
        ModelError: the training diverges.
        NotEnoughFramesError: no pixel of the validation chips can be scored.
    """
    keras.utils.set_random_seed(spec.seed)
    whole: Any = build(network)
    model: Any = keras.Model(whole.inputs, whole.output["forecast"])
    model.compile(optimizer=_optimizer(spec), loss=MaskedMeanSquaredError(), jit_compile=False)
    deadline = time.monotonic() + spec.budget.total_seconds()
    reference = squared_error(validation, network.bands_out, lambda chips: newest(chips, network.bands_out))
    history: list[dict[str, float]] = []
    best = whole.get_weights()
    for epoch in range(spec.epochs):
        loss = _epoch(model, network, spec, _steps(spec, training, epoch, deadline), progress)
        val_loss = squared_error(
            validation, network.bands_out, lambda chips: model(_inputs(chips, network), training=False)
        )
        _refuse_divergence(loss, val_loss, epoch)
        history.append({"loss": loss, "val_loss": val_loss, "val_skill": _skill(val_loss, reference)})
        tracker.metrics(history[-1], epoch)
        losses = [entry["val_loss"] for entry in history]
        if losses[-1] == min(losses):
            best = whole.get_weights()
        if epoch - int(np.argmin(losses)) >= PATIENCE or time.monotonic() > deadline:
            break
    whole.set_weights(best)
    return Fitted(whole, tuple(history))


def _refuse_divergence(loss: float, val_loss: float, epoch: int) -> None:
    if not np.isfinite([loss, val_loss]).all():
        msg = (
            f"losses stay finite, but epoch {epoch + 1} ended with {loss:.3g} on training and {val_loss:.3g} on "
            "validation chips: lower training.learning_rate"
        )
        raise ModelError(msg)


def _skill(error: float, reference: float) -> float:
    """Part of the reference's error that is gone; NaN where that makes none."""
    return 1 - error / reference if reference else float("nan")


def _optimizer(spec: TrainingSpec) -> keras.Optimizer:
    steps = spec.epochs * spec.steps_per_epoch
    warmup = max(1, steps // 20)
    rate: Any = keras.optimizers.schedules.CosineDecay(
        spec.learning_rate / 10,
        max(1, steps - warmup),
        alpha=0.02,
        warmup_target=spec.learning_rate,
        warmup_steps=warmup,
    )
    return keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY, clipnorm=CLIP)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a training: which it is, and its chips."""

    epoch: int
    number: int
    chips: Chips


def _steps(spec: TrainingSpec, training: ChipReader, epoch: int, deadline: float) -> Iterator[Step]:
    """The steps of an epoch, at least one; the next batch is read while the one before trains."""
    first = epoch * spec.steps_per_epoch
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(training.read, first)
        for number in range(1, spec.steps_per_epoch + 1):
            chips = upcoming.result()
            if number < spec.steps_per_epoch:
                upcoming = reader.submit(training.read, first + number)
            yield Step(epoch, number, chips)
            if time.monotonic() > deadline:
                break


def _epoch(
    model: Any,
    network: NetworkSpec,
    spec: TrainingSpec,
    steps: Iterable[Step],
    progress: Callable[[Progress], None] | None,
) -> float:
    """Trains on each step; returns the mean of their losses."""
    losses: list[float] = []
    for step in steps:
        losses.append(float(model.train_on_batch(_inputs(step.chips, network), step.chips.targets)))
        if progress is not None:
            progress(Progress(step.epoch + 1, spec.epochs, step.number, spec.steps_per_epoch, losses[-1]))
    return float(np.mean(losses))


def _inputs(chips: Chips, network: NetworkSpec) -> dict[str, Any]:
    return network_inputs(chips.frames, chips.ages, network.patch)


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


def squared_error(
    validation: Sequence[Chips], bands: tuple[int, ...], predict: Callable[[Chips], NDArray[np.float32]]
) -> float:
    """Mean squared error over the pixels of all chips whose target and newest value are known, standardised.

    So every predictor is measured on the same pixels; NaN where one says nothing about one of them.

    Args:
        validation: the chips.
        bands: indices of the targets' bands.
        predict: makes what is compared with the targets.

    Raises:
        NotEnoughFramesError: there is no such pixel.
    """
    total, count = 0.0, 0
    for chips in validation:
        known = np.isfinite(chips.targets) & np.isfinite(newest(chips, bands))
        error = (np.asarray(predict(chips)) - chips.targets)[known].astype(np.float64)
        total += float((error**2).sum())
        count += error.size
    if not count:
        msg = (
            f"validation needs pixels that are valid in context and targets, found none in {len(validation)} batches: "
            "check nodata and masks, ingest more scenes, or raise samples.validation_fraction"
        )
        raise NotEnoughFramesError(msg)
    return total / count
