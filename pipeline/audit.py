"""Everything that a cube holds, read and compared with what was written: damage shows before its pixels are needed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import isqrt
from typing import Any, cast

import numpy as np
import zarr

from pipeline.compose import scene_pixels, slot_pixels
from pipeline.cube import Cube
from pipeline.grid import Window, tiles
from pipeline.quality import Quality
from pipeline.repository import reason
from pipeline.scenetable import SceneRow, SceneTable, best_first
from pipeline.schema import NO_LAYER, TABLE, UNKNOWN_TIME, BandGroup
from pipeline.survey import Survey
from pipeline.times import seconds
from pipeline.workers import on_threads

WINDOW_BYTES = 16 << 20  # of the DN of a window: what a thread holds at a time
BATCH = 64  # slots between two words of progress
SMALL = ("time", "acquired", "band", "y", "x", "spatial_ref")
OTHER_PIXELS = "the pixels read well, but are not those that were written: their fingerprint is another one"

Progress = Callable[[int, int], None]
RowsBySlot = Mapping[int, Sequence[SceneRow]]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a cube that is not as it was written.

    Attributes:
        slot: where; None where no slot alone is concerned.
        time: of the slot, UTC.
        scenes: ids of the scenes whose pixels are concerned.
        what: what is damaged.
        reason: how it shows.
    """

    slot: int | None
    time: datetime | None
    scenes: tuple[str, ...]
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What reading all of a snapshot showed.

    Attributes:
        snapshot: which one.
        slots: how many slots hold pixels; all of them were read.
        scenes: how many scenes were compared with their fingerprints.
        size: bytes of DN and quality that were read, decompressed.
        damaged: what is not as it was written, by slot.
    """

    snapshot: str
    slots: int
    scenes: int
    size: int
    damaged: tuple[Damage, ...]

    @property
    def damaged_slots(self) -> tuple[int, ...]:
        """Slots that are to be written again, ascending."""
        return tuple(sorted({one.slot for one in self.damaged if one.slot is not None}))


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at a slot showed: bytes read, scenes compared, damage."""

    size: int
    scenes: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class _Broken:
    """An array's chunk that cannot be read, and the scenes that need it."""

    path: str
    reason: str
    scenes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a window of a slot showed.

    Attributes:
        size: bytes read.
        filled: whether the slot has a pixel there that is not missing.
        fingerprints: what the window adds to those of the slot's scenes, by index of the scene.
        broken: chunks that cannot be read.
    """

    size: int = 0
    filled: bool = False
    fingerprints: Mapping[int, int] | None = None
    broken: tuple[_Broken, ...] = ()


def verify(cube: Cube, progress: Progress | None = None) -> Audit:
    """Reads everything of a snapshot and compares it with what was written; damage is noted and the reading goes on.

    Layers of scenes that were withdrawn are not read: nothing needs them.

    Args:
        cube: a snapshot; its ``as_of`` changes nothing.
        progress: told how many slots are read, of how many.
    """
    rows = _by_slot(cube.table)
    held, damaged = _held(cube)
    damaged += [*_small(cube), *_misplaced(cube, rows), *_wrong_times(cube, rows)]
    slots = sorted(slot for slot in held | set(rows) if 0 <= slot < cube.size)
    looks: list[_Look] = []
    for start in range(0, len(slots), BATCH):
        looks += on_threads(partial(_look, cube, slot, rows.get(slot, ())) for slot in slots[start : start + BATCH])
        if progress is not None:
            progress(len(looks), len(slots))
    damaged += [one for look in looks for one in look.damaged]
    return Audit(
        cube.snapshot,
        len(slots),
        sum(look.scenes for look in looks),
        sum(look.size for look in looks),
        tuple(sorted(damaged, key=lambda one: (-1 if one.slot is None else one.slot, one.what))),
    )


def _faults() -> tuple[type[Exception], ...]:
    """What reading a chunk raises where its checksum is wrong or its file is gone or short."""
    import icechunk

    return ValueError, RuntimeError, OSError, icechunk.IcechunkError


def _by_slot(table: SceneTable) -> dict[int, list[SceneRow]]:
    found: dict[int, list[SceneRow]] = defaultdict(list)
    for index, slot in enumerate(table.columns["slot"].tolist()):
        found[slot].append(table.row(index))
    return dict(found)


def _held(cube: Cube) -> tuple[set[int], list[Damage]]:
    """Slots that hold a chunk of quality, by the cube's own index of its chunks; most of a long axis may hold none."""
    held: set[int] = set()
    damaged = []
    for group in cube.layout.groups:
        try:
            held |= on_threads([partial(_slots_in_index, cube.root.store, f"/{group.name}/quality")])[0]
        except _faults() as error:
            damaged.append(Damage(None, None, (), f"index of {group.name}/quality", reason(error)))
    return held, damaged


def _slots_in_index(store: Any, path: str) -> set[int]:
    """Runs on a thread of its own: where somebody waits in an event loop, no second one can run."""

    async def found() -> set[int]:
        return {chunk[0] async for chunk in store.session.chunk_coordinates(path)}

    return asyncio.run(found())


def _small(cube: Cube) -> Iterator[Damage]:
    """Arrays that are no pixels and cannot be read."""
    groups = [f"{group.name}/{name}" for group in cube.layout.groups for name in SMALL]
    for path in [*groups, *(f"scenes/{name}" for name in TABLE)]:
        if path not in cube.root:
            continue  # an older schema's, or the rows of a rotated grid, which have no one y
        try:
            _array(cube.root, path)[...]
        except _faults() as error:
            yield Damage(None, None, (), path, reason(error))


def _misplaced(cube: Cube, rows: RowsBySlot) -> Iterator[Damage]:
    axis = cube.layout.axis
    for slot, members in rows.items():
        for row in members:
            nearest = axis.slot(row.scene.acquired)
            if nearest != slot or slot >= cube.size:
                text = f"{row.scene.source} belongs to slot {nearest} of {cube.size}, found in {slot}"
                yield _damage(cube, slot, "scenes table", text, [row])


def _wrong_times(cube: Cube, rows: RowsBySlot) -> Iterator[Damage]:
    """Slots whose own time, or whose note of the acquisition, says something else than the axis and the scenes."""
    axis, slots = cube.layout.axis, np.arange(cube.size)
    times = seconds(axis.origin) + slots * int(axis.cadence.total_seconds())
    acquired = np.full(cube.size, UNKNOWN_TIME, np.int64)
    for slot, members in rows.items():
        standing = best_first([row for row in members if row.standing], axis)
        if standing and slot < cube.size:
            acquired[slot] = seconds(standing[0].scene.acquired)
    for group in cube.layout.groups:
        for name, expected in (("time", times), ("acquired", acquired)):
            try:
                found = np.asarray(_array(cube.root, f"{group.name}/{name}")[:])
            except _faults():
                continue  # told already
            for slot in np.flatnonzero(found != expected).tolist():
                text = f"it says {found[slot]}, the axis and the scenes say {expected[slot]} (s since 1970)"
                yield _damage(cube, slot, f"{group.name}/{name}", text, rows.get(slot, ()))


def _look(cube: Cube, slot: int, rows: Sequence[SceneRow]) -> _Look:
    kept = [row for row in rows if row.kept]
    pieces = [
        _piece(cube, group, slot, kept, window) for group in cube.layout.groups for window in _windows(cube, group)
    ]
    broken = [one for piece in pieces for one in piece.broken]
    told = [index for index, row in enumerate(kept) if row.fingerprint] if not broken else []
    wrong = [kept[index] for index in told if not _is_print(kept[index], _total(pieces, index))]
    damaged = list(_merged(cube, slot, broken))
    damaged += [_damage(cube, slot, f"pixels of {row.scene.source}", OTHER_PIXELS, [row]) for row in wrong]
    if not any(row.standing for row in rows) and any(piece.filled for piece in pieces):
        damaged.append(_damage(cube, slot, "slot", "it holds pixels, but no scene stands in it", rows))
    return _Look(sum(piece.size for piece in pieces), len(told), tuple(damaged))


def _windows(cube: Cube, group: BandGroup) -> Iterator[Window]:
    """Squares of whole chunks, of bounded size."""
    side = max(_array(cube.root, f"{group.name}/quality").chunks[-2:])  # whole chunks of data fill those of quality
    size = side * side * (len(group.bands) * group.dtype.itemsize + 1)
    grid = cube.layout.grid
    return tiles((grid.height, grid.width), side * max(1, isqrt(WINDOW_BYTES // size)))


def _piece(cube: Cube, group: BandGroup, slot: int, kept: Sequence[SceneRow], window: Window) -> _Piece:
    try:
        shown = slot_pixels(cube.root, group, slot, window)
        parts = {index: _survey(cube, group, row, window) for index, row in enumerate(kept)}
    except _faults():
        return _Piece(broken=tuple(_search(cube, group, slot, kept, window)))
    size = shown.data.nbytes + shown.quality.nbytes
    filled = bool((shown.quality != np.uint8(Quality.MISSING)).any())
    return _Piece(size, filled, {index: value for index, value in parts.items() if value is not None})


def _survey(cube: Cube, group: BandGroup, row: SceneRow, window: Window) -> int | None:
    """What a window adds to a scene's fingerprint; None where the scene or the group has no part in it."""
    compared = row.fingerprint and group == cube.layout.leading
    if row.layer == NO_LAYER and not compared:
        return None
    pixels = scene_pixels(cube.root, group, row, window)
    if pixels is None or not compared:
        return None
    return Survey.of(pixels.data, pixels.quality, group.bands, window=pixels.window, place=row.place).fingerprint


def _total(pieces: Sequence[_Piece], index: int) -> int:
    return sum(piece.fingerprints.get(index, 0) for piece in pieces if piece.fingerprints) % 2**64


def _is_print(row: SceneRow, total: int) -> bool:
    return (total >> 1 or 1) == row.fingerprint


def _search(cube: Cube, group: BandGroup, slot: int, kept: Sequence[SceneRow], window: Window) -> Iterator[_Broken]:
    """The chunks of a window that cannot be read: the slot's own, and those of its scenes' layers."""
    shared = [(group.name, slot, kept)]
    layers = [(f"layers/{group.name}", row.layer, [row]) for row in kept if row.layer != NO_LAYER]
    for path, index, rows in [*shared, *layers]:
        for name in ("data", "quality"):
            yield from _broken_chunks(cube, f"{path}/{name}", index, rows, window)


def _broken_chunks(cube: Cube, path: str, index: int, rows: Sequence[SceneRow], window: Window) -> Iterator[_Broken]:
    array = _array(cube.root, path)
    for tile in tiles(window.shape, max(array.chunks[-2:])):
        part = Window(tile.y0 + window.y0, tile.y1 + window.y0, tile.x0 + window.x0, tile.x1 + window.x0)
        try:
            array[(index, ..., *part.slices)]
        except _faults() as error:
            scenes = tuple(row.scene.id for row in rows if row.place.intersection(part))
            yield _Broken(path, reason(error), scenes)


def _merged(cube: Cube, slot: int, broken: Sequence[_Broken]) -> Iterator[Damage]:
    """One word on each array."""
    by_path: dict[str, list[_Broken]] = defaultdict(list)
    for one in broken:
        by_path[one.path].append(one)
    for path, chunks in by_path.items():
        scenes = tuple(sorted({scene for chunk in chunks for scene in chunk.scenes}))
        what = f"{len(chunks)} chunk(s) of {path}"
        yield Damage(slot, cube.layout.axis.valid_time(slot), scenes, what, chunks[0].reason)


def _damage(cube: Cube, slot: int, what: str, why: str, rows: Sequence[SceneRow]) -> Damage:
    scenes = tuple(row.scene.id for row in rows)
    return Damage(slot, cube.layout.axis.valid_time(slot), scenes, what, why)


def _array(root: zarr.Group, path: str) -> zarr.Array:
    return cast("zarr.Array", root[path])
