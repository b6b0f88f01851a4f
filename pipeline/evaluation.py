"""Predictors against the truth of a cube: errors by lead and band, pooled over init times, all on the same pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.config import SampleSpec
from pipeline.cube import Cube
from pipeline.metrics import ErrorSums
from pipeline.predictor import Predictor
from pipeline.samples import Sample, read_context, read_targets


@dataclass(frozen=True, slots=True)
class Scores:
    """Error sums by predictor name.

    Attributes:
        sums: by name, ``(lead, band)`` inside.
        inits: how many init times they pool.
    """

    sums: Mapping[str, ErrorSums]
    inits: int


def evaluate(
    predictors: Mapping[str, Predictor], cube: Cube, samples: Iterable[Sample], spec: SampleSpec, bands: tuple[int, ...]
) -> Scores:
    """Runs every predictor on every sample and pools the errors.

    A pixel counts if the truth and the newest frame of the context are valid there and every predictor says something.

    Args:
        predictors: by name; each answers for ``bands``.
        cube: where context and truth come from.
        samples: the init times.
        spec: context and horizon.
        bands: the forecast bands, counted from 0.
    """
    sums: dict[str, ErrorSums] = {}
    inits = 0
    for one in samples:
        context = read_context(cube, one, spec)
        truth = read_targets(cube, one).values[..., list(bands)]
        said = {name: p.predict(context, spec.horizon).values[0, :, 0] for name, p in predictors.items()}
        common = np.isfinite(truth) & context.validity[0, -1][..., list(bands)]
        for values in said.values():
            common &= np.isfinite(values)
        for name, values in said.items():
            one_sum = ErrorSums.of(values, np.where(common, truth, np.nan))
            sums[name] = sums[name] + one_sum if name in sums else one_sum
        inits += 1
    return Scores(sums, inits)
