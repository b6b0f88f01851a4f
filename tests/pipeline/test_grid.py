from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from pipeline.grid import Window, geobox, misalignment, overlap, placement, tiles

law = settings(deadline=None)  # a busy machine is no fault
UTM = "EPSG:32633"
shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))


def utm(transform: tuple[float, ...] = (10.0, 0.0, 465_000.0, 0.0, -10.0, 5_080_000.0)) -> GeoBox:
    return geobox(UTM, transform, (80, 100))


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int]) -> Window:
    y0, x0 = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    return Window(y0, draw(st.integers(y0 + 1, shape[0])), x0, draw(st.integers(x0 + 1, shape[1])))


@law
@given(shapes, st.integers(1, 100))
def test_tiles_cover_the_grid_exactly_once(shape: tuple[int, int], size: int) -> None:
    seen = np.zeros(shape, int)
    for tile in tiles(shape, size):
        assert max(tile.shape) <= size
        seen[tile.slices] += 1
    assert (seen == 1).all()


@law
@given(windows((80, 100)), st.integers(0, 200))
def test_a_grown_window_holds_the_window_and_stays_in_the_grid(window: Window, margin: int) -> None:
    grown = window.grown(margin, (80, 100))
    assert 0 <= grown.y0 <= window.y0 < window.y1 <= grown.y1 <= 80
    assert 0 <= grown.x0 <= window.x0 < window.x1 <= grown.x1 <= 100
    assert window.y0 - grown.y0 <= margin


@law
@given(windows((80, 100)), st.integers(0, 30))
def test_cutting_the_margin_off_again_gives_the_window(window: Window, margin: int) -> None:
    numbers = np.arange(80 * 100).reshape(80, 100)
    grown = window.grown(margin, numbers.shape)
    np.testing.assert_array_equal(numbers[grown.slices][window.within(grown).slices], numbers[window.slices])


@law
@given(windows((80, 100)))
def test_a_piece_of_the_grid_is_aligned_and_lies_where_it_was_cut(window: Window) -> None:
    piece = utm()[window.slices]
    assert misalignment(utm(), piece) is None
    assert placement(utm(), piece) == window


@law
@given(windows((80, 100)))
def test_a_grid_that_goes_beyond_another_is_aligned_with_it(window: Window) -> None:
    piece = utm()[window.slices]
    assert misalignment(piece, utm()) is None
    assert placement(piece, utm()) == Window(0, 80, 0, 100).within(window)


@law
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
    ],
)
def test_a_scene_that_does_not_fit_pixel_by_pixel_is_refused(transform: tuple[float, ...], said: str) -> None:
    fault = misalignment(utm(), utm(transform))
    assert fault is not None
    assert said in fault


@law
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


# Overlap: it holds every pixel of the one grid whose centre lies in the other, and little more

GEOS = "+proj=geos +lon_0=9.5 +h=35785831 +a=6378169 +rf=295.488065897014 +units=m +no_defs +type=crs"
WORLD = geobox("EPSG:4326", (1.0, 0.0, -180.0, 0.0, -1.0, 90.0), (180, 360))
DISC = geobox(GEOS, (50_000.0, 0.0, -5.7e6, 0.0, -50_000.0, 5.7e6), (228, 228))
NORTH = geobox("EPSG:3413", (50_000.0, 0.0, -3e6, 0.0, -50_000.0, 3e6), (120, 120))
PACIFIC = geobox("EPSG:4326", (1.0, 0.0, 150.0, 0.0, -1.0, 40.0), (80, 60))
RIM = geobox(GEOS, (3_000.0, 0.0, -4.2e6, 0.0, -3_000.0, 4.4e6), (300, 300))  # its corner looks past the earth


def covered(grid: GeoBox, other: GeoBox) -> Window:
    rows, columns = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = grid.transform.c + columns * grid.transform.a, grid.transform.f + rows * grid.transform.e
    if grid.crs != other.crs:
        assert grid.crs is not None
        assert other.crs is not None
        x, y = grid.crs.transformer_to_crs(other.crs)(x, y)
    left, bottom, right, top = other.boundingbox.bbox
    turns = (-360, 0, 360) if other.crs == WORLD.crs else (0,)
    inside = np.any([(x + turn >= left) & (x + turn <= right) for turn in turns], axis=0) & (y >= bottom) & (y <= top)
    ys, xs = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    return Window(int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1)


@pytest.mark.parametrize(
    ("grid", "other"),
    [
        (WORLD, DISC),
        (DISC, WORLD),
        (WORLD, RIM),
        (RIM, WORLD),
        (WORLD, NORTH),
        (NORTH, WORLD),
        (WORLD, PACIFIC),
        (PACIFIC, WORLD),
        (DISC, RIM),
        (utm(), utm((37.0, 0.0, 465_200.0, 0.0, -31.0, 5_079_900.0))),
        (utm(), utm((37.0, 0.0, 464_000.0, 0.0, 31.0, 5_079_000.0))),
        (utm(), geobox("EPSG:4326", (1e-4, 0.0, 14.553, 0.0, -1e-4, 45.874), (60, 70))),
    ],
)
def test_the_overlap_holds_every_pixel_that_the_other_grid_covers(grid: GeoBox, other: GeoBox) -> None:
    found, true = overlap(grid, other), covered(grid, other)
    assert found is not None
    assert found.intersection(true) == true
    slack = 4 + max(grid.shape) // 50
    assert true.grown(slack, (grid.height, grid.width)).intersection(found) == found


@law
@given(st.floats(0, 360), st.floats(2, 40), st.integers(-60, 90), st.integers(-60, 110))
def test_a_turned_scene_overlaps_where_its_pixels_lie(angle: float, size: float, row: int, column: int) -> None:
    turned = utm().transform @ Affine.translation(column, row) @ Affine.rotation(angle) @ Affine.scale(size / 10)
    other = GeoBox((20, 30), turned, UTM)
    rows, columns = np.mgrid[:80, :100] + 0.5
    a, b, c, d, e, f = tuple(~other.transform @ utm().transform)[:6]
    across, down = a * columns + b * rows + c, d * columns + e * rows + f
    ys, xs = np.nonzero((across >= 0) & (across <= 30) & (down >= 0) & (down <= 20))
    found = overlap(utm(), other)
    if len(ys):
        assert found is not None
        assert found.intersection(Window(min(ys), max(ys) + 1, min(xs), max(xs) + 1)) == Window(
            min(ys), max(ys) + 1, min(xs), max(xs) + 1
        )


@pytest.mark.parametrize(
    "other",
    [
        utm((10.0, 0.0, 466_001.0, 0.0, -10.0, 5_080_000.0)),
        geobox("EPSG:4326", (1e-4, 0.0, 15.553, 0.0, -1e-4, 45.874), (60, 70)),
        PACIFIC,
    ],
)
def test_grids_that_do_not_touch_have_no_overlap(other: GeoBox) -> None:
    assert overlap(utm(), other) is None
    assert overlap(other, utm()) is None
