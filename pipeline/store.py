"""The durable, versioned home of a cube: one writer at a time, every commit a snapshot that stays readable."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import zarr

from pipeline.errors import StoreError

# Icechunk warns on every open that its local storage needs one writer at a time: the lock below is that writer.
os.environ.setdefault("ICECHUNK_LOG", "error")

BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Commit:
    """One snapshot of the cube's history."""

    snapshot: str
    written_at: datetime
    message: str
    metadata: dict[str, Any]


class Transaction:
    """One writer's uncommitted work; it becomes a snapshot as a whole or not at all."""

    def __init__(self, repository: Any) -> None:
        """Starts at the newest snapshot of an Icechunk repository, whose lock the caller holds."""
        self._repository = repository
        self._session = repository.writable_session(BRANCH)
        self.snapshot: str | None = None

    @property
    def group(self) -> zarr.Group:
        """The root group, writable."""
        return zarr.open_group(self._session.store, mode="a")

    def discard(self) -> None:
        """Forgets everything written since the last commit."""
        self._session.discard_changes()

    def commit(self, message: str, metadata: dict[str, Any]) -> str:
        """Makes the work a snapshot, durable against a power cut, and returns its id."""
        self.snapshot = str(self._session.commit(message, metadata=metadata))
        self._session = self._repository.writable_session(BRANCH)
        return self.snapshot


@dataclass(frozen=True, slots=True)
class CubeStore:
    """An Icechunk repository on a local file system."""

    path: Path

    def exists(self) -> bool:
        """Whether something was ever committed here."""
        import icechunk

        return self.path.is_dir() and icechunk.Repository.exists(_storage(self.path))

    @contextmanager
    def writer(self) -> Iterator[Transaction]:
        """The one writer; creates the repository where there is none. Others wait.

        What is committed inside is on the disk when the block ends: Icechunk itself never calls fsync.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            transaction = Transaction(_repository(self.path, create=True))
            yield transaction
            if transaction.snapshot is not None:
                _sync_filesystem(self.path)

    def tip(self) -> str:
        """Id of the newest snapshot."""
        return str(self._open().lookup_branch(BRANCH))

    def group(self, snapshot: str | None = None) -> zarr.Group:
        """The root group at a snapshot (default: the newest), read-only.

        Raises:
            StoreError: no such cube or snapshot.
        """
        import icechunk

        try:
            session = self._open().readonly_session(snapshot_id=snapshot or self.tip())
        except (icechunk.IcechunkError, ValueError) as error:
            msg = f"{self.path} has no snapshot {snapshot}: it was expired, or belongs to another product ({error})"
            raise StoreError(msg) from None
        return zarr.open_group(session.store, mode="r")

    def history(self) -> Iterator[Commit]:
        """Every snapshot, newest first."""
        for entry in self._open().ancestry(branch=BRANCH):
            yield Commit(entry.id, entry.written_at, entry.message, dict(entry.metadata))

    def _open(self) -> Any:
        if not self.exists():
            msg = f"a cube is made by ingest, but {self.path} holds none: run cubecast ingest first"
            raise StoreError(msg)
        return _repository(self.path, create=False)


def _storage(path: Path) -> Any:
    import icechunk

    return icechunk.local_filesystem_storage(str(path))


def _repository(path: Path, *, create: bool) -> Any:
    import icechunk

    icechunk.set_logs_filter("error")
    config = icechunk.RepositoryConfig.default()
    by_time = {icechunk.ManifestSplitDimCondition.DimensionName("time"): 512}
    split = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): by_time})
    config.manifest = icechunk.ManifestConfig(splitting=split)
    try:
        if create:
            return icechunk.Repository.open_or_create(_storage(path), config=config)
        return icechunk.Repository.open(_storage(path), config=config)
    except icechunk.IcechunkError as error:
        msg = f"{path} is no cube that can be opened: {error}"
        raise StoreError(msg) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Concurrent commits to a local repository lose acknowledged ones (74 of 240 measured): one writer at a time."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sync_filesystem(path: Path) -> None:
    """Everything written to the file system of ``path`` reaches the disk (syncfs on Linux, sync elsewhere)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            msg = f"{path}: the disk did not take the commit ({os.strerror(ctypes.get_errno())}); run ingest again"
            raise StoreError(msg)
    finally:
        os.close(descriptor)
