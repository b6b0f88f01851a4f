"""Where files lie: a folder of this machine, or one of a storage beyond it."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import ConfigError, CubecastError, SceneError, ServiceError
from pipeline.ledger import FileKey

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

REMOTE_BLOCK = 16 << 20  # bytes a request: the way to the server costs as much as some MB
LARGEST = 2**63 - 1  # of SQLite's integers
# What no name of a scene has, for it would break a record, a screen or a path; bytes that are no UTF-8 are surrogates.
UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\/\ud800-\udfff]")
# Where the storages of fsspec say when a file changed (S3, Azure, Google, SFTP, memory).
TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Folder(Protocol):
    """Files that lie side by side, here or elsewhere."""

    def listing(self, pattern: re.Pattern[str]) -> list[FileKey]:
        """Files whose names match, in any order.

        Raises:
            CubecastError: there is no such folder.
            ServiceError: it does not answer; it may later.
        """
        ...

    def look(self, name: str) -> FileKey:
        """The version of a file that lies there now.

        Raises:
            SceneError: ``unavailable``.
        """
        ...

    def reading(self, name: str) -> AbstractContextManager[Reader]:
        """Opens a file; each fault of it is a SceneError ``unavailable``."""
        ...


def folder_at(url: str) -> Folder:
    """The folder at an address that fsspec knows; nothing is asked yet.

    Raises:
        ConfigError: no storage of that name.
    """
    scheme, _, path = url.partition("://")
    return LocalFolder(Path(path)) if scheme in {"file", "local"} else RemoteFolder.of(url)


def spoken(name: str) -> str:
    """The name, if it can be said.

    Raises:
        SceneError: ``bad-name``.
    """
    if UNSPEAKABLE.search(name):
        rule = "a scene's name is UTF-8 text without control characters, slashes and backslashes"
        raise SceneError("bad-name", f"{rule}, found {_escaped(name)}: rename it")
    return name


def _escaped(name: str) -> str:
    """A name that can be written down; one that cannot gets a backslash, by which it is refused."""
    return name.encode("unicode_escape").decode("ascii") if UNSPEAKABLE.search(name) else name


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """Regular files of a folder of this machine."""

    root: Path

    def listing(self, pattern: re.Pattern[str]) -> list[FileKey]:
        """Files whose names match."""
        try:
            with os.scandir(self.root) as entries:
                found = [_regular(entry) for entry in entries if pattern.match(entry.name)]
        except OSError as error:
            rule = "scenes.folder is a folder of GeoTIFF scenes"
            msg = f"{rule}, found none at {self.root} ({error.strerror}): mend the configuration"
            raise CubecastError(msg) from None
        return [key for key in found if key is not None]

    def look(self, name: str) -> FileKey:
        """The version of a file that lies there now."""
        with _readable(name):
            return _local_key(name, (self.root / name).lstat())

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Opens a file, but no link; a pipe or a device neither blocks nor is read."""
        with _readable(name):
            stream = io.FileIO(self.root / name, opener=_open_itself)
        with stream:
            yield Reader(name, stream, lambda: _local_key(name, os.fstat(stream.fileno())))


def _regular(entry: os.DirEntry[str]) -> FileKey | None:
    try:
        if entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            return _key(entry.name, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:  # it went meanwhile
        pass
    return None


def _local_key(name: str, status: os.stat_result) -> FileKey:
    if not stat.S_ISREG(status.st_mode):
        raise SceneError("unavailable", f"{name} is a link, a folder or a device, no regular file")
    return _key(name, status.st_size, status.st_mtime_ns)


def _key(name: str, size: int, modified_ns: int) -> FileKey:
    """A version as the ledger can hold it: with a name that can be written down and a time before 2262."""
    return FileKey(_escaped(name), size, max(-LARGEST, min(modified_ns, LARGEST)))


def _open_itself(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """Files below an address of fsspec, without those in folders below it.

    Attributes:
        url: the address.
        storage: what knows how to ask there; credentials and AWS_ENDPOINT_URL come from the environment.
        root: the address without its scheme.
    """

    url: str
    storage: AbstractFileSystem
    root: str

    @classmethod
    def of(cls, url: str) -> RemoteFolder:
        """The folder at ``url``; nothing is asked yet.

        Raises:
            ConfigError: no storage of that name.
        """
        from fsspec.core import url_to_fs

        try:  # an instance of our own: a shared one keeps the credentials and the endpoint of its first day
            storage, root = url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"scenes.url is an address that fsspec knows, found {url}: {error}") from None
        return cls(url, storage, root.rstrip("/"))

    def listing(self, pattern: re.Pattern[str]) -> list[FileKey]:
        """Files whose names match."""
        found = ((entry["name"].rpartition("/"), entry) for entry in self._entries() if entry["type"] == "file")
        return [
            _remote_key(name, entry)
            for (folder, _, name), entry in found
            if folder.strip("/") == self.root.strip("/") and pattern.match(name)
        ]

    def look(self, name: str) -> FileKey:
        """The version of a file that lies there now."""
        with _readable(name):
            self.storage.invalidate_cache()
            return _remote_key(name, self.storage.info(self._path(name)))

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Opens a file; S3 then answers for one version of it only."""
        with _readable(name):
            stream = self.storage.open(self._path(name), "rb", block_size=REMOTE_BLOCK, cache_type="readahead")
        with stream:
            yield Reader(name, stream, lambda: self.look(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _entries(self) -> list[dict[str, Any]]:
        try:
            self.storage.invalidate_cache()
            return self._ls()
        except (FileNotFoundError, PermissionError) as error:
            msg = f"scenes.url is a folder that can be listed, found none at {self.url}: {error}. Mend it or the rights"
            raise CubecastError(msg) from None
        except Exception as error:
            msg = f"an inbox answers, but {self.url} does not: {error}. Check network, credentials, endpoint"
            raise ServiceError(msg) from error

    def _ls(self) -> list[dict[str, Any]]:
        try:
            return self.storage.ls(self.root, detail=True)
        except FileNotFoundError:
            if self.storage.exists(self.root.strip("/").partition("/")[0]):
                return []  # a bucket knows no empty folders
            raise


def _remote_key(name: str, entry: dict[str, Any]) -> FileKey:
    return _key(name, int(entry["size"] or 0), modified_ns(entry))


def modified_ns(entry: dict[str, Any]) -> int:
    """When a file of a storage changed, in ns since 1970, UTC; 0 where the storage does not say.

    S3 answers in parts of a second where it lists and in seconds where it is asked for one object: those parts do not
    count. Others give times, seconds or ISO 8601, in microseconds at best.

    >>> modified_ns({"LastModified": datetime(1970, 1, 1, 0, 1, 0, 500, tzinfo=UTC)})
    60000000000
    >>> modified_ns({"mtime": 1.5}) == modified_ns({"updated": "1970-01-01T00:00:01.500Z"})
    True
    """
    key = next((name for name in TIMES if entry.get(name)), None)
    if key is None:
        return 0
    found = datetime.fromisoformat(entry[key]) if isinstance(entry[key], str) else entry[key]
    if not isinstance(found, datetime):
        return round(found * 1e6) * 1000
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    part = timedelta(seconds=1) if key == "LastModified" else timedelta(microseconds=1)
    return (aware - EPOCH) // part * (part // timedelta(microseconds=1)) * 1000


@dataclass(frozen=True, slots=True)
class Reader:
    """A file that is being read, whose faults are those of a scene.

    Attributes:
        name: of the file.
        stream: its bytes.
        look: the version that lies there now.
    """

    name: str
    stream: Any
    look: Callable[[], FileKey]

    def version(self) -> FileKey:
        """The version that lies there now."""
        with _readable(self.name):
            return self.look()

    def readinto(self, buffer: memoryview) -> int:
        """Fills the buffer with the next bytes as far as there are some; how many."""
        with _readable(self.name):
            return self.stream.readinto(buffer) or 0


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Every storage has errors of its own; what they say of a file is that it cannot be had now."""
    try:
        yield
    except CubecastError:
        raise
    except Exception as error:
        said = (isinstance(error, OSError) and error.strerror) or error
        raise SceneError("unavailable", f"{name} cannot be copied: {said}") from error
