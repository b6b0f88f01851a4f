"""Predictors whose answers a test can foretell, and contexts for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.forecast import make
from pipeline.pieces import View
from pipeline.predictor import Context, Forecast, Source
from pipeline.rungs import Champion
from pipeline.tiling import Assembly


@dataclass(frozen=True)
class Blurred:
    """The newest frame under a box that reaches ``radius`` pixels, over means of patches; counts in horizon and age."""

    radius: int
    patch: int = 1

    def predict(self, context: Context, horizon: int) -> Forecast:
        newest = context.values[:, -1]
        fields = np.stack([self._blur(one) for one in newest])
        values = np.stack([fields + lead for lead in range(horizon)], axis=1)[:, :, np.newaxis]
        source = np.full((len(newest), horizon, *context.grid_shape), Source.NETWORK, np.uint8)
        age = np.repeat(newest[:, np.newaxis, ..., 0], horizon, axis=1)
        return Forecast(values.astype(np.float32), source, age)

    def _blur(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width, bands = field.shape
        side = 2 * self.radius + 1
        padded = np.pad(field, ((0, -height % self.patch), (0, -width % self.patch), (0, 0)))
        blocks = padded.reshape(-(-height // self.patch), self.patch, -(-width // self.patch), self.patch, bands)
        coarse = np.repeat(np.repeat(blocks.mean(axis=(1, 3)), self.patch, axis=0), self.patch, axis=1)
        both = coarse[:height, :width] + field
        soft = cv2.boxFilter(both, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(soft, np.float32).reshape(field.shape)


@dataclass(frozen=True)
class Half:
    """Says 7 in the left half and nothing in the right one."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        known = np.arange(context.grid_shape[1]) < context.grid_shape[1] // 2
        values = np.where(known[:, np.newaxis], np.float32(7), np.float32(np.nan))
        source = np.where(known, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
        return replace(
            said,
            values=np.broadcast_to(values, said.values.shape).copy(),
            source=np.broadcast_to(source, said.source.shape).copy(),
        )


def context(height: int, width: int, frames: int = 2, bands: int = 2, seed: int = 0) -> Context:
    values = np.random.default_rng(seed).integers(0, 100, (1, frames, height, width, bands)).astype(np.float32)
    ages = np.arange(frames, dtype=np.float32)[np.newaxis, ::-1]
    return Context(values, np.ones(values.shape, bool), (-300 * ages).astype(np.int64), ages)


def told(seen: Context, leads: int) -> Context:
    """Each pixel's covariates: its row and its column, and the number of its time."""
    y, x = np.indices(seen.grid_shape, np.float32)
    times = seen.values.shape[1] + leads
    channels = np.stack([np.dstack([y, x, np.full_like(y, time)]) for time in range(times)])
    return replace(seen, covariates=channels[np.newaxis])


@dataclass(frozen=True)
class Listening:
    """Says the covariates of each lead, in as many bands as the context has."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        leads = given_to(context)[:, -horizon:, np.newaxis, ..., : context.values.shape[-1]]
        return replace(said, values=leads.copy())


def given_to(context: Context) -> NDArray[np.float32]:
    assert context.covariates is not None
    return context.covariates


def put(settings: Settings, champion: Champion | None, view: View) -> Forecast:
    """What the ladder says of the whole grid, as it is before it is stored."""
    canvas = Assembly(view.shape)
    make(settings, champion, view, canvas)
    return canvas.forecast
