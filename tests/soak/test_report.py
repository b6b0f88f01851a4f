from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.soak.observation import Observed, Published, Scored, Told, Usage
from tests.soak.oracle import Oracle
from tests.soak.report import DETECTED, LEAST, ON_TIME, Claim, Report, judge
from tests.soak.scenario import BROKEN, Fault, Form, scenario

START = datetime(2026, 1, 1, tzinfo=UTC)
FORM = Form(
    steps=30, history=4, faults={Fault.LATE: 2, Fault.CORRUPT: 1, Fault.REPEATED: 1, Fault.MISSING: 1}, troubles={}
)
DRIFT, PROMOTED = 8, 20


def told(*, drift: bool = False) -> Oracle:
    return Oracle(scenario(replace(FORM, drift=DRIFT) if drift else FORM), 2)


def perfect(oracle: Oracle) -> Observed:
    """All that the oracle asks for; where the sensor drifts, the old network is bad from then on, the new one good."""
    dropped = {step: START + step * timedelta(minutes=1) for step in oracle.told.steps}
    published = tuple(
        Published(slot, f"key{slot}", _model(oracle, slot), dropped[step] + timedelta(seconds=20), 2)
        for slot, step in oracle.came.items()
        if step >= 0
    )
    ledger = dict.fromkeys(oracle.files_by(oracle.told.form.steps), ("accepted",))
    ledger |= dict.fromkeys(oracle.refused, ("quarantined",)) | dict.fromkeys(oracle.duplicates(), ("duplicate",))
    alarms = (Told(DRIFT + 4, "skill.degraded"),) if oracle.told.form.drift else ()
    usage = tuple(Usage(step, "server", 7, 300.0 + step % 2, 40) for step in oracle.told.steps)
    return Observed(dropped, published, tuple(_scores(oracle)), ledger, alarms, usage)


def _model(oracle: Oracle, slot: int) -> str:
    return "soak 2" if oracle.told.form.drift and oracle.told.step(slot) >= PROMOTED else "soak 1"


def _scores(oracle: Oracle) -> Iterator[Scored]:
    for lead in sorted(oracle.scores_by(oracle.told.form.steps)):
        bad = oracle.told.form.drift and DRIFT <= oracle.told.step(lead.init) < PROMOTED
        for predictor, error in (("forecast", 1.5 if bad else 0.9), ("extrapolation", 1.0)):
            yield Scored(f"key{lead.init}", lead, "reflectance", predictor, 100, 100 * error)


def failing(oracle: Oracle, seen: Observed) -> dict[str, Claim]:
    return {claim.name: claim for claim in judge(oracle, seen).claims if not claim.holds}


def only_fault(oracle: Oracle, seen: Observed) -> Claim:
    (claim,) = failing(oracle, seen).values()
    return claim


@pytest.mark.parametrize("drift", [False, True])
def test_all_claims_hold_where_all_came_that_was_asked_for(drift: bool) -> None:
    oracle = told(drift=drift)
    assert failing(oracle, perfect(oracle)) == {}


def test_a_missing_forecast_is_named_and_missed_in_every_claim_about_it() -> None:
    oracle = told()
    seen = perfect(oracle)
    gone = seen.published[3]
    found = failing(oracle, replace(seen, published=tuple(run for run in seen.published if run != gone)))
    assert found["slots with a forecast"].faults == (
        f"step {oracle.told.step(gone.init)} ({oracle.told.time(gone.init):%H:%M}Z)",
    )
    assert set(found) == {
        "slots with a forecast",
        f"of these, within {ON_TIME.seconds} s of the scene",
        "leads whose truth came, scored",
    }


def test_a_forecast_is_late_when_its_first_run_is_whatever_came_again() -> None:
    oracle = told()
    seen = perfect(oracle)
    run = seen.published[0]
    again = replace(run, key="again", created=run.created + 2 * ON_TIME)
    scores = tuple(replace(one, key="again") for one in seen.scored if one.key == run.key)
    both = replace(seen, published=(*seen.published, again), scored=seen.scored + scores)
    assert failing(oracle, both) == {}
    late = replace(
        seen, published=tuple(replace(one, created=again.created) if one == run else one for one in seen.published)
    )
    assert only_fault(oracle, late).faults == ("step 0 (07:20Z): 620 s",)


def test_a_lead_that_was_not_scored_is_named() -> None:
    oracle = told()
    seen = perfect(oracle)
    lost = min(oracle.scores_by(oracle.told.form.steps))
    kept = tuple(one for one in seen.scored if one.lead != lost)
    assert only_fault(oracle, replace(seen, scored=kept)).faults == (f"step 0 (07:20Z), {lost.ahead} slot(s) ahead",)


def test_a_second_run_of_a_slot_is_to_be_scored_as_well() -> None:
    oracle = told()
    seen = perfect(oracle)
    again = replace(seen.published[0], key="again")
    claim = only_fault(oracle, replace(seen, published=(*seen.published, again)))
    assert claim.name == "leads whose truth came, scored"


def test_a_score_that_was_given_twice_counts() -> None:
    oracle = told()
    seen = perfect(oracle)
    assert only_fault(oracle, replace(seen, scored=(*seen.scored, seen.scored[0]))).found == 1


def test_a_broken_file_that_is_not_named_and_a_good_one_that_is_are_faults() -> None:
    oracle = told()
    seen = perfect(oracle)
    (broken,) = oracle.refused
    good = oracle.told.name(oracle.told.slot(0))
    ledger = dict(seen.ledger) | {broken: ("accepted",), good: ("quarantined",)}
    assert only_fault(oracle, replace(seen, ledger=ledger)).faults == (f"{broken} is not named", f"{good} was good")


def test_a_copy_that_was_taken_in_beside_the_first_is_a_fault() -> None:
    oracle = told()
    seen = perfect(oracle)
    ledger = dict(seen.ledger) | dict.fromkeys(oracle.duplicates(), ("accepted",))
    assert only_fault(oracle, replace(seen, ledger=ledger)).name == "copies known as duplicates"


def test_a_file_that_nobody_looked_at_is_undecided() -> None:
    oracle = told()
    seen = perfect(oracle)
    name = next(one.name for one in oracle.told.arrivals if one.fault not in BROKEN and one.fault is not Fault.REPEATED)
    ledger = {key: states for key, states in seen.ledger.items() if key != name}
    assert only_fault(oracle, replace(seen, ledger=ledger)).faults == (name,)


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ((), "never"),
        ((DRIFT + DETECTED + 1,), f"after {DETECTED + 1} steps"),
        ((DRIFT - 1, DRIFT + 1), f"alarm in step {DRIFT - 1}, before the drift in step {DRIFT}"),
    ],
)
def test_a_drift_is_detected_in_time_and_only_when_there_is_one(steps: tuple[int, ...], fault: str) -> None:
    oracle = told(drift=True)
    seen = replace(perfect(oracle), told=tuple(Told(step, "skill.degraded") for step in steps))
    assert only_fault(oracle, seen).faults == (fault,)


def test_an_alarm_in_the_very_step_of_the_drift_is_in_time() -> None:
    oracle = told(drift=True)
    assert failing(oracle, replace(perfect(oracle), told=(Told(DRIFT, "skill.degraded"),))) == {}


def test_a_challenger_that_never_goes_live_is_missed() -> None:
    oracle = told(drift=True)
    seen = perfect(oracle)
    old = tuple(replace(run, model="soak 1") for run in seen.published)
    assert set(failing(oracle, replace(seen, published=old))) == {
        "challengers promoted after the drift",
        "skill recovers",
    }


def test_a_new_champion_that_is_no_better_than_extrapolation_is_no_recovery() -> None:
    oracle = told(drift=True)
    seen = perfect(oracle)
    worse = tuple(replace(one, absolute=100.0) if one.predictor == "forecast" else one for one in seen.scored)
    assert only_fault(oracle, replace(seen, scored=worse)).faults == ("+0.00 under the drift, +0.00 afterwards",)


def usage(values: list[float], files: list[int], pid: int = 7) -> tuple[Usage, ...]:
    return tuple(
        Usage(step, "server", pid, value, count) for step, (value, count) in enumerate(zip(values, files, strict=True))
    )


def test_memory_that_grows_step_by_step_is_seen_and_a_warm_up_is_not() -> None:
    oracle = told()
    seen, steps = perfect(oracle), 30
    leak = replace(seen, usage=usage([300.0 + 5 * step for step in range(steps)], [40] * steps))
    assert only_fault(oracle, leak).faults == ("server: 350 to 430 MiB",)
    warm = replace(seen, usage=usage([min(300.0 + 50 * step, 600.0) for step in range(steps)], [40] * steps))
    assert failing(oracle, warm) == {}


def test_one_leap_is_no_leak_and_leaps_are() -> None:
    oracle = told()
    seen, steps = perfect(oracle), 30
    once = replace(seen, usage=usage([100.0 + 45 * (step >= 18) for step in range(steps)], [40] * steps))
    assert failing(oracle, once) == {}
    again = replace(seen, usage=usage([100.0 + 45 * (step // 8) for step in range(steps)], [40] * steps))
    assert only_fault(oracle, again).faults == ("server: 145 to 235 MiB",)


def test_files_that_stay_open_are_seen() -> None:
    oracle = told()
    leak = replace(perfect(oracle), usage=usage([300.0] * 30, [40 + 2 * step for step in range(30)]))
    assert only_fault(oracle, leak).faults == ("server: 60 to 92 open files",)


def test_a_restarted_process_is_judged_by_its_longest_life() -> None:
    oracle = told()
    first, second = usage([900.0] * 5, [40] * 5, pid=7), usage([300.0] * LEAST, [40] * LEAST, pid=8)
    assert failing(oracle, replace(perfect(oracle), usage=first + second)) == {}


def test_stuck_runs_and_leftovers_are_faults() -> None:
    oracle = told()
    found = failing(oracle, replace(perfect(oracle), stuck=("ingest soak",), leftovers=(".staging-1",)))
    assert {claim.faults for claim in found.values()} == {("ingest soak",), (".staging-1",)}


def test_the_table_names_what_fails_and_the_file_says_the_same(tmp_path: Path) -> None:
    report = Report((Claim("good", 3, 3), Claim("bad", 3, 1, tuple("abcdefghij"))), {"a figure": "7"})
    lines = list(report.lines())
    assert not report.holds
    assert [line for line in lines if line.endswith("FAILS")] == [lines[2]]
    assert "    and 2 more" in lines
    report.write(tmp_path / "build" / "soak.json")
    document = json.loads((tmp_path / "build" / "soak.json").read_text())
    assert (document["holds"], document["claims"][0]["holds"], document["figures"]) == (False, True, {"a figure": "7"})
