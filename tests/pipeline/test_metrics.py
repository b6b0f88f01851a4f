import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.metrics import ErrorSums, bias, csi, mae, rmse, skill


def pair(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Forecast and truth of 3 leads and 2 bands, a fifth of each missing."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(2, 3, 8, 9, 2)).astype(np.float32)
    fields[rng.random(fields.shape) < 0.2] = np.nan
    return fields[0], fields[1]


def flat(*pixels: float) -> NDArray[np.float32]:
    """One lead, one band, the pixels in a row."""
    return np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def test_scores_stand_by_lead_and_band() -> None:
    forecast, truth = pair()
    for score in (mae, rmse, bias):
        together = score(forecast, truth)
        assert together.shape == (3, 2)
        np.testing.assert_allclose(score(forecast[1:2, ..., 1:], truth[1:2, ..., 1:])[0, 0], together[1, 1])


def test_values_by_hand() -> None:
    forecast, truth = flat(1, 2, 5), flat(0, 4, 5)
    np.testing.assert_allclose(mae(forecast, truth), 1)
    np.testing.assert_allclose(rmse(forecast, truth), np.sqrt(5 / 3))
    np.testing.assert_allclose(bias(forecast, truth), -1 / 3)


def test_a_perfect_forecast_makes_no_error() -> None:
    _, truth = pair()
    assert not mae(truth, truth).any()
    assert (csi(truth, truth, 0.5) == 1).all()


def test_pixels_unknown_in_either_do_not_count() -> None:
    forecast, truth = flat(1, np.nan, 7, np.nan), flat(3, 5, np.nan, np.nan)
    np.testing.assert_array_equal(mae(forecast, truth), [[2]])
    np.testing.assert_array_equal(csi(forecast, truth, 1), [[1]])


def test_a_score_of_no_pixels_is_nan() -> None:
    nothing = flat(np.nan, np.nan)
    for score in (mae, rmse, bias):
        assert np.isnan(score(nothing, flat(1, 2))).all()
    assert np.isnan(csi(nothing, flat(1, 2), 1)).all()


def test_rmse_is_never_below_mae_and_mae_never_below_bias() -> None:
    forecast, truth = pair()
    assert (rmse(forecast, truth) >= mae(forecast, truth)).all()
    assert (mae(forecast, truth) >= np.abs(bias(forecast, truth))).all()


def test_swapping_forecast_and_truth_turns_the_bias_and_keeps_the_rest() -> None:
    forecast, truth = pair()
    np.testing.assert_allclose(bias(forecast, truth), -bias(truth, forecast))
    np.testing.assert_allclose(rmse(forecast, truth), rmse(truth, forecast))
    np.testing.assert_array_equal(csi(forecast, truth, 0.5), csi(truth, forecast, 0.5))


def test_sums_over_init_times_pool_their_pixels() -> None:
    first, second = pair(1), pair(2)
    pooled = ErrorSums.of(*first) + ErrorSums.of(*second)
    side_by_side = [np.concatenate(fields, axis=2) for fields in zip(first, second, strict=True)]
    together = ErrorSums.of(side_by_side[0], side_by_side[1])
    np.testing.assert_array_equal(pooled.count, together.count)
    for score in ("mae", "rmse", "bias"):
        np.testing.assert_allclose(getattr(pooled, score), getattr(together, score))


def test_an_init_time_without_pixels_changes_no_score() -> None:
    forecast, truth = pair()
    empty = ErrorSums.of(np.full_like(forecast, np.nan), truth)
    np.testing.assert_array_equal((ErrorSums.of(forecast, truth) + empty).mae, mae(forecast, truth))


def test_the_median_is_scored_by_its_absolute_error_and_the_mean_by_the_rest() -> None:
    truth, mean, median = flat(0, 4, 5), flat(1, 2, 5), flat(0, 4, 8)
    sums = ErrorSums.of(mean, truth, median=median)
    np.testing.assert_array_equal(sums.mae, ErrorSums.of(median, truth).mae)
    np.testing.assert_array_equal(sums.rmse, rmse(mean, truth))
    np.testing.assert_array_equal(sums.bias, bias(mean, truth))


def test_an_interval_holds_its_ends() -> None:
    truth, low, high = flat(0, 1, 2, 3, np.nan), flat(0, 0, 0, 0, 0), flat(0, 2, 2, 2, 2)
    sums = ErrorSums.of(flat(0, 1, 1, 1, 1), truth, interval=(low, high))
    assert sums.covered is not None
    assert (sums.covered.item(), sums.count.item(), sums.coverage.item()) == (3, 4, 0.75)


def test_a_pixel_without_an_interval_does_not_count() -> None:
    low = flat(0, np.nan)
    assert ErrorSums.of(flat(1, 1), flat(1, 1), interval=(low, flat(2, 2))).count.item() == 1


def test_without_an_interval_there_is_no_coverage() -> None:
    assert np.isnan(ErrorSums.of(*pair()).coverage).all()


def test_coverage_pools_over_init_times_that_have_it() -> None:
    one = ErrorSums.of(flat(1), flat(1), interval=(flat(0), flat(2)))
    other = ErrorSums.of(flat(1, 1, 1), flat(3, 3, 1), interval=(flat(0, 0, 0), flat(2, 2, 2)))
    assert (one + other).coverage.item() == 0.5
    assert (one + ErrorSums.of(flat(1), flat(1))).covered is None


def test_many_small_errors_beside_large_values_are_not_lost() -> None:
    truth = np.full((1, 1000, 1000, 1), 4096, np.float32)
    forecast = truth + np.float32(0.001953125)  # exact in float32 beside 4096; a float32 sum of a million is not
    np.testing.assert_allclose(mae(forecast, truth), 0.001953125, rtol=1e-12)
    np.testing.assert_allclose(rmse(forecast, truth), 0.001953125, rtol=1e-12)


def test_csi_counts_hits_misses_and_false_alarms() -> None:
    forecast, truth = flat(5, 5, 0, 0, 5), flat(5, 0, 5, 0, 5)
    np.testing.assert_allclose(csi(forecast, truth, 5), 2 / 4)


def test_csi_of_an_event_that_neither_came_nor_was_forecast_is_nan() -> None:
    assert np.isnan(csi(flat(1, 2), flat(2, 1), 9)).all()


def test_skill_is_one_for_perfect_zero_for_equal_and_negative_for_worse() -> None:
    np.testing.assert_allclose(skill(np.array([0.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])), [1, 0, -0.5])


def test_skill_against_a_faultless_or_unknown_baseline_is_nan() -> None:
    assert np.isnan(skill(np.array([1.0, 1.0]), np.array([0.0, np.nan]))).all()


def test_different_shapes_are_refused() -> None:
    forecast, truth = pair()
    with pytest.raises(ValueError, match=r"\(lead, y, x, band\)"):
        mae(forecast[:2], truth)
    with pytest.raises(ValueError, match=r"\(lead, y, x, band\)"):
        csi(forecast[0], truth[0], 1)
