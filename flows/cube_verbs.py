"""What can be done with a cube beside ingesting into it, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.audit import Audit
    from pipeline.cube import Cube
    from pipeline.export import Exported
    from pipeline.maintenance import Copied
    from pipeline.store import Commit, CubeStore
    from pipeline.times import TimeAxis

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Bands of one array: names and units, type of the DN, chunk (slots, bands, rows, columns), codecs."""

    name: str
    bands: dict[str, str]
    dtype: str
    chunk: tuple[int, ...]
    codecs: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Empty slots between two that hold a scene."""

    after: datetime
    before: datetime
    slots: int


@dataclass(frozen=True, slots=True)
class Info:
    """What a cube holds. ``size``: bytes on this machine's disk, None in a bucket."""

    product: str
    place: str
    schema_version: int
    snapshot: str
    crs: str
    shape: tuple[int, int]
    transform: tuple[float, ...]
    arrays: tuple[Arrays, ...]
    cadence: timedelta
    slots: int
    observed: int
    first: datetime | None
    last: datetime | None
    empty: int
    longest_gap: Gap | None
    scenes: dict[str, int]
    size: int | None
    snapshots: int
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A snapshot of the cube's history."""

    snapshot: str
    written_at: datetime
    message: str
    scenes: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairedSlot:
    """A slot that was to be written again: whether it is whole now, and if not, why."""

    time: datetime
    mended: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """What came of a repair. ``beyond``: damaged arrays that belong to no slot, which no repair can mend."""

    snapshot: str
    slots: tuple[RepairedSlot, ...]
    beyond: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleaning took away, or would: snapshots out of the history, files and bytes that nothing reached."""

    expired: int
    snapshots: int
    manifests: int
    chunks: int
    size: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Extract:
    """What of a cube is exported, and how."""

    form: str = "zarr"
    snapshot: str = ""
    as_of: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None


def info(config: Path) -> Info:
    """What the newest snapshot of a product's cube holds.

    Raises:
        CubecastError: no cube, or it cannot be read.
    """
    store, cube = _open(config)
    axis, observed = cube.layout.axis, cube.observed().tolist()
    gap = _longest_gap(observed, axis)
    return Info(
        product=cube.layout.product,
        place=str(store),
        schema_version=int(str(cube.root.attrs["schema_version"])),
        snapshot=cube.snapshot,
        crs=cube.layout.grid_spec.crs,
        shape=(cube.layout.grid.height, cube.layout.grid.width),
        transform=cube.layout.grid_spec.transform,
        arrays=tuple(_arrays(cube)),
        cadence=axis.cadence,
        slots=cube.size,
        observed=len(observed),
        first=axis.valid_time(observed[0]) if observed else None,
        last=axis.valid_time(observed[-1]) if observed else None,
        empty=observed[-1] - observed[0] + 1 - len(observed) if observed else 0,
        longest_gap=gap,
        scenes=_scene_counts(cube),
        size=_size(store),
        snapshots=sum(1 for _ in _commits(store)),
        tags=store.tags(),
    )


def _open(config: Path, ref: str = "", as_of: datetime | None = None) -> tuple[CubeStore, Cube]:
    """A product's store, and its cube at a tag or snapshot, or at the newest one."""
    from pipeline.config import load
    from pipeline.cube import open_cube, store_of

    store = store_of(load(config))
    return store, open_cube(store, snapshot=store.resolve(ref) if ref else None, as_of=as_of)


def _longest_gap(observed: Sequence[int], axis: TimeAxis) -> Gap | None:
    """The first of the longest ones."""
    widths = [(later - earlier - 1, -earlier, later) for earlier, later in pairwise(observed)]
    slots, earlier, later = max(widths, default=(0, 0, 0))
    return Gap(axis.valid_time(-earlier), axis.valid_time(later), slots) if slots else None


def _arrays(cube: Cube) -> list[Arrays]:
    found = []
    for group in cube.layout.groups:
        data: Any = cube.root[f"{group.name}/data"]
        units = {band.name: band.units for band in group.bands}
        codecs = " + ".join(_codec(codec.to_dict()) for codec in data.compressors)
        found.append(Arrays(group.name, units, str(data.dtype), data.chunks, codecs))
    return found


def _codec(facts: dict[str, Any]) -> str:
    """A codec in a few words.

    >>> _codec({"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3, "typesize": 2}})
    'blosc zstd 3'
    """
    settings = facts.get("configuration", {})
    return " ".join([facts["name"], *(str(settings[key]) for key in ("cname", "clevel", "shuffle") if key in settings)])


def _scene_counts(cube: Cube) -> dict[str, int]:
    columns = cube.table.columns
    withdrawn, superseded = columns["withdrawn"] != 0, columns["superseded"] != 0
    counts = {
        "standing": ~(superseded | withdrawn),
        "superseded": superseded & ~withdrawn,
        "withdrawn": withdrawn,
    }
    return {name: int(which.sum()) for name, which in counts.items()}


def _size(store: CubeStore) -> int | None:
    if not isinstance(store.location, Path):
        return None
    return sum(path.stat().st_size for path in store.location.rglob("*") if path.is_file())


def log(config: Path, count: int) -> tuple[LogEntry, ...]:
    """The newest snapshots, newest first.

    Raises:
        CubecastError: no cube.
    """
    store, _ = _open(config)
    names: dict[str, list[str]] = {}
    for name, snapshot in store.tags().items():
        names.setdefault(snapshot, []).append(name)
    return tuple(_entry(commit, names.get(commit.snapshot, ())) for commit in islice(_commits(store), count))


def _commits(store: CubeStore) -> Iterator[Commit]:
    """The history without the empty snapshot that every repository starts with."""
    from pipeline.maintenance import FIRST

    return (commit for commit in store.history() if commit.snapshot != FIRST)


def _entry(commit: Commit, tags: Sequence[str]) -> LogEntry:
    scenes = len(commit.metadata.get("scenes", ()))
    return LogEntry(commit.snapshot, commit.written_at, commit.message, scenes, tuple(tags))


def verify(config: Path, *, snapshot: str = "", progress: Progress | None = None) -> Audit:
    """Reads everything of a snapshot (default: the newest) and says what is not as it was written.

    Args:
        config: TOML file of the product.
        snapshot: an id or a tag.
        progress: told how many slots are read, of how many.

    Raises:
        CubecastError: no cube, or not even its scenes table can be read.
    """
    from pipeline.audit import verify as run

    return run(_open(config, snapshot)[1], progress)


def repair(config: Path, times: Sequence[datetime] = (), *, progress: Progress | None = None) -> Repaired:
    """Writes slots again from the files of the inbox.

    Args:
        config: TOML file of the product.
        times: of the slots; none: those that :func:`verify` finds damaged.
        progress: told how far the search for damage is.

    Raises:
        CubecastError: no cube, or a time outside it.
    """
    from pipeline.amend import repair as run
    from pipeline.config import load

    store, cube = _open(config)
    beyond: tuple[str, ...] = ()
    if times:
        slots = [_slot(cube, time) for time in times]
    else:
        audit = verify(config, progress=progress)
        slots = list(audit.damaged_slots)
        beyond = tuple(one.what for one in audit.damaged if one.slot is None)
    done = run(load(config), slots) if slots else []
    axis = cube.layout.axis
    return Repaired(
        store.tip(), tuple(RepairedSlot(axis.valid_time(one.slot), one.mended, one.reason) for one in done), beyond
    )


def _slot(cube: Cube, time: datetime) -> int:
    from pipeline.errors import CubecastError

    slot, axis = cube.layout.axis.slot(time), cube.layout.axis
    if not 0 <= slot < cube.size:
        first, last = axis.origin, axis.valid_time(cube.size - 1)
        ends = f"{first:%Y-%m-%d %H:%M}Z to {last:%Y-%m-%d %H:%M}Z"
        raise CubecastError(f"a slot lies in the cube, which holds {ends}, but found {time:%Y-%m-%d %H:%M}Z")
    return slot


def clean(config: Path, keep_days: int, *, dry_run: bool = False) -> Cleaned:
    """Takes snapshots older than some days out of the history, and deletes what nothing reaches any more.

    The newest snapshot and those with a tag stay.

    Args:
        config: TOML file of the product.
        keep_days: at least 7.
        dry_run: counts only; what the snapshots that would expire hold alone is not counted.

    Raises:
        CubecastError: no cube, or too few days.
    """
    from pipeline.maintenance import collect, expire

    store, cube = _open(config)
    before = datetime.now(UTC) - timedelta(days=keep_days)
    if dry_run:
        kept = {cube.snapshot, *store.tags().values()}
        expired = sum(commit.written_at < before and commit.snapshot not in kept for commit in _commits(store))
    else:
        expired = expire(store, before).expired
    gone = collect(store, before, dry_run=dry_run)
    return Cleaned(expired, gone.snapshots, gone.manifests, gone.chunks, gone.size, dry_run)


def has_cube(config: Path) -> bool:
    """Whether anything was ever ingested."""
    from pipeline.config import load
    from pipeline.cube import store_of

    return store_of(load(config)).exists()


def tag(config: Path, name: str, snapshot: str = "") -> str:
    """Gives a snapshot (an id or another tag; default: the newest) a name that keeps it from expiring; its id.

    Raises:
        CubecastError: no cube or snapshot, or the name is taken or not one.
    """
    store, _ = _open(config)
    return store.tag(name, store.resolve(snapshot) if snapshot else None)


def untag(config: Path, name: str) -> None:
    """Lets the snapshot of a tag expire.

    Raises:
        CubecastError: no such tag.
    """
    _open(config)[0].untag(name)


def tags(config: Path) -> dict[str, str]:
    """Names of snapshots, and their ids.

    Raises:
        CubecastError: no cube.
    """
    return _open(config)[0].tags()


def backup(config: Path, folder: Path) -> Copied:
    """Copies what is new in the cube's repository to a folder, which is a repository of its own.

    Raises:
        CubecastError: no local cube, or the folder holds something else.
    """
    from pipeline.config import load
    from pipeline.cube import store_of
    from pipeline.maintenance import backup as run

    return run(store_of(load(config)), folder)


def export(config: Path, folder: Path, extract: Extract, *, progress: Progress | None = None) -> Exported:
    """Writes a cube, or a part of it, as plain Zarr or as Cloud-Optimised GeoTIFFs.

    Raises:
        CubecastError: no cube or snapshot, nothing in that time, or the folder holds something.
    """
    from pipeline.export import to_cogs, to_zarr

    _, cube = _open(config, extract.snapshot, extract.as_of)
    write = to_cogs if extract.form == "cog" else to_zarr
    return write(cube, folder, _slots(cube, extract), progress=progress)


def _slots(cube: Cube, extract: Extract) -> list[int] | None:
    """Slots between two times, both included; None where neither is given."""
    if extract.start is None and extract.end is None:
        return None
    axis = cube.layout.axis
    slots = range(cube.size) if extract.as_of is None else cube.observed().tolist()
    start, end = extract.start or axis.origin, extract.end or axis.valid_time(cube.size)
    return [slot for slot in slots if start <= axis.valid_time(slot) <= end]
