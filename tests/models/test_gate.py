from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from models.gate import Condition, Decision, Entrant, Ruling, Trial, compare, judge, sample_size
from pipeline.significance import LEAST_BLOCKS
from pipeline.specs import ModelSpec
from tests.benchmarks.simulate_gate import WORLDS, promoted, rulings, trial

SPEC = ModelSpec()
WORLD = WORLDS[0]
INITS = 156  # the median of what the gate asks for in this world


def better(gain: float = 0.2, inits: int = INITS, **changed: Any) -> Trial:
    return replace(trial(WORLD, inits, seed=7, gain=gain), **changed)


def of(ruling: Ruling, name: str) -> Condition:
    (found,) = (one for one in ruling.conditions if one.name == name)
    return found


def test_few_equals_are_promoted_and_most_of_those_that_are_better() -> None:
    """A short form of tests/benchmarks/simulate_gate.py: of 1,000 each 2.1 % and 87.8 %."""
    assert promoted(rulings(WORLD, INITS, range(120), 0.0)) <= 0.05
    assert promoted(rulings(WORLD, INITS, range(120, 180), 0.05)) >= 0.8


def test_the_sample_that_is_asked_for_grows_as_the_gain_shrinks() -> None:
    found = compare(better().challenger, better().baselines[0], better())
    sizes = [sample_size(found, better().slots, 12, gain) for gain in (0.2, 0.1, 0.05, 0.02)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0] >= 3 * LEAST_BLOCKS * 12


def test_of_wider_spaced_init_times_fewer_are_asked_for() -> None:
    whole = better(0.0)
    thinned = replace(
        whole,
        slots=whole.slots[::4],
        challenger=replace(whole.challenger, squared=whole.challenger.squared[::4]),
        champion=replace(whole.champion, squared=whole.champion.squared[::4]),  # type: ignore[type-var]
        baselines=tuple(replace(one, squared=one.squared[::4]) for one in whole.baselines),
    )
    assert judge(thinned, SPEC).wanted < judge(whole, SPEC).wanted


def test_what_is_clearly_better_and_in_order_is_promoted() -> None:
    said = judge(better(), SPEC)
    assert said.promotes
    assert all(one.met for one in said.conditions)
    assert said.overall.high < 0
    assert "20." in said.text or "19." in said.text


def test_with_less_than_eight_blocks_the_evidence_is_insufficient_however_good_it_looks() -> None:
    said = judge(better(0.5, inits=8 * 12 - 1), SPEC)
    assert said.decision is Decision.INSUFFICIENT
    assert said.text.startswith("insufficient evidence: 95 init times fill 7 independent blocks")
    assert "ingest more scenes" in of(said, "evidence").reason
    assert judge(better(0.5, inits=8 * 12), SPEC).promotes


def test_a_challenger_that_is_worse_at_one_lead_is_kept_though_better_overall() -> None:
    made = better(0.3)
    worse = made.challenger.squared.copy()
    worse[:, 4] = made.champion.squared[:, 4] * 1.5  # type: ignore[union-attr]
    said = judge(replace(made, challenger=replace(made.challenger, squared=worse)), SPEC)
    assert of(said, "better").met
    assert said.decision is Decision.KEEP
    assert [one.name for one in said.conditions if not one.met] == ["leads"]
    assert "worse than the champion at 25 min" in said.text


def test_equals_are_rarely_stopped_by_one_of_many_leads() -> None:
    stopped = [said for said in rulings(WORLD, INITS, range(100), 0.0) if not of(said, "leads").met]
    assert len(stopped) <= 8


def test_a_challenger_that_is_better_than_a_bad_champion_but_not_than_a_baseline_is_kept() -> None:
    made = better(0.2)
    lowest = (Entrant("persistence", made.challenger.squared * 0.9),)
    said = judge(replace(made, baselines=lowest), SPEC)
    assert [one.name for one in said.conditions if not one.met] == ["baseline"]
    assert "best baseline, persistence, is 5.4 % larger" in said.text


def test_the_best_of_the_baselines_counts() -> None:
    made = better(0.2)
    others = (*made.baselines, Entrant("extrapolation", made.baselines[0].squared / 2))
    assert judge(replace(made, baselines=others), SPEC).baseline == "extrapolation"


def test_where_nobody_serves_the_best_baseline_is_the_rival() -> None:
    said = judge(replace(better(0.2), champion=None), SPEC)
    assert said.promotes
    assert said.rival == "persistence"
    equal = better(0.0)
    none = replace(equal, champion=None, baselines=(replace(equal.champion, name="still"),))  # type: ignore[type-var]
    assert judge(none, SPEC).decision is Decision.KEEP


@pytest.mark.parametrize(("held", "met"), [(0.8, True), (0.72, True), (0.69, False), (0.92, False)])
def test_intervals_hold_as_much_as_they_promise_within_the_tolerance(held: float, met: bool) -> None:
    said = judge(better(coverage=np.full((12, 1), held), promised=0.8), SPEC)
    assert (of(said, "intervals").met, said.promotes) == (met, met)
    assert f"hold {held:.0%} of the truths" in of(said, "intervals").reason


def test_a_single_lead_may_be_off_by_twice_the_tolerance() -> None:
    coverage = np.full((12, 1), 0.8)
    coverage[3] = 0.65
    assert of(judge(better(coverage=coverage, promised=0.8), SPEC), "intervals").met
    coverage[3] = 0.55
    found = of(judge(better(coverage=coverage, promised=0.8), SPEC), "intervals")
    assert not found.met
    assert "55% at 20 min" in found.reason


def test_a_forecast_may_cost_as_much_as_the_configuration_allows() -> None:
    def costing(seconds: float, spec: ModelSpec = SPEC) -> Condition:
        made = better()
        return of(judge(replace(made, challenger=replace(made.challenger, cost=seconds)), spec), "cost")

    assert costing(2.0).met
    assert not costing(2.1).met
    assert not costing(0.6, ModelSpec(cost_limit=timedelta(seconds=0.5))).met
    assert "at most 0.5 may be" in costing(0.6, ModelSpec(cost_limit=timedelta(seconds=0.5))).reason
    assert not costing(float("nan")).met


def test_a_tried_forecast_that_fails_its_checks_stops_a_challenger() -> None:
    said = judge(better(fault="lead 5 min is empty"), SPEC)
    assert said.decision is Decision.KEEP
    assert said.reasons == ("a forecast that was tried fails: lead 5 min is empty",)


def test_no_band_counts_more_because_its_numbers_are_larger() -> None:
    one = better(0.1)

    def doubled(entrant: Entrant, factor: float) -> Entrant:
        return replace(entrant, squared=np.concatenate([entrant.squared, entrant.squared * factor], axis=2))

    def both(factor: float) -> Trial:
        rival = one.champion
        assert rival is not None
        return replace(one, challenger=doubled(one.challenger, factor), champion=doubled(rival, factor))

    small, large = (compare(both(f).challenger, both(f).champion, both(f)) for f in (1.0, 1e6))  # type: ignore[arg-type]
    assert small.estimate == pytest.approx(large.estimate)


def test_the_comparison_turns_round_with_the_entrants() -> None:
    made = better(0.1)
    rival = made.champion
    assert rival is not None
    there, back = compare(made.challenger, rival, made), compare(rival, made.challenger, made)
    assert (1 + there.estimate) * (1 + back.estimate) == pytest.approx(1)


def test_where_nobody_has_any_error_nothing_is_concluded() -> None:
    nothing = np.zeros((INITS, 12, 1))
    made = better(challenger=Entrant("challenger", nothing, 1.0), champion=Entrant("champion", nothing, 1.0))
    assert not judge(made, SPEC).promotes


def test_a_ruling_is_plain_json() -> None:
    import json

    found = json.loads(json.dumps(judge(better(), SPEC).to_json(), allow_nan=False))
    assert found["decision"] == "promote"
    assert {one["name"] for one in found["conditions"]} == {
        "evidence",
        "better",
        "baseline",
        "leads",
        "intervals",
        "cost",
        "smoke",
    }


def test_intervals_of_which_nothing_is_known_are_no_crash_and_no_promotion() -> None:
    found = of(judge(better(coverage=np.full((12, 1), np.nan), promised=0.8), SPEC), "intervals")
    assert (found.met, found.reason) == (False, "no truth of the test part tells what its intervals hold")
