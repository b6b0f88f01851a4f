"""Scenes are read in child processes with limits, which are reused: a hostile or broken file can only end its reader.

Requests and replies are lines of JSON over pipes, nothing that could run code here; pixels come in shared memory.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CubecastError, SceneError
from pipeline.geotiff import Facts
from pipeline.pixels import Request

START_SECONDS: Final = 120.0  # it takes 0.5 s of CPU, on a machine that may be busy
REPLY_BYTES: Final = 1 << 28  # longest line of a child: 65535 bands with their tags
PROGRAM: Final = (
    "import sys; sys.modules['boto3'] = None; "  # rasterio would import it, for S3: half of the CPU time of a start
    "from pipeline.readerchild import serve; serve(*sys.argv[1:])"
)
KEPT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GDAL_DATA", "PROJ_DATA", "PROJ_LIB")
"""What a child gets of our environment: it parses strangers' bytes, and keys and passwords are none of its business."""

ENVIRONMENT: Final = {
    "PYTHONSAFEPATH": "1",
    "GDAL_DRIVER_PATH": "disable",
    "GDAL_CACHEMAX": "64",  # MB
    "GDAL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PROJ_NETWORK": "OFF",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take.

    Attributes:
        seconds: of wall time.
        memory: bytes of address space, beyond the bare reader (0.2 GiB) and the pixels that it hands over.
    """

    seconds: float = 120.0
    memory: int = 4 << 30


class Readers:
    """Child processes that read GeoTIFFs, one for each thread that reads; started when needed, then reused.

    Threads beyond ``size`` wait. A thread that already reads does not: it gets a child more, or two threads that each
    read from two files would wait for each other for ever.
    """

    def __init__(self, size: int | None = None, limits: Limits | None = None) -> None:
        self._size = size or os.cpu_count() or 1
        self._limits = limits or Limits()
        self._turns = threading.Semaphore(self._size)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._thread = threading.local()
        self._process = os.getpid()

    def facts(self, path: Path) -> Facts:
        """What a file says about itself.

        Raises:
            SceneError: ``unreadable``.
            CubecastError: no reader can be started.
        """
        with self._borrowed(path) as child:
            said = child.ask({"do": "facts", "path": str(path.absolute())}, path)
            try:
                return Facts.from_json(said)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                child.ready = False
                raise SceneError("unreadable", f"the reader of {path.name} answered nonsense: {error}") from None

    @contextmanager
    def reading(self, request: Request) -> Iterator[NDArray]:
        """DN of a window, as :func:`pipeline.geotiff.read` gives them: ``(band, y, x)``, valid inside the ``with``.

        Raises:
            SceneError: as :func:`pipeline.geotiff.read`; ``unreadable`` too where the reader dies or takes too long.
            CubecastError: no reader can be started.
        """
        with self._borrowed(request.path) as child:
            pixels = child.pixels(request.shape, np.dtype(request.dtype))
            child.ask({"do": "read", **asdict(request), "path": str(request.path.absolute())}, request.path)
            yield pixels

    def close(self) -> None:
        """Ends the children; a later request starts new ones."""
        if os.getpid() != self._process:
            return  # they are our parent's
        with self._lock:
            idle, self._idle = self._idle, []
            busy = tuple(self._busy)
        for child in busy:
            child.kill()
        for child in idle:
            child.end()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator[_Child]:
        if os.getpid() != self._process:
            msg = "readers belong to the process that made them, and it has been forked since: call readers() again"
            raise RuntimeError(msg)
        with self._turn():
            child = self._take(path)
            try:
                yield child
            finally:
                self._give_back(child)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits until fewer threads read than there are children."""
        if getattr(self._thread, "reads", False):
            yield
            return
        with self._turns:
            self._thread.reads = True
            try:
                yield
            finally:
                self._thread.reads = False

    def _take(self, path: Path) -> _Child:
        """An idle child, best the one that has the file open, or a new one."""
        child = self._pop(path)
        while child is not None and not child.alive:
            child.end()
            child = self._pop(path)
        child = child or _Child(self._limits)
        with self._lock:
            self._busy.add(child)
        return child

    def _pop(self, path: Path) -> _Child | None:
        with self._lock:
            self._idle.sort(key=lambda child: child.last == path)
            return self._idle.pop() if self._idle else None

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
            keep = child.ready and len(self._idle) < self._size
            if keep:
                self._idle.append(child)
        if not keep:
            child.end()


_POOLS: dict[int, Readers] = {}


def readers() -> Readers:
    """The readers of this process, made at first use; they end with it."""
    process = os.getpid()
    if process not in _POOLS:  # one that was forked makes its own
        atexit.register(_POOLS.setdefault(process, Readers()).close)
    return _POOLS[process]


class _Child:
    """One child process and the memory that it shares with us.

    Attributes:
        last: the file that it was asked about last, and keeps open.
        ready: it has answered all that it was asked.
    """

    def __init__(self, limits: Limits) -> None:
        self.last: Path | None = None
        self.ready = False
        self._limits = limits
        self._memory = _shared_memory()
        self._mapped: mmap.mmap | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        try:
            self._process = self._started()
        except OSError as error:
            self._let_go()
            msg = f"scenes are read in child processes, but none can be started: {error}. Free memory or processes"
            raise CubecastError(msg) from None
        self._wait_until_it_runs()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def pixels(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        """An array in the shared memory, which grows where it must."""
        count = int(np.prod(shape))
        size = max(1, count * dtype.itemsize)
        if self._mapped is None or len(self._mapped) < size:
            os.ftruncate(self._memory, size)
            self._mapped = mmap.mmap(self._memory, size)  # the old mapping lives as long as a view of it
        return np.frombuffer(self._mapped, dtype, count).reshape(shape)

    def ask(self, question: dict[str, Any], path: Path) -> Any:
        """What the child says.

        Raises:
            SceneError: the child found a fault, died or took too long.
        """
        self.last, self.ready = path, False
        try:
            self._send(question)
            reply = self._reply(self._limits.seconds)
        except TimeoutError:
            detail = f"reading {path.name} took longer than {self._limits.seconds:g} s"
            raise SceneError("unreadable", f"{detail}: write the scene again, tiled") from None
        except (EOFError, BrokenPipeError, ValueError):
            raise SceneError("unreadable", f"the reader of {path.name} died ({self._end()})") from None
        self.ready = True
        if reply.get("fault"):
            raise SceneError(str(reply["fault"]), str(reply.get("detail")))
        return reply.get("said")

    def kill(self) -> None:
        """Ends the process, which holds nothing that could be lost; whoever waits for it sees its end."""
        self._process.kill()

    def end(self) -> None:
        """Ends the process and forgets it; only for who has the child alone."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel, over a dead network disk
            self._process.wait(5)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # half a request, that nobody will read
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess] - both were asked for
        self._let_go()

    def _let_go(self) -> None:
        self._complaints.close()
        os.close(self._memory)

    def _started(self) -> subprocess.Popen[bytes]:
        path = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", ""))
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self._memory), str(self._limits.memory), str(self._limits.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            pass_fds=(self._memory,),
            start_new_session=True,  # Ctrl-C is for us: we end it
        )

    def _wait_until_it_runs(self) -> None:
        """A child that cannot even start is no fault of a scene."""
        try:
            self._reply(START_SECONDS)
        except (TimeoutError, EOFError, ValueError) as error:
            said = self._end() if isinstance(error, EOFError) else f"no sign of life in {START_SECONDS:g} s"
            self.end()
            msg = f"scenes are read in child processes, but they do not start: {said}. Is the installation whole?"
            raise CubecastError(msg) from None
        self.ready = True

    def _send(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()

    def _reply(self, seconds: float) -> dict[str, Any]:
        """The next line.

        Raises:
            TimeoutError: there is none in time.
            EOFError: there will be none.
            ValueError: it is no reply.
        """
        assert self._process.stdout is not None
        source, line = self._process.stdout.fileno(), bytearray()
        poll, deadline = select.poll(), time.monotonic() + seconds
        poll.register(source, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            piece = os.read(source, 1 << 16)
            if not piece or len(line) > REPLY_BYTES:
                raise EOFError
            line += piece
        reply = json.loads(line)
        if not isinstance(reply, dict):
            raise ValueError(type(reply))  # noqa: TRY004 - what json raises for a broken line
        return reply

    def _end(self) -> str:
        """How the process ended, for people."""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it answers nonsense"
        self._complaints.seek(0)
        complaint = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"signal {-status}" if status < 0 else f"exit status {status} {complaint}".strip()


def _shared_memory() -> int:
    """Descriptor of memory without a name."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    memory = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # a child that cut it off would end us by SIGBUS
    return memory
