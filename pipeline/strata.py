"""Errors of a scored lead by rung of the ladder and by region: by whose hand, and where on the map, it was wrong.

Which pixels count is the same as for the errors of the whole lead; rungs, and regions that cover the grid once, add
up to them. One file a run, beside that of its cards, which only the columnar store reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline import durable
from pipeline.grid import Window, window_of
from pipeline.predictor import Source

RUNG, REGION = "rung", "region"
QUARTERS: Final = ("north-west", "north-east", "south-west", "south-east")

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Errors:
    """Sums over the pixels of a part that count, as in :class:`pipeline.scorebook.Score`."""

    absolute: float
    squared: float
    covered: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a lead and band.

    Attributes:
        lead_minutes: lead time.
        band: its name.
        kind: :data:`RUNG` or :data:`REGION`.
        name: which one.
        pixels: how many count.
        published: of how many something was said, whether or not it counts.
        age: mean age of the newest input behind the published pixels, minutes; None where none is known.
        held: part of the truths in the interval by randomised PIT; None where there is none, as of every rung but the
            network.
        promised: part that the interval promises to hold.
        errors: by predictor.
    """

    lead_minutes: int
    band: str
    kind: str
    name: str
    pixels: int
    published: int
    age: float | None
    held: float | None
    promised: float | None
    errors: Mapping[str, Errors]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """What a predictor's errors are made from, of one band.

    Attributes:
        absolute: ``(y, x)``, absolute error, 0 where no pixel counts.
        squared: same shape, squared error.
        covered: same shape, whether the interval holds the truth; None without one.
    """

    absolute: NDArray[np.float32]
    squared: NDArray[np.float32]
    covered: NDArray[np.bool_] | None = None

    def sums(self, window: Window, chosen: NDArray[np.bool_] | None = None) -> Errors:
        """Over the pixels of a window, those that are chosen if any choice is made."""
        at = window.slices
        where = True if chosen is None else chosen[at]
        absolute, squared = (float(np.sum(a[at], dtype=np.float64, where=where)) for a in (self.absolute, self.squared))
        covered = None if self.covered is None else int(np.sum(self.covered[at], where=where))
        return Errors(absolute, squared, covered)


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """One lead and band, to be divided.

    Attributes:
        counts: ``(y, x)``, which pixels count.
        source: same shape, which rung made the published pixel.
        age: same shape, of its newest input, minutes; NaN where none is known.
        fields: by predictor.
    """

    counts: NDArray[np.bool_]
    source: NDArray[np.uint8]
    age: NDArray[np.float32]
    fields: Mapping[str, Field]

    def rungs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is known of each rung that made a pixel, best rung first."""
        whole = Window(0, self.counts.shape[0], 0, self.counts.shape[1])
        for number in np.flatnonzero(np.bincount(self.source.ravel(), minlength=len(Source))).tolist():
            if number != Source.NONE:
                yield Source(number).name.lower(), self._facts(whole, self.source == number)

    def regions(self, windows: Mapping[str, Window]) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is known of each region."""
        for name, window in windows.items():
            yield name, self._facts(window, None)

    def _facts(self, window: Window, chosen: NDArray[np.bool_] | None) -> dict[str, Any]:
        at = window.slices
        published = self.source[at] != Source.NONE
        where = published if chosen is None else chosen[at]
        aged = where & np.isfinite(self.age[at])
        known = int(aged.sum())
        return {
            "pixels": int(np.sum(self.counts[at], where=True if chosen is None else where)),
            "published": int(where.sum()),
            "age": round(float(np.sum(self.age[at], dtype=np.float64, where=aged)) / known, 2) if known else None,
            "errors": {name: field.sums(window, chosen) for name, field in self.fields.items()},
        }


def field(
    mean: NDArray[np.float32],
    median: NDArray[np.float32],
    interval: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    truth: NDArray[np.float32],
) -> Field:
    """Errors of what a predictor says, ``(y, x)`` each; ``truth`` is NaN where no pixel counts."""
    counts = np.isfinite(truth)
    apart = np.where(counts, median - truth, np.float32(0))
    wrong = apart if mean is median else np.where(counts, mean - truth, np.float32(0))
    covered = None if interval is None else counts & (interval[0] <= truth) & (truth <= interval[1])
    return Field(np.abs(apart), wrong * wrong, covered)


def windows(regions: Mapping[str, Bounds], grid: GeoBox) -> dict[str, Window]:
    """Regions as windows of a grid, those that lie on it; without any its four quarters."""
    if not regions:
        return quarters(grid.shape)
    found = {name: window_of(bounds, grid) for name, bounds in regions.items()}
    return {name: window for name, window in found.items() if window is not None}


def quarters(shape: Sequence[int]) -> dict[str, Window]:
    """The four quarters of a grid ``(height, width)``, as a map shows them; of a narrow one those that hold a pixel.

    >>> {name: window.shape for name, window in quarters((3, 5)).items()}
    {'north-west': (1, 2), 'north-east': (1, 3), 'south-west': (2, 2), 'south-east': (2, 3)}
    """
    height, width = shape
    rows, columns = ((0, height // 2), (height // 2, height)), ((0, width // 2), (width // 2, width))
    areas = [Window(*y, *x) for y in rows for x in columns]
    return {name: area for name, area in zip(QUARTERS, areas, strict=True) if all(area.shape)}


def page(path: Path) -> Path:
    """File of a run's parts, by the file of its errors."""
    return path.parent / "strata" / path.name


def load(path: Path) -> tuple[Part, ...]:
    """Parts of a run; none where that was scored before cubecast made them.

    Args:
        path: the file of its errors.
    """
    file = page(path)
    if not file.is_file():
        return ()
    return tuple(_part(one) for one in json.loads(file.read_text(encoding="utf-8")))


def save(path: Path, parts: Iterable[Part]) -> None:
    """Replaces the parts of a run, one a line; before its errors, which say that a lead is done."""
    file = page(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_plain(part), separators=(",", ":")) for part in parts)
    durable.replace_text(file, f"[\n{lines}\n]\n")


def _plain(part: Part) -> dict[str, Any]:
    """JSON form; sums by predictor in the order of :class:`Errors`, to nine digits, which halves the file."""
    rounded = {name: [_short(one.absolute), _short(one.squared), one.covered] for name, one in part.errors.items()}
    return asdict(replace(part, errors={})) | {"errors": rounded}


def _short(value: float) -> float:
    return float(f"{value:.9g}")


def _part(document: Mapping[str, Any]) -> Part:
    errors = {name: Errors(*sums) for name, sums in document["errors"].items()}
    return Part(**{**document, "errors": errors})
