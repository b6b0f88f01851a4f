"""Intervals that hold as many truths as they promise: quantiles moved by what held-out truths showed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.conformal import NODES, Misses
from pipeline.errors import ModelError
from pipeline.pairs import ValidRange, bound_levels, limits
from pipeline.predictor import MEDIAN, Context, Forecast, Predictor, quantile_name

CLASSES = 4  # at the floor, narrow, middling, wide

Cell = tuple[int, int, int, int]
"""Lead, band, level and class, counted from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How far each bound moves, by lead, band, level and class, and the counts that it follows from.

    Class 0 are bounds at the floor of their band and intervals without a width, where those are frequent; classes 1 to
    3 are narrow, middling and wide intervals, where there are pixels enough, else all are narrow.

    Attributes:
        levels: of the bounds that move, ascending, without the median.
        valid: lowest and highest possible value of each band, infinite where there is none; the lowest is its floor.
        edges: ``(lead, band, 2)``, widths in the unit of the band between the classes 1, 2 and 3; infinite for none.
        apart: ``(lead, band, level)``, whether class 0 is used.
        misses: counts by lead, band, level and class.
        inits: how many init times they come from, aged as they are.
        move: ``(lead, band, level, class)``, outward, in the unit of the band; follows from ``misses``.
    """

    levels: tuple[float, ...]
    valid: tuple[ValidRange, ...]
    edges: NDArray[np.float64]
    apart: NDArray[np.bool_]
    misses: dict[Cell, Misses]
    inits: float
    move: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        move = np.zeros((*self.apart.shape, CLASSES))
        for cell, misses in self.misses.items():
            level = self.levels[cell[2]]
            move[cell] = misses.move(min(level, 1 - level), upper=level > 0.5)
        object.__setattr__(self, "move", move)

    @property
    def horizon(self) -> int:
        """Number of leads."""
        return len(self.edges)

    @property
    def digest(self) -> str:
        """Hash of everything in it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON form, about 250 kB for 12 leads of one band and an interval."""
        return {
            "levels": list(self.levels),
            "valid": [[_finite(end) for end in ends] for ends in self.valid],
            "edges": [[[_finite(edge) for edge in band] for band in lead] for lead in self.edges.tolist()],
            "apart": self.apart.tolist(),
            "misses": [[list(cell), _written(misses)] for cell, misses in sorted(self.misses.items())],
            "inits": self.inits,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Calibration:
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple(document["levels"]),
            tuple((_end(low, -np.inf), _end(high, np.inf)) for low, high in document["valid"]),
            np.array([[[_end(edge, np.inf) for edge in band] for band in lead] for lead in document["edges"]]),
            np.array(document["apart"], bool),
            {(cell[0], cell[1], cell[2], cell[3]): _read(misses) for cell, misses in document["misses"]},
            document["inits"],
        )

    def classes(self, quantiles: NDArray[np.float32], place: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Class of each pixel.

        Args:
            quantiles: ``(level, ...)``, not yet moved, within the valid range.
            place: lead, band and level, counted from 0.
        """
        lead, band, level = place
        width = quantiles[-1] - quantiles[0]
        narrow, middling = self.edges[lead, band].tolist()
        found = np.uint8(1) + (width >= narrow) + (width >= middling)
        if self.apart[place]:
            found[at_floor(quantiles, level, self.valid[band][0])] = 0
        return found


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A predictor whose quantiles are moved; mean, median and the matched field stay as they are.

    A moved bound stays within the band's valid range and never passes the median or the next bound inward.

    Attributes:
        inner: the predictor, its quantiles as :attr:`calibration` was fitted to them.
        calibration: how far they move.
    """

    inner: Predictor
    calibration: Calibration

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`.

        Raises:
            ModelError: the forecast has other quantiles or bands, or more leads, than the calibration.
        """
        return calibrated(self.inner.predict(context, horizon), self.calibration)


def calibrated(said: Forecast, calibration: Calibration) -> Forecast:
    """A forecast with its quantiles moved; see :class:`Calibrated`.

    Raises:
        ModelError: it has other quantiles or bands, or more leads, than the calibration.
    """
    _check(said, calibration)
    values = said.values.copy()
    for item in range(values.shape[0]):
        for lead in range(values.shape[1]):
            _calibrate(values[item, lead], said.quantities, calibration, lead)
    return replace(said, values=values)


def _calibrate(values: NDArray[np.float32], quantities: tuple[str, ...], calibration: Calibration, lead: int) -> None:
    """Moves the bounds of one lead, ``(quantity, y, x, band)``, in place."""
    levels = calibration.levels
    index = [quantities.index(quantile_name(level)) for level in levels]
    middle = quantities.index(MEDIAN) if MEDIAN in quantities else None
    for band, limit in enumerate(limits(calibration.valid, values.shape[-1])):
        given = np.clip(values[index, ..., band], *limit)
        moved = np.empty_like(given)
        for number, level in enumerate(levels):
            outward = calibration.move[lead, band, number].astype(np.float32)
            step = outward[calibration.classes(given, (lead, band, number))]
            moved[number] = given[number] + step if level > 0.5 else given[number] - step
        median = None if middle is None else values[middle, ..., band]
        values[index, ..., band] = in_order(np.clip(moved, *limit), levels, median)


def _check(said: Forecast, calibration: Calibration) -> None:
    levels, shape = bound_levels(said), (said.values.shape[1], said.values.shape[-1])
    if levels != calibration.levels or shape[0] > calibration.horizon or shape[1] != len(calibration.valid):
        msg = (
            f"a calibration is for the quantiles {calibration.levels}, {calibration.horizon} leads and "
            f"{len(calibration.valid)} bands, found {levels}, {shape[0]} and {shape[1]}: fit it again"
        )
        raise ModelError(msg)


def in_order(
    bounds: NDArray[np.float32], levels: Sequence[float], median: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Bounds that do not pass the median or each other, ``(level, ...)``; those nearer to the median are right.

    Args:
        bounds: ``(level, ...)``.
        levels: ascending, none of them 0.5.
        median: one bound's shape; None: the middle between the two innermost bounds.
    """
    lower = sum(level < 0.5 for level in levels)
    innermost = bounds[[max(lower - 1, 0), min(lower, len(levels) - 1)]]
    middle = innermost.mean(axis=0) if median is None else median
    ordered = np.empty_like(bounds)
    for outward, towards in ((range(lower - 1, -1, -1), np.minimum), (range(lower, len(levels)), np.maximum)):
        limit = middle
        for number in outward:
            limit = towards(bounds[number], limit, out=ordered[number])
    return ordered


def at_floor(quantiles: NDArray[np.float32], level: int, floor: float) -> NDArray[np.bool_]:
    """Where one of the quantiles ``(level, ...)`` is at the floor, or the interval has no width."""
    return (quantiles[level] <= np.float32(floor)) | (quantiles[-1] <= quantiles[0])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _end(value: float | None, missing: float) -> float:
    return missing if value is None else value


def _written(misses: Misses) -> dict[str, Any]:
    return {
        "moves": misses.moves.tolist(),
        "missed": misses.missed.tolist(),
        "floored": misses.floored.tolist(),
        "dry": misses.dry.tolist(),
        "total": misses.total,
    }


def _read(document: dict[str, Any]) -> Misses:
    arrays = (np.array(document[name], np.float64).reshape(NODES) for name in ("moves", "missed", "floored", "dry"))
    return Misses(*arrays, total=document["total"])
