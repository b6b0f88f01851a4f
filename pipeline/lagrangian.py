"""Coordinates that move with the flow: what changes there is growth and decay, not motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.motion import Pixel, estimate, warp, warp_nearest
from pipeline.predictor import Context, Forecast, Predictor, Source
from pipeline.specs import MotionSpec
from pipeline.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class Advected:
    """A predictor at work in Lagrangian coordinates: it sees an aligned context, its forecast is moved along the flow.

    What flows in from outside is unknown: NaN with :attr:`Source.NONE`. What persists along the flow is extrapolated:
    the inner predictor's :attr:`Source.PERSISTENCE` becomes :attr:`Source.EXTRAPOLATION`.

    Attributes:
        inner: what forecasts where nothing moves.
        spec: how motion is estimated, for each context as a whole.
        given: trajectories of each batch item, where they are known beforehand: those of a window of a frame that was
            followed as a whole. Empty: estimated.
    """

    inner: Predictor
    spec: MotionSpec
    given: tuple[Trajectories, ...] = ()

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`."""
        trajectories = self.given or estimate_trajectories(context, self.spec)
        still = self.inner.predict(align(context, trajectories), horizon)
        source = np.where(still.source == Source.PERSISTENCE, np.uint8(Source.EXTRAPOLATION), still.source)
        return advance(replace(still, source=source), trajectories)


def estimate_trajectories(context: Context, spec: MotionSpec) -> tuple[Trajectories, ...]:
    """Of each batch item of whole frames, from the band that ``spec`` names."""
    band = spec.band - 1
    items = zip(context.values[..., band], context.validity[..., band], context.ages, strict=True)
    return tuple(Trajectories.of(estimate(values, validity, ages, spec)) for values, validity, ages in items)


def align(context: Context, trajectories: Sequence[Trajectories]) -> Context:
    """Every frame moved to the init time by its own age; ages and times stay those of the acquisitions.

    Covariates are those of the place where what moves is at their time: of the frames where it was, of the leads where
    it will be; beyond the frame those of its edge.

    Args:
        context: as observed.
        trajectories: one a batch item.
    """
    values, validity = np.empty_like(context.values), np.empty_like(context.validity)
    for item, one in enumerate(trajectories):
        ages = context.ages[item].tolist()
        one.follow(sorted(ages))
        for frame, age in enumerate(ages):
            warped = warp(context.values[item, frame], context.validity[item, frame], one.at(age))
            values[item, frame], validity[item, frame] = warped
    return replace(context, values=values, validity=validity, covariates=_align_covariates(context, trajectories))


def _align_covariates(context: Context, trajectories: Sequence[Trajectories]) -> NDArray[np.float32] | None:
    """Shape of the context's; a view of what is the same all over the grid stays one."""
    given, frames = context.covariates, context.values.shape[1]
    if given is None or not any(given.strides[2:4]):
        return given
    aligned = np.array(given)
    for item, one in enumerate(trajectories):
        ages = [*context.ages[item].tolist(), *range(-1, frames - given.shape[1] - 1, -1)]
        one.follow(sorted((age for age in ages if age < 0), reverse=True))
        for time, age in enumerate(ages):
            aligned[item, time] = _held(given[item, time], one.at(age))
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


def align_targets(
    targets: NDArray[np.float32], trajectories: Trajectories, leads: Sequence[float]
) -> NDArray[np.float32]:
    """Truth pulled back to the init time's coordinates, where a predictor inside :class:`Advected` is compared with it.

    Args:
        targets: ``(lead, y, x, band)``, true at init + lead; NaN where missing.
        trajectories: estimated from the context alone.
        leads: lead times in slots, one a target.

    Returns:
        Shape of ``targets``; NaN where missing or out of the frame by then.
    """
    pairs = zip(targets, leads, strict=True)
    return np.stack([warp(target, np.isfinite(target), trajectories.at(-lead))[0] for target, lead in pairs])


def advance(forecast: Forecast, trajectories: Sequence[Trajectories]) -> Forecast:
    """A forecast in the init time's coordinates moved forward, each lead by its own time.

    A pixel's band is known in all quantities or in none: where valid pixels hold half of its bilinear weight. 4
    quantities for 12 leads on a megapixel take 1.2 CPU-s, 0.5 of it to follow the flow.

    Args:
        forecast: where nothing moves.
        trajectories: one a batch item.

    Returns:
        The same quantities; source and age go with the nearest pixel that has them, NONE and NaN exactly where no band
        is known.
    """
    values, source, age = np.empty_like(forecast.values), np.empty_like(forecast.source), np.empty_like(forecast.age)
    horizon = values.shape[1]
    for item, one in enumerate(trajectories):
        one.follow(range(1, horizon + 1))
        for lead in range(horizon):
            travelled = one.at(lead + 1)
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
    """Labels moved by the nearest pixel; ``outside`` where nothing is known, be the nearest pixel known or not.

    A known pixel whose nearest one is ``outside`` got its value from the three around that: it takes the highest of
    their labels, the lowest rung and the greatest age. At the edge of a radar's disc that was 1 pixel in 2000.
    """
    same = (labels == labels[0, 0]).all()  # as mostly: one model and one newest frame made them all
    moved = labels if same else warp_nearest(labels, travelled, outside=outside)
    moved = np.where(known, moved, labels.dtype.type(outside))
    orphans = np.nonzero(known & (np.isnan(moved) if np.isnan(outside) else moved == outside))
    moved[orphans] = _highest_around(labels, np.stack(orphans[::-1], axis=-1) - travelled[orphans])
    return moved


def _highest_around(labels: NDArray[Pixel], places: NDArray[np.floating]) -> NDArray[Pixel]:
    """Highest label of the four pixels around each place, NaN left aside; places are ``(n, 2)``, x and y."""
    last = np.array(labels.shape[::-1]) - 1
    left, top = np.clip(np.floor(places), 0, last).astype(np.intp).T
    right, bottom = np.clip(np.ceil(places), 0, last).astype(np.intp).T
    corners = [labels[y, x] for y in (top, bottom) for x in (left, right)]
    return np.fmax.reduce(corners, axis=0)
