from __future__ import annotations

import json
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
from pipeline.normalise import Statistics, Transform, measure

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

AREA = Window(0, 40, 0, 30)
FLOAT = {"dtype": "float64", "nodata": float("nan"), "units": "1"}
RAIN = FLOAT | {"name": "rain", "units": "mm", "transform": "log"}


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


# --- logarithm ------------------------------------------------------------------------------------

law = settings(max_examples=50, deadline=None)
logs = st.builds(
    Transform, st.just("log"), st.floats(-50, 50, width=32), st.floats(2.0**-13, 128, width=32), st.just(1.0)
)


@law
@given(logs, hnp.arrays(np.float32, 20, elements=st.floats(0, 1e6, width=32)))
def test_the_inverse_of_a_logarithm_gives_the_values_back(transform: Transform, above: NDArray[np.float32]) -> None:
    values = above + np.float32(transform.floor)
    back = transform.invert(transform.apply(values))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, rtol=2e-5, atol=1e-6 * (transform.x0 + abs(transform.floor)))


@law
@given(logs, st.lists(st.floats(0, 1e5, width=32), min_size=2, max_size=20, unique=True))
def test_a_logarithm_keeps_the_order(transform: Transform, above: list[float]) -> None:
    values = np.sort(np.array(above, np.float32)) + np.float32(transform.floor)
    assert (np.diff(transform.apply(values)) >= 0).all()


@law
@given(logs, st.floats(-(2.0**100), 2.0**100, width=32))
def test_whatever_a_network_says_is_a_finite_value_not_below_the_floor(transform: Transform, said: float) -> None:
    statistics = Statistics((0.5,), (2.0,), "", (transform,))
    value = statistics.unscale(np.array([[said]], np.float32))
    assert np.isfinite(value).all()
    assert (value >= np.float32(transform.floor)).all()


def test_values_below_the_floor_count_as_the_floor_and_missing_ones_stay_missing() -> None:
    transform = Transform("log", floor=1.0, x0=0.5)
    np.testing.assert_array_equal(transform.apply(np.array([-3, 1, np.nan])), [0, 0, np.nan])


def test_a_transform_without_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="x0 and deviation of a transform are above 0, found 0"):
        Transform("log", x0=0)
    with pytest.raises(ValueError, match="one value a band, found 1, 1 and 2"):
        Statistics((0,), (1,), "", (Transform(), Transform()))


@pytest.fixture(scope="module")
def showers(make_product: Callable[..., Product]) -> tuple[Product, NDArray[np.float64]]:
    """Rain on half of the pixels, lognormal, beside a band that is no rain."""
    product = make_product(bands=[RAIN, FLOAT | {"name": "two", "index": 2}])
    random = np.random.default_rng(0)
    rain = np.exp(random.normal(-3, 1, (2, 40, 48))) * (random.random((2, 40, 48)) < 0.5)
    values = np.stack([rain, random.normal(5, 2, rain.shape)], axis=1)
    for slot in range(2):
        product.scene(slot, values[slot])
    product.ingest()
    return product, values


def test_rain_is_standardised_on_its_logarithm_and_the_other_band_as_it_is(
    showers: tuple[Product, NDArray[np.float64]],
) -> None:
    product, values = showers
    whole = [Window(0, 40, 0, 48)]
    found = measure(product.cube(), [0, 1], whole)
    assert [one.kind for one in found.transforms] == ["log", "none"]
    seen = product.cube().read([0, 1]).values
    scaled = found.scale(seen).astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-4)
    rain = values[:, 0]
    assert found.transforms[0].x0 == pytest.approx(np.quantile(rain[rain > 0], 0.05), rel=0.2)
    np.testing.assert_allclose(found.linear_deviation, values.std(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.unscale(found.scale(seen)), seen, atol=1e-5)
    np.testing.assert_array_equal(found.of_bands((0,)).scale(seen[..., :1]), found.scale(seen)[..., :1])


def test_a_configuration_decides_on_the_logarithm_and_not_the_cube_that_is_there(
    showers: tuple[Product, NDArray[np.float64]],
) -> None:
    product, _ = showers
    plain = [band.model_copy(update={"transform": "none"}) for band in product.settings.bands]
    found = measure(product.cube(), [0, 1], [Window(0, 40, 0, 48)], bands=plain)
    assert [one.kind for one in found.transforms] == ["none", "none"]


def test_a_training_split_without_rain_still_has_a_scale(make_product: Callable[..., Product]) -> None:
    product = make_product(bands=[RAIN], scenes={"firewall": {"all_zero": "off"}})
    product.scene(0, np.zeros((40, 48)))
    product.ingest()
    found = measure(product.cube(), [0], [Window(0, 40, 0, 48)])
    assert found.scale(np.zeros((1, 1), np.float32)).item() == 0
    assert np.isfinite(found.scale(np.ones((1, 1), np.float32))).all()


def test_statistics_of_before_there_were_transforms_scale_as_they_did() -> None:
    old = Statistics.from_json({"mean": [1.0], "deviation": [2.0], "snapshot": "s"})
    assert old == Statistics((1.0,), (2.0,), "s")
    assert old.scale(np.array([[5.0]])).item() == 2


def test_transforms_survive_json() -> None:
    statistics = Statistics((0.1,), (1 / 3,), "s", (Transform("log", 0.0, 0.1, 3.0),))
    assert Statistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics
