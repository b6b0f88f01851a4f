from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from pipeline.errors import StoreError
from pipeline.maintenance import backup, collect, expire
from pipeline.store import CubeStore, Transaction
from tests.faults.record import record, tries

pytestmark = pytest.mark.slow

NOW = timedelta(0)
PAGE = 4096  # bytes that a tmpfs gives at once
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, linux/fs/ext4/ext4.h
NO_LOG_FLUSH = ctypes.c_uint32(2)

# Each round: a line "folder what" comes in, lines "snapshot value" go out as they are acknowledged, then "over".
WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.maintenance import collect, expire
from pipeline.store import CubeStore

def round(store, what):
    value = int(store.group()["a"][0]) if store.exists() else 0
    while True:
        for _ in range(3):
            value += 1
            with store.writer() as transaction:
                transaction.group.require_array("a", shape=(64,), chunks=(16,), dtype="int64")[:] = value
                print(transaction.commit(f"{value}", {}), value, flush=True)
        if what == "expire":
            expire(store, datetime.now(UTC), floor=timedelta(0))
            collect(store, datetime.now(UTC), floor=timedelta(0))

print("ready", flush=True)
for line in sys.stdin:
    folder, what = line.split()
    try:
        round(CubeStore(Path(folder)), what)
    except StoreError as error:
        print("over", str(error).count(chr(10)), error, flush=True)
"""

SAID = re.compile(r"ready$|over |[0-9A-Z]{20} \d+$")
"""What the writer says; Icechunk's log goes to the same stream."""

COUNTER = """
import sys
from pathlib import Path
from pipeline.store import CubeStore

who, times = int(sys.argv[2]), int(sys.argv[3])
for at in range(times):
    def change(transaction):
        transaction.group["done"][who, at] = 1
        return transaction.commit(f"{who} {at}", {})
    print(CubeStore(Path(sys.argv[1])).update(change), flush=True)
"""


def _folder(store: CubeStore) -> Path:
    assert isinstance(store.location, Path)
    return store.location


def _put(transaction: Transaction, value: int) -> str:
    transaction.group.require_array("a", shape=(64,), chunks=(16,), dtype="int64")[:] = value
    return transaction.commit(f"{value}", {})


def _write(store: CubeStore, value: int) -> str:
    return store.update(lambda transaction: _put(transaction, value))


def _value(store: CubeStore, snapshot: str | None = None) -> int:
    values = np.unique(store.group(snapshot)["a"][:])
    assert values.size == 1
    return int(values[0])


@pytest.mark.timeout(3600)
def test_four_processes_at_once_lose_no_acknowledged_commit(tmp_path: Path) -> None:
    store, times = CubeStore(tmp_path / "cube"), tries(250, 10)
    with store.writer() as transaction:
        transaction.group.create_array("done", shape=(4, times), chunks=(1, 1), dtype="int8")
        transaction.commit("empty", {})
    commands = [[sys.executable, "-c", COUNTER, str(store), str(who), str(times)] for who in range(4)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    acknowledged = {line for child in children for line in child.communicate()[0].split()}
    kept = {commit.snapshot for commit in store.history()}
    lost = len(acknowledged - kept)
    record("writers at once", "commit", 4 * times, lost, "4 processes; failures are acknowledged commits that are gone")
    assert len(acknowledged) == 4 * times
    assert lost == 0
    assert store.group()["done"][:].all()


# Disk full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(["-t", "tmpfs", "-o", "size=16M", "tmpfs"], disk):
        yield disk


@contextmanager
def _mounted(what: list[str], folder: Path) -> Iterator[None]:
    try:
        done = subprocess.run(["mount", *what, str(folder)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """A writer's threads may hold a file for a moment after its error."""
    for _ in range(50):
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", str(folder)], check=True)


def _leave_bytes(disk: Path, pages: int) -> None:
    free = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(max(0, free.f_bavail - 1 - pages) * free.f_frsize))


def _leave_files(disk: Path, files: int) -> None:
    status = os.statvfs(disk)
    taken = status.f_files - status.f_ffree
    subprocess.run(["mount", "-o", f"remount,nr_inodes={taken + files}", str(disk)], check=True)


def _free(disk: Path) -> None:
    (disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,nr_inodes=100000", str(disk)], check=True)


def _fork_and_write(store: CubeStore) -> None:
    with store.writer() as transaction:
        transaction.group.attrs["forked"] = True
        fork = transaction.fork()
        fork.group["a"][:] = 2
        transaction.merge([fork])
        transaction.commit("2", {})


ACTIONS: dict[str, Callable[[CubeStore], object]] = {
    "commit": lambda store: _write(store, 2),
    "forks": _fork_and_write,
    "tag": lambda store: store.tag(f"t{time.monotonic_ns()}"),
    "expire": lambda store: expire(store, datetime.now(UTC), floor=NOW),
    "collect": lambda store: collect(store, datetime.now(UTC), floor=NOW),
    "backup": lambda store: backup(store, _folder(store).with_name("copy")),
}


@pytest.mark.parametrize("leave", [_leave_bytes, _leave_files], ids=["bytes", "files"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_disk_that_is_full_at_any_write_costs_nothing(
    small_disk: Path, action: str, leave: Callable[[Path, int], None]
) -> None:
    store = CubeStore(small_disk / "cube")
    said = []
    for room in itertools.count():
        for value in (7, 8, 1):
            _write(store, value)
        leave(small_disk, room)
        try:
            ACTIONS[action](store)
        except StoreError as error:
            said.append(str(error))
        else:
            break
        finally:
            assert _value(store) in (1, 2)
            _free(small_disk)
        assert _value(store) in (1, 2)
        assert room < 100
    kind = leave.__name__.removeprefix("_leave_")
    record(f"disk full ({kind})", action, len(said) + 1, 0, "a full disk met at each write in turn")
    assert all("\n" not in text and "ree space" in text for text in said)
    _write(store, 3)
    assert _value(store) == 3


def test_a_first_commit_on_a_full_disk_is_made_again(small_disk: Path) -> None:
    said = []
    for room in range(100):
        store = CubeStore(small_disk / f"cube{room}")
        _leave_bytes(small_disk, room)
        try:
            _write(store, 1)
        except StoreError as error:
            said.append(str(error))
        else:
            break
        finally:
            _free(small_disk)
        _write(store, 2)
        assert _value(store) == 2
        shutil.rmtree(_folder(store))
    record("disk full (bytes)", "first commit", len(said) + 1, 0)
    assert len(said) > 3
    assert all("\n" not in text and "ree space" in text for text in said)


# Power cut


class Machine:
    """A disk with a writer at work on it, whose power can be cut: what was not synced is gone."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder
        with image.open("wb") as disk:
            disk.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^metadata_csum_seed", str(image)], check=True, capture_output=True)
        self.writer = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._line()

    def _line(self) -> str:
        """What the writer says next, without what Icechunk's own log says on the same stream of a disk that failed."""
        assert self.writer.stdout is not None
        while (line := self.writer.stdout.readline()) and not SAID.match(line):
            pass
        assert line, "the writer has died"
        return line.strip()

    def mounted(self) -> contextmanager:
        return _mounted(["-o", "loop", str(self.image)], self.folder)

    def run_until_cut(self, what: str, seconds: float) -> list[tuple[str, int]]:
        """Snapshots and values that were acknowledged before the power went."""
        assert self.writer.stdin is not None
        self.writer.stdin.write(f"{self.folder / 'cube'} {what}\n")
        self.writer.stdin.flush()
        ref = self.folder / "cube" / "refs" / "branch.main" / "ref.json"
        lines = [self._line()]  # the cut comes while commits come
        assert not lines[0].startswith("over"), lines
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self._keep_syncing)
            time.sleep(seconds)
            if what == "swap":
                self._wait_for_another(ref)
            self._cut()
        while not lines[-1].startswith("over"):
            lines.append(self._line())
        assert lines.pop().startswith("over 0 "), lines
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def _keep_syncing(self) -> None:
        """Another program's work on the disk: each sync of a file brings every rename so far to it, data or not."""
        with suppress(OSError), (self.folder / "journal").open("wb", buffering=0) as file:
            while True:
                file.write(b"x")
                os.fsync(file.fileno())

    def _wait_for_another(self, path: Path) -> None:
        first, until = path.stat().st_ino, time.monotonic() + 5
        while path.stat().st_ino == first and time.monotonic() < until:
            pass

    def _cut(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        self.writer.kill()
        self.writer.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a power cut needs Linux, root and mkfs.ext4")
    folder = tmp_path / "disk"
    folder.mkdir()
    machine = Machine(tmp_path / "image", folder)
    yield machine
    machine.stop()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("what", "full", "few"), [("commit", 50, 2), ("swap", 50, 3), ("expire", 20, 1)])
def test_a_power_cut_loses_nothing_that_was_acknowledged(machine: Machine, what: str, full: int, few: int) -> None:
    draw, unreadable, lost, commits = random.Random(0), 0, 0, 0
    store = CubeStore(machine.folder / "cube")
    for _ in range(tries(full, few)):
        with machine.mounted():
            acknowledged = machine.run_until_cut(what, draw.uniform(0, 0.7))
        with machine.mounted():
            commits += len(acknowledged)
            newest = acknowledged[-1]
            checked = [newest] if what == "expire" else acknowledged
            try:
                assert _value(store) >= newest[1]
                kept = {commit.snapshot for commit in store.history()}
                lost += sum(snapshot not in kept or _value(store, snapshot) != value for snapshot, value in checked)
            except StoreError:
                unreadable += 1
    note = f"{commits} commits acknowledged; failures are unreadable cubes and acknowledged commits that are gone"
    record("power cut", what, tries(full, few), unreadable + lost, note)
    assert (unreadable, lost) == (0, 0)


def test_a_killed_writer_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    draw, lost, times = random.Random(0), 0, tries(40, 2)
    store = CubeStore(tmp_path / "cube")
    for _ in range(times):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{store} commit\n")
        child.stdin.flush()
        lines = [child.stdout.readline(), child.stdout.readline()]
        time.sleep(draw.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        lines += child.communicate()[0].splitlines()
        kept = {commit.snapshot for commit in store.history()}
        lost += sum(line.split()[0] not in kept for line in lines[1:] if len(line.split()) == 2)
        _write(store, _value(store) + 1)
    record("kill -9", "commit", times, lost)
    assert lost == 0


# Flipped bits


def _noise(store: CubeStore) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 4000, (12, 64, 64)).astype("uint16")
    with store.writer(manifest_slots=4) as transaction:
        codec, names = ZstdCodec(level=1, checksum=True), ("time", "y", "x")
        array = transaction.group.create_array(
            "a", shape=values.shape, chunks=(1, 32, 32), dtype="uint16", compressors=codec, dimension_names=names
        )
        array[:] = values
        small = transaction.group.create_array(
            "small", shape=(12,), chunks=(1,), dtype="int64", compressors=codec, dimension_names=("time",)
        )
        small[:] = np.arange(1, 13)
        transaction.commit("noise", {})
    return values


def _silent(store: CubeStore, values: np.ndarray) -> bool:
    """Whether the cube now reads as something else without a word."""
    try:
        group = store.group()
        read = _array(group, "a")[:], _array(group, "small")[:]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | pytest.fail.Exception):
            raise
        return False
    return not (np.array_equal(read[0], values) and np.array_equal(read[1], np.arange(1, 13)))


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ (1 << bit % 8)
        file.seek(bit // 8)
        file.write(bytes([byte]))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("folder", "full", "few"), [("chunks", 1000, 60), ("manifests", 500, 30), ("snapshots", 500, 30)]
)
def test_a_flipped_bit_is_never_silent(tmp_path: Path, folder: str, full: int, few: int) -> None:
    store, draw, silent = CubeStore(tmp_path / "cube"), random.Random(0), 0
    values = _noise(store)
    paths = sorted((_folder(store) / folder).iterdir())
    for _ in range(tries(full, few)):
        path = draw.choice(paths)
        bit = draw.randrange(8 * path.stat().st_size)
        _flip(path, bit)
        silent += _silent(store, values)
        _flip(path, bit)
    assert not _silent(store, values)
    record("flipped bit", folder, tries(full, few), silent, "failures are reads that gave another value")
    if folder == "chunks":
        assert silent == 0
