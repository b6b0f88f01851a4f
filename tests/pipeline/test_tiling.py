from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import Persistence
from pipeline.grid import Window
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast
from pipeline.rungs import OfBands
from pipeline.tiling import Assembly, Normalised, Tiled, crop
from tests.pipeline.seers import Blurred, Listening, context, given_to, told


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 12), st.sampled_from([1, 2, 4]))
def test_tiles_leave_no_trace_of_a_predictor_with_finite_reach(
    height: int, width: int, size: int, radius: int, patch: int
) -> None:
    """Sides need be no multiple of tile or patch."""
    inner, seen = Blurred(radius, patch), context(height, width)
    tiled, whole = Tiled(inner, size, radius + patch - 1, patch).predict(seen, 2), inner.predict(seen, 2)
    np.testing.assert_array_equal(tiled.values, whole.values)  # sums of whole numbers are exact
    np.testing.assert_array_equal(tiled.source, whole.source)
    np.testing.assert_array_equal(tiled.age, whole.age)


def test_tiles_without_their_surroundings_do_leave_a_trace() -> None:
    inner, seen = Blurred(3), context(60, 70)
    tiled, whole = Tiled(inner, 16, 2).predict(seen, 1), inner.predict(seen, 1)
    assert (tiled.values != whole.values).any()


@dataclass
class Counted:
    """Persistence that counts how often it was asked."""

    asked: int = 0

    def predict(self, context: Context, horizon: int) -> Forecast:
        self.asked += 1
        return Persistence().predict(context, horizon)


@pytest.mark.parametrize(("shape", "calls"), [((16, 16), 1), ((8, 32), 1), ((8, 33), 3), ((17, 17), 4)])
def test_a_frame_that_needs_no_more_memory_than_a_tile_is_not_cut(shape: tuple[int, int], calls: int) -> None:
    inner = Counted()
    Tiled(inner, 16, halo=4).predict(context(*shape), 2)
    assert inner.asked == calls


def test_a_crop_holds_what_lies_in_its_window() -> None:
    seen = context(20, 30)
    part = crop(seen, Window(3, 9, 5, 25))
    np.testing.assert_array_equal(part.values, seen.values[:, :, 3:9, 5:25])
    np.testing.assert_array_equal(part.ages, seen.ages)


def test_covariates_go_with_their_pixels_through_the_wrappers() -> None:
    seen = told(context(40, 50, bands=3), 2)
    inner = Normalised(Listening(), Statistics((0, 0, 0), (1, 1, 1), ""), (0, 1, 2))
    whole = inner.predict(seen, 2).values
    np.testing.assert_array_equal(whole[:, :, 0], given_to(seen)[:, -2:])
    np.testing.assert_array_equal(Tiled(inner, 16, 5, 4).predict(seen, 2).values, whole)
    np.testing.assert_array_equal(crop(seen, Window(3, 9, 5, 25)).covariates, given_to(seen)[:, :, 3:9, 5:25])


def test_standardising_leaves_the_covariates_alone() -> None:
    seen = told(context(6, 7, bands=3), 1)
    statistics = Statistics((5, 5, 5), (2, 2, 2), "")
    said = Normalised(Listening(), statistics, (0, 1, 2)).predict(seen, 1).values
    np.testing.assert_allclose(statistics.scale(said[:, :, 0]), given_to(seen)[:, -1:], atol=1e-5)


def test_a_predictor_of_standardised_values_sees_and_says_them() -> None:
    """Persistence does not mind the scale; a sum of 9 pixels minds the mean."""
    statistics, seen = Statistics((50, 20), (10, 5), ""), context(12, 14)
    still = Normalised(Persistence(), statistics, (0, 1)).predict(seen, 2)
    np.testing.assert_allclose(still.values, Persistence().predict(seen, 2).values, atol=1e-4)
    summed = Normalised(Blurred(1), statistics, (0, 1)).predict(seen, 1).values[0, 0, 0, 5, 5]
    around = seen.values[0, -1, 4:7, 4:7]
    np.testing.assert_allclose(summed, 2 * (around - [50, 20]).sum(axis=(0, 1)) + [50, 20], rtol=1e-4)


def test_a_network_of_one_band_answers_in_the_units_of_that_band() -> None:
    statistics, seen = Statistics((50, 20), (10, 5), ""), context(6, 7)
    said = Normalised(OfBands(Persistence(), (1,)), statistics, (1,)).predict(seen, 1)
    np.testing.assert_allclose(said.values[0, 0, 0, ..., 0], seen.values[0, -1, ..., 1], atol=1e-4)


# --- what a product's forecast is made of ---------------------------------------------------------


def test_an_assembly_holds_each_window_once_and_nothing_elsewhere() -> None:
    whole = Persistence().predict(context(12, 20), 2)
    part = Persistence().predict(crop(context(12, 20), Window(0, 8, 4, 20)), 2)
    found = Assembly((12, 20))
    found.put(part, Window(2, 7, 6, 18), Window(0, 8, 4, 20))
    np.testing.assert_array_equal(found.forecast.values[:, :, :, 2:7, 6:18], whole.values[:, :, :, 2:7, 6:18])
    assert np.isnan(found.forecast.values).sum() == whole.values.size - whole.values[:, :, :, 2:7, 6:18].size
    assert (found.forecast.source > 0).sum() == 2 * 5 * 12


def test_an_assembly_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one window"):
        _ = Assembly((3, 3)).forecast
