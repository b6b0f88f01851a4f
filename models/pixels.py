"""The head learned from single pixels, drawn from all over the training part, before it learns from chips.

Pixels of a chip resemble each other: a step on four chips of 128 px sees hardly more than four situations. As many
pixels drawn alone see thousands, so the head, which looks at one pixel at a time, learns from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.cascade import fit_cascade
from models.frames import NewestValid
from models.heads import CascadeHead, PixelScales
from models.losses import MeanAndQuantiles, loss_of
from models.networks import EXACT, Kind, NetworkSpec
from models.prediction import network_inputs
from models.seeds import deterministic, seeded
from pipeline.chips import Chips
from pipeline.errors import NotEnoughFramesError
from pipeline.normalise import Statistics

EPOCHS = 3  # with 12 heads knew the times that they had learned from, and others no better
BATCH = 4096
RATE = 4e-3
WEIGHT_DECAY = 1e-4
DROPOUT = 0.1  # of the channels: a head that may rely on none forecasts other days better
RARE = 0.1  # least scale of flags and ages: divided by how seldom it came in training, a rare gap would be enormous
NEVER = 1e-4  # root mean square of a channel that was always 0
SILENT = 1e9  # scale of one: no weight has learned what it means (ages of warped scenes made -4500 K of 270)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Single pixels to learn from, standardised.

    Attributes:
        seen: ``(pixel, channel)``, what :class:`models.heads.PixelScales` says of them.
        targets: ``(pixel, lead, band)``, NaN where missing.
    """

    seen: NDArray[np.float32]
    targets: NDArray[np.float32]


def draw_pixels(spec: NetworkSpec, chips: Iterable[Chips], each: int, seed: int) -> Pixels:
    """Random pixels of chips: those that are known now and at some lead.

    Args:
        spec: of the network.
        chips: from where.
        each: pixels a batch of chips, at most.
        seed: of the draw.

    Raises:
        NotEnoughFramesError: there is none.
    """
    random = np.random.default_rng(seed)
    look = _Look(spec)
    seen, targets = zip(*(_drawn(look, one, each, random) for one in chips), strict=True)
    pixels = Pixels(np.concatenate(seen), np.concatenate(targets))
    if not len(pixels.seen):
        msg = "a network learns from pixels that are known in context and targets, found none: check nodata and masks"
        raise NotEnoughFramesError(msg)
    return pixels


class _Look:
    """What the head sees of chips."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self._newest: Any = NewestValid(spec.bands_out, **EXACT)
        self.scales: Any = PixelScales(len(spec.bands_out), spec.patch, **EXACT)

    def __call__(self, chips: Chips) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``(batch, y, x, channel)``, and where a newest value is known, ``(batch, y, x)``."""
        inputs = network_inputs(chips.frames, chips.ages, self.spec.patch)
        newest = self._newest(inputs["frames"], inputs["validity"], inputs["ages"])
        height, width = chips.frames.shape[2:4]
        seen = np.asarray(self.scales(*newest))[:, :height, :width]
        known = np.asarray(newest[1])[:, :height, :width, : len(self.spec.bands_out)]
        return seen, np.all(known > 0, axis=-1)


def _drawn(
    look: _Look, chips: Chips, each: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    seen, known = look(chips)
    targets = np.moveaxis(chips.targets, 1, 3)
    candidates = np.flatnonzero(known & np.isfinite(targets).any(axis=(3, 4)))
    picked = random.choice(candidates, min(each, len(candidates)), replace=False)
    return seen.reshape(-1, seen.shape[-1])[picked], targets.reshape(-1, *targets.shape[3:])[picked]


def learn_head(
    spec: NetworkSpec,
    training: Pixels,
    validation: Pixels,
    *,
    seed: int,
    statistics: Statistics | None = None,
    epochs: int = EPOCHS,
) -> dict[str, NDArray[np.float32]]:
    """Weights of a head that looks at pixels alone, by name, as :func:`begin_with` takes them.

    The cascade is fitted first and stays as it is; the rest is trained for it, and the epoch that is best on the
    validation pixels is kept.

    Args:
        spec: of the network that the head is for.
        training: to learn from.
        validation: to choose the epoch on.
        seed: of weights and order.
        statistics: of the forecast bands, for the scale that they are learned on; None: on their own.
        epochs: how often every pixel is seen.
    """
    deterministic(seed)
    model = seeded(seed, lambda: _head_alone(spec, training.seen.shape[-1]))
    head = model.get_layer("head")
    bands = len(spec.bands_out)
    newest = training.seen[:, :bands]
    head.cascade.assign(fit_cascade(newest, training.seen[:, bands : bands + head.scales], training.targets))
    if head.units:
        head.usual.assign(_usual(training.seen, flags=3 * bands))
        head.cascade.trainable = False
        _train(model, loss_of(spec.quantile_levels, statistics), (training, validation), epochs)
        head.cascade.trainable = True
    return {weight.path.removeprefix("head/"): np.asarray(weight) for weight in head.weights}


def _usual(seen: NDArray[np.float32], *, flags: int) -> NDArray[np.float32]:
    """What each channel is divided by, ``(channel,)``; the last ``flags`` of them are flags and ages."""
    found = np.sqrt(np.mean(seen**2, axis=0))
    least = np.where(np.arange(len(found)) < len(found) - flags, 0, RARE)
    return np.where(found < NEVER, SILENT, np.maximum(found, least)).astype(np.float32)


def _head_alone(spec: NetworkSpec, channels: int) -> Any:
    bands = len(spec.bands_out)
    units = 0 if spec.kind == Kind.CASCADE else spec.head_units
    shape: Any = {"dropout": DROPOUT, "levels": spec.quantile_levels, "units": units, "anchored": spec.anchored}
    scales = PixelScales(bands, spec.patch).scales
    inputs = keras.Input((1, 1, channels))
    return keras.Model(inputs, CascadeHead(bands, spec.horizon, scales, **shape, name="head", **EXACT)(inputs))


def _train(model: Any, loss: MeanAndQuantiles, parts: tuple[Pixels, Pixels], epochs: int) -> None:
    training, validation = parts
    steps = epochs * -(-len(training.seen) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=RATE, warmup_steps=steps // 20)
    rates: Any = rate  # Keras's stubs know numbers alone
    optimizer = keras.optimizers.AdamW(rates, weight_decay=WEIGHT_DECAY, clipnorm=1.0)
    model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
    best = _KeepBest()
    sets = [(one.seen[:, None, None], one.targets[:, :, None, None]) for one in (training, validation)]
    model.fit(*sets[0], batch_size=BATCH, epochs=epochs, validation_data=sets[1], callbacks=[best], verbose=0)
    model.set_weights(best.weights)


class _KeepBest(keras.callbacks.Callback):
    """Remembers the weights of the least validation loss."""

    def __init__(self) -> None:
        super().__init__()
        self.least = np.inf
        self.weights: list[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compares."""
        loss = (logs or {})["val_loss"]
        if loss <= self.least or not self.weights:
            model: Any = self.model
            self.least, self.weights = loss, model.get_weights()


def begin_with(network: Any, head: dict[str, NDArray[np.float32]]) -> None:
    """Gives the head of a network the weights that it has learned from pixels alone.

    What the network has besides, such as the weights of its features, stays as it is.
    """
    for weight in network.get_layer("head").weights:
        name = weight.path.split("head/", 1)[1]
        if name in head:
            weight.assign(head[name])
