"""Where scenes come from: a folder here or beyond this machine, whose files are copied aside whole or not at all."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pipeline.errors import CubecastError, SceneError, ServiceError, StoreError
from pipeline.folders import Folder, LocalFolder, Reader, folder_at, spoken
from pipeline.ledger import FileKey
from pipeline.scene import Staged, mask_path
from pipeline.specs import MaskSpec, SceneSpec

BLOCK = 4 << 20  # bytes; blocks of 64 KiB cost a fifth more, larger ones gain nothing
LONGEST_PAUSE = 600.0  # seconds between looks at an inbox that does not answer
NAP = 0.2  # seconds until an order to stop is heard


@dataclass(frozen=True, slots=True)
class Inbox:
    """Scene files, and the masks that may lie beside them.

    Attributes:
        scenes: where the scenes come from.
        masks: where their masks do; None where the product has none.
        mask_spec: how a mask's name follows from its scene's.
    """

    scenes: Files
    masks: Files | None
    mask_spec: MaskSpec | None

    def files(self) -> list[FileKey]:
        """Files whose names match the pattern, by name; links, folders, devices and hidden files are left out.

        Raises:
            CubecastError: the folder does not exist.
            ServiceError: the storage does not answer.
        """
        self.mask_files()  # a mask as young as its scene settles together with it
        return self.scenes.listing()

    def mask_files(self) -> list[FileKey]:
        """Masks that are there, by name."""
        with suppress(CubecastError):  # masks that are missing are told scene by scene
            return self.masks.listing() if self.masks else []
        return []

    def look(self, name: str) -> FileKey:
        """The version of a file that lies in the inbox now.

        Raises:
            SceneError: ``unavailable`` or ``bad-name``.
        """
        return self.scenes.look(name)

    def fetch(self, key: FileKey, folder: Path) -> Staged:
        """Copies a file into ``folder``, under a name of our own, and hashes it on the way.

        Raises:
            SceneError: ``unstable``, it is not the version of ``key`` any more; ``unavailable``, it cannot be read;
                ``bad-name``, its name cannot be written down; ``too-large``, no space could ever hold it.
            StoreError: the copy cannot be written.
        """
        return self.scenes.fetch(key, folder)

    def mask(self, scene: str, folder: Path) -> Path | None:
        """A private copy, in ``folder``, of the mask that belongs to a scene; None where the product has no masks.

        Raises:
            SceneError: ``no-mask``, or the faults of :meth:`fetch`.
        """
        if self.masks is None or self.mask_spec is None:
            return None
        name = mask_path(Path(scene), self.mask_spec).name
        try:
            key = self.masks.look(name)
        except SceneError:
            detail = f"the mask {name} is not there (yet), or no regular file; the scene is tried again at next ingest"
            raise SceneError("no-mask", detail) from None
        return self.masks.fetch(key, folder).path


def open_inbox(spec: SceneSpec) -> Inbox:
    """The inbox of a product; nothing is looked at yet.

    Raises:
        ConfigError: ``scenes.url`` names a storage that is not known here.
    """
    settle = spec.settle.total_seconds()
    masks = Files(LocalFolder(spec.mask.folder), re.compile(translate("*")), settle) if spec.mask else None
    folder = folder_at(spec.url) if spec.url else LocalFolder(spec.folder)
    hidden = "" if spec.glob.startswith(".") else r"(?!\.)"  # the half-written and ._ files of copying programs
    return Inbox(Files(folder, re.compile(hidden + translate(spec.glob)), settle), masks, spec.mask)


def watch(
    inbox: Inbox,
    every: float,
    stop: Callable[[], bool],
    *,
    at_least: float = LONGEST_PAUSE,
    failed: Callable[[ServiceError], None] | None = None,
) -> Iterator[None]:
    """Yields once at the start and whenever the inbox's scenes or masks changed, until ``stop()``.

    Looking again and again works on every file system and storage; notices of the kernel do not cross a network.

    Args:
        inbox: what is watched.
        every: seconds between two looks; longer and longer while the storage does not answer.
        stop: whether to end, asked at least twice a second.
        at_least: seconds after which it yields without a change too: files may wait for something else.
        failed: told each time that the storage did not answer.

    Raises:
        CubecastError: the folder does not exist.
    """
    seen, due = None, 0.0
    for found in _looks(inbox, every, stop, failed):
        if found != seen or time.monotonic() >= due:
            seen = found
            yield
            due = time.monotonic() + at_least


def _looks(
    inbox: Inbox, every: float, stop: Callable[[], bool], failed: Callable[[ServiceError], None] | None
) -> Iterator[tuple[list[FileKey], list[FileKey]]]:
    pause = every
    while not stop():
        try:
            found = inbox.scenes.listing(), inbox.mask_files()
        except ServiceError as error:
            pause = min(2 * pause, max(every, LONGEST_PAUSE))
            if failed is not None:
                failed(error)
        else:
            pause = every
            yield found
        _sleep(pause, stop)


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stop():
        time.sleep(min(left, NAP))


# Copying aside


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a folder that match a pattern; a young one is looked at twice before it is copied.

    Attributes:
        folder: where they lie.
        pattern: what their names match.
        settle: seconds; a file that changed later than this ago is young, and one from the future too.
        first_looks: when each young file was first seen in this state, on the monotonic clock: files that were listed
            together wait together.
    """

    folder: Folder
    pattern: re.Pattern[str]
    settle: float
    first_looks: dict[FileKey, float] = field(default_factory=dict, compare=False, repr=False)

    def listing(self) -> list[FileKey]:
        """The files that are there, by name."""
        found = sorted(self.folder.listing(self.pattern), key=lambda key: key.name)
        now = time.monotonic()
        young = {key: self.first_looks.get(key, now) for key in found if self._is_young(key)}
        self.first_looks.clear()
        self.first_looks.update(young)
        return found

    def look(self, name: str) -> FileKey:
        """The version of a file that lies there now."""
        key = self.folder.look(spoken(name))
        if self._is_young(key):
            self.first_looks.setdefault(key, time.monotonic())
        return key

    def fetch(self, key: FileKey, folder: Path) -> Staged:
        """Copies a file aside and hashes it on the way: exactly the version of ``key``, or not at all."""
        name = spoken(key.name)
        self._wait(key)
        with _aside(folder, key) as target, self.folder.reading(name) as reader:
            _expect(key, reader.version())
            digest = _copy(reader, target, key)
            _expect(key, reader.version())
        return Staged(Path(key.name), Path(target.name), digest)

    def _is_young(self, key: FileKey) -> bool:
        return key.modified_ns > time.time_ns() - self.settle * 1e9

    def _wait(self, key: FileKey) -> None:
        first = self.first_looks.get(key)
        if first is None and self._is_young(key):
            first = self.first_looks.setdefault(key, time.monotonic())
        if first is not None:
            time.sleep(max(0.0, first + self.settle - time.monotonic()))


def _expect(key: FileKey, found: FileKey) -> None:
    if found != key:
        later = (found.modified_ns - key.modified_ns) / 1e9
        grown = f"it has {found.size} bytes instead of {key.size}, modified {later:.3f} s later"
        raise SceneError("unstable", f"{key.name} changed after it was seen: {grown}; it is tried again at next ingest")


@contextmanager
def _aside(folder: Path, key: FileKey) -> Iterator[BinaryIO]:
    """A new file in ``folder`` with room for the one of ``key``; a fault on the way takes it away again."""
    path = folder / f"{uuid4().hex}.tif"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, key)
        with path.open("xb") as file:
            yield file
    except BaseException as fault:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if isinstance(fault, OSError):
            msg = f"a scene is copied aside before it is read, but {folder} cannot take it: {fault}. Free space there"
            raise StoreError(msg) from None
        raise


def _check_room(folder: Path, key: FileKey) -> None:
    """Refuses before the disk is full, which would break others; a hole of 100 TB is one command away."""
    disk = shutil.disk_usage(folder)
    if key.size > disk.total:
        raise SceneError("too-large", f"{key.name} has {key.size} bytes, the disk of {folder} has {disk.total} in all")
    if key.size > disk.free:
        raise OSError(f"{key.name} has {key.size} bytes, {disk.free} are free")


def _copy(reader: Reader, target: BinaryIO, key: FileKey) -> str:
    """Copies as many bytes as the file had when it was seen, and not one that came later; their SHA-256."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(key.size, BLOCK)))
    left = key.size
    while left and (count := reader.readinto(buffer[:left])):
        digest.update(buffer[:count])
        target.write(buffer[:count])
        left -= count
    if left:
        raise SceneError("unstable", f"{key.name} ends {left} bytes too early; it is tried again at the next ingest")
    return digest.hexdigest()
