from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.delivery import Number
from models.production import Production
from pipeline import strata, waiting
from pipeline.errors import ServiceError
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scorestore import page_name
from pipeline.strata import REGION, Errors, Part
from pipeline.times import TimeAxis

ORIGIN = datetime(2024, 6, 1, tzinfo=UTC)
CADENCE = timedelta(minutes=5)


@dataclass
class Desk:
    """Keeps what it is told; goes silent after so many calls."""

    run: str = "one"
    left: int = 1000
    numbers: list[Number] = field(default_factory=list)

    def production_run(self) -> str:
        return self.run

    def log_metrics(self, run: str, metrics: Sequence[Number]) -> None:
        assert run == self.run
        if not self.left:
            msg = "MLflow does not answer"
            raise ServiceError(msg)
        self.left -= 1
        self.numbers += metrics

    def of(self, key: str) -> list[float]:
        return [one.value for one in self.numbers if one.key == key]


@pytest.fixture
def production(tmp_path: Path) -> Production:
    return Production(tmp_path, TimeAxis(ORIGIN, CADENCE), "sqlite:///mlflow.db")


def scored(production: Production, slot: int, *leads: int) -> None:
    """A run of two leads, some of which have their scores: an error of 1, of persistence 2."""
    init, key = ORIGIN + slot * CADENCE, f"{slot:012x}"
    scores = tuple(
        Score(lead, "sky", name, 10, error, error, held=0.7 if name == FORECAST else None)
        for lead in leads
        for name, error in ((FORECAST, 10.0), ("persistence", 20.0), ("extrapolation", 0.0))
    )
    path = page(production.folder, key, init)
    errors = {FORECAST: Errors(5.0, 5.0), "persistence": Errors(20.0, 40.0)}
    strata.save(path, [Part(lead, "sky", REGION, "coast", 5, 5, 1.0, 0.7, 0.8, errors) for lead in leads])
    save(path, RunScores(key, init, "radar 1", scores))
    index = production.folder / "state" / "waiting.json"
    known = waiting.load(index)
    known.note(page_name(key, init), [5, 10], leads)
    waiting.save(index, known)


def test_each_scored_lead_is_told_once_at_the_time_and_slot_of_its_run(production: Production) -> None:
    desk = Desk()
    scored(production, 3, 5)
    assert production.send(desk) == 3
    assert desk.of("mae/sky/0005min") == [1.0]
    assert desk.of("skill_persistence/sky/0005min") == [0.5]
    assert desk.of("coverage/sky/0005min") == [0.7]
    assert {(one.time, one.step) for one in desk.numbers} == {(int((ORIGIN + 3 * CADENCE).timestamp() * 1000), 3)}
    assert production.send(desk) == 0
    assert production.untold == []


def test_a_reference_without_error_has_no_skill_against_it(production: Production) -> None:
    desk = Desk()
    scored(production, 3, 5)
    production.send(desk)
    assert desk.of("skill_extrapolation/sky/0005min") == []


def test_means_by_region_come_with_the_last_lead(production: Production) -> None:
    desk = Desk()
    scored(production, 3, 5)
    production.send(desk)
    assert desk.of("mae/sky/region/coast") == []
    scored(production, 3, 5, 10)
    production.send(desk)
    assert desk.of("mae/sky/region/coast") == [1.0]
    assert desk.of("skill_persistence/sky/region/coast") == [0.75]
    assert desk.of("mae/sky/0005min") == [1.0]  # told once


def test_an_outage_delays_numbers_and_loses_none(production: Production) -> None:
    for slot in range(30):
        scored(production, slot, 5, 10)
    desk = Desk(left=1)
    with pytest.raises(ServiceError):
        production.send(desk)
    assert len(production.untold) == 10
    desk.left = 1000
    production.send(desk)
    assert len(desk.of("mae/sky/0005min")) == len(desk.of("mae/sky/0010min")) == 30
    assert production.untold == []


def gone(production: Production, *slots: int) -> None:
    """Runs that were tidied, or withdrawn."""
    index = production.folder / "state" / "waiting.json"
    known = waiting.load(index)
    known.keep(name for name in known.leads if int(name.partition("-")[2], 16) not in slots)
    waiting.save(index, known)


def test_scores_of_runs_that_are_published_no_more_are_told_too(production: Production) -> None:
    desk = Desk()
    scored(production, 1, 5)
    scored(production, 2, 5, 10)
    production.send(desk)
    scored(production, 1, 5, 10)
    scored(production, 3, 5)  # its second truth does not come any more
    gone(production, 1, 2, 3)
    assert len(production.untold) == 2
    production.send(desk)
    steps = {key: [one.step for one in desk.numbers if one.key == f"mae/sky/{key}"] for key in ("0005min", "0010min")}
    assert steps == {"0005min": [1, 2, 3], "0010min": [2, 1]}
    assert [one.step for one in desk.numbers if one.key == "mae/sky/region/coast"] == [2, 1, 3]
    assert (production.untold, production.send(desk)) == ([], 0)


def test_the_note_names_only_runs_that_wait_for_truth(production: Production) -> None:
    desk = Desk()
    for slot in range(30):
        scored(production, slot, *([5, 10] if slot < 28 else [5]))
    production.send(desk)
    assert len(production.told.leads) == 2
    gone(production, *range(30))
    assert (production.untold, production.send(desk)) == ([], 0)
    assert production.told.leads == {}


def test_what_a_running_verification_has_written_is_told_when_it_is_done(production: Production) -> None:
    desk = Desk()
    scored(production, 1, 5)
    index = production.folder / "state" / "waiting.json"
    before, stat = index.read_bytes(), index.stat()
    scored(production, 1, 5, 10)
    after = index.read_bytes()
    index.write_bytes(before)
    os.utime(index, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    production.send(desk)
    index.write_bytes(after)
    production.send(desk)
    assert desk.of("mae/sky/0010min") == [1.0]
    assert production.untold == []


def test_another_server_or_a_lost_run_is_told_everything(production: Production) -> None:
    scored(production, 3, 5)
    production.send(Desk())
    assert [len(one.untold) for one in (production, replace(production, uri="http://other"))] == [0, 1]
    again = Desk(run="two")
    production.send(again)
    assert again.of("mae/sky/0005min") == [1.0]
