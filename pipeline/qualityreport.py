"""What the published forecasts of the last month are worth, as numbers: by lead, over time, by rung and by region.

Everything but the latency comes from the columnar store (:mod:`pipeline.scorestore`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import alarms
from pipeline.alarms import Alarm
from pipeline.catalog import PublishedRun, opened
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.errors import StoreError
from pipeline.forecast import outlet
from pipeline.scorebook import FORECAST
from pipeline.scorestore import Store, codes, numbers, times
from pipeline.shelf import shelf_at
from pipeline.specs import ALL, BandSpec
from pipeline.times import from_seconds, parse_time, seconds

LOOKED_AT: Final = timedelta(days=30)  # of init times
MOMENTS: Final = 120  # points of a line over time at most
PUBLISHED: Final = 500  # newest runs whose latency is looked at
REFERENCES: Final = ("persistence", "extrapolation", "climatology", "previous")
COLUMNS: Final = (
    *("run_key", "init", "lead", "band", "predictor", "model", "rung", "region"),
    *("pixels", "mae", "rmse", "held", "promised", "published", "age"),
)

Number = float | None  # None where it is not known


@dataclass(frozen=True, slots=True)
class Row:
    """Errors and skill of some forecasts, every pixel counting alike.

    Attributes:
        band: its name.
        name: what they have in common: a lead, a rung, a region or a time.
        runs: how many are pooled.
        mae: mean absolute error, in the unit of the band.
        rmse: root mean squared error.
        skill: 1 - error / reference's error, by reference, over the runs that both have.
        held: part of the truths in the interval by randomised PIT, mean over runs.
        promised: part that it is to be.
    """

    band: str
    name: str
    runs: int
    mae: Number
    rmse: Number
    skill: Mapping[str, Number]
    held: Number
    promised: Number


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a line over time.

    Attributes:
        init: middle of the init times that are pooled.
        row: of them, over all leads.
    """

    init: datetime
    row: Row


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the far end of something that is waited for, in minutes, over ``runs``; None: not known."""

    p50: Number
    p95: Number
    runs: int

    @classmethod
    def of(cls, minutes: Sequence[float]) -> Spread:
        """Of values in minutes."""
        if not minutes:
            return cls(None, None, 0)
        p50, p95 = (round(float(value), 2) for value in np.quantile(minutes, [0.5, 0.95]))
        return cls(p50, p95, len(minutes))


@dataclass(frozen=True, slots=True)
class Latency:
    """How long forecasts take to be there.

    Attributes:
        acquisition: from the acquisition of the newest scene that a run saw to its publication.
        availability: from when that scene could first be used.
        late: how many of the runs that were looked at came later than their last lead: hindcasts, which count in
            neither.
    """

    acquisition: Spread
    availability: Spread
    late: int


@dataclass(frozen=True, slots=True)
class Reign:
    """From when on a model forecast."""

    init: datetime
    model: str


@dataclass(frozen=True, slots=True)
class Quality:
    """All of it.

    Attributes:
        product: name of the product.
        title: for people.
        made: when this was looked up.
        first: oldest init time that is looked at; None: no run has a score.
        last: newest one.
        runs: with a score.
        units: by band.
        leads: a row a band and lead, whose name is its minutes.
        moments: over time, by band.
        rungs: a row a band and rung.
        regions: a row a band and region.
        shares: part of the published pixels that each rung made, by lead (minutes).
        ages: of the inputs behind the published pixels, mean of each run.
        latency: from scene to publication.
        alarms: that stand.
        history: everything that was raised and cleared.
        models: changes of the model, oldest first.
    """

    product: str
    title: str
    made: datetime
    first: datetime | None
    last: datetime | None
    runs: int
    units: Mapping[str, str]
    leads: tuple[Row, ...]
    moments: tuple[Moment, ...]
    rungs: tuple[Row, ...]
    regions: tuple[Row, ...]
    shares: Mapping[int, Mapping[str, float]]
    ages: Spread
    latency: Latency
    alarms: tuple[Alarm, ...]
    history: tuple[Alarm, ...]
    models: tuple[Reign, ...]


def quality(settings: Settings, now: datetime | None = None) -> Quality:
    """What is known by now; nothing is scored.

    Raises:
        PublishError: a manifest cannot be read.
    """
    table = _Table.read(Store(settings.paths.verification, settings.product.name))
    bands = outlet(settings).bands
    whole, rungs, regions = table.whole, table.of("rung"), table.of("region")
    said = alarms.history(settings.paths.alarms)
    inits = whole.init
    return Quality(
        product=settings.product.name,
        title=settings.product.title or settings.product.name,
        made=now or datetime.now(UTC),
        first=from_seconds(int(inits.min())) if len(inits) else None,
        last=from_seconds(int(inits.max())) if len(inits) else None,
        runs=len(np.unique(whole.run)),
        units={band.name: band.units for band in bands},
        leads=tuple(_rows(whole, whole.lead, bands)),
        moments=tuple(_moments(whole, bands, settings.axis.cadence)),
        rungs=tuple(_named(rungs, rungs.rung, table.rungs, bands)),
        regions=tuple(_named(regions, regions.region, table.regions, bands)),
        shares=_shares(rungs, table.rungs),
        ages=Spread.of(_ages(rungs)),
        latency=_latency(settings),
        alarms=tuple(alarms.standing(said)),
        history=tuple(said),
        models=tuple(_reigns(whole, table.models)),
    )


# --- columns --------------------------------------------------------------------------------------

_NUMBERED: Final = ("run", "init", "lead", "band", "predictor", "model", "rung", "region")


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Rows of the store, ``(row,)`` each; texts by number."""

    run: NDArray[np.int64]
    init: NDArray[np.int64]
    lead: NDArray[np.int64]
    band: NDArray[np.int64]
    predictor: NDArray[np.int64]
    model: NDArray[np.int64]
    rung: NDArray[np.int64]
    region: NDArray[np.int64]
    numbers: Mapping[str, NDArray[np.float64]]
    bands: Sequence[str]
    predictors: Sequence[str]

    def where(self, chosen: NDArray[np.bool_]) -> _Columns:
        """Some rows."""
        arrays = {name: getattr(self, name)[chosen] for name in _NUMBERED}
        return replace(self, numbers={name: values[chosen] for name, values in self.numbers.items()}, **arrays)

    def by(self, name: str) -> NDArray[np.bool_]:
        """Rows of a predictor."""
        number = self.predictors.index(name) if name in self.predictors else -1
        return self.predictor == number

    @property
    def cell(self) -> NDArray[np.int64]:
        """A number for each run, lead, band, rung and region: predictors that share it met the same pixels."""
        parts = (self.run, self.lead, self.band, self.rung, self.region)
        return np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """All rows that are looked at, and their texts."""

    rows: _Columns
    models: Sequence[str]
    rungs: Sequence[str]
    regions: Sequence[str]

    @classmethod
    def read(cls, store: Store) -> _Table:
        """The last :data:`LOOKED_AT`."""
        since = datetime.fromisoformat(f"{store.days[-1]}T00:00+00:00") - LOOKED_AT if store.days else None
        table = store.read(COLUMNS, since=since)
        names = ("run_key", "band", "predictor", "model", "rung", "region")
        found: dict[str, Any] = {name: codes(table, name) for name in names}
        run, band, predictor, model, rung, region = (found[name][0] for name in names)
        init, lead = times(table, "init"), numbers(table, "lead").astype(np.int64)
        values = {name: numbers(table, name) for name in ("pixels", "mae", "rmse", "held", "promised")}
        values |= {name: numbers(table, name) for name in ("published", "age")}
        bands, predictors = found["band"][1], found["predictor"][1]
        rows = _Columns(run, init, lead, band, predictor, model, rung, region, values, bands, predictors)
        return cls(rows, *(found[name][1] for name in ("model", "rung", "region")))

    @property
    def whole(self) -> _Columns:
        """Rows over all pixels."""
        return self.rows.where(self._is_all("rung") & self._is_all("region"))

    def of(self, kind: str) -> _Columns:
        """Rows of rungs or of regions."""
        return self.rows.where(~self._is_all(kind))

    def _is_all(self, kind: str) -> NDArray[np.bool_]:
        texts, number = (self.rungs, self.rows.rung) if kind == "rung" else (self.regions, self.rows.region)
        return number == (texts.index(ALL) if ALL in texts else -1)


# --- pooling --------------------------------------------------------------------------------------


def _rows(rows: _Columns, group: NDArray[np.int64], bands: Iterable[BandSpec]) -> Iterator[Row]:
    """A row a forecast band and group, in the order of the groups' numbers, which are their names."""
    for band in bands:
        number = rows.bands.index(band.name) if band.name in rows.bands else -1
        for one in np.unique(group[rows.band == number]).tolist():
            yield _row(rows.where((rows.band == number) & (group == one)), band.name, str(one))


def _named(rows: _Columns, group: NDArray[np.int64], names: Sequence[str], bands: Iterable[BandSpec]) -> Iterator[Row]:
    """As :func:`_rows`, by names."""
    for row in _rows(rows, group, bands):
        yield replace(row, name=names[int(row.name)])


def _row(rows: _Columns, band: str, name: str) -> Row:
    own = rows.where(rows.by(FORECAST))
    pixels, mae, rmse = (own.numbers[part] for part in ("pixels", "mae", "rmse"))
    held, promised = (own.numbers[part] for part in ("held", "promised"))
    counts = pixels > 0
    skill = {other: found for other in REFERENCES if (found := _skill(rows, other)) is not None}
    square = _mean(rmse[counts] ** 2, pixels[counts])
    return Row(
        band,
        name,
        len(np.unique(own.run[counts])),
        _mean(mae[counts], pixels[counts]),
        None if square is None else square**0.5,
        skill,
        _mean(held, np.ones(len(held))),
        _mean(promised, np.ones(len(held))),
    )


def _skill(rows: _Columns, reference: str) -> Number:
    """Over the runs that have both, on the same pixels."""
    chosen = rows.by(FORECAST) | rows.by(reference)
    if not rows.by(reference).any():
        return None
    both = rows.where(chosen)
    cell, own = both.cell, both.by(FORECAST)
    error = np.nan_to_num(both.numbers["mae"]) * both.numbers["pixels"]
    sums = [np.bincount(cell[one], error[one], int(cell.max()) + 1) for one in (own, ~own)]
    seen = [np.bincount(cell[one], minlength=int(cell.max()) + 1) > 0 for one in (own, ~own)]
    ours, theirs = (float(part[seen[0] & seen[1]].sum()) for part in sums)
    return 1 - ours / theirs if theirs > 0 else None


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Number:
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None


def _moments(rows: _Columns, bands: Sequence[BandSpec], cadence: timedelta) -> Iterator[Moment]:
    """Init times that lie together, over all leads."""
    if not len(rows.init):
        return
    first, step = int(rows.init.min()), int(cadence.total_seconds())
    width = max(1, -(-(int(rows.init.max()) - first + step) // (MOMENTS * step))) * step
    for row in _rows(rows, (rows.init - first) // width, bands):
        start = first + int(row.name) * width
        yield Moment(from_seconds(start + (width - step) // 2), row)


def _shares(rungs: _Columns, names: Sequence[str]) -> dict[int, dict[str, float]]:
    """Of the published pixels, by lead; bands share their pixels' rungs, so one of them tells."""
    own = rungs.where(rungs.by(FORECAST))
    found: dict[int, dict[str, float]] = {}
    for lead in np.unique(own.lead).tolist():
        at = own.lead == lead
        counts = np.bincount(own.rung[at], own.numbers["published"][at], len(names))
        shares = {names[rung]: float(counts[rung] / counts.sum()) for rung in np.flatnonzero(counts).tolist()}
        found[lead] = dict(sorted(shares.items(), key=lambda one: -one[1]))
    return found


def _ages(rungs: _Columns) -> list[float]:
    """Mean age of the inputs of each run at its first lead, minutes."""
    own = rungs.where(rungs.by(FORECAST) & np.isfinite(rungs.numbers["age"]))
    if not len(own.run):
        return []
    own = own.where(own.lead == own.lead.min())
    sums = np.bincount(own.run, own.numbers["age"] * own.numbers["published"])
    counts = np.bincount(own.run, own.numbers["published"])
    return (sums[counts > 0] / counts[counts > 0]).tolist()


def _reigns(rows: _Columns, names: Sequence[str]) -> Iterator[Reign]:
    """When the model was another one than for the init time before."""
    order = np.argsort(rows.init, kind="stable")
    last = -1
    for init, model in zip(rows.init[order].tolist(), rows.model[order].tolist(), strict=True):
        if model != last:
            last = model
            yield Reign(from_seconds(init), str(names[model]))


# --- latency --------------------------------------------------------------------------------------


def _latency(settings: Settings) -> Latency:
    """Of the newest runs."""
    found = list(_newest(settings))
    known = _available(settings, {scene for run in found for scene in run.scenes})
    waits = [(run, _since_acquisition(run), _since_availability(run, known)) for run in found]
    acquired, available = (
        [wait for run, *both in waits if (wait := both[part]) is not None and _counts(run, wait)] for part in (0, 1)
    )
    late = sum(1 for run, wait, _ in waits if wait is not None and not _counts(run, wait))
    return Latency(Spread.of(acquired), Spread.of(available), late)


def _newest(settings: Settings) -> Iterator[PublishedRun]:
    shelf = shelf_at(outlet(settings).place, settings.product.name)
    left = PUBLISHED
    for day in reversed(shelf.days()):
        shown = [entry for entry in shelf.entries(day) if entry.published][-left:]
        left -= len(shown)
        yield from opened(shelf, shown)
        if not left:
            return


def _counts(run: PublishedRun, wait: float) -> bool:
    return 0 <= wait <= max(run.leads)


def _since_acquisition(run: PublishedRun) -> Number:
    """Minutes; a scene's id begins with when it was acquired."""
    acquired = [parse_time(scene.rpartition("-")[0]) for scene in run.scenes]
    return (run.created - max(acquired)) / timedelta(minutes=1) if acquired else None


def _since_availability(run: PublishedRun, known: Mapping[str, datetime]) -> Number:
    """Minutes, since all of them were there."""
    times_known = [known[scene] for scene in run.scenes if scene in known]
    return (run.created - max(times_known)) / timedelta(minutes=1) if times_known else None


def _available(settings: Settings, scenes: set[str]) -> dict[str, datetime]:
    """When scenes could first be used, by id, as the cube has it; nothing where there is none."""
    try:
        table = open_cube(store_of(settings)).table
    except StoreError:
        return {}
    wanted = {seconds(parse_time(scene.rpartition("-")[0])) for scene in scenes}
    found = np.flatnonzero(np.isin(table.columns["acquired"], list(wanted)))
    rows = [table.row(index).scene for index in found.tolist()]
    return {scene.id: scene.available_at for scene in rows if scene.id in scenes}
