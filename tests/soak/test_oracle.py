from __future__ import annotations

from dataclasses import replace

from tests.soak.oracle import Lead, Oracle
from tests.soak.scenario import Arrival, Fault, Form, Scenario, scenario

FORM = Form(steps=6, history=4, faults={}, troubles={})


def story(**faults: tuple[int, int | None]) -> Scenario:
    """Slots 4 to 9, step by step; faults: kind -> (step of the acquisition, step of the arrival)."""
    told = scenario(FORM)
    kinds = {acquired: (Fault(kind), arrived) for kind, (acquired, arrived) in faults.items()}
    arrivals = []
    for one in told.arrivals:
        fault, step = kinds.get(one.step, (None, one.step))
        if step is not None:
            arrivals.append(replace(one, fault=fault, step=step))
    return replace(told, arrivals=tuple(arrivals))


def test_without_a_fault_each_step_owes_one_forecast_and_the_scores_of_those_before() -> None:
    oracle = Oracle(story(), 2)
    assert oracle.forecasts(0) == {4}
    assert oracle.forecasts_by(2) == {4, 5, 6}
    assert oracle.scores_by(0) == set()
    assert oracle.scores_by(2) == {Lead(4, 1), Lead(4, 2), Lead(5, 1)}


def test_a_late_scene_owes_its_forecast_and_is_truth_from_when_it_comes() -> None:
    oracle = Oracle(story(late=(1, 3)), 2)
    assert oracle.forecasts(1) == set()
    assert oracle.forecasts(3) == {5, 7}
    assert Lead(4, 1) not in oracle.scores_by(2)
    assert oracle.scores_by(3) >= {Lead(4, 1), Lead(5, 1), Lead(5, 2)}


def test_a_scene_that_never_comes_owes_nothing_and_is_no_truth() -> None:
    oracle = Oracle(story(missing=(1, None)), 2)
    assert 5 not in oracle.forecasts_by(5)
    assert not {lead for lead in oracle.scores_by(5) if 5 in (lead.init, lead.valid)}


def test_a_broken_scene_is_one_that_never_comes_but_the_ledger_names_it() -> None:
    oracle = Oracle(story(corrupt=(1, 1), cut=(2, 2)), 2)
    assert oracle.forecasts_by(5) == {4, 7, 8, 9}
    assert oracle.refused == {oracle.told.name(5), oracle.told.name(6)}


def test_a_copy_owes_nothing_more() -> None:
    told = story()
    copy = Arrival(2, 5, told.name(5).replace(".tif", "_copy.tif"), Fault.REPEATED)
    oracle = Oracle(replace(told, arrivals=(*told.arrivals, copy)), 2)
    assert oracle.forecasts_by(5) == Oracle(told, 2).forecasts_by(5)
    assert oracle.scores_by(5) == Oracle(told, 2).scores_by(5)
    assert oracle.duplicates() == {copy.name: told.name(5)}


def test_the_history_owes_no_forecast_but_is_known() -> None:
    oracle = Oracle(story(), 2)
    assert oracle.files_by(-1) == {oracle.told.name(slot) for slot in range(4)}
    assert not {slot for slot in oracle.forecasts_by(5) if slot < 4}
