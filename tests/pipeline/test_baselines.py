from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.baselines import Ladder, Persistence, extrapolation
from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import Context, Forecast, Source
from pipeline.specs import MotionSpec


def context(frames: int = 3, bands: int = 2) -> Context:
    """Frame i has the value i everywhere and an age of twice its distance to the end."""
    values = np.empty((1, frames, 4, 5, bands), np.float32)
    values[:] = np.arange(frames)[:, None, None, None]
    ages = 2 * np.arange(frames, dtype=np.float32)[None, ::-1]
    return Context(values, np.ones(values.shape, bool), (-300 * ages).astype(np.int64), ages)


def hidden(given: Context, *where: int | slice) -> Context:
    """The same context with ``[frame, y, x, band]`` flagged."""
    validity = given.validity.copy()
    validity[0][where] = False
    return Context(given.values, validity, given.times, given.ages)


@dataclass(frozen=True)
class Constant:
    """Says one value in the columns from ``start`` to ``stop``."""

    value: float
    source: Source
    start: int = 0
    stop: int = 5
    age: float = 0
    quantities: tuple[str, ...] = ("mean",)

    def predict(self, context: Context, horizon: int) -> Forecast:
        batch, _, y, x, band = context.values.shape
        values = np.full((batch, horizon, len(self.quantities), y, x, band), np.nan, np.float32)
        values[..., self.start : self.stop, :] = self.value
        known = np.isfinite(values).all(axis=(2, 5))
        source = np.where(known, np.uint8(self.source), np.uint8(Source.NONE))
        return Forecast(values, source, np.where(known, np.float32(self.age), np.float32(np.nan)), self.quantities)


@dataclass(frozen=True)
class Refusing:
    """Always lacks frames."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        msg = "8 frames needed"
        raise NotEnoughFramesError(msg)


@dataclass(frozen=True)
class Forbidden:
    """Must not be asked."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        msg = "asked for nothing"
        raise AssertionError(msg)


def test_persistence_repeats_the_newest_frame_at_every_lead() -> None:
    forecast = Persistence().predict(context(), 4)
    assert forecast.values.shape == (1, 4, 1, 4, 5, 2)
    assert (forecast.values == 2).all()
    assert (forecast.source == Source.PERSISTENCE).all()
    assert (forecast.age == 0).all()


def test_persistence_falls_back_to_the_newest_valid_frame_of_each_pixel_and_band() -> None:
    given = hidden(hidden(context(), 2, 1, 1), slice(1, 3), 2, 2, 0)
    forecast = Persistence().predict(given, 1)
    assert forecast.values[0, 0, 0, 1, 1].tolist() == [1, 1]
    assert forecast.values[0, 0, 0, 2, 2].tolist() == [0, 2]
    assert forecast.age[0, 0, 1, 1] == 2
    assert forecast.age[0, 0, 2, 2] == 0  # of the newest input behind the pixel


def test_a_pixel_never_seen_has_no_forecast() -> None:
    forecast = Persistence().predict(hidden(context(), slice(None), 3, 3), 2)
    assert np.isnan(forecast.values[:, :, :, 3, 3]).all()
    assert (forecast.source[:, :, 3, 3] == Source.NONE).all()
    assert np.isnan(forecast.age[:, :, 3, 3]).all()
    assert np.isfinite(forecast.values).sum() == forecast.values.size - 2 * 2


def test_persistence_of_no_frames_is_refused() -> None:
    with pytest.raises(NotEnoughFramesError, match="at least 1"):
        Persistence().predict(context(frames=0), 1)


def test_extrapolation_of_a_scene_at_rest_is_persistence() -> None:
    moved, still = (rung.predict(context(), 2) for rung in (extrapolation(MotionSpec()), Persistence()))
    np.testing.assert_array_equal(moved.values, still.values)


def test_each_pixel_comes_from_the_first_rung_that_knows_it() -> None:
    rungs = (
        Constant(1, Source.NETWORK, 3, 5),
        Constant(2, Source.EXTRAPOLATION, 1, 4, age=1),
        Constant(3, Source.PERSISTENCE, 0, 3, age=2),
    )
    forecast = Ladder(rungs).predict(context(), 2)
    np.testing.assert_array_equal(forecast.values[0, 1, 0, 2, :, 0], [3, 2, 2, 1, 1])
    np.testing.assert_array_equal(forecast.source[0, 1, 2], [3, 2, 2, 1, 1])
    np.testing.assert_array_equal(forecast.age[0, 1, 2], [2, 1, 1, 0, 0])


def test_what_no_rung_knows_stays_unknown() -> None:
    forecast = Ladder((Constant(1, Source.NETWORK, 0, 2), Constant(2, Source.PERSISTENCE, 0, 4))).predict(context(), 1)
    assert np.isnan(forecast.values[..., 4, :]).all()
    assert (forecast.source[..., 4] == Source.NONE).all()
    assert np.isnan(forecast.age[..., 4]).all()


def test_a_rung_without_enough_frames_is_left_out() -> None:
    forecast = Ladder((Refusing(), Constant(2, Source.EXTRAPOLATION))).predict(context(), 1)
    assert (forecast.values == 2).all()
    assert (forecast.source == Source.EXTRAPOLATION).all()


def test_a_ladder_whose_rungs_all_lack_frames_says_what_to_do() -> None:
    with pytest.raises(NotEnoughFramesError, match=r"3 context frames: ingest newer scenes or raise samples\.max_age"):
        Ladder((Refusing(), Refusing())).predict(context(), 1)


def test_no_rung_is_asked_once_everything_is_known() -> None:
    Ladder((Constant(1, Source.NETWORK), Forbidden())).predict(context(), 1)


def test_a_pixel_made_by_two_rungs_carries_the_lower_one() -> None:
    @dataclass(frozen=True)
    class OneBand(Constant):
        def predict(self, context: Context, horizon: int) -> Forecast:
            full = Constant(self.value, self.source).predict(context, horizon)
            full.values[..., 1] = np.nan
            return full

    forecast = Ladder((OneBand(1, Source.NETWORK), Constant(2, Source.PERSISTENCE, age=4))).predict(context(), 1)
    assert forecast.values[0, 0, 0, 0, 0].tolist() == [1, 2]
    assert (forecast.source == Source.PERSISTENCE).all()
    assert (forecast.age == 4).all()


def test_a_point_forecast_stands_in_for_every_quantity_that_a_lower_rung_does_not_give() -> None:
    best = Constant(1, Source.NETWORK, 2, 5, quantities=("mean", "q10", "q50", "q90", "matched"))
    forecast = Ladder((best, Constant(2, Source.PERSISTENCE))).predict(context(), 1)
    assert forecast.quantities == best.quantities
    np.testing.assert_array_equal(forecast.values[0, 0, :, 0, :, 0], [[2, 2, 1, 1, 1]] * 5)
    np.testing.assert_array_equal(forecast.source[0, 0, 0], [3, 3, 1, 1, 1])


@dataclass(frozen=True)
class Rising:
    """Says 10 in its first quantity, 20 in the next one and so on, everywhere."""

    quantities: tuple[str, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        flat = Constant(10, Source.EXTRAPOLATION, quantities=self.quantities).predict(context, horizon)
        flat.values[:] *= np.arange(1, len(self.quantities) + 1)[:, None, None, None]
        return flat


def test_a_lower_rungs_own_quantities_fill_in_before_its_mean() -> None:
    best = Constant(1, Source.NETWORK, 1, 5, quantities=("mean", "q10", "q90", "matched"))
    forecast = Ladder((best, Rising(("q10", "mean")))).predict(context(), 1)
    assert forecast.values[0, 0, :, 0, 0, 0].tolist() == [20, 10, 20, 20]


def test_a_pixel_that_lacks_one_quantity_comes_whole_from_the_next_rung() -> None:
    @dataclass(frozen=True)
    class Holed(Constant):
        def predict(self, context: Context, horizon: int) -> Forecast:
            full = Constant(30, Source.NETWORK, quantities=self.quantities).predict(context, horizon)
            full.values[0, 0, 1, 2, 3, 0] = np.nan
            return full

    forecast = Ladder((Holed(30, Source.NETWORK, quantities=("mean", "q10")), Rising(("mean", "q10")))).predict(
        context(), 1
    )
    assert forecast.values[0, 0, :, 2, 3].tolist() == [[10, 30], [20, 30]]
    assert forecast.source[0, 0, 2, 3] == Source.EXTRAPOLATION
    assert forecast.source[0, 0, 2, 2] == Source.NETWORK


def test_bounds_without_a_mean_fill_nothing_but_themselves() -> None:
    best = Constant(1, Source.NETWORK, 1, 5, quantities=("mean", "q10"))
    forecast = Ladder((best, Constant(2, Source.EXTRAPOLATION, quantities=("q10",)))).predict(context(), 1)
    assert np.isnan(forecast.values[0, 0, :, 0, 0, 0]).all()
