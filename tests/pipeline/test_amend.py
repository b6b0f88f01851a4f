from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.amend import repair, withdraw
from pipeline.audit import verify
from pipeline.errors import StoreError
from pipeline.ledger import State
from pipeline.quality import Quality

SCENES = {"settle": timedelta(0), "revision_tag": "BASELINE", "available_tag": "AVAILABLE"}
OLDER = {"BASELINE": "1", "AVAILABLE": "2024-06-01T06:00Z"}
NEWER = {"BASELINE": "2", "AVAILABLE": "2024-06-01T07:00Z"}
FIRST, SECOND = "scene_20240601T050000Z.tif", "scene_20240601T050500Z.tif"
OLD, NEW = "scene_20240601T051000Z_old.tif", "scene_20240601T051000Z_new.tif"


@pytest.fixture
def product(make_product: Callable[..., Any]) -> Any:
    return make_product(scenes=SCENES)


def chunk_files(product: Any) -> set[Path]:
    folder = product.settings.paths.cube / "chunks"
    return set(folder.iterdir()) if folder.exists() else set()


def pixels_file(product: Any, act: Callable[[], object]) -> Path:
    """The largest chunk file that ``act`` adds."""
    before = chunk_files(product)
    act()
    return max(chunk_files(product) - before, key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x10
    path.write_bytes(data)


def damaged(product: Any) -> Path:
    """A cube of two slots, of which the second one is damaged."""
    product.scene(0, tags=OLDER)
    product.ingest()
    product.scene(1, tags=OLDER)
    return pixels_file(product, product.ingest)


# --- repair ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_repair_writes_a_damaged_slot_as_it_was(product: Any, harm: Callable[[Path], None]) -> None:
    path = damaged(product)
    before, row = product.stored(1), product.cube().rows[1]
    harm(path)
    (done,) = repair(product.settings, verify(product.cube()).damaged_slots)
    assert (done.slot, done.mended) == (1, True)
    assert not verify(product.cube()).damaged
    np.testing.assert_array_equal(product.stored(1), before)
    assert product.cube().rows[1] == row
    assert next(product.store.history()).message.startswith("repair")


def test_a_repair_keeps_older_versions_too(product: Any) -> None:
    product.scene(2, product.dn(1), name=OLD, tags=OLDER)
    product.ingest()
    product.scene(2, product.dn(2), name=NEW, tags=NEWER)
    flip(pixels_file(product, product.ingest))
    (done,) = repair(product.settings, verify(product.cube()).damaged_slots)
    assert done.mended
    assert not verify(product.cube()).damaged
    past = product.cube(as_of=product.time(12 * 1.5))
    np.testing.assert_allclose(past.read([2]).values[0, ..., 0], product.dn(1)[0] * 0.1 - 3, rtol=1e-5)


def test_a_scene_that_is_gone_is_named_and_its_slot_stays_as_it_is(product: Any) -> None:
    flip(damaged(product))
    (product.inbox / SECOND).unlink()
    tip = product.store.tip()
    (done,) = repair(product.settings, [1])
    assert not done.mended
    assert SECOND in done.reason
    assert product.store.tip() == tip
    assert verify(product.cube()).damaged_slots == (1,)


def test_a_scene_that_has_changed_is_not_taken_for_the_old_one(product: Any) -> None:
    flip(damaged(product))
    product.scene(1, product.dn(99), tags=OLDER)
    (done,) = repair(product.settings, [1])
    assert not done.mended
    assert "other bytes" in done.reason


def test_one_slot_that_cannot_be_mended_does_not_hold_up_the_others(product: Any) -> None:
    first = pixels_file(product, lambda: (product.scene(0, tags=OLDER), product.ingest()))
    second = pixels_file(product, lambda: (product.scene(1, tags=OLDER), product.ingest()))
    flip(first)
    flip(second)
    (product.inbox / FIRST).unlink()
    done = repair(product.settings, verify(product.cube()).damaged_slots)
    assert [(one.slot, one.mended) for one in done] == [(0, False), (1, True)]
    assert verify(product.cube()).damaged_slots == (0,)


def test_other_pixels_than_those_written_are_mended_as_well(product: Any) -> None:
    damaged(product)
    with product.store.writer() as transaction:
        transaction.group["uint16/data"][1, 0, 3, 3] += 1
        transaction.commit("edit", {})
    assert verify(product.cube()).damaged_slots == (1,)
    repair(product.settings, [1])
    assert not verify(product.cube()).damaged


def test_a_repair_needs_no_look_at_the_ledger_and_changes_nothing_in_it(product: Any) -> None:
    flip(damaged(product))
    before = product.ledger.entries()
    repair(product.settings, [1])
    assert product.ledger.entries() == before
    assert product.ingest().entries == ()


# --- withdraw -------------------------------------------------------------------------------------


def two_versions(product: Any) -> None:
    product.scene(2, product.dn(1), name=OLD, tags=OLDER)
    product.ingest()
    product.scene(2, product.dn(2), name=NEW, tags=NEWER)
    product.ingest()


def test_withdrawing_a_scene_shows_what_stood_behind_it(product: Any) -> None:
    two_versions(product)
    new = next(row.scene.id for row in product.cube().rows if row.scene.source == NEW)
    done = withdraw(product.settings, NEW, "a wrong calibration")
    assert done.scenes == (new,)
    assert done.snapshot == product.store.tip()
    np.testing.assert_array_equal(product.stored(2), product.dn(1))
    assert [row.scene.source for row in product.cube().shown(2)] == [OLD]
    assert not verify(product.cube()).damaged


def test_withdrawing_the_only_scene_of_a_slot_empties_it(product: Any) -> None:
    product.scene(0, tags=OLDER)
    product.scene(1, tags=OLDER)
    product.ingest()
    withdraw(product.settings, SECOND, "birds")
    assert product.cube().observed().tolist() == [0]
    assert (product.quality(1) == Quality.MISSING).all()
    assert not verify(product.cube()).damaged


def test_a_withdrawn_scene_does_not_come_back_by_itself_but_when_it_is_retried(product: Any) -> None:
    product.scene(0, tags=OLDER)
    product.scene(1, tags=OLDER)
    product.ingest()
    withdraw(product.settings, SECOND, "birds")
    (entry,) = product.ledger.find(SECOND)
    assert (entry.state, entry.reason, entry.detail) == (State.QUARANTINED, "withdrawn", "birds")
    assert product.ingest().entries == ()
    product.ledger.retry([SECOND])
    assert product.ingest().count(State.ACCEPTED) == 1
    assert product.cube().observed().tolist() == [0, 1]
    assert not verify(product.cube()).damaged


def test_older_snapshots_keep_a_withdrawn_scene(product: Any) -> None:
    two_versions(product)
    before = product.store.tip()
    withdraw(product.settings, NEW, "a wrong calibration")
    old = product.cube(snapshot=before)
    assert [row.scene.source for row in old.shown(2)] == [NEW]
    np.testing.assert_array_equal(old.root["uint16/data"][2], product.dn(2))


def test_a_scene_that_is_not_there_cannot_be_withdrawn(product: Any) -> None:
    product.scene(0, tags=OLDER)
    tip = product.ingest().snapshot
    with pytest.raises(StoreError, match=r"no scene came from nonsense\.tif"):
        withdraw(product.settings, "nonsense.tif", "")
    assert product.store.tip() == tip
