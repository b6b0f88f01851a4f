"""Arrived truth against published forecasts: each lead of each run scored once, beside the baselines it must beat.

What is open of each run is kept (:mod:`pipeline.waiting`), so a verification opens the runs that are due and those
shortly before them, reads the pages of the newest :data:`NEWEST` runs for its table, and knows all others by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import alarms, aside, durable, strata, waiting
from pipeline.alarms import Alarm
from pipeline.catalog import PublishedRun, manifest, opened
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.errors import StoreAwayError, StoreError
from pipeline.forecast import outlet
from pipeline.metrics import ErrorRow
from pipeline.predictor import Predictor
from pipeline.scorebook import RunScores, Score, load, load_cards, page, save, save_cards
from pipeline.scorestore import Store, names, page_name
from pipeline.scoretable import ScoreRow, score_rows
from pipeline.scoring import MINUTE, Case, predecessors, score
from pipeline.shelf import Entry, Shelf, shelf_at
from pipeline.specs import BandSpec
from pipeline.waiting import Waiting

NEWEST = 500  # runs of twelve leads make a table of scores in 6 CPU-s


@dataclass(frozen=True, slots=True)
class Rival:
    """Another model that is scored on what a model's runs saw, as ``previous``: a fresh champion's predecessor.

    Attributes:
        model: whose runs, by name and version.
        predictor: answers for the forecast bands; where it says nothing extrapolation stands, as in a published run, so
            that it changes no pixel that the others are scored on.
        name: its own name and version.
    """

    model: str
    predictor: Predictor
    name: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification did.

    Attributes:
        scored: leads of runs scored now.
        runs: the newest :data:`NEWEST` runs with at least one score, oldest first.
        bands: the forecast bands.
        lost: keys of runs whose truth has come but whose snapshot of the cube cannot be opened any more (the cube was
            made again, or the snapshot expired): what they saw is gone, they keep the scores that they have.
        count: how many runs have a score.
        alarms: those that were raised or cleared now.
    """

    scored: int
    runs: tuple[RunScores, ...]
    bands: tuple[BandSpec, ...]
    lost: tuple[str, ...] = ()
    count: int = 0
    alarms: tuple[Alarm, ...] = ()

    def table(self) -> list[ErrorRow]:
        """Errors by lead and band, pooled over :attr:`runs`."""
        return tabulate(self.runs, self.bands)


def verify(
    settings: Settings, *, rival: Rival | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Scores every published lead whose truth is in the cube and that has no score yet.

    Args:
        settings: of the product.
        rival: scored beside a model's runs; leads that were scored before do not get it.
        progress: told (done, total) runs.

    Raises:
        StoreError: there is no cube, or what it holds is damaged.
    """
    cube, folder = open_cube(store_of(settings)), settings.paths.verification
    with _alone(folder):
        work = _Round.begun(settings, cube, rival)
        scored = work.score(progress)
        store = Store(folder, settings.product.name)
        store.refresh()
        told = alarms.watch(store, settings.paths.alarms, work.proof)
        return replace(work.report(), scored=scored, alarms=told)


def scores(settings: Settings, report: Report) -> list[ScoreRow]:
    """Every score by lead, band and predictor, pooled over the runs of a report."""
    folder = settings.paths.verification
    newest = [(run, load_cards(page(folder, run.run_key, run.init), run)) for run in report.runs]
    return score_rows(newest, report.bands, settings.verification)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One verification at a time, so that each alarm is told once."""
    durable.make_folders(folder)
    with durable.locked(folder / ".lock"):
        yield


@dataclass(slots=True)
class _Round:
    """One verification: what is on the shelf, what is known of it, and what was opened so far."""

    settings: Settings
    cube: Cube
    rival: Rival | None
    shelf: Shelf
    entries: dict[str, Entry]
    pages: frozenset[str]
    known: Waiting
    runs: dict[str, PublishedRun] = field(default_factory=dict)

    @classmethod
    def begun(cls, settings: Settings, cube: Cube, rival: Rival | None) -> _Round:
        """Looks at names alone."""
        shelf = shelf_at(outlet(settings).place, settings.product.name)
        lying = {page_name(entry.key, entry.init): entry for day in shelf.days() for entry in shelf.entries(day)}
        entries = {name: entry for name, entry in lying.items() if entry.published}
        folder = settings.paths.verification
        taken_back = [name for name, entry in lying.items() if entry.withdrawn]
        aside.settle(Store(folder, settings.product.name), taken_back, entries)
        known = waiting.load(_index(folder))
        known.keep(entries)
        return cls(settings, cube, rival, shelf, entries, names(folder), known)

    def score(self, progress: Callable[[int, int], None] | None) -> int:
        """Scores what is due; returns how many leads."""
        observed = frozenset(self.cube.observed().tolist())
        due = [name for name in self.entries if self._may_be_due(name, observed)]
        runs = sorted((run for name in due if (run := self._open(name)) is not None), key=lambda run: run.order)
        scored = 0
        for done, run in enumerate(runs, 1):
            scored += self._check(run, observed)
            if progress is not None:
                progress(done, len(runs))
        waiting.save(_index(self.settings.paths.verification), self.known)
        return scored

    def report(self) -> Report:
        """What is known by now; its scored leads and alarms are not."""
        folder = self.settings.paths.verification
        pages = [page(folder, entry.key, entry.init) for entry in self.entries.values()]
        there = names(folder)
        met = sorted(path for path in pages if path.stem in there)
        newest = tuple(found for path in met[-NEWEST:] if (found := load(path)) is not None and found.scores)
        lost = tuple(entry.key for name, entry in self.entries.items() if name in self.known.lost)
        return Report(0, newest, outlet(self.settings).bands, lost, len(met))

    def proof(self, model: str, run_key: str, init: datetime) -> Mapping[str, Any] | None:
        """What held-out truths showed of a model's intervals; kept, so that it stays what it is when the run goes."""
        path = self.settings.paths.verification / "state" / "proofs.json"
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        entry = self.entries.get(page_name(run_key, init))
        if model not in kept and entry is not None:
            kept[model] = (manifest(self.shelf, entry.name) or {}).get("validation")
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_text(path, json.dumps(kept) + "\n")
        return kept.get(model)

    def _may_be_due(self, name: str, observed: frozenset[int]) -> bool:
        """By what is known of a run: one that was never looked at is, unless all its truths are yet to come."""
        if name in self.known.lost:
            return False
        init, axis = self.entries[name].init, self.cube.layout.axis
        leads = self.known.of(name, self.pages)
        if leads is None:
            return bool(observed) and init < axis.valid_time(max(observed))
        return any(axis.slot(init + lead * MINUTE) in observed for lead in leads)

    def _open(self, name: str) -> PublishedRun | None:
        if name not in self.runs:
            found = next(opened(self.shelf, [self.entries[name]]), None)
            if found is None:  # withdrawn, or gone, a moment ago
                return None
            self.runs[name] = found
        return self.runs[name]

    def _check(self, run: PublishedRun, observed: frozenset[int]) -> int:
        """Scores what is due of one run, keeps it, and notes what is open; returns how many leads."""
        name, before = page_name(run.run_key, run.init), _before(self.settings, run)
        due = _due(self.cube, run, before, observed)
        if not due:
            self.known.note(name, run.leads, before.scored_leads())
            return 0
        seen = _cube_of(self.settings, run)
        if seen is None:
            self.known.note(name, run.leads, before.scored_leads(), lost=True)
            return 0
        rival = self._rival_of(run)
        found = score(self._case(run, seen, rival), due)
        asked = before.rival if before.scores or rival is None else rival.name
        path, after = _path(self.settings, run), replace(before, scores=(*before.scores, *found.scores), rival=asked)
        save_cards(path, (*load_cards(path, before), *found.cards))
        kept = (part for part in strata.load(path) if part.lead_minutes in before.scored_leads())
        strata.save(path, (*kept, *found.parts))
        save(path, after)
        self.known.note(name, run.leads, after.scored_leads())
        return len(due)

    def _rival_of(self, run: PublishedRun) -> Rival | None:
        return self.rival if self.rival is not None and self.rival.model == run.model.full_name else None

    def _case(self, run: PublishedRun, seen: Cube, rival: Rival | None) -> Case:
        before = predecessors(list(self._shortly_before(run)), run)
        return Case(self.settings, self.cube, run, seen, before, None if rival is None else rival.predictor)

    def _shortly_before(self, run: PublishedRun) -> Iterator[PublishedRun]:
        """Runs that may have said something of the same valid times: no horizon before it."""
        cadence = self.cube.layout.axis.cadence
        first = run.init - max(max(run.leads) * MINUTE, self.settings.samples.horizon * cadence)
        for name, entry in self.entries.items():
            if first <= entry.init < run.init and (found := self._open(name)) is not None:
                yield found


def _index(folder: Path) -> Path:
    """What waits for its truth."""
    return folder / "state" / "waiting.json"


def _due(cube: Cube, run: PublishedRun, scores: RunScores, observed: frozenset[int]) -> dict[int, int]:
    """Slots of the leads (minutes) that truth has reached and that have no score."""
    axis, met = cube.layout.axis, scores.scored_leads()
    slots = {lead: axis.slot(run.init + lead * MINUTE) for lead in run.leads}
    return {lead: slot for lead, slot in slots.items() if slot in observed and lead not in met}


def _cube_of(settings: Settings, run: PublishedRun) -> Cube | None:
    """The cube as the run had it; None where that snapshot is gone, since the newest one can be opened.

    Raises:
        StoreAwayError: the bucket does not answer now, which says nothing about the snapshot.
    """
    try:
        return open_cube(store_of(settings), snapshot=run.snapshot)
    except StoreAwayError:
        raise
    except StoreError:
        return None


def tabulate(scored: Iterable[RunScores], bands: Iterable[BandSpec]) -> list[ErrorRow]:
    """Errors by lead and band over runs, every pixel counting alike; ``bands`` know the units."""
    units = {band.name: band.units for band in bands}
    pooled: dict[tuple[int, str], dict[str, list[Score]]] = {}
    for run in scored:
        for one in run.scores:
            by_name = pooled.setdefault((one.lead_minutes, one.band), {})
            by_name.setdefault(one.predictor, []).append(one)
    return [_row(lead, band, units[band], by_name) for (lead, band), by_name in sorted(pooled.items()) if band in units]


def _row(lead: int, band: str, unit: str, by_name: dict[str, list[Score]]) -> ErrorRow:
    def mean(name: str, part: str) -> float:
        pixels = sum(score.pixels for score in by_name[name])
        return sum(getattr(score, part) for score in by_name[name]) / pixels if pixels else float("nan")

    most = max(map(len, by_name.values()))
    names = [name for name in by_name if len(by_name[name]) == most]  # a reference of some runs saw other weather
    mae = {name: mean(name, "absolute") for name in names}
    rmse = {name: mean(name, "squared") ** 0.5 for name in names}
    return ErrorRow(lead, band, unit, mae, rmse, _coverage(by_name))


def _coverage(by_name: dict[str, list[Score]]) -> dict[str, float]:
    """Of the predictors with an interval, over those of their runs that had one."""
    pixels = {
        name: [(one.covered, one.pixels) for one in scores if one.covered is not None]
        for name, scores in by_name.items()
    }
    sums = {name: np.sum(pairs, axis=0) for name, pairs in pixels.items() if pairs}
    return {name: float(inside / count) for name, (inside, count) in sums.items() if count}


def _before(settings: Settings, run: PublishedRun) -> RunScores:
    model = f"{run.model.name} {run.model.version}"
    return load(_path(settings, run)) or RunScores(run.run_key, run.init, model, ())


def _path(settings: Settings, run: PublishedRun) -> Path:
    return page(settings.paths.verification, run.run_key, run.init)
