from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.store import BRANCH, CubeStore

# More than Icechunk keeps inside its manifests, so that the array has a chunk file of its own.
SIZE = 4096

WRITE_TO_A_FULL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.store import CubeStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    with CubeStore(Path(sys.argv[1])).writer() as transaction:
        transaction.group["a"][:] = np.random.default_rng(0).integers(0, 1 << 60, 4096)
        transaction.commit("too much", {})
except StoreError as error:
    print(error)
"""


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(tmp_path / "work" / "cube")


def _write(store: CubeStore, value: int) -> str:
    with store.writer() as transaction:
        array = transaction.group.require_array("a", shape=(SIZE,), chunks=(SIZE,), dtype="int64")
        array[:] = value
        return transaction.commit(f"write {value}", {"value": value})


def _value(store: CubeStore, snapshot: str | None = None) -> int:
    return int(store.group(snapshot)["a"][0])


def test_every_snapshot_stays_readable_after_newer_ones(store: CubeStore) -> None:
    snapshots = [_write(store, value) for value in range(3)]
    assert [_value(store, snapshot) for snapshot in snapshots] == [0, 1, 2]
    assert store.tip() == snapshots[-1]
    assert _value(store) == 2


def test_the_history_names_what_was_written_newest_first(store: CubeStore) -> None:
    snapshots = [_write(store, value) for value in range(2)]
    newest, oldest, *_ = store.history()
    assert [newest.snapshot, oldest.snapshot] == snapshots[::-1]
    assert (newest.message, newest.metadata) == ("write 1", {"value": 1})
    assert newest.written_at >= oldest.written_at


def test_a_reader_sees_nothing_of_what_is_not_committed(store: CubeStore) -> None:
    _write(store, 1)
    with store.writer() as transaction:
        transaction.group["a"][:] = 2
        assert _value(store) == 1
    assert _value(store) == 1


def test_a_writer_that_fails_leaves_the_cube_as_it_was(store: CubeStore) -> None:
    before = _write(store, 1)
    with pytest.raises(ZeroDivisionError), store.writer() as transaction:
        transaction.group["a"][:] = 1 // 0
    assert store.tip() == before
    assert _write(store, 2) == store.tip()


def test_discarded_work_is_not_committed(store: CubeStore) -> None:
    _write(store, 1)
    with store.writer() as transaction:
        transaction.group["a"][:] = 2
        transaction.discard()
        transaction.group.attrs["note"] = "kept"
        transaction.commit("note", {})
    assert _value(store) == 1
    assert store.group().attrs["note"] == "kept"


def test_one_writer_may_commit_more_than_once(store: CubeStore) -> None:
    _write(store, 1)
    with store.writer() as transaction:
        for value in (2, 3):
            transaction.group["a"][:] = value
            transaction.commit(f"write {value}", {})
    assert _value(store) == 3
    assert [commit.message for commit in store.history()][:3] == ["write 3", "write 2", "write 1"]


def test_writers_at_once_wait_for_each_other(store: CubeStore) -> None:
    def count(_: int) -> None:
        with store.writer() as transaction:
            transaction.group.attrs["count"] = transaction.group.attrs.get("count", 0) + 1
            transaction.commit("count", {})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(8)))
    assert store.group().attrs["count"] == 8


def test_what_a_killed_writer_left_is_swept_by_the_next(store: CubeStore) -> None:
    _write(store, 1)
    writer = store.writer()
    transaction = writer.__enter__()
    assert len(store._open().list_branches()) == 2
    transaction.group["a"][:] = 2
    del transaction, writer  # as a kill: the lock is free, the branch stays
    _write(store, 3)
    assert store._open().list_branches() == {BRANCH}


def test_a_folder_without_a_cube_is_named_with_what_makes_one(store: CubeStore) -> None:
    assert not store.exists()
    store.path.mkdir(parents=True)
    assert not store.exists()
    for look in (store.tip, store.group, lambda: list(store.history())):
        with pytest.raises(StoreError, match="run cubecast ingest"):
            look()


def test_a_repository_where_nothing_was_committed_is_no_cube(store: CubeStore) -> None:
    with store.writer():
        pass
    assert not store.exists()
    with pytest.raises(StoreError, match="run cubecast ingest"):
        store.group()


def test_a_folder_with_other_files_is_left_alone(store: CubeStore) -> None:
    store.path.mkdir(parents=True)
    (store.path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="other files"), store.writer():
        pass
    assert [path.name for path in store.path.iterdir()] == ["thesis.tex"]


def test_a_file_where_the_cube_should_be_is_an_error_and_no_panic(store: CubeStore) -> None:
    store.path.parent.mkdir(parents=True)
    store.path.touch()
    with pytest.raises(StoreError, match="cube"), store.writer():
        pass
    with pytest.raises(StoreError, match="run cubecast ingest"):
        store.tip()


def test_a_snapshot_of_another_product_is_refused(store: CubeStore) -> None:
    _write(store, 1)
    other = CubeStore(store.path.with_name("other"))
    for unknown in (_write(other, 1), "nonsense"):
        with pytest.raises(StoreError, match=f"no snapshot {unknown}"):
            store.group(unknown)


def test_a_lost_snapshot_is_not_taken_for_an_empty_cube(store: CubeStore) -> None:
    snapshot = _write(store, 1)
    (store.path / "snapshots" / snapshot).unlink()
    for look in (store.exists, store.group):
        with pytest.raises(StoreError, match=f"no snapshot {snapshot}"):
            look()


def test_a_repository_without_its_branch_is_not_written_over(store: CubeStore) -> None:
    _write(store, 1)
    for path in store.path.glob("refs/branch.main/*"):
        path.unlink()
    with pytest.raises(StoreError), store.writer():
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_is_said_in_one_sentence_and_costs_nothing_that_was_committed(store: CubeStore) -> None:
    before = _write(store, 1)
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(store.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "free space" in said
    assert said.count("\n") == 1
    assert (store.tip(), _value(store)) == (before, 1)
