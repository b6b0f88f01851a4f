"""Coordinates that move with the flow: what changes there is growth and decay, not motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.motion import Motion, displacements, estimate, warp, warp_nearest
from pipeline.predictor import Context, Forecast, Predictor, Source
from pipeline.specs import MotionSpec


@dataclass(frozen=True, slots=True)
class Advected:
    """A predictor at work in Lagrangian coordinates: it sees an aligned context, its forecast is moved along the flow.

    What flows in from outside is unknown: NaN with :attr:`Source.NONE`. What persists along the flow is extrapolated:
    the inner predictor's :attr:`Source.PERSISTENCE` becomes :attr:`Source.EXTRAPOLATION`.

    Attributes:
        inner: what forecasts where nothing moves.
        spec: how motion is estimated, for each context as a whole.
    """

    inner: Predictor
    spec: MotionSpec

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`."""
        motions = estimate_motions(context, self.spec)
        still = self.inner.predict(align(context, motions), horizon)
        source = np.where(still.source == Source.PERSISTENCE, np.uint8(Source.EXTRAPOLATION), still.source)
        return advance(replace(still, source=source), motions)


def estimate_motions(context: Context, spec: MotionSpec) -> tuple[Motion, ...]:
    """Motion of each batch item, from the band that ``spec`` names."""
    band = spec.band - 1
    items = zip(context.values[..., band], context.validity[..., band], context.ages, strict=True)
    return tuple(estimate(values, validity, ages, spec) for values, validity, ages in items)


def align(context: Context, motions: Sequence[Motion]) -> Context:
    """Every frame moved to the init time by its own age; ages and times stay those of the acquisitions.

    Covariates are those of the place where what moves is at their time: of the frames where it was, of the leads where
    it will be; beyond the frame those of its edge.

    Args:
        context: as observed.
        motions: one a batch item.
    """
    values, validity = np.empty_like(context.values), np.empty_like(context.validity)
    for item, motion in enumerate(motions):
        newest_first = np.argsort(context.ages[item], kind="stable")
        paths = displacements(motion, context.ages[item][newest_first].tolist())
        for frame, travelled in zip(newest_first, paths, strict=True):
            warped = warp(context.values[item, frame], context.validity[item, frame], travelled)
            values[item, frame], validity[item, frame] = warped
    return replace(context, values=values, validity=validity, covariates=_align_covariates(context, motions))


def _align_covariates(context: Context, motions: Sequence[Motion]) -> NDArray[np.float32] | None:
    """Shape of the context's; a view of what is the same all over the grid stays one."""
    given, frames = context.covariates, context.values.shape[1]
    if given is None or not any(given.strides[2:4]):
        return given
    aligned = np.array(given)
    for item, motion in enumerate(motions):
        ages = [*context.ages[item].tolist(), *range(-1, frames - given.shape[1] - 1, -1)]
        order = np.argsort(np.abs(ages), kind="stable")
        for forward in (True, False):
            times = [time for time in order if (ages[time] >= 0) == forward]
            for time, travelled in zip(times, displacements(motion, [ages[time] for time in times]), strict=True):
                aligned[item, time] = _held(given[item, time], travelled)
    return aligned


def _held(field: NDArray[np.float32], travelled: NDArray[np.float32]) -> NDArray[np.float32]:
    """``field(x - travelled(x))`` of ``(y, x, channel)``; what comes from beyond the frame is as at its edge."""
    varying = np.flatnonzero((field != field[0, 0]).any(axis=(0, 1)))
    if not len(varying) or not travelled.any():
        return field
    sides = np.array(field.shape[1::-1], np.float32) - 1
    places = np.stack(np.meshgrid(*(np.arange(side + 1, dtype=np.float32) for side in sides)), axis=-1)
    inside = (places - np.clip(places - travelled, 0, sides)).astype(np.float32)
    layers = field[..., varying]
    moved = field.copy()
    moved[..., varying] = warp(layers, np.ones(layers.shape, bool), inside)[0]
    return moved


def align_targets(targets: NDArray[np.float32], motion: Motion, leads: Sequence[float]) -> NDArray[np.float32]:
    """Truth pulled back to the init time's coordinates, where a predictor inside :class:`Advected` is compared with it.

    Args:
        targets: ``(lead, y, x, band)``, true at init + lead; NaN where missing.
        motion: estimated from the context alone.
        leads: lead times in slots, one a target.

    Returns:
        Shape of ``targets``; NaN where missing or out of the frame by then.
    """
    paths = displacements(motion, [-lead for lead in leads])
    pulled = [warp(target, np.isfinite(target), path)[0] for target, path in zip(targets, paths, strict=True)]
    return np.stack(pulled)


def advance(forecast: Forecast, motions: Sequence[Motion]) -> Forecast:
    """A forecast in the init time's coordinates moved forward, each lead by its own time.

    Args:
        forecast: where nothing moves.
        motions: one a batch item.

    Returns:
        The same quantities; source and age go with the nearest pixel, NONE and NaN where no band is known.
    """
    values, source, age = np.empty_like(forecast.values), np.empty_like(forecast.source), np.empty_like(forecast.age)
    horizon = values.shape[1]
    for item, motion in enumerate(motions):
        for lead, travelled in enumerate(displacements(motion, range(1, horizon + 1))):
            values[item, lead] = _advanced_values(forecast.values[item, lead], travelled)
            source[item, lead] = warp_nearest(forecast.source[item, lead], travelled, outside=Source.NONE)
            age[item, lead] = warp_nearest(forecast.age[item, lead], travelled, outside=np.nan)
    return _unlabelled(replace(forecast, values=values, source=source, age=age))


def _advanced_values(values: NDArray[np.float32], travelled: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(quantity, y, x, band)`` moved, all layers in one go."""
    quantity, y, x, band = values.shape
    layers = np.moveaxis(values, 0, 2).reshape(y, x, quantity * band)
    moved, _ = warp(layers, np.isfinite(layers), travelled)
    return np.moveaxis(moved.reshape(y, x, quantity, band), 2, 0)


def _unlabelled(forecast: Forecast) -> Forecast:
    """No source and no age where nothing is known: the nearest pixel may be known where the bilinear one is not."""
    unknown = np.isnan(forecast.values).all(axis=(2, 5))
    source = np.where(unknown, np.uint8(Source.NONE), forecast.source)
    return replace(forecast, source=source, age=np.where(unknown, np.float32(np.nan), forecast.age))
