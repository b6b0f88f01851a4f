import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.quantiles import QuantileSums
from tests.pipeline.twofields import TENTH, fields, holes, plane, quantiles

LEVELS = (0.1, 0.5, 0.9)


def flat(*pixels: float) -> NDArray[np.float32]:
    """One lead, one band, the pixels in a row."""
    return np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def said(*values: tuple[float, ...]) -> NDArray[np.float32]:
    """Quantiles of the pixels in a row, one tuple a level."""
    return np.stack([flat(*one) for one in values], axis=1)


def test_loss_and_reliability_by_hand() -> None:
    found = QuantileSums.of(said((1, 1), (2, 2), (3, 3)), flat(1, 4), LEVELS)
    np.testing.assert_allclose(found.mean_loss[0, 0], [(0 + 0.3) / 2, (0.5 + 1) / 2, (0.2 + 0.9) / 2])
    np.testing.assert_allclose(found.reliability[0, 0], [[0, 0.5], [0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize("dry", [0.0, 0.3, 0.95])
def test_levels_of_a_perfect_forecast_lie_between_below_and_at_however_much_is_dry(dry: float) -> None:
    chance = np.random.default_rng(0).random(20_000)
    truth = flat(*np.where(chance < dry, 0, chance - dry))
    perfect = said(*([max(0.0, level - dry)] * 20_000 for level in LEVELS))
    below, upto = np.moveaxis(QuantileSums.of(perfect, truth, LEVELS).reliability[0, 0], -1, 0)
    assert (below <= np.array(LEVELS) + 0.01).all()
    assert (upto >= np.array(LEVELS) - 0.01).all()


def test_quantiles_that_are_all_one_value_have_its_absolute_error_as_crps() -> None:
    forecast, truth = fields()
    found = QuantileSums.of(np.stack([forecast] * 3, axis=1), truth, LEVELS)
    np.testing.assert_allclose(found.crps, np.abs(forecast.astype(np.float64) - truth).mean())


def test_pixels_whose_truth_or_any_quantile_is_unknown_do_not_count() -> None:
    found = QuantileSums.of(said((1, np.nan, 1), (2, 2, 2), (3, 3, 3)), flat(1, 2, np.nan), LEVELS)
    assert found.count.item() == 1
    nothing = QuantileSums.of(said((1,), (2,), (3,)), flat(np.nan), LEVELS)
    assert np.isnan(nothing.crps).all()
    assert np.isnan(nothing.reliability).all()


def test_sums_of_init_times_pool_their_pixels() -> None:
    _, truth = fields()
    values = quantiles()
    upper, lower = (QuantileSums.of(values[:, :, rows], truth[:, rows], TENTH) for rows in (slice(7), slice(7, 40)))
    np.testing.assert_allclose((upper + lower).crps, QuantileSums.of(values, truth, TENTH).crps)


def test_levels_that_do_not_rise_or_do_not_fit_are_refused() -> None:
    for levels in ((0.9, 0.5, 0.1), (0.1, 0.9), (0.1, 0.1, 0.9)):
        with pytest.raises(ValueError, match="rising levels"):
            QuantileSums.of(said((1,), (2,), (3,)), flat(1), levels)


# scores 2.7.0, crps_for_ensemble(quantiles, truth, method="ecdf"), and xskillscore 0.0.29, crps_ensemble: the same
SCORES_CRPS = 0.2442665097005665
# scores 2.7.0, quantile_score(quantile, truth, alpha=level) at the levels 0.05, 0.45 and 0.95
SCORES_LOSS = [0.03856606307749946, 0.14444908315315844, 0.054239845039943904]


def test_crps_and_quantile_scores_are_those_of_scores_and_xskillscore() -> None:
    found = QuantileSums.of(quantiles(), fields()[1], TENTH)
    np.testing.assert_allclose(found.crps, SCORES_CRPS, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean_loss[0, 0, [0, 4, 9]], SCORES_LOSS, rtol=0, atol=1e-6)


def test_crps_and_quantile_scores_with_holes_are_those_of_the_installed_scores() -> None:
    continuous = pytest.importorskip("scores.continuous")
    probability = pytest.importorskip("scores.probability")
    from xarray import DataArray

    truth = np.where(holes(), np.float32(np.nan), fields()[1])
    found = QuantileSums.of(quantiles(), truth, TENTH)
    came = DataArray(plane(truth), dims=("y", "x"))
    ensemble = DataArray(quantiles()[0, ..., 0].astype(np.float64), dims=("member", "y", "x"))
    theirs = float(probability.crps_for_ensemble(ensemble, came, "member", method="ecdf"))
    np.testing.assert_allclose(found.crps, theirs, rtol=0, atol=1e-6)
    losses = [float(continuous.quantile_score(one, came, alpha=a)) for one, a in zip(ensemble, TENTH, strict=True)]
    np.testing.assert_allclose(found.mean_loss[0, 0], losses, rtol=0, atol=1e-6)
