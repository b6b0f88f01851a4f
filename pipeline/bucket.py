"""A place on an S3-compatible server, and its objects: read, written on a condition, listed, removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import PublishError, ServiceError

# What S3 answers where the condition of a put does not hold; the last one where the object is gone meanwhile.
LOST_RACE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})

# A server that hangs would hold a reader for ever; seconds, https://gdal.org/en/stable/user/configoptions.html
PATIENCE = {"GDAL_HTTP_CONNECTTIMEOUT": 20, "GDAL_HTTP_TIMEOUT": 300, "GDAL_HTTP_MAX_RETRY": 2}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place on an S3-compatible server that honours conditional puts; credentials come from the environment.

    >>> Bucket("s3://weather/cubes/hrv").split()
    ('weather', 'cubes/hrv')
    """

    url: str
    endpoint: str = ""  # AWS when empty
    region: str = "us-east-1"

    def __str__(self) -> str:
        return self.url

    def split(self) -> tuple[str, str]:
        """The bucket and the prefix inside it."""
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return bucket, prefix.rstrip("/")

    @property
    def path(self) -> Path:
        """The place as programs on GDAL name it.

        >>> Bucket("s3://weather/forecasts/").path.as_posix()
        '/vsis3/weather/forecasts'
        """
        return Path("/vsis3").joinpath(*self.split())

    def reading(self) -> AbstractContextManager[Any]:
        """Lets GDAL open what lies below ``path``."""
        import rasterio

        host = self.endpoint.partition("://")[2]
        options: dict[str, Any] = {"AWS_REGION": self.region, **PATIENCE}
        if host:
            secure = "NO" if self.endpoint.startswith("http://") else "YES"
            options |= {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": secure, "AWS_VIRTUAL_HOSTING": "FALSE"}
        return rasterio.Env(**options)


Location = Path | Bucket


@dataclass(frozen=True, slots=True)
class Objects:
    """What lies below a folder of a bucket, by names relative to it.

    Attributes:
        bucket: the place.
        folder: below it.
        storage: fsspec's ``S3FileSystem``, which knows how to ask there.
    """

    bucket: Bucket
    folder: str
    storage: Any

    @classmethod
    def of(cls, bucket: Bucket, folder: str) -> Objects:
        """The objects of a folder; nothing is asked yet."""
        import fsspec

        # fsspec keeps one of them a thread: to make it takes as long as ten requests.
        region = {"region_name": bucket.region}
        storage = fsspec.filesystem(
            "s3", endpoint_url=bucket.endpoint or None, client_kwargs=region, use_listings_cache=False
        )
        return cls(bucket, folder, storage)

    def text(self, name: str) -> str | None:
        """What an object says; None where there is none."""
        with self._trouble():
            try:
                return self.storage.cat_file(self._path(name)).decode()
            except FileNotFoundError:
                return None

    def version(self, name: str) -> str | None:
        """What changes with an object's bytes; None where there is none."""
        with self._trouble():
            try:
                return self.storage.info(self._path(name))["ETag"]
            except FileNotFoundError:
                return None

    def put(self, name: str, text: str, version: str | None) -> bool:
        """Writes an object if it still has that version (None: if there is none); whether it was written."""
        with self._trouble():
            condition = {"mode": "create"} if version is None else {"IfMatch": version}
            try:
                self.storage.pipe_file(self._path(name), text.encode(), **condition)
            except OSError as error:
                if _code(error) not in LOST_RACE:
                    raise
                return False
            return True

    def upload(self, files: Iterable[Path], folder: str) -> None:
        """Copies files into a folder; what has their names there is replaced."""
        paths = sorted(files)
        with self._trouble():
            self.storage.put([str(path) for path in paths], [self._path(f"{folder}/{path.name}") for path in paths])

    def download(self, folder: str, into: Path) -> None:
        """Brings what lies in a folder into one of this machine."""
        with self._trouble():
            for path in self.storage.ls(self._path(folder), detail=False):
                self.storage.get_file(path, str(into / path.rpartition("/")[2]))

    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        with self._trouble():
            try:
                found = self.storage.ls(self._path(name), detail=True)
            except FileNotFoundError:
                self._check_bucket()
                return []
        return sorted(entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "directory")

    def changes(self, folder: str) -> dict[str, datetime]:
        """Names of all objects below a folder, and when each was written."""
        with self._trouble():
            found = self.storage.find(self._path(folder), detail=True)
        own = len(self._path("")) + 1
        return {path[own:]: entry["LastModified"] for path, entry in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; those that are gone already do not matter."""
        paths = [self._path(name) for name in names]
        if paths:
            with self._trouble():
                self.storage.rm(paths)

    def _path(self, name: str) -> str:
        return "/".join(part for part in (*self.bucket.split(), self.folder, name) if part)

    def _check_bucket(self) -> None:
        if not self.storage.exists(self.bucket.split()[0]):
            msg = "there is no such bucket"
            raise PermissionError(msg)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Faults of the server as a sentence.

        Raises:
            PublishError: the bucket is missing or closed.
            ServiceError: the server does not answer; it may later.
        """
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            msg = (
                f"forecasts' bucket can be read and written, but {self.bucket} cannot: {error}. Check [forecast.store] "
                "in the configuration, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the bucket exists"
            )
            raise PublishError(msg) from error
        except Exception as error:
            server = self.bucket.endpoint or f"AWS {self.bucket.region}"
            msg = f"forecasts' server answers, but {server} does not: {error}. Check network, credentials, endpoint"
            raise ServiceError(msg) from error


def _code(error: OSError) -> str:
    """S3's name of a fault; s3fs keeps its answer as the cause."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code", "")
