"""Slow optical series by next observed date: errors of the seasonal network, its members, and what attention earns.

Protocol: dates of which more than 5 % is valid; the last 40 % of them are met one by one, each from all dates before;
mean absolute error over the valid pixels of all of them together. What is learned is learned from the first 60 %.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from tests.benchmarks.bench import Bar, Figure, report

Array = NDArray[np.float32]
LEAST_VALID = 0.05
TEST_FRACTION = 0.4
DAY_SECONDS = 86400
FRAMES = 40
REMOVED = 6  # frames whose weights are tested


@dataclass(frozen=True, slots=True)
class Dataset:
    """How one set is read, and its bar."""

    folder: str
    pattern: str
    time_format: str
    scale: float
    nodata: float
    bar: float


SETS = {
    "tura": Dataset("tura_ndvi", "tura_*.tif", "tura_%Y%m%d", 1e-4, -32768, 0.0484),
    "s2": Dataset("s2_slovenia", "s2_*.tif", "s2_%Y%m%dT%H%M%SZ", 1.0, math.nan, 0.0735),
    "sinop": Dataset("sinop_modis_ndvi", "sinop_*.tif", "sinop_%Y%m%d", 1e-4, math.nan, 0.07995),
}


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """``(frame, pixel)`` values, NaN where missing, the days of the frames, and the first one to be met."""

    values: Array
    days: NDArray[np.float64]
    first: int

    @property
    def tests(self) -> range:
        return range(self.first, len(self.days))

    def past(self, at: int) -> tuple[Array, NDArray[np.float64]]:
        """Frames before a date, and their lags, ``(1, frame)``."""
        seen = slice(max(0, at - FRAMES), at)
        return self.values[seen], (self.days[at] - self.days[seen])[np.newaxis]


def read(data: Path, which: Dataset) -> Observations:
    paths = sorted((data / which.folder).glob(which.pattern))
    times = [datetime.strptime(path.stem, which.time_format).replace(tzinfo=UTC).timestamp() for path in paths]
    frames = np.stack([_frame(path, which) for path in paths])
    kept = np.isfinite(frames).mean(axis=1) > LEAST_VALID
    first = math.ceil(round(kept.sum() * (1 - TEST_FRACTION), 9))
    return Observations(frames[kept], np.array(times)[kept] / DAY_SECONDS, first)


def _frame(path: Path, which: Dataset) -> Array:
    with rasterio.open(path) as file:
        raw = file.read(1)
    mask = path.parent / "mask" / f"{path.stem}_clm.tif"
    missing = raw == which.nodata
    if mask.exists():
        with rasterio.open(mask) as file:
            missing |= file.read(1) == 1
    return np.where(missing, np.nan, raw * which.scale).astype(np.float32).ravel()


class Sums:
    """Absolute errors of some fields, added up over dates, where all and the truth are known."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.count = 0

    def add(self, fields: dict[str, Array], truth: Array) -> None:
        known = np.isfinite(truth) & np.all([np.isfinite(field) for field in fields.values()], axis=0)
        self.count += int(known.sum())
        for name, field in fields.items():
            self.errors[name] = self.errors.get(name, 0.0) + float(np.abs(field - truth)[known].sum(dtype=np.float64))

    @property
    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.errors.items()}


def scored(seen: Observations, seed: int) -> dict[str, float]:
    """Errors by member, blend and pieces, the interval's coverage, the frames' faithfulness, and CPU-seconds."""
    from models.seasonal import MEMBERS, members
    from models.seasonfit import SeasonalSettings, Series, fit

    settings = SeasonalSettings(timedelta(days=1), context_frames=FRAMES, seed=seed)
    began = time.process_time()
    part = Series(seen.values[: seen.first, :, np.newaxis], seen.days[: seen.first])
    predictor = fit(part, settings)
    fitted, band = time.process_time() - began, predictor.card.found[0]
    sums, inside = Sums(), 0.0
    for at in seen.tests:
        values, lags = seen.past(at)
        said = members(predictor.model, band, values, lags)
        fields = dict(zip(MEMBERS, said.values[:, 0], strict=True)) | {"seasonal": said.blended(band.shares)[0]}
        sums.add(fields, seen.values[at])
        away = (seen.values[at] - fields["seasonal"]) / said.deviation[0]
        inside += float(((away >= band.spread[0]) & (away <= band.spread[1])).sum())
    spent = time.process_time() - began
    shares = {f"share {name}": share for name, share in zip(MEMBERS, band.shares, strict=True)}
    costs = {"CPU fit": fitted, "CPU score": spent - fitted, "coverage": inside / sums.count}
    return sums.means | shares | costs | _faithful(seen, predictor, seed)


def _faithful(seen: Observations, predictor: Any, seed: int) -> dict[str, float]:
    """Error of attention alone without the frames of most weight, and without as many others."""
    rng = np.random.default_rng(seed)
    choices: dict[str, Callable[[NDArray[np.intp]], NDArray[np.intp]]] = {
        "attention without most": lambda order: order[-REMOVED:],
        "attention without others": lambda order: rng.permutation(order[:-REMOVED])[:REMOVED],
    }
    sums = {name: Sums() for name in choices}
    for at in seen.tests:
        values, lags = seen.past(at)
        if len(values) <= 2 * REMOVED:
            return {}
        order = np.argsort(_attended(predictor, values, lags).weights[0].mean(axis=1))
        for name, choose in choices.items():
            gone = choose(order)
            kept = values.copy()
            kept[gone] = np.nan
            sums[name].add({name: _attended(predictor, kept, lags).values[0]}, seen.values[at])
    return {name: one.means[name] for name, one in sums.items()}


def _attended(predictor: Any, values: Array, lags: NDArray[np.float64]) -> Any:
    from models.seasonal import attended
    from pipeline.kriging import krige

    said = attended(predictor.model, values, lags, krige(predictor.card.found[0].covariance, values, lags))
    known = np.isfinite(values).any(axis=0)
    return replace(said, values=np.where(known, said.values, np.nan))


def figures(name: str, runs: list[dict[str, float]]) -> list[Figure]:
    bars = {"seasonal": Bar(SETS[name].bar)}
    return [Figure(f"{name}: {what}", [run[what] for run in runs], _unit(what), bars.get(what)) for what in runs[0]]


def _unit(what: str) -> str:
    if what.startswith("CPU"):
        return "CPU-s"
    return "share" if what.startswith(("share", "coverage")) else "MAE, NDVI"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    rows: list[Figure] = []
    for name in chosen.sets:
        seen = read(chosen.data, SETS[name])
        rows += figures(name, [scored(seen, seed) for seed in range(chosen.seeds)])
    report("study_slow", rows)


if __name__ == "__main__":
    main()
