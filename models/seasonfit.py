"""Training of a seasonal network: covariances, attention, and how much of each a forecast takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.frames import Tensor
from models.seasonal import (
    LEVELS,
    MEMBERS,
    Array,
    SeasonalBand,
    SeasonalCard,
    SeasonalPredictor,
    build_seasonal,
    members,
    network_inputs,
)
from models.seeds import seeded
from pipeline.climatology import YEAR, season_width
from pipeline.config import Settings
from pipeline.cube import Cube
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window, tiles
from pipeline.kriging import Covariance, Estimate, estimate_covariance, krige
from pipeline.rungs import forecast_bands

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
DAY_SECONDS = 86400
PERSISTENCE_ALONE = (1.0, 0.0, 0.0, 0.0)
NORMAL_SPREAD = (-1.2816, 1.2816)
LEAST_FRAMES = 3
JUDGED_PIXELS = 2000  # of each date that the blend is judged by
PLACES = 16  # windows of a large grid that a training reads
PLACE = 64  # their side, pixels


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A training part, pixel by pixel.

    Attributes:
        values: ``(frame, pixel, band)``, float32, NaN where missing, oldest first.
        days: ``(frame,)``, when they were acquired.
    """

    values: Array
    days: NDArray[np.float64]

    def until(self, frames: int) -> Series:
        """Its first frames."""
        return Series(self.values[:frames], self.days[:frames])

    @property
    def reversed(self) -> Series:
        """The same read backwards: its oldest frames then have a long past, which seasons need."""
        return Series(self.values[::-1], -self.days[::-1])

    @property
    def span(self) -> float:
        """Days from its first to its last frame."""
        return float(self.days[-1] - self.days[0])


@dataclass(frozen=True, slots=True)
class SeasonalSettings:
    """How a seasonal network is trained.

    Attributes:
        cadence: one slot.
        bands: indices of the bands to forecast, counted from 0.
        context_frames: past frames that a forecast sees.
        units: hidden channels of the attention's score.
        steps: of the optimiser.
        dates: targets a step.
        pixels: of each of them.
        learning_rate: peak of AdamW; cosine decay.
        seed: of weights and sampling.
        blend: members that the forecast may be made of.
    """

    cadence: timedelta
    bands: tuple[int, ...] = (0,)
    context_frames: int = 40
    units: int = 16
    steps: int = 300
    dates: int = 8
    pixels: int = 256
    learning_rate: float = 1e-2
    seed: int = 0
    blend: tuple[str, ...] = MEMBERS


@dataclass(frozen=True, slots=True)
class _Target:
    """One date to forecast: its past, and what came true."""

    values: Array
    lags: NDArray[np.float64]
    truth: Array


def seasonal_settings(settings: Settings) -> SeasonalSettings:
    """What a configuration asks for; its context is to reach back two years."""
    samples, training = settings.samples, settings.training
    return SeasonalSettings(
        settings.axis.cadence,
        forecast_bands(settings),
        samples.context_frames,
        training.attention_units,
        seed=training.seed,
        blend=training.blend,
    )


def read_series(cube: Cube, slots: Sequence[int], area: Window, *, seed: int = 0) -> Series:
    """Frames of a training part over an area, or over windows drawn from it where it is large.

    Args:
        cube: where they come from.
        slots: observed ones, ascending.
        area: all that training may read of the grid.
        seed: of the windows.
    """
    places = [_moved(window, area) for window in tiles(area.shape, PLACE)]
    drawn = np.random.default_rng(seed).permutation(len(places))[:PLACES]
    frames = [cube.read(slots, places[i]) for i in sorted(drawn)]
    values = np.concatenate([one.values.reshape(len(slots), -1, one.values.shape[-1]) for one in frames], axis=1)
    return Series(values, frames[0].acquired / DAY_SECONDS)


def _moved(window: Window, area: Window) -> Window:
    rows, columns = area.slices
    top, left = rows.start, columns.start
    inner_rows, inner_columns = window.slices
    return Window(inner_rows.start + top, inner_rows.stop + top, inner_columns.start + left, inner_columns.stop + left)


def fit(series: Series, settings: SeasonalSettings) -> SeasonalPredictor:
    """A predictor for what follows the series.

    A series shorter than a year has seen no season twice: what it could learn of them is a guess, and persistence alone
    is its forecast.

    Raises:
        NotEnoughFramesError: there are fewer than three frames, or nothing in them to learn from.
    """
    if len(series.days) < LEAST_FRAMES:
        found = f"found {len(series.days)}: ingest more scenes"
        msg = f"a seasonal network learns from at least {LEAST_FRAMES} frames, {found}"
        raise NotEnoughFramesError(msg)
    model, bands = _learned(series, settings)
    if series.span >= YEAR and len(series.days) // 2 >= LEAST_FRAMES:  # half of them is what the blend is judged by
        judged = [_judged(part, settings) for part in (series, series.reversed)]
        bands = tuple(_settled(band, settings.blend, *pooled) for band, *pooled in zip(bands, *judged, strict=True))
    return SeasonalPredictor(model, SeasonalCard(settings.cadence, settings.bands, bands))


def _learned(series: Series, settings: SeasonalSettings) -> tuple[Any, tuple[SeasonalBand, ...]]:
    """Network and statistics of all of a series; its blend is persistence alone."""
    found = tuple(_found(series, band, settings.seed) for band in settings.bands)
    return _trained(series, found, settings), found


def _found(series: Series, band: int, seed: int) -> SeasonalBand:
    values = series.values[..., band]
    drawn = np.random.default_rng(seed).permutation(values.shape[1])[:JUDGED_PIXELS]
    width = season_width(values[:, drawn], series.days)
    return SeasonalBand(estimate_covariance(values, series.days, seed=seed), width, PERSISTENCE_ALONE, NORMAL_SPREAD)


def _trained(series: Series, found: tuple[SeasonalBand, ...], settings: SeasonalSettings) -> Any:
    """Attention that meets each date from its past, and, read backwards, from its future.

    Kriging's covariance does not know which way time runs, nor do the keys. Without the way back, a series of a year
    and a half hardly ever shows the network a frame of the same season: error .076 instead of .073 on such a one.
    """
    model = seeded(settings.seed, lambda: build_seasonal(settings.units))
    decay: Any = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
    trainer: Any = keras.Model(model.input, model.output["forecast"])  # compiled apart: the model is saved without
    trainer.compile(optimizer=keras.optimizers.AdamW(decay, weight_decay=1e-3), loss=absolute_error)
    for inputs, truth in _batches(series, found, settings):
        trainer.train_on_batch(inputs, truth)
    return model


def absolute_error(truth: Tensor, said: Tensor) -> Tensor:
    """Mean absolute error over what is known of the truth, which is NaN elsewhere."""
    known = ops.isfinite(truth)
    errors = ops.where(known, ops.abs(ops.where(known, truth, 0) - said), 0)
    return ops.sum(errors) / ops.maximum(ops.sum(ops.cast(known, errors.dtype)), 1)


def _batches(
    series: Series, found: tuple[SeasonalBand, ...], settings: SeasonalSettings
) -> Iterator[tuple[dict[str, Array], Array]]:
    """Batches of dates, each with pixels of its own; values in standard deviations of their band."""
    rng = np.random.default_rng(settings.seed)
    offered = [
        (target, one.covariance)
        for index, one in zip(settings.bands, found, strict=True)
        for part in (series, series.reversed)
        for target in _targets(part, index, settings.context_frames)
    ]
    for _ in range(settings.steps):
        drawn = [offered[i] for i in rng.integers(0, len(offered), settings.dates)]
        batch = [_example(one, rng.integers(0, len(one[0].truth), settings.pixels)) for one in drawn]
        yield _stacked([one[0] for one in batch], settings.context_frames), np.stack([one[1] for one in batch])


def _example(offered: tuple[_Target, Covariance], pixels: NDArray[np.int64]) -> tuple[dict[str, Array], Array]:
    target, covariance = offered
    deviation = np.float32(np.sqrt(covariance.variance))
    values = target.values[:, pixels]
    prior = krige(covariance, values, target.lags[np.newaxis])
    inputs = network_inputs(values / deviation, target.lags, Estimate(*(one / deviation for one in prior)))
    truth = np.where(np.isfinite(values).any(axis=0), target.truth[pixels] / deviation, np.nan)
    return inputs, truth.astype(np.float32)


def _stacked(examples: Sequence[dict[str, Array]], frames: int) -> dict[str, Array]:
    """Examples as one batch; the ones with a shorter past get frames that are not usable."""

    def padded(array: Array) -> Array:
        return np.pad(array[0], ((frames - array.shape[1], 0), (0, 0)))

    return {name: np.stack([padded(one[name]) for one in examples]) for name in examples[0]}


def _targets(series: Series, band: int, frames: int, first: int = 2) -> list[_Target]:
    """Each date from a number on, with the frames before it."""
    values, days = series.values[..., band], series.days
    return [
        _Target(values[max(0, at - frames) : at], days[at] - days[max(0, at - frames) : at], values[at])
        for at in range(first, len(days))
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the members said of dates that they had not learned from.

    Attributes:
        values: one ``(member, pixel)`` for each date.
        deviations: one ``(pixel,)`` for each date, kriging's standard error.
        truths: one ``(pixel,)`` for each date; all without NaN.
    """

    values: tuple[Array, ...]
    deviations: tuple[Array, ...]
    truths: tuple[Array, ...]

    def joined(self, other: Judged) -> Judged:
        """Dates of both."""
        return Judged(self.values + other.values, self.deviations + other.deviations, self.truths + other.truths)


def _judged(series: Series, settings: SeasonalSettings) -> list[Judged]:
    """Rolling origin: learned from the first half, each date of the second is met from all before it; by band."""
    half = len(series.days) // 2
    model, found = _learned(series.until(half), settings)
    rng = np.random.default_rng(settings.seed)
    return [
        _met(model, band, _targets(series, index, settings.context_frames, half), rng)
        for index, band in zip(settings.bands, found, strict=True)
    ]


def _met(model: Any, band: SeasonalBand, targets: Sequence[_Target], rng: np.random.Generator) -> Judged:
    values, deviations, truths = [], [], []
    for target in targets:
        known = np.flatnonzero(np.isfinite(target.truth) & np.isfinite(target.values).any(axis=0))
        drawn = rng.permutation(known)[:JUDGED_PIXELS]
        if len(drawn):
            said = members(model, band, target.values[:, drawn], target.lags[np.newaxis])
            values.append(said.values[:, 0])
            deviations.append(said.deviation[0])
            truths.append(target.truth[drawn])
    return Judged(tuple(values), tuple(deviations), tuple(truths))


def _settled(band: SeasonalBand, blend: Sequence[str], forward: Judged, backward: Judged) -> SeasonalBand:
    judged = forward.joined(backward)
    if not judged.truths:
        return band
    shares = shares_of(judged, blend)
    residuals = np.concatenate(
        [
            (truth - np.einsum("m,mp->p", shares, values)) / deviation
            for values, deviation, truth in zip(judged.values, judged.deviations, judged.truths, strict=True)
        ]
    )
    low, high = np.quantile(residuals, LEVELS).tolist()
    return replace(band, shares=tuple(shares.tolist()), spread=(min(low, 0.0), max(high, 0.0)))


def shares_of(judged: Judged, blend: Sequence[str] = MEMBERS) -> NDArray[np.float64]:
    """Equal shares for every member that is no worse than the best one by more than one standard error over dates.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3). Finer weights are estimated from too few dates
    (Claeskens et al. 2016, The forecast combination puzzle).

    Args:
        judged: what all members said.
        blend: which of them may have a share.
    """
    losses = np.stack(
        [np.abs(values - truth).mean(axis=1) for values, truth in zip(judged.values, judged.truths, strict=True)]
    )
    allowed = np.isin(MEMBERS, list(blend))
    best = np.where(allowed, losses.mean(axis=0), np.inf).argmin()
    excess = losses - losses[:, [best]]
    error = excess.std(axis=0) / np.sqrt(max(len(losses) - 1, 1))
    kept = allowed & (excess.mean(axis=0) <= error)
    return kept / kept.sum()
