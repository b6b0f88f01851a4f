from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.drift import LIMIT, Widened, widths
from pipeline.predictor import Context, Forecast
from pipeline.scorebook import FORECAST, RunScores, Score, book, load, page, save

START = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
MODEL = "rain 1"


def run(number: int, held: dict[int, float | None], model: str = MODEL) -> RunScores:
    scores = tuple(Score(lead, "rain", FORECAST, 100, 1.0, 1.0, 80, share, 0.8) for lead, share in held.items())
    return RunScores(f"key{number}", START + number * STEP, model, scores)


def asked(runs: list[RunScores], *, at: int = 10) -> np.ndarray | None:
    return widths(runs, MODEL, START + at * STEP, (5, 10), ("rain",))


def test_intervals_that_hold_what_they_promise_stay() -> None:
    factors = asked([run(number, {5: 0.8, 10: 0.8}) for number in range(4)])
    assert factors is not None
    np.testing.assert_allclose(factors, 1)


def test_what_an_interval_promises_is_its_own_affair() -> None:
    scores = [
        Score(5, "rain", FORECAST, 100, 1.0, 1.0, 90, 0.9, 0.9),
        Score(10, "rain", FORECAST, 100, 1.0, 1.0, 90, 0.9),
    ]
    factors = asked([RunScores("a", START, MODEL, tuple(scores))])
    assert factors is not None
    np.testing.assert_allclose(factors, 1)  # of the second lead's promise nothing is known


def test_too_few_truths_inside_widen_and_too_many_narrow_each_lead_on_its_own() -> None:
    factors = asked([run(number, {5: 0.6, 10: 0.95}) for number in range(4)])
    assert factors is not None
    assert factors[0, 0] > 1 > factors[1, 0]


def test_newer_runs_count_more() -> None:
    first, last = [run(0, {5: 0.6}), run(1, {5: 0.8})], [run(0, {5: 0.8}), run(1, {5: 0.6})]
    earlier, later = asked(first), asked(last)
    assert earlier is not None
    assert later is not None
    assert 1 < earlier[0, 0] < later[0, 0]


def test_truths_that_were_not_known_at_the_init_time_are_left_aside() -> None:
    assert asked([run(9, {10: 0.1})]) is None  # met at slot 11, the forecast is of slot 10
    assert asked([run(12, {5: 0.1})]) is None


def test_other_models_and_runs_without_intervals_teach_nothing() -> None:
    assert asked([run(0, {5: 0.1}, model="rain 2"), run(1, {5: None})]) is None


def test_a_lead_that_no_truth_has_met_takes_the_width_of_the_one_before() -> None:
    factors = asked([run(0, {5: 0.5})])
    assert factors is not None
    assert factors[1, 0] == factors[0, 0] > 1


def test_no_history_makes_intervals_absurd() -> None:
    factors = asked([run(number, {5: 0.0, 10: 1.0}) for number in range(9)])
    assert factors is not None
    assert factors.max() == pytest.approx(LIMIT)
    assert factors.min() == pytest.approx(1 / LIMIT)


def test_feedback_brings_the_coverage_of_a_drifting_normal_law_back() -> None:
    """Truths spread twice as far as the intervals believe; every run is scored before the next one."""
    random, runs, shares = np.random.default_rng(0), [], []
    for number in range(40):
        factors = widths(runs, MODEL, START + number * STEP, (5,), ("rain",))
        width = 1.2816 * (1.0 if factors is None else factors[0, 0])
        held = float(np.mean(np.abs(2 * random.normal(size=2000)) <= width))
        shares.append(held)
        runs.append(run(number, {5: held}))
    assert shares[0] < 0.55
    assert np.mean(shares[20:]) == pytest.approx(0.8, abs=0.06)


class Constant:
    def predict(self, context: Context, horizon: int) -> Forecast:
        values = np.broadcast_to(np.float32([3, 1, 2, 6])[:, None, None, None], (1, horizon, 4, 2, 2, 1)).copy()
        blank = np.zeros((1, horizon, 2, 2), np.float32)
        return Forecast(values, blank.astype(np.uint8), blank, ("mean", "q10", "q50", "q90"))


def test_bounds_move_away_from_the_median_and_stay_possible() -> None:
    context = Context(
        np.zeros((1, 1, 2, 2, 1), np.float32),
        np.ones((1, 1, 2, 2, 1), bool),
        np.zeros((1, 1), np.int64),
        np.zeros((1, 1), np.float32),
    )
    said = Widened(Constant(), np.array([[2.0], [0.5]]), ((0.5, 9.0),)).predict(context, 2)
    assert said.values[0, 0, :, 0, 0, 0].tolist() == [3, 0.5, 2, 9]
    assert said.values[0, 1, :, 0, 0, 0].tolist() == [3, 1.5, 2, 4]


def test_a_page_reads_back_as_it_was_written_and_the_book_is_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        save(page(tmp_path, f"key{number}", START + number * STEP), run(number, {5: 0.75, 10: None}))
    assert load(page(tmp_path, "key0", START)) == run(0, {5: 0.75, 10: None})
    assert [one.run_key for one in book(tmp_path)] == ["key0", "key1"]
    assert load(tmp_path / "none.json") is None
