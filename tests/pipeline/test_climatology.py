from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.climatology import WIDTHS, YEAR, Climatology, lags_of, season_distance, season_width, usual
from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import Context, Source

STEP = timedelta(days=10)


def seasons(days: NDArray[np.float64], pixels: int = 6) -> NDArray[np.float32]:
    cycle = np.sin(2 * np.pi * days / YEAR)[:, np.newaxis]
    return (0.5 + cycle * np.linspace(0.1, 0.3, pixels)).astype(np.float32)


def context(values: NDArray[np.float32], ages: NDArray[np.floating]) -> Context:
    """Of one init time: values ``(frame, pixel)`` in a row of pixels, ages in slots."""
    cube = values[np.newaxis, :, np.newaxis, :, np.newaxis]
    return Context(cube, np.isfinite(cube), np.zeros((1, len(ages)), np.int64), ages[np.newaxis].astype(np.float32))


def test_seasons_are_at_most_half_a_year_apart_and_the_same_after_whole_years() -> None:
    days = np.linspace(-2000, 2000, 401)
    assert season_distance(days).max() <= YEAR / 2
    np.testing.assert_allclose(season_distance(days + 3 * YEAR), season_distance(days), atol=1e-6)


def test_the_frame_of_the_same_season_counts_most() -> None:
    lags = np.array([YEAR, YEAR / 2, 60.0])
    said = [float(usual(np.eye(3)[i][:, np.newaxis], lags, 20.0)[0]) for i in range(3)]
    assert sum(said) == pytest.approx(1)
    assert said[0] > 0.95
    assert said[0] > said[2] > said[1]


def test_a_season_never_seen_takes_the_nearest_one() -> None:
    lags = np.array([170.0, 120.0])
    assert float(usual(np.array([[0.0], [1.0]]), lags, 10.0)[0]) == pytest.approx(1)


def test_missing_values_do_not_count_and_pixels_without_any_stay_unknown() -> None:
    values = np.array([[0.2, np.nan], [np.nan, np.nan]])
    said = usual(values, np.array([YEAR, 1.0]), 20.0)
    assert said[0] == pytest.approx(0.2)
    assert np.isnan(said[1])


def test_a_forecast_follows_the_season_at_every_lead() -> None:
    days = np.arange(-1000.0, 1.0, 10.0)
    said = Climatology(STEP, width=10.0).predict(context(seasons(days), -days / 10), 9)
    truth = seasons(np.arange(10.0, 100.0, 10.0, dtype=np.float64))
    np.testing.assert_allclose(said.values[0, :, 0, 0, :, 0], truth, atol=0.02)
    assert (said.source == Source.CLIMATOLOGY).all()
    assert (said.age == 0).all()


def test_the_lag_is_the_age_and_the_lead_together() -> None:
    lags = lags_of(context(np.zeros((2, 1), np.float32), np.array([3.0, 0.5])), 2, STEP)
    np.testing.assert_allclose(lags, [[[40, 15], [50, 25]]])


def test_a_quick_cycle_is_given_narrow_seasons_and_noise_wide_ones() -> None:
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 4 * YEAR, 60))
    quick = np.sin(6 * np.pi * days / YEAR)[:, np.newaxis] * np.ones(50)
    assert season_width(quick, days) == WIDTHS[0]
    assert season_width(rng.normal(size=(60, 50)), days) == WIDTHS[-1]


def test_without_frames_it_says_so() -> None:
    with pytest.raises(NotEnoughFramesError, match="at least 1 context frame"):
        Climatology(STEP).predict(context(np.zeros((0, 3), np.float32), np.zeros(0)), 1)
