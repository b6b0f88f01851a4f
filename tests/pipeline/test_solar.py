from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.grid import Window, geobox
from pipeline.solar import elevation, night, sun_elevation

EQUINOX_NOON = datetime(2020, 3, 20, 12, 7, 25, tzinfo=UTC)  # 12:00 less the equation of time, which is -7 min 25 s
SOLSTICE = datetime(2020, 6, 20, 21, 44, tzinfo=UTC)
DISC = geobox(
    "+proj=geos +lon_0=0 +h=35785831 +ellps=WGS84", (24003.2, 0, -5570248.5, 0, -24003.2, 5570248.5), (464, 464)
)
UTM = geobox("EPSG:32633", (1000, 0, 2e5, 0, -1000, 5e6), (300, 500))

law = settings(max_examples=60, deadline=None)
times = st.floats(0, 65 * 365).map(lambda days: datetime(1980, 1, 1, tzinfo=UTC) + timedelta(days=days))
latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def test_the_sun_stands_where_the_almanacs_say() -> None:
    # Reda and Andreas 2008 (NREL/TP-560-34302), table A5.1, less parallax and refraction: 39.872 degrees.
    golden_colorado = sun_elevation(datetime(2003, 10, 17, 19, 30, 30, tzinfo=UTC), 39.742476, -105.1786)
    assert golden_colorado == pytest.approx(39.872, abs=0.02)
    # Meeus 1998, example 25.a: declination -7.785 degrees; at the pole it is the elevation.
    assert sun_elevation(datetime(1992, 10, 13, tzinfo=UTC), 90, 0) == pytest.approx(-7.785, abs=0.02)


def test_at_an_equinox_noon_the_sun_is_overhead_at_the_equator_and_on_the_horizon_of_both_poles() -> None:
    assert sun_elevation(EQUINOX_NOON, [0, 90, -90], 0) == pytest.approx([90, 0, 0], abs=0.2)


def test_beyond_the_polar_circles_a_solstice_has_no_night_in_the_north_and_no_day_in_the_south() -> None:
    day = [SOLSTICE + timedelta(minutes=10 * step) for step in range(144)]
    assert min(sun_elevation(time, 67.5, 20.0) for time in day) > 0
    assert max(sun_elevation(time, -67.5, 20.0) for time in day) < 0


@law
@given(times, latitudes, longitudes)
def test_on_the_other_side_of_the_earth_the_sun_is_as_far_below_the_horizon(
    time: datetime, latitude: float, longitude: float
) -> None:
    there = sun_elevation(time, -latitude, longitude + 180)
    assert sun_elevation(time, latitude, longitude) == pytest.approx(-there, abs=1e-6)


@law
@given(times, latitudes, longitudes, st.floats(0, 6))
def test_hours_to_the_west_it_stands_as_it_did_that_long_ago(
    time: datetime, latitude: float, longitude: float, hours: float
) -> None:
    later = sun_elevation(time + timedelta(hours=hours), latitude, longitude - 15 * hours)
    assert later == pytest.approx(sun_elevation(time, latitude, longitude), abs=0.15)  # the sun itself moves on


@law
@given(st.integers(0, 260), st.integers(0, 450), st.integers(1, 40), st.integers(1, 50))
def test_a_window_shows_what_the_whole_grid_shows_there(y: int, x: int, height: int, width: int) -> None:
    time = datetime(2020, 4, 1, 17, 30, tzinfo=UTC)
    window = Window(y, y + height, x, x + width)
    whole = elevation(time, UTM, Window(0, 300, 0, 500))
    np.testing.assert_array_equal(elevation(time, UTM, window), whole[window.slices])
    np.testing.assert_array_equal(night(time, UTM, window), whole[window.slices] < 0)


def test_pixels_get_the_elevation_of_their_place_to_the_size_of_a_square() -> None:
    time = datetime(2020, 4, 1, 9, tzinfo=UTC)
    shown = elevation(time, UTM, Window(0, 300, 0, 500))
    assert shown[250, 300] == pytest.approx(float(sun_elevation(time, 42.91, 14.99)), abs=0.15)  # px of 1 km


def test_off_the_earth_there_is_neither_an_elevation_nor_a_night() -> None:
    time = datetime(2020, 6, 20, 0, tzinfo=UTC)
    whole = Window(0, 464, 0, 464)
    shown, dark = elevation(time, DISC, whole), night(time, DISC, whole)
    assert np.isnan(shown[[0, 0, -1, -1], [0, -1, 0, -1]]).all()
    assert not dark[np.isnan(shown)].any()
    assert dark[232, 232]  # midnight below the satellite
    assert np.isnan(shown).mean() == pytest.approx(1 - np.pi / 4, abs=0.05)
