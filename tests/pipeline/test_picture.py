import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from pipeline.episode import Episode
from pipeline.picture import draw, write_picture

INIT = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    layers = np.random.default_rng(seed).normal(size=(int(np.prod(shape[:-2])), *shape[-2:])).astype(np.float32)
    return np.stack([cv2.GaussianBlur(layer, (0, 0), 3) for layer in layers]).reshape(shape)


def episode(shape: tuple[int, int], frames: int = 4, leads: int = 6, units: str = "dBZ", patch: int = 4) -> Episode:
    cadence = timedelta(minutes=5)
    weights = np.exp(8 * smooth((leads, frames, -(-shape[0] // patch), -(-shape[1] // patch)), 3))
    return Episode(
        product="a_product_with_a_rather_long_name",
        band="reflectivity",
        units=units,
        model="attention_convlstm",
        attribution="Contains data of a Meteorological Institute, transformed by somebody else (CC BY 4.0)",
        init=INIT,
        cadence=cadence,
        acquired=tuple(INIT - age * cadence for age in range(frames - 1, -1, -1)),
        context=smooth((frames, *shape)),
        forecast=smooth((leads, *shape), 1),
        truth=smooth((leads, *shape), 2),
        attention=weights / weights.sum(axis=1, keepdims=True),
        patch=patch,
    )


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


CASES = {
    "wide": episode((446, 922)),
    "tall": episode((613, 380), frames=6, leads=12),
    "small": episode((100, 101), frames=8, leads=3, units="1"),
    "one frame, one lead": episode((78, 77), frames=1, leads=1, units="K"),
    "many": episode((147, 255), frames=32, leads=24, units="kg m-2 s-1"),
    "a strip": episode((40, 900), frames=5, leads=2),
    "a tower": episode((300, 60), frames=3, leads=6),
    "no truth": replace(episode((192, 192)), truth=None),
    "tall, no truth": replace(episode((300, 200)), truth=None),
    "no attention": replace(episode((192, 192)), attention=None),
    "tall, no attention": replace(episode((300, 200)), attention=None),
    "neither": replace(episode((192, 192)), attention=None, truth=None),
    "rare": replace(episode((100, 101), leads=30), cadence=timedelta(days=16)),
}


def bounded(one: Episode) -> Episode:
    """With an interval of 0.2 about the forecast."""
    return replace(one, interval=np.stack([one.forecast - np.float32(0.1), one.forecast + np.float32(0.1)]))


BOUNDED = ("wide", "tall", "one frame, one lead", "a strip", "no truth", "tall, no attention")
CASES |= {f"{name}, bounded": bounded(CASES[name]) for name in BOUNDED}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_cut_off_and_nothing_overlaps(name: str) -> None:
    figure = draw(CASES[name])
    found = boxes(figure)
    page = figure.bbox.padded(1)
    for box in found:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for one, other in itertools.combinations([box.padded(-1) for box in found], 2):
        assert not one.overlaps(other)


def test_the_page_says_whose_forecast_it_is_when_and_how_good() -> None:
    one = CASES["wide"]
    said = words(draw(one))
    assert (
        "a_product_with_a_rather_long_name · reflectivity: forecast by attention_convlstm from 2024-06-01 12:00Z"
        in said
    )
    assert one.attribution in said
    assert one.verdict(one.mean_errors()) in said
    assert "11:45Z, 15 min before" in said
    assert "forecast +30 min, 12:30Z" in said


def test_a_lead_without_truth_says_so_and_the_others_are_shown() -> None:
    one = episode((60, 60))
    assert one.truth is not None
    gappy = np.concatenate([one.truth[:-1], np.full_like(one.truth[-1:], np.nan)])
    said = words(draw(replace(one, truth=gappy)))
    assert said.count("no truth to compare with") == 3
    assert said.count("persistence error: ") == 2
    assert "25 min ahead" in said


def test_before_any_truth_no_error_is_spoken_of() -> None:
    said = words(draw(CASES["no truth"]))
    assert "The truth is not known yet." in said
    assert "What it says" in said
    assert "error" not in said


def test_the_share_of_the_truth_within_the_interval_is_said_at_each_lead() -> None:
    one = bounded(CASES["wide"])
    said = words(draw(replace(one, truth=one.forecast)))
    assert said.count("q10 to q90: holds 100%") == 3


def test_without_truth_the_interval_is_shown_alone() -> None:
    said = words(draw(CASES["no truth, bounded"]))
    assert (said.count("q10 to q90"), said.count("holds")) == (4, 0)


def test_without_an_interval_there_is_none() -> None:
    assert "q10" not in words(draw(CASES["wide"]))


def test_a_forecast_without_attention_has_no_panel_of_it() -> None:
    assert "Where it looked" in words(draw(CASES["wide"]))
    assert "Where it looked" not in words(draw(CASES["no attention"]))


def test_a_frame_that_never_came_takes_no_place() -> None:
    one = episode((60, 60))
    context = one.context.copy()
    context[0] = np.nan
    said = words(draw(replace(one, context=context)))
    assert "15 min before" not in said
    assert "10 min before" in said


def test_nothing_at_all_is_still_a_page() -> None:
    one = episode((60, 60))
    empty = {name: np.full_like(getattr(one, name), np.nan) for name in ("context", "forecast", "truth", "attention")}
    assert "no frame shows anything" in words(draw(replace(one, **empty)))


def test_names_are_no_formulas() -> None:
    draw(replace(episode((60, 60)), product="a$b$", units="$x_", attribution="$100 $")).draw_without_rendering()


def test_the_same_episode_gives_the_same_bytes_and_leaves_no_trace(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    for name in ("one.png", "two.png"):
        write_picture(tmp_path / name, CASES["small"])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
