"""The scenes table: one row for every scene that is or was in the cube, and which of them a slot shows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import schema
from pipeline.firewall import Impression
from pipeline.grid import Window
from pipeline.scene import Scene
from pipeline.schema import MEASURES, NO_LAYER, NUMBERS, TABLE, TEXTS, Layout
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
        columns: by name, ``(scene,)``.
        layout: of the cube.
    """

    columns: Mapping[str, NDArray]
    layout: Layout
    _rows: dict[int, SceneRow] = field(default_factory=dict)

    @classmethod
    def read(cls, root: zarr.Group, layout: Layout) -> SceneTable:
        """The table of a cube; what schema 1 lacks has its default."""
        table = cast("zarr.Group", root["scenes"])
        if "numbers" not in table:
            return cls(_columns_of_schema_1(table), layout)
        arrays = {name: cast("NDArray", cast("zarr.Array", table[name])[:]) for name in TABLE}
        columns = {
            column: arrays[name][:, index] for name, (_, names) in TABLE.items() for index, column in enumerate(names)
        }
        return cls(columns | {name: columns[name].astype(object) for name in TEXTS}, layout)

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
        return np.unique(self.columns["slot"][self.standing])

    @property
    def standing(self) -> NDArray[np.bool_]:
        """Which rows their slots are made of."""
        return (self.columns["superseded"] == 0) & (self.columns["withdrawn"] == 0)

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
        place = Window(*(int(value[name]) for name in ("y0", "y1", "x0", "x1")))
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
            levels=(float(value["low"]), float(value["middle"]), float(value["high"])),
            file=(int(value["size"]), int(value["modified_ns"])),
            separable=place.y1 > place.y0,
        )


def _columns_of_schema_1(table: zarr.Group) -> dict[str, NDArray]:
    """An array for each column, and fewer of them."""
    found = {name: cast("NDArray", cast("zarr.Array", table[name])[:]) for name in table.array_keys()}
    size = len(found["slot"])
    absent = {name: np.zeros(size, np.int64) for name in NUMBERS} | {name: np.full(size, np.nan) for name in MEASURES}
    texts = {name: found[name].astype(object) for name in TEXTS}
    return absent | {"layer": np.full(size, NO_LAYER, np.int64)} | found | texts


def upgrade(root: zarr.Group, layout: Layout) -> None:
    """Brings a writable cube of schema 1 to the newest one; its chunks of pixels stay as they are."""
    rows = SceneTable.read(root, layout).rows()
    table = cast("zarr.Group", root["scenes"])
    for name in list(table.array_keys()):
        del table[name]
    schema.create_table(table)
    schema.create_layers(root, layout)
    append(root, rows)
    root.attrs["schema_version"] = schema.SCHEMA_VERSION


def append(root: zarr.Group, rows: Sequence[SceneRow]) -> None:
    """Adds rows to the scenes table."""
    table = cast("zarr.Group", root["scenes"])
    for name, (dtype, _) in TABLE.items():
        array = cast("zarr.Array", table[name])
        size = array.shape[0]
        array.resize((size + len(rows), array.shape[1]))
        array[size:] = np.array([_CELLS[name](row) for row in rows], dtype=object if dtype is str else dtype)


def replace(root: zarr.Group, changes: Mapping[int, SceneRow]) -> None:
    """Writes anew all but the texts of the rows at the indices of ``changes``."""
    for name in ("numbers", "measures") if changes else ():
        array = cast("zarr.Array", root[f"scenes/{name}"])
        array.oindex[np.array(list(changes))] = np.array([_CELLS[name](row) for row in changes.values()], array.dtype)


def _texts(row: SceneRow) -> tuple[str, ...]:
    return row.scene.source, row.scene.tile, row.scene.revision, row.scene.sha256


def _numbers(row: SceneRow) -> tuple[int, ...]:
    scene, place = row.scene, row.place if row.separable else Window(0, 0, 0, 0)
    times = (seconds(scene.acquired), seconds(scene.available_at))
    state = (row.slot, row.superseded, row.withdrawn, row.flags, row.layer)
    return (*times, *state, place.y0, place.y1, place.x0, place.x1, row.fingerprint, *row.file)


def _measures(row: SceneRow) -> tuple[float, ...]:
    return row.valid_fraction, *row.levels


_CELLS: dict[str, Callable[[SceneRow], tuple]] = {"texts": _texts, "numbers": _numbers, "measures": _measures}


def outranks(row: SceneRow, rival: SceneRow) -> bool:
    """Whether of two versions of one acquisition ``row`` is the better one.

    The standing version is. Of two that a provider wrote to one place under one revision it is the later one, of others
    the one of higher rank.
    """
    if row.standing != rival.standing:
        return row.standing
    if (row.scene.source, row.scene.revision) == (rival.scene.source, rival.scene.revision):
        return row.file[1] > rival.file[1]
    return row.scene.rank > rival.scene.rank


def shown_at(rows: Sequence[SceneRow], as_of: datetime | None) -> list[SceneRow]:
    """Of a slot's rows those that it was made of at a time, None for now: of every acquisition the best version known.

    The standing version is the best of all; where it was not available yet, the best of those that the cube has kept.
    """
    known: dict[tuple[str, datetime], SceneRow] = {}
    for row in rows:
        if not row.kept or (as_of is not None and row.scene.available_at > as_of):
            continue
        rival = known.get(row.scene.identity)
        if rival is None or outranks(row, rival):
            known[row.scene.identity] = row
    return list(known.values()) if as_of is not None else [row for row in known.values() if row.standing]


def best_first(rows: Iterable[SceneRow], axis: TimeAxis) -> list[SceneRow]:
    """Nearest to the slot's time first; it looks at the scenes alone, so that the order of arrival cannot matter."""

    def rank(row: SceneRow) -> tuple:
        distance = abs(axis.valid_time(row.slot) - row.scene.acquired)
        return distance, row.scene.acquired, row.scene.tile, row.scene.sha256

    return sorted(rows, key=rank)
