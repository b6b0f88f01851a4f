"""The rungs that a product's forecast can stand on, its champion, extrapolation, persistence; the ladder of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.baselines import Ladder, Persistence, extrapolation
from pipeline.config import Settings
from pipeline.doubt import Doubt, Doubted
from pipeline.lagrangian import Advected
from pipeline.matching import Matched
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.record import ModelRef
from pipeline.specs import MotionSpec
from pipeline.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class OfBands:
    """A predictor of all bands, of which only some are wanted.

    Attributes:
        inner: the predictor.
        bands: indices of the wanted bands, counted from 0.
    """

    inner: Predictor
    bands: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        said = self.inner.predict(context, horizon)
        return Forecast(said.values[..., list(self.bands)], said.source, said.age, said.quantities)


@dataclass(frozen=True, slots=True)
class Untold:
    """A predictor that gets no covariates: one that asks for none need not have them moved along the flow.

    Attributes:
        inner: the predictor.
    """

    inner: Predictor

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        return self.inner.predict(replace(context, covariates=None), horizon)


@dataclass(frozen=True, slots=True)
class Champion:
    """The model to publish with: what forecasts the forecast bands, and what a whole grid needs around that.

    Attributes:
        still: forecasts where nothing moves, or, without ``motion``, as things are.
        ref: which model it is.
        motion: how the motion is found that its context and its forecast are moved along; None: they are not.
        halo: how far an output pixel of ``still`` can see, in pixels.
        step: windows start at multiples of this, because ``still`` works on patches.
        matched: how far its mean gets the distribution of the newest frame, as the quantity ``matched``; None: not.
        bands: which bands of the context it forecasts, counted from 0; needed where ``matched`` is given.
        quantities: how many numbers it says of each pixel and band.
        doubt: bounds for what fills in where it says nothing; None: intervals there have no width.
        validation: what held-out truths showed of its intervals, see :class:`pipeline.proof.Proof`; None: not known.
    """

    still: Predictor
    ref: ModelRef
    motion: MotionSpec | None = None
    halo: int = 0
    step: int = 1
    matched: float | None = None
    bands: tuple[int, ...] = ()
    quantities: int = 1
    doubt: Doubt | None = None
    validation: Mapping[str, Any] | None = None

    def doubtful(self, below: Forecast) -> Forecast:
        """What a lower rung says, with the bounds that fill in where this model says nothing."""
        return below if self.doubt is None else self.doubt.of(below)

    @property
    def predictor(self) -> Predictor:
        """For contexts of whole grids, with the matched field."""
        if self.matched is None:
            return self.along()
        still = OfBands(Persistence(), self.bands)
        reference = still if self.motion is None else Advected(still, self.motion)
        return Matched(self.along(), Untold(reference), self.matched)

    def along(self, trajectories: tuple[Trajectories, ...] = ()) -> Predictor:
        """For contexts of windows, without the matched field, which only a whole grid has.

        Args:
            trajectories: of the window, followed over the whole frame; none: estimated from the context.
        """
        return self.still if self.motion is None else Advected(self.still, self.motion, trajectories)


def remarks(champion: Champion | None, why: str) -> dict[str, Any]:
    """What a manifest says of the rung that a run stands on, beside what decides its bytes.

    Args:
        champion: the model that it is made with; None: extrapolation.
        why: it is not what MLflow has as champion; empty where it is, or where there is none.
    """
    rung = {"rung": {"wanted": "network", "why": why}} if why else {}
    return rung if champion is None or champion.validation is None else rung | {"validation": champion.validation}


def forecast_bands(settings: Settings) -> tuple[int, ...]:
    """Indices of the bands that are forecast, counted from 0."""
    return tuple(index for index, band in enumerate(settings.bands) if band.forecast)


def baselines(
    settings: Settings, bands: tuple[int, ...] | None = None, trajectories: tuple[Trajectories, ...] = ()
) -> dict[str, Predictor]:
    """The references of every score: persistence, and extrapolation filled up by it.

    Args:
        settings: the product.
        bands: for which bands, counted from 0; None: those that are forecast.
        trajectories: of the window that is looked at; none: estimated from the context.
    """
    wanted = forecast_bands(settings) if bands is None else bands
    still = OfBands(Persistence(), wanted)
    moved = Untold(OfBands(replace(extrapolation(settings.motion), given=trajectories), wanted))
    return {"persistence": still, "extrapolation": Ladder((moved, still))}


def ladder(settings: Settings, champion: Champion | None) -> Predictor:
    """The champion where it knows something, extrapolation elsewhere, persistence where that fails too.

    For contexts of whole grids; :mod:`pipeline.forecast` makes the same piece by piece, and fills in climatology.
    """
    below = baselines(settings)["extrapolation"]
    if champion is None:
        return below
    return Ladder((champion.predictor, below if champion.doubt is None else Doubted(below, champion.doubt)))
