from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from pipeline.amend import withdraw
from pipeline.quality import Quality


def _flags(product: Any) -> dict[int, int]:
    """Bits that all pixels of a slot share, by slot, as the table and as the quality array say them."""
    rows = {row.slot: row.flags for row in product.cube().rows if row.standing}
    for slot, flags in rows.items():
        assert (product.quality(slot) & np.uint8(Quality.STUCK | Quality.LEVEL) == flags).all()
    return rows


@pytest.mark.parametrize("order", list(permutations((1, 2, 4)))[::2])
def test_a_repeated_frame_is_flagged_and_the_first_is_not_whatever_came_first(
    make_product: Callable[..., Any], order: tuple[int, ...]
) -> None:
    product = make_product()
    for slot in order:
        product.scene(slot, product.dn(7))
        product.ingest()
    product.scene(5)
    product.ingest()
    assert _flags(product) == {1: 0, 2: Quality.STUCK, 4: Quality.STUCK, 5: 0}
    assert not product.cube().read([2]).validity.any()
    assert product.cube().read([1]).validity.all()


@pytest.mark.parametrize("late", [7, 2])
def test_a_shifted_scene_is_flagged_whatever_came_last(make_product: Callable[..., Any], late: int) -> None:
    product = make_product()
    for slot in range(10):
        product.scene(slot, product.dn(slot) + np.uint16(1000 * (slot == 7)))
    aside = product.inbox.parent / "later.tif"
    last = product.scene(late, product.dn(late) + np.uint16(1000 * (late == 7)))
    shutil.move(last, aside)
    product.ingest()
    shutil.move(aside, last)
    product.ingest()
    assert {slot for slot, flags in _flags(product).items() if flags} == {7}


def test_once_the_first_of_two_equal_frames_is_withdrawn_the_second_is_good(product: Any) -> None:
    first = product.scene(1, product.dn(7))
    product.scene(2, product.dn(7))
    product.ingest()
    withdraw(product.settings, first.name, "wrong time")
    assert _flags(product) == {2: 0}
    assert product.cube().observed().tolist() == [2]
    assert product.ledger.find(first.name)[0].reason == "withdrawn"
    product.ingest()
    assert product.cube().observed().tolist() == [2]


def test_a_rule_that_is_off_flags_nothing(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"firewall": {"stuck": "off"}})
    for slot in (1, 2):
        product.scene(slot, product.dn(7))
    product.ingest()
    assert set(_flags(product).values()) == {0}
