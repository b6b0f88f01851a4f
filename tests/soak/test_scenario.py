from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio

from pipeline.config import load
from pipeline.ingest import ingest
from pipeline.synthetic import synthesise
from pipeline.synthetic_scenes import NODATA, SCALE
from tests.soak.full import STORY
from tests.soak.oracle import Oracle
from tests.soak.product import GAIN, HORIZON, OFFSET, configure, fill
from tests.soak.report import DETECTED
from tests.soak.scenario import FULL, LATEST, SHORT, Arrival, Fault, Form, Scenario, Trouble, scenario

QUIET = Form(steps=8, history=3, faults={}, troubles={})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", [SHORT, FULL])
def test_a_story_holds_what_its_form_asks_for(form: Form, seed: int) -> None:
    told = scenario(form, seed)
    copies = [one for one in told.arrivals if one.name.endswith("_copy.tif")]
    first = [one for one in told.arrivals if one not in copies]
    faults = Counter(one.fault for one in first) + Counter({Fault.MISSING: len(told.missing)})
    assert {fault: faults[fault] for fault in form.faults} == form.faults
    assert len(copies) == form.faults[Fault.REPEATED]
    assert {one.slot for one in first} | told.missing == {told.slot(step) for step in told.steps}
    assert Counter(told.troubles.values()) == form.troubles


@pytest.mark.parametrize("seed", range(20))
def test_nothing_arrives_before_its_time_or_after_the_end(seed: int) -> None:
    told = scenario(FULL, seed)
    for one in told.arrivals:
        waited = one.step - told.step(one.slot)
        assert 0 <= waited <= (LATEST if one.fault is Fault.LATE else 1)
        assert waited > 0 or one.fault is not Fault.LATE
        assert one.step in told.steps


@pytest.mark.parametrize("seed", range(20))
def test_servers_fail_before_the_drift_and_the_ends_of_a_story_are_good(seed: int) -> None:
    told = scenario(FULL, seed)
    servers = [step for step, one in told.troubles.items() if one not in (Trouble.WORKER, Trouble.RUN)]
    assert FULL.drift is not None
    assert max(servers) < FULL.drift
    ends = [told.steps[0], told.steps[-1]]
    assert not set(ends) & set(told.troubles)
    for step in ends:
        (own,) = (one for one in told.arrivals if one.slot == told.slot(step))
        assert own == Arrival(step, told.slot(step), told.name(told.slot(step)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", [SHORT, FULL])
def test_runs_are_killed_in_steps_that_owe_a_forecast(form: Form, seed: int) -> None:
    told = scenario(form, seed)
    oracle = Oracle(told, HORIZON)
    kills = [step for step, one in told.troubles.items() if one in (Trouble.WORKER, Trouble.RUN)]
    assert kills
    assert all(told.slot(step) in oracle.forecasts(step) for step in kills)


def test_every_scene_of_the_hour_after_the_drift_comes_in_the_story_that_is_replayed() -> None:
    told = scenario(FULL, STORY)
    assert FULL.drift is not None
    hour = {told.slot(FULL.drift + step) for step in range(DETECTED)}
    assert hour <= set(Oracle(told, HORIZON).came)


def test_the_same_seed_tells_the_same_story_and_another_one_another() -> None:
    assert scenario(FULL, 3) == scenario(FULL, 3)
    assert scenario(FULL, 3).arrivals != scenario(FULL, 4).arrivals


def test_a_story_has_room_for_its_faults() -> None:
    with pytest.raises(ValueError, match="6 steps have room for 4 faults"):
        Form(steps=6, history=2, faults={Fault.LATE: 5}, troubles={})


@pytest.fixture(scope="module")
def small() -> Scenario:
    told = scenario(replace(SHORT, troubles={}, history=5, drift=3), seed=1)
    return replace(told, sky=replace(told.sky, height=32, width=32))


def test_the_files_of_a_story_are_what_the_oracle_says(small: Scenario, tmp_path: Path) -> None:
    """The product itself, without Prefect: what it takes and refuses in one go."""
    archive = fill(tmp_path / "archive", small)
    settings = load(configure(tmp_path / "product", small, archive, (4200, 5000)))
    archive.drop(small.arrivals, settings.scenes.folder)
    report = ingest(settings)
    states = {entry.key.name: entry.state.value for entry in report.entries}
    oracle = Oracle(small, HORIZON)
    assert {name for name, state in states.items() if state == "quarantined"} == oracle.refused
    assert set(states) == oracle.files_by(small.form.steps)
    for copy, first in oracle.duplicates().items():
        assert {states[copy], states[first]} == {"accepted", "duplicate"}
    assert sum(state == "accepted" for state in states.values()) == len(oracle.came)


def test_after_the_drift_another_sky_is_seen_by_another_sensor(small: Scenario, tmp_path: Path) -> None:
    archive = fill(tmp_path / "archive", small)
    last = small.form.steps - 1
    for step, sky, gain, offset in ((0, small.sky, 1.0, 0.0), (last, small.drifted, GAIN, OFFSET)):
        slot = small.slot(step)
        with rasterio.open(archive.folder / small.name(slot)) as file:
            dn = file.read(1)
        seen = dn != NODATA
        assert dn[seen] * SCALE == pytest.approx((synthesise(sky).values[slot] * gain + offset)[seen], abs=SCALE)
