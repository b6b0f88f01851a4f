"""Coordinates that move with the flow: what changes there is growth and decay, not motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.motion import Motion, Pixel, displacements, estimate, warp, warp_nearest
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

    A pixel's band is known in all quantities or in none: where valid pixels hold half of its bilinear weight. 4
    quantities for 12 leads on a megapixel take 1.2 CPU-s, 0.5 of it to follow the flow.

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
            known = _advance_values(forecast.values[item, lead], travelled, into=values[item, lead])
            source[item, lead] = _labels(forecast.source[item, lead], travelled, known, outside=Source.NONE)
            age[item, lead] = _labels(forecast.age[item, lead], travelled, known, outside=np.nan)
    return replace(forecast, values=values, source=source, age=age)


def _advance_values(
    values: NDArray[np.float32], travelled: NDArray[np.float32], *, into: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """``(quantity, y, x, band)`` moved ``into`` the same shape; returns where any band is known, ``(y, x)``.

    As :func:`pipeline.motion.warp`, but what is known is found once a band, not once a quantity.
    """
    valid = np.asarray(np.isfinite(values).all(axis=0))
    back = -travelled
    covered = np.zeros(valid.shape[:2], bool)
    for band in range(valid.shape[2]):
        weight = _moved(valid[..., band].astype(np.float32), back)
        known = weight >= 0.5
        share = np.where(known, 1 / np.maximum(weight, 0.5), np.float32(np.nan))
        holes = ~valid[..., band]
        for quantity in range(len(values)):
            layer = _without(values[quantity, ..., band], holes)
            np.multiply(_moved(layer, back), share, out=into[quantity, ..., band])
        covered |= known
    return covered


def _without(layer: NDArray[np.float32], holes: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(holes, np.float32(0), layer) if holes.any() else np.ascontiguousarray(layer)


def _moved(layer: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(y, x)`` sampled ``back`` pixels away, bilinear; outside of the frame are zeros."""
    kind, zeros = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP, cv2.BORDER_CONSTANT
    return np.asarray(cv2.remap(layer, back, None, kind, borderMode=zeros), np.float32)  # pyright: ignore[reportCallIssue, reportArgumentType]  # the stubs forget None


def _labels(
    labels: NDArray[Pixel], travelled: NDArray[np.float32], known: NDArray[np.bool_], *, outside: float
) -> NDArray[Pixel]:
    """Labels moved by the nearest pixel; ``outside`` where nothing is known, be the nearest pixel known or not."""
    same = (labels == labels[0, 0]).all()  # as mostly: one model and one newest frame made them all
    moved = labels if same else warp_nearest(labels, travelled, outside=outside)
    return np.where(known, moved, labels.dtype.type(outside))
