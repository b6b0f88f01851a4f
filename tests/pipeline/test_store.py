from __future__ import annotations

import pickle
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from pipeline import repository
from pipeline.errors import ServiceError, StoreError
from pipeline.filesystem import network_kind
from pipeline.maintenance import collect, expire
from pipeline.repository import open_repository, trouble
from pipeline.specs import StoreSpec
from pipeline.store import BRANCH, Bucket, ConflictError, CubeStore, Fork, Transaction

SIZE = 64

WRITE_TO_A_FULL_DISK = """
import os, resource, sys
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
    print(error, flush=True)
os._exit(0)  # Icechunk's threads have aborted a process at its end, once in many
"""

FILL = """
import os, pickle, sys
fork = pickle.load(sys.stdin.buffer)
fork.group["s"][7] = 7
pickle.dump(fork, sys.stdout.buffer)
sys.stdout.flush()
os._exit(0)  # the interpreter's end can meet Rust's threads, which then abort
"""

MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
31 22 0:40 / /mnt/nas rw - nfs4 nas:/vol rw
32 31 259:2 / /mnt/nas/disk rw - xfs /dev/sdb rw
33 22 0:41 / /mnt/my\\040share rw master:3 - cifs //host/share rw
34 22 0:42 / /home/me/drive rw - fuse.sshfs me@host: rw
35 22 0:43 / /mnt/stick rw - fuseblk /dev/sdc rw
36 22 0:44 / /mnt/twice rw - ext4 /dev/sdd rw
37 22 0:45 / /mnt/twice rw - ceph mon:/ rw
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def _bucket(server: str, patch: pytest.MonkeyPatch) -> Bucket:
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"cubes-{uuid4().hex[:8]}"
    with urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")):
        return Bucket(f"s3://{name}/work/cube", endpoint=server)


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(tmp_path / "work" / "cube")


@pytest.fixture
def remote(server: str, monkeypatch: pytest.MonkeyPatch) -> CubeStore:
    return CubeStore(_bucket(server, monkeypatch))


@pytest.fixture(params=["folder", "bucket"])
def either(request: pytest.FixtureRequest) -> CubeStore:
    return request.getfixturevalue("store" if request.param == "folder" else "remote")


def _folder(store: CubeStore) -> Path:
    assert isinstance(store.location, Path)
    return store.location


def _put(transaction: Transaction, value: int) -> str:
    transaction.group.require_array("a", shape=(SIZE,), chunks=(SIZE,), dtype="int64")[:] = value
    return transaction.commit(f"write {value}", {"value": value})


def _write(store: CubeStore, value: int) -> str:
    return store.update(lambda transaction: _put(transaction, value))


def _value(store: CubeStore, snapshot: str | None = None) -> int:
    return int(store.group(snapshot)["a"][0])


def _branches(store: CubeStore) -> set[str]:
    return open_repository(store.location).list_branches()


def _count(store: CubeStore, times: int) -> None:
    def change(transaction: Transaction) -> str:
        attrs = transaction.group.attrs
        attrs["count"] = attrs.get("count", 0) + 1
        return transaction.commit("count", {})

    for _ in range(times):
        store.update(change)


def _series(store: CubeStore, slots: int, **options: int) -> None:
    with store.writer(**options) as transaction:
        shape, names = (slots, 2, 2), ("time", "y", "x")
        transaction.group.create_array("s", shape=shape, chunks=(1, 2, 2), dtype="int64", dimension_names=names)[:] = 1
        transaction.commit("series", {})


def test_every_snapshot_stays_readable_after_newer_ones(either: CubeStore) -> None:
    snapshots = [_write(either, value) for value in range(3)]
    assert [_value(either, snapshot) for snapshot in snapshots] == [0, 1, 2]
    assert either.tip() == snapshots[-1]
    assert _value(either) == 2


def test_the_history_names_what_was_written_newest_first(either: CubeStore) -> None:
    snapshots = [_write(either, value) for value in range(2)]
    newest, oldest, *_ = either.history()
    assert [newest.snapshot, oldest.snapshot] == snapshots[::-1]
    assert (newest.message, newest.metadata) == ("write 1", {"value": 1})
    assert newest.written_at >= oldest.written_at


def test_a_reader_sees_nothing_of_what_is_not_committed(either: CubeStore) -> None:
    _write(either, 1)
    with either.writer() as transaction:
        transaction.group["a"][:] = 2
        assert _value(either) == 1
        transaction.settle()
        assert _value(either) == 1
    assert _value(either) == 1
    assert _branches(either) == {BRANCH}


def test_a_writer_that_fails_leaves_the_cube_as_it_was(either: CubeStore) -> None:
    before = _write(either, 1)
    with pytest.raises(ZeroDivisionError), either.writer() as transaction:
        transaction.group["a"][:] = 1 // 0
    assert either.tip() == before
    assert _write(either, 2) == either.tip()


def test_discarded_work_is_not_committed(either: CubeStore) -> None:
    _write(either, 1)
    with either.writer() as transaction:
        transaction.group["a"][:] = 2
        transaction.settle()
        transaction.group["a"][:] = 3
        transaction.discard()
        transaction.group.attrs["said"] = "yes"
        transaction.commit("attributes", {})
    assert _value(either) == 1
    assert either.group().attrs["said"] == "yes"


def test_one_writer_may_commit_many_times(either: CubeStore) -> None:
    with either.writer() as transaction:
        for value in range(1, 4):
            _put(transaction, value)
    assert _value(either) == 3
    assert [commit.message for commit in either.history()][:3] == ["write 3", "write 2", "write 1"]


def test_settled_work_is_committed_under_the_commits_own_name_and_is_no_history(either: CubeStore) -> None:
    with either.writer() as transaction:
        transaction.group.require_array("a", shape=(SIZE,), chunks=(SIZE,), dtype="int64")[:] = 7
        transaction.settle()
        transaction.settle()
        transaction.commit("seven", {"value": 7})
    assert [(commit.message, commit.metadata) for commit in either.history()][:-1] == [("seven", {"value": 7})]
    assert _value(either) == 7
    assert dict(either.group().attrs) == {}


def _fill(fork: Fork, slot: int) -> Fork:
    fork.group["s"][slot] = slot
    return fork


def test_another_process_writes_its_part_of_one_commit(store: CubeStore) -> None:
    _series(store, 2)
    with store.writer() as transaction:
        transaction.group["s"].resize((8, 2, 2))
        near, far = transaction.fork(), pickle.dumps(transaction.fork())
        ran = subprocess.run([sys.executable, "-c", FILL], input=far, capture_output=True, check=True, timeout=120)
        transaction.merge([_fill(near, 6), pickle.loads(ran.stdout)])
        transaction.commit("filled", {})
    assert store.group()["s"][:, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 6, 7]


def test_forks_start_from_what_was_written_and_come_back_into_one_commit(either: CubeStore) -> None:
    _series(either, 4)
    with either.writer() as transaction:
        transaction.group["s"].resize((6, 2, 2))
        forks = [transaction.fork() for _ in range(2)]
        transaction.merge(_fill(fork, slot) for fork, slot in zip(forks, (4, 5), strict=True))
        transaction.group["s"][0] = 9
        snapshot = transaction.commit("filled", {})
    assert either.tip() == snapshot
    assert either.group()["s"][:, 0, 0].tolist() == [9, 1, 1, 1, 4, 5]
    assert _branches(either) == {BRANCH}


def test_forks_that_are_out_keep_a_commit_from_losing_their_work(store: CubeStore) -> None:
    _series(store, 2)
    with store.writer() as transaction:
        transaction.fork()
        for early in (transaction.settle, lambda: transaction.commit("early", {})):
            with pytest.raises(StoreError, match=r"1 of .* are out: merge them"):
                early()
        transaction.discard()
        _put(transaction, 1)
    assert _value(store) == 1


def test_writers_at_once_lose_nothing(either: CubeStore) -> None:
    _write(either, 0)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_count, [either] * 2, [10] * 2))
    assert either.group().attrs["count"] == 20


def test_the_first_writers_at_once_make_one_cube(either: CubeStore) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(_count, [either] * 3, [1] * 3))
    assert either.group().attrs["count"] == 3


def test_in_a_bucket_the_slower_of_two_writers_is_told(remote: CubeStore) -> None:
    _write(remote, 0)
    with remote.writer() as slow:
        slow.group["a"][:] = 1
        _write(remote, 2)
        with pytest.raises(ConflictError, match="another writer"):
            slow.commit("too late", {})
    assert _value(remote) == 2


def test_a_commit_whose_answer_was_lost_is_no_conflict(remote: CubeStore) -> None:
    _write(remote, 0)
    with remote.writer() as transaction:
        transaction.group["a"][:] = 1
        snapshot = transaction._session.flush("mine", metadata={})
        transaction._publish_in_bucket(snapshot)
        _write(remote, 2)
        transaction._publish_in_bucket(snapshot)  # the client tries again what the server had done
    assert [commit.message for commit in remote.history()][:2] == ["write 2", "mine"]


def test_what_a_killed_writer_left_is_swept_by_the_next(store: CubeStore) -> None:
    _write(store, 1)
    writer = store.writer()
    transaction = writer.__enter__()
    transaction.group["a"][:] = 2
    transaction.settle()
    transaction._branch = ""  # as a kill: the lock is free, the branch stays
    assert len(_branches(store)) == 2
    del transaction, writer
    assert len(_branches(store)) == 2
    _write(store, 3)
    assert _branches(store) == {BRANCH}


@pytest.mark.parametrize("content", [b"", bytes(35)], ids=["empty", "zeros"])
def test_a_dead_writers_branch_that_a_power_cut_damaged_stops_nobody(store: CubeStore, content: bytes) -> None:
    _write(store, 1)
    left = _folder(store) / "refs" / "branch.writing-1-dead"
    left.mkdir()
    (left / "ref.json").write_bytes(content)
    _write(store, 2)
    assert _value(store) == 2
    assert _branches(store) == {BRANCH}


def test_a_branch_gets_its_name_only_when_its_bytes_are_on_the_disk(
    store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(store, 1)
    main = _folder(store) / "refs" / "branch.main" / "ref.json"
    before, seen, synced = main.read_bytes(), [], repository.sync_filesystem

    def look(path: Path) -> None:
        seen.append(main.read_bytes())
        synced(path)

    monkeypatch.setattr(repository, "sync_filesystem", look)
    _write(store, 2)
    assert seen == [before, main.read_bytes()]


def test_manifests_are_split_as_they_were_at_first(store: CubeStore) -> None:
    _series(store, 16, manifest_slots=4)
    manifests = set(_folder(store).glob("manifests/*"))
    assert len(manifests) == 4
    with store.writer(manifest_slots=8) as transaction:
        transaction.group["s"].resize((32, 2, 2))
        transaction.group["s"][:] = 2
        transaction.commit("longer", {})
    assert len(set(_folder(store).glob("manifests/*")) - manifests) == 8


def test_no_chunk_lies_inside_a_manifest(store: CubeStore) -> None:
    _series(store, 16)
    assert len(list(_folder(store).glob("chunks/*"))) == 16


def test_a_tag_names_a_snapshot_for_good(either: CubeStore) -> None:
    first, second = _write(either, 1), _write(either, 2)
    assert either.tag("v1.0", first) == first
    assert either.tag("v1.0", first) == first
    assert either.tag("newest") == second
    assert either.tags() == {"v1.0": first, "newest": second}
    with pytest.raises(StoreError, match=f"v1.0 of .* names {first}"):
        either.tag("v1.0", second)
    either.untag("v1.0")
    assert either.tags() == {"newest": second}
    with pytest.raises(StoreError, match=r"had v1\.0 once"):
        either.tag("v1.0", first)
    with pytest.raises(StoreError, match=r"no tag 'v1\.0'; it has newest"):
        either.untag("v1.0")


def test_a_snapshot_is_found_by_its_id_or_its_tag(store: CubeStore) -> None:
    first, _ = _write(store, 1), _write(store, 2)
    store.tag("old", first)
    assert [_value(store, store.resolve(ref)) for ref in ("old", first)] == [1, 1]
    with pytest.raises(StoreError, match="no snapshot young"):
        store.resolve("young")


@pytest.mark.parametrize("name", ["", "a/b", "é", ".hidden", "a b", "x" * 65, "8NRR2S4H0GVD831RBBM0", "a\n"])
def test_a_tags_name_is_plain_and_no_id(store: CubeStore, name: str) -> None:
    _write(store, 1)
    with pytest.raises(StoreError, match="a tag's name is"):
        store.tag(name)


def test_only_a_snapshot_of_this_cube_gets_a_tag(store: CubeStore) -> None:
    _write(store, 1)
    with pytest.raises(StoreError, match="no snapshot 8NRR2S4H0GVD831RBBM0"):
        store.tag("old", "8NRR2S4H0GVD831RBBM0")
    assert store.tags() == {}


def test_nothing_is_found_where_there_is_no_cube(either: CubeStore) -> None:
    assert not either.exists()
    for look in (either.tip, either.group, lambda: list(either.history()), either.tags, lambda: either.tag("a")):
        with pytest.raises(StoreError, match="run cubecast ingest"):
            look()


def test_a_repository_where_nothing_was_committed_is_no_cube(either: CubeStore) -> None:
    with either.writer():
        pass
    assert not either.exists()
    with pytest.raises(StoreError, match="run cubecast ingest"):
        either.group()


def test_a_repository_half_made_is_made_anew(store: CubeStore) -> None:
    half = _folder(store).with_name(".cube.making")
    (half / "snapshots").mkdir(parents=True)
    _write(store, 1)
    assert _value(store) == 1
    assert not half.exists()


def test_a_folder_with_other_files_is_left_alone(store: CubeStore) -> None:
    folder = _folder(store)
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(StoreError, match="other files"), store.writer():
        pass
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_file_where_the_cube_should_be_is_an_error_and_no_panic(store: CubeStore) -> None:
    _folder(store).parent.mkdir(parents=True)
    _folder(store).touch()
    with pytest.raises(StoreError, match="cube"), store.writer():
        pass
    with pytest.raises(StoreError, match="run cubecast ingest"):
        store.tip()


def test_a_snapshot_of_another_product_is_refused(store: CubeStore) -> None:
    _write(store, 1)
    other = CubeStore(_folder(store).with_name("other"))
    for unknown in (_write(other, 1), "nonsense"):
        with pytest.raises(StoreError, match=f"no snapshot {unknown}"):
            store.group(unknown)


def test_a_lost_snapshot_is_not_taken_for_an_empty_cube(store: CubeStore) -> None:
    snapshot = _write(store, 1)
    (_folder(store) / "snapshots" / snapshot).unlink()
    for look in (store.exists, store.group):
        with pytest.raises(StoreError, match=f"no snapshot {snapshot}"):
            look()


def test_a_repository_without_its_branch_is_not_written_over(store: CubeStore) -> None:
    _write(store, 1)
    for path in _folder(store).glob("refs/branch.main/*"):
        path.unlink()
    with pytest.raises(StoreError), store.writer():
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_is_said_in_one_sentence_and_costs_nothing_that_was_committed(store: CubeStore) -> None:
    before = store.update(_random)
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(store)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "free space" in said
    assert said.count("\n") == 1
    assert store.tip() == before
    store.group()["a"][:]


def _random(transaction: Transaction) -> str:
    noise = np.random.default_rng(1).integers(0, 1 << 60, 4096)
    transaction.group.create_array("a", shape=(4096,), chunks=(4096,), dtype="int64")[:] = noise
    return transaction.commit("noise", {})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/cube", ""),
        ("/mnt/nas/cube", "nfs4"),
        ("/mnt/nas/disk/cube", ""),
        ("/mnt/nasty/cube", ""),
        ("/mnt/my share/cube", "cifs"),
        ("/home/me/drive/a/b/cube", "fuse.sshfs"),
        ("/mnt/stick/cube", ""),
        ("/mnt/twice", "ceph"),
    ],
)
def test_a_network_mount_is_known_from_a_disk(path: str, kind: str) -> None:
    assert network_kind(MOUNTS, Path(path)) == kind


def test_a_cube_on_a_network_mount_is_refused_with_the_way_out(
    store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"{MOUNTS}40 22 0:50 / {tmp_path.resolve()} rw - nfs nas:/ rw\n", encoding="utf-8")
    monkeypatch.setattr("pipeline.filesystem.MOUNTS", mounts)
    with pytest.raises(StoreError, match=r"on nfs, .* url = \"s3://bucket/prefix\""), store.writer():
        pass
    assert not _folder(store).parent.exists()


def test_the_configuration_chooses_folder_or_bucket(tmp_path: Path) -> None:
    assert CubeStore.of(StoreSpec(), tmp_path) == CubeStore(tmp_path)
    spec = StoreSpec(url="s3://bucket/a/b", endpoint="http://localhost:9000", region="eu-1")
    assert CubeStore.of(spec, tmp_path) == CubeStore(Bucket("s3://bucket/a/b", "http://localhost:9000", "eu-1"))
    assert [str(CubeStore.of(StoreSpec(), Path("work/cube"))), str(CubeStore.of(spec, tmp_path))] == [
        "work/cube",
        "s3://bucket/a/b",
    ]


def test_a_bucket_is_cleared_like_a_folder(remote: CubeStore) -> None:
    snapshots = [_write(remote, value) for value in range(1, 4)]
    remote.tag("first", snapshots[0])
    assert expire(remote, datetime.now(UTC), floor=timedelta(0)).expired == 1
    # What moto says it stored at may lie up to a second ahead.
    gone = collect(remote, datetime.now(UTC) + timedelta(seconds=2), floor=-timedelta(seconds=2))
    assert (gone.snapshots, gone.chunks) == (1, 1)
    assert [_value(remote), _value(remote, remote.resolve("first"))] == [3, 1]


def test_a_missing_bucket_is_said_in_one_sentence(server: str, remote: CubeStore) -> None:
    lost = CubeStore(Bucket("s3://no-such-bucket/cube", endpoint=server))
    for look in (lost.tip, lambda: _write(lost, 1)):
        with pytest.raises(
            StoreError, match=r"no-such-bucket/cube at http.* cannot: .*NoSuchBucket.* Check \[store\]"
        ) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_a_bucket_that_does_not_answer_may_come_back_and_a_full_disk_has_to_be_mended() -> None:
    with pytest.raises(ServiceError), trouble(Bucket("s3://weather/cube")):
        raise OSError("refused")
    with pytest.raises(StoreError) as caught, trouble(Path("cube")):
        raise OSError("no space left")
    assert not isinstance(caught.value, ServiceError)


def test_only_a_bucket_that_answers_says_that_a_snapshot_is_gone(
    remote: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import icechunk

    _write(remote, 1)
    with pytest.raises(StoreError, match="it was expired") as gone:
        remote.resolve("NXH3M0HJ7EEJ0699DPP0")
    assert not isinstance(gone.value, ServiceError)

    def silent(repository: Any, snapshot: str) -> Any:
        raise icechunk.IcechunkError("dispatch failure: dns error: host not found, timed out")

    monkeypatch.setattr(icechunk.Repository, "lookup_snapshot", silent)
    with pytest.raises(ServiceError, match="timed out"):
        remote.resolve("NXH3M0HJ7EEJ0699DPP0")
