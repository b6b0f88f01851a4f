"""Scores of published forecasts as a time series in MLflow: one run named ``production`` a product.

Each scored lead is sent once: its metrics have the init time as their time and its slot as their step. What was sent
is noted in the workspace after it was taken, so an outage of MLflow delays numbers and loses none; what a crash has
sent twice is the same number with the same key, time and step, of which MLflow keeps one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from models.delivery import Number
from pipeline import durable, strata, waiting
from pipeline.scorebook import FORECAST, RunScores, Score, load
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
    """

    run: str = ""
    leads: dict[str, list[int]] = field(default_factory=dict)


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
    def untold(self) -> dict[str, list[int]]:
        """Scored leads (minutes) that MLflow does not know, by name of a run's page, oldest init time first."""
        return self._since(self.told, self._waiting)

    @property
    def told(self) -> Told:
        """What MLflow was told."""
        try:
            document: dict[str, Any] = json.loads(self._mark.read_text(encoding="utf-8"))
            return Told(document["run"], document["leads"]) if document["uri"] == self.uri else Told()
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return Told()

    def note(self, told: Told) -> None:
        """Keeps what MLflow knows."""
        document = {"uri": self.uri, "run": told.run, "leads": told.leads}
        durable.replace_text(self._mark, json.dumps(document) + "\n")

    def send(self, desk: Desk) -> int:
        """Tells what is not known, the oldest first, and notes it; returns how many numbers.

        Whoever calls holds the lock.
        """
        run, told, count = desk.production_run(), self.told, 0
        if run != told.run:
            told = Told(run)
        known = self._waiting
        names = iter(list(self._since(told, known).items())[:AT_ONCE])
        while group := list(islice(names, TOGETHER)):
            numbers = [one for name, leads in group for one in self._numbers(name, leads, known.leads[name][-1])]
            desk.log_metrics(run, numbers)
            for name, leads in group:
                told.leads[name] = sorted({*told.leads.get(name, ()), *leads})
            self.note(told)
            count += len(numbers)
        return count

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    @property
    def _mark(self) -> Path:
        return self._state / "production.json"

    @property
    def _waiting(self) -> Waiting:
        return waiting.load(self._state / "waiting.json")

    def _since(self, told: Told, known: Waiting) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name in sorted(known.leads):
            seen = {*known.open[name], *told.leads.get(name, ())}
            new = [lead for lead in known.leads[name] if lead not in seen]
            if new:
                found[name] = new
        return found

    def _numbers(self, name: str, leads: Sequence[int], last: int) -> Iterator[Number]:
        """Numbers of some leads of a run; with its last lead also the means by rung and region, over all by then."""
        path = self.folder / f"{name}.json"
        run = load(path)
        if run is None:
            return
        values = dict(_by_lead(run, leads))
        if last in leads:
            values |= dict(_by_part(strata.load(path)))
        time, step = int(run.init.timestamp() * 1000), self.axis.slot(run.init)
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
