from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid import Window
from pipeline.ledger import State
from pipeline.quality import Quality
from pipeline.slots import WINDOW_BYTES, window_step

BLOCKS = st.sampled_from([(1, 5000), (3, 5000), (16, 16), (256, 256), (512, 512), (100, 240), (1024, 1024), (8, 5000)])


@given(BLOCKS, st.sampled_from([256, 512]), st.integers(1, 64))
def test_windows_are_whole_chunks_and_bounded(block: tuple[int, int], chunk: int, pixel: int) -> None:
    rows, columns = window_step(block, (5000, 5000), chunk, pixel)
    assert rows % chunk == 0
    assert columns % chunk == 0 or columns >= 5000
    least = (max(block[0], chunk) + chunk) * (max(block[1], chunk) + chunk)
    assert rows * columns * pixel <= max(WINDOW_BYTES, 8 * least * pixel)


@pytest.mark.parametrize("blocks", [{"blockysize": 5}, {"tiled": True, "blockxsize": 48, "blockysize": 80}])
def test_a_scene_enters_the_same_whatever_its_blocks(make_product: Callable[..., Any], blocks: dict[str, Any]) -> None:
    product = make_product(grid={"width": 700, "height": 600})
    product.scene(0, product.dn(0), **blocks)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), product.dn(0))


def test_a_lost_block_is_flagged_to_the_pixel_and_hidden(make_product: Callable[..., Any]) -> None:
    product = make_product(grid={"width": 200, "height": 180})
    dn = product.dn(0) + np.uint16(5)
    hole = Window(40, 103, 60, 150)
    dn[:, *hole.slices] = 0
    product.scene(0, dn)
    product.ingest()
    expected = np.zeros(dn.shape[1:], np.uint8)
    expected[hole.slices] = Quality.LOST
    np.testing.assert_array_equal(product.quality(0), expected)
    np.testing.assert_array_equal(product.stored(0), dn)
    np.testing.assert_array_equal(product.cube().read([0]).validity[0, ..., 0], expected == 0)
    assert product.cube().rows[0].valid_fraction == pytest.approx((expected == 0).mean())


@pytest.mark.parametrize(("value", "reason"), [(65535, "all-nodata"), (0, "all-zero")])
def test_a_scene_that_shows_nothing_is_quarantined(product: Any, value: int, reason: str) -> None:
    empty = product.scene(1, np.full((1, 40, 48), value, np.uint16))
    product.scene(0)
    report = product.ingest()
    assert [(e.key.name, e.state, e.reason) for e in report.entries if e.reason] == [
        (empty.name, State.QUARANTINED, reason)
    ]
    assert product.cube().observed().tolist() == [0]
    assert (product.settings.paths.quarantine / reason / empty.name).read_bytes() == empty.read_bytes()


def test_night_is_flagged_where_a_band_is_visible(make_product: Callable[..., Any]) -> None:
    band = {"name": "sky", "dtype": "uint16", "nodata": 65535, "visible": True}
    product = make_product(bands=[band], axis={"origin": "2024-06-01T00:00:00Z"})
    product.scene(0, name="scene_20240601T000000Z.tif")  # 45 N, 15 E: midnight, and below seven hours later
    product.scene(0, product.dn(3), name="scene_20240601T070000Z.tif")
    product.ingest()
    assert (product.quality(0) == Quality.NIGHT | Quality.MASKED).all()
    assert (product.quality(84) == 0).all()


def test_scenes_of_other_grids_are_warped_where_that_is_wanted(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"off_grid": "warp"})
    whole = np.full((1, 100, 100), 77, np.uint16)
    product.scene(0, whole, transform=(7, 0, 499990, 0, -7, 5000010))
    product.scene(1, whole[:, :30, :30], transform=(7, 0, 500100, 0, -7, 4999900))
    product.ingest()
    assert (product.stored(0) == 77).all()
    seen = product.stored(1)[0] != 65535
    assert seen[12:28, 12:28].all()
    assert not seen[:9].any()
    assert not seen[:, 33:].any()
