from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.config import Settings
from pipeline.errors import ServiceError
from pipeline.forecast import forecast, look
from pipeline.grid import Window
from pipeline.pieces import View
from pipeline.piecework import Work, answers
from pipeline.predictor import Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.specs import MotionSpec
from pipeline.tiling import cut
from tests.pipeline.seers import Blurred

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SHAPE = (120, 150)
NETWORK = Champion(Blurred(5, 4), ModelRef("fake", "1", "network"), MotionSpec(), 8, step=4, matched=1.0, bands=(0,))


@pytest.fixture(scope="module")
def drifting(make_product: Callable[..., Product]) -> Product:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    firewall = {"stuck": "off", "level": "off"}
    product = make_product(grid={"height": SHAPE[0], "width": SHAPE[1]}, scenes={"firewall": firewall})
    for slot in range(3):
        product.scene(slot, (4000 + 2000 * np.sin((x - 2 * slot) / 7) * np.cos((y + slot) / 9)).astype(np.uint16))
    product.ingest()
    return product


def settings_of(product: Product, tile: int = 64, **changed: object) -> Settings:
    samples = {"context_frames": 3, "max_age": 4, "horizon": 3}
    return Settings(**(product.settings.model_dump() | {"samples": samples, "forecast": {"tile": tile}} | changed))


def work_of(product: Product, folder: Path | None = None) -> Work:
    settings = settings_of(product)
    situation = look(settings, product.cube(), None)
    view = View(situation.cube, situation.sample, settings.samples)
    return Work.begun(settings, NETWORK, view, folder)


def test_every_piece_is_answered_once_by_the_ladder_and_by_what_is_below(drifting: Product) -> None:
    work = work_of(drifting)
    done = list(answers(work, None, ""))
    assert [one.piece for one in done] == work.pieces
    assert len(done) == 6
    for one in done:
        assert one.said.values.shape[3:5] == one.below.values.shape[3:5] == one.piece.outer.shape
        assert (one.said.source == Source.NETWORK).any()
        assert not (one.below.source == Source.NETWORK).any()


def test_pieces_of_a_large_grid_are_smaller_the_more_is_said_of_a_pixel(
    drifting: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = work_of(drifting), replace(work_of(drifting), settings=settings_of(drifting, tile=100))
    monkeypatch.setattr("pipeline.piecework.LEAST", 8)
    monkeypatch.setattr("pipeline.piecework.PIECE", 80**2 * 2300)
    assert {one.window.shape for one in few.pieces} >= {(64, 64)}
    monkeypatch.setattr("pipeline.piecework.LARGE", 1000)
    sides = []
    for quantities in (2, 5):
        work = replace(many, champion=replace(NETWORK, quantities=quantities))
        sides.append(max(one.window.shape[0] for one in work.pieces))
        seen = max(one.outer.shape[0] for one in work.pieces)
        assert seen**2 * (1500 + 35 * 3 * quantities) < 1.1 * 80**2 * 2300
    assert 8 < sides[1] < sides[0] < 64


def test_a_window_made_again_is_what_the_pieces_say(drifting: Product) -> None:
    work, window = work_of(drifting), Window(50, 80, 55, 75)
    again = work.again(window)
    for one in answers(work, None, ""):
        shared = one.piece.window.intersection(window)
        if shared is not None:
            expected = cut(one.said, shared.within(one.piece.outer))
            np.testing.assert_allclose(cut(again, shared.within(window)).values, expected.values, rtol=1e-5)


def test_work_that_went_through_a_file_gives_the_same_answers(drifting: Product, tmp_path: Path) -> None:
    """As workers get it; its trajectories lie in files beside it."""
    work = work_of(drifting, tmp_path)
    told = pickle.dumps(work)
    assert len(told) < 300_000  # the flow, no frame and no way
    again, piece = pickle.loads(told), work.pieces[1]
    np.testing.assert_array_equal(again.answer(piece).said.values, work_of(drifting).answer(piece).said.values)


def test_a_scheduler_that_does_not_answer_is_named(drifting: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.workers.CONNECT_S", 0.5)
    with pytest.raises(ServiceError, match=r"services\.dask.*127\.0\.0\.1:9"):
        forecast(settings_of(drifting, services={"dask": "tcp://127.0.0.1:9"}), NETWORK)


@pytest.mark.slow
def test_the_workers_of_a_scheduler_make_the_same_bytes(drifting: Product, tmp_path: Path) -> None:
    from distributed import LocalCluster

    runs = []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        for name, services in (("here", {}), ("there", {"dask": cluster.scheduler_address})):
            asked = settings_of(drifting, workspace=tmp_path / name, services=services)
            asked.workspace.mkdir()
            asked.paths.cube.symlink_to(drifting.settings.paths.cube)
            runs.append(forecast(asked, NETWORK))
    here, there = ({path.name: path.read_bytes() for path in run.glob("*.tif")} for run in runs)
    assert len(here) == 6
    assert here == there
    assert not list((tmp_path / "there").rglob("*.pickle"))
