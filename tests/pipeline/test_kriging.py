from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.climatology import YEAR
from pipeline.errors import NotEnoughFramesError
from pipeline.kriging import Covariance, Kriging, estimate_covariance, krige
from pipeline.predictor import Context, Source

MADE = Covariance(
    mean=0.4, constant=0.01, periodic=0.04, smoothness=1.0, memory=3000.0, weather=0.01, fading=40.0, noise=0.004
)


def drawn(days: NDArray[np.float64], pixels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Series whose covariance is the one above."""
    covariance = MADE.of(days[:, np.newaxis] - days) + MADE.noise * np.eye(len(days))
    return (MADE.mean + np.linalg.cholesky(covariance) @ rng.normal(size=(len(days), pixels))).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_each_pixel_gets_the_estimate_that_it_would_get_alone(rng: np.random.Generator) -> None:
    days = np.sort(rng.uniform(0, 900, 12))
    values = drawn(days, 40, rng)
    values[rng.random(values.shape) < 0.3] = np.nan
    lags = 910 - days[np.newaxis]
    together = krige(MADE, values, lags)
    for pixel in range(40):
        seen = np.isfinite(values[:, pixel])
        matrix = MADE.of(days[seen, np.newaxis] - days[seen]) + MADE.noise * np.eye(seen.sum())
        expected = MADE.mean + MADE.of(lags[0, seen]) @ np.linalg.solve(matrix, values[seen, pixel] - MADE.mean)
        assert together.mean[0, pixel] == pytest.approx(expected, abs=1e-5)


def test_errors_are_as_large_as_it_says_and_smaller_than_those_of_the_newest_value(rng: np.random.Generator) -> None:
    days = np.append(np.sort(rng.uniform(0, 1500, 40)), 1590.0)
    values = drawn(days, 3000, rng)
    said = krige(MADE, values[:-1], (days[-1] - days[:-1])[np.newaxis])
    errors = values[-1] - said.mean[0]
    assert (errors / said.deviation[0]).std() == pytest.approx(1, abs=0.05)
    assert np.abs(errors).mean() < 0.8 * np.abs(values[-1] - values[-2]).mean()


def test_a_pixel_without_a_past_has_the_mean_and_the_whole_variance() -> None:
    said = krige(MADE, np.full((3, 2), np.nan), np.array([[30.0, 20.0, 10.0]]))
    np.testing.assert_allclose(said.mean, MADE.mean, rtol=1e-6)
    np.testing.assert_allclose(said.deviation**2, MADE.variance, rtol=1e-5)


def test_the_error_grows_with_the_lead_within_a_season(rng: np.random.Generator) -> None:
    days = np.arange(-200.0, 1.0, 10.0)
    leads = np.array([5.0, 20.0, 60.0])
    said = krige(MADE, drawn(days, 3, rng), leads[:, np.newaxis] - days)
    assert (np.diff(said.deviation, axis=0) > 0).all()


def test_an_estimated_covariance_forecasts_nearly_as_well_as_the_true_one(rng: np.random.Generator) -> None:
    days = np.sort(rng.uniform(0, 4 * YEAR, 60))
    values = drawn(days, 400, rng)
    found = estimate_covariance(values[:59], days[:59])
    lags = (days[59] - days[:59])[np.newaxis]
    errors = [np.abs(krige(one, values[:59], lags).mean[0] - values[59]).mean() for one in (found, MADE)]
    assert errors[0] < 1.1 * errors[1]
    assert found == estimate_covariance(values[:59], days[:59])


def test_time_has_no_direction_and_units_no_meaning(rng: np.random.Generator) -> None:
    days = np.sort(rng.uniform(0, 2 * YEAR, 25))
    values = drawn(days, 60, rng)
    there = estimate_covariance(values, days)
    back = estimate_covariance(values[::-1], -days[::-1])
    large = estimate_covariance(1000 * values, days)
    assert back.of(days) == pytest.approx(there.of(days), rel=0.05)
    assert large.of(days) / 1e6 == pytest.approx(there.of(days), rel=0.05)


def test_a_series_of_one_value_is_refused() -> None:
    with pytest.raises(NotEnoughFramesError, match="values that differ"):
        estimate_covariance(np.ones((4, 5)), np.arange(4.0))


def test_a_forecast_has_ordered_quantiles_where_there_is_a_past(rng: np.random.Generator) -> None:
    values = drawn(np.arange(-90.0, 1.0, 10.0), 6, rng).reshape(1, 10, 2, 3, 1)
    values[:, :, 0, 0] = np.nan
    ages = np.arange(9.0, -1, -1, dtype=np.float32)[np.newaxis]
    said = Kriging((MADE,), timedelta(days=10)).predict(
        Context(values, np.isfinite(values), np.zeros((1, 10), np.int64), ages), 2
    )
    assert said.quantities == ("mean", "q10", "q50", "q90")
    low, middle, high = (said.values[:, :, i] for i in (1, 2, 3))
    assert np.isnan(said.values[:, :, :, 0, 0]).all()
    assert (said.source[:, :, 0, 0] == Source.NONE).all()
    known = said.source == Source.CLIMATOLOGY
    assert (low[known] < middle[known]).all()
    assert (middle[known] < high[known]).all()


def test_a_covariance_survives_json() -> None:
    changed = replace(MADE, noise=0.1)
    assert Covariance.from_json(changed.to_json()) == changed
