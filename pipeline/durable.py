"""What outlives a crash: files and folders that are on the disk before they get their names; one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process or thread holds the lock file ``path``; a dead holder's lock is free at once."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """The file's bytes, or the folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """A folder without subfolders and all its files reach the disk."""
    for path in sorted(folder.iterdir()):
        sync(path)
    sync(folder)


def make_folders(folder: Path) -> None:
    """Makes a folder and the missing ones above it, each on the disk before the next."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def move_folder(source: Path, target: Path) -> None:
    """Gives a synced folder its final name in one step; both on one file system.

    Raises:
        OSError: something lies at ``target``.
    """
    make_folders(target.parent)
    source.rename(target)
    sync(target.parent)


def replace_text(path: Path, text: str) -> None:
    """Swaps a text file in one step: a reader sees the old one or the new one, whole."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Swaps a file in one step, as :func:`replace_text`."""
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        aside.write_bytes(content)
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)
