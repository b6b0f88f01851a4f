from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.grid import Window, tiles
from pipeline.matching import matched, with_room
from pipeline.predictor import MATCHED, Forecast, Source
from pipeline.ranking import Ranking
from pipeline.tiling import Assembly, cut

SHAPE = (150, 210)
WHOLE = Window(0, SHAPE[0], 0, SHAPE[1])


def rain(seed: int, *, blur: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(2, *SHAPE, 1))
    return np.stack([cv2.GaussianBlur(one, (0, 0), blur) for one in noise]).reshape(noise.shape).astype(np.float32)


def two() -> tuple[Forecast, Forecast]:
    """A soft mean of two leads, of which a corner is not the network's, and what lies below: rougher and holed."""
    source = np.full((1, 2, *SHAPE), Source.NETWORK, np.uint8)
    source[:, :, :30, :50] = Source.PERSISTENCE
    age = np.zeros(source.shape, np.float32)
    reference = np.exp(3 * rain(2, blur=2))
    reference[:, 70:80, 90:120] = np.nan
    mean = Forecast(rain(1, blur=6)[np.newaxis, :, np.newaxis], source, age)
    return mean, Forecast(reference[np.newaxis, :, np.newaxis], source, age)


def ranked(said: Forecast, below: Forecast, size: int, *, partly: float = 1.0) -> Forecast:
    canvas, ranking = Assembly(SHAPE), Ranking(SHAPE, partly)
    for window in tiles(SHAPE, size):
        outer = window.grown(3, SHAPE)
        ranking.put(cut(said, outer), cut(below, outer), window, outer)
        canvas.put(with_room(cut(said, outer)), window, outer)
    ranking.paint(canvas)
    return canvas.forecast


@pytest.mark.parametrize("size", [40, 64, 500])
def test_the_field_of_pieces_is_that_of_the_whole(size: int) -> None:
    said, below = two()
    found = ranked(said, below, size, partly=0.7)
    assert found.quantities == ("mean", MATCHED)
    for lead in range(2):
        spoke = said.source[0, lead] == Source.NETWORK
        reference = np.where(spoke, below.values[0, lead, 0, ..., 0], np.float32(np.nan))
        expected = matched(said.values[0, lead, 0, ..., 0], reference, partly=0.7)
        np.testing.assert_array_equal(found.of(MATCHED)[0, lead, ..., 0], expected)


def test_a_large_grid_is_ranked_by_some_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    said, below = two()
    exact = ranked(said, below, 64).of(MATCHED)
    monkeypatch.setattr("pipeline.ranking.EXACT", 4000)
    found = {size: ranked(said, below, size).of(MATCHED) for size in (40, 64, 500)}
    for field in found.values():
        np.testing.assert_array_equal(field, found[500])
    spread = float(exact.std())
    assert float(np.abs(found[500] - exact).mean()) < 0.05 * spread
    np.testing.assert_array_equal(found[500][..., :30, :50, :], said.values[:, :, 0, :30, :50])
    spoke = said.source[0, 0] == Source.NETWORK
    order = said.values[0, 0, 0, ..., 0][spoke].argsort()
    assert (np.diff(found[500][0, 0, ..., 0][spoke][order]) >= 0).all()


def test_where_no_network_spoke_the_field_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    said, below = two()
    below.values[:] = np.nan
    for exact in (4_000_000, 4000):
        monkeypatch.setattr("pipeline.ranking.EXACT", exact)
        np.testing.assert_array_equal(ranked(said, below, 64).of(MATCHED), said.of("mean"))
