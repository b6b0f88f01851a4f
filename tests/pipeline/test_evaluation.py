from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.baselines import Ladder, Persistence
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.evaluation import Answer, errors, evaluate
from pipeline.predictor import Context, Forecast
from pipeline.rungs import OfBands
from pipeline.samples import Sample, read_context, sample
from pipeline.specs import BandSpec, SampleSpec

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SPEC = SampleSpec(context_frames=2, max_age=4, horizon=2)
BAND = {"dtype": "float32", "nodata": float("nan"), "units": "1"}


@dataclass
class Off:
    """Persistence, wrong by ``error``; knows the columns up to ``known``; counts how often it is asked."""

    error: float
    known: int = 48
    asked: int = 0

    def predict(self, context: Context, horizon: int) -> Forecast:
        self.asked += 1
        said = Persistence().predict(context, horizon)
        values = said.values + np.float32(self.error)
        values[..., self.known :, :] = np.nan
        return replace(said, values=values)


@pytest.fixture(scope="module")
def counting(make_product: Callable[..., Any]) -> Product:
    """Band one is the slot's number everywhere, band two is noise; slot 2 has a hole, and slot 4 is half as wide."""
    product = make_product(bands=[BAND | {"name": "one"}, BAND | {"name": "two", "index": 2}])
    for slot in range(5):
        values = np.stack([np.full((40, 48), slot), np.random.default_rng(slot).normal(size=(40, 48))])
        if slot == 2:
            values[:, 10:20, 10:20] = np.nan
        if slot == 4:
            values[:, :, 24:] = np.nan
        product.scene(slot, values.astype(np.float32))
    product.ingest()
    return product


def samples(product: Product, *inits: int) -> list[Sample]:
    return [sample(product.cube().observed(), init, SPEC) for init in inits]


def one_band(predictor: Any) -> OfBands:
    return OfBands(predictor, (0,))


def test_errors_are_those_of_each_lead(counting: Product) -> None:
    found = evaluate({"still": one_band(Off(0))}, counting.cube(), samples(counting, 1), SPEC, (0,))
    assert found.inits == 1
    assert found.sums["still"].mae[:, 0].tolist() == [1, 2]
    assert found.sums["still"].bias[:, 0].tolist() == [-1, -2]


def test_a_pixel_counts_where_truth_and_newest_input_are_valid_and_everyone_says_something(counting: Product) -> None:
    predictors = {"still": one_band(Off(0)), "blind": one_band(Off(0, known=30))}
    after_hole = evaluate(predictors, counting.cube(), samples(counting, 2), SPEC, (0,))
    for sums in after_hole.sums.values():
        assert sums.count[:, 0].tolist() == [40 * 30 - 100, 40 * 24 - 100]
    into_hole = evaluate(predictors, counting.cube(), samples(counting, 1), SPEC, (0,))
    assert into_hole.sums["still"].count[:, 0].tolist() == [40 * 30 - 100, 40 * 30]


def test_init_times_are_pooled_by_pixel(counting: Product) -> None:
    predictors = {"still": one_band(Off(0)), "off": one_band(Off(3))}
    both = evaluate(predictors, counting.cube(), samples(counting, 1, 2), SPEC, (0,))
    apart = [evaluate(predictors, counting.cube(), samples(counting, init), SPEC, (0,)) for init in (1, 2)]
    assert both.inits == 2
    for name in predictors:
        expected = apart[0].sums[name] + apart[1].sums[name]
        np.testing.assert_array_equal(both.sums[name].count, expected.count)
        np.testing.assert_array_equal(both.sums[name].squared, expected.squared)


def test_a_slot_without_truth_adds_nothing(counting: Product) -> None:
    found = evaluate({"still": one_band(Off(0))}, counting.cube(), samples(counting, 3), SPEC, (0,))
    assert found.sums["still"].count[:, 0].tolist() == [40 * 24, 0]


def test_each_band_has_its_own_errors(counting: Product) -> None:
    found = evaluate({"still": Persistence()}, counting.cube(), samples(counting, 1), SPEC, (0, 1))
    assert found.sums["still"].mae[0, 0] == 1
    noise = counting.cube().read([1, 2]).values[..., 1]
    expected = np.nanmean(np.abs(noise[0].astype(np.float64) - noise[1]))
    assert found.sums["still"].mae[0, 1] == pytest.approx(expected, rel=1e-6)


def test_a_fallback_fills_in_like_a_ladder_but_is_asked_once(counting: Product) -> None:
    below = Off(1)
    blind = Off(0, known=10)
    filled = evaluate(
        {"model": one_band(blind), "below": one_band(below)},
        counting.cube(),
        samples(counting, 1, 2),
        SPEC,
        (0,),
        fallback="below",
    )
    assert below.asked == 2
    laddered = {"model": Ladder((one_band(blind), one_band(below))), "below": one_band(below)}
    expected = evaluate(laddered, counting.cube(), samples(counting, 1, 2), SPEC, (0,))
    for name in laddered:
        np.testing.assert_array_equal(filled.sums[name].count, expected.sums[name].count)
        np.testing.assert_array_equal(filled.sums[name].absolute, expected.sums[name].absolute)


@dataclass
class Listening:
    """Says the first covariate of each lead; notes them."""

    heard: list[np.ndarray]

    def predict(self, context: Context, horizon: int) -> Forecast:
        assert context.covariates is not None
        self.heard.append(context.covariates)
        said = Persistence().predict(context, horizon)
        return replace(said, values=np.array(context.covariates[:, -horizon:, np.newaxis, ..., :1]))


def test_predictors_are_told_the_covariates_of_their_init_time(counting: Product) -> None:
    document: dict[str, Any] = counting.settings.model_dump() | {"covariates": {"solar_zenith": True}}
    told, listening = covariates_of(Settings(**document)), Listening([])
    cube = counting.cube()
    evaluate({"told": listening}, cube, samples(counting, 1, 2), SPEC, (0,), covariates=told)
    for init, heard in zip((1, 2), listening.heard, strict=True):
        (one,) = samples(counting, init)
        seen = read_context(cube, one, SPEC)
        np.testing.assert_array_equal(heard, told.attach(seen, init, 2).covariates)


def test_a_gap_of_one_forecast_is_a_gap_of_all() -> None:
    truth = np.zeros((1, 2, 2, 1), np.float32)
    one, other = np.ones_like(truth), np.full_like(truth, 5)
    one[0, 0, 0] = np.nan
    other[0, 1, 1] = np.inf
    said = {name: Answer.of(values[:, np.newaxis], ("mean",)) for name, values in (("one", one), ("other", other))}
    found = errors(said, truth, np.ones((2, 2, 1), bool))
    assert [found[name].count.item() for name in ("one", "other")] == [2, 2]
    assert [found[name].mae.item() for name in ("one", "other")] == [1, 5]


@dataclass(frozen=True)
class Spread:
    """Persistence with other quantities ``off`` it."""

    off: dict[str, float]

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        values = [said.values + np.float32(error) for error in self.off.values()]
        return replace(said, values=np.concatenate(values, axis=2), quantities=tuple(self.off))


def test_each_quantity_is_scored_by_what_it_is_for(counting: Product) -> None:
    """The truth is 1 and 2 above persistence."""
    off = {"mean": 1.0, "q10": 0.0, "q50": 2.0, "q90": 1.5, "matched": 9.0}
    predictors = {"model": one_band(Spread(off)), "still": one_band(Persistence())}
    found = evaluate(predictors, counting.cube(), samples(counting, 1), SPEC, (0,))
    assert found.sums["model"].mae[:, 0].tolist() == [1, 0]
    assert found.sums["model"].rmse[:, 0].tolist() == [0, 1]
    assert found.sums["still"].mae[:, 0].tolist() == [1, 2]
    rows = found.rows([BandSpec(name="one", dtype="float32")], timedelta(minutes=5))
    assert [row.coverage for row in rows] == [{"model": 1}, {"model": 0}]


def test_half_an_interval_is_none() -> None:
    values = np.zeros((1, 2, 3, 3, 1), np.float32)
    assert Answer.of(values, ("mean", "q10")).interval is None


def test_a_median_alone_is_the_mean_too() -> None:
    values = np.stack([np.full((1, 3, 3, 1), level, np.float32) for level in (1, 2, 3)], axis=1)
    answer = Answer.of(values, ("q10", "q50", "q90"))
    assert (answer.mean == 2).all()
    assert (answer.median == 2).all()
