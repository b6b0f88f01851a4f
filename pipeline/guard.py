"""No lead worse than the baseline: a blend of model and baseline, weighted by what held-out truths showed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.pairs import check_shapes
from pipeline.predictor import MEAN, MEDIAN, Context, Forecast, Predictor, level

GRID = np.linspace(0, 1, 21)
"""Weights of the baseline at which absolute errors are summed."""

HALF_LIFE = 12.0  # init times
THIN = 2.0  # init times: with as many the baseline gets half of the weight that would have been best
SLIGHT = 0.005  # of the least error: the baseline gets no weight for less than that
PIXELS = 200_000  # of a lead and band, evenly strewn: more make no weight any surer, the init times do


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """Model and baseline beside what came true.

    Attributes:
        model: of one init time, in the units of the bands.
        baseline: of the same init time, bands and leads; its ``mean`` is used.
        truth: ``(lead, y, x, band)``, same units; NaN where missing.
    """

    model: Forecast
    baseline: Forecast
    truth: NDArray[np.float32]

    def __post_init__(self) -> None:
        check_shapes(self.model, self.truth)
        check_shapes(self.baseline, self.truth)


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Errors of blends of model and baseline, and the weights of the model that follow from them.

    Attributes:
        count: ``(lead, band)``, pixels known in model, baseline and truth.
        absolute: ``(lead, band, 21)``, sum of absolute errors of the median blended with each weight of :data:`GRID`.
        squared: ``(lead, band)``, sum of squared errors of the mean.
        cross: ``(lead, band)``, sum of (mean - truth) * (baseline - mean).
        square: ``(lead, band)``, sum of (baseline - mean) ** 2.
        inits: ``(lead, band)``, how many init times they come from, aged as the sums are.
    """

    count: NDArray[np.float64]
    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    cross: NDArray[np.float64]
    square: NDArray[np.float64]
    inits: NDArray[np.float64]

    @classmethod
    def of(cls, contest: Contest, *, seed: int = 0) -> Guard:
        """What one init time shows.

        Args:
            contest: the median counts if the model gives one; sums of what it does not give are 0.
            seed: of the sample of pixels.
        """
        leads, _, _, bands = contest.truth.shape
        rng = np.random.default_rng(seed)
        cells = [_sums(contest, lead, band, rng) for lead in range(leads) for band in range(bands)]
        count, absolute, *rest = (np.array(part).reshape(leads, bands, -1) for part in zip(*cells, strict=True))
        known, (squared, cross, square) = count[..., 0], (part[..., 0] for part in rest)
        return cls(known, absolute, squared, cross, square, (known > 0).astype(np.float64))

    def __add__(self, other: Guard) -> Guard:
        return Guard(
            self.count + other.count,
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.cross + other.cross,
            self.square + other.square,
            self.inits + other.inits,
        )

    def aged(self, weight: float) -> Guard:
        """The same evidence at a part of its weight."""
        return Guard(
            weight * self.count,
            weight * self.absolute,
            weight * self.squared,
            weight * self.cross,
            weight * self.square,
            weight * self.inits,
        )

    @property
    def horizon(self) -> int:
        """Number of leads."""
        return len(self.count)

    def weight(self, quantity: str) -> NDArray[np.float64]:
        """Weight of the model in ``mean`` or ``q50``, ``(lead, band)``, 0 to 1.

        Of the weights that make the error of the blend least on the evidence, up to :data:`SLIGHT` (squared for the
        mean, absolute for the median), the one nearest to 1, and pulled towards it: the baseline keeps ``n / (n + 2)``
        of its share after n init times, so one init time earns it a third of what would have been best there, ten five
        sixths.

        Raises:
            ValueError: of another quantity.
        """
        if quantity == MEAN:
            best = self._least_squared()
        elif quantity == MEDIAN:
            enough = self.absolute <= (1 + SLIGHT) * self.absolute.min(axis=-1, keepdims=True)
            best = GRID[enough.argmax(axis=-1)]
        else:
            msg = f"the guard weighs {MEAN} and {MEDIAN}, asked for {quantity}: others follow the median"
            raise ValueError(msg)
        return 1 - np.clip(best, 0, 1) * self.inits / (self.inits + THIN)

    def _least_squared(self) -> NDArray[np.float64]:
        """Least weight of the baseline with which the squared error, a parabola, is nearly least."""
        square = np.where(self.square > 0, self.square, 1)
        lowest = np.clip(-self.cross / square, 0, 1)
        least = self.squared + lowest * (2 * self.cross + lowest * self.square)
        room = self.cross**2 - square * (self.squared - (1 + SLIGHT) * least)
        return np.clip((-self.cross - np.sqrt(np.maximum(room, 0))) / square, 0, 1) * (self.square > 0)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "count": self.count.tolist(),
            "absolute": self.absolute.tolist(),
            "squared": self.squared.tolist(),
            "cross": self.cross.tolist(),
            "square": self.square.tolist(),
            "inits": self.inits.tolist(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Guard:
        """The inverse of :meth:`to_json`."""
        names = ("count", "absolute", "squared", "cross", "square", "inits")
        return cls(*(np.array(document[name], np.float64) for name in names))


@dataclass(frozen=True, slots=True)
class Guarded:
    """A predictor blended with a baseline; where the baseline knows nothing it stands alone.

    Source and age stay the model's. Quantiles move along with the median, so an interval keeps its width.

    Attributes:
        inner: the model.
        baseline: of the same bands.
        guard: how they are weighed.
    """

    inner: Predictor
    baseline: Predictor
    guard: Guard

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`; the model's answer where the baseline lacks frames.

        Raises:
            ModelError: more leads, or other bands, than the guard has seen.
        """
        said = self.inner.predict(context, horizon)
        leads, bands = said.values.shape[1], said.values.shape[-1]
        if leads > self.guard.horizon or bands != self.guard.count.shape[1]:
            seen = "{} leads of {} bands".format(*self.guard.count.shape)
            msg = f"the guard has seen {seen}, the forecast has {leads} of {bands}: fit it again"
            raise ModelError(msg)
        try:
            other = self.baseline.predict(context, horizon)
        except NotEnoughFramesError:
            return said
        return blended(said, other, self.guard)


def blended(model: Forecast, baseline: Forecast, guard: Guard) -> Forecast:
    """Mean and median pulled towards the baseline's mean, quantiles by as much as the median; see :class:`Guarded`."""
    leads, values, point = model.values.shape[1], model.values.copy(), baseline.of(MEAN)
    for quantity in (MEAN, MEDIAN):
        share = (1 - guard.weight(quantity)[:leads]).astype(np.float32)
        followers = [i for i, name in enumerate(model.quantities) if _leader(name) == quantity]
        if quantity not in model.quantities or not share.any():
            continue
        for lead in np.flatnonzero(share.any(axis=-1)):
            step = share[lead] * (point[:, lead] - model.of(quantity)[:, lead])
            values[:, lead, followers] += np.where(np.isfinite(step), step, np.float32(0))[:, np.newaxis]
    return replace(model, values=values)


def fit(contests: Iterable[Contest], *, seed: int = 0) -> Guard:
    """A guard from forecasts and truths that the model has not learned from; all init times weigh alike.

    Raises:
        NotEnoughFramesError: there is none.
    """
    guards = _each(contests, seed)
    guard = next(guards, None)
    if guard is None:
        msg = "a guard needs at least one init time with truth, found none: ingest more scenes or skip the guard"
        raise NotEnoughFramesError(msg)
    for one in guards:
        guard += one
    return guard


def updated(guard: Guard, contests: Iterable[Contest], *, half_life: float = HALF_LIFE, seed: int = 0) -> Guard:
    """The same guard after newer truths, which weigh more: half as much for every ``half_life`` newer init times.

    Args:
        guard: as it was; all its evidence is older than the first new init time.
        contests: oldest first.
        half_life: in init times.
        seed: of the sample of pixels.
    """
    for one in _each(contests, seed):
        guard = guard.aged(0.5 ** (1 / half_life)) + one
    return guard


def _each(contests: Iterable[Contest], seed: int) -> Iterator[Guard]:
    return (Guard.of(contest, seed=seed + number) for number, contest in enumerate(contests))


def _leader(quantity: str) -> str | None:
    """Whose step a quantity takes."""
    return MEDIAN if level(quantity) is not None else MEAN if quantity == MEAN else None


def _sums(
    contest: Contest, lead: int, band: int, rng: np.random.Generator
) -> tuple[float, NDArray[np.float64], float, float, float]:
    """Count, absolute, squared, cross and square of one lead and band, where all are known."""
    names = [name for name in (MEAN, MEDIAN) if name in contest.model.quantities]
    layers = [contest.truth[lead, ..., band], contest.baseline.of(MEAN)[0, lead, ..., band]]
    layers += [contest.model.of(name)[0, lead, ..., band] for name in names]
    known = np.isfinite(sum(layers))
    if (pixels := np.count_nonzero(known)) > PIXELS:
        known &= rng.random(known.shape, np.float32) < PIXELS / pixels
    truth, point, *said = (layer[known].astype(np.float64) for layer in layers)
    values = dict(zip(names, said, strict=True))
    absolute, squared, cross, square = np.zeros(len(GRID)), 0.0, 0.0, 0.0
    if MEDIAN in values:
        error, step = values[MEDIAN] - truth, point - values[MEDIAN]
        absolute = np.array([np.abs(error + share * step).sum() for share in GRID])
    if MEAN in values:
        error, step = values[MEAN] - truth, point - values[MEAN]
        squared, cross, square = (float(one @ other) for one, other in ((error, error), (error, step), (step, step)))
    return float(len(truth)), absolute, squared, cross, square
