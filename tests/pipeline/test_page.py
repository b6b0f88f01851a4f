import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.page import Block, Box, Look, Page, shrunk

GREY = Look("gray", 0.0, 1.0)


def pixels(page: Page) -> np.ndarray:
    canvas = FigureCanvasAgg(page.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def test_a_panel_stands_where_it_is_put_and_shows_its_first_pixel_top_left() -> None:
    page = Page.blank(4.0, 3.0)
    page.panel(Box(1.0, 0.5, 2.0, 2.0), np.array([[0.0, 1.0], [1.0, 1.0]]), GREY, "")
    shown = pixels(page)
    assert shown[int(1.0 * 110), int(1.5 * 110)].tolist() == [0, 0, 0]
    assert shown[int(1.0 * 110), int(2.5 * 110)].tolist() == [255, 255, 255]
    assert shown[int(2.0 * 110), int(1.5 * 110)].tolist() == [255, 255, 255]


@pytest.mark.parametrize("colours", ["gray", "viridis", "magma", "RdBu_r"])
def test_missing_pixels_have_a_colour_that_no_value_has(colours: str) -> None:
    page, values = Page.blank(6.0, 3.0), np.linspace(0, 1, 512)[np.newaxis]
    page.panel(Box(0.0, 0.5, 2.0, 2.0), np.full((4, 4), np.nan), Look(colours, 0, 1), "")
    page.panel(Box(3.0, 1.0, 2.0, 1.0), np.repeat(values, 256, 0), Look(colours, 0, 1), "")
    shown = pixels(page)
    missing, known = shown[80:250, 20:200].reshape(-1, 3), shown[130:200, 350:530].reshape(-1, 3)
    fill, count = np.unique(missing, axis=0, return_counts=True)
    assert 0.3 < count.max() / len(missing) < 0.9  # hatched, not plain
    assert np.abs(known - fill[count.argmax()]).max(axis=1).min() > 8


def test_codes_are_shown_as_they_are_however_many_there_are() -> None:
    codes = np.random.default_rng(0).integers(0, 2, (700, 900)).astype(np.float32)
    page = Page.blank(2.0, 2.0)
    page.codes(Box(0.2, 0.5, 1.6, 1.2), codes, GREY, "")
    shown = pixels(page)[60:180, 30:190, 0]
    assert set(np.unique(shown)) == {0, 255}
    page = Page.blank(2.0, 2.0)
    page.panel(Box(0.2, 0.5, 1.6, 1.2), codes, GREY, "")
    assert len(np.unique(pixels(page)[60:180, 30:190, 0])) > 20  # values are averaged


def test_shrinking_keeps_means_and_leaves_missing_values_out() -> None:
    layer = np.random.default_rng(0).normal(size=(40, 60))
    small, side = shrunk(layer, 15)
    assert (small.shape, side) == ((10, 15), 4)
    np.testing.assert_allclose(small[3, 2], layer[12:16, 8:12].mean())
    layer[12:14, 8:12] = np.nan
    np.testing.assert_allclose(shrunk(layer, 15)[0][3, 2], layer[14:16, 8:12].mean())
    layer[12:16, 8:11] = np.nan
    assert np.isnan(shrunk(layer, 15)[0][3, 2])


def test_small_layers_are_left_as_they_are() -> None:
    layer = np.zeros((7, 9))
    assert shrunk(layer, 10)[0] is layer


def test_a_look_spans_the_known_values_and_says_where_some_go_beyond() -> None:
    layer = np.append(np.arange(1000.0), np.nan)
    assert Look.spanning("gray", [layer], (0, 100)) == Look("gray", 0.0, 999.0, "neither")
    assert Look.spanning("gray", [layer], (0, 90)).extend == "max"
    assert Look.spanning("gray", [layer], (1, 90)).extend == "both"


def test_a_look_of_nothing_or_of_one_value_is_still_a_scale() -> None:
    for layers in ([], [np.full(3, np.nan)], [np.full(3, 7.0)]):
        look = Look.spanning("gray", layers, (1, 99))
        assert look.high > look.low


def test_cells_of_a_block_do_not_touch() -> None:
    block = Block(1.0, 2.0, 2, 3, (2.0, 1.5))
    assert block.cell(0, 1).left > block.cell(0, 0).right
    assert block.cell(1, 0).top > block.cell(0, 0).bottom
    assert block.bar().left > block.cell(0, 2).right
    assert block.bottom == pytest.approx(block.cell(1, 0).bottom)
