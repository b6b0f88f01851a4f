"""What keeps a cube's repository small and safe: snapshots expire, what nobody needs is deleted, the rest is copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.bucket import Bucket
from pipeline.durable import make_folders, sync
from pipeline.errors import NoCubeError, StoreError
from pipeline.filesystem import sync_filesystem
from pipeline.repository import BRANCH, open_repository, sweep_bucket, trouble
from pipeline.store import CubeStore

# A writer's chunks belong to no snapshot until it commits: deleted under it they leave a snapshot with holes.
FLOOR = timedelta(days=7)

FIRST = "1CECHNKREP0F1RSTCMT0"  # every Icechunk repository starts with this snapshot; only its time differs
PART = ".part"


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What an expiry or a collection took away, or would."""

    expired: int = 0  # snapshots that are no history any more; collecting deletes them
    snapshots: int = 0
    manifests: int = 0
    chunks: int = 0
    size: int = 0  # bytes


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup brought to its folder; the rest was there."""

    snapshot: str  # the newest, also in the copy
    files: int
    size: int  # bytes


def expire(store: CubeStore, older_than: datetime, *, floor: timedelta = FLOOR) -> Cleanup:
    """Takes old snapshots out of the history; the newest and those with a tag stay, and their data.

    Args:
        store: a cube.
        older_than: aware; snapshots written before it expire.
        floor: least age of what may expire.

    Raises:
        StoreError: no cube, or a time too near.
    """
    _check_age(older_than, floor)
    with store.alone() as repository:
        tagged = {str(repository.lookup_tag(name)) for name in repository.list_tags()}
        if isinstance(store.location, Path):
            expired = _expire_aside(store.location, older_than)
        else:
            sweep_bucket(repository, older_than)
            expired = repository.expire_snapshots(older_than)
        return Cleanup(expired=len(expired - tagged - {str(repository.lookup_branch(BRANCH))}))


def collect(store: CubeStore, older_than: datetime, *, dry_run: bool = False, floor: timedelta = FLOOR) -> Cleanup:
    """Deletes what no snapshot of the history and no tag reaches.

    Args:
        store: a cube.
        older_than: aware; what was written before it may go.
        dry_run: counts only.
        floor: least age of what may go.

    Raises:
        StoreError: no cube, or a time too near.
    """
    _check_age(older_than, floor)
    with store.alone() as repository:
        gone = repository.garbage_collect(older_than, dry_run=dry_run)
        if not dry_run and isinstance(store.location, Path):
            _remove_unfinished(store.location, older_than)
    return Cleanup(0, gone.snapshots_deleted, gone.manifests_deleted, gone.chunks_deleted, gone.bytes_deleted)


def backup(store: CubeStore, target: Path) -> Copied:
    """Makes ``target`` a repository that holds what the cube holds; what it has from last time is not copied again.

    Everything that snapshots point to is on the target's disk before the branch and the tags are, so that a backup cut
    short leaves the last one. Writers wait only for what came while the bulk was copied. Nothing is deleted from the
    target but tags that the cube has no more; collect it like a cube.

    Raises:
        StoreError: no local cube, a target that holds something else, or a disk that fails.
    """
    source = _local(store)
    with trouble(target):
        _check_target(source, target)
        target.mkdir(parents=True, exist_ok=True)
        for part in target.glob(f"*/*{PART}"):
            part.unlink()
        before = _copy_data(source, target, tuple(_new(source, target)))
        with store.alone() as repository:
            after = _copy_data(source, target, tuple(_new(source, target)))
            _copy_refs(source, target)
            tip = str(repository.lookup_branch(BRANCH))
        copied = (*before, *after)
    if CubeStore(target).tip() != tip:
        msg = f"a backup ends at the cube's newest snapshot, but {target} does not end at {tip}: make it again"
        raise StoreError(msg)
    return Copied(tip, len(copied), sum(copied))


def _check_age(older_than: datetime, floor: timedelta) -> None:
    if older_than > datetime.now(UTC) - floor:
        msg = (
            f"a snapshot keeps for at least {floor / timedelta(days=1):g} days, for writers and readers still at work, "
            f"but everything before {older_than:%Y-%m-%d %H:%M}Z was to go: choose an earlier time"
        )
        raise StoreError(msg)


def _expire_aside(folder: Path, older_than: datetime) -> set[str]:
    """Expires in a copy made of links, so that the snapshots written again are on the disk before they get their place.

    Icechunk gives the oldest snapshot that stays, maybe the newest of all, a new parent in place and never calls fsync.
    """
    aside = folder.with_name(f".{folder.name}.expiring")
    shutil.rmtree(aside, ignore_errors=True)
    for part in ("snapshots", "refs"):
        shutil.copytree(folder / part, aside / part, copy_function=os.link)
    shutil.copy2(folder / "config.yaml", aside)
    expired = open_repository(aside).expire_snapshots(older_than)
    sync_filesystem(aside)
    for path in (aside / "snapshots").iterdir():
        if not path.samefile(folder / "snapshots" / path.name):
            path.replace(folder / "snapshots" / path.name)
    sync_filesystem(folder)
    shutil.rmtree(aside)
    return expired


def _remove_unfinished(folder: Path, older_than: datetime) -> None:
    """Files that a killed writer had not yet given their names: Icechunk writes to ``name#1`` and renames."""
    for path in folder.glob("*/*#*"):
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < older_than:
            path.unlink()


def _local(store: CubeStore) -> Path:
    if isinstance(store.location, Bucket):
        msg = (
            f"a backup copies a cube on a local disk, but {store} is a bucket: let the server replicate it, or run "
            "cubecast export"
        )
        raise StoreError(msg)
    open_repository(store.location)
    return store.location


def _check_target(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        msg = f"a backup lies outside its cube, but {target} and {source} share a folder: choose another folder"
        raise StoreError(msg)
    if not target.exists() or not any(target.iterdir()):
        return
    known = {path.name for path in source.iterdir()}
    if {path.name for path in target.iterdir()} - known or _started(target) not in (None, _started(source)):
        msg = f"a backup has a folder of its own, but {target} holds other files: choose an empty folder"
        raise StoreError(msg)


def _started(folder: Path) -> datetime | None:
    """When a repository was made, which tells it from all others; none for a backup cut short."""
    import icechunk

    with suppress(NoCubeError, icechunk.IcechunkError):
        return open_repository(folder).lookup_snapshot(FIRST).written_at
    return None


def _new(source: Path, target: Path) -> Iterator[Path]:
    """Names of the data files that the target lacks. Only snapshots are ever written again, when others expire."""
    for path in source.glob("*/*"):
        name = path.relative_to(source)
        if name.parts[0] != "refs" and "#" not in path.name and not _same(path, target / name):
            yield name


def _same(path: Path, copy: Path) -> bool:
    with suppress(FileNotFoundError):
        here, there = path.stat(), copy.stat()
        mended = path.parent.name == "snapshots" and here.st_mtime_ns != there.st_mtime_ns
        return here.st_size == there.st_size and not mended
    return False


def _copy_data(source: Path, target: Path, names: tuple[Path, ...]) -> list[int]:
    """Copies files under other names, and gives them theirs when all are on the disk; returns their sizes (bytes)."""
    for name in names:
        (target / name).parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # collected since it was listed
            shutil.copy2(source / name, _part(target / name))
    sync_filesystem(target)
    parts = [_part(target / name) for name in names if _part(target / name).exists()]
    for part in parts:
        part.replace(part.with_name(part.name.removesuffix(PART)))
    sync_filesystem(target)
    return [part.with_name(part.name.removesuffix(PART)).stat().st_size for part in parts]


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _copy_refs(source: Path, target: Path) -> None:
    """The configuration, the tags and last the branches, each swapped in one step; and none that the source lacks."""
    names = [path.relative_to(source) for path in sorted(source.glob("refs/*/*"), reverse=True)]  # tags, then branches
    for name in (Path("config.yaml"), *names):
        make_folders((target / name).parent)
        part = _part(target / name)
        shutil.copy2(source / name, part)
        sync(part)
        part.replace(target / name)
        sync((target / name).parent)
    for path in target.glob("refs/*/*"):
        if path.relative_to(target) not in names:
            path.unlink()
    sync_filesystem(target)
