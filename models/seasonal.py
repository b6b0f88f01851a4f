"""Slow series with seasons: attention over a pixel's own past, blended with what statistics make of the same past.

Which past frame tells most about a day is known from metadata: the one of the same season, the newest, the one that
agrees with the rest. All keys are relative to the valid time, so nothing of the calendar is learned by heart: dates,
not pixels, are the sample, and there are tens of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.attention import masked_softmax
from models.frames import Shape, Tensor
from pipeline.climatology import YEAR, lags_of, observed, provenance, usual
from pipeline.errors import NotEnoughFramesError
from pipeline.kriging import Covariance, Estimate, krige
from pipeline.predictor import MEAN, MEDIAN, Context, Forecast, Source, quantile_name

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None
Array = NDArray[np.float32]
MEMBERS = ("persistence", "climatology", "kriging", "attention")
KEYS = 3
FARTHEST = 8.0  # standard errors: what departs by more counts as much as this
PIXELS_AT_ONCE = 32768
LEVELS = (0.1, 0.9)


@keras.saving.register_keras_serializable(package="cubecast")
class SeasonalAttention(keras.layers.Layer):
    """Which past frames a pixel's next value resembles: ``softmax over frames of v^T tanh(W key + b) - d |departure|``.

    Additive attention (Bahdanau 2015, arXiv 1409.0473, section 3.1) whose query is no vector but the valid time that
    the keys are relative to. The forecast is a convex combination of past values, so the weights are the explanation.

    Call with ``values``, ``usable`` (1 or 0) and ``departures``, all ``(batch, frame, pixel)``, and ``keys``
    ``(batch, frame, 3)`` of :func:`keys`. Returns the combination ``(batch, pixel)`` and the weights ``(batch, frame,
    pixel)``, zero where not usable, summing to one over the others; both are zero where no frame is usable.

    Args:
        units: hidden channels of the score.
    """

    def __init__(self, units: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden = keras.layers.Dense(units, activation="tanh", name="hidden", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        """Weights for :data:`KEYS` numbers a frame, whatever the shape of the values."""
        del input_shape
        self.hidden.build((None, None, KEYS))
        self.direction = self.add_weight(shape=(self.units, 1), initializer="glorot_uniform", name="direction")
        doubt = keras.initializers.Constant(-2.0)  # softplus: 0.13 a standard error, next to none at the start
        self.doubt = self.add_weight(shape=(), initializer=doubt, name="doubt")

    def call(self, values: Tensor, usable: Tensor, keys: Tensor, departures: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        scores = ops.matmul(self.hidden(keys), self.direction) - ops.softplus(self.doubt) * departures
        weights = masked_softmax(scores, usable)
        return ops.sum(weights * values, axis=1), weights

    def compute_output_shape(
        self, values_shape: Shape, usable_shape: Shape, keys_shape: Shape, departures_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, pixel)`` and ``(batch, frame, pixel)``."""
        del usable_shape, keys_shape, departures_shape
        return (values_shape[0], values_shape[2]), values_shape

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "units": self.units}


def build_seasonal(units: int = 16) -> Any:
    """A Keras model of :class:`SeasonalAttention` alone: outputs ``forecast`` and ``attention``, 82 parameters."""
    names = ("values", "usable", "departures")
    inputs = {name: keras.Input((None, None), name=name) for name in names}
    inputs["keys"] = keras.Input((None, KEYS), name="keys")
    layer = SeasonalAttention(units, name="seasonal_attention")
    said, weights = layer(inputs["values"], inputs["usable"], inputs["keys"], inputs["departures"])
    return keras.Model(inputs, {"forecast": said, "attention": weights}, name="seasonal")


def keys(lags: NDArray[np.floating]) -> Array:
    """What is known of a frame ``lags`` days before the valid time, ``(..., 3)``: season, half-year season, age.

    The seasons are even in the lag, so a series read backwards has the same keys.
    """
    turn = 2 * np.pi * lags / YEAR
    age = np.log1p(np.abs(lags) * 12 / YEAR)  # months: near and far at one scale
    return np.stack([1 - np.cos(turn), 1 - np.cos(2 * turn), age], axis=-1).astype(np.float32)


def network_inputs(values: Array, lags: NDArray[np.floating], prior: Estimate) -> dict[str, Array]:
    """What the network takes for one valid time: batch of one.

    Args:
        values: ``(frame, pixel)``, NaN where missing.
        lags: ``(frame,)``, days before the valid time.
        prior: kriging's estimate for it, ``(1, pixel)``: what a frame's value departs from.
    """
    usable = np.isfinite(values)
    filled = np.where(usable, values, prior.mean).astype(np.float32)
    departures = np.minimum(np.abs(filled - prior.mean) / prior.deviation, np.float32(FARTHEST))
    inputs = {"values": filled, "usable": usable.astype(np.float32), "departures": departures, "keys": keys(lags)}
    return {name: array[np.newaxis] for name, array in inputs.items()}


@dataclass(frozen=True, slots=True)
class SeasonalBand:
    """What a training found for one band.

    Attributes:
        covariance: for kriging.
        width: of the climatology's seasons, days.
        shares: of each of :data:`MEMBERS` in the forecast; they sum to one.
        spread: how many of kriging's standard errors the 10 % and 90 % quantiles lie from the forecast.
    """

    covariance: Covariance
    width: float
    shares: tuple[float, ...]
    spread: tuple[float, float]

    def __post_init__(self) -> None:
        if len(self.shares) != len(MEMBERS) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            msg = f"shares of {', '.join(MEMBERS)} are at least 0 and sum to 1, found {self.shares}"
            raise ValueError(msg)
        if not self.spread[0] <= 0 <= self.spread[1]:
            msg = f"the forecast lies between its quantiles, found them at {self.spread} standard errors"
            raise ValueError(msg)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        lists = {"shares": list(self.shares), "spread": list(self.spread)}
        return {"covariance": self.covariance.to_json(), "width": self.width, **lists}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SeasonalBand:
        """The inverse of :meth:`to_json`."""
        low, high = document["spread"]
        covariance = Covariance.from_json(document["covariance"])
        return cls(covariance, document["width"], tuple(document["shares"]), (low, high))


@dataclass(frozen=True, slots=True)
class SeasonalCard:
    """What a seasonal network's weights mean: kept beside them, needed to use them.

    Attributes:
        cadence: one slot.
        bands: indices of the bands that it forecasts, counted from 0.
        found: of each of them.
    """

    cadence: timedelta
    bands: tuple[int, ...]
    found: tuple[SeasonalBand, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        found = [band.to_json() for band in self.found]
        return {"cadence": self.cadence.total_seconds(), "bands": list(self.bands), "found": found}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SeasonalCard:
        """The inverse of :meth:`to_json`."""
        found = tuple(SeasonalBand.from_json(band) for band in document["found"])
        return cls(timedelta(seconds=document["cadence"]), tuple(document["bands"]), found)


@dataclass(frozen=True, slots=True)
class SeasonalPredictor:
    """Attention and statistics of each pixel's past, blended; context and forecast in the units of the bands.

    A pixel sees only itself, so tiles need no halo. Where no frame of the context has a value it says nothing.

    Attributes:
        model: of :func:`build_seasonal`.
        card: what its weights mean.
    """

    model: Any
    card: SeasonalCard

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`; quantities mean, q10, q50 and q90."""
        if not context.values.shape[1]:
            msg = "a seasonal forecast needs at least 1 context frame, found 0: ingest older scenes"
            raise NotEnoughFramesError(msg)
        values, lags = observed(context), lags_of(context, horizon, self.card.cadence)
        said = np.stack([self._item(*item) for item in zip(values, lags, strict=True)])
        names = (MEAN, quantile_name(LEVELS[0]), MEDIAN, quantile_name(LEVELS[1]))
        return Forecast(said, *provenance(_of_bands(context, self.card.bands), horizon, Source.NETWORK), names)

    def attention(self, context: Context, horizon: int) -> Array:
        """Weight of each context frame, ``(batch, lead, frame, y, x, band)``; all zero where no frame has a value."""
        values, lags = observed(context), lags_of(context, horizon, self.card.cadence)
        items = [self._weights(*item) for item in zip(values, lags, strict=True)]
        return np.stack(items)

    def _item(self, values: Array, lags: NDArray[np.float64]) -> Array:
        """``(lead, quantity, y, x, band)`` of one init time."""
        shape = values.shape[1:3]
        said = [
            _quantities(self.model, band, values[..., index].reshape(len(values), -1), lags).reshape(
                len(lags), -1, *shape
            )
            for index, band in zip(self.card.bands, self.card.found, strict=True)
        ]
        return np.stack(said, axis=-1)

    def _weights(self, values: Array, lags: NDArray[np.float64]) -> Array:
        return np.stack(
            [
                attended(self.model, series, lags, krige(band.covariance, series, lags)).weights.reshape(
                    len(lags), *values.shape[:3]
                )
                for index, band in zip(self.card.bands, self.card.found, strict=True)
                for series in [values[..., index].reshape(len(values), -1)]
            ],
            axis=-1,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What attention says, ``(lead, pixel)``, and why, ``(lead, frame, pixel)``."""

    values: Array
    weights: Array


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """What each member of the blend says of one band.

    Attributes:
        values: ``(member, lead, pixel)``, in the order asked for; NaN where no frame has a value.
        deviation: ``(lead, pixel)``, kriging's standard error.
    """

    values: Array
    deviation: Array

    def blended(self, shares: Sequence[float]) -> Array:
        """Their combination, ``(lead, pixel)``."""
        return np.einsum("m,mlp->lp", np.asarray(shares, np.float32), self.values)


def members(
    model: Any, band: SeasonalBand, values: Array, lags: NDArray[np.float64], names: Sequence[str] = MEMBERS
) -> Members:
    """What members of the blend say.

    Args:
        model: of :func:`build_seasonal`.
        band: what was found for it; its shares are not looked at.
        values: ``(frame, pixel)``, oldest first, NaN where missing.
        lags: ``(lead, frame)``, days before each valid time.
        names: the members that are wanted, of :data:`MEMBERS`.
    """
    prior = krige(band.covariance, values, lags)
    ways = {
        "persistence": lambda: np.repeat(_newest(values)[np.newaxis], len(lags), axis=0),
        "climatology": lambda: np.stack([usual(values, lag, band.width) for lag in lags]),
        "kriging": lambda: prior.mean,
        "attention": lambda: attended(model, values, lags, prior).values,
    }
    known = np.isfinite(values).any(axis=0)
    said = np.stack([ways[name]() for name in names])
    return Members(np.where(known, said, np.nan).astype(np.float32), prior.deviation)


def attended(model: Any, values: Array, lags: NDArray[np.float64], prior: Estimate) -> Attended:
    """What the network says at each lead, in parts of bounded size; see :func:`members`."""
    said = [_asked(model, values, lag, prior, lead) for lead, lag in enumerate(lags)]
    return Attended(*(np.stack([one[name] for one in said]) for name in ("forecast", "attention")))


def _asked(model: Any, values: Array, lags: NDArray[np.float64], prior: Estimate, lead: int) -> Mapping[str, Array]:
    parts: dict[str, list[Array]] = {"forecast": [], "attention": []}
    for start in range(0, values.shape[1], PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        near = Estimate(prior.mean[lead : lead + 1, part], prior.deviation[lead : lead + 1, part])
        said = model(network_inputs(values[:, part], lags, near), training=False)
        for name, kept in parts.items():
            kept.append(np.asarray(said[name], np.float32)[0])
    return {name: np.concatenate(kept, axis=-1) for name, kept in parts.items()}


def _newest(values: Array) -> Array:
    newest = np.full(values.shape[1], np.nan, np.float32)
    for frame in values:
        newest = np.where(np.isfinite(frame), frame, newest)
    return newest


def _quantities(model: Any, band: SeasonalBand, values: Array, lags: NDArray[np.float64]) -> Array:
    """``(lead, quantity, pixel)``: mean, q10, q50, q90; mean and median are the same field."""
    taken = {name: share for name, share in zip(MEMBERS, band.shares, strict=True) if share}
    said = members(model, band, values, lags, tuple(taken))
    middle = said.blended(tuple(taken.values()))
    low, high = (middle + factor * said.deviation for factor in band.spread)
    return np.stack([middle, low, middle, high], axis=1).astype(np.float32)


def _of_bands(context: Context, bands: tuple[int, ...]) -> Context:
    chosen = list(bands)
    return Context(context.values[..., chosen], context.validity[..., chosen], context.times, context.ages)
