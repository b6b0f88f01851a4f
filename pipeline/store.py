"""The durable, versioned home of a cube: every commit a snapshot that stays readable, none lost to another writer."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import zarr
from zarr.errors import GroupNotFoundError

from pipeline.bucket import Bucket, Location
from pipeline.chunkio import tune
from pipeline.durable import locked
from pipeline.errors import NoCubeError, StoreError
from pipeline.filesystem import check_local
from pipeline.repository import (
    BRANCH,
    MANIFEST_SLOTS,
    make_repository,
    open_repository,
    point,
    reason,
    sweep_folder,
    sync,
    trouble,
)
from pipeline.specs import StoreSpec
from pipeline.transaction import SETTLED, ConflictError, Fork, Transaction

__all__ = ["BRANCH", "Bucket", "Commit", "ConflictError", "CubeStore", "Fork", "NoCubeError", "Transaction"]

NOT_THERE = re.compile("NoSuchKey|invalid snapshot id")  # as S3 and Icechunk say it; "not found" may be a host
TRIES = 20
LONGEST_PAUSE = 2.0  # s

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Commit:
    """One snapshot of the cube's history."""

    snapshot: str
    written_at: datetime
    message: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CubeStore:
    """An Icechunk repository in a folder of a local disk, or in a bucket.

    >>> str(CubeStore.of(StoreSpec(url="s3://weather/hrv"), Path("work/hrv/cube")))
    's3://weather/hrv'
    """

    location: Location

    @classmethod
    def of(cls, spec: StoreSpec, folder: Path) -> CubeStore:
        """The store that the configuration names; ``folder`` where it names none."""
        return cls(Bucket(spec.url, spec.endpoint, spec.region) if spec.url else folder)

    def __str__(self) -> str:
        return str(self.location)

    def exists(self) -> bool:
        """Whether a cube was ever committed here."""
        try:
            self.group()
        except NoCubeError:
            return False
        return True

    @contextmanager
    def writer(self, *, manifest_slots: int = MANIFEST_SLOTS) -> Iterator[Transaction]:
        """A writer; makes the repository where there is none. On a local disk it is the only one, others wait.

        Concurrent commits to a local repository lose acknowledged ones (74 of 240 measured), hence the lock. In a
        bucket each commit is a conditional put: of two writers one gets a ConflictError.

        Args:
            manifest_slots: chunks along ``time`` that share one manifest; what a repository was made with stays.

        Raises:
            StoreError: the folder holds something else or is no local one, or the disk or the server does not take
                the work.
        """
        with self.alone(manifest_slots=manifest_slots) as repository:
            transaction = Transaction(repository, self.location)
            try:
                yield transaction
            finally:
                transaction.close()

    def update(self, change: Callable[[Transaction], T], *, manifest_slots: int = MANIFEST_SLOTS) -> T:
        """What ``change`` returns; it reads, writes and commits, and is called again when another writer was faster.

        Args:
            change: starts from what the transaction's group holds, so that a second call sees the other's commit.
            manifest_slots: see ``writer``.

        Raises:
            ConflictError: 20 times in a row another writer was faster.
        """
        for attempt in range(1, TRIES + 1):
            try:
                with self.writer(manifest_slots=manifest_slots) as transaction:
                    return change(transaction)
            except ConflictError:
                if attempt == TRIES:
                    raise
            time.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.05 * 2**attempt)))
        raise AssertionError

    @contextmanager
    def alone(self, *, manifest_slots: int | None = None) -> Iterator[Any]:
        """The Icechunk repository under the writers' lock, where there is one; for what is no commit of data.

        Args:
            manifest_slots: makes the repository where there is none.

        Raises:
            StoreError: no cube, a folder that is no local one, or the disk or server fails.
        """
        with trouble(self.location), self._lock():
            if manifest_slots is None:
                repository = open_repository(self.location)
            else:
                repository = make_repository(self.location, manifest_slots)
            if isinstance(self.location, Path):
                sweep_folder(self.location)
            yield repository

    def tip(self) -> str:
        """Id of the newest snapshot.

        Raises:
            StoreError: no cube.
        """
        with trouble(self.location):
            return str(self._open().lookup_branch(BRANCH))

    def group(self, snapshot: str | None = None) -> zarr.Group:
        """The root group at a snapshot's id (default: the newest), read-only.

        Raises:
            StoreError: no such cube or snapshot.
        """
        tune()
        repository = self._open()
        snapshot = snapshot or str(repository.lookup_branch(BRANCH))
        self._check_known(repository, snapshot)  # a session of an unknown one looks like an empty cube
        with trouble(self.location):
            try:
                return zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r")
            except GroupNotFoundError:
                raise NoCubeError(self.location) from None

    def history(self) -> Iterator[Commit]:
        """Every snapshot, newest first; of expired ones nothing is left."""
        with trouble(self.location):
            for entry in self._open().ancestry(branch=BRANCH):
                if SETTLED not in entry.metadata:
                    yield Commit(entry.id, entry.written_at, entry.message, dict(entry.metadata))

    def tags(self) -> dict[str, str]:
        """Names of snapshots that never expire, and the snapshots' ids."""
        repository = self._open()
        with trouble(self.location):
            return {name: str(repository.lookup_tag(name)) for name in sorted(repository.list_tags())}

    def tag(self, name: str, snapshot: str | None = None) -> str:
        """Gives a snapshot (default: the newest) a name that keeps it from expiring, and returns its id.

        Raises:
            StoreError: a bad name, one that another snapshot has or a removed tag had, or no such snapshot.
        """
        _check_name(name)
        with self.alone() as repository:
            snapshot = self._check_known(repository, snapshot or str(repository.lookup_branch(BRANCH)))
            named = self.tags().get(name, snapshot)
            if named != snapshot:
                msg = f"a tag names one snapshot for good, but {name} of {self} names {named}: choose another name"
                raise StoreError(msg)
            if name not in self.tags():
                self._make_tag(repository, name, snapshot)
            return snapshot

    def untag(self, name: str) -> None:
        """Lets the snapshot of a tag expire; the name is never given again.

        Raises:
            StoreError: no such tag.
        """
        with self.alone() as repository:
            if name not in repository.list_tags():
                msg = f"{self} has no tag {name!r}; it has {', '.join(self.tags()) or 'none'}"
                raise StoreError(msg)
            repository.delete_tag(name)
            sync(self.location)

    def resolve(self, ref: str) -> str:
        """Id of the snapshot that a tag's name or an id stands for.

        Raises:
            StoreError: neither.
        """
        repository = self._open()
        with trouble(self.location):
            if ref in repository.list_tags():
                return str(repository.lookup_tag(ref))
        return self._check_known(repository, ref)

    def _make_tag(self, repository: Any, name: str, snapshot: str) -> None:
        import icechunk

        try:
            if isinstance(self.location, Path) and not (self.location / "refs" / f"tag.{name}" / "ref.json").exists():
                point(repository, self.location, f"tag.{name}", snapshot)
            else:
                repository.create_tag(name, snapshot)
        except icechunk.IcechunkError as error:
            if "already exists" not in str(error):
                raise
            msg = f"a removed tag's name is not given again, but {self} had {name} once: choose another name"
            raise StoreError(msg) from None

    def _check_known(self, repository: Any, snapshot: str) -> str:
        import icechunk

        try:
            return str(repository.lookup_snapshot(snapshot).id)
        except (icechunk.IcechunkError, ValueError) as error:
            with trouble(self.location):
                if isinstance(self.location, Bucket) and not NOT_THERE.search(str(error)):
                    raise  # a bucket that does not answer says nothing about the snapshot
            msg = f"{self} has no snapshot {snapshot}: it was expired, or belongs to another product ({reason(error)})"
            raise StoreError(msg) from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if isinstance(self.location, Bucket):
            yield
            return
        check_local(self.location)
        self.location.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.location.with_suffix(".lock")):
            yield

    def _open(self) -> Any:
        return open_repository(self.location)


def _check_name(name: str) -> None:
    """A tag's name is a part of a path and of messages, and never looks like an id."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or re.fullmatch(r"[0-9A-Z]{20}", name):
        msg = (
            f"a tag's name is up to 64 letters, digits, dots, hyphens and underscores, and no snapshot's id, but found "
            f"{name!r}: choose another name"
        )
        raise StoreError(msg)
