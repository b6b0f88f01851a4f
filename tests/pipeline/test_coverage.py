from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.coverage import Coverage, quantile_levels
from pipeline.pairs import Pair
from pipeline.predictor import Forecast

FREE = ((-np.inf, np.inf),)
RAIN = ((0.0, np.inf),)


def pair(quantiles: Sequence[tuple[float, ...]], truth: Sequence[float]) -> Pair:
    """One lead, one band, the pixels in a row; quantiles q10, q50, q90 of each pixel."""
    values = np.array(quantiles, np.float32).T.reshape(1, 1, 3, 1, -1, 1)
    shape = (1, 1, 1, len(truth))
    said = Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), ("q10", "q50", "q90"))
    return Pair(said, np.array(truth, np.float32).reshape(1, 1, -1, 1))


def rain(dry: float, seed: int = 0, pixels: int = 20_000) -> Pair:
    """Perfect quantiles of rain that is 0 with a chance ``dry``, else evenly spread between 0 and 1."""
    quantiles = [max(0.0, (level - dry) / (1 - dry)) for level in (0.1, 0.5, 0.9)]
    chance = np.random.default_rng(seed).random(pixels)
    truth = np.where(chance < dry, 0, (chance - dry) / (1 - dry))
    return pair([tuple(quantiles)] * pixels, truth.tolist())


def only(values: NDArray[np.float64]) -> float:
    assert values.shape == (1, 1)
    return float(values[0, 0])


def test_values_by_hand() -> None:
    found = Coverage.of(pair([(1, 2, 3)] * 4, [1, 3, 3.5, 0]), FREE)
    assert only(found.closed) == only(found.randomised) == only(found.above_floor) == 0.5
    assert only(found.mean_width) == 2
    np.testing.assert_allclose(
        found.mean_pinball[0, 0], [(0 + 0.2 + 0.25 + 0.9) / 4, 0.6875, (0.2 + 0 + 0.45 + 0.3) / 4]
    )
    np.testing.assert_allclose(only(found.crps), 2 * (0.3 * 0.3375 + 0.4 * 0.6875 + 0.3 * 0.2375))
    np.testing.assert_allclose(found.nominal, 0.8)


@pytest.mark.parametrize("dry", [0.0, 0.05, 0.3, 0.7, 0.95])
def test_a_perfect_forecast_is_covered_as_promised_however_much_is_dry(dry: float) -> None:
    found = Coverage.of(rain(dry), RAIN)
    np.testing.assert_allclose(only(found.randomised), 0.8, atol=0.01)
    low, high = found.randomised_range
    assert only(low) <= only(found.randomised) <= only(high)


def test_the_closed_interval_covers_more_than_promised_where_much_is_dry() -> None:
    assert only(Coverage.of(rain(0.3), RAIN).closed) > 0.89


def test_bounds_at_the_floor_are_no_excuse_where_it_is_rarely_dry() -> None:
    wet = pair([(0, 0, 0)] * 10, [1] * 9 + [0])
    assert only(Coverage.of(wet, RAIN).randomised) < 0.1
    too_low = pair([(0, 1, 2)] * 100, [0] * 2 + [1] * 98)
    np.testing.assert_allclose(only(Coverage.of(too_low, RAIN).randomised), 0.98)


def test_a_truth_at_the_floor_below_the_interval_is_a_miss() -> None:
    found = Coverage.of(pair([(0.1, 1, 2)] * 2, [0, 1]), RAIN)
    assert only(found.closed) == only(found.randomised) == 0.5


def test_pixels_with_upper_ends_at_the_floor_are_left_out_above_it() -> None:
    found = Coverage.of(pair([(0, 0, 0), (0, 1, 2), (0, 1, 2)], [0, 1, 3]), RAIN)
    assert only(found.above_floor) == 0.5
    assert np.isnan(only(Coverage.of(pair([(0, 0, 0)], [0]), RAIN).above_floor))


def test_what_lies_below_the_floor_counts_as_the_floor() -> None:
    below = Coverage.of(pair([(-3, -1, 2)] * 2, [-2, 1]), RAIN)
    at = Coverage.of(pair([(0, 0, 2)] * 2, [0, 1]), RAIN)
    np.testing.assert_array_equal(below.count, at.count)
    assert only(below.mean_width) == only(at.mean_width) == 2


def test_sums_over_init_times_pool_their_pixels() -> None:
    first, second = rain(0.3, seed=1, pixels=50), rain(0.3, seed=2, pixels=150)
    said = Forecast(
        np.concatenate([first.said.values, second.said.values], axis=4),
        np.concatenate([first.said.source, second.said.source], axis=3),
        np.concatenate([first.said.age, second.said.age], axis=3),
        first.said.quantities,
    )
    together = Coverage.of(Pair(said, np.concatenate([first.truth, second.truth], axis=2)), RAIN)
    pooled = Coverage.of(first, RAIN) + Coverage.of(second, RAIN)
    for score in ("closed", "randomised", "mean_width", "crps"):
        np.testing.assert_allclose(getattr(pooled, score), getattr(together, score))


def test_unknown_pixels_do_not_count() -> None:
    found = Coverage.of(pair([(1, 2, 3), (1, np.nan, 3), (1, 2, 3)], [2, 2, np.nan]), FREE)
    assert found.count.sum() == 1
    nothing = Coverage.of(pair([(1, 2, 3)], [np.nan]), FREE)
    assert np.isnan([only(nothing.closed), only(nothing.randomised), only(nothing.mean_width)]).all()


def test_all_leads_as_one_weigh_every_pixel_alike() -> None:
    values = np.tile(np.array([1, 2, 3], np.float32).reshape(1, 1, 3, 1, 1, 1), (1, 2, 1, 1, 3, 1))
    said = Forecast(values, np.ones((1, 2, 1, 3), np.uint8), np.zeros((1, 2, 1, 3), np.float32), ("q10", "q50", "q90"))
    truth = np.array([[2, 2, 2], [4, np.nan, np.nan]], np.float32).reshape(2, 1, 3, 1)
    found = Coverage.of(Pair(said, truth), FREE)
    np.testing.assert_array_equal(found.closed, [[1], [0]])
    assert only(found.total().closed) == 0.75


def test_a_forecast_without_an_interval_is_refused() -> None:
    shape = (1, 1, 2, 2)
    said = Forecast(np.zeros((1, 1, 2, 2, 2, 1), "f4"), np.zeros(shape, "u1"), np.zeros(shape, "f4"), ("mean", "q50"))
    with pytest.raises(ValueError, match="two quantiles"):
        quantile_levels(said)


def test_a_pair_is_of_one_init_time_and_matching_shapes() -> None:
    with pytest.raises(ValueError, match="one init time"):
        Pair(rain(0.3, pixels=4).said, np.zeros((1, 1, 5, 1), np.float32))
