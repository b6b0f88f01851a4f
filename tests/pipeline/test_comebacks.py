"""Scenes that are withdrawn, overtaken, put back, copied or renamed, with and without the ledger."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.amend import withdraw
from pipeline.audit import verify
from pipeline.ledger import Ledger, State

A, B = "a_20240601T050000Z_A.tif", "a_20240601T050000Z_B.tif"


@pytest.fixture
def slot(make_product: Callable[..., Any]) -> Any:
    """A product with revisions and times of availability; everything happens in its slot 0."""
    scenes = {"pattern": "{tile}_{time}*.tif", "settle": 0, "revision_tag": "REV", "available_tag": "AV"}
    return make_product(
        scenes=scenes | {"firewall": {"stuck": "off", "level": "off"}}, grid={"width": 12, "height": 10}
    )


def _put(product: Any, name: str, seed: int, revision: str = "1", hour: int = 6) -> Path:
    tags = {"REV": revision, "AV": f"2024-06-01T{hour:02d}:00Z"}
    return product.scene(0, product.dn(seed), name=name, tags=tags)


def _delivered(product: Any, name: str, seed: int, revision: str = "1", hour: int = 6) -> Path:
    path = _put(product, name, seed, revision, hour)
    product.ingest()
    return path


def _states(product: Any, name: str) -> list[tuple[State, str]]:
    return [(entry.state, entry.reason) for entry in product.ledger.find(name)]


def _lower_hash(product: Any, than: str, hour: int) -> int:
    """Seed of a scene in A's place whose hash is lower."""
    return next(
        seed
        for seed in range(2, 99)
        if hashlib.sha256(_put(product, A, seed, "1", hour).read_bytes()).hexdigest() < than
    )


def test_a_withdrawn_scene_stays_out_when_its_file_is_touched(slot: Any) -> None:
    path = _delivered(slot, A, 1)
    withdraw(slot.settings, A, "wrong")
    os.utime(path)
    slot.ingest()
    assert slot.cube().observed().tolist() == []


def test_a_withdrawn_scene_stays_out_under_another_name_and_without_a_ledger(slot: Any) -> None:
    path = _delivered(slot, A, 1)
    shutil.copy(path, slot.inbox / B)
    slot.ingest()
    withdraw(slot.settings, A, "wrong")
    slot.settings.paths.ledger.unlink()
    path.unlink()
    slot.ingest()
    assert slot.cube().observed().tolist() == []


def test_a_withdrawn_scene_stays_out_when_another_is_withdrawn_without_a_ledger(slot: Any) -> None:
    _delivered(slot, A, 1)
    slot.scene(1, slot.dn(5), name="a_20240601T050500Z.tif")
    slot.ingest()
    withdraw(slot.settings, A, "wrong")
    slot.settings.paths.ledger.unlink()
    withdraw(slot.settings, "a_20240601T050500Z.tif", "wrong too")
    slot.ingest()
    assert slot.cube().observed().tolist() == []


def test_a_version_that_never_stood_comes_back_by_retry_with_all_that_is_known_of_it(slot: Any) -> None:
    _delivered(slot, A, 1, "2", 6)
    _delivered(slot, B, 2, "1", 7)
    withdraw(slot.settings, A, "wrong")
    assert slot.cube().observed().tolist() == []
    slot.ledger.retry([B])
    slot.ingest()
    np.testing.assert_array_equal(slot.stored(0), slot.dn(2))
    row = next(row for row in slot.cube().rows if row.standing)
    assert (row.valid_fraction, row.fingerprint != 0) == (1, True)
    assert not verify(slot.cube()).damaged
    assert _states(slot, A) == [(State.QUARANTINED, "withdrawn")]


def test_the_ledger_hears_that_an_older_version_stands_again(slot: Any) -> None:
    _delivered(slot, A, 1, "1", 6)
    _delivered(slot, B, 2, "2", 7)
    assert _states(slot, A) == [(State.SUPERSEDED, "older-revision")]
    withdraw(slot.settings, B, "wrong")
    assert _states(slot, A) == [(State.ACCEPTED, "")]
    np.testing.assert_array_equal(slot.stored(0), slot.dn(1))


def test_bytes_that_were_put_back_can_be_withdrawn_and_retried(slot: Any) -> None:
    for seed in (1, 2, 1):
        _delivered(slot, A, seed)
    withdraw(slot.settings, A, "wrong")
    slot.ingest()
    assert slot.cube().observed().tolist() == []
    slot.ledger.retry([A])
    slot.ingest()
    np.testing.assert_array_equal(slot.stored(0), slot.dn(1))


def test_a_withdrawal_that_the_ledger_missed_is_told_by_the_next(slot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError

    _delivered(slot, A, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", crash)
        with pytest.raises(RuntimeError):
            withdraw(slot.settings, A, "wrong")
    withdraw(slot.settings, A, "wrong")
    assert _states(slot, A) == [(State.QUARANTINED, "withdrawn")]


def test_of_two_files_in_one_place_the_later_is_seen_in_the_past_and_behind_a_withdrawn_one(slot: Any) -> None:
    _delivered(slot, A, 1, "1", 6)
    seed = _lower_hash(slot, slot.cube().rows[0].scene.sha256, 7)
    slot.ingest()
    _delivered(slot, B, 99, "2", 8)
    past = slot.cube(as_of=slot.time(30)).read([0]).values[0, ..., 0]
    np.testing.assert_allclose(past, slot.dn(seed)[0] * 0.1 - 3, rtol=1e-5)
    withdraw(slot.settings, B, "wrong")
    np.testing.assert_array_equal(slot.stored(0), slot.dn(seed))
