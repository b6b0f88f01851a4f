from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.normalise import Statistics, measure

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

AREA = Window(0, 40, 0, 30)
FLOAT = {"dtype": "float64", "nodata": float("nan"), "units": "1"}


@pytest.fixture(scope="module")
def three(make_product: Callable[..., Product]) -> Product:
    """Three slots; the last one, and in all the columns from 30 on, hold a value that is far too large."""
    product = make_product(bands=[FLOAT | {"name": "one"}, FLOAT | {"name": "two", "index": 2}])
    for slot in range(3):
        values = np.random.default_rng(slot).normal([[[5]], [[-300]]], [[[2]], [[40]]], (2, 40, 48))
        values[:, :4, :7] = np.nan
        values[:, :, AREA.x1 :] = 1e9
        product.scene(slot, np.full_like(values, 1e9) if slot == 2 else values)
    product.ingest()
    return product


def test_statistics_are_mean_and_spread_of_the_valid_pixels_of_slots_and_areas_and_of_nothing_else(
    three: Product,
) -> None:
    found = measure(three.cube(), [0, 1], [AREA])
    values = three.cube().read([0, 1], AREA).values.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(found.mean, np.nanmean(values, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.deviation, np.nanstd(values, axis=0), rtol=1e-6)
    assert max(map(abs, found.mean)) < 400
    assert found.snapshot == three.cube().snapshot


def test_areas_add_up(three: Product) -> None:
    whole = measure(three.cube(), [0, 1], [AREA])
    halves = measure(three.cube(), [1, 0], [Window(0, 13, 0, 30), Window(13, 40, 0, 30)])
    np.testing.assert_allclose(halves.mean, whole.mean)
    np.testing.assert_allclose(halves.deviation, whole.deviation)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(-1e6, 1e6, width=32)),
    st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
    st.tuples(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5)),
)
def test_unscaling_undoes_scaling(
    values: NDArray[np.float32], mean: tuple[float, float], deviation: tuple[float, float]
) -> None:
    statistics = Statistics(mean, deviation, "")
    there_and_back = statistics.unscale(statistics.scale(values))
    assert there_and_back.dtype == np.float32
    np.testing.assert_allclose(there_and_back, values, atol=1e-6 * (np.abs(values).max() + np.abs(mean).max() + 1))


def test_what_was_measured_has_mean_zero_and_spread_one_when_scaled(three: Product) -> None:
    values = three.cube().read([0, 1], AREA).values
    scaled = measure(three.cube(), [0, 1], [AREA]).scale(values).astype(np.float64)
    np.testing.assert_allclose(np.nanmean(scaled, axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(scaled, axis=(0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(values))


def test_the_statistics_of_a_band_are_its_own() -> None:
    both = Statistics((1, 2), (3, 4), "s")
    values = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_array_equal(both.of_bands((1,)).scale(values[:, 1:]), both.scale(values)[:, 1:])


def test_statistics_survive_json() -> None:
    statistics = Statistics((0.1, 2), (1 / 3, 4), "s")
    assert Statistics.from_json(statistics.to_json()) == statistics


def measured(make_product: Callable[..., Any], values: NDArray[np.float64]) -> Statistics:
    off = {"all_nodata": "off", "all_zero": "off"}
    product = make_product(bands=[FLOAT | {"name": "one"}], scenes={"firewall": off})
    product.scene(0, values)
    product.ingest()
    return measure(product.cube(), [0], [Window(0, 40, 0, 48)])


@pytest.mark.parametrize("value", [0.0, 273.15, -1e7])
def test_a_constant_band_is_not_blown_up(make_product: Callable[..., Product], value: float) -> None:
    found = measured(make_product, np.full((40, 48), value))
    assert found.deviation == (1,)
    assert abs(found.scale(np.array([value], np.float32)).item()) <= 1


def test_a_band_of_small_numbers_is_not_taken_for_constant(make_product: Callable[..., Product]) -> None:
    """Ozone in mole fractions: 4e-8, give or take 1e-8."""
    found = measured(make_product, np.random.default_rng(0).normal(4e-8, 1e-8, (40, 48)))
    assert found.deviation[0] == pytest.approx(1e-8, rel=0.1)


def test_a_band_without_a_valid_pixel_is_an_error_that_names_it(make_product: Callable[..., Product]) -> None:
    with pytest.raises(NotEnoughFramesError, match=r"found none in \['one'\]: check nodata and masks"):
        measured(make_product, np.full((40, 48), np.nan))
