"""Scores as columns, for analysts and for whatever looks at many runs: a Parquet file a day of init times.

A row is one predictor at one lead and band of one run: over all pixels that count (``rung`` and ``region`` say
``all``), over those of one rung of the ladder, or over those of one region. The pages of the runs are what counts: a
day that is older than one of its pages is made anew from them and takes the place of the old file in one step, so it
can be deleted at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import groupby
from math import nan, sqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import durable, strata
from pipeline.scorebook import FORECAST, RunScores, Score, load, page
from pipeline.specs import ALL
from pipeline.strata import RUNG, Part

FOLDER: Final = "parquet"
DAY: Final = len("20200401")  # characters of a page's name

_TIME, _TEXT = pa.timestamp("s", tz="UTC"), pa.dictionary(pa.int32(), pa.string())

SCHEMA: Final = pa.schema(
    [
        ("product", _TEXT),
        ("run_key", _TEXT),
        ("init", _TIME),
        ("valid", _TIME),
        ("lead", pa.int32()),  # minutes
        ("band", _TEXT),
        ("predictor", _TEXT),
        ("model", _TEXT),  # of the run, whatever the predictor
        ("rung", _TEXT),
        ("region", _TEXT),
        ("pixels", pa.int64()),  # that count
        ("mae", pa.float64()),  # in the unit of the band; null where no pixel counts
        ("rmse", pa.float64()),
        ("covered", pa.float64()),  # part of the truths between q10 and q90, ends included
        ("promised", pa.float64()),
        ("held", pa.float64()),  # by randomised PIT
        ("published", pa.int64()),  # pixels with a forecast, of rungs and regions
        ("age", pa.float64()),  # minutes, of the newest input, of rungs and regions
        ("yielded", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Store:
    """The columnar scores of one product.

    Attributes:
        folder: where its pages lie.
        product: its name.
    """

    folder: Path
    product: str

    @property
    def days(self) -> list[str]:
        """Days of init times that have a file, like ``2020-04-01``, oldest first."""
        return sorted(path.stem for path in (self.folder / FOLDER).glob("????-??-??.parquet"))

    def path(self, day: str) -> Path:
        """File of a day."""
        return self.folder / FOLDER / f"{day}.parquet"

    def refresh(self) -> list[str]:
        """Makes the days anew that are older than one of their pages, removes those without; returns what changed.

        Whoever calls keeps other writers out.
        """
        pages = {day: list(found) for day, found in groupby(_pages(self.folder), key=lambda one: day_of(one.name))}
        changed = [day for day, found in pages.items() if self._is_old(day, found)]
        for day in changed:
            self._write(day, [Path(one.path) for one in pages[day]])
        gone = [day for day in self.days if day not in pages]
        for day in gone:
            self.path(day).unlink(missing_ok=True)
        return [*changed, *gone]

    def read(
        self, columns: Sequence[str], *, since: datetime | None = None, only: str = "", **wanted: Sequence[str]
    ) -> pa.Table:
        """Some columns of all days, oldest init time first.

        Args:
            columns: their names.
            since: init times from then on.
            only: the day that is read, like ``2020-04-01``; empty: every one.
            wanted: by column, which values are asked for: ``rung=["all"]``.
        """
        first, days = "" if since is None else f"{since.date()}", [only] if only else self.days
        tables = [self._day_table(day, columns, since, wanted) for day in days if day >= first]
        return pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(name) for name in columns]).empty_table()

    def _day_table(
        self, day: str, columns: Sequence[str], since: datetime | None, wanted: Mapping[str, Sequence[str]]
    ) -> pa.Table:
        conditions: list[Any] = [(name, "in", list(values)) for name, values in wanted.items()]
        if since is not None:
            conditions.append(("init", ">=", since))
        table = pq.read_table(self.path(day), columns=list(columns), filters=conditions or None)
        return table.unify_dictionaries()

    def _is_old(self, day: str, pages: Sequence[os.DirEntry[str]]) -> bool:
        try:
            made = self.path(day).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        return any(one.stat().st_mtime_ns >= made for one in pages)

    def _write(self, day: str, pages: Sequence[Path]) -> None:
        content = BytesIO()
        pq.write_table(self._table(pages), content, compression="zstd")
        durable.make_folders(self.folder / FOLDER)
        durable.replace_bytes(self.path(day), content.getvalue())

    def _table(self, pages: Sequence[Path]) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for path in pages:
            run = load(path)
            if run is not None:
                for row in _rows(self.product, run, strata.load(path)):
                    for name, value in zip(columns, row, strict=True):
                        columns[name].append(value)
        return pa.table([pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()], schema=SCHEMA)


def names(folder: Path) -> frozenset[str]:
    """Names of all pages, as :class:`pipeline.waiting.Waiting` calls runs."""
    return frozenset(one.name.removesuffix(".json") for one in _pages(folder))


def page_name(run_key: str, init: datetime) -> str:
    """Name of a run's page."""
    return page(Path(), run_key, init).stem


def codes(table: pa.Table, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """A column of texts: for each row the index of its text, ``(row,)``, and the texts."""
    encoded = table.column(column).unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def times(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of times, ``(row,)``, seconds since 1970-01-01 UTC."""
    return table.column(column).cast(_TIME).cast(pa.int64()).to_numpy()  # Parquet counts milliseconds


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A column of numbers, ``(row,)``; NaN where one is not known."""
    return table.column(column).cast(pa.float64()).to_numpy()


def _pages(folder: Path) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        return sorted((one for one in found if one.name[:1].isdigit() and one.name.endswith(".json")), key=_name)
    return []


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def day_of(name: str) -> str:
    """Day of init times by the name of a page.

    >>> day_of("20200401T1310Z-0123456789ab.json")
    '2020-04-01'
    """
    return f"{datetime.strptime(name[:DAY], '%Y%m%d').replace(tzinfo=UTC).date()}"


def _rows(product: str, run: RunScores, parts: Iterable[Part]) -> Iterator[tuple[Any, ...]]:
    """What a run's page and its parts say, in the order of :data:`SCHEMA`."""
    given = {(one.lead_minutes, one.band) for one in run.scores if one.yielded}
    scored = run.scored_leads()

    def row(lead: int, band: str, predictor: str, place: tuple[str, str], facts: tuple[Any, ...]) -> tuple[Any, ...]:
        valid = run.init + timedelta(minutes=lead)
        whose = (product, run.run_key, run.init, valid, lead, band, predictor, run.model, *place)
        return (*whose, *facts, predictor == FORECAST and (lead, band) in given)

    for one in run.scores:
        yield row(one.lead_minutes, one.band, one.predictor, (ALL, ALL), _facts(one))
    for part in parts:
        if part.lead_minutes not in scored:  # of a verification that died before it wrote the errors
            continue
        place = (part.name, ALL) if part.kind == RUNG else (ALL, part.name)
        for predictor in part.errors:
            yield row(part.lead_minutes, part.band, predictor, place, _part_facts(part, predictor))


def _facts(one: Score) -> tuple[Any, ...]:
    mean = _means(one.pixels, one.absolute, one.squared, one.covered)
    return (one.pixels, *mean, one.promised, one.held, None, None)


def _part_facts(part: Part, predictor: str) -> tuple[Any, ...]:
    errors, own = part.errors[predictor], predictor == FORECAST
    mean = _means(part.pixels, errors.absolute, errors.squared, errors.covered)
    kept = (part.promised, part.held) if own else (None, None)
    return (part.pixels, *mean, *kept, part.published, part.age)


def _means(pixels: int, absolute: float, squared: float, covered: int | None) -> tuple[float | None, ...]:
    if not pixels:
        return None, None, None
    return absolute / pixels, sqrt(squared / pixels), None if covered is None else covered / pixels


def mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted mean of those that are known; NaN where none is."""
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else nan
