from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.draft import Draft
from pipeline.grid import Window, tiles
from pipeline.predictor import Forecast, Source
from pipeline.raster import copy, read_physical, sha256
from pipeline.tiling import Assembly, cut
from tests.pipeline.published import DBZ, GRID, RUN, a_forecast, an_outlet

QUANTITIES = ("mean", "q10", "matched")
WHOLE = Window(0, *GRID.shape[:1], 0, *GRID.shape[1:])
TWO = (DBZ, DBZ.model_copy(update={"name": "other"}))


def a_draft(folder: Path) -> Draft:
    folder.mkdir()
    return Draft(folder, RUN, an_outlet(folder.parent / "runs", *TWO))


def said() -> Forecast:
    return a_forecast(bands=2, quantities=QUANTITIES)


def put_in_pieces(draft: Draft | Assembly, whole: Forecast, size: int = 13, margin: int = 4) -> None:
    for window in reversed(list(tiles(GRID.shape, size))):
        outer = window.grown(margin, GRID.shape)
        draft.put(cut(whole, outer), window, outer)


def test_pieces_in_any_order_are_the_whole_byte_for_byte(tmp_path: Path) -> None:
    whole, pieces = a_draft(tmp_path / "whole"), a_draft(tmp_path / "pieces")
    whole.put_whole(said())
    put_in_pieces(pieces, said())
    np.testing.assert_array_equal(whole.ends, pieces.ends)
    for lead in range(2):
        for one, other in ((whole.values, pieces.values), (whole.quality, pieces.quality)):
            for source in (one(lead), other(lead)):
                copy(source, source.with_suffix(".cog.tif"))
            assert sha256(one(lead).with_suffix(".cog.tif")) == sha256(other(lead).with_suffix(".cog.tif"))


def test_a_draft_says_what_a_canvas_in_memory_says_to_half_a_step(tmp_path: Path) -> None:
    draft, canvas = a_draft(tmp_path / "draft"), Assembly(GRID.shape)
    put_in_pieces(draft, said())
    put_in_pieces(canvas, said())
    window = Window(0, 20, 1, 33)
    half = DBZ.scale / 16 / 2
    for lead in range(2):
        np.testing.assert_array_equal(draft.source(lead, window), canvas.source(lead, window))
        changes = [np.diff(one.layers(lead, window), axis=1) for one in (draft, canvas)]
        np.testing.assert_allclose(*changes, atol=2 * half)
        for quantity in QUANTITIES:
            for band in range(2):
                seen = [one.look((lead, quantity, band), window) for one in (draft, canvas)]
                np.testing.assert_allclose(*seen, atol=half)


def test_what_is_painted_replaces_one_layer_of_a_window(tmp_path: Path) -> None:
    draft, window = a_draft(tmp_path / "draft"), Window(4, 10, 5, 25)
    draft.put_whole(said())
    before = read_physical(draft.values(1))
    draft.paint((1, "matched", 1), window, np.full(window.shape, 7, np.float32))
    after = read_physical(draft.values(1))
    before[5][window.slices] = 7  # the third quantity's second band
    np.testing.assert_array_equal(after, before)


def test_a_draft_remembers_what_its_files_cannot_hold(tmp_path: Path) -> None:
    draft, odd = a_draft(tmp_path / "draft"), said()
    odd.values[0, 0] = np.nan
    odd.values[0, 1, 0, 3, 4, 0] = -np.inf
    put_in_pieces(draft, odd)
    assert np.isnan(draft.ends[0]).all()
    assert draft.ends[1, 0] == -np.inf
    assert np.isfinite(draft.ends[1, 1])


def test_files_of_a_draft_say_who_they_are(tmp_path: Path) -> None:
    draft = a_draft(tmp_path / "draft")
    draft.put_whole(said())
    assert [lead.minutes for lead in draft.leads] == [5, 10]
    assert draft.quantities == QUANTITIES
    with rasterio.open(draft.values(1)) as file:
        assert file.descriptions == tuple(f"{b.name}_{q}" for q in QUANTITIES for b in TWO)
        assert file.tags()["valid_time"] == "2020-04-01T13:20:00Z"
    with rasterio.open(draft.quality(0)) as file:
        assert set(np.unique(file.read(1))) == {Source.NONE, Source.NETWORK}
        assert file.read(2)[5, 5] == pytest.approx(1.5 * 5, abs=0.6)
