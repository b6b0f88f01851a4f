"""Where a cube's Icechunk repository lies, a local folder or a bucket, and how it is made, opened and reported on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.bucket import Bucket, Location
from pipeline.durable import move_folder
from pipeline.errors import NoCubeError, StoreAwayError, StoreError
from pipeline.filesystem import sync_filesystem

BRANCH = "main"
WRITING = "writing-"  # branches of a writer at work; what a killed one leaves is swept
MANIFEST_SLOTS = 64
LOOKS = 20
PAUSE = 0.2  # s


def open_repository(location: Location) -> Any:
    """The Icechunk repository; manifests are split as they were when it was made.

    Raises:
        NoCubeError: there is none.
        StoreError: it cannot be read.
    """
    import icechunk

    with trouble(location):
        storage = _storage(location)
        if not _holds(location, storage):
            raise NoCubeError(location)
        return icechunk.Repository.open(storage, config=_no_inline())


def make_repository(location: Location, manifest_slots: int = MANIFEST_SLOTS) -> Any:
    """The Icechunk repository, made where there is none; on a local disk the caller holds the lock.

    Args:
        location: an empty or missing folder, or a prefix of a bucket.
        manifest_slots: chunks along ``time`` (slots, where a chunk is one slot deep) that share one manifest, for good.

    Raises:
        StoreError: the folder holds something else.
    """
    if isinstance(location, Bucket):
        _make_in_bucket(location, manifest_slots)
    elif not _holds(location, _storage(location)):
        _make_in_folder(location, manifest_slots)
    return open_repository(location)


@contextmanager
def trouble(location: Location) -> Iterator[None]:
    """Faults of the disk, the server and the repository as a sentence.

    Raises:
        StoreError: instead of OSError and Icechunk's own errors; of a bucket one that may pass.
    """
    import icechunk

    kind = StoreAwayError if isinstance(location, Bucket) else StoreError

    try:
        yield
    except (OSError, icechunk.IcechunkError) as error:
        raise kind(_sentence(location, reason(error))) from error


def sync(location: Location) -> None:
    """Everything written reaches the disk; a bucket answers only when it has done so."""
    if isinstance(location, Path):
        sync_filesystem(location)


def new_branch(repository: Any, snapshot: str) -> str:
    """Name of a branch of this writer alone, which now points to the snapshot."""
    name = f"{WRITING}{int(time.time())}-{uuid4().hex}"
    repository.create_branch(name, snapshot)
    return name


def point(repository: Any, folder: Path, ref: str, snapshot: str) -> None:
    """Makes a ref of a local repository point to a snapshot, and everything behind it lie on the disk; in one step.

    Icechunk gives a ref its name before its bytes are on the disk: about 1 of 100 power cuts left 35 zeros there, and
    the repository unreadable. So it writes a branch aside, and only what lies on the disk gets the name.

    Args:
        repository: the folder's, whose lock the caller holds.
        folder: where it lies.
        ref: ``branch.<name>`` or ``tag.<name>``.
        snapshot: its id.
    """
    aside = folder / "refs" / f"branch.{new_branch(repository, snapshot)}"
    target = folder / "refs" / ref
    target.mkdir(exist_ok=True)
    sync_filesystem(folder)
    (aside / "ref.json").replace(target / "ref.json")
    sync_filesystem(folder)
    aside.rmdir()


def sweep_folder(folder: Path) -> None:
    """Removes the branches of dead writers; the caller holds the lock. Icechunk itself cannot delete a damaged one."""
    for path in folder.glob(f"refs/branch.{WRITING}*"):
        shutil.rmtree(path)


def sweep_bucket(repository: Any, older_than: datetime) -> None:
    """Removes the branches that writers made before a time; others may be at work."""
    for branch in repository.list_branches():
        if branch.startswith(WRITING) and _born(branch) < older_than:
            repository.delete_branch(branch)


def _born(branch: str) -> datetime:
    return datetime.fromtimestamp(int(branch.removeprefix(WRITING).partition("-")[0]), UTC)


def reason(error: Exception) -> str:
    """What failed and, innermost, why: Icechunk's errors hold a trace between the two."""
    lines = [line.strip(" x\t") for line in str(error).splitlines()]
    first = next((line for line in lines if line), type(error).__name__)
    causes = [line.partition("-> ")[2] for line in lines if "-> " in line]
    return f"{first}: {causes[-1]}" if causes and causes[-1] not in first else first


def _sentence(location: Location, why: str) -> str:
    if isinstance(location, Bucket):
        server = location.endpoint or f"AWS {location.region}"
        return (
            f"a cube's bucket can be read and written, but {location} at {server} cannot: {why}. Check [store] in the "
            "configuration, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the bucket exists"
        )
    return (
        f"a cube's folder can be read and written, but {location} cannot: {why}. "
        "Mend its permissions, free space on its disk, or restore it where it is damaged"
    )


def _holds(location: Location, storage: Any) -> bool:
    import icechunk

    return (isinstance(location, Bucket) or location.is_dir()) and icechunk.Repository.exists(storage)


def _make_in_folder(folder: Path, manifest_slots: int) -> None:
    """Made aside and moved to its place whole: a half-made repository could neither be opened nor made again."""
    import icechunk

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = (
            f"a cube has a folder of its own, but {folder} is or holds other files: "
            "move them, or choose another workspace"
        )
        raise StoreError(msg)
    aside = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    icechunk.Repository.create(_storage(aside), config=_config(manifest_slots))
    sync_filesystem(aside)
    move_folder(aside, folder)


def _make_in_bucket(bucket: Bucket, manifest_slots: int) -> None:
    import icechunk

    storage = _storage(bucket)
    if icechunk.Repository.exists(storage):
        return
    try:
        icechunk.Repository.create(storage, config=_config(manifest_slots))
    except icechunk.IcechunkError:
        if not _appears(storage):
            raise


def _appears(storage: Any) -> bool:
    """Whether another writer, who was at it first, makes the repository now; its branch comes last."""
    import icechunk

    for _ in range(LOOKS):
        if icechunk.Repository.exists(storage):
            return True
        time.sleep(PAUSE)
    return False


def _storage(location: Location) -> Any:
    import icechunk

    # Icechunk warns on every open that its local storage needs one writer at a time: the lock is that writer.
    icechunk.set_logs_filter("error")
    if isinstance(location, Path):
        return icechunk.local_filesystem_storage(str(location))
    bucket, prefix = location.split()
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=location.region,
        endpoint_url=location.endpoint or None,
        allow_http=location.endpoint.startswith("http://"),
        force_path_style=bool(location.endpoint),
        from_env=True,
    )


def _config(manifest_slots: int) -> Any:
    """What a new repository keeps as its own; chunks of arrays without a dimension ``time`` share one manifest."""
    import icechunk

    by_time: dict[Any, int] = {icechunk.ManifestSplitDimCondition.DimensionName("time"): manifest_slots}
    split = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): by_time})
    config = _no_inline()
    config.manifest = icechunk.ManifestConfig(splitting=split)
    return config


def _no_inline() -> Any:
    """No chunk inside a manifest, whose bytes have no checksum: 3 of 900 flipped bits went unnoticed there.

    What it leaves open comes from the configuration that the repository keeps.
    """
    import icechunk

    return icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
