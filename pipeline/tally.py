"""What a predictor's forecasts met, init time by init time: the sums that scores and their intervals are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.coverage import Coverage
from pipeline.events import Events, contingency, csi
from pipeline.pairs import Pair, with_interval
from pipeline.predictor import MATCHED, MEAN, MEDIAN, Forecast, level
from pipeline.sums import ratio


@dataclass(frozen=True, slots=True)
class Measures:
    """Which quantity each score takes, declared before anything is scored; where it is not given, the mean.

    Attributes:
        absolute: of the mean absolute error, which a median minimises.
        squared: of the root mean squared error, which a mean minimises.
        events: of the critical success index, for which values must be as frequent as in nature.
    """

    absolute: str = MEDIAN
    squared: str = MEAN
    events: str = MATCHED


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums of one predictor over the pixels whose newest input and truth are valid.

    Attributes:
        slots: ``(init,)``, int64, when each forecast was issued.
        count: ``(init, lead, band)``, pixels.
        absolute: same shape, sum of absolute errors.
        squared: same shape, sum of squared errors.
        events: ``(init, lead, band, threshold, 3)``, hits, false alarms, misses.
        coverage: of the intervals, all init times together; None where there are none.
    """

    slots: NDArray[np.int64]
    count: NDArray[np.int64]
    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    events: NDArray[np.int64]
    coverage: Coverage | None = None

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Self:
        """Tallies of further init times, in the order of these."""
        ordered = sorted(parts, key=lambda one: int(one.slots[0]))
        covered = [one.coverage for one in ordered if one.coverage is not None]
        return cls(
            np.concatenate([one.slots for one in ordered]),
            np.concatenate([one.count for one in ordered]),
            np.concatenate([one.absolute for one in ordered]),
            np.concatenate([one.squared for one in ordered]),
            np.concatenate([one.events for one in ordered]),
            reduce(add, covered) if covered else None,
        )

    @property
    def mae(self) -> NDArray[np.float64]:
        """Mean absolute error over all init times, ``(lead, band)``."""
        return ratio(self.absolute.sum(axis=0), self.count.sum(axis=0))

    @property
    def rmse(self) -> NDArray[np.float64]:
        """Root mean squared error, ``(lead, band)``."""
        return np.sqrt(ratio(self.squared.sum(axis=0), self.count.sum(axis=0)))

    @property
    def csi(self) -> NDArray[np.float64]:
        """Critical success index, ``(lead, band, threshold)``; NaN where an event neither came nor was forecast."""
        return csi(self.events.sum(axis=0))

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        names = [field.name for field in fields(self) if field.name != "coverage"]
        plain = {name: getattr(self, name).tolist() for name in names}
        return plain | {"coverage": None if self.coverage is None else _written(self.coverage)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tally:
        """The inverse of :meth:`to_json`."""
        covered = document["coverage"]
        return cls(
            np.array(document["slots"], np.int64),
            np.array(document["count"], np.int64),
            np.array(document["absolute"], np.float64),
            np.array(document["squared"], np.float64),
            np.array(document["events"], np.int64),
            None if covered is None else _read(covered),
        )


def meet(
    pair: Pair,
    newest: NDArray[np.bool_],
    slot: int,
    events: Sequence[Events],
    *,
    measures: Measures,
    floors: Sequence[float],
) -> Tally:
    """Sums of one forecast.

    Args:
        pair: a forecast of one init time, and its truth.
        newest: ``(y, x, band)``, where the newest input is valid.
        slot: when it was issued.
        events: of each band, as many thresholds in each.
        measures: which quantity each score takes.
        floors: lowest value of each band, -inf where there is none; what a forecast says below counts as the floor.

    Raises:
        ValueError: the forecast leaves a pixel unknown that counts, which would make its task easier than others'.
    """
    lowest = np.asarray(floors, np.float32)
    truth = np.where(newest, np.maximum(pair.truth, lowest), np.nan)
    counts = np.isfinite(truth)
    point = {name: _of(pair.said, name, lowest) for name in {*_names(measures)}}
    for name, values in point.items():
        if not np.isfinite(values[counts]).all():
            missing = int((counts & ~np.isfinite(values)).sum())
            msg = f"a forecast is scored where newest input and truth are valid, {name} is missing at {missing} pixels"
            raise ValueError(msg)
    pixels = (1, 2)
    absolute = np.abs(point[measures.absolute] - truth, dtype=np.float64)
    squared = np.square(point[measures.squared] - truth, dtype=np.float64)
    cells = [_cells(point[measures.events][..., band], truth[..., band], one) for band, one in enumerate(events)]
    return Tally(
        np.array([slot], np.int64),
        counts.sum(pixels)[np.newaxis],
        np.nansum(absolute, axis=pixels)[np.newaxis],
        np.nansum(squared, axis=pixels)[np.newaxis],
        np.stack(cells, axis=1)[np.newaxis],
        _coverage(pair.said, truth, lowest),
    )


def _names(measures: Measures) -> tuple[str, str, str]:
    return measures.absolute, measures.squared, measures.events


def _of(said: Forecast, quantity: str, lowest: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(lead, y, x, band)``; the mean where the quantity is not given."""
    given = quantity if quantity in said.quantities else MEAN
    return np.maximum(said.values[0, :, said.quantities.index(given)], lowest)


def _cells(said: NDArray[np.float32], truth: NDArray[np.float32], events: Events) -> NDArray[np.int64]:
    """``(lead, threshold, 3)`` of one band."""
    forecast, came = events.met(said) & np.isfinite(truth), events.met(truth)
    return np.swapaxes(contingency(forecast, came, (2, 3)), 0, 1)


def _coverage(said: Forecast, truth: NDArray[np.float32], lowest: NDArray[np.float32]) -> Coverage | None:
    if sum(level(name) is not None for name in said.quantities) < 2:
        return None
    return Coverage.of(Pair(said, with_interval(said, truth)), [(float(low), np.inf) for low in lowest])


def _written(coverage: Coverage) -> dict[str, Any]:
    arrays = {field.name: getattr(coverage, field.name).tolist() for field in fields(coverage)[1:]}
    return {"levels": list(coverage.levels)} | arrays


def _read(document: Mapping[str, Any]) -> Coverage:
    arrays = [np.array(document[field.name]) for field in fields(Coverage)[1:]]
    return Coverage(tuple(document["levels"]), *arrays)
