"""The scenes table: one row for every scene that is or was in the cube, and which of them a slot shows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.firewall import Impression
from pipeline.grid import Window
from pipeline.scene import Scene
from pipeline.schema import NO_LAYER, SCENE_COLUMNS, Layout
from pipeline.times import TimeAxis, from_seconds, seconds


@dataclass(frozen=True, slots=True)
class SceneRow:
    """A scene's place in the cube.

    Attributes:
        scene: the scene.
        slot: where it lies on the time axis.
        place: the part of the grid that it covers.
        valid_fraction: part of the grid's pixels for which it has a good value, 0 to 1.
        superseded: another version has taken its place.
        withdrawn: it was taken out by hand.
        flags: bits of quality that all its pixels share.
        layer: where its pixels lie that its slot does not show; ``NO_LAYER`` where the slot shows all of them.
        fingerprint: of its pixels; 0 where they say nothing.
        levels: 1st, 50th and 99th percentile of its first band, in DN.
        file: size in bytes and time of modification in ns of the file that it came from.
        separable: whether its pixels can be told from those of the other scenes of its slot; not in cubes of schema 1.
    """

    scene: Scene
    slot: int
    place: Window
    valid_fraction: float = 0.0
    superseded: bool = False
    withdrawn: bool = False
    flags: int = 0
    layer: int = NO_LAYER
    fingerprint: int = 0
    levels: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    file: tuple[int, int] = (0, 0)
    separable: bool = True

    @property
    def standing(self) -> bool:
        """Whether its slot is made of it."""
        return not self.superseded and not self.withdrawn

    @property
    def kept(self) -> bool:
        """Whether the cube holds its pixels."""
        return not self.withdrawn and (not self.superseded or self.layer != NO_LAYER)

    @property
    def impression(self) -> Impression:
        """What the firewall compares with other scenes."""
        return Impression(self.scene.acquired, self.scene.tile, self.fingerprint, self.levels)


@dataclass(frozen=True, slots=True, eq=False)
class SceneTable:
    """The rows as columns, of which a cube of years needs few at a time.

    Attributes:
        columns: by name, ``(scene,)`` or ``(scene, part)``.
        layout: of the cube.
    """

    columns: Mapping[str, NDArray]
    layout: Layout
    _rows: dict[int, SceneRow] = field(default_factory=dict)

    @classmethod
    def read(cls, root: zarr.Group, layout: Layout) -> SceneTable:
        """The table of a cube; columns that an older schema lacks have their defaults."""
        table = cast("zarr.Group", root["scenes"])
        size = cast("zarr.Array", table["slot"]).shape[0]
        return cls({name: _column(table, name, size) for name in SCENE_COLUMNS}, layout)

    def __len__(self) -> int:
        return len(self.columns["slot"])

    def row(self, index: int) -> SceneRow:
        """One row."""
        if index not in self._rows:
            self._rows[index] = self._made({name: values[index] for name, values in self.columns.items()})
        return self._rows[index]

    def rows(self) -> list[SceneRow]:
        """Every row, in order of writing."""
        return [self.row(index) for index in range(len(self))]

    def of_slot(self, slot: int) -> list[int]:
        """Indices of a slot's rows, in order of writing."""
        return self._where(self.columns["slot"] == slot)

    def of_version(self, version: tuple[str, datetime, str]) -> list[int]:
        """Indices of the rows of one file, in order of writing."""
        same = self._where(self.columns["acquired"] == seconds(version[1]))
        return [index for index in same if self.row(index).scene.version == version]

    def standing_slots(self) -> NDArray[np.int64]:
        """Slots that hold a scene, ascending."""
        standing = ~(self.columns["superseded"] | self.columns["withdrawn"])
        return np.unique(self.columns["slot"][standing])

    def _where(self, condition: NDArray[np.bool_]) -> list[int]:
        return np.nonzero(condition)[0].tolist()

    def _made(self, value: dict[str, Any]) -> SceneRow:
        scene = Scene(
            source=str(value["source"]),
            tile=str(value["tile"]),
            acquired=from_seconds(value["acquired"]),
            available_at=from_seconds(value["available_at"]),
            revision=str(value["revision"]),
            sha256=str(value["sha256"]),
        )
        place = Window(*value["place"].tolist())
        return SceneRow(
            scene,
            slot=int(value["slot"]),
            place=place if place.y1 > place.y0 else Window(0, self.layout.grid.height, 0, self.layout.grid.width),
            valid_fraction=float(value["valid_fraction"]),
            superseded=bool(value["superseded"]),
            withdrawn=bool(value["withdrawn"]),
            flags=int(value["flags"]),
            layer=int(value["layer"]),
            fingerprint=int(value["fingerprint"]),
            levels=tuple(value["levels"].tolist()),
            file=tuple(value["file"].tolist()),
            separable=place.y1 > place.y0,
        )


def _column(table: zarr.Group, name: str, size: int) -> NDArray:
    column = SCENE_COLUMNS[name]
    if name in table:
        values = cast("NDArray", cast("zarr.Array", table[name])[:])
        return values.astype(object) if column.dtype is str else values
    return np.full((size, column.width) if column.width else (size,), column.default, column.dtype)


def append(root: zarr.Group, rows: Sequence[SceneRow]) -> None:
    """Adds rows to the scenes table."""
    table = cast("zarr.Group", root["scenes"])
    size = cast("zarr.Array", table["slot"]).shape[0]
    for name, value in _VALUES.items():
        array = cast("zarr.Array", table[name])
        array.resize((size + len(rows), *array.shape[1:]))
        array[size:] = _values([value(row) for row in rows], name, array)


def replace(root: zarr.Group, changes: Mapping[int, SceneRow], columns: Iterable[str]) -> None:
    """Writes the named columns of the rows at the indices of ``changes`` anew."""
    if not changes:
        return
    table, indices = cast("zarr.Group", root["scenes"]), np.array(list(changes))
    for name in columns:
        array = cast("zarr.Array", table[name])
        array.oindex[indices] = _values([_VALUES[name](row) for row in changes.values()], name, array)


def _values(values: list[Any], name: str, array: zarr.Array) -> NDArray:
    return np.array(values, dtype=object if SCENE_COLUMNS[name].dtype is str else array.dtype)


def shown_at(rows: Sequence[SceneRow], as_of: datetime | None) -> list[SceneRow]:
    """Of a slot's rows those that it was made of at a time, None for now: of every acquisition the best version known.

    The standing version is the best of all; where it was not available yet, the best of those that the cube has kept.
    """
    known: dict[tuple[str, datetime], SceneRow] = {}
    for row in rows:
        if not row.kept or (as_of is not None and row.scene.available_at > as_of):
            continue
        rival = known.get(row.scene.identity)
        if rival is None or (row.standing, row.scene.rank) > (rival.standing, rival.scene.rank):
            known[row.scene.identity] = row
    return list(known.values()) if as_of is not None else [row for row in known.values() if row.standing]


def best_first(rows: Iterable[SceneRow], axis: TimeAxis) -> list[SceneRow]:
    """Nearest to the slot's time first; it looks at the scenes alone, so that the order of arrival cannot matter."""

    def rank(row: SceneRow) -> tuple:
        distance = abs(axis.valid_time(row.slot) - row.scene.acquired)
        return distance, row.scene.acquired, row.scene.tile, row.scene.sha256

    return sorted(rows, key=rank)


_VALUES: dict[str, Callable[[SceneRow], Any]] = {
    "source": lambda row: row.scene.source,
    "tile": lambda row: row.scene.tile,
    "acquired": lambda row: seconds(row.scene.acquired),
    "available_at": lambda row: seconds(row.scene.available_at),
    "revision": lambda row: row.scene.revision,
    "sha256": lambda row: row.scene.sha256,
    "slot": lambda row: row.slot,
    "valid_fraction": lambda row: row.valid_fraction,
    "superseded": lambda row: row.superseded,
    "withdrawn": lambda row: row.withdrawn,
    "flags": lambda row: row.flags,
    "layer": lambda row: row.layer,
    "place": lambda row: (row.place.y0, row.place.y1, row.place.x0, row.place.x1),
    "fingerprint": lambda row: row.fingerprint,
    "levels": lambda row: row.levels,
    "file": lambda row: row.file,
}
