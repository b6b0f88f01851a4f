"""One writer's work on a cube: written aside, shared out to other processes, and made a snapshot in one step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr

from pipeline.bucket import Location
from pipeline.chunkio import tune
from pipeline.errors import StoreError
from pipeline.repository import BRANCH, new_branch, point, trouble

SETTLED = "cubecast:settled"  # marks a snapshot that was never meant to be seen


class ConflictError(StoreError):
    """Another writer's commit came first; the change must be made again on the new tip."""

    def __init__(self, location: Location) -> None:
        super().__init__(
            f"a commit follows the newest snapshot, but another writer of {location} was faster: run the command again"
        )


class Fork:
    """One worker's part of a transaction; it is pickled to another process, written to there, and pickled back."""

    def __init__(self, session: Any, location: Location) -> None:
        """Wraps a forked Icechunk session."""
        self._session = session
        self._location = location

    @property
    def group(self) -> zarr.Group:
        """The root group as it was settled, writable; other forks' work is not seen."""
        tune()
        with trouble(self._location):
            return zarr.open_group(self._session.store, mode="a")


class Transaction:
    """One writer's uncommitted work; it becomes a snapshot as a whole or not at all."""

    def __init__(self, repository: Any, location: Location) -> None:
        """Starts at the newest snapshot of the Icechunk repository; on a local disk the caller holds its lock."""
        self._repository = repository
        self._location = location
        self._branch = ""
        self._begin()

    def _begin(self) -> None:
        self._forked = 0
        self._session = self._repository.writable_session(BRANCH)
        self._base = self._session.snapshot_id

    @property
    def group(self) -> zarr.Group:
        """The root group, writable until the work is settled or committed; then ask for it again."""
        tune()
        return zarr.open_group(self._session.store, mode="a")

    def discard(self) -> None:
        """Forgets everything written since the last commit, settled or not."""
        if self._branch or self._forked:
            self.close()
            self._begin()
        else:
            self._session.discard_changes()

    def settle(self) -> None:
        """Makes what was written so far what the forks start from; nobody else sees it before the commit.

        Raises:
            StoreError: forks are not merged yet.
        """
        self._check_merged()
        if not self._session.has_uncommitted_changes:
            return
        snapshot = self._session.flush("settled", metadata={SETTLED: True})
        if self._branch:
            self._repository.reset_branch(self._branch, snapshot)
        else:
            self._branch = new_branch(self._repository, snapshot)
        self._session = self._repository.writable_session(self._branch)

    def fork(self) -> Fork:
        """One worker's part; what was written so far is settled first. Make all forks, then merge all, then go on.

        Forks may write the same arrays, each its own chunks: of two that write one chunk, the one merged last wins.
        """
        if self._session.has_uncommitted_changes:
            self.settle()
        self._forked += 1
        return Fork(self._session.fork(), self._location)

    def merge(self, forks: Iterable[Fork]) -> None:
        """Takes in what the forks wrote, as they came back from their processes."""
        for fork in forks:
            self._session.merge(fork._session)  # noqa: SLF001 - a fork is a part of its transaction
            self._forked -= 1

    def commit(self, message: str, metadata: dict[str, Any]) -> str:
        """Makes the work a snapshot, durable against a power cut, and returns its id.

        Icechunk never calls fsync; a branch that reaches the disk before its snapshot does is unreadable (4 of 12 cut
        repositories). So the snapshot is on the disk before the cube's branch points to it.

        Raises:
            ConflictError: another writer's commit came first; in a bucket only.
            StoreError: forks are not merged.
        """
        self._check_merged()
        if self._branch and not self._session.has_uncommitted_changes:
            self._touch()
        snapshot = str(self._session.flush(message, metadata=metadata))
        if isinstance(self._location, Path):
            self._publish_in_folder(self._location, snapshot)
        else:
            self._publish_in_bucket(snapshot)
        self.close()
        self._begin()
        return snapshot

    def close(self) -> None:
        """Removes the branch that held settled work; where that fails it is swept later."""
        import icechunk

        if self._branch:
            with suppress(icechunk.IcechunkError):
                self._repository.delete_branch(self._branch)
            self._branch = ""

    def _publish_in_folder(self, folder: Path, snapshot: str) -> None:
        if self._repository.lookup_branch(BRANCH) != self._base:  # somebody wrote without the lock
            raise ConflictError(folder)
        point(self._repository, folder, f"branch.{BRANCH}", snapshot)

    def _publish_in_bucket(self, snapshot: str) -> None:
        """Moves the cube's branch from the snapshot that the work started at, by a conditional put."""
        import icechunk

        try:
            self._repository.reset_branch(BRANCH, snapshot, from_snapshot_id=self._base)
        except icechunk.IcechunkError:
            if self._reached(snapshot):  # the answer to the put was lost, not the put
                return
            if self._repository.lookup_branch(BRANCH) != self._base:
                raise ConflictError(self._location) from None
            raise

    def _reached(self, snapshot: str) -> bool:
        for entry in self._repository.ancestry(branch=BRANCH):
            if entry.id in (snapshot, self._base):
                return entry.id == snapshot
        return False

    def _touch(self) -> None:
        """A change that changes nothing, since Icechunk makes no snapshot without one."""
        self.group.attrs[SETTLED] = True
        del self.group.attrs[SETTLED]

    def _check_merged(self) -> None:
        if self._forked:
            msg = (
                f"forks are merged before their work is settled or committed, but {self._forked} of {self._location} "
                "are out: merge them, or discard the transaction"
            )
            raise StoreError(msg)
