from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.forecast import look, situate
from pipeline.pieces import View, coarser, follow, plan
from pipeline.predictor import Forecast, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion, baselines
from pipeline.specs import MotionSpec
from tests.pipeline.seers import Blurred, put

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SHAPE = (140, 170)
REACH = 5  # px that the made-up network sees
HALO = 8  # px, with the patches of 4
REF = ModelRef("fake", "1", "network")
FIREWALL = {"stuck": "off", "level": "off"}
SAMPLES = {"context_frames": 3, "max_age": 4, "horizon": 4}


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 120), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))
def test_pieces_cover_a_grid_once_and_see_their_margin_in_windows_of_one_shape(
    height: int, width: int, size: int, margin: int, step: int
) -> None:
    pieces = plan((height, width), size, margin, step)
    covered = np.zeros((height, width), int)
    for piece in pieces:
        covered[piece.window.slices] += 1
        assert piece.outer.y0 % step == piece.outer.x0 % step == 0
        needed = piece.window.grown(margin, (height, width))
        assert piece.outer.intersection(needed) == needed
    assert (covered == 1).all()
    assert len({piece.outer.shape for piece in pieces}) == 1


@pytest.fixture(scope="module")
def drifting(make_product: Callable[..., Product]) -> Product:
    """A field that moves by (2.3, -1.4) px a slot, with a hole."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    product = make_product(grid={"height": SHAPE[0], "width": SHAPE[1]}, scenes={"firewall": FIREWALL})
    for slot in range(4):
        a, b = x - 2.3 * slot, y + 1.4 * slot
        field = 4000 + 2000 * np.sin(a / 7) * np.cos(b / 9) + 900 * np.sin((a + 2 * b) / 5)
        field[60:75, 80:100] = 65535
        product.scene(slot, field.astype(np.uint16))
    product.ingest()
    return product


def settings_of(product: Product, tile: int) -> Settings:
    document = product.settings.model_dump() | {"samples": SAMPLES, "forecast": {"tile": tile}}
    return Settings(**document)


def made(product: Product, tile: int, halo: int = HALO, champion: Champion | None = None) -> Forecast:
    settings = settings_of(product, tile)
    situation = look(settings, product.cube(), None)
    view = View(situation.cube, situation.sample, settings.samples)
    network = Champion(Blurred(REACH, 4), REF, MotionSpec(), halo, step=4, matched=1.0, bands=(0,))
    return put(settings, champion or network, view)


def furthest(one: Forecast, other: Forecast) -> float:
    """Largest difference, in the range of the values."""
    return float(np.nanmax(np.abs(one.values - other.values)) / np.nanmax(one.values))


@pytest.mark.parametrize("tile", [64, 70, 100])
def test_pieces_leave_no_trace_in_a_forecast_that_moves(drifting: Product, tile: int) -> None:
    whole, pieces = made(drifting, 1024), made(drifting, tile)
    assert whole.quantities == pieces.quantities == ("mean", "matched")
    np.testing.assert_array_equal(np.isnan(pieces.values), np.isnan(whole.values))
    assert furthest(whole, pieces) < 1e-5
    np.testing.assert_array_equal(pieces.source, whole.source)
    np.testing.assert_array_equal(pieces.age, whole.age)
    assert {Source.NETWORK, Source.PERSISTENCE} <= set(np.unique(whole.source))


def test_pieces_that_see_too_little_do_leave_one(drifting: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(drifting, 1024)
    monkeypatch.setattr("pipeline.piecework.reach", lambda *_: 0)
    assert furthest(whole, made(drifting, 64, halo=0)) > 1e-3


def test_pieces_see_where_an_old_frame_has_come_from_by_the_last_lead(drifting: Product) -> None:
    """The newest frame is three slots old: at lead 4 a pixel comes from seven slots away."""
    forecasts = []
    for tile in (1024, 64):
        settings = settings_of(drifting, tile)
        situation = situate(settings, drifting.cube(), None, drifting.time(6))
        forecasts.append(put(settings, None, View(situation.cube, situation.sample, settings.samples)))
    whole, pieces = forecasts
    np.testing.assert_array_equal(pieces.source, whole.source)
    np.testing.assert_array_equal(pieces.values, whole.values)
    assert (whole.source == Source.EXTRAPOLATION).mean() > 0.5


def test_without_a_champion_pieces_are_the_extrapolation(drifting: Product) -> None:
    settings = settings_of(drifting, 64)
    situation = look(settings, drifting.cube(), None)
    view = View(situation.cube, situation.sample, settings.samples)
    expected = baselines(settings)["extrapolation"].predict(view.context(view.whole), settings.samples.horizon)
    np.testing.assert_array_equal(put(settings, None, view).values, expected.values)


def test_a_large_frame_is_followed_on_a_coarser_grid(drifting: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(drifting, 1024)
    situation = look(settings, drifting.cube(), None)
    view = View(situation.cube, situation.sample, settings.samples)
    fine = follow(view, MotionSpec())
    monkeypatch.setattr("pipeline.pieces.FLOW_PIXELS", SHAPE[0] * SHAPE[1] // 4)
    monkeypatch.setattr("pipeline.pieces.STRIP", 1000)
    coarse = follow(view, MotionSpec())
    assert (fine.step, coarse.step) == (1, 2)
    inside = (slice(20, -20), slice(20, -20))
    assert float(np.abs(coarse.at(3) - fine.at(3))[inside].mean()) < 0.5
    assert np.median(coarse.at(1)[inside], axis=(0, 1)) == pytest.approx((2.3, -1.4), abs=0.2)


def test_pixels_taken_together_are_the_mean_of_those_that_are_known() -> None:
    values = np.array([[[1, 3, 10], [5, np.nan, np.nan], [2, 4, np.nan]]], np.float32)
    np.testing.assert_array_equal(coarser(values, 2), np.array([[[3, 10], [3, np.nan]]], np.float32))
    assert coarser(values, 1) is values
