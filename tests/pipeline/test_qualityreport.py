from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import alarms, strata
from pipeline.catalog import PublishedRun
from pipeline.qualityreport import Quality, Spread, _counts, _since_acquisition, _since_availability, quality
from pipeline.record import ModelRef
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scorestore import Store
from pipeline.strata import REGION, RUNG, Errors, Part
from tests.pipeline.conftest import CADENCE, ORIGIN

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product


def keep(folder: Path, slot: int, ratio: float, model: str = "radar 1") -> None:
    """A run of two leads: the second errs twice as much; extrapolation by 1, the forecast by ``ratio`` of that."""
    scores: list[Score] = []
    parts: list[Part] = []
    for lead in (5, 10):
        error = 100.0 * lead / 5
        sums = {FORECAST: Errors(ratio * error, 1.0, 70), "extrapolation": Errors(error, 1.0)}
        scores.append(Score(lead, "sky", FORECAST, 100, ratio * error, 1.0, 80, held=0.7, promised=0.8))
        scores.append(Score(lead, "sky", "extrapolation", 100, error, 1.0))
        parts.append(Part(lead, "sky", RUNG, "network", 90, 150, 4.0, 0.7, 0.8, sums))
        parts.append(Part(lead, "sky", RUNG, "persistence", 10, 50, 8.0, None, None, sums))
        parts.append(Part(lead, "sky", REGION, "coast", 50, 100, 5.0, 0.6, 0.8, sums))
    init, key = ORIGIN + slot * CADENCE, f"{slot:012x}"
    path = page(folder, key, init)
    strata.save(path, parts)
    save(path, RunScores(key, init, model, tuple(scores)))


def known(product: Product, *ratios: float) -> Quality:
    folder = product.settings.paths.verification
    for slot, ratio in enumerate(ratios):
        keep(folder, slot, ratio)
    store = Store(folder, "tiny")
    store.refresh()
    alarms.watch(store, product.settings.paths.alarms)
    return quality(product.settings)


def test_numbers_are_pooled_by_lead_rung_region_and_time(product: Product) -> None:
    found = known(product, 0.5, 0.7)
    assert (found.runs, found.first, found.last) == (2, ORIGIN, ORIGIN + CADENCE)
    assert [(row.name, row.runs, row.mae) for row in found.leads] == [
        ("5", 2, pytest.approx(0.6)),
        ("10", 2, pytest.approx(1.2)),
    ]
    assert [row.skill for row in found.leads] == [{"extrapolation": pytest.approx(0.4)}] * 2
    assert (found.leads[0].held, found.leads[0].promised) == (pytest.approx(0.7), pytest.approx(0.8))
    assert [one.row.skill["extrapolation"] for one in found.moments] == [pytest.approx(0.5), pytest.approx(0.3)]
    assert {row.name: row.held for row in found.rungs} == {"network": pytest.approx(0.7), "persistence": None}
    assert [(row.name, row.held) for row in found.regions] == [("coast", pytest.approx(0.6))]
    assert found.shares == {5: {"network": 0.75, "persistence": 0.25}, 10: {"network": 0.75, "persistence": 0.25}}
    assert found.ages == Spread(5.0, 5.0, 2)
    assert (found.latency.acquisition.p50, found.latency.late) == (None, 0)


def test_nothing_is_known_of_a_product_that_no_truth_has_met(product: Product) -> None:
    found = quality(product.settings)
    assert (found.runs, found.leads, found.moments, found.alarms, found.first) == (0, (), (), (), None)


def test_skill_against_a_reference_is_of_the_runs_that_have_it(product: Product) -> None:
    folder = product.settings.paths.verification
    keep(folder, 0, 0.5)
    init = ORIGIN + CADENCE
    save(
        page(folder, "alone", init), RunScores("alone", init, "radar 1", (Score(5, "sky", FORECAST, 100, 900.0, 1.0),))
    )
    found = known(product)
    assert found.leads[0].mae == pytest.approx(4.75)
    assert found.leads[0].skill == {"extrapolation": pytest.approx(0.5)}


def a_published_run(minutes_late: float) -> PublishedRun:
    init = ORIGIN + timedelta(minutes=10)
    scenes = ("20240601T0505Z-aaaaaaaaaaaa", "20240601T050930Z-bbbbbbbbbbbb")
    created = init + timedelta(minutes=minutes_late)
    leads = {5: Path("a.tif"), 10: Path("b.tif")}
    ref = ModelRef("radar", "1", "network")
    return PublishedRun("tiny", init, created, "abc", Path(), ref, "S", scenes, leads, ("mean",), ("sky",))


def test_a_forecast_waits_from_its_newest_scene_on() -> None:
    run = a_published_run(2)
    there = {run.scenes[1]: run.init + timedelta(minutes=1), run.scenes[0]: run.init}
    assert (_since_acquisition(run), _since_availability(run, there)) == (2.5, 1)
    assert _since_availability(run, {}) is None


def test_a_hindcast_has_no_latency() -> None:
    late, on_time = a_published_run(600), a_published_run(3)
    assert [_counts(run, _since_acquisition(run) or 0) for run in (late, on_time)] == [False, True]
