from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.verify
from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.errors import StoreAwayError, StoreError
from pipeline.forecast import forecast, outlet
from pipeline.predictor import Context, Forecast
from pipeline.record import ModelRef
from pipeline.rungs import Champion, OfBands
from pipeline.scorebook import FORECAST, RunScores, Score, book
from pipeline.scorestore import Store
from pipeline.scoring import PREVIOUS
from pipeline.specs import ALL, BandSpec
from pipeline.verify import Report, Rival, tabulate, verify
from pipeline.verify import scores as score_rows
from pipeline.withdrawal import restore, withdraw

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Product

SAMPLES = {"context_frames": 2, "max_age": 4, "horizon": 2}
STILL = {"method": "none"}
PIXELS = 40 * 48


@dataclass(frozen=True)
class Off:
    """The newest frame, wrong by ``error``."""

    error: float

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        return replace(said, values=said.values + np.float32(self.error))


def tuned(product: Product, **changed: Any) -> Settings:
    document: dict[str, Any] = product.settings.model_dump()
    return Settings(**document | {"samples": SAMPLES, "motion": STILL} | changed)


def counting(product: Product, *slots: int, holes: int = 0) -> None:
    """Scenes whose value is the slot's number, with the first ``holes`` columns missing, into the cube."""
    for slot in slots:
        dn = np.full((1, 40, 48), 30 + 10 * slot, np.uint16)
        dn[:, :, :holes] = 65535
        product.scene(slot, dn)
    product.ingest()


def champion(error: float, version: str = "1") -> Champion:
    return Champion(Off(error), ModelRef("fake", version, "network"))


def files(settings: Settings) -> dict[str, bytes]:
    folder = settings.paths.verification
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def mae(report: Report, lead: int) -> dict[str, float]:
    (row,) = (row for row in report.table() if row.lead_minutes == lead)
    return {name: round(value, 6) for name, value in row.mae.items()}


def test_a_lead_is_scored_when_its_truth_comes_and_only_then(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, champion(0.5))
    assert verify(asked) == Report(0, (), asked.bands)
    assert files(asked) == {}
    counting(product, 2)
    first = verify(asked)
    assert (first.scored, [row.lead_minutes for row in first.table()]) == (1, [5])
    counting(product, 3)
    second = verify(asked)
    assert (second.scored, [row.lead_minutes for row in second.table()]) == (1, [5, 10])
    assert mae(second, 5) == mae(first, 5) == {FORECAST: 0.5, "persistence": 1, "extrapolation": 1}
    assert mae(second, 10) == {FORECAST: 1.5, "persistence": 2, "extrapolation": 2}


def test_a_missing_scene_keeps_its_lead_open(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, None)
    counting(product, 3)
    assert [row.lead_minutes for row in verify(asked).table()] == [10]
    counting(product, 2)
    assert [row.lead_minutes for row in verify(asked).table()] == [5, 10]


def test_verifying_again_changes_nothing(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, None)
    counting(product, 2, 3)
    first = verify(asked)
    before = files(asked)
    again = verify(asked)
    assert (first.scored, again.scored) == (2, 0)
    assert again.runs == first.runs
    assert files(asked) == before
    assert {name.partition("/")[0] for name in before if "/" in name} == {"cards", "strata", "state"}


def test_runs_of_different_snapshots_and_models_are_scored_by_what_each_one_saw(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, champion(0.5))
    counting(product, 2)
    forecast(asked, champion(2, version="2"))
    counting(product, 3, 4)
    told: list[tuple[int, int]] = []
    report = verify(asked, progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)]
    assert [run.model for run in report.runs] == ["fake 1", "fake 2"]
    assert mae(report, 5) == {FORECAST: 0.75, "persistence": 1, "extrapolation": 1}
    assert mae(report, 10) == {FORECAST: 0.75, "persistence": 2, "extrapolation": 2}
    assert len(report.runs) == 2


def drifting(product: Product, *slots: int, speed: int = 2) -> None:
    """Clouds that move eastward by ``speed`` px a slot, into the cube."""
    sky = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(40, 120)), (0, 0), 3)
    dn = np.rint(100 + 40 * sky / sky.std()).clip(0, 200).astype(np.uint16)
    for slot in slots:
        start = 40 - speed * slot
        product.scene(slot, dn[:, start : start + 48])
    product.ingest()


@pytest.mark.parametrize(("late", "frames"), [(False, 1), (False, 4), (True, 3)])
def test_an_extrapolation_is_scored_like_the_extrapolation_whatever_came_or_was_configured_since(
    product: Product, late: bool, frames: int
) -> None:
    """A run's baselines see what it saw: a later context of one frame would make them stand still."""
    asked = tuned(product, samples=SAMPLES | {"context_frames": 3}, motion={})
    drifting(product, *([0, 2] if late else [0, 1, 2]))
    forecast(asked, None)
    if late:
        drifting(product, 1, speed=-6)
    drifting(product, 3, 4)
    changed = tuned(product, samples={"context_frames": frames, "max_age": 3, "horizon": 1}, motion={})
    for row in verify(changed).table():
        assert row.mae[FORECAST] == pytest.approx(row.mae["extrapolation"], abs=0.02)  # DN of 0.1
        assert row.mae["extrapolation"] < 0.7 * row.mae["persistence"]


def test_every_pixel_counts_alike_over_runs(product: Product) -> None:
    """The first run is wrong by 1 everywhere, the second by 3 on a quarter of the pixels."""
    asked = tuned(product)
    counting(product, 0)
    forecast(asked, champion(0))
    counting(product, 1, holes=36)
    forecast(asked, champion(-2))
    counting(product, 2)
    report = verify(asked)
    counts = {run.init: [s.pixels for s in run.scores if s.lead_minutes == 5] for run in report.runs}
    assert counts == {product.time(0): [PIXELS // 4] * 3, product.time(1): [PIXELS // 4] * 3}
    counting(product, 3)
    report = verify(asked)
    ten = [s for run in report.runs for s in run.scores if s.lead_minutes == 10 and s.predictor == FORECAST]
    assert [s.pixels for s in ten] == [PIXELS, PIXELS // 4]
    pooled = (PIXELS * 2 + PIXELS // 4 * 4) / (PIXELS + PIXELS // 4)
    assert mae(report, 10)[FORECAST] == pytest.approx(pooled)


def test_a_run_keeps_its_own_horizon_when_the_configuration_has_changed(product: Product) -> None:
    asked = tuned(product, samples=SAMPLES | {"horizon": 4})
    counting(product, 0, 1, 2)
    forecast(asked, champion(1))
    counting(product, 3, 4, 5, 6)
    report = verify(tuned(product, samples=SAMPLES | {"horizon": 1}))
    assert [row.lead_minutes for row in report.table()] == [5, 10, 15, 20]
    assert mae(report, 20) == {FORECAST: 3, "persistence": 4, "extrapolation": 4}


def test_a_run_keeps_its_own_bands_when_the_configuration_has_changed(make_product: Callable[..., Product]) -> None:
    band = {"dtype": "uint16", "units": "1", "nodata": 65535}
    bands = [band | {"name": "one"}, band | {"name": "two", "index": 2}]
    product = make_product(bands=bands, scenes={"firewall": {"stuck": "off", "level": "off", "zeros_are_values": True}})
    for slot in range(3):
        product.scene(slot, np.stack([np.full((40, 48), slot), np.full((40, 48), 5 * slot)]).astype(np.uint16))
    product.ingest()
    only_two = tuned(product, bands=[bands[0] | {"forecast": False}, bands[1]])
    forecast(only_two, Champion(OfBands(Off(0), (1,)), ModelRef("fake", "1", "network")), init=product.time(1))
    (row,) = verify(tuned(product)).table()
    assert (row.band, row.mae["persistence"]) == ("two", 5)


def test_a_bucket_that_does_not_answer_loses_no_run(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    run = forecast(asked, champion(1))
    counting(product, 2)
    whole = pipeline.verify.open_cube

    def away(store: Any, snapshot: str | None = None) -> Any:
        if snapshot is not None:
            raise StoreAwayError("timed out")
        return whole(store)

    monkeypatch.setattr(pipeline.verify, "open_cube", away)
    with pytest.raises(StoreAwayError):
        verify(asked)
    monkeypatch.undo()
    report = verify(asked)
    assert ([one.run_key for one in report.runs], report.lost) == ([run.name], ())


def test_a_run_whose_snapshot_is_gone_is_named_and_stops_nobody(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0)
    counting(product, 1)
    orphan = forecast(asked, champion(1))
    shutil.rmtree(asked.paths.cube)
    asked.paths.ledger.unlink()
    counting(product, 2)
    run = forecast(asked, champion(1))
    counting(product, 3)
    report = verify(asked)
    assert report.lost == (orphan.name,)
    assert [one.run_key for one in report.runs] == [run.name]


def test_scores_of_a_withdrawn_run_count_nowhere_until_it_is_put_back(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    bad = forecast(asked, champion(9))
    counting(product, 2)
    good = forecast(asked, champion(1))
    counting(product, 3)
    verify(asked)
    folder, store = asked.paths.verification, Store(asked.paths.verification, asked.product.name)

    def counted() -> tuple[set[str], set[str]]:
        rows = store.read(("run_key",), rung=[ALL], region=[ALL])
        return {one.run_key for one in book(folder)}, set(rows.column("run_key").to_pylist())

    assert counted() == ({bad.name, good.name}, {bad.name, good.name})
    place = outlet(asked).place
    withdraw(place, asked.product.name, bad.name, "upside down")
    verify(asked)
    assert counted() == ({good.name}, {good.name})
    restore(place, asked.product.name, bad.name)
    report = verify(asked)
    assert counted() == ({bad.name, good.name}, {bad.name, good.name})
    assert report.scored == 0  # nothing is scored twice


def test_there_is_nothing_to_verify_without_a_cube(product: Product) -> None:
    with pytest.raises(StoreError, match="run cubecast ingest first"):
        verify(tuned(product))


@dataclass(frozen=True)
class Bounded:
    """The newest frame as mean, 0.5 above it as median, between 1 and ``above`` more as the interval."""

    above: float

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        values = [said.values + np.float32(off) for off in (0, 1, 0.5, self.above)]
        return replace(said, values=np.concatenate(values, axis=2), quantities=("mean", "q10", "q50", "q90"))


def test_intervals_are_counted_and_each_quantity_has_its_error(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, Champion(Bounded(1.5), ModelRef("fake", "1", "network")))
    counting(product, 2, 3)
    first, second = verify(asked).table()
    assert [row.coverage for row in (first, second)] == [{FORECAST: 1}, {FORECAST: 0}]
    assert (first.mae[FORECAST], first.rmse[FORECAST]) == (pytest.approx(0.5), pytest.approx(1))


def test_runs_without_an_interval_do_not_count_in_its_coverage() -> None:
    with_one, without = Score(5, "sky", FORECAST, 10, 1.0, 1.0, 8), Score(5, "sky", FORECAST, 90, 1.0, 1.0)
    runs = [RunScores(str(i), None, "m", (one,)) for i, one in enumerate((with_one, without))]  # pyright: ignore[reportArgumentType] - the time plays no part
    (row,) = tabulate(runs, [SKY])
    assert row.coverage == {FORECAST: 0.8}


def test_scores_lie_in_one_readable_file_a_run(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    run = forecast(asked, champion(0.5))
    counting(product, 2)
    verify(asked)
    path: Path = asked.paths.verification / f"20240601T0505Z-{run.name}.json"
    document = json.loads(path.read_text())
    assert (document["run_key"], document["init"], document["model"]) == (
        run.name,
        "2024-06-01T05:05:00+00:00",
        "fake 1",
    )
    assert {(one["predictor"], one["pixels"]) for one in document["scores"]} == {
        (name, PIXELS) for name in (FORECAST, "persistence", "extrapolation")
    }


def test_a_run_that_has_all_its_scores_is_not_opened_again(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    run = forecast(asked, champion(0.5))
    counting(product, 2, 3)
    first = verify(asked)
    (run / "run.json").write_text("{}")  # opened, it would be an error
    again = verify(asked)
    assert (again.scored, again.count, again.runs) == (0, 1, first.runs)


@dataclass(frozen=True)
class Silent:
    """The newest frame, wrong by 2 on the left half, nothing on the right."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Off(2).predict(context, horizon)
        said.values[..., 24:, :] = np.nan
        return said


def test_a_rival_is_scored_on_what_the_run_saw_and_changes_nobody_s_pixels(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    forecast(asked, champion(0.5))
    counting(product, 2)
    other = tuned(product)
    alone = verify(other)
    shutil.rmtree(other.paths.verification)
    report = verify(asked, rival=Rival("fake 1", Silent(), "fake 0"))
    scores = {one.predictor: one for one in report.runs[0].scores}
    assert {one.predictor: one for one in alone.runs[0].scores} == {
        name: one for name, one in scores.items() if name != PREVIOUS
    }
    assert scores[PREVIOUS].pixels == PIXELS
    assert scores[PREVIOUS].absolute == PIXELS * 1  # wrong by 2 - 1 on the left, as extrapolation on the right
    counting(product, 3)
    assert {one.predictor for one in verify(asked, rival=Rival("fake 2", Silent(), "fake 0")).runs[0].scores} == set(
        scores
    )


SKY = BandSpec(name="sky", dtype="uint8")


def scores(pixels: int, error: float, lead: int = 5) -> list[Score]:
    return [Score(lead, "sky", name, pixels, pixels * error, pixels * error**2) for name in (FORECAST, "persistence")]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), min_size=1, max_size=6), st.randoms())
def test_a_table_is_the_same_whatever_the_order_of_the_runs(parts: list[tuple[int, int]], random: Any) -> None:
    def runs(these: list[tuple[int, int]]) -> list[RunScores]:
        return [RunScores(str(i), None, "m", tuple(scores(*one))) for i, one in enumerate(these)]  # pyright: ignore[reportArgumentType] - the time plays no part

    shuffled = random.sample(parts, len(parts))
    (one,), (other,) = tabulate(runs(parts), [SKY]), tabulate(runs(shuffled), [SKY])
    pixels = sum(count for count, _ in parts)
    np.testing.assert_allclose(list(one.mae.values()), list(other.mae.values()), rtol=1e-9)
    if pixels:
        expected = sum(count * error for count, error in parts) / pixels
        np.testing.assert_allclose(list(one.mae.values()), expected, rtol=1e-9)
        assert one.rmse[FORECAST] >= one.mae[FORECAST] * (1 - 1e-9)
    else:
        assert np.isnan(one.mae[FORECAST])


def test_a_run_that_saw_nothing_recent_counts_for_nothing_and_takes_nothing_from_the_others(
    make_product: Callable[..., Product],
) -> None:
    product = make_product(scenes={"firewall": {"stuck": "off", "level": "off"}})
    asked = Settings(
        **product.settings.model_dump()
        | {"samples": {"context_frames": 2, "max_age": 3, "horizon": 2}, "motion": {"method": "none"}}
        | {"verification": {"thresholds": {"sky": [3.0]}, "spans": {"sky": [0.0, 10.0]}}}
    )
    for slot in (0, 1, 2):
        product.scene(slot)
    product.ingest()
    with_context = forecast(asked, None, init=product.time(1))
    alone = forecast(asked, None, now=product.time(8))
    for slot in (9, 10):
        product.scene(slot)
    product.ingest()
    report = verify(asked)
    assert (report.scored, report.lost) == (1 + 2, ())
    pixels = {run.run_key: {score.pixels for score in run.scores} for run in report.runs}
    assert pixels == {with_context.name: {40 * 48}, alone.name: {0}}
    (first, _) = report.table()
    assert set(first.mae) == {FORECAST, "persistence", "extrapolation"}
    assert first.mae[FORECAST] == first.mae["persistence"] > 0
    later = [row for row in score_rows(asked, report) if row.lead_minutes == 10]
    assert {(row.predictor, row.runs, row.mae, row.correlation) for row in later} == {
        (name, 1, None, None) for name in (FORECAST, "persistence", "extrapolation")
    }
    assert verify(asked).scored == 0
