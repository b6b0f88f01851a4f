from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.errors import ConfigError, CubecastError, SceneError, ServiceError, StoreError
from pipeline.folders import REMOTE_BLOCK, LocalFolder, Reader, modified_ns
from pipeline.inbox import BLOCK, Files, Inbox, open_inbox, watch
from pipeline.ledger import Entry, FileKey, Ledger, State
from pipeline.specs import MaskSpec, SceneSpec

LONG_AGO = 1_700_000_000
TIMES = ("20240601T0500Z", "20240601T0505Z", "20240601T0510Z")


def _put(folder: Path, name: str, data: bytes = b"scene", modified: float = LONG_AGO) -> Path:
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (modified, modified))
    return path


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _reason(act: Callable[[], Any]) -> str:
    with pytest.raises(SceneError) as caught:
        act()
    return caught.value.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    return tmp_path / "aside"


@pytest.fixture
def spec(folder: Path) -> SceneSpec:
    return SceneSpec(folder=folder, settle=timedelta(seconds=0.3))


@pytest.fixture
def inbox(spec: SceneSpec) -> Inbox:
    return open_inbox(spec)


# A folder of this machine


def test_the_inbox_is_what_matches_the_pattern_and_is_a_file_itself(inbox: Inbox, folder: Path) -> None:
    scenes = [_put(folder, f"{time}.tif") for time in reversed(TIMES)]
    _put(folder, "notes.txt")
    _put(folder, "._20240601T0500Z.tif")
    (folder / "20240601T0600Z.tif").mkdir()
    (folder / "20240601T0700Z.tif").symlink_to(scenes[0])
    os.mkfifo(folder / "20240601T0800Z.tif")
    assert inbox.files() == [FileKey.of(path) for path in sorted(scenes)]


def test_a_missing_inbox_is_named(tmp_path: Path) -> None:
    with pytest.raises(CubecastError, match=r"scenes\.folder.*nowhere"):
        open_inbox(SceneSpec(folder=tmp_path / "nowhere")).files()


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1])
def test_a_copy_has_the_bytes_and_the_hash_of_its_file_and_a_name_of_our_own(
    inbox: Inbox, folder: Path, aside: Path, size: int
) -> None:
    data = os.urandom(size)
    path = _put(folder, "-x 20240601T0500Z.tif", data)
    staged = inbox.fetch(inbox.look(path.name), aside)
    assert staged.path.read_bytes() == data
    assert staged.sha256 == _sha256(data)
    assert staged.source.name == path.name
    assert re.fullmatch(r"[0-9a-f]{32}\.tif", staged.path.name)


def test_two_copies_of_a_file_do_not_meet(inbox: Inbox, folder: Path, aside: Path) -> None:
    key = FileKey.of(_put(folder, "20240601T0500Z.tif"))
    assert inbox.fetch(key, aside).path != inbox.fetch(key, aside).path


@pytest.mark.parametrize("name", ["../secret.tif", "/etc/passwd", "a\\b.tif", "a\0.tif", "a\n.tif", "a\udcff.tif"])
def test_a_name_that_leads_elsewhere_or_cannot_be_said_is_refused(inbox: Inbox, aside: Path, name: str) -> None:
    (aside.parent / "secret.tif").touch()
    assert _reason(lambda: inbox.look(name)) == "bad-name"
    assert _reason(lambda: inbox.fetch(FileKey(name, 0, 0), aside)) == "bad-name"


def test_a_name_that_is_not_utf_8_is_told_and_not_read(inbox: Inbox, folder: Path, aside: Path) -> None:
    raw = os.fsencode(folder) + b"/\xff20240601T0500Z.tif"
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY))
    (key,) = inbox.files()
    assert key.name.encode("ascii") == rb"\udcff20240601T0500Z.tif"
    assert _reason(lambda: inbox.fetch(key, aside)) == "bad-name"


@pytest.mark.parametrize("year", [1800, 2400])
def test_a_file_of_any_time_can_be_read_and_recorded(inbox: Inbox, folder: Path, aside: Path, year: int) -> None:
    modified = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    _put(folder, "20240601T0500Z.tif", modified=modified)
    (key,) = inbox.files()
    inbox.fetch(key, aside)
    ledger = Ledger(aside / "ledger.sqlite")
    ledger.record([Entry(key, State.ACCEPTED)], "c")
    assert ledger.decided("c") == {key}


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_takes_the_place_of_a_file_is_neither_read_nor_waited_for(
    inbox: Inbox, folder: Path, aside: Path, put: Callable[[Path], None]
) -> None:
    path = _put(folder, "20240601T0500Z.tif")
    (key,) = inbox.files()
    path.unlink()
    put(path)
    assert _reason(lambda: inbox.fetch(key, aside)) == "unavailable"
    assert _reason(lambda: inbox.look(path.name)) == "unavailable"
    assert list(aside.iterdir()) == []


def test_a_file_that_has_gone_is_left_for_later(inbox: Inbox, folder: Path, aside: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif")
    (key,) = inbox.files()
    path.unlink()
    assert _reason(lambda: inbox.fetch(key, aside)) == "unavailable"


def test_a_file_that_changed_since_it_was_listed_is_left_for_later(inbox: Inbox, folder: Path, aside: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif")
    (key,) = inbox.files()
    os.utime(path, (LONG_AGO, LONG_AGO + 1))
    assert _reason(lambda: inbox.fetch(key, aside)) == "unstable"
    assert list(aside.iterdir()) == []


class GrowingFolder(LocalFolder):
    """Somebody writes to each file while it is read."""

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        class Growing(io.FileIO):
            def readinto(self, buffer: Any, /) -> int:
                with (path).open("ab") as file:
                    file.write(b"more")
                return super().readinto(buffer)

        path = self.root / name
        with Growing(path) as stream:
            yield Reader(name, stream, lambda: self.look(name))


def test_a_file_that_grows_while_it_is_read_is_left_for_later(folder: Path, aside: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif", bytes(3 * BLOCK))
    files = Files(GrowingFolder(folder), re.compile(".*"), settle=0)
    assert _reason(lambda: files.fetch(FileKey.of(path), aside)) == "unstable"
    assert list(aside.iterdir()) == []


def test_a_young_file_that_goes_on_growing_is_left_for_later(inbox: Inbox, folder: Path, aside: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif", modified=time.time())
    (key,) = inbox.files()
    writer = threading.Timer(0.1, path.write_bytes, [b"longer than it was"])
    writer.start()
    assert _reason(lambda: inbox.fetch(key, aside)) == "unstable"
    writer.join()


@pytest.mark.parametrize("ahead", [0, 3600])
def test_young_files_wait_once_and_together_even_under_a_wrong_clock(
    inbox: Inbox, folder: Path, aside: Path, ahead: float
) -> None:
    for name in TIMES:
        _put(folder, f"{name}.tif", modified=time.time() + ahead)
    begin = time.monotonic()
    for key in inbox.files():
        inbox.fetch(key, aside)
    assert 0.3 <= time.monotonic() - begin < 0.85


def test_old_files_do_not_wait(folder: Path, aside: Path) -> None:
    inbox = open_inbox(SceneSpec(folder=folder, settle=timedelta(minutes=1)))
    _put(folder, "20240601T0500Z.tif")
    begin = time.monotonic()
    inbox.fetch(inbox.files()[0], aside)
    assert time.monotonic() - begin < 30


@contextmanager
def _no_file_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_no_fault_of_the_scene(inbox: Inbox, folder: Path, aside: Path) -> None:
    key = FileKey.of(_put(folder, "20240601T0500Z.tif", bytes(1 << 20)))
    with _no_file_above(1 << 19), pytest.raises(StoreError, match="Free space"):
        inbox.fetch(key, aside)
    assert list(aside.iterdir()) == []


def test_a_staging_folder_that_cannot_be_is_no_fault_of_the_scene(inbox: Inbox, folder: Path, tmp_path: Path) -> None:
    key = FileKey.of(_put(folder, "20240601T0500Z.tif"))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="copied aside"):
        inbox.fetch(key, tmp_path / "file" / "aside")


def test_a_file_larger_than_the_disk_is_refused_before_it_fills_it(inbox: Inbox, folder: Path, aside: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif")
    os.truncate(path, shutil.disk_usage(folder).total + 1)
    assert _reason(lambda: inbox.fetch(FileKey.of(path), aside)) == "too-large"


# Masks


@pytest.fixture
def masked(spec: SceneSpec, tmp_path: Path) -> Inbox:
    (tmp_path / "masks").mkdir()
    return open_inbox(spec.model_copy(update={"mask": MaskSpec(folder=tmp_path / "masks", suffix="_cloud")}))


def test_a_mask_is_copied_aside_like_its_scene(masked: Inbox, tmp_path: Path, aside: Path) -> None:
    _put(tmp_path / "masks", "20240601T0500Z_cloud.tif", b"mask")
    copy = masked.mask("20240601T0500Z.tif", aside)
    assert copy is not None
    assert copy.parent == aside
    assert copy.read_bytes() == b"mask"


def test_a_scene_waits_for_a_mask_that_is_missing_or_a_link(masked: Inbox, tmp_path: Path, aside: Path) -> None:
    secret = _put(tmp_path, "secret.tif")
    (tmp_path / "masks" / "b_cloud.tif").symlink_to(secret)
    assert _reason(lambda: masked.mask("a.tif", aside)) == "no-mask"
    assert _reason(lambda: masked.mask("b.tif", aside)) == "no-mask"


def test_a_product_without_masks_has_none(inbox: Inbox, aside: Path) -> None:
    assert inbox.mask("20240601T0500Z.tif", aside) is None


def test_a_young_mask_settles_together_with_its_scene(masked: Inbox, folder: Path, tmp_path: Path, aside: Path) -> None:
    for minute in range(10, 18):
        _put(folder, f"20240601T05{minute}Z.tif", modified=time.time() + 3600)
        _put(tmp_path / "masks", f"20240601T05{minute}Z_cloud.tif", modified=time.time() + 3600)
    begin = time.monotonic()
    for key in masked.files():
        masked.fetch(key, aside)
        masked.mask(key.name, aside)
    assert 0.3 <= time.monotonic() - begin < 2  # nine waits are 2.7 s


# A folder beyond this machine


def _memory() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("memory")


@pytest.fixture
def remote() -> Iterator[Inbox]:
    for time_text in TIMES:
        _memory().pipe(f"/far/inbox/{time_text}.tif", time_text.encode())
    yield open_inbox(SceneSpec(url="memory://far/inbox", settle=timedelta(0)))
    _memory().rm("/far", recursive=True)


def test_a_remote_inbox_holds_files_and_nothing_below(remote: Inbox) -> None:
    _memory().pipe("/far/inbox/below/20240601T0600Z.tif", b"")
    _memory().pipe("/far/inbox/notes.txt", b"")
    assert [key.name for key in remote.files()] == [f"{text}.tif" for text in TIMES]


def test_what_lies_at_the_address_itself_is_no_scene(remote: Inbox) -> None:
    address = f"memory://far/inbox/{remote.files()[0].name}"
    assert open_inbox(SceneSpec(url=address)).files() == []


def test_a_remote_file_arrives_as_it_is(remote: Inbox, aside: Path) -> None:
    for key in remote.files():
        staged = remote.fetch(key, aside)
        assert staged.path.read_bytes() == key.name.removesuffix(".tif").encode()
        assert staged.sha256 == _sha256(staged.path.read_bytes())


def test_a_remote_file_that_was_replaced_or_has_gone_is_left_for_later(remote: Inbox, aside: Path) -> None:
    replaced, gone, _ = remote.files()
    _memory().pipe(f"/far/inbox/{replaced.name}", b"other bytes")
    _memory().rm(f"/far/inbox/{gone.name}")
    assert _reason(lambda: remote.fetch(replaced, aside)) == "unstable"
    assert _reason(lambda: remote.fetch(gone, aside)) == "unavailable"
    assert list(aside.iterdir()) == []


def test_a_remote_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(CubecastError, match=r"scenes\.url.*memory://nowhere/inbox"):
        open_inbox(SceneSpec(url="memory://nowhere/inbox")).files()


def test_an_address_of_no_known_storage_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"scenes\.url.*nosuch://"):
        open_inbox(SceneSpec(url="nosuch://bucket/inbox"))


def test_an_address_of_this_machine_is_its_folder(spec: SceneSpec, folder: Path) -> None:
    path = _put(folder, "20240601T0500Z.tif")
    (folder / "20240601T0700Z.tif").symlink_to(path)
    url = open_inbox(SceneSpec(url=f"file://{folder}"))
    assert url.files() == open_inbox(spec).files() == [FileKey.of(path)]


def test_a_time_is_the_same_however_a_storage_writes_it() -> None:
    time_written = datetime(2024, 6, 1, 5, 0, 0, 250_000, tzinfo=UTC)
    ways = (time_written, time_written.isoformat(), time_written.timestamp(), time_written.replace(tzinfo=None))
    assert {modified_ns({"mtime": way}) for way in ways} == {1_717_218_000_250_000_000}


# S3


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # takes seconds

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> fsspec.AbstractFileSystem:
    own = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (own | {"AWS_ENDPOINT_URL": server, "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    storage = fsspec.filesystem("s3", skip_instance_cache=True)
    if not storage.exists("scenes"):
        storage.mkdir("scenes")
    return storage


def _s3(prefix: str) -> Inbox:
    return open_inbox(SceneSpec(url=f"s3://scenes/{prefix}", settle=timedelta(0)))


@pytest.mark.server
def test_objects_of_s3_arrive_as_they_are(bucket: fsspec.AbstractFileSystem, aside: Path) -> None:
    data = os.urandom(REMOTE_BLOCK + 7)
    bucket.pipe("scenes/whole/20240601T0500Z.tif", data)
    bucket.pipe("scenes/whole/below/20240601T0505Z.tif", b"")
    inbox = _s3("whole")
    (key,) = inbox.files()
    assert key == inbox.look("20240601T0500Z.tif")
    staged = inbox.fetch(key, aside)
    assert staged.path.read_bytes() == data
    assert staged.sha256 == _sha256(data)


@pytest.mark.server
def test_an_object_that_was_replaced_is_left_for_later(bucket: fsspec.AbstractFileSystem, aside: Path) -> None:
    bucket.pipe("scenes/replaced/20240601T0500Z.tif", b"one")
    inbox = _s3("replaced")
    (key,) = inbox.files()
    bucket.pipe("scenes/replaced/20240601T0500Z.tif", b"other bytes")
    assert _reason(lambda: inbox.fetch(key, aside)) == "unstable"
    assert inbox.fetch(inbox.files()[0], aside).sha256 == _sha256(b"other bytes")


@pytest.mark.server
@pytest.mark.usefixtures("bucket")
def test_an_empty_prefix_is_an_empty_inbox_and_a_missing_bucket_a_fault() -> None:
    assert _s3("nothing/yet").files() == []
    with pytest.raises(CubecastError, match="s3://other/inbox") as caught:
        open_inbox(SceneSpec(url="s3://other/inbox")).files()
    assert not isinstance(caught.value, ServiceError)


@pytest.mark.server
@pytest.mark.usefixtures("bucket")
def test_a_server_that_does_not_answer_may_later(monkeypatch: pytest.MonkeyPatch, aside: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    inbox = _s3("inbox")
    with pytest.raises(ServiceError, match="s3://scenes/inbox does not"):
        inbox.files()
    assert _reason(lambda: inbox.fetch(FileKey("20240601T0500Z.tif", 1, 1), aside)) == "unavailable"


# Watching


def _times_yielded(inbox: Inbox, changes: list[Callable[[], object]], **options: Any) -> int:
    """How often a watch yields that sees one change after the other and ends a few looks later."""
    count, idle = 0, 0

    def stop() -> bool:
        nonlocal idle
        if changes and count:
            changes.pop(0)()
        else:
            idle += 1
        return idle > 30

    for _ in watch(inbox, 0.01, stop, **options):
        count += 1
    return count


def test_a_watch_starts_with_a_look_and_then_waits_for_changes(inbox: Inbox, folder: Path) -> None:
    _put(folder, "20240601T0500Z.tif")
    assert _times_yielded(inbox, []) == 1
    assert _times_yielded(inbox, [lambda: _put(folder, "20240601T0505Z.tif")]) == 2
    assert _times_yielded(inbox, [lambda: _put(folder, "20240601T0505Z.tif", b"other bytes")]) == 2
    assert _times_yielded(inbox, [lambda: _put(folder, "notes.txt")]) == 1


def test_a_mask_that_arrives_is_a_change(masked: Inbox, tmp_path: Path) -> None:
    assert _times_yielded(masked, [lambda: _put(tmp_path / "masks", "20240601T0500Z_cloud.tif")]) == 2


def test_a_watch_yields_without_a_change_where_it_is_asked_to(inbox: Inbox) -> None:
    assert _times_yielded(inbox, [], at_least=0.02) > 2


def test_a_watch_hears_an_order_to_stop_while_it_sleeps(inbox: Inbox) -> None:
    begin = time.monotonic()
    assert len(list(watch(inbox, 3600, lambda: time.monotonic() > begin + 0.1))) == 1
    assert time.monotonic() - begin < 2


def test_a_watched_folder_that_is_missing_is_an_error_at_once(inbox: Inbox, folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(CubecastError, match=r"scenes\.folder"):
        next(watch(inbox, 0.01, lambda: False))


class Shaky(LocalFolder):
    """A storage that does not answer the first three times."""

    looks: list[float]

    def listing(self, pattern: re.Pattern[str]) -> list[FileKey]:
        self.looks.append(time.monotonic())
        if len(self.looks) <= 3:
            raise ServiceError("not now")
        return super().listing(pattern)


def test_a_storage_that_does_not_answer_is_asked_again_with_growing_pauses(folder: Path) -> None:
    shaky = Shaky(folder)
    object.__setattr__(shaky, "looks", [])
    inbox = Inbox(Files(shaky, re.compile(".*"), 0), None, None)
    failures: list[ServiceError] = []
    next(watch(inbox, 0.02, lambda: False, failed=failures.append))
    pauses = [later - earlier for earlier, later in zip(shaky.looks, shaky.looks[1:], strict=False)]
    assert len(failures) == 3
    assert pauses[0] >= 0.04
    assert pauses[1] >= 0.08
    assert pauses[2] >= 0.16
