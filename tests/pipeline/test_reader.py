from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from pipeline import geotiff, reader
from pipeline.errors import CubecastError, SceneError
from pipeline.geotiff import Facts
from pipeline.pixels import BandRequest, Request, Target
from pipeline.reader import Limits, Readers, readers

PLACE = Affine(10, 0, 5e5, 0, -10, 5e6)
HOUSE = Path(reader.__file__).parents[1]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(dn: NDArray, name: str = "scene.tif", **profile: Any) -> Path:
        layers = dn if dn.ndim == 3 else dn[np.newaxis]
        count, height, width = layers.shape
        own = {"count": count, "height": height, "width": width, "dtype": layers.dtype, "crs": "EPSG:32633"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", transform=PLACE, **own | profile) as file:
            file.write(layers)
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def pool() -> Iterator[Readers]:
    with Readers(2) as made:
        yield made


@pytest.fixture
def impatient() -> Iterator[Readers]:
    """A pool of one reader, that has already started."""
    with Readers(1, Limits(seconds=1)) as made:
        with pytest.raises(SceneError):
            made.facts(Path("nowhere.tif"))
        yield made


def _dn(seed: int, shape: tuple[int, ...] = (2, 60, 70), dtype: str = "uint16") -> NDArray:
    return np.random.default_rng(seed).integers(1, 120, shape).astype(dtype)


def _request(path: Path, *bands: int, dtype: str = "uint16", shape: tuple[int, int] = (60, 70)) -> Request:
    return Request(path, tuple(BandRequest(band, 0) for band in bands or (1,)), dtype, (0, shape[0], 0, shape[1]))


def _pixels(pool: Readers, request: Request) -> NDArray:
    with pool.reading(request) as view:
        return view.copy()


def _pid(pool: Readers) -> int:
    """Process of the only child, which is idle."""
    (child,) = pool._idle
    return child.pid


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_a_reader_reads_what_this_process_would(pool: Readers, write: Write, dtype: str) -> None:
    path = write(_dn(1, dtype=dtype), nodata=7)
    fill = float("nan") if dtype[0] == "f" else 99
    bands = (BandRequest(2, fill, (3,)), BandRequest(1, fill, (), "cubic"))
    target = Target("EPSG:4326", (0.0001, 0, 15.001, 0, -0.0001, 45.152), (50, 60))
    for goal in (None, target):
        request = Request(path, bands, dtype, (3, 41, 8, 60), goal)
        with geotiff.open_geotiff(path) as dataset:
            expected = geotiff.read(dataset, request)
        with pool.reading(request) as view:
            np.testing.assert_array_equal(view, expected)


def test_a_reader_finds_the_facts_that_this_process_would(pool: Readers, write: Write) -> None:
    path = write(_dn(1))
    assert pool.facts(path) == geotiff.facts(path)


def test_the_fault_of_a_file_comes_back_with_its_reason_and_the_reader_lives(pool: Readers, write: Write) -> None:
    path = write(_dn(1))
    for request, reason in ((_request(path, 3), "missing-band"), (_request(path, dtype="int16"), "wrong-dtype")):
        with pytest.raises(SceneError) as caught:
            _pixels(pool, request)
        assert caught.value.reason == reason
    np.testing.assert_array_equal(_pixels(pool, _request(path, 1)), _dn(1)[:1])


@pytest.mark.parametrize("text", ["<VRTDataset rasterXSize='4' rasterYSize='4'/>", "<GDAL_WMS></GDAL_WMS>", "II*\0"])
def test_what_is_no_geotiff_is_refused(pool: Readers, tmp_path: Path, text: str) -> None:
    path = tmp_path / "scene.tif"
    path.write_text(text)
    with pytest.raises(SceneError, match="unreadable") as caught:
        pool.facts(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_pipe_is_refused_at_once(pool: Readers, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scene.tif")
    with pytest.raises(SceneError, match="a scene is a regular file"):
        pool.facts(tmp_path / "scene.tif")


def test_a_path_is_meant_from_where_the_caller_stands(
    pool: Readers, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(_dn(4))
    monkeypatch.chdir(path.parent)
    assert pool.facts(Path(path.name)).width == 70


def test_windows_may_grow_and_shrink(pool: Readers, write: Write) -> None:
    dn = _dn(2, (1, 900, 1000))
    path = write(dn)
    for size in (6, 900, 10, 500, 899):
        request = Request(path, (BandRequest(1, 0),), "uint16", (0, size, 5, size))
        np.testing.assert_array_equal(_pixels(pool, request), dn[:, :size, 5:size])


def test_many_threads_get_their_own_pixels(pool: Readers, write: Write) -> None:
    dn = [_dn(seed) for seed in range(6)]
    paths = [write(layers, f"{seed}.tif") for seed, layers in enumerate(dn)]

    def right(turn: int) -> bool:
        with pool.reading(_request(paths[turn % 6], 1, 2)) as view:
            return np.array_equal(view, dn[turn % 6])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, range(200)))
    assert len(pool._idle) <= 2


def test_threads_that_read_two_files_at_once_do_not_wait_for_each_other(write: Write) -> None:
    paths = [write(_dn(seed), f"{seed}.tif") for seed in range(2)]
    together = threading.Barrier(2)
    with Readers(2, Limits(seconds=20)) as pool:

        def both(first: int) -> bool:
            with pool.reading(_request(paths[first])) as one:
                together.wait(20)
                with pool.reading(_request(paths[1 - first])) as other:
                    return np.array_equal(one[0], _dn(first)[0]) and np.array_equal(other[0], _dn(1 - first)[0])

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(both, range(2))) == [True, True]
        assert len(pool._idle) == 2


def test_one_child_serves_many_requests_and_opens_a_file_once(impatient: Readers, write: Write) -> None:
    path = write(_dn(1))
    pid = _pid(impatient)
    for _ in range(3):
        impatient.facts(path)
    opened = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert _pid(impatient) == pid
    assert opened.count(str(path)) == 1


@pytest.mark.parametrize("rename", [True, False])
def test_a_file_that_was_replaced_is_opened_again(impatient: Readers, write: Write, *, rename: bool) -> None:
    path = write(_dn(1))
    np.testing.assert_array_equal(_pixels(impatient, _request(path)), _dn(1)[:1])
    if rename:
        write(_dn(2), "new.tif").replace(path)
    else:
        write(_dn(2))
    np.testing.assert_array_equal(_pixels(impatient, _request(path)), _dn(2)[:1])


def test_a_reader_that_takes_too_long_is_replaced(impatient: Readers, write: Write) -> None:
    path, pid = write(_dn(1)), _pid(impatient)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(SceneError, match=r"unreadable: reading scene\.tif took longer than 1 s"):
        impatient.facts(path)
    assert not _runs(pid)
    assert impatient.facts(path).width == 70


def test_a_reader_that_dies_fails_its_own_request_alone(impatient: Readers, write: Write) -> None:
    path, pid = write(_dn(1)), _pid(impatient)
    os.kill(pid, signal.SIGSTOP)
    death = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    death.start()
    with pytest.raises(SceneError, match=r"unreadable: the reader of scene\.tif died \(signal 9\)"):
        _pixels(impatient, _request(path))
    death.join()
    np.testing.assert_array_equal(_pixels(impatient, _request(path)), _dn(1)[:1])


def test_a_reader_that_died_while_nobody_asked_is_no_fault_of_the_next_scene(impatient: Readers, write: Write) -> None:
    pid = _pid(impatient)
    os.kill(pid, signal.SIGKILL)
    assert _until(lambda: not _runs(pid))
    assert impatient.facts(write(_dn(1))).width == 70


def test_a_request_that_was_broken_off_leaves_no_answer_for_the_next_one(impatient: Readers, write: Write) -> None:
    path = write(_dn(1))
    request = _request(path)
    with pytest.raises(TypeError), impatient.reading(Request(path, request.bands, "uint16", (0, 1, 0, np.int64(1)))):  # pyright: ignore[reportArgumentType]
        pass
    np.testing.assert_array_equal(_pixels(impatient, request), _dn(1)[:1])


def test_an_error_of_the_caller_leaves_the_reader_usable(impatient: Readers, write: Write) -> None:
    request, pid = _request(write(_dn(1))), _pid(impatient)
    with pytest.raises(KeyError), impatient.reading(request):
        raise KeyError
    assert _pid(impatient) == pid


def test_a_file_that_unpacks_into_more_memory_than_allowed_is_refused(write: Write) -> None:
    tiled = {"tiled": True, "blockxsize": 8192, "blockysize": 8192}
    path = write(np.zeros((8192, 8192), np.uint8), **tiled, compress="deflate")
    request = Request(path, (BandRequest(1, 255),), "uint8", (0, 4, 0, 4))
    with Readers(1, Limits(memory=48 << 20)) as pool:
        assert pool.facts(path).block_bytes == 64 << 20
        with pytest.raises(SceneError, match="unreadable"):
            _pixels(pool, request)
    with Readers(1) as pool:
        assert not _pixels(pool, request).any()


def test_pixels_that_are_handed_over_do_not_count_as_memory_of_the_reader(write: Write) -> None:
    path = write(np.full((16384, 8192), 5, np.uint8), blockysize=16)
    with (
        Readers(1, Limits(memory=96 << 20)) as pool,
        pool.reading(_request(path, dtype="uint8", shape=(16384, 8192))) as dn,
    ):
        assert dn[0, ::100].min() == 5


def test_a_child_cannot_write_files_and_has_none_of_our_secrets(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Readers(1) as pool:
        pool.facts(write(_dn(1)))
        folder = Path(f"/proc/{_pid(pool)}")
        limits = {line[:25].strip(): line[26:].split()[0] for line in (folder / "limits").read_text().splitlines()}
        assert b"secret" not in (folder / "environ").read_bytes()
    assert (limits["Max file size"], limits["Max core file size"], limits["Max open files"]) == ("0", "0", "64")


def test_a_child_loads_only_what_it_needs() -> None:
    code = f"{reader.PROGRAM.partition('serve;')[0]}serve; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split()) - {"boto3"}  # which is there, as None
    ours = {name.removeprefix("pipeline.") for name in loaded if name.startswith("pipeline.")}
    assert ours == {"errors", "geotiff", "pixels", "readerchild", "tiffdirectory", "warp"}
    assert not {"botocore", "odc", "xarray", "pydantic", "pyproj", "zarr", "dask"} & loaded


SCRIPT = """
import sys, threading, time
from pathlib import Path
from pipeline.reader import readers
pool = readers()
pool.facts(Path(sys.argv[1]))
print(pool._idle[0].pid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
"""


@pytest.mark.parametrize("end", ["stay", "leave"])
def test_children_end_with_their_parent_however_it_ends(write: Write, end: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(write(_dn(1))), end]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pid = int(parent.stdout.readline())
        if end == "stay":
            assert _runs(pid)
            parent.kill()
        assert _until(lambda: not _runs(pid))
        assert parent.stderr.read() == ""


def test_a_forked_process_makes_readers_of_its_own(write: Write) -> None:
    path = write(_dn(1))
    code = f"""
import os
from pathlib import Path
from pipeline.reader import readers
path = Path({str(path)!r})
pool = readers()
pool.facts(path)
child = os.fork()
if child == 0:
    try:
        pool.facts(path)
    except RuntimeError:
        os._exit(0 if readers() is not pool and readers().facts(path).width == 70 else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
assert pool.facts(path).width == 70
"""
    subprocess.run([sys.executable, "-c", code], cwd=HOUSE, check=True)


def test_a_process_has_one_pool() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: readers(), range(32)))) == 1


def test_readers_that_cannot_start_are_no_fault_of_a_scene(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(_dn(1))
    with Readers(1) as pool:
        monkeypatch.setattr(reader, "PROGRAM", "import nowhere")
        with pytest.raises(CubecastError, match=r"do not start: exit status 1 .*nowhere") as caught:
            pool.facts(path)
        assert not isinstance(caught.value, SceneError)
        monkeypatch.undo()
        assert isinstance(pool.facts(path), Facts)


def test_a_pool_that_was_closed_starts_again(write: Write) -> None:
    path = write(_dn(1))
    with Readers(1) as pool:
        pool.facts(path)
        pid = _pid(pool)
        pool.close()
        assert not _runs(pid)
        assert pool.facts(path).width == 70


def test_a_view_that_outlives_its_request_is_stale_but_harms_nobody(pool: Readers, write: Write) -> None:
    path = write(_dn(1, (1, 2000, 700)))
    with pool.reading(_request(path, shape=(10, 10))) as view:
        kept = view
    _pixels(pool, _request(path, shape=(2000, 700)))
    assert kept.shape == (1, 10, 10)
    assert kept.sum() >= 0
