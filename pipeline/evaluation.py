"""Predictors against the truth of a cube: errors by lead and band, pooled over init times, all on the same pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.covariates import Covariates
from pipeline.cube import Cube
from pipeline.metrics import ErrorRow, ErrorSums
from pipeline.predictor import Predictor
from pipeline.samples import Sample, read_context, read_targets
from pipeline.specs import BandSpec, SampleSpec
from pipeline.times import minutes


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
        """Mean errors by lead and band.

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
        said = {name: p.predict(context, spec.horizon).values[0, :, 0] for name, p in predictors.items()}
        if fallback is not None:
            said = {name: np.where(np.isnan(values), said[fallback], values) for name, values in said.items()}
        for name, one_sum in errors(said, truth, context.validity[0, -1][..., list(bands)]).items():
            sums[name] = sums[name] + one_sum if name in sums else one_sum
        inits += 1
    return Scores(sums, inits)


def errors(
    said: Mapping[str, NDArray[np.float32]], truth: NDArray[np.float32], newest: NDArray[np.bool_]
) -> dict[str, ErrorSums]:
    """Errors of several forecasts on the pixels that count for all of them.

    Args:
        said: by name, ``(lead, y, x, band)``; NaN where one says nothing.
        truth: same shape; NaN where missing.
        newest: ``(y, x, band)``, where the newest input is valid.
    """
    common = np.isfinite(truth) & newest
    for values in said.values():
        common &= np.isfinite(values)
    met = np.where(common, truth, np.nan)
    return {name: ErrorSums.of(values, met) for name, values in said.items()}
