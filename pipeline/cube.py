"""The cube: write windows of a slot, read frames in physical units, also as of a past time.

Chunks and codec (``schema.py``) were chosen by measuring writes and chips together: CPU-seconds to write a scene of
4096 x 4096 x 4 uint16 (134 MB) from memory, size on disk, and chips of 20 slots x 128 x 128 x 4 bands read per
CPU-second at random and at whole chunks, quality included; Icechunk on a local disk, two busy cores, medians of three.
c is the side of a data chunk, q of a quality chunk; every chunk has a checksum. The upper rows use zarr's own pipeline
with its defaults, the lower ones ``chunkio``.

================================== ===== ==== ===== ====== =======
chunks, codec                      write  MB  files random aligned
================================== ===== ==== ===== ====== =======
c128 q128, zstd 3                    4.4 79.0  2057    9.8      46
c128 q512, zstd 3                    2.8 78.9  1097    9.5      28
c256 q256, zstd 3                    1.9 79.2   521   11.7      20
c256 q512, zstd 3                   1.55 79.2   329   10.7      19
c512 q512, zstd 3                   1.25 79.3   137    7.4      11
c512 in shards of c128, zstd 3       1.5 78.9   137    8.4      20
c128 q512, lz4 5                    2.65 83.4  1097   17.9      52
c256 q512, zstd 3                   1.13 79.2   329   15.9      30
**c256 q512, lz4 9**                0.94 83.1   329   20.5      33
c512 q512, lz4 5                    0.78 84.2   137   11.1      15
plain Zarr, c128 q512, lz4 5         1.5 83.4  1091     36      76
================================== ===== ==== ===== ====== =======

lz4 costs 5 % of disk and halves the CPU time of both sides; a training cache of plain Zarr would read twice as fast,
which no training has needed yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import schema
from pipeline.compose import Pixels, compose, scene_pixels, slot_pixels, slots_pixels
from pipeline.config import Settings
from pipeline.errors import StoreError
from pipeline.grid import Window
from pipeline.quality import missing, unusable
from pipeline.scene import Scene
from pipeline.scenetable import SceneRow, SceneTable, best_first, shown_at
from pipeline.schema import UNKNOWN_TIME, BandGroup, Layout
from pipeline.specs import BandSpec
from pipeline.store import CubeStore
from pipeline.times import seconds

RUN_BYTES = 64 << 20  # of DN that one request reads
DAMAGE = (
    ValueError,
    RuntimeError,
    OSError,
    icechunk.IcechunkError,
)  # what a chunk that does not read as written raises


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Pixels of some slots in physical units.

    Attributes:
        values: ``(frame, y, x, band)``, float32, in the units of the bands; NaN where missing or flagged.
        validity: same shape; False exactly where ``values`` is NaN.
        acquired: ``(frame,)``, int64, seconds since 1970-01-01 UTC.
    """

    values: NDArray[np.float32]
    validity: NDArray[np.bool_]
    acquired: NDArray[np.int64]


def grow(root: zarr.Group, layout: Layout, slots: int) -> None:
    """Makes the time axis at least ``slots`` long; new slots are empty."""
    for group in layout.groups:
        arrays = cast("zarr.Group", root[group.name])
        size = _array(arrays, "time").shape[0]
        if slots <= size:
            continue
        for name in ("data", "quality", "acquired", "time"):
            array = _array(arrays, name)
            array.resize((slots, *array.shape[1:]))
        first, cadence = layout.axis.origin, layout.axis.cadence
        _array(arrays, "time")[size:] = seconds(first) + np.arange(size, slots) * int(cadence.total_seconds())


def grow_layers(root: zarr.Group, layout: Layout, layers: int) -> None:
    """Makes room for ``layers`` layers; new ones hold nothing of their own."""
    for group in layout.groups:
        for name in ("data", "quality"):
            array = _array(root, f"layers/{group.name}/{name}")
            if layers > array.shape[0]:
                array.resize((layers, *array.shape[1:]))


def layers(root: zarr.Group, layout: Layout) -> int:
    """How many layers there are."""
    return _array(root, f"layers/{layout.groups[0].name}/quality").shape[0]


def write_pixels(root: zarr.Group, path: str, index: int, pixels: Pixels) -> None:
    """Writes pixels of a slot (``path`` is a band group's name) or of a layer (``layers/`` before it)."""
    rows, columns = pixels.window.slices
    _array(root, f"{path}/data")[index, :, rows, columns] = pixels.data
    _array(root, f"{path}/quality")[index, rows, columns] = pixels.quality


def write_acquired(root: zarr.Group, layout: Layout, slot: int, acquired: datetime | None) -> None:
    """Notes the exact acquisition time of a slot's best scene, None where it has no scene."""
    for group in layout.groups:
        _array(root, f"{group.name}/acquired")[slot] = UNKNOWN_TIME if acquired is None else seconds(acquired)


@dataclass(frozen=True, slots=True)
class Cube:
    """A cube at one snapshot, for reading.

    Attributes:
        root: the root group, read-only.
        layout: its bands, grid and axis.
        snapshot: id of the snapshot.
        table: its scenes, superseded and withdrawn ones too.
        as_of: only what was available at this time is seen; None: everything.
    """

    root: zarr.Group
    layout: Layout
    snapshot: str
    table: SceneTable
    as_of: datetime | None = None

    @property
    def size(self) -> int:
        """Number of slots, empty ones included."""
        return _array(self.root, f"{self.layout.groups[0].name}/time").shape[0]

    @property
    def rows(self) -> list[SceneRow]:
        """Every row of the scenes table."""
        return self.table.rows()

    def observed(self) -> NDArray[np.int64]:
        """Slots that hold a scene, ascending; under ``as_of`` those of which a scene was available then."""
        slots = self.table.standing_slots()
        if self.as_of is None:
            return slots
        known = self.table.columns["available_at"] <= seconds(self.as_of)
        candidates = np.intersect1d(slots, self.table.columns["slot"][known])
        return np.array([slot for slot in candidates.tolist() if self.shown(slot)], np.int64)

    def shown(self, slot: int) -> list[SceneRow]:
        """Rows that make up a slot, best first; under ``as_of`` the best versions of what was available then."""
        rows = [self.table.row(index) for index in self.table.of_slot(slot)]
        shown = shown_at(rows, self.as_of)
        if not all(row.separable for row in rows) and len(shown) != sum(row.standing for row in rows):
            return []  # a part of a slot that cannot be taken apart
        return best_first(shown, self.layout.axis)

    def scenes(self, slots: Iterable[int]) -> list[Scene]:
        """Scenes that make up these slots, as far as they are seen."""
        return [row.scene for slot in sorted({int(slot) for slot in slots}) for row in self.shown(slot)]

    def read(self, slots: Sequence[int] | NDArray[np.int64], window: Window | None = None) -> Frames:
        """Physical values of all bands at ``slots``, in the order given; slots unseen under ``as_of`` are missing.

        Values below a band's floor are raised to it.

        Raises:
            StoreError: a chunk is damaged.
        """
        window = window or Window(0, self.layout.grid.height, 0, self.layout.grid.width)
        values = np.full((len(slots), *window.shape, len(self.layout.bands)), np.nan, np.float32)
        acquired = np.full(len(slots), UNKNOWN_TIME, np.int64)
        for at, run in self._runs([int(slot) for slot in slots], window):
            for group in self.layout.groups:
                for index, pixels in enumerate(self._read_run(group, run, window), at):
                    self._put(values[index], group, pixels)
            acquired[at : at + len(run)] = [seconds(self.shown(slot)[0].scene.acquired) for slot in run]
        return Frames(values, np.isfinite(values), acquired)

    def usable(self, slots: Iterable[int], window: Window) -> Iterator[NDArray[np.bool_]]:
        """Where :meth:`read` may find a value of any band, ``(y, x)`` of each slot; elsewhere it finds none.

        It reads the quality alone. A slot at a time: zarr takes a third more to pick several out of many.

        Raises:
            StoreError: a chunk is damaged.
        """
        arrays = [_array(self.root, f"{group.name}/quality") for group in self.layout.groups]
        for slot in slots:
            found = np.zeros(window.shape, bool)
            for group, array in zip(self.layout.groups, arrays, strict=True) if self.shown(slot) else ():
                if self._stands(slot):
                    with undamaged(self._named(slot)):
                        quality = cast("NDArray[np.uint8]", array[slot, *window.slices])
                else:
                    quality = self.pixels(group, slot, window).quality
                found |= ~unusable(quality)
            yield found

    def _named(self, slot: int) -> str:
        return f"slot {slot} ({self.layout.axis.valid_time(slot):%Y-%m-%d %H:%M}Z)"

    def _runs(self, slots: Sequence[int], window: Window) -> Iterator[tuple[int, list[int]]]:
        """Slots that are seen, in runs that one request can read, each with the position where it begins."""
        pixel = sum(group.dtype.itemsize * len(group.bands) for group in self.layout.groups)
        most = max(1, RUN_BYTES // (window.shape[0] * window.shape[1] * pixel))
        run: list[int] = []
        for index, slot in enumerate(slots):
            seen = bool(self.shown(slot))
            if run and not (seen and slot == run[-1] + 1 and len(run) < most and self._stands(slot)):
                yield index - len(run), run
                run = []
            if seen:
                run.append(slot)
        if run:
            yield len(slots) - len(run), run

    def _read_run(self, group: BandGroup, run: Sequence[int], window: Window) -> list[Pixels]:
        """A slot each; where something is damaged the error names the slot."""
        if len(run) > 1 and self._stands(run[0]):
            with suppress(*DAMAGE):
                return slots_pixels(self.root, group, range(run[0], run[-1] + 1), window)
        return [self.pixels(group, slot, window) for slot in run]

    def _put(self, values: NDArray[np.float32], group: BandGroup, pixels: Pixels) -> None:
        hidden = unusable(pixels.quality)
        for layer, band in zip(pixels.data, group.bands, strict=True):
            values[..., self.layout.bands.index(band)] = _physical(layer, band, hidden)

    def pixels(self, group: BandGroup, slot: int, window: Window) -> Pixels:
        """A slot as it is seen, in DN: as it stands, or composed of what was available.

        Raises:
            StoreError: a chunk is damaged.
        """
        shown = self.shown(slot)
        with undamaged(self._named(slot)):
            if not shown:
                return Pixels.absent(group, window)
            if self._stands(slot):
                return slot_pixels(self.root, group, slot, window)
            parts = [(scene_pixels(self.root, group, row, window), row.flags) for row in shown]
            return compose(group, window, [part.flagged(flags) for part, flags in parts if part is not None])

    def _stands(self, slot: int) -> bool:
        """Whether a slot is seen as it stands."""
        if self.as_of is None:
            return True
        rows = [self.table.row(index) for index in self.table.of_slot(slot)]
        standing = {row.scene.version for row in rows if row.standing}
        return standing == {row.scene.version for row in self.shown(slot)}

    def dataset(self, group: str | None = None) -> Any:
        """A band group as a lazy xarray.Dataset, with CRS and CF decoding; under ``as_of`` only its seen slots.

        Args:
            group: name of the band group; default: the first.
        """
        import xarray

        name = group or self.layout.groups[0].name
        dataset = xarray.open_zarr(self.root.store, group=name, consolidated=False, decode_coords="all")
        if self.as_of is None:
            return dataset
        raw = xarray.open_zarr(self.root.store, group=name, consolidated=False, decode_cf=False)
        group_of = next(group for group in self.layout.groups if group.name == name)
        return xarray.decode_cf(_as_known(raw, self, group_of), decode_coords="all")


def _as_known(raw: Any, cube: Cube, group: BandGroup) -> Any:
    """A raw dataset with the slots that are seen, each as it is seen; pixels are read when they are asked for."""
    import dask.array

    slots = cube.observed()
    dataset = raw.isel(time=slots)
    tile = _array(cube.root, f"{group.name}/data").chunks
    for name, chunks in (("data", tile), ("quality", (1, *tile[2:]))):
        view = _View(cube, group, name, slots, dataset[name].shape, dataset[name].dtype)
        dataset[name] = dataset[name].copy(data=dask.array.from_array(view, chunks=cast("Any", chunks)))
    first = [seconds(cube.shown(slot)[0].scene.acquired) for slot in slots.tolist()]
    dataset["acquired"] = dataset["acquired"].copy(data=np.array(first, np.int64))
    return dataset


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """``data`` or ``quality`` of the slots that are seen, as an array that reads one block at a time."""

    cube: Cube
    group: BandGroup
    name: str
    slots: NDArray[np.int64]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray:
        times, *bands, rows, columns = (range(n)[part] for part, n in zip(key, self.shape, strict=True))
        window = Window(rows.start, rows.stop, columns.start, columns.stop)
        blocks = [self.cube.pixels(self.group, int(self.slots[index]), window) for index in times]
        if self.name == "quality":
            return np.stack([block.quality for block in blocks])
        return np.stack([block.data[bands[0].start : bands[0].stop] for block in blocks])


def store_of(settings: Settings) -> CubeStore:
    """The home of a product's cube."""
    return CubeStore.of(settings.store, settings.paths.cube)


def open_cube(store: CubeStore, *, snapshot: str | None = None, as_of: datetime | None = None) -> Cube:
    """The cube at a snapshot (default: the newest), or as it was known at a time.

    Raises:
        StoreError: no cube, no such snapshot, an unknown schema, or a damaged scenes table.
    """
    snapshot = snapshot or store.tip()
    root = store.group(snapshot)
    layout = schema.read(root)
    with undamaged("the scenes table"):
        return Cube(root, layout, snapshot, SceneTable.read(root, layout), as_of)


@contextmanager
def undamaged(what: str) -> Iterator[None]:
    """A chunk whose checksum is wrong or whose file is gone, as a sentence."""
    try:
        yield
    except DAMAGE as error:
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"every chunk of a cube reads as it was written, but {what} does not: {reason}. The disk has changed it: "
            "cubecast cube verify names what is damaged, cubecast cube repair makes it again from the scenes"
        )
        raise StoreError(msg) from error


def _physical(layer: NDArray, band: BandSpec, unusable: NDArray[np.bool_]) -> NDArray[np.float32]:
    plain = band.scale == 1 and band.offset == 0
    exact = layer if plain else layer.astype(np.float64) * band.scale + band.offset
    values = exact.astype(np.float32)
    if band.floor is not None:
        values = np.maximum(values, np.float32(band.floor))
    values[unusable | missing(layer, band)] = np.nan
    return values


def _array(group: zarr.Group, path: str) -> zarr.Array:
    return cast("zarr.Array", group[path])
