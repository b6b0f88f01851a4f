from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.seasonal import (
    KEYS,
    MEMBERS,
    SeasonalBand,
    SeasonalCard,
    SeasonalPredictor,
    build_seasonal,
    keys,
    members,
)
from models.seasonfit import (
    Judged,
    SeasonalSettings,
    Series,
    absolute_error,
    fit,
    read_series,
    seasonal_settings,
    shares_of,
)
from pipeline.climatology import YEAR
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.kriging import Covariance
from pipeline.predictor import Context, Source

CADENCE = timedelta(days=5)
COVARIANCE = Covariance(0.5, 0.01, 0.03, 1.0, 3000.0, 0.002, 40.0, 0.002)
FOUND = SeasonalBand(COVARIANCE, 15.0, (0.0, 0.0, 0.5, 0.5), (-1.3, 1.2))
CARD = SeasonalCard(CADENCE, (0,), (FOUND,))
SIDE = 12
SETTINGS = SeasonalSettings(CADENCE, context_frames=30, steps=120, dates=4, pixels=64)


def made_up(years: float, seed: int = 0) -> Series:
    """Two harvests a year, each pixel with its own level; a third of the pixel-times missing, some frames hazy."""
    rng = np.random.default_rng(seed)
    days = np.sort(rng.choice(np.arange(0, years * YEAR, 5), int(years * 20), replace=False)).astype(float)
    turn = 2 * np.pi * days / YEAR
    cycle = (0.2 * np.sin(turn) + 0.15 * np.cos(2 * turn))[:, np.newaxis]
    values = 0.5 + cycle + rng.normal(0, 0.1, SIDE**2) + rng.normal(0, 0.03, (len(days), SIDE**2))
    values[rng.random(values.shape) < 0.05] -= 0.3  # haze that no mask found
    values[rng.random(values.shape) < 0.3] = np.nan
    return Series(values[..., np.newaxis].astype(np.float32), days)


def context_of(series: Series, frames: int, init: float) -> Context:
    """The newest frames up to a day."""
    chosen = np.flatnonzero(series.days <= init)[-frames:]
    cube = series.values[chosen].reshape(1, len(chosen), SIDE, SIDE, 1)
    ages = ((init - series.days[chosen]) / 5)[np.newaxis].astype(np.float32)
    return Context(cube, np.isfinite(cube), np.zeros((1, len(chosen)), np.int64), ages)


@pytest.fixture(scope="module")
def trained() -> SeasonalPredictor:
    return fit(made_up(4).until(60), SETTINGS)


@pytest.fixture
def context() -> Context:
    return context_of(made_up(4), 30, 1200.0)


def test_weights_sum_to_one_over_what_is_usable_and_are_zero_elsewhere(
    trained: SeasonalPredictor, context: Context
) -> None:
    weights = trained.attention(context, 2)
    assert weights.shape == (1, 2, 30, SIDE, SIDE, 1)
    assert (weights[:, 0][~context.validity] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-5)


def test_attention_stays_within_the_values_of_the_past(trained: SeasonalPredictor, context: Context) -> None:
    series = context.values.reshape(30, -1)
    lags = (context.ages[0] + 1).astype(np.float64)[np.newaxis] * 5
    said = members(trained.model, trained.card.found[0], series, lags).values[MEMBERS.index("attention"), 0]
    assert (said <= np.nanmax(series, axis=0) + 1e-6).all()
    assert (said >= np.nanmin(series, axis=0) - 1e-6).all()


def test_a_pixel_sees_only_itself(trained: SeasonalPredictor, context: Context) -> None:
    whole = trained.predict(context, 2).values
    part = Context(context.values[:, :, 3:5, 4:9], context.validity[:, :, 3:5, 4:9], context.times, context.ages)
    np.testing.assert_allclose(trained.predict(part, 2).values, whole[:, :, :, 3:5, 4:9], atol=1e-5)


def test_frames_that_hold_nothing_change_nothing(trained: SeasonalPredictor, context: Context) -> None:
    def ahead(array: NDArray, value: float) -> NDArray:
        return np.concatenate([np.full_like(array[:, :3], value), array], axis=1)

    padded = Context(
        ahead(context.values, np.nan), ahead(context.validity, 0), ahead(context.times, 0), ahead(context.ages, 400)
    )
    np.testing.assert_allclose(trained.predict(padded, 1).values, trained.predict(context, 1).values, atol=1e-5)


def test_the_weights_lie_on_the_same_season(trained: SeasonalPredictor, context: Context) -> None:
    weights = trained.attention(context, 1)[0, 0, ..., 0].mean(axis=(1, 2))
    turn = 2 * np.pi * (context.ages[0] + 1) * 5 / YEAR
    same = np.cos(turn) > 0.7
    assert weights[same].mean() > 3 * weights[~same].mean()


def test_removing_the_frames_of_most_weight_hurts_more_than_removing_as_many_others(
    trained: SeasonalPredictor,
) -> None:
    series, attention = made_up(4), replace(FOUND, shares=(0.0, 0.0, 0.0, 1.0))
    alone = replace(trained, card=replace(trained.card, found=(replace(attention, covariance=COVARIANCE),)))
    harm: dict[str, list[float]] = {"most": [], "others": []}
    rng = np.random.default_rng(0)
    for at in range(62, 80):
        context, truth = context_of(series, 30, series.days[at] - 5), series.values[at].reshape(SIDE, SIDE)
        order = np.argsort(alone.attention(context, 1)[0, 0, ..., 0].mean(axis=(1, 2)))
        before = error(alone, context, truth)
        for name, gone in (("most", order[-6:]), ("others", rng.permutation(order[:-6])[:6])):
            harm[name].append(error(alone, without(context, gone), truth) - before)
    assert np.mean(harm["most"]) > 0.005
    assert np.mean(harm["most"]) > 3 * np.mean(harm["others"])


def error(predictor: SeasonalPredictor, context: Context, truth: NDArray) -> float:
    return float(np.nanmean(np.abs(predictor.predict(context, 1).values[0, 0, 0, ..., 0] - truth)))


def without(context: Context, gone: NDArray[np.intp]) -> Context:
    validity = context.validity.copy()
    validity[:, gone] = False
    return replace(context, validity=validity)


def test_a_forecast_beats_persistence_and_most_of_the_truth_lies_in_its_interval(
    trained: SeasonalPredictor,
) -> None:
    series = made_up(4)
    errors, covered = [], []
    for at in range(60, 80):
        context, truth = context_of(series, 30, series.days[at] - 5), series.values[at].reshape(SIDE, SIDE)
        said = trained.predict(context, 1)
        assert said.quantities == ("mean", "q10", "q50", "q90")
        low, middle, high = (said.of(name)[0, 0, ..., 0] for name in ("q10", "q50", "q90"))
        newest = np.full_like(truth, np.nan)
        for frame in context.values[0, ..., 0]:
            newest = np.where(np.isfinite(frame), frame, newest)
        errors.append([np.nanmean(np.abs(field - truth)) for field in (middle, newest)])
        known = np.isfinite(truth)
        covered.append(((low <= truth) & (truth <= high))[known].mean())
    ours, persistence = np.mean(errors, axis=0)
    assert ours < 0.7 * persistence
    assert 0.7 < np.mean(covered) < 0.9


def test_where_there_is_no_past_nothing_is_said(trained: SeasonalPredictor, context: Context) -> None:
    validity = context.validity.copy()
    validity[:, :, 0, 0] = False
    said = trained.predict(replace(context, validity=validity), 2)
    assert np.isnan(said.values[:, :, :, 0, 0]).all()
    assert (said.source[:, :, 0, 0] == Source.NONE).all()
    assert np.isfinite(said.values[:, :, :, 1:]).all()


def test_a_series_shorter_than_a_year_is_persistence(context: Context) -> None:
    short = made_up(0.9)
    predictor = fit(short, replace(SETTINGS, steps=2))
    assert predictor.card.found[0].shares == (1, 0, 0, 0)
    said = predictor.predict(context_of(short, 8, short.days[-1]), 3)
    np.testing.assert_array_equal(said.values[:, 0, 0], said.values[:, 2, 0])


@pytest.mark.parametrize("frames", [3, 4, 5])
def test_a_few_frames_years_apart_are_too_few_to_judge_by_and_leave_persistence(frames: int) -> None:
    values = np.random.default_rng(0).normal(size=(frames, 30, 1)).astype(np.float32)
    predictor = fit(Series(values, 200.0 * np.arange(frames)), replace(SETTINGS, steps=2))
    assert predictor.card.found[0].shares == (1, 0, 0, 0)


def test_the_same_seed_gives_the_same_weights(context: Context) -> None:
    few = replace(SETTINGS, steps=5)
    first, second = (fit(made_up(0.9), few).attention(context, 1) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_two_frames_teach_nothing() -> None:
    with pytest.raises(NotEnoughFramesError, match="at least 3 frames"):
        fit(made_up(4).until(2), SETTINGS)


def test_keys_know_the_season_and_no_direction_of_time() -> None:
    lags = np.array([10.0, 100.0])
    np.testing.assert_array_equal(keys(lags), keys(-lags))
    np.testing.assert_allclose(keys(lags)[:, :2], keys(lags + YEAR)[:, :2], atol=1e-5)
    assert keys(lags).shape == (2, KEYS)


def test_a_saved_model_and_its_card_forecast_alike(
    trained: SeasonalPredictor, context: Context, tmp_path: Path
) -> None:
    path = tmp_path / "seasonal.keras"
    trained.model.save(path)
    again = SeasonalPredictor(keras.saving.load_model(path), SeasonalCard.from_json(trained.card.to_json()))
    assert again.card == trained.card
    np.testing.assert_array_equal(again.predict(context, 2).values, trained.predict(context, 2).values)


def test_the_network_is_small() -> None:
    assert build_seasonal(16).count_params() == 81


def test_missing_truth_counts_nothing() -> None:
    truth = np.array([[0.5, np.nan], [np.nan, 1.0]], np.float32)
    assert float(absolute_error(truth, np.zeros((2, 2), np.float32))) == pytest.approx(0.75)
    assert float(absolute_error(np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), np.float32))) == 0


def test_members_as_good_as_the_best_share_evenly_and_bad_ones_get_nothing() -> None:
    rng = np.random.default_rng(0)
    truths = tuple(rng.normal(size=200).astype(np.float32) for _ in range(20))
    noise = np.array([1.0, 0.6, 0.2, 0.2])[:, np.newaxis]
    values = tuple((truth + noise * rng.normal(size=(4, 200))).astype(np.float32) for truth in truths)
    judged = Judged(values, truths, truths)
    np.testing.assert_array_equal(shares_of(judged), [0, 0, 0.5, 0.5])
    np.testing.assert_array_equal(shares_of(judged, ["persistence", "climatology", "kriging"]), [0, 0, 1, 0])
    np.testing.assert_array_equal(shares_of(judged, ["persistence"]), [1, 0, 0, 0])


def test_shares_must_make_a_whole() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        replace(FOUND, shares=(0.5, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="between its quantiles"):
        replace(FOUND, spread=(0.1, 1.0))


def test_a_cube_is_read_pixel_by_pixel_from_its_training_area_alone(sky: Settings) -> None:
    cube, area = open_cube(store_of(sky)), Window(3, 20, 5, 40)
    series = read_series(cube, [1, 4, 7], area)
    frames = cube.read([1, 4, 7], area)
    assert series.values.shape == (3, 17 * 35, 1)
    np.testing.assert_array_equal(series.values, frames.values.reshape(3, -1, 1))
    np.testing.assert_allclose(np.diff(series.days) * 86400, np.diff(frames.acquired))


def test_a_product_trains_and_forecasts_with_what_its_configuration_says(sky: Settings) -> None:
    cube, settings = open_cube(store_of(sky)), replace(seasonal_settings(sky), steps=2)
    assert settings.cadence == sky.axis.cadence
    predictor = fit(read_series(cube, cube.observed()[:12].tolist(), Window(0, 48, 0, 48)), settings)
    frames = cube.read([10, 11])
    ages = np.array([[1, 0]], np.float32)
    said = predictor.predict(
        Context(frames.values[np.newaxis], frames.validity[np.newaxis], frames.acquired[np.newaxis], ages), 2
    )
    assert said.values.shape == (1, 2, 4, 48, 48, 1)
    assert predictor.card.found[0].shares == (1, 0, 0, 0)
