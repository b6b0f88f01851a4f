from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.maintenance import PART, Cleanup, backup, collect, expire
from pipeline.store import Bucket, CubeStore

SIZE = 64
NOW = timedelta(0)


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(tmp_path / "work" / "cube")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "copy"


def _folder(store: CubeStore) -> Path:
    assert isinstance(store.location, Path)
    return store.location


def _write(store: CubeStore, value: int) -> str:
    with store.writer() as transaction:
        transaction.group.require_array("a", shape=(SIZE,), chunks=(SIZE // 4,), dtype="int64")[:] = value
        return transaction.commit(f"write {value}", {"value": value})


def _value(store: CubeStore, snapshot: str | None = None) -> int:
    return int(store.group(snapshot)["a"][:].mean())


def _messages(store: CubeStore) -> list[str]:
    return [commit.message for commit in store.history()][:-1]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _clear(store: CubeStore) -> Cleanup:
    expire(store, datetime.now(UTC), floor=NOW)
    return collect(store, datetime.now(UTC), floor=NOW)


def test_the_newest_snapshot_and_the_tagged_ones_survive_and_stay_readable(store: CubeStore) -> None:
    snapshots = [_write(store, value) for value in range(1, 6)]
    store.tag("second", snapshots[1])
    assert expire(store, datetime.now(UTC), floor=NOW) == Cleanup(expired=3)
    gone = collect(store, datetime.now(UTC), floor=NOW)
    assert (gone.snapshots, gone.chunks) == (3, 12)
    assert gone.size > 0
    assert _messages(store) == ["write 5"]
    assert [_value(store), _value(store, store.resolve("second"))] == [5, 2]
    for lost in (snapshots[0], snapshots[2], snapshots[3]):
        with pytest.raises(StoreError, match=f"no snapshot {lost}: it was expired"):
            store.group(lost)
    assert _write(store, 6) == store.tip()


def test_younger_snapshots_than_the_limit_stay_in_the_history(store: CubeStore) -> None:
    for value in range(1, 5):
        _write(store, value)
    third = next(commit for commit in store.history() if commit.message == "write 3")
    expire(store, third.written_at, floor=NOW)
    collect(store, datetime.now(UTC), floor=NOW)
    assert _messages(store) == ["write 4", "write 3"]
    assert [_value(store, commit.snapshot) for commit in list(store.history())[:-1]] == [4, 3]


def test_what_is_only_counted_is_not_deleted(store: CubeStore) -> None:
    for value in range(1, 4):
        _write(store, value)
    expire(store, datetime.now(UTC), floor=NOW)
    before = _files(_folder(store))
    counted = collect(store, datetime.now(UTC), dry_run=True, floor=NOW)
    assert counted.chunks == 8
    assert _files(_folder(store)) == before
    assert collect(store, datetime.now(UTC), floor=NOW) == counted


def test_nothing_that_is_reached_is_collected(store: CubeStore) -> None:
    snapshots = [_write(store, value) for value in range(3)]
    assert collect(store, datetime.now(UTC), floor=NOW) == Cleanup()
    assert [_value(store, snapshot) for snapshot in snapshots] == [0, 1, 2]


def test_a_removed_tag_lets_its_snapshot_go(store: CubeStore) -> None:
    tagged = _write(store, 1)
    store.tag("old", tagged)
    _write(store, 2)
    assert _clear(store).snapshots == 0
    store.untag("old")
    assert _clear(store).snapshots == 1


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=6, hours=23)])
def test_nothing_younger_than_a_week_goes(store: CubeStore, age: timedelta) -> None:
    _write(store, 1)
    for clear in (expire, collect):
        with pytest.raises(StoreError, match="at least 7 days"):
            clear(store, datetime.now(UTC) - age)
    assert expire(store, datetime.now(UTC) - timedelta(days=8)) == Cleanup()


def test_files_that_a_killed_writer_did_not_finish_are_collected(store: CubeStore) -> None:
    _write(store, 1)
    left = _folder(store) / "chunks" / "8NRR2S4H0GVD831RBBM0#1"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    collect(store, datetime.now(UTC) - timedelta(days=8))
    assert not left.exists()
    assert _value(store) == 1


def test_an_expiry_cut_short_is_made_again(store: CubeStore) -> None:
    for value in range(3):
        _write(store, value)
    (_folder(store).with_name(".cube.expiring") / "snapshots").mkdir(parents=True)
    assert expire(store, datetime.now(UTC), floor=NOW).expired == 2
    assert _messages(store) == ["write 2"]
    assert not _folder(store).with_name(".cube.expiring").exists()


def test_a_cube_that_is_not_there_has_nothing_to_clear(store: CubeStore, target: Path) -> None:
    for act in (lambda: _clear(store), lambda: backup(store, target)):
        with pytest.raises(StoreError, match="run cubecast ingest"):
            act()


def test_a_backup_is_the_cube_and_the_next_one_copies_only_what_is_new(store: CubeStore, target: Path) -> None:
    first = _write(store, 1)
    store.tag("first")
    assert backup(store, target).snapshot == first
    assert _files(target) == _files(_folder(store))
    before = _files(target)
    second = _write(store, 2)
    copied = backup(store, target)
    new = _files(target).keys() - before.keys()
    assert (copied.snapshot, copied.files, copied.size) == (
        second,
        len(new),
        sum(len(_files(target)[name]) for name in new),
    )
    assert _files(target) == _files(_folder(store))
    assert backup(store, target).files == 0


def test_a_backup_opens_like_the_cube_and_can_be_written(store: CubeStore, target: Path) -> None:
    snapshots = [_write(store, value) for value in (1, 2)]
    store.tag("one", snapshots[0])
    backup(store, target)
    copy = CubeStore(target)
    assert (copy.tip(), copy.tags(), list(copy.history())) == (store.tip(), store.tags(), list(store.history()))
    assert [_value(copy, snapshot) for snapshot in snapshots] == [1, 2]
    _write(copy, 3)
    assert (_value(copy), _value(store)) == (3, 2)


def test_a_backup_follows_an_expiry(store: CubeStore, target: Path) -> None:
    for value in range(4):
        _write(store, value)
    store.tag("kept")
    _write(store, 4)
    backup(store, target)
    _clear(store)
    store.untag("kept")
    _write(store, 5)
    backup(store, target)
    copy = CubeStore(target)
    assert list(copy.history()) == list(store.history())
    assert copy.tags() == {}
    _clear(store)
    _clear(copy)
    assert _value(copy) == _value(store) == 5


def test_a_snapshot_that_an_expiry_wrote_again_is_copied_whatever_its_size(store: CubeStore, target: Path) -> None:
    snapshot = _folder(store) / "snapshots" / _write(store, 1)
    backup(store, target)
    os.utime(snapshot, (0, 0))
    assert backup(store, target).files == 1


def test_a_backup_cut_short_leaves_the_last_one_and_is_finished_by_the_next(store: CubeStore, target: Path) -> None:
    for cut in range(1, 6):
        _write(store, cut)
        backup(store, target)
        tip = _write(store, 10 * cut)
        names = sorted(path for path in _folder(store).rglob("*") if path.is_file() and "refs" not in path.parts)
        for path in names[:: 6 - cut]:  # a part of the data came over, one file half
            shutil.copy2(path, target / path.relative_to(_folder(store)))
        (target / "chunks" / f"{names[0].name}{PART}").write_bytes(b"half")
        assert _value(CubeStore(target)) == cut
        assert backup(store, target).snapshot == tip
        assert _files(target) == _files(_folder(store))


def test_a_backup_that_never_had_a_branch_is_finished(store: CubeStore, target: Path) -> None:
    _write(store, 1)
    shutil.copytree(_folder(store) / "chunks", target / "chunks")
    backup(store, target)
    assert _value(CubeStore(target)) == 1


def test_a_backup_never_mixes_with_anything_else(store: CubeStore, target: Path) -> None:
    other = CubeStore(target)
    _write(store, 1)
    _write(other, 2)
    before = _files(target)
    with pytest.raises(StoreError, match="choose an empty folder"):
        backup(store, target)
    assert _files(target) == before
    papers = target.with_name("papers")
    papers.mkdir()
    (papers / "thesis.tex").touch()
    with pytest.raises(StoreError, match="choose an empty folder"):
        backup(store, papers)
    for inside in (_folder(store) / "copy", _folder(store), _folder(store).parent):
        with pytest.raises(StoreError, match="outside its cube"):
            backup(store, inside)


def test_a_bucket_is_not_copied_to_a_folder(target: Path) -> None:
    with pytest.raises(StoreError, match=r"is a bucket: .* run cubecast export"):
        backup(CubeStore(Bucket("s3://weather/cube")), target)
