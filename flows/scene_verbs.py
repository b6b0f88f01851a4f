"""What can be asked and decided about single scenes, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.cube import Cube
    from pipeline.ledger import Entry, Ledger
    from pipeline.scenetable import SceneRow


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A version of a file of the inbox, and what became of it."""

    file: str
    size: int
    state: str
    reason: str
    detail: str
    decided_at: str


@dataclass(frozen=True, slots=True)
class CubeScene:
    """A scene of the cube. ``role``: standing, superseded or withdrawn; ``place``: rows and columns from, to."""

    id: str
    file: str
    role: str
    slot_time: datetime
    acquired: datetime
    available_at: datetime
    tile: str
    revision: str
    valid_fraction: float
    place: tuple[int, int, int, int]
    flags: tuple[str, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is known of files of some name: the ledger's word on each version, and the cube's rows."""

    files: tuple[FileEntry, ...]
    scenes: tuple[CubeScene, ...]


@dataclass(frozen=True, slots=True)
class TakenOut:
    """What a withdrawal did. ``instead``: files of the scenes that its slots show now."""

    snapshot: str
    scenes: tuple[str, ...]
    instead: tuple[str, ...]


def list_scenes(config: Path, state: str = "") -> tuple[FileEntry, ...]:
    """Every file ever seen, by name, or those in one state.

    Raises:
        CubecastError: nothing was ever ingested, or the ledger cannot be read.
    """
    _, ledger = _ledger(config)
    return tuple(_file_entry(entry) for entry in ledger.entries() if state in ("", entry.state.value))


def show(config: Path, name: str) -> Shown:
    """What is known of the files called ``name``, which may hold wildcards.

    Raises:
        CubecastError: no such file was ever seen.
    """
    settings, ledger = _ledger(config)
    entries = _found(ledger, name)
    names = {entry.key.name for entry in entries}
    cube = _cube(settings)
    rows = [row for row in cube.rows if row.scene.source in names] if cube else []
    return Shown(tuple(map(_file_entry, entries)), tuple(_cube_scene(row, cube) for row in rows if cube))


def retry(config: Path, names: Sequence[str] | None) -> tuple[str, ...]:
    """Takes decisions back, so that the next ingest looks at the files again.

    Args:
        config: TOML file of the product.
        names: of files, which may hold wildcards; None: everything quarantined but not withdrawn.

    Returns:
        Names of the files whose decision was taken back.

    Raises:
        CubecastError: no such file was ever seen.
    """
    _, ledger = _ledger(config)
    chosen = None if names is None else {entry.key.name for name in names for entry in _found(ledger, name)}
    return tuple(entry.key.name for entry in ledger.retry(chosen))


def withdraw(config: Path, name: str, why: str) -> TakenOut:
    """Takes every version of a scene out of the cube; what stood behind it shows again.

    Raises:
        CubecastError: the cube holds no such scene.
    """
    from pipeline.amend import withdraw as run
    from pipeline.config import load

    settings = load(config)
    done = run(settings, name, why)
    cube = _cube(settings)
    slots = {row.slot for row in cube.rows if row.scene.id in done.scenes} if cube else set()
    instead = [scene.source for scene in cube.scenes(slots)] if cube else []
    return TakenOut(done.snapshot, done.scenes, tuple(instead))


def _ledger(config: Path) -> tuple[Settings, Ledger]:
    from pipeline.config import load
    from pipeline.errors import StoreError
    from pipeline.ledger import Ledger

    settings = load(config)
    if not settings.paths.ledger.exists():
        msg = f"files are known once they were looked at, but {settings.paths.root} has no ledger: run cubecast ingest"
        raise StoreError(msg)
    return settings, Ledger(settings.paths.ledger)


def _found(ledger: Ledger, name: str) -> list[Entry]:
    from pipeline.errors import CubecastError

    entries = ledger.find(name)
    if not entries:
        msg = f"a scene is called as in the inbox, but no file {name!r} was ever seen: see cubecast scenes list"
        raise CubecastError(msg)
    return entries


def _cube(settings: Settings) -> Cube | None:
    from pipeline.cube import open_cube, store_of

    store = store_of(settings)
    return open_cube(store) if store.exists() else None


def _file_entry(entry: Entry) -> FileEntry:
    key = entry.key
    return FileEntry(key.name, key.size, entry.state.value, entry.reason, entry.detail, entry.decided_at)


def _cube_scene(row: SceneRow, cube: Cube) -> CubeScene:
    from pipeline.quality import Quality

    scene, place = row.scene, row.place
    return CubeScene(
        id=scene.id,
        file=scene.source,
        role="withdrawn" if row.withdrawn else "superseded" if row.superseded else "standing",
        slot_time=cube.layout.axis.valid_time(row.slot),
        acquired=scene.acquired,
        available_at=scene.available_at,
        tile=scene.tile,
        revision=scene.revision,
        valid_fraction=row.valid_fraction,
        place=(place.y0, place.y1, place.x0, place.x1),
        flags=tuple(str(flag.name).lower() for flag in Quality if row.flags & flag),
        sha256=scene.sha256,
    )
