"""The durable, versioned home of a cube: one writer at a time, every commit a snapshot that stays readable."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import zarr
from zarr.errors import GroupNotFoundError

from pipeline.durable import locked
from pipeline.errors import StoreError

BRANCH = "main"
WRITING = "writing-"  # branches of a writer at work; what a killed one leaves is swept by the next


@dataclass(frozen=True, slots=True)
class Commit:
    """One snapshot of the cube's history."""

    snapshot: str
    written_at: datetime
    message: str
    metadata: dict[str, Any]


class Transaction:
    """One writer's uncommitted work; it becomes a snapshot as a whole or not at all."""

    def __init__(self, repository: Any, path: Path) -> None:
        """Starts at the newest snapshot of the Icechunk repository at ``path``, whose lock the caller holds."""
        self._repository = repository
        self._path = path
        self._branch = f"{WRITING}{uuid4().hex}"
        self._base = repository.lookup_branch(BRANCH)
        repository.create_branch(self._branch, self._base)
        self._session = repository.writable_session(self._branch)

    @property
    def group(self) -> zarr.Group:
        """The root group, writable."""
        return zarr.open_group(self._session.store, mode="a")

    def discard(self) -> None:
        """Forgets everything written since the last commit."""
        self._session.discard_changes()

    def commit(self, message: str, metadata: dict[str, Any]) -> str:
        """Makes the work a snapshot, durable against a power cut, and returns its id.

        Icechunk never calls fsync; a branch that reaches the disk before its snapshot does is unreadable (4 of 12 cut
        repositories). So the work is committed aside and on the disk before the cube's branch points to it.
        """
        snapshot = str(self._session.commit(message, metadata=metadata))
        _sync_filesystem(self._path)
        self._repository.reset_branch(BRANCH, snapshot, from_snapshot_id=self._base)
        _sync_filesystem(self._path)
        self._base = snapshot
        self._session = self._repository.writable_session(self._branch)
        return snapshot


@dataclass(frozen=True, slots=True)
class CubeStore:
    """An Icechunk repository on a local file system."""

    path: Path

    def exists(self) -> bool:
        """Whether a cube was ever committed here."""
        try:
            self.group()
        except NoCubeError:
            return False
        return True

    @contextmanager
    def writer(self) -> Iterator[Transaction]:
        """The one writer; makes the repository where there is none. Others wait.

        Concurrent commits to a local repository lose acknowledged ones (74 of 240 measured), hence the lock.

        Raises:
            StoreError: the folder holds something else, or the disk does not take the work.
        """
        with _disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock")):
                repository = _open_or_make(self.path)
                _sweep(repository)
                yield Transaction(repository, self.path)
                _sweep(repository)

    def tip(self) -> str:
        """Id of the newest snapshot.

        Raises:
            StoreError: no cube.
        """
        return str(self._open().lookup_branch(BRANCH))

    def group(self, snapshot: str | None = None) -> zarr.Group:
        """The root group at a snapshot (default: the newest), read-only.

        Raises:
            StoreError: no such cube or snapshot.
        """
        import icechunk

        repository = self._open()
        snapshot = snapshot or str(repository.lookup_branch(BRANCH))
        try:
            next(repository.ancestry(snapshot_id=snapshot))  # a session of an unknown one looks like an empty cube
            session = repository.readonly_session(snapshot_id=snapshot)
        except (icechunk.IcechunkError, ValueError) as error:
            reason = _first_line(error)
            msg = f"{self.path} has no snapshot {snapshot}: it was expired, or belongs to another product ({reason})"
            raise StoreError(msg) from None
        with _disk(self.path):
            try:
                return zarr.open_group(session.store, mode="r")
            except GroupNotFoundError:
                raise NoCubeError(self.path) from None

    def history(self) -> Iterator[Commit]:
        """Every snapshot, newest first."""
        for entry in self._open().ancestry(branch=BRANCH):
            yield Commit(entry.id, entry.written_at, entry.message, dict(entry.metadata))

    def _open(self) -> Any:
        import icechunk

        with _disk(self.path):
            if not self.path.is_dir() or not icechunk.Repository.exists(_storage(self.path)):
                raise NoCubeError(self.path)
            return icechunk.Repository.open(_storage(self.path), config=_config())


class NoCubeError(StoreError):
    """Nothing was ever ingested."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"a cube is made by ingest, but {path} holds none: run cubecast ingest first")


def _open_or_make(path: Path) -> Any:
    import icechunk

    if any(path.iterdir()) and not icechunk.Repository.exists(_storage(path)):
        msg = f"a cube has a folder of its own, but {path} holds other files: move them, or choose another workspace"
        raise StoreError(msg)
    return icechunk.Repository.open_or_create(_storage(path), config=_config())


def _sweep(repository: Any) -> None:
    """Removes writers' branches; their snapshots stay if the cube's branch has reached them."""
    for branch in repository.list_branches():
        if branch.startswith(WRITING):
            repository.delete_branch(branch)


def _storage(path: Path) -> Any:
    import icechunk

    # Icechunk warns on every open that its local storage needs one writer at a time: the lock is that writer.
    icechunk.set_logs_filter("error")
    return icechunk.local_filesystem_storage(str(path))


def _config() -> Any:
    import icechunk

    config = icechunk.RepositoryConfig.default()
    by_time: dict[Any, int] = {icechunk.ManifestSplitDimCondition.DimensionName("time"): 512}
    split = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): by_time})
    config.manifest = icechunk.ManifestConfig(splitting=split)
    return config


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Faults of the disk and of the repository as a sentence."""
    import icechunk

    try:
        yield
    except (OSError, icechunk.IcechunkError) as error:
        msg = (
            f"a cube's folder can be read and written, but {path} cannot: {_first_line(error)}. "
            "Mend its permissions, free space on its disk, or restore it where it is damaged"
        )
        raise StoreError(msg) from error


def _first_line(error: Exception) -> str:
    """Icechunk's errors go on with a trace."""
    return next((line.strip(" x\t") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _sync_filesystem(path: Path) -> None:
    """Everything written to the file system of ``path`` reaches the disk (syncfs on Linux, sync elsewhere)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)
