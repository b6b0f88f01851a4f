import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.metrics import ErrorSums, Moments, bias, correlation, mae, psnr, rmse, skill
from tests.pipeline.twofields import fields, holes, plane


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
    np.testing.assert_allclose(correlation(truth, truth), 1)


def test_pixels_unknown_in_either_do_not_count() -> None:
    forecast, truth = flat(1, np.nan, 7, np.nan), flat(3, 5, np.nan, np.nan)
    np.testing.assert_array_equal(mae(forecast, truth), [[2]])
    assert Moments.of(forecast, truth).count.item() == 1


def test_a_score_of_no_pixels_is_nan() -> None:
    nothing = flat(np.nan, np.nan)
    for score in (mae, rmse, bias, correlation):
        assert np.isnan(score(nothing, flat(1, 2))).all()


def test_rmse_is_never_below_mae_and_mae_never_below_bias() -> None:
    forecast, truth = pair()
    assert (rmse(forecast, truth) >= mae(forecast, truth)).all()
    assert (mae(forecast, truth) >= np.abs(bias(forecast, truth))).all()


def test_swapping_forecast_and_truth_turns_the_bias_and_keeps_the_rest() -> None:
    forecast, truth = pair()
    np.testing.assert_allclose(bias(forecast, truth), -bias(truth, forecast))
    np.testing.assert_allclose(rmse(forecast, truth), rmse(truth, forecast))
    np.testing.assert_allclose(correlation(forecast, truth), correlation(truth, forecast))


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


def test_correlation_sees_no_scale_and_no_level() -> None:
    forecast, truth = pair()
    np.testing.assert_allclose(correlation(4 * forecast, truth), correlation(forecast, truth))
    np.testing.assert_allclose(correlation(forecast - 7, truth), correlation(forecast, truth), rtol=1e-5)
    np.testing.assert_allclose(correlation(-forecast, truth), -correlation(forecast, truth))


@pytest.mark.parametrize("level", [0.0, 0.1, 273.15, 1e6])
def test_a_constant_field_has_no_correlation(level: float) -> None:
    _, truth = pair()
    assert np.isnan(correlation(np.full_like(truth, level), truth)).all()
    assert np.isnan(correlation(truth, np.full_like(truth, level))).all()


def test_moments_of_init_times_pool_their_pixels_also_beside_large_values() -> None:
    first, second = ([field + np.float32(4096) for field in pair(seed)] for seed in (1, 2))
    pooled = Moments.of(*first) + Moments.of(*second)
    side_by_side = [np.concatenate(both, axis=2) for both in zip(first, second, strict=True)]
    together = Moments.of(side_by_side[0], side_by_side[1])
    np.testing.assert_array_equal(pooled.count, together.count)
    np.testing.assert_allclose(pooled.correlation, together.correlation)
    np.testing.assert_allclose(pooled.bias, bias(side_by_side[0], side_by_side[1]))


def test_an_init_time_without_pixels_changes_no_moment() -> None:
    forecast, truth = pair()
    empty, one = Moments.of(np.full_like(forecast, np.nan), truth), Moments.of(forecast, truth)
    for pooled in (empty + one, one + empty):
        np.testing.assert_allclose(pooled.correlation, one.correlation)
        np.testing.assert_allclose(pooled.bias, one.bias)


# xskillscore 0.0.29, pearson_r(forecast, truth), and with holes in the truth, skipna=True; scores 2.7.0: the same
XSKILLSCORE, XSKILLSCORE_HOLES = 0.8227346019954306, 0.8292578977980002
# scikit-image 0.26.0, peak_signal_noise_ratio(truth, forecast, data_range=10)
SKIMAGE = 29.477043933456937


def test_correlation_is_that_of_xskillscore_and_scores() -> None:
    forecast, truth = fields()
    np.testing.assert_allclose(correlation(forecast, truth), XSKILLSCORE, rtol=0, atol=1e-6)
    known = np.where(holes(), np.float32(np.nan), truth)
    np.testing.assert_allclose(correlation(forecast, known), XSKILLSCORE_HOLES, rtol=0, atol=1e-6)


def test_correlation_is_that_of_the_installed_scores() -> None:
    peer = pytest.importorskip("scores.continuous.correlation")
    from xarray import DataArray

    said, came = (DataArray(plane(field), dims=("y", "x")) for field in fields())
    np.testing.assert_allclose(correlation(*fields()), float(peer.pearsonr(said, came)), rtol=0, atol=1e-6)


def test_psnr_is_that_of_scikit_image() -> None:
    np.testing.assert_allclose(psnr(rmse(*fields()), 10), SKIMAGE, rtol=0, atol=1e-6)


def test_psnr_is_that_of_the_installed_scikit_image() -> None:
    peer = pytest.importorskip("skimage.metrics")
    forecast, truth = fields()
    theirs = peer.peak_signal_noise_ratio(plane(truth), plane(forecast), data_range=10)
    np.testing.assert_allclose(psnr(rmse(forecast, truth), 10), theirs, rtol=0, atol=1e-6)


def test_psnr_without_error_is_infinite_and_without_pixels_unknown() -> None:
    np.testing.assert_array_equal(psnr(np.array([0.0, np.nan, 1.0]), 10), [np.inf, np.nan, 20])


def test_skill_is_one_for_perfect_zero_for_equal_and_negative_for_worse() -> None:
    np.testing.assert_allclose(skill(np.array([0.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])), [1, 0, -0.5])


def test_skill_against_a_faultless_or_unknown_baseline_is_nan() -> None:
    assert np.isnan(skill(np.array([1.0, 1.0]), np.array([0.0, np.nan]))).all()


def test_different_shapes_are_refused() -> None:
    forecast, truth = pair()
    with pytest.raises(ValueError, match=r"\(lead, y, x, band\)"):
        mae(forecast[:2], truth)
    with pytest.raises(ValueError, match=r"\(lead, y, x, band\)"):
        correlation(forecast[0], truth[0])
