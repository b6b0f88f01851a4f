from __future__ import annotations

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline import scenetable, schema
from pipeline.admit import prepare
from pipeline.grid import Window
from pipeline.scene import Scene
from pipeline.scenetable import SceneRow, SceneTable
from pipeline.store import CubeStore

TIME = datetime(2024, 6, 1, 5, tzinfo=UTC)
OLD = Path(__file__).parents[1] / "golden" / "cube-1-integers.zip"


def _row(number: int, **changed: Any) -> SceneRow:
    scene = Scene(f"scéne {number}", "t", TIME, TIME + timedelta(minutes=number), str(number), "0f" * 32)
    facts = {"place": Window(1, 9, 2, 8), "valid_fraction": 0.25, "fingerprint": 2**62 + 1, "levels": (1.0, 2.5, 9.0)}
    return SceneRow(scene, number, **facts | {"file": (10**12, 1_795_365_672_000_000_001), "flags": 96} | changed)


def test_rows_are_read_as_they_were_written(product: Any) -> None:
    layout = schema.Layout.of(product.settings)
    root = zarr.create_group(zarr.storage.MemoryStore())
    schema.create(root, layout)
    rows = [_row(1), _row(2, superseded=True, layer=7), _row(3, withdrawn=True)]
    scenetable.append(root, rows[:1])
    scenetable.append(root, rows[1:])
    assert SceneTable.read(root, layout).rows() == rows
    scenetable.replace(root, {1: _row(2, layer=9)})
    table = SceneTable.read(root, layout)
    assert table.rows() == [rows[0], _row(2, layer=9), rows[2]]
    assert table.standing_slots().tolist() == [1, 2]
    assert (table.of_slot(3), table.of_version(rows[0].scene.version)) == ([2], [0, 1, 2])


def test_an_old_cube_is_brought_up_to_date_by_the_first_write(tmp_path: Path) -> None:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path / "cube")
    store = CubeStore(tmp_path / "cube")
    layout = schema.read(store.group())
    before = SceneTable.read(store.group(), layout).rows()
    with store.writer() as transaction:
        table = prepare(transaction.group, layout)
        transaction.commit("upgrade", {})
    assert store.group().attrs["schema_version"] == schema.SCHEMA_VERSION
    for old, new, read in zip(before, table.rows(), SceneTable.read(store.group(), layout).rows(), strict=True):
        assert (old.scene, old.slot, old.superseded, old.separable) == (new.scene, new.slot, new.superseded, False)
        assert (read.scene, read.slot, read.superseded, read.separable) == (new.scene, new.slot, new.superseded, False)
    assert np.asarray(store.group()["layers"][layout.groups[0].name]["quality"]).shape[0] == 0
