"""Where the published runs of a product lie, a folder of this machine or a bucket, and how one comes and goes whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pipeline import durable
from pipeline.bucket import Bucket, Location, Objects
from pipeline.errors import PublishError
from pipeline.record import KEY_LENGTH, MANIFEST
from pipeline.times import parse_time

WITHDRAWN = "withdrawn.json"
PINNED = "pinned.json"
STAGING = ".staging-"  # runs that are being made
REMOVED = ".removed-"  # runs that are gone for readers
TRIES = 20
LEFTOVERS = timedelta(hours=6)  # no command takes longer

Text = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies under the name of a run.

    Attributes:
        name: below the product's folder, like ``2020/04/01/20200401T1310Z/0123456789ab``.
        files: names of its files.
    """

    name: str
    files: frozenset[str]

    @property
    def published(self) -> bool:
        """A run that readers see; what was withdrawn is none, whatever a killed withdrawal left of its manifest."""
        return MANIFEST in self.files and not self.withdrawn

    @property
    def withdrawn(self) -> bool:
        """Readers see no run any more, only why."""
        return WITHDRAWN in self.files

    @property
    def pinned(self) -> bool:
        """Never removed."""
        return PINNED in self.files

    @property
    def day(self) -> str:
        """Of the init time, like ``2020/04/01``."""
        return self.name.rsplit("/", 2)[0]

    @property
    def init(self) -> datetime:
        """The run's init time, UTC."""
        return parse_time(self.name.split("/")[-2])

    @property
    def key(self) -> str:
        """The run key."""
        return self.name.rpartition("/")[2]


class Shelf(Protocol):
    """The runs of one product. Names are relative to the product's folder, with slashes."""

    @property
    def product(self) -> str:
        """The product's name."""
        ...

    @property
    def path(self) -> Path:
        """The product's folder; in a bucket, as programs on GDAL name it."""
        ...

    @property
    def bucket(self) -> Bucket | None:
        """Where ``path`` is, if not on this machine."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keeps other writers out where there is a lock."""
        ...

    def days(self) -> list[str]:
        """Days that have something, oldest first."""
        ...

    def entries(self, day: str) -> list[Entry]:
        """What lies under a day, by name."""
        ...

    def read(self, name: str) -> str | None:
        """What a text file says; None where there is none."""
        ...

    def update(self, name: str, text: Text) -> None:
        """Makes a text file say, in one step, what ``text`` returns; None: makes it go.

        Args:
            name: of the file.
            text: called again where another writer was faster.
        """
        ...

    def take(self, stage: Path, name: str) -> None:
        """Shows a staged run under its name, its manifest last."""
        ...

    def drop(self, entry: Entry) -> None:
        """Lets a run go: in one step for readers, its bytes afterwards."""
        ...

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Removes what killed commands left behind, if it is that old; returns it."""
        ...


def shelf_at(place: Location, product: str) -> Shelf:
    """The shelf of a product; nothing is looked at yet."""
    if isinstance(place, Bucket):
        return BucketShelf(place, product, Objects.of(place, product))
    return FolderShelf(place, product)


def named(shelf: Shelf, text: str) -> list[Entry]:
    """Runs that a text names: a run key, an init time, or a path that ends in one or both.

    Raises:
        ValueError: it is none of them.
    """
    *above, last = text.strip().rstrip("/").split("/")
    key = last if re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", last) else None
    init = parse_time(last) if key is None else _time(above[-1]) if above else None
    days = shelf.days() if init is None else [f"{init:%Y/%m/%d}"]
    found = [entry for day in days for entry in shelf.entries(day)]
    return [entry for entry in found if key in {None, entry.key} and init in {None, entry.init}]


def _time(text: str) -> datetime | None:
    with suppress(ValueError):
        return parse_time(text)
    return None


@contextmanager
def staging(root: Path, key: str) -> Iterator[Path]:
    """A hidden folder on the file system of ``root``, gone at the end unless it got a name."""
    durable.make_folders(root)
    # Not tempfile.mkdtemp: its folders are closed to every other user, and would stay so after the rename.
    stage = root / f"{STAGING}{key}-{os.getpid()}-{uuid4().hex[:8]}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_stages(root: Path, process: int) -> None:
    """Removes what a publish in a process of this machine, which has been ended, left behind."""
    for stage in root.glob(f"{STAGING}*-{process}-*"):
        shutil.rmtree(stage, ignore_errors=True)


def sweep(root: Path, older_than: timedelta, *, dry_run: bool = False) -> list[Path]:
    """Removes what publishes that died left behind; younger folders may belong to one that still runs.

    Returns:
        The removed folders.
    """
    dead = [path for path in sorted(root.glob(f"{STAGING}*")) if _older(path, older_than)]
    dead += sorted(root.glob(f"{REMOVED}*"))
    for folder in () if dry_run else dead:
        shutil.rmtree(folder, ignore_errors=True)  # another sweep may be at it
    return dead


def _older(path: Path, age: timedelta) -> bool:
    try:
        return path.stat().st_mtime < (datetime.now(UTC) - age).timestamp()
    except FileNotFoundError:  # it got its name meanwhile
        return False


@dataclass(frozen=True, slots=True)
class FolderShelf:
    """Runs in a folder of this machine: one writer at a time, every step a rename of what lies on the disk."""

    root: Path
    product: str

    @property
    def path(self) -> Path:
        """The product's folder."""
        return self.root / self.product

    @property
    def bucket(self) -> None:
        """None: it lies on this machine."""
        return

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the lock."""
        durable.make_folders(self.path)
        with durable.locked(self.path / ".lock"):
            yield

    def days(self) -> list[str]:
        """Days that have something, oldest first."""
        years = [name for name in _names(self.path) if name.isdigit()]
        months = [f"{year}/{month}" for year in years for month in _names(self.path / year)]
        return [f"{month}/{day}" for month in months for day in _names(self.path / month)]

    def entries(self, day: str) -> list[Entry]:
        """What lies under a day, by name."""
        inits = [f"{day}/{init}" for init in _names(self.path / day)]
        runs = [f"{init}/{key}" for init in inits for key in _names(self.path / init)]
        return [Entry(name, frozenset(_names(self.path / name))) for name in runs]

    def read(self, name: str) -> str | None:
        """What a text file says; None where there is none."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def update(self, name: str, text: Text) -> None:
        """Swaps, or removes, a text file in one step; a file that says it already is not touched."""
        path, new = self.path / name, text()
        if new == self.read(name):
            return
        if new is None:
            path.unlink()
            durable.sync(path.parent)
        else:
            durable.replace_text(path, new)

    def take(self, stage: Path, name: str) -> None:
        """Shows a staged run by one rename."""
        folder = self.path / name
        if folder.exists():  # it lost its manifest: not a run any more
            folder.rename(self._hidden(name))
        durable.move_folder(stage, folder)

    def drop(self, entry: Entry) -> None:
        """Hides a run by one rename; ``sweep`` removes its bytes, and the folders that it leaves empty."""
        folder = self.path / entry.name
        folder.rename(self._hidden(entry.name))
        durable.sync(folder.parent)

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Removes leftovers: stages, hidden runs, texts that were written aside; and folders without a run."""
        with self.alone():
            texts = [path for path in sorted(self.path.rglob(".*.json.*")) if _older(path, older_than)]
            if not dry_run:
                for path in texts:
                    path.unlink()
                self._prune()
        return [str(path) for path in [*sweep(self.root, older_than, dry_run=dry_run), *texts]]

    def _prune(self) -> None:
        for level in ("*/*/*/*", "*/*/*", "*/*", "*"):  # init time, day, month, year
            for folder in self.path.glob(level):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _hidden(self, name: str) -> Path:
        return self.root / f"{REMOVED}{name.rpartition('/')[2]}-{uuid4().hex[:8]}"


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where it is none, or gone meanwhile."""
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True, slots=True)
class BucketShelf:
    """Runs in a bucket: no lock and no rename, so manifests come last and go first, and puts have conditions."""

    bucket: Bucket
    product: str
    objects: Objects

    @property
    def path(self) -> Path:
        """The product's folder as programs on GDAL name it."""
        return self.bucket.path / self.product

    def alone(self) -> AbstractContextManager[None]:
        """Nothing: a put fails where another writer was faster."""
        return nullcontext()

    def days(self) -> list[str]:
        """Days that have something, oldest first."""
        years = [name for name in self.objects.folders("") if name.isdigit()]
        months = [f"{year}/{month}" for year in years for month in self.objects.folders(year)]
        return [f"{month}/{day}" for month in months for day in self.objects.folders(month)]

    def entries(self, day: str) -> list[Entry]:
        """What lies under a day, by name."""
        return [entry for entry, _ in self._dated(day)]

    def read(self, name: str) -> str | None:
        """What a text file says; None where there is none."""
        return self.objects.text(name)

    def update(self, name: str, text: Text) -> None:
        """Replaces, or removes, a text file on the condition that no other writer did meanwhile.

        Raises:
            PublishError: 20 times in a row another writer was faster.
        """
        for _ in range(TRIES):
            version = self.objects.version(name)
            new = text()
            if version is None and new is None:
                return
            if new is None:
                self.objects.remove([name])  # S3 knows no conditional removal: looked at again in the next turn
            elif self.read(name) == new or self.objects.put(name, new, version):
                return
        msg = f"a put succeeds in the end, but {TRIES} times another writer of {self.bucket} was faster: try again"
        raise PublishError(msg)

    def take(self, stage: Path, name: str) -> None:
        """Uploads a staged run, its manifest last."""
        manifest = stage / MANIFEST
        self.objects.upload((path for path in stage.iterdir() if path != manifest), name)
        self.objects.put(f"{name}/{MANIFEST}", manifest.read_text(encoding="utf-8"), None)

    def drop(self, entry: Entry) -> None:
        """Removes a run, its manifest first; what tells of its withdrawal stays until all is gone."""
        self.objects.remove([f"{entry.name}/{MANIFEST}"])
        self.objects.remove(f"{entry.name}/{file}" for file in sorted(entry.files - {MANIFEST, WITHDRAWN}))
        self.objects.remove([f"{entry.name}/{WITHDRAWN}"])

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Removes runs without a manifest."""
        limit = datetime.now(UTC) - older_than
        found = [one for day in self.days() for one in self._dated(day)]
        dead = [entry for entry, changed in found if not {MANIFEST, WITHDRAWN} & entry.files and changed < limit]
        for entry in () if dry_run else dead:
            self.drop(entry)
        return [f"{self.bucket}/{self.product}/{entry.name}" for entry in dead]

    def _dated(self, day: str) -> list[tuple[Entry, datetime]]:
        """What lies under a day, by name, and when the newest of its files was written."""
        files = sorted((name.rsplit("/", 1), time) for name, time in self.objects.changes(day).items())
        inside = [(folder, file, time) for (folder, file), time in files if folder.count("/") == 4]
        groups = [(name, [*group]) for name, group in groupby(inside, key=lambda one: one[0])]
        return [
            (Entry(name, frozenset(file for _, file, _ in group)), max(time for _, _, time in group))
            for name, group in groups
        ]
