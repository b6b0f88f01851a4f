from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from pipeline.chances import Chance, chances, exceedance, probabilities, stored
from pipeline.events import Events
from pipeline.raster import decode, encode
from pipeline.specs import BandSpec

LEVELS = (0.1, 0.5, 0.9)
Z = norm.ppf(0.9)
RAIN = BandSpec(name="rain", dtype="uint16", units="mm", scale=0.01, nodata=65535, transform="log")
TOP = BandSpec(name="top", dtype="uint16", units="K", scale=0.1)


def said(*pixels: tuple[float, ...]) -> NDArray[np.float32]:
    """``(level, pixel)``, the quantiles of each pixel."""
    return np.array(pixels, np.float32).T


def at(pixel: tuple[float, ...], *thresholds: float, **options: Any) -> list[float]:
    """Probabilities that one pixel is at or over thresholds."""
    levels = options.pop("levels", LEVELS)
    return exceedance(said(pixel), levels, thresholds, **options)[:, 0].tolist()


# --- the law --------------------------------------------------------------------------------------


def test_a_quantile_is_exceeded_as_often_as_its_level_says() -> None:
    levels = (0.05, 0.3, 0.5, 0.6, 0.975)
    quantiles = (-2.0, 1.0, 1.5, 4.0, 4.25)
    assert at(quantiles, *quantiles, levels=levels) == pytest.approx([1 - one for one in levels], abs=1e-6)


def test_three_quantiles_make_the_two_piece_normal_law_that_meets_all_of_them() -> None:
    low, middle, high = 2.0, 5.0, 11.0
    thresholds = np.linspace(-5, 25, 61)
    spread = np.where(thresholds < middle, middle - low, high - middle) / Z
    expected = norm.sf((thresholds - middle) / spread)
    assert at((low, middle, high), *thresholds) == pytest.approx(expected, abs=1e-6)


def test_even_quantiles_are_those_of_the_normal_law_whatever_their_levels() -> None:
    levels = (0.025, 0.25, 0.5, 0.9)
    thresholds = np.linspace(-3, 9, 25)
    found = at(tuple(norm.ppf(levels, 3, 2)), *thresholds, levels=levels)
    assert found == pytest.approx(norm.sf(thresholds, 3, 2), abs=1e-6)


def test_two_quantiles_are_a_law_too() -> None:
    assert at((-Z, Z), -1, 0, 2, levels=(0.1, 0.9)) == pytest.approx(norm.sf([-1, 0, 2]), abs=1e-6)


# --- masses ---------------------------------------------------------------------------------------


def test_rain_that_is_dry_in_every_quantile_is_certain_at_zero_and_impossible_above() -> None:
    assert at((0, 0, 0), 0, 0.01, 5, valid=(0, np.inf)) == [1, 0, 0]


def test_rain_with_a_dry_median_is_half_as_likely_as_not_just_above_zero() -> None:
    found = at((0, 0, 2), 0, 1e-7, 2, valid=(0, np.inf))
    assert found == pytest.approx([1, 0.5, 0.1], abs=1e-6)
    assert at((0, 1, 2), 1e-7, 0.5, valid=(0, np.inf)) == pytest.approx([0.9, norm.cdf(Z / 2)], abs=1e-6)


def test_at_a_mass_between_other_quantiles_the_event_happens_with_it_and_above_it_without() -> None:
    levels = (0.1, 0.3, 0.7, 0.9)
    above = float(np.nextafter(np.float32(4), np.float32(9)))
    assert at((0, 4, 4, 6), 4, above, levels=levels) == pytest.approx([0.7, 0.3], abs=1e-6)


def test_beyond_an_outermost_mass_there_is_no_tail() -> None:
    assert at((0, 3, 3), 3, 3.1) == pytest.approx([0.5, 0], abs=1e-6)
    assert at((3, 3, 9), 2.9, 3) == [1, 1]


@pytest.mark.parametrize("below", [False, True])
def test_where_all_quantiles_are_one_value_the_probability_is_whether_that_value_is_the_event(below: bool) -> None:
    values = np.array([[-7, 0, 0.1, 1, 1, 4.99, 5, 60]], np.float32)
    thresholds = (0.1, 1.0, 5.0)
    flat = np.stack([values] * 3)[..., np.newaxis]
    band = BandSpec(name="b", dtype="float32", units="K" if below else "mm")
    found = np.stack([*probabilities(flat, ("q10", "q50", "q90"), [band], {"b": thresholds})])
    np.testing.assert_array_equal(found, Events(thresholds, below).met(values))


# --- limits ---------------------------------------------------------------------------------------


def test_what_the_tails_put_beyond_the_possible_values_lies_at_their_ends() -> None:
    free = at((1, 2, 9), 0, 0.5, 10, 10.5)
    kept = at((1, 2, 9), 0, 0.5, 10, 10.5, valid=(0, 10))
    assert free[0] < 1
    assert kept == [1, free[1], free[2], 0]


def test_an_unknown_quantile_makes_the_probability_unknown_and_no_other() -> None:
    quantiles = said((0, 1, 2), (np.nan, 1, 2), (0, np.nan, 2), (0, 1, np.nan), (np.nan, np.nan, np.nan))
    for thresholds in ((1.0,), (-1.0,), (99.0,)):
        found = exceedance(quantiles, LEVELS, thresholds, (0, 50))
        np.testing.assert_array_equal(np.isnan(found), [[False, True, True, True, True]])


VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, 5.0, 1e-40])


@given(
    st.lists(VALUES, min_size=3, max_size=3),
    st.lists(VALUES, min_size=1, max_size=6, unique=True),
    st.booleans(),
)
def test_whatever_the_quantiles_a_probability_is_one_and_falls_with_the_threshold(
    quantiles: list[float], thresholds: list[float], bounded: bool
) -> None:
    rising = sorted(thresholds)
    found = np.array(at(tuple(sorted(quantiles)), *rising, valid=(0, 100) if bounded else (-np.inf, np.inf)))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 0).all()


def test_a_pixel_does_not_know_of_others() -> None:
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(3, 9, 7)), axis=0).astype(np.float32)
    whole = exceedance(quantiles, LEVELS, (-0.5, 0.2))
    np.testing.assert_array_equal(exceedance(quantiles[:, 2:5, 3:], LEVELS, (-0.5, 0.2)), whole[:, 2:5, 3:])


def test_quantiles_that_cross_count_as_equal() -> None:
    assert at((0, 3, 2), 1, 2, 3) == at((0, 3, 3), 1, 2, 3)


# --- events ---------------------------------------------------------------------------------------


def test_events_come_by_band_and_threshold_and_lie_below_it_where_the_unit_is_a_temperature() -> None:
    asked = {"top": (220.0, 253.0), "rain": (0.5, 5.0)}
    found = chances([RAIN, TOP], asked, ("mean", "q10", "q50", "q90"))
    assert [one.name(alone=False) for one in found] == ["rain_p_ge_0p5", "rain_p_ge_5", "top_p_lt_220", "top_p_lt_253"]
    assert [one.sign for one in found] == [">=", ">=", "<", "<"]


@pytest.mark.parametrize("quantities", [("mean",), ("mean", "q50"), ("mean", "matched")])
def test_a_forecast_with_fewer_than_two_quantiles_says_no_probability(quantities: tuple[str, ...]) -> None:
    values = np.zeros((len(quantities), 2, 3, 1), np.float32)
    assert chances([RAIN], {"rain": (1.0,)}, quantities) == ()
    assert list(probabilities(values, quantities, [RAIN], {"rain": (1.0,)})) == []


def test_probabilities_come_in_the_order_of_the_events_and_each_from_its_own_band() -> None:
    values = np.zeros((4, 1, 1, 2), np.float32)
    values[1:, 0, 0, 0], values[1:, 0, 0, 1] = (0, 1, 2), (240, 250, 260)
    quantities, asked = ("mean", "q10", "q50", "q90"), {"top": (240.0,), "rain": (1.0, 2.0)}
    found = [float(one[0, 0]) for one in probabilities(values, quantities, [RAIN, TOP], asked)]
    assert found == pytest.approx([0.5, 0.1, 0.1], abs=1e-6)


def test_quantiles_are_taken_by_their_names_whatever_their_order() -> None:
    values = np.array([2, 5, 0, 1], np.float32).reshape(4, 1, 1, 1)
    (found,) = probabilities(values, ("q90", "mean", "q10", "q50"), [RAIN], {"rain": (2.0,)})
    assert found[0, 0] == pytest.approx(0.1, abs=1e-6)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_name_is_a_word_and_stands_for_one_threshold(one: float, other: float) -> None:
    names = [Chance("rain", value, below=False).name(alone=True) for value in (one, other)]
    assert all(name.isidentifier() for name in names)
    assert (names[0] == names[1]) == (repr(one) == repr(other))


# --- as it is stored ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fill", "steps", "first"),
    [
        ("uint16", 65535, 10_000, 0),
        ("uint16", 0, 10_000, 1),
        ("uint16", 5000, 10_000, 5001),
        ("int16", -32768, 10_000, 0),
        ("int16", -9999, 10_000, 0),
        ("int16", 9999, 10_000, -2),
        ("uint32", 2**32 - 1, 10_000, 0),
        ("int32", -(2**31), 10_000, 0),
        ("uint8", 255, 254, 0),
        ("uint8", 0, 254, 1),
        ("int8", -128, 254, -127),
    ],
)
def test_steps_are_as_fine_as_the_type_has_room_for_beside_the_fill(
    dtype: str, fill: int, steps: int, first: int
) -> None:
    like = BandSpec(name="b", dtype=dtype, scale=0.25, offset=7, nodata=fill)  # pyright: ignore[reportArgumentType]
    spec = stored(like)
    every = np.arange(steps + 1) / steps
    dn = encode(every.astype(np.float32), spec)
    assert (dn.dtype, spec.fill, int(dn[0])) == (np.dtype(dtype), fill, first)
    np.testing.assert_array_equal(np.diff(dn.astype(int)), 1)
    assert fill not in dn
    np.testing.assert_allclose(decode(dn, spec), every, atol=1e-6)
    assert encode(np.array([np.nan], np.float32), spec)[0] == fill


@pytest.mark.parametrize("fill", [float("nan"), -9999.0, 0.0, 1.0])
def test_floats_are_stored_as_they_are(fill: float) -> None:
    spec = stored(BandSpec(name="b", dtype="float32", scale=2, offset=3, nodata=fill))
    values = np.array([0, 0.25, 1, np.nan], np.float32)
    np.testing.assert_allclose(decode(encode(values, spec), spec), values, atol=1e-6)


def test_the_sign_of_zero_is_none_of_a_probability() -> None:
    quantiles = np.array([[0.0], [0.0], [-0.0]], np.float32)
    over = exceedance(quantiles, [0.1, 0.5, 0.9], [0.0, 1.0], (0.0, np.inf))
    np.testing.assert_array_equal(over[:, 0], [1, 0])
