from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from pipeline.grid import Window, geobox, misalignment, placement, tiles

UTM = "EPSG:32633"
shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))


def utm(transform: tuple[float, ...] = (10.0, 0.0, 465_000.0, 0.0, -10.0, 5_080_000.0)) -> GeoBox:
    return geobox(UTM, transform, (80, 100))


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int]) -> Window:
    y0, x0 = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    return Window(y0, draw(st.integers(y0 + 1, shape[0])), x0, draw(st.integers(x0 + 1, shape[1])))


@given(shapes, st.integers(1, 100))
def test_tiles_cover_the_grid_exactly_once(shape: tuple[int, int], size: int) -> None:
    seen = np.zeros(shape, int)
    for tile in tiles(shape, size):
        assert max(tile.shape) <= size
        seen[tile.slices] += 1
    assert (seen == 1).all()


@given(windows((80, 100)), st.integers(0, 200))
def test_a_grown_window_holds_the_window_and_stays_in_the_grid(window: Window, margin: int) -> None:
    grown = window.grown(margin, (80, 100))
    assert 0 <= grown.y0 <= window.y0 < window.y1 <= grown.y1 <= 80
    assert 0 <= grown.x0 <= window.x0 < window.x1 <= grown.x1 <= 100
    assert window.y0 - grown.y0 <= margin


@given(windows((80, 100)), st.integers(0, 30))
def test_cutting_the_margin_off_again_gives_the_window(window: Window, margin: int) -> None:
    numbers = np.arange(80 * 100).reshape(80, 100)
    grown = window.grown(margin, numbers.shape)
    np.testing.assert_array_equal(numbers[grown.slices][window.within(grown).slices], numbers[window.slices])


@given(windows((80, 100)))
def test_a_piece_of_the_grid_is_aligned_and_lies_where_it_was_cut(window: Window) -> None:
    piece = utm()[window.slices]
    assert misalignment(utm(), piece) is None
    assert placement(utm(), piece) == window


@given(windows((80, 100)))
def test_window_to_bounds_to_window_is_the_identity(window: Window) -> None:
    left, bottom, right, top = utm()[window.slices].boundingbox.bbox
    inverse = ~utm().transform
    (x0, y0), (x1, y1) = inverse @ (left, top), inverse @ (right, bottom)
    assert Window(round(y0), round(y1), round(x0), round(x1)) == window


def test_a_scene_of_another_crs_is_named() -> None:
    other = geobox("EPSG:32634", tuple(utm().transform)[:6], (80, 100))
    assert misalignment(utm(), other) == "its CRS is EPSG:32634, the cube's is EPSG:32633"


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ((20.0, 0.0, 465_000.0, 0.0, -20.0, 5_080_000.0), "its pixels are 20 x -20"),
        ((10.0, 0.0, 465_000.0, 0.0, 10.0, 5_079_200.0), "its pixels are 10 x 10"),
        ((10.0, 1.0, 465_000.0, 1.0, -10.0, 5_080_000.0), "rotated"),
        ((10.0, 0.0, 465_005.0, 0.0, -10.0, 5_080_000.0), "its corner lies 0.500, 0.000 pixels"),
        ((10.0, 0.0, 465_010.0, 0.0, -10.0, 5_080_000.0), "it covers rows 0-80 and columns 1-101"),
        ((10.0, 0.0, 464_990.0, 0.0, -10.0, 5_080_000.0), "columns -1-99"),
    ],
)
def test_a_scene_that_does_not_fit_pixel_by_pixel_is_refused(transform: tuple[float, ...], said: str) -> None:
    fault = misalignment(utm(), utm(transform))
    assert fault is not None
    assert said in fault


@given(st.floats(-1e-4, 1e-4))
def test_the_last_digits_of_a_geotransform_do_not_matter(error: float) -> None:
    shifted = utm().transform @ Affine.translation(error, -error)
    assert misalignment(utm(), GeoBox((80, 100), shifted, UTM)) is None


def test_a_crs_without_authority_code_equals_itself_through_text() -> None:
    wkt = (
        'PROJCS["unknown",GEOGCS["unknown",DATUM["unknown",SPHEROID["unknown",6371288,0]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]],PROJECTION["Polar_Stereographic"],PARAMETER["latitude_of_origin",60],'
        'PARAMETER["central_meridian",25],PARAMETER["false_easting",380886.31],'
        'PARAMETER["false_northing",3395677.92],UNIT["metre",1],AXIS["Easting",SOUTH],AXIS["Northing",SOUTH]]'
    )
    one = geobox(wkt, (1000.0, 0.0, 0.0, 0.0, -1000.0, 0.0), (5, 5))
    assert misalignment(one, geobox(str(one.crs), tuple(one.transform)[:6], (5, 5))) is None


def test_pixels_that_drift_by_a_hundredth_over_the_scene_are_off_grid() -> None:
    grid = GeoBox((10, 10_900), Affine(10, 0, 0, 0, -10, 0), "EPSG:32633")
    drifting = GeoBox((10, 10_900), Affine(10.005, 0, 0, 0, -10, 0), "EPSG:32633")
    assert "its pixels are" in str(misalignment(grid, drifting))
