"""Predictors against the truth of a cube: errors by lead and band, pooled over init times, all on the same pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import fill
from pipeline.covariates import Covariates
from pipeline.cube import Cube
from pipeline.metrics import ErrorRow, ErrorSums
from pipeline.predictor import MEAN, MEDIAN, Predictor, quantile_name
from pipeline.samples import Sample, read_context, read_targets
from pipeline.specs import BandSpec, SampleSpec
from pipeline.times import minutes

INTERVAL = quantile_name(0.1), quantile_name(0.9)  # whose coverage is counted


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is scored of one forecast, each by the error that it is meant to make small.

    Attributes:
        mean: ``(lead, y, x, band)``, scored by squared error and bias; NaN where nothing is said.
        median: same shape, scored by absolute error; of a forecast that has none the mean.
        interval: lower and upper end, same shape; None for a forecast without.
    """

    mean: NDArray[np.float32]
    median: NDArray[np.float32]
    interval: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    @classmethod
    def of(cls, values: NDArray[np.float32], quantities: Sequence[str]) -> Self:
        """Of ``values`` ``(lead, quantity, y, x, band)``."""
        given = {name: values[:, index] for index, name in enumerate(quantities)}
        likely = given.get(MEAN, given.get(MEDIAN, values[:, 0]))
        low, high = (given.get(end) for end in INTERVAL)
        return cls(likely, given.get(MEDIAN, likely), None if low is None or high is None else (low, high))

    def sums(self, truth: NDArray[np.float32]) -> ErrorSums:
        """Its errors; truth has the shape of the mean."""
        return ErrorSums.of(
            self.mean, truth, median=None if self.median is self.mean else self.median, interval=self.interval
        )

    def known(self) -> NDArray[np.bool_]:
        """Where everything is said; shape of the mean."""
        known = np.isfinite(self.mean)
        for other in (self.median, *(self.interval or ())):
            if other is not self.mean:
                known &= np.isfinite(other)
        return known


@dataclass(frozen=True, slots=True)
class Scores:
    """Error sums by predictor name.

    Attributes:
        sums: by name, ``(lead, band)`` inside.
        inits: how many init times they pool.
    """

    sums: Mapping[str, ErrorSums]
    inits: int

    def rows(self, bands: Sequence[BandSpec], cadence: timedelta) -> list[ErrorRow]:
        """Mean errors and coverage by lead and band.

        Args:
            bands: the forecast bands.
            cadence: one lead.
        """
        leads = range(len(next(iter(self.sums.values())).count))
        return [
            ErrorRow(
                minutes((lead + 1) * cadence),
                band.name,
                band.units,
                {name: float(sums.mae[lead, index]) for name, sums in self.sums.items()},
                {name: float(sums.rmse[lead, index]) for name, sums in self.sums.items()},
                {
                    name: float(sums.coverage[lead, index])
                    for name, sums in self.sums.items()
                    if sums.covered is not None
                },
            )
            for lead in leads
            for index, band in enumerate(bands)
        ]


def evaluate(  # noqa: PLR0913 - the last two are options, by keyword only
    predictors: Mapping[str, Predictor],
    cube: Cube,
    samples: Iterable[Sample],
    spec: SampleSpec,
    bands: tuple[int, ...],
    *,
    fallback: str | None = None,
    covariates: Covariates | None = None,
) -> Scores:
    """Runs every predictor on every sample and pools the errors.

    A pixel counts if the truth and the newest frame of the context are valid there and every predictor says something.

    Args:
        predictors: by name; each answers for ``bands``.
        cube: where context and truth come from.
        samples: the init times.
        spec: context and horizon.
        bands: the forecast bands, counted from 0.
        fallback: name of the predictor that fills in what another one leaves unknown, as in a
            :class:`~pipeline.baselines.Ladder` of the two, but asked once (a fifth of the time on radar frames).
        covariates: what the predictors are told besides; None: nothing.
    """
    sums: dict[str, ErrorSums] = {}
    inits = 0
    for one in samples:
        context = read_context(cube, one, spec)
        if covariates is not None:
            context = covariates.attach(context, one.init, spec.horizon)
        truth = read_targets(cube, one).values[..., list(bands)]
        said = {name: predictor.predict(context, spec.horizon) for name, predictor in predictors.items()}
        if fallback is not None:
            said = {name: fill(one, said[fallback]) for name, one in said.items()}
        answers = {name: Answer.of(one.values[0], one.quantities) for name, one in said.items()}
        for name, one_sum in errors(answers, truth, context.validity[0, -1][..., list(bands)]).items():
            sums[name] = sums[name] + one_sum if name in sums else one_sum
        inits += 1
    return Scores(sums, inits)


def errors(said: Mapping[str, Answer], truth: NDArray[np.float32], newest: NDArray[np.bool_]) -> dict[str, ErrorSums]:
    """Errors of several forecasts on the pixels that count for all of them.

    Args:
        said: by name.
        truth: ``(lead, y, x, band)``; NaN where missing.
        newest: ``(y, x, band)``, where the newest input is valid.
    """
    met = counted(said, truth, newest)
    return {name: answer.sums(met) for name, answer in said.items()}


def counted(said: Mapping[str, Answer], truth: NDArray[np.float32], newest: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Truth where it counts for all of several forecasts, NaN elsewhere; arguments as of :func:`errors`."""
    common = np.isfinite(truth) & newest
    for answer in said.values():
        common &= answer.known()
    return np.where(common, truth, np.float32(np.nan))
