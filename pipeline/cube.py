"""The cube: write windows of a slot, keep the scenes table, read frames in physical units, also as of a past time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import schema
from pipeline.errors import StoreError
from pipeline.grid import Window
from pipeline.quality import missing
from pipeline.scene import Scene
from pipeline.schema import SCENE_COLUMNS, UNKNOWN_TIME, BandGroup, Layout
from pipeline.specs import BandSpec
from pipeline.store import CubeStore
from pipeline.times import from_seconds, seconds


@dataclass(frozen=True, slots=True)
class SceneRow:
    """A scene's place in the cube.

    Attributes:
        scene: the scene.
        slot: where it lies on the time axis.
        valid_fraction: part of the grid's pixels for which it has a good value, 0 to 1.
        superseded: another version has taken its place.
    """

    scene: Scene
    slot: int
    valid_fraction: float
    superseded: bool = False


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


def write_window(
    root: zarr.Group, group: BandGroup, slot: int, window: Window, data: NDArray, quality: NDArray[np.uint8]
) -> None:
    """Writes one window of one slot: ``data (band, y, x)`` in DN, ``quality (y, x)``."""
    rows, columns = window.slices
    _array(root, f"{group.name}/data")[slot, :, rows, columns] = data
    _array(root, f"{group.name}/quality")[slot, rows, columns] = quality


def write_acquired(root: zarr.Group, layout: Layout, slot: int, acquired: datetime) -> None:
    """Notes the exact acquisition time of a slot's best scene."""
    for group in layout.groups:
        _array(root, f"{group.name}/acquired")[slot] = seconds(acquired)


def read_rows(root: zarr.Group) -> list[SceneRow]:
    """The scenes table, in order of writing."""
    columns = {name: cast("NDArray", _array(root, f"scenes/{name}")[:]).tolist() for name in SCENE_COLUMNS}
    return [_row(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _row(value: dict[str, Any]) -> SceneRow:
    times = {name: from_seconds(value[name]) for name in ("acquired", "available_at")}
    scene = Scene(**times, **{name: value[name] for name in ("source", "tile", "revision", "sha256")})
    return SceneRow(scene, value["slot"], value["valid_fraction"], value["superseded"])


def append_rows(root: zarr.Group, rows: Sequence[SceneRow]) -> None:
    """Adds rows to the scenes table."""
    size = _array(root, "scenes/slot").shape[0]
    for name, value in _COLUMN_VALUES.items():
        array = _array(root, f"scenes/{name}")
        array.resize((size + len(rows),))
        kind = object if SCENE_COLUMNS[name] is str else array.dtype
        array[size:] = np.array([value(row) for row in rows], dtype=kind)


def mark_superseded(root: zarr.Group, indices: Iterable[int]) -> None:
    """Marks rows of the scenes table as replaced by another version."""
    for index in indices:
        _array(root, "scenes/superseded")[index] = True


@dataclass(frozen=True, slots=True)
class Cube:
    """A cube at one snapshot, for reading.

    Attributes:
        root: the root group, read-only.
        layout: its bands, grid and axis.
        snapshot: id of the snapshot.
        rows: its scenes, superseded ones too.
        as_of: only what was available at this time is seen; None: everything.
    """

    root: zarr.Group
    layout: Layout
    snapshot: str
    rows: tuple[SceneRow, ...]
    as_of: datetime | None = None

    @property
    def size(self) -> int:
        """Number of slots, empty ones included."""
        return _array(self.root, f"{self.layout.groups[0].name}/time").shape[0]

    def observed(self) -> NDArray[np.int64]:
        """Slots that hold a scene, ascending.

        Under ``as_of`` a slot counts only if all that it holds now was available then: its present content is never
        shown before its time, even where an older version of it once stood there.
        """
        present = {row.slot for row in self.rows if not row.superseded}
        late = {row.slot for row in self.rows if not row.superseded and self._unknown(row)}
        return np.array(sorted(present - late), np.int64)

    def _unknown(self, row: SceneRow) -> bool:
        return self.as_of is not None and row.scene.available_at > self.as_of

    def scenes(self, slots: Iterable[int]) -> list[Scene]:
        """Scenes that make up these slots, as far as they are seen."""
        wanted = {int(slot) for slot in slots} & set(self.observed().tolist())
        return [row.scene for row in self.rows if row.slot in wanted and not row.superseded]

    def read(self, slots: Sequence[int] | NDArray[np.int64], window: Window | None = None) -> Frames:
        """Physical values of all bands at ``slots``, in the order given; slots unseen under ``as_of`` are missing.

        Values below a band's floor are raised to it.

        Raises:
            StoreError: a chunk is damaged.
        """
        window = window or Window(0, self.layout.grid.height, 0, self.layout.grid.width)
        values = np.full((len(slots), *window.shape, len(self.layout.bands)), np.nan, np.float32)
        acquired = np.full(len(slots), UNKNOWN_TIME, np.int64)
        seen = set(self.observed().tolist())
        for index, slot in enumerate(int(slot) for slot in slots):
            if slot in seen:
                with _undamaged(f"slot {slot} ({self.layout.axis.valid_time(slot):%Y-%m-%d %H:%M}Z)"):
                    values[index] = self._read_slot(slot, window)
                    acquired[index] = _array(self.root, f"{self.layout.groups[0].name}/acquired")[slot]
        return Frames(values, np.isfinite(values), acquired)

    def _read_slot(self, slot: int, window: Window) -> NDArray[np.float32]:
        result = np.full((*window.shape, len(self.layout.bands)), np.nan, np.float32)
        rows, columns = window.slices
        for group in self.layout.groups:
            data = cast("NDArray", _array(self.root, f"{group.name}/data")[slot, :, rows, columns])
            unusable = cast("NDArray", _array(self.root, f"{group.name}/quality")[slot, rows, columns]) != 0
            for layer, band in zip(data, group.bands, strict=True):
                result[..., self.layout.bands.index(band)] = _physical(layer, band, unusable)
        return result

    def dataset(self, group: str | None = None) -> Any:
        """A band group as a lazy xarray.Dataset, with CRS and CF decoding; under ``as_of`` only its seen slots.

        Args:
            group: name of the band group; default: the first.
        """
        import xarray

        name = group or self.layout.groups[0].name
        dataset = xarray.open_zarr(self.root.store, group=name, consolidated=False, decode_coords="all")
        return dataset if self.as_of is None else dataset.isel(time=self.observed())


def open_cube(store: CubeStore, *, snapshot: str | None = None, as_of: datetime | None = None) -> Cube:
    """The cube at a snapshot (default: the newest), or as it was known at a time.

    Raises:
        StoreError: no cube, no such snapshot, an unknown schema, or a damaged scenes table.
    """
    snapshot = snapshot or store.tip()
    root = store.group(snapshot)
    layout = schema.read(root)
    with _undamaged("the scenes table"):
        return Cube(root, layout, snapshot, tuple(read_rows(root)), as_of)


@contextmanager
def _undamaged(what: str) -> Iterator[None]:
    """A chunk whose checksum is wrong or whose file is gone, as a sentence."""
    import icechunk

    try:
        yield
    except (ValueError, RuntimeError, OSError, icechunk.IcechunkError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"every chunk of a cube reads as it was written, but {what} does not: {reason}. The disk has changed it: "
            "restore the cube from a copy, or remove it and ingest again"
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


_COLUMN_VALUES: dict[str, Callable[[SceneRow], Any]] = {
    "source": lambda row: row.scene.source,
    "tile": lambda row: row.scene.tile,
    "acquired": lambda row: seconds(row.scene.acquired),
    "available_at": lambda row: seconds(row.scene.available_at),
    "revision": lambda row: row.scene.revision,
    "sha256": lambda row: row.scene.sha256,
    "slot": lambda row: row.slot,
    "valid_fraction": lambda row: row.valid_fraction,
    "superseded": lambda row: row.superseded,
}
