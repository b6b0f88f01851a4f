from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from affine import Affine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from PIL import Image

from pipeline import film
from pipeline.episode import Episode
from pipeline.film import write_film
from pipeline.portrait import RUNGS, Likelihood, Portrait, draw, write_portrait
from pipeline.predictor import Source

INIT = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)
CADENCE = timedelta(minutes=5)


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    layers = np.random.default_rng(seed).normal(size=(int(np.prod(shape[:-2])), *shape[-2:])).astype(np.float32)
    return np.stack([cv2.GaussianBlur(layer, (0, 0), 3) for layer in layers]).reshape(shape)


def portrait(shape: tuple[int, int], frames: int = 5, leads: int = 6, units: str = "dBZ") -> Portrait:
    """The right quarter is persistence, a corner is empty."""
    forecast = smooth((leads, *shape), 1)
    forecast[:, :9, :9] = np.nan
    sources = np.full(forecast.shape, Source.NETWORK, np.uint8)
    sources[:, :, -shape[1] // 4 :] = Source.PERSISTENCE
    sources[:, :9, :9] = Source.NONE
    episode = Episode(
        product="A product with a rather long title, 1 km, 5 minutes",
        band="reflectivity",
        units=units,
        model="a_product 3",
        attribution="Contains data of a Meteorological Institute, transformed by somebody else (CC BY 4.0)",
        init=INIT,
        cadence=CADENCE,
        acquired=tuple(INIT - age * CADENCE for age in range(frames - 1, -1, -1)),
        context=smooth((frames, *shape)),
        forecast=forecast,
        interval=np.stack([forecast - np.float32(0.1), forecast + np.float32(0.1)]),
    )
    grid = GeoBox(shape, Affine(1000, 0, 5e5, 0, -1000, 5e6), CRS("EPSG:32633"))
    return Portrait(episode, sources, grid, INIT + timedelta(minutes=2), "8NVW2F23EBM1P6JYVFF0", useful=95)


def without_interval(one: Portrait) -> Portrait:
    return replace(one, episode=replace(one.episode, interval=None))


def with_likelihood(one: Portrait) -> Portrait:
    """Grows from left to right."""
    leads, height, width = one.episode.forecast.shape
    layers = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (leads, height, width)).copy()
    layers[:, :9, :9] = np.nan
    return replace(one, likelihood=Likelihood("at least 5 dBZ", layers))


CASES = {
    "wide": portrait((446, 922)),
    "tall": portrait((613, 380), leads=12),
    "small": portrait((100, 101), leads=3, units="1"),
    "one frame, one lead": portrait((78, 77), frames=1, leads=1, units="K"),
    "a strip": portrait((40, 900), leads=2),
    "a tower": portrait((300, 60), leads=6, units="kg m-2 s-1"),
    "likelihood": with_likelihood(portrait((200, 320))),
    "tall likelihood": with_likelihood(portrait((613, 380), leads=2)),
    "extrapolation": without_interval(portrait((192, 192))),
    "tall extrapolation": without_interval(portrait((300, 200))),
}


def words(figure: Figure) -> str:
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join([text.get_text() for text in figure.texts] + inside)


def boxes(figure: Figure) -> list[Bbox]:
    """What every axes, its labels included, and every line of text takes up, in dots."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    axes = [one.get_tightbbox(renderer) for one in figure.axes]
    texts = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    return [box for box in (*axes, *texts) if box is not None]


def assert_nothing_is_cut_off_or_overlaps(figure: Figure) -> None:
    found = boxes(figure)
    page = figure.bbox.padded(1)
    for box in found:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for one, other in itertools.combinations([box.padded(-1) for box in found], 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("name", CASES)
def test_nothing_on_the_page_is_cut_off_or_overlaps(name: str) -> None:
    assert_nothing_is_cut_off_or_overlaps(draw(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_nothing_in_the_film_is_cut_off_or_overlaps(name: str) -> None:
    first, *_, last = film.draw(CASES[name])
    for figure in (first, last):
        assert_nothing_is_cut_off_or_overlaps(figure)


def test_the_page_says_whose_forecast_it_is_when_where_and_by_whom() -> None:
    said = words(draw(CASES["wide"]))
    assert "reflectivity, forecast from 2024-06-01 12:00Z by a_product 3" in said
    assert "12:00Z, newest" in said
    assert "+30 min, 12:30Z" in said
    assert "922 x 446 px of 1 km" in said
    assert "centre 43.0° N 20.7° E" in said
    assert "published 2024-06-01 12:02Z" in said
    assert "200 km" in said  # the scale's bar
    assert "network 75 %, persistence 25 %" in said
    assert "median 0.2 dBZ" in said
    assert "Meteorological Institute" in said


def test_the_page_says_how_far_ahead_such_forecasts_have_been_useful_where_that_is_known() -> None:
    assert "useful so far to 1 h 35 min" in words(draw(CASES["wide"]))
    assert "useful so far" not in words(draw(replace(CASES["wide"], useful=None)))


def test_a_run_without_intervals_has_no_row_for_them() -> None:
    assert "How sure it is" in words(draw(CASES["small"]))
    assert "How sure it is" not in words(draw(CASES["extrapolation"]))


def test_a_run_with_probabilities_has_a_row_that_names_the_event() -> None:
    said = words(draw(CASES["likelihood"]))
    assert "How likely" in said
    assert "at least 5 dBZ" in said
    assert "at most 100%" in said
    assert "How likely" not in words(draw(CASES["small"]))


def test_a_grid_in_degrees_has_a_scale_in_kilometres() -> None:
    degrees = GeoBox((100, 101), Affine(0.05, 0, -3, 0, -0.05, 2), CRS("EPSG:4326"))
    said = words(draw(replace(CASES["small"], grid=degrees)))
    assert "100 km" in said
    assert "centre 0.5° S 0.5° W" in said


def test_a_grid_whose_centre_is_off_the_earth_is_drawn_too() -> None:
    space = "+proj=geos +lon_0=0 +h=35785831 +ellps=WGS84 +units=m"
    corner = GeoBox((100, 101), Affine(1e3, 0, -5.5e6, 0, -1e3, 5.5e6), CRS(space))
    assert "off the Earth" in words(draw(replace(CASES["small"], grid=corner)))


def test_every_rung_has_the_colour_that_the_key_gives_it() -> None:
    figure = draw(CASES["small"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    for source, count in ((Source.NETWORK, 10_000), (Source.PERSISTENCE, 3_000), (Source.CLIMATOLOGY, 0)):
        colour = [int(RUNGS[source][at : at + 2], 16) for at in (1, 3, 5)]
        found = (pixels == colour).all(axis=1).sum()
        assert found >= count
        assert (found == 0) == (count == 0)


def test_the_same_portrait_gives_the_same_bytes(tmp_path: Path) -> None:
    for write, end in ((write_portrait, "png"), (write_film, "gif")):
        for name in ("one", "two"):
            write(tmp_path / f"{name}.{end}", portrait((60, 80), leads=2))
        assert (tmp_path / f"one.{end}").read_bytes() == (tmp_path / f"two.{end}").read_bytes()


def test_a_film_shows_what_was_observed_and_then_every_lead_for_ever(tmp_path: Path) -> None:
    one = portrait((60, 80), frames=5, leads=3)
    titles = [words(figure) for figure in film.draw(one)]
    assert ["Observed" in text for text in titles] == [True] * film.PAST_SHOWN + [False] * 3
    assert "11:45Z, 15 min before" in titles[0]
    assert "+15 min, 12:15Z" in titles[-1]
    write_film(tmp_path / "film.gif", one)
    with Image.open(tmp_path / "film.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (film.PAST_SHOWN + 3, 0)


def test_a_films_colours_are_those_of_the_page(tmp_path: Path) -> None:
    one = portrait((60, 80), frames=1, leads=1)
    write_film(tmp_path / "film.gif", one)
    *_, figure = film.draw(one)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    with Image.open(tmp_path / "film.gif") as gif:
        gif.seek(1)
        shown = np.asarray(gif.convert("RGB")).astype(int)
    apart = np.abs(shown - drawn).max(axis=-1)
    assert (np.percentile(apart, 99) <= 12, shown[0, 0].tolist()) == (True, [255, 255, 255])
