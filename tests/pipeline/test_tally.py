from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.events import Events
from pipeline.metrics import ErrorSums
from pipeline.pairs import Pair
from pipeline.predictor import Forecast, Source
from pipeline.tally import Measures, Tally, meet

LEADS, SIDE = 3, 6
WET = Events((0.5, 1.0))


def said(quantities: tuple[str, ...] = ("mean",), seed: int = 0) -> Forecast:
    values = np.random.default_rng(seed).normal(size=(1, LEADS, len(quantities), SIDE, SIDE, 1)).astype(np.float32)
    place = (1, LEADS, SIDE, SIDE)
    return Forecast(np.sort(values, axis=2), np.ones(place, np.uint8), np.zeros(place, np.float32), quantities)


def came(seed: int = 9) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(LEADS, SIDE, SIDE, 1)).astype(np.float32)


def met(forecast: Forecast, truth: NDArray[np.float32], slot: int = 0, **options: object) -> Tally:
    newest = np.ones((SIDE, SIDE, 1), bool)
    known: dict = {"measures": Measures(), "floors": (-np.inf,)} | options
    return meet(Pair(forecast, truth), newest, slot, (WET,), **known)


def test_scores_are_those_of_all_pixels_together_however_many_each_init_time_has() -> None:
    truths = [came(1), came(2)]
    truths[1][:, :5] = np.nan
    tally = Tally.joined([met(said(seed=slot), truth, slot) for slot, truth in enumerate(truths)])
    sums = [ErrorSums.of(said(seed=slot).values[0, :, 0], truth) for slot, truth in enumerate(truths)]
    np.testing.assert_allclose(tally.mae, (sums[0] + sums[1]).mae)
    np.testing.assert_allclose(tally.rmse, (sums[0] + sums[1]).rmse)


def test_each_score_takes_its_own_quantity() -> None:
    quantities = ("mean", "q50", "matched")
    tally, truth = met(said(quantities), came()), came()
    fields = said(quantities).values[0]
    np.testing.assert_allclose(tally.mae, np.abs(fields[:, 1] - truth).mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(tally.rmse, np.sqrt(((fields[:, 0] - truth) ** 2).mean(axis=(1, 2))), rtol=1e-6)
    hits = ((fields[:, 2] >= 1) & (truth >= 1)).sum(axis=(1, 2))
    np.testing.assert_array_equal(tally.events[0, :, :, 1, 0], hits)


def test_intervals_are_those_of_the_network_not_of_what_filled_in_for_it() -> None:
    forecast, truth = said(("mean", "q10", "q50", "q90")), came()
    whole = met(forecast, truth).coverage
    forecast.source[..., :3] = Source.EXTRAPOLATION
    part = met(forecast, truth).coverage
    assert whole is not None
    assert part is not None
    assert part.count.sum() == whole.count.sum() / 2 == LEADS * SIDE * SIDE / 2


def test_a_perfect_forecast_has_no_error_and_every_event() -> None:
    truth = came()
    perfect = Forecast(
        truth[None, :, None], np.ones((1, *truth.shape[:3]), np.uint8), np.zeros((1, *truth.shape[:3]), np.float32)
    )
    tally = met(perfect, truth)
    assert tally.mae.max() == 0
    np.testing.assert_array_equal(tally.csi, 1)


def test_events_of_cold_are_values_under_the_threshold() -> None:
    cold = Events((220.0,), below=True)
    assert cold.met(np.array([219.0, 220.0, np.nan])).tolist() == [[True, False, False]]
    assert Events((220.0,)).met(np.array([219.0, 220.0, np.nan])).tolist() == [[False, True, False]]


def test_pixels_without_truth_or_newest_input_do_not_count() -> None:
    truth, newest = came(), np.ones((SIDE, SIDE, 1), bool)
    truth[0, 0], newest[:, 1] = np.nan, False
    tally = meet(Pair(said(), truth), newest, 0, (WET,), measures=Measures(), floors=(-np.inf,))
    assert tally.count[0, :, 0].tolist() == [SIDE * SIDE - SIDE - SIDE + 1, *[SIDE * SIDE - SIDE] * 2]
    assert tally.events.sum(axis=-1).max() <= tally.count.max()


def test_a_forecast_that_leaves_out_what_counts_is_refused() -> None:
    forecast = said()
    forecast.values[0, 1, 0, 2, 3, 0] = np.nan
    with pytest.raises(ValueError, match="missing at 1 pixels"):
        met(forecast, came())
    truth = came()
    truth[1, 2, 3] = np.nan
    assert met(forecast, truth).count.sum() == LEADS * SIDE * SIDE - 1


def test_under_the_floor_nothing_is_wrong() -> None:
    tally = met(said(), np.minimum(came(), -1), floors=(10.0,))
    assert tally.mae.max() == 0


def test_coverage_of_all_init_times_adds_up() -> None:
    forecasts = [said(("q10", "q50", "q90"), seed) for seed in range(2)]
    parts = [
        met(one, came(seed), seed, measures=Measures(squared="q50", events="q50")) for seed, one in enumerate(forecasts)
    ]
    whole = Tally.joined(parts[::-1])
    assert whole.slots.tolist() == [0, 1]
    assert whole.coverage is not None
    inside = [
        (one.values[0, :, 0] <= came(seed)) & (came(seed) <= one.values[0, :, 2]) for seed, one in enumerate(forecasts)
    ]
    np.testing.assert_allclose(whole.coverage.closed, np.mean(inside, axis=(0, 2, 3)))
    assert met(said(), came()).coverage is None


@pytest.mark.parametrize("quantities", [("mean",), ("mean", "q10", "q90")])
def test_a_tally_survives_json(quantities: tuple[str, ...]) -> None:
    tally = met(said(quantities), came())
    again = Tally.from_json(json.loads(json.dumps(tally.to_json())))
    np.testing.assert_array_equal(again.mae, tally.mae)
    np.testing.assert_array_equal(again.csi, tally.csi)
    assert (again.coverage is None) == (tally.coverage is None)
    assert again.to_json() == tally.to_json()
