from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.guard import Contest
from pipeline.predictor import Forecast, Source
from pipeline.proof import Judged, Proof, prove, strewn

QUANTITIES = ("mean", "q10", "q50", "q90")
LEVELS = (0.1, 0.5, 0.9)
FREE = ((-np.inf, np.inf),)
RAIN = ((0.0, np.inf),)
SHAPE = (2, 60, 70, 1)
"""Lead, y, x, band."""


def forecast(layers: dict[str, np.ndarray]) -> Forecast:
    values = np.stack(list(layers.values()), axis=1)[None].astype(np.float32)
    shape = (1, values.shape[1], *values.shape[3:5])
    return Forecast(values, np.full(shape, Source.NETWORK, np.uint8), np.zeros(shape, np.float32), tuple(layers))


def normal(seed: int, sure: float = 1.0, shift: float = 0.0) -> Contest:
    """Truths of a known normal law, of whose spread the network believes a part; extrapolation knows no better."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=SHAPE)
    layers = {"mean": middle, **{f"q{one:.0%}"[:-1]: middle + sure * norm.ppf(one) for one in LEVELS}}
    truth = middle + shift + rng.normal(size=SHAPE)
    return Contest(forecast(layers), forecast({"mean": middle}), truth.astype(np.float32))


def rain(seed: int) -> Contest:
    """Exact quantiles of a law that is zero in 7 cases of 10 where it is dry, and in 2 where it is wet."""
    rng = np.random.default_rng(seed)
    dry = np.where(rng.random(SHAPE) < 0.8, 0.95, 0.2)
    quantiles = [np.maximum(-np.log((1 - one) / (1 - dry)), 0) for one in LEVELS]
    layers = dict(zip(QUANTITIES, [1 - dry, *quantiles], strict=True))
    truth = np.maximum(-np.log(rng.random(SHAPE) / (1 - dry)), 0)
    return Contest(forecast(layers), forecast({"mean": 1 - dry}), truth.astype(np.float32))


def reliable(proof: Proof, within: float) -> bool:
    """Whether each level lies between the parts below its quantile, and below it or at it."""
    below, upto = proof.reliability[..., 0], proof.reliability[..., 1]
    levels = np.array(proof.levels)
    return bool(((below - within <= levels) & (levels <= upto + within)).all())


def test_perfect_quantiles_are_reliable_and_hold_what_they_promise() -> None:
    proof = Proof.of([normal(seed) for seed in range(3)], FREE, Judged.FITTED)
    assert proof.levels == LEVELS
    assert (proof.inits == 3).all()
    assert (proof.pixels == 3 * 60 * 70).all()
    np.testing.assert_allclose(proof.coverage, 0.8, atol=0.015)
    np.testing.assert_allclose(proof.reliability, np.broadcast_to(np.array(LEVELS)[:, None], (2, 1, 3, 2)), atol=0.01)


def test_perfect_quantiles_of_rain_that_is_mostly_zero_are_reliable_too() -> None:
    contests = [rain(seed) for seed in range(3)]
    assert np.mean([one.truth == 0 for one in contests]) > 0.7
    proof = Proof.of(contests, RAIN, Judged.FITTED)
    assert reliable(proof, within=0.01)
    np.testing.assert_allclose(proof.coverage, 0.8, atol=0.03)
    assert (proof.reliability[:, :, 1, 1] - proof.reliability[:, :, 1, 0] > 0.5).all()  # the median is mostly at zero


def test_intervals_that_are_too_narrow_are_not_reliable() -> None:
    proof = Proof.of([normal(seed, sure=0.3) for seed in range(3)], FREE, Judged.FITTED)
    assert (proof.coverage < 0.4).all()
    assert not reliable(proof, within=0.1)


def test_from_three_init_times_on_each_is_judged_by_what_the_others_teach() -> None:
    few, enough = ([normal(seed, sure=0.3) for seed in range(count)] for count in (2, 3))
    assert prove(few, FREE).judged is Judged.FITTED
    found = prove(enough, FREE)
    assert found.judged is Judged.LEFT_OUT
    np.testing.assert_allclose(found.coverage, 0.8, atol=0.02)  # the others have widened it
    assert reliable(found, within=0.02)


def test_what_was_left_out_does_not_flatter() -> None:
    """Each day's truths lie elsewhere: what was fitted to all of them holds more than the next day will."""
    days = [normal(seed, sure=0.3, shift=shift) for seed, shift in enumerate((-6, -2, 2, 6))]
    honest = prove(days, FREE)
    flattered = np.mean([prove(days[n : n + 2], FREE).coverage for n in range(3)])
    assert honest.coverage.mean() < flattered - 0.1


def test_figures_of_a_mended_forecast_are_of_the_mended_one() -> None:
    """Negative rain is no forecast that is published."""
    contests = [normal(seed) for seed in range(4)]
    dry = [Contest(one.model, one.baseline, np.maximum(one.truth, 0)) for one in contests]
    proof = prove(dry, RAIN)
    np.testing.assert_allclose(proof.coverage, 0.8, atol=0.03)
    assert reliable(proof, within=0.02)


def test_pixels_and_leads_without_truth_do_not_count() -> None:
    contest = normal(0)
    truth = contest.truth.copy()
    truth[0, :30] = np.nan
    truth[1] = np.nan
    proof = Proof.of([replace(contest, truth=truth), normal(1)], FREE, Judged.FITTED)
    assert proof.pixels[:, 0].tolist() == [60 * 70 + 30 * 70, 60 * 70]
    assert proof.inits[:, 0].tolist() == [2, 1]


def test_a_sample_of_pixels_is_the_same_pixels_of_all_parts() -> None:
    contest = normal(0)
    thin = strewn(contest, 500, seed=1)
    assert thin.truth.shape == (2, 1, 500, 1)
    error = (contest.truth - contest.model.of("mean")[0]).ravel()
    assert np.isin(thin.truth - thin.model.of("mean")[0], error).all()
    np.testing.assert_array_equal(thin.baseline.of("mean"), thin.model.of("mean"))


def test_a_sample_leaves_out_what_has_no_truth() -> None:
    contest = normal(0)
    truth = np.full_like(contest.truth, np.nan)
    truth[:, 5, 6] = 1.0
    assert strewn(Contest(contest.model, contest.baseline, truth), 500, seed=1).truth.shape == (2, 1, 1, 1)


def test_figures_survive_json_and_what_is_not_known_is_null() -> None:
    contest = normal(0)
    truth = contest.truth.copy()
    truth[1] = np.nan
    proof = Proof.of([replace(contest, truth=truth)], FREE, Judged.FITTED)
    document = json.loads(json.dumps(proof.to_json(), allow_nan=False))
    assert document["coverage"][1] == [None]
    again = Proof.from_json(document)
    assert again.to_json() == proof.to_json()
    np.testing.assert_array_equal(again.reliability, proof.reliability)
    np.testing.assert_array_equal(again.error, proof.error)
    assert (again.judged, again.levels) == (Judged.FITTED, LEVELS)


def test_errors_are_held_against_the_baseline_s_and_each_init_time_counts_as_much() -> None:
    """One day is a hundred times as rough as the other: it says no more of how much better the network is."""
    contests = []
    for seed, (part, rough) in enumerate([(0.25, 1.0), (1.0, 100.0)]):
        calm = normal(seed)
        middle = calm.model.of("mean")[0]
        apart = rough * (calm.truth - middle)
        own = forecast(dict.fromkeys(QUANTITIES, middle + (1 - part) * apart))
        contests.append(Contest(own, calm.baseline, middle + apart))
    np.testing.assert_allclose(Proof.of(contests, FREE, Judged.FITTED).error, 0.5, rtol=1e-3)


def test_a_calm_and_what_is_missing_say_nothing_of_errors() -> None:
    contest = normal(0)
    truth = contest.truth.copy()
    truth[0, :30] = np.nan
    truth[1] = contest.baseline.of("mean")[0][1]
    calm = replace(contest, truth=truth)
    assert Proof.of([calm], FREE, Judged.FITTED).error.ravel() == pytest.approx([1.0, np.nan], nan_ok=True)


def test_a_proof_of_before_errors_were_kept_has_none() -> None:
    document = prove([normal(seed) for seed in range(3)], FREE).to_json()
    del document["error"]
    assert np.isnan(Proof.from_json(document).error).all()


@pytest.mark.parametrize("count", [1, 4])
def test_the_same_contests_prove_the_same(count: int) -> None:
    contests = [normal(seed) for seed in range(count)]
    assert prove(contests, FREE).to_json() == prove(contests, FREE).to_json()
