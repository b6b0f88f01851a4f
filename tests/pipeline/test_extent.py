from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extent import cut
from pipeline.grid import Window
from pipeline.specs import GridSpec

law = settings(deadline=None)  # a busy machine is no fault
GRID = GridSpec(crs="EPSG:32633", transform=(10, 0, 465_000, 0, -10, 5_080_000), width=20, height=16)
TURNED = GRID.model_copy(update={"transform": (-10.0, 0.0, 465_200.0, 0.0, 10.0, 5_079_840.0)})


@st.composite
def windows(draw: st.DrawFn) -> Window:
    y0, x0 = draw(st.integers(0, 15)), draw(st.integers(0, 19))
    return Window(y0, draw(st.integers(y0 + 1, 16)), x0, draw(st.integers(x0 + 1, 20)))


@law
@given(windows(), st.sampled_from([GRID, TURNED]))
def test_the_bounds_of_whole_pixels_cut_these_pixels(window: Window, grid: GridSpec) -> None:
    piece = grid.geobox()[window.slices]
    left, bottom, right, top = piece.boundingbox.bbox
    assert cut(grid, (left, bottom, right, top)).geobox() == piece


@law
@given(windows(), st.floats(0.5, 9.5))
def test_pixels_that_bounds_touch_are_kept_whole(window: Window, inside: float) -> None:
    piece = GRID.geobox()[window.slices]
    left, bottom, right, top = piece.boundingbox.bbox
    assert cut(GRID, (left + inside / 2, bottom + inside / 2, right - inside / 2, top - inside / 2)).geobox() == piece


def test_what_lies_beyond_the_scenes_is_not_invented() -> None:
    assert cut(GRID, (0, 0, 1e7, 1e7)) == GRID
