"""Scores of published forecasts as a time series in MLflow: one run named ``production`` a product.

Each scored lead is sent once: its metrics have the init time as their time and its slot as their step. What was sent
is noted in the workspace after it was taken, so an outage of MLflow delays numbers and loses none, whether or not the
runs are still published; what a crash has sent twice is the same number with the same key, time and step, of which
MLflow keeps one.

The note names leads of runs whose truth is yet to come. Of all others it says up to when their pages were written that
are told, so it does not grow with the pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from models.delivery import Number
from pipeline import durable, strata, waiting
from pipeline.scorebook import FORECAST, RunScores, Score, load
from pipeline.scorestore import names
from pipeline.strata import Part
from pipeline.times import TimeAxis
from pipeline.waiting import Waiting

AT_ONCE: Final = 500  # runs told in one go; what is older than that goes the next times
TOGETHER: Final = 20  # runs that are noted as told together
REFERENCES: Final = ("persistence", "extrapolation")


class Desk(Protocol):
    """Where the numbers go; each call may break off before or after it took effect."""

    def production_run(self) -> str:
        """Id of the product's run ``production``, which is made where there is none."""
        ...

    def log_metrics(self, run: str, metrics: Sequence[Number]) -> None:
        """Numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What MLflow knows.

    Attributes:
        run: id of its run; empty: none yet.
        leads: minutes ahead, by name of a run's page.
        upto: pages of runs that wait for no truth are told if they were written by then; nanoseconds, as the file
            system counts.
    """

    run: str = ""
    leads: dict[str, list[int]] = field(default_factory=dict)
    upto: int = 0


@dataclass(frozen=True, slots=True)
class _News:
    """Scores of a run that MLflow does not know: of some leads (minutes), whether the last of all is among them."""

    path: Path
    run: RunScores
    leads: list[int]
    last: bool


@dataclass(frozen=True, slots=True)
class Production:
    """The scores of one product, and how much of them MLflow knows.

    Attributes:
        folder: of the pages of scores.
        axis: of the cube, which counts the steps.
        uri: of MLflow; another one knows nothing yet.
    """

    folder: Path
    axis: TimeAxis
    uri: str

    @property
    def lock(self) -> Path:
        """Held by who tells."""
        return self._state / ".production.lock"

    @property
    def untold(self) -> list[str]:
        """Names of the pages that have scores, or may have, that MLflow does not know, oldest init time first."""
        return self._untold(self.told, self._waiting)

    @property
    def told(self) -> Told:
        """What MLflow was told."""
        try:
            document: dict[str, Any] = json.loads(self._mark.read_text(encoding="utf-8"))
            told = Told(document["run"], document["leads"], document.get("upto", 0))
            return told if document["uri"] == self.uri else Told()
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return Told()

    def note(self, told: Told) -> None:
        """Keeps what MLflow knows."""
        document = {"uri": self.uri, "run": told.run, "leads": told.leads, "upto": told.upto}
        durable.replace_text(self._mark, json.dumps(document) + "\n")

    def send(self, desk: Desk) -> int:
        """Tells what is not known, the oldest first, and notes it; returns how many numbers.

        Whoever calls holds the lock.
        """
        run, told, count = desk.production_run(), self.told, 0
        if run != told.run:
            told = Told(run)
        upto, known = self._looked_at, self._waiting
        news = self._news(told, known)
        first = islice(news, AT_ONCE)
        while group := list(islice(first, TOGETHER)):
            numbers = [number for one in group for number in self._numbers(one)]
            desk.log_metrics(run, numbers)
            for one in group:
                told.leads[one.path.stem] = sorted({*told.leads.get(one.path.stem, ()), *one.leads})
            self.note(told)
            count += len(numbers)
        if next(news, None) is None:
            self.note(Told(run, {name: leads for name, leads in told.leads.items() if known.open.get(name)}, upto))
        return count

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    @property
    def _mark(self) -> Path:
        return self._state / "production.json"

    @property
    def _index(self) -> Path:
        return self._state / "waiting.json"

    @property
    def _waiting(self) -> Waiting:
        return waiting.load(self._index)

    @property
    def _looked_at(self) -> int:
        """When the last verification that scored was done with its pages: a running one writes pages after it."""
        return self._index.stat().st_mtime_ns if self._index.is_file() else 0

    def _untold(self, told: Told, known: Waiting) -> list[str]:
        return [name for name in sorted(names(self.folder)) if self._is_untold(name, told, known)]

    def _is_untold(self, name: str, told: Told, known: Waiting) -> bool:
        if name in known.leads and {*known.leads[name]} <= {*known.open[name], *told.leads.get(name, ())}:
            return False
        if known.open.get(name):
            return True
        with suppress(FileNotFoundError):
            return self._page(name).stat().st_mtime_ns > told.upto
        return False

    def _news(self, told: Told, known: Waiting) -> Iterator[_News]:
        """What MLflow does not know; a run that is published no more has had its last lead."""
        for name in self._untold(told, known):
            path = self._page(name)
            if (run := load(path)) is None or not (scored := run.scored_leads()):
                continue
            leads = sorted(scored - {*told.leads.get(name, ())})
            if leads:
                yield _News(path, run, leads, max(known.leads.get(name, scored)) in leads)

    def _page(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _numbers(self, one: _News) -> Iterator[Number]:
        """Numbers of some leads of a run; with its last lead also the means by rung and region, over all by then."""
        values = dict(_by_lead(one.run, one.leads))
        if one.last:
            values |= dict(_by_part(strata.load(one.path)))
        time, step = int(one.run.init.timestamp() * 1000), self.axis.slot(one.run.init)
        yield from (Number(key, value, time, step) for key, value in values.items())


def _by_lead(run: RunScores, leads: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Metrics of each lead and band, those that are known."""
    cells: dict[tuple[int, str], dict[str, Score]] = {}
    for one in run.scores:
        if one.lead_minutes in leads and one.pixels:
            cells.setdefault((one.lead_minutes, one.band), {})[one.predictor] = one
    for (lead, band), found in cells.items():
        place, own = f"{band}/{lead:04d}min", found.get(FORECAST)
        if own is None:
            continue
        yield f"mae/{place}", own.absolute / own.pixels
        for name in REFERENCES:
            if name in found and found[name].absolute > 0:
                yield f"skill_{name}/{place}", 1 - own.absolute / found[name].absolute
        if own.held is not None:
            yield f"coverage/{place}", own.held


def _by_part(parts: Sequence[Part]) -> Iterator[tuple[str, float]]:
    """Error and skill of each rung and region, over all leads, every pixel counting alike."""
    grouped: dict[str, list[Part]] = {}
    for one in parts:
        if one.pixels and FORECAST in one.errors:
            grouped.setdefault(f"{one.band}/{one.kind}/{one.name}", []).append(one)
    for place, found in grouped.items():
        ours = sum(one.errors[FORECAST].absolute for one in found)
        yield f"mae/{place}", ours / sum(one.pixels for one in found)
        for name in REFERENCES:
            theirs = sum(one.errors[name].absolute for one in found if name in one.errors)
            if theirs > 0:
                yield f"skill_{name}/{place}", 1 - ours / theirs
