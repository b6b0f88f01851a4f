from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.bucket import Bucket, Objects
from pipeline.errors import PublishError, ServiceError
from pipeline.record import Outlet
from pipeline.shelf import BucketShelf, Shelf, shelf_at, sweep
from tests.pipeline.published import PRODUCT, an_outlet, at, publish_run, visible


@pytest.fixture
def shelf(outlet: Outlet) -> Shelf:
    return shelf_at(outlet.place, PRODUCT)


def test_a_run_shows_as_one_entry_with_its_files(outlet: Outlet, shelf: Shelf) -> None:
    path = publish_run(outlet)
    publish_run(outlet, at(24 * 60))
    assert shelf.days() == ["2020/04/01", "2020/04/02"]
    (entry,) = shelf.entries("2020/04/01")
    assert shelf.path / entry.name == path
    assert (entry.key, entry.day, entry.init) == (path.name, "2020/04/01", at(0).init)
    assert (entry.published, entry.withdrawn, entry.pinned) == (True, False, False)
    assert len(entry.files) == 7


def test_a_shelf_that_nobody_used_is_empty(shelf: Shelf) -> None:
    assert (shelf.days(), shelf.entries("2020/04/01"), shelf.read("latest.json")) == ([], [], None)


def test_a_text_is_written_once_and_removed(outlet: Outlet, shelf: Shelf) -> None:
    publish_run(outlet)
    for text in ("one", "one", "two, ö", None, None):
        shelf.update("a.json", lambda text=text: text)
        assert shelf.read("a.json") == text


def test_a_text_that_another_writer_was_faster_with_is_made_again(s3_bucket: Bucket) -> None:
    shelf, other = (shelf_at(s3_bucket, PRODUCT) for _ in range(2))
    said = iter(["stale", "fresh"])

    def text() -> str:
        mine = next(said)
        if mine == "stale":
            other.update("a.json", lambda: "other")
        return mine

    shelf.update("a.json", text)
    assert shelf.read("a.json") == "fresh"


def test_a_text_that_another_writer_needs_again_is_not_removed(s3_bucket: Bucket) -> None:
    shelf = shelf_at(s3_bucket, PRODUCT)
    shelf.update("a.json", lambda: "before")
    said: Iterator[str | None] = iter([None, "again"])
    shelf.update("a.json", lambda: next(said))
    assert shelf.read("a.json") == "again"


def test_a_writer_that_is_never_the_faster_gives_up(s3_bucket: Bucket) -> None:
    shelf, other = (shelf_at(s3_bucket, PRODUCT) for _ in range(2))
    turns = iter(range(100))

    def text() -> str:
        other.update("a.json", lambda: f"other {next(turns)}")
        return "mine"

    with pytest.raises(PublishError, match="20 times another writer"):
        shelf.update("a.json", text)


def test_a_missing_bucket_and_a_dead_server_are_told_apart(s3_server: str, s3_bucket: Bucket) -> None:
    with pytest.raises(PublishError, match=r"s3://nowhere/x cannot.*\[forecast\.store\]"):
        shelf_at(Bucket("s3://nowhere/x", endpoint=s3_server), PRODUCT).days()
    with pytest.raises(PublishError, match="s3://nowhere/x cannot"):
        shelf_at(Bucket("s3://nowhere/x", endpoint=s3_server), PRODUCT).update("a.json", lambda: "x")
    dead = Bucket(s3_bucket.url, endpoint="http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9 does not"):
        shelf_at(dead, PRODUCT).days()


def test_in_a_bucket_the_manifest_goes_first(tmp_path: Path, s3_bucket: Bucket) -> None:
    publish_run(an_outlet(s3_bucket, made_in=tmp_path))
    shelf = shelf_at(s3_bucket, PRODUCT)
    assert isinstance(shelf, BucketShelf)
    (entry,) = shelf.entries("2020/04/01")
    with pytest.MonkeyPatch.context() as patch:
        _remove_once(patch)
        with pytest.raises(KeyboardInterrupt):
            shelf.drop(entry)
    (left,) = shelf.entries("2020/04/01")
    assert entry.files - left.files == {"run.json"}
    shelf.drop(left)
    assert shelf.entries("2020/04/01") == []


def _remove_once(patch: pytest.MonkeyPatch) -> None:
    remove, turns = Objects.remove, iter([True])

    def once(self: Objects, names: list[str]) -> None:
        if not next(turns, False):
            raise KeyboardInterrupt
        remove(self, names)

    patch.setattr(Objects, "remove", once)


def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    run = publish_run(an_outlet(tmp_path))
    old, young = (tmp_path / f".staging-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "lead-0005m.tif").touch()
    os.utime(old, (0, 0))
    os.utime(run, (0, 0))
    assert sweep(tmp_path, timedelta(hours=6)) == [old]
    assert young.exists()
    assert len(visible(tmp_path)) == 1
