"""The child's side of :mod:`pipeline.reader`: a process with limits that reads what it is asked for.

It parses strangers' bytes, so it imports little and gives itself limits before it opens the first file.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from pipeline import geotiff
from pipeline.errors import SceneError
from pipeline.pixels import BandRequest, Request, Target

SLACK_SECONDS: Final = 10.0  # after which a child whose parent is gone gives up its request
OPEN_FILES: Final = 64


def serve(memory: str, limit: str, seconds: str) -> None:
    """Answers requests on standard input until it ends: the whole life of a child.

    Args:
        memory: descriptor of the shared memory.
        limit: bytes, as in :class:`pipeline.reader.Limits`.
        seconds: of a request, as in :class:`pipeline.reader.Limits`.
    """
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # whatever a library prints is no reply
        server = _Server(int(memory), int(limit))
        _confine()
        replies.write(b"{}\n")
        replies.flush()
        for line in sys.stdin.buffer:
            signal.setitimer(signal.ITIMER_REAL, float(seconds) + SLACK_SECONDS)  # ends a child without a parent
            replies.write(json.dumps(server.answer(json.loads(line))).encode() + b"\n")
            replies.flush()
            signal.setitimer(signal.ITIMER_REAL, 0)


def _confine() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # when memory runs out, it is the reader that goes
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        resource.setrlimit(kind, (most, most))


class _Server:
    """What a child knows: the file that it has open, and the memory that it shares."""

    def __init__(self, memory: int, limit: int) -> None:
        self._memory = memory
        self._limit = limit
        self._bare = _address_space()
        self._mapped: mmap.mmap | None = None
        self._opened: tuple[object, ...] = ()
        self._files = ExitStack()
        self._dataset: DatasetReader | None = None
        self._confine_memory(0)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """A reply: ``said``, or ``fault`` and ``detail``."""
        path = Path(question["path"])
        try:
            return {"said": self._said(question, path)}
        except SceneError as fault:
            reason, detail = fault.reason, fault.detail
        except MemoryError:
            reason, detail = "unreadable", f"{path.name} needs more than {self._limit >> 20} MiB of memory to be read"
        except Exception as error:  # noqa: BLE001 - strangers' bytes find every hole, and the caller must hear of it
            reason, detail = "unreadable", f"{path.name}: {type(error).__name__}: {error}"
        self._close()
        return {"fault": reason, "detail": detail}

    def _said(self, question: dict[str, Any], path: Path) -> str | None:
        if question["do"] == "facts":
            return geotiff.describe(self._open(path)).to_json()
        request = _request(question)
        geotiff.read(self._open(path), request, self._pixels(request))
        return None

    def _open(self, path: Path) -> DatasetReader:
        """The file, opened again only where it is not what it was."""
        now = path.stat() if path.exists() else None
        state = now and (path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        if self._dataset is None or state != self._opened:
            self._close()
            self._dataset = self._files.enter_context(geotiff.open_geotiff(path))
            self._opened = state or ()
        return self._dataset

    def _close(self) -> None:
        self._dataset = None
        self._files.close()

    def _pixels(self, request: Request) -> NDArray:
        size = os.fstat(self._memory).st_size
        if self._mapped is None or len(self._mapped) != size:
            self._confine_memory(size)
            self._mapped = mmap.mmap(self._memory, size)
        dtype = np.dtype(request.dtype)
        return np.frombuffer(self._mapped, dtype, int(np.prod(request.shape))).reshape(request.shape)

    def _confine_memory(self, shared: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        mapped = 0 if self._mapped is None else len(self._mapped)  # until the new mapping takes its place
        wanted = self._bare + self._limit + shared + mapped
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # macOS knows the limit but does not take it
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _address_space() -> int:
    """Bytes that this process has mapped, where the system tells."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    return 1 << 30


def _request(plain: dict[str, Any]) -> Request:
    target = plain["target"]
    return Request(
        path=Path(plain["path"]),
        bands=tuple(BandRequest(**band) for band in plain["bands"]),
        dtype=plain["dtype"],
        window=tuple(plain["window"]),
        target=target and Target(target["crs"], tuple(target["transform"]), tuple(target["shape"])),
    )
