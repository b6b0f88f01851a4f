"""What a model must beat, and what stands in where it has no answer: persistence, extrapolation, the ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.lagrangian import Advected
from pipeline.predictor import MEAN, POINTS, Context, Forecast, Predictor, Source
from pipeline.specs import MotionSpec


@dataclass(frozen=True, slots=True)
class Persistence:
    """Nothing changes: each pixel and band keeps its newest valid value, at every lead."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`."""
        if not context.values.shape[1]:
            msg = "persistence needs at least 1 context frame, found 0: ingest newer scenes or raise samples.max_age"
            raise NotEnoughFramesError(msg)
        values, ages = _newest(context)
        known = np.isfinite(values).any(axis=-1)
        source = np.where(known, np.uint8(Source.PERSISTENCE), np.uint8(Source.NONE))
        age = np.fmin.reduce(ages, axis=-1)
        return Forecast(
            values=_at_all_leads(values[:, None, None], horizon),
            source=_at_all_leads(source[:, None], horizon),
            age=_at_all_leads(age[:, None], horizon),
        )


def extrapolation(spec: MotionSpec) -> Advected:
    """Nothing changes but its place: persistence along the flow; NaN where the flow comes from outside the frame."""
    return Advected(Persistence(), spec)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Predictors from the best to the surest: what one leaves unknown, the next one fills.

    Each band of a pixel comes whole from one rung, every quantity of it: see :func:`fill`. A pixel whose bands came
    from several carries the lowest one's source and the greatest age. A rung that lacks frames is left out.

    Attributes:
        predictors: the rungs, best first.
    """

    predictors: tuple[Predictor, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`; raises only where every rung lacks frames."""
        answers = self._answers(context, horizon)
        forecast = next(answers, None)
        if forecast is None:
            msg = (
                f"no predictor of the ladder can do with {context.values.shape[1]} context frames: "
                "ingest newer scenes or raise samples.max_age"
            )
            raise NotEnoughFramesError(msg)
        while np.isnan(forecast.values).any() and (rung := next(answers, None)) is not None:
            forecast = fill(forecast, rung)
        return forecast

    def _answers(self, context: Context, horizon: int) -> Iterator[Forecast]:
        for predictor in self.predictors:
            answer = attempt(predictor, context, horizon)
            if answer is not None:
                yield answer


def fill(forecast: Forecast, rung: Forecast) -> Forecast:
    """``forecast`` with what it leaves unknown taken from ``rung``, all quantities of a pixel's band at once.

    A quantity that the rung does not give is its point forecast, the mean: an interval without width, told from a real
    one by the pixel's source. A rung that has bounds but no mean is of no use for the others.

    Args:
        forecast: what to fill, wherever one of its quantities is unknown.
        rung: which pixels it knows in all of ``forecast``'s quantities fills in.
    """
    offered = [_offered(rung, name) for name in forecast.quantities]
    lacking = np.isnan(forecast.values).any(axis=2)
    for values in offered:
        lacking &= ~np.isnan(values)
    values = forecast.values.copy()  # one quantity at a time: 5 of 12 leads on a megapixel are 240 MB
    for index, filling in enumerate(offered):
        np.copyto(values[:, :, index], filling, where=lacking)
    touched = lacking.any(axis=-1)
    return replace(
        forecast,
        values=values,
        source=np.where(touched, np.maximum(forecast.source, rung.source), forecast.source),
        age=np.where(touched, np.fmax(forecast.age, rung.age), forecast.age),
    )


def _newest(context: Context) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Newest valid value and its age, both ``(batch, y, x, band)``; NaN where no frame has one."""
    values = np.full_like(context.values[:, 0], np.nan)
    ages = np.full_like(values, np.nan)
    for frame in range(context.values.shape[1]):
        valid = context.validity[:, frame] & np.isfinite(context.values[:, frame])
        values = np.where(valid, context.values[:, frame], values)
        ages = np.where(valid, context.ages[:, frame, None, None, None], ages)
    return values, ages


def _at_all_leads(field: NDArray[Any], horizon: int) -> NDArray[Any]:
    """One ``(batch, 1, ...)`` seen at every lead, without a copy: not to be written to."""
    return np.broadcast_to(field, (len(field), horizon, *field.shape[2:]))


def _offered(rung: Forecast, quantity: str) -> NDArray[np.float32]:
    """A quantity as ``rung`` gives it, ``(batch, lead, y, x, band)``, or what stands in for it."""
    standing = next((name for name in (quantity, MEAN, *POINTS) if name in rung.quantities), None)
    return np.full_like(rung.values[:, :, 0], np.nan) if standing is None else rung.of(standing)


def attempt(predictor: Predictor, context: Context, horizon: int) -> Forecast | None:
    """What a predictor says; None where it lacks frames."""
    try:
        return predictor.predict(context, horizon)
    except NotEnoughFramesError:
        return None
