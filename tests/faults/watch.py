"""What a running command does to memory, to folders and to its children, seen from outside."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

IN_ACCESS, IN_OPEN = 0x1, 0x20  # inotify(7)


def family(pid: int) -> list[int]:
    """The process and all its descendants; none where it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(child))]


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextmanager
def weighing(pid: int) -> Iterator[list[int]]:
    """Collects, again and again, the sum of what a process and its living descendants ever held at once (KiB)."""
    sums = [0]
    stop = Event()

    def weigh() -> None:
        while not stop.wait(0.05):
            sums.append(sum(_high_water(one) for one in family(pid)))

    with _in_background(weigh, stop):
        yield sums


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


@contextmanager
def watching(folders: Sequence[Path]) -> Iterator[set[Path]]:
    """Collects the paths that anybody opens or reads in some folders; a folder stands for itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened: set[Path] = set()
    stop = Event()
    with closing(os.fdopen(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)) as queue:
        watches = {libc.inotify_add_watch(queue.fileno(), bytes(path), IN_OPEN | IN_ACCESS): path for path in folders}
        assert min(watches) > 0

        def drain() -> None:
            while not stop.wait(0.05):
                opened.update(_events(queue.read(1 << 16) or b"", watches))

        with _in_background(drain, stop):
            yield opened
            time.sleep(0.2)  # what has happened shall be drained too


def _events(data: bytes, watches: dict[int, Path]) -> Iterator[Path]:
    while data:
        watch, _, _, size = struct.unpack_from("iIII", data)
        yield watches[watch] / os.fsdecode(data[16 : 16 + size].rstrip(b"\0"))
        data = data[16 + size :]


@contextmanager
def _in_background(work: Callable[[], None], stop: Event) -> Iterator[None]:
    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
