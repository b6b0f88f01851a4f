import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.calibrating import fit, updated
from pipeline.calibration import Calibrated, Calibration, in_order
from pipeline.coverage import Coverage
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.pairs import Pair
from pipeline.predictor import Context, Forecast

FREE = ((-np.inf, np.inf),)
RAIN = ((0.0, 100.0),)
QUANTITIES = ("mean", "q10", "q50", "q90")
LEVELS = (0.1, 0.5, 0.9)
NORMAL = {0.1: -1.2816, 0.5: 0.0, 0.9: 1.2816}  # quantiles of the standard normal distribution


@dataclass(frozen=True)
class Fixed:
    """Says the same, whatever it sees."""

    said: Forecast

    def predict(self, context: Context, horizon: int) -> Forecast:
        return self.said


NOTHING = Context(
    np.zeros((1, 1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1, 1), bool), np.zeros((1, 1), int), np.zeros((1, 1), "f4")
)


def forecast(quantiles: Sequence[NDArray[np.floating]], quantities: tuple[str, ...] = QUANTITIES) -> Forecast:
    """Of layers ``(lead, y, x, band)``; the mean, if it is named first, is the median."""
    layers = [quantiles[1], *quantiles] if quantities[0] == "mean" else quantiles
    values = np.stack(layers, axis=1)[None].astype(np.float32)
    shape = (1, values.shape[1], *values.shape[3:5])
    return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), quantities)


def hot(seed: int, sure: float = 0.5, side: int = 60, leads: int = 1) -> Pair:
    """Normal truths of known mean and much varying spread, of which the forecast believes only the part ``sure``."""
    rng = np.random.default_rng(seed)
    shape = (leads, side, side, 1)
    middle, spread = rng.normal(size=shape), np.exp(rng.normal(size=shape))
    truth = middle + spread * rng.normal(size=shape)
    return Pair(forecast([middle + sure * spread * NORMAL[one] for one in LEVELS]), truth.astype(np.float32))


def rainy(seed: int, sure: float = 0.7, drizzle: float = 0.0) -> Pair:
    """Three pixels of five are far from rain; a network's ``drizzle`` keeps its outer quantiles off the floor."""
    rng = np.random.default_rng(seed)
    shape = (1, 90, 90, 1)
    middle = np.where(rng.random(shape) < 0.6, -8, rng.normal(size=shape) * 3)
    truth = np.clip(middle + 1.5 * rng.normal(size=shape), 0, None)
    noise = drizzle * np.abs(rng.normal(size=shape))
    said = [np.clip(middle + 1.5 * sure * NORMAL[one], 0, None) + noise * (one != 0.5) for one in LEVELS]
    return Pair(forecast(said), truth.astype(np.float32))


def calibrated(calibration: Calibration, pair: Pair) -> Pair:
    return replace(pair, said=Calibrated(Fixed(pair.said), calibration).predict(NOTHING, len(pair.truth)))


def covered(pairs: list[Pair], valid: tuple[tuple[float, float], ...]) -> Coverage:
    found = Coverage.of(pairs[0], valid)
    for pair in pairs[1:]:
        found += Coverage.of(pair, valid)
    return found


@pytest.mark.parametrize("sure", [0.4, 1.0, 2.5])
def test_new_truths_are_covered_as_promised_whether_it_was_too_sure_or_too_shy(sure: float) -> None:
    calibration = fit((hot(seed, sure) for seed in range(4)), FREE)
    found = covered([calibrated(calibration, hot(seed, sure)) for seed in range(10, 13)], FREE)
    np.testing.assert_allclose(found.closed, 0.8, atol=0.015)


def test_each_side_is_missed_as_often_as_the_other() -> None:
    calibration = fit((hot(seed) for seed in range(4)), FREE)
    pair = calibrated(calibration, hot(9, side=150))
    below = (pair.truth < pair.said.of("q10")[0]).mean()
    above = (pair.truth > pair.said.of("q90")[0]).mean()
    np.testing.assert_allclose([below, above], 0.1, atol=0.012)


def test_narrow_and_wide_intervals_are_both_covered_as_promised() -> None:
    calibration = fit((hot(seed) for seed in range(4)), FREE)
    given, pair = hot(9, side=150), calibrated(calibration, hot(9, side=150))
    inside = (pair.said.of("q10") <= pair.truth) & (pair.truth <= pair.said.of("q90"))
    width = given.said.of("q90") - given.said.of("q10")
    for wide in (True, False):
        np.testing.assert_allclose(inside[(width > np.median(width)) == wide].mean(), 0.8, atol=0.05)
    assert (np.diff(calibration.move[0, 0, :, 1:]) > 0).all()


def test_every_lead_and_band_has_moves_of_its_own() -> None:
    def two(seed: int) -> Pair:
        one, other = hot(seed, 0.3, leads=2), hot(seed + 100, 1.0, leads=2)
        values = np.concatenate([one.said.values, other.said.values], axis=-1)
        values[:, 1, 1] -= 5
        values[:, 1, 3] += 5
        return Pair(replace(one.said, values=values), np.concatenate([one.truth, other.truth], axis=-1))

    calibration = fit((two(seed) for seed in range(4)), FREE * 2)
    found = Coverage.of(calibrated(calibration, two(9)), FREE * 2)
    np.testing.assert_allclose(found.closed, 0.8, atol=0.03)


@pytest.mark.parametrize("drizzle", [0.0, 0.05])
def test_dry_pixels_are_covered_as_promised_by_randomised_pit(drizzle: float) -> None:
    calibration = fit((rainy(seed, drizzle=drizzle) for seed in range(4)), RAIN)
    given = [rainy(seed, drizzle=drizzle) for seed in range(10, 13)]
    found = covered([calibrated(calibration, pair) for pair in given], RAIN)
    np.testing.assert_allclose(found.randomised, 0.8, atol=0.02)
    assert abs(covered(given, RAIN).randomised - 0.8) > 0.03


def test_a_bound_at_the_floor_stays_there_where_it_is_dry_often_enough() -> None:
    calibration = fit((rainy(seed) for seed in range(4)), RAIN)
    assert calibration.apart.all()
    np.testing.assert_array_equal(calibration.move[0, 0, :, 0], 0)


def test_a_bound_at_the_floor_rises_where_it_is_too_seldom_dry() -> None:
    def wetter(seed: int) -> Pair:
        truth = np.random.default_rng(seed).gamma(2, 1, (1, 60, 60, 1)).astype(np.float32)
        return Pair(forecast([np.zeros_like(truth)] * 3), truth)

    calibration = fit((wetter(seed) for seed in range(3)), RAIN)
    pair = calibrated(calibration, wetter(9))
    np.testing.assert_allclose((pair.truth > pair.said.of("q90")[0]).mean(), 0.1, atol=0.015)


def test_bounds_stay_within_the_valid_range_and_never_pass_the_median() -> None:
    shy = fit((rainy(seed, sure=3.0) for seed in range(3)), RAIN)
    sure = fit((rainy(seed, sure=0.1) for seed in range(3)), ((0.0, 3.0),))
    for calibration, high in ((shy, 100.0), (sure, 3.0)):
        pair = calibrated(calibration, rainy(9))
        low, middle, up = (pair.said.of(name) for name in ("q10", "q50", "q90"))
        assert low.min() >= 0
        assert ((up <= high) | (up == middle)).all()
        assert (low <= middle).all()
        assert (middle <= up).all()


def test_mean_and_median_and_source_stay_as_they_are() -> None:
    pair = hot(5)
    said = calibrated(fit([hot(1)], FREE), pair).said
    for name in ("mean", "q50"):
        np.testing.assert_array_equal(said.of(name), pair.said.of(name))
    np.testing.assert_array_equal(said.source, pair.said.source)
    assert (said.of("q90") > pair.said.of("q90")).all()


def test_the_inner_forecast_is_not_written_to() -> None:
    pair = hot(5)
    before = pair.said.values.copy()
    calibrated(fit([hot(1)], FREE), pair)
    np.testing.assert_array_equal(pair.said.values, before)


def test_of_few_pixels_it_is_the_order_statistic_of_split_conformal_prediction() -> None:
    truth = np.random.default_rng(0).permutation(np.arange(1, 100)).reshape(1, 9, 11, 1).astype(np.float32)
    zeros = np.zeros_like(truth)
    calibration = fit([Pair(forecast([zeros - 500, zeros, zeros]), truth)], FREE)
    assert calibration.move[0, 0, 1, 1] == 90  # the ceil(0.9 * 100)-th of 99


def test_unknown_pixels_stay_unknown_and_do_not_count() -> None:
    pair = hot(1)
    holes = pair.said.values.copy()
    holes[..., :30, :] = np.nan
    half = Pair(replace(pair.said, values=holes), pair.truth)
    calibration = fit([half], FREE)
    assert sum(misses.total for misses in calibration.misses.values()) == 2 * pair.truth.size / 2
    np.testing.assert_array_equal(np.isnan(calibrated(calibration, half).said.values), np.isnan(holes))


def test_a_seeded_sample_of_the_pixels_stands_for_all() -> None:
    pairs = [hot(seed, side=120) for seed in range(4)]
    part = fit(pairs, FREE, rows=6000)
    assert sum(misses.total for misses in part.misses.values()) == pytest.approx(2 * 4 * 120**2)
    np.testing.assert_allclose(Coverage.of(calibrated(part, hot(9, side=120)), FREE).closed, 0.8, atol=0.02)
    assert fit(pairs, FREE, rows=6000).digest == part.digest != fit(pairs, FREE, rows=6000, seed=1).digest


def test_newer_truths_turn_the_moves_and_more_so_with_a_shorter_half_life() -> None:
    calibration = fit((hot(seed, sure=1.0) for seed in range(6)), FREE)
    newer = [hot(seed, sure=0.4) for seed in range(20, 28)]
    moves = [calibration.move, *(updated(calibration, newer, half_life=life).move for life in (50, 12, 2))]
    means = [move[0, 0, :, 1:].mean() for move in moves]
    assert means == sorted(means)
    quick = calibrated(updated(calibration, newer, half_life=2), hot(40, sure=0.4, side=120))
    np.testing.assert_allclose(Coverage.of(quick, FREE).closed, 0.8, atol=0.02)


def test_truths_like_the_earlier_ones_change_little() -> None:
    calibration = fit((hot(seed, side=120) for seed in range(4)), FREE)
    after = updated(calibration, (hot(seed, side=120) for seed in range(20, 24)))
    np.testing.assert_allclose(after.move, calibration.move, atol=0.2)
    assert 4 < after.inits < 8


def test_an_update_in_two_parts_is_the_update_in_one() -> None:
    calibration, newer = fit([hot(0)], FREE), [hot(seed) for seed in range(3)]
    parts = updated(updated(calibration, newer[:2]), newer[2:])
    np.testing.assert_allclose(parts.move, updated(calibration, newer).move)


def test_a_lead_without_truth_moves_nothing_until_truths_arrive() -> None:
    pairs = [hot(seed, leads=2) for seed in range(4)]
    for pair in pairs:
        pair.truth[1] = np.nan
    calibration = fit(pairs, FREE)
    assert not calibration.move[1].any()
    after = updated(calibration, [hot(seed, leads=2, side=120) for seed in range(4, 8)], half_life=np.inf)
    found = Coverage.of(calibrated(after, hot(9, leads=2, side=120)), FREE)
    np.testing.assert_allclose(found.closed, 0.8, atol=0.03)


def test_json_keeps_everything() -> None:
    calibration = fit([rainy(0)], ((0.0, np.inf),))
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False)))
    assert again.digest == calibration.digest
    np.testing.assert_array_equal(again.move, calibration.move)
    pair = rainy(1)
    np.testing.assert_array_equal(calibrated(again, pair).said.values, calibrated(calibration, pair).said.values)
    assert updated(again, [pair]).digest == updated(calibration, [pair]).digest != calibration.digest


def test_nothing_to_fit_to_is_an_error() -> None:
    with pytest.raises(NotEnoughFramesError, match="quantiles and their truth"):
        fit([], FREE)


def test_other_quantiles_or_more_leads_than_fitted_are_refused() -> None:
    calibration = fit([hot(0)], FREE)
    with pytest.raises(ModelError, match="1 leads"):
        calibrated(calibration, hot(1, leads=2))
    other = replace(hot(1).said, quantities=("mean", "q05", "q50", "q95"))
    with pytest.raises(ModelError, match="fit it again"):
        Calibrated(Fixed(other), calibration).predict(NOTHING, 1)


def test_ordered_bounds_do_not_cross_each_other_with_and_without_a_median() -> None:
    bounds = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    for median in (None, np.zeros(50, np.float32)):
        ordered = in_order(bounds, (0.05, 0.25, 0.75, 0.95), median)
        assert (np.diff(ordered, axis=0) >= 0).all()
    right = np.sort(bounds, axis=0)
    np.testing.assert_array_equal(in_order(right, (0.05, 0.25, 0.75, 0.95), None), right)
