from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import Settings, load
from pipeline.forecast import forecast
from pipeline.ingest import ingest
from pipeline.verify import verify
from tests.soak import gathering
from tests.soak.oracle import Lead
from tests.soak.product import HORIZON, configure, fill
from tests.soak.scenario import SHORT, Scenario, scenario


@pytest.fixture(scope="module")
def told() -> Scenario:
    told = scenario(replace(SHORT, troubles={}, history=6), seed=1)
    return replace(told, sky=replace(told.sky, height=64, width=64))


@pytest.fixture(scope="module")
def settings(told: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A product with its history ingested and two runs by extrapolation, the first of which has met its truth."""
    folder = tmp_path_factory.mktemp("soak")
    settings = load(configure(folder / "product", told, fill(folder / "archive", told), (4200, 5000)))
    ingest(settings)
    for slot in (3, 5):
        forecast(settings, None, init=told.time(slot))
    verify(settings)
    return settings


def test_runs_and_scores_are_found_by_slot_and_lead(settings: Settings) -> None:
    assert gathering.forecast_slots(settings) == {3, 5}
    assert [(run.init, run.model, run.horizon) for run in gathering.published(settings)] == [
        (3, "extrapolation 1", HORIZON),
        (5, "extrapolation 1", HORIZON),
    ]
    assert gathering.scored_leads(settings) == {Lead(3, 1), Lead(3, 2)}
    keys = {run.init: run.key for run in gathering.published(settings)}
    assert {one.key for one in gathering.scored(settings)} == {keys[3]}


def test_the_ledger_is_read_by_name(settings: Settings, told: Scenario) -> None:
    assert gathering.ledger(settings) == {told.name(slot): ("accepted",) for slot in range(6)}


def test_without_an_alarm_none_is_heard(settings: Settings) -> None:
    assert gathering.alarms(settings) == []


def test_what_killed_programs_leave_is_found_wherever_it_lies(settings: Settings, tmp_path: Path) -> None:
    assert gathering.leftovers(settings.paths.root) == ()
    for left in (
        tmp_path / ".staging-7",
        tmp_path / "forecasts" / "soak" / ".removed-7",
        tmp_path / "mlflow" / "x.part",
    ):
        left.mkdir(parents=True)
    assert gathering.leftovers(tmp_path) == (".staging-7", "forecasts/soak/.removed-7")
