"""What a slot is made of: the scenes it shows, older versions kept for views of the past, where their pixels are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pipeline.grid import Window
from pipeline.ledger import WITHDRAWN, Entry, FileKey, State
from pipeline.scene import Fit, Scene
from pipeline.scenetable import SceneRow, SceneTable, best_first, outranks
from pipeline.schema import NO_LAYER
from pipeline.times import TimeAxis

Version = tuple[str, datetime, str]  # Scene.version


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that fits the contract, on its way into the cube.

    Attributes:
        key: which file.
        path: the private copy.
        scene: what it is.
        slot: where it belongs.
        fit: where it lies in the cube's grid.
        mask: private copy of its mask and where that lies, where the product has masks.
        lost: windows of the grid where the firewall has found it lost.
        again: a person wants it back after it was withdrawn.
    """

    key: FileKey
    path: Path
    scene: Scene
    slot: int
    fit: Fit
    mask: tuple[Path, Fit] | None = None
    lost: tuple[Window, ...] = ()
    again: bool = False

    @property
    def row(self) -> SceneRow:
        """Its row of the scenes table, before anything is known of its pixels."""
        return SceneRow(self.scene, self.slot, self.fit.place, file=(self.key.size, self.key.modified_ns))


@dataclass(frozen=True, slots=True)
class Part:
    """A scene of a slot.

    Attributes:
        row: its row of the scenes table, as it is going to be.
        index: of that row; None where it is new.
        arrival: where its pixels come from; None: from the cube.
        has_pixels: whether its pixels can be had.
    """

    row: SceneRow
    index: int | None = None
    arrival: Arrival | None = None
    has_pixels: bool = True


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A slot as it is going to be.

    Attributes:
        slot: which one.
        shown: what it is made of, best first.
        hidden: older versions of these, kept for views of the past.
        area: the parts of the grid that are written.
    """

    slot: int
    shown: tuple[Part, ...]
    hidden: tuple[Part, ...]
    area: tuple[Window, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every scene whose pixels it holds."""
        return self.shown + self.hidden

    def differs(self, before: Iterable[Part]) -> bool:
        """Whether it holds other pixels than the slot did."""
        stood = {part.row.scene.version for part in before if part.row.standing}
        return stood != {part.row.scene.version for part in self.shown} or any(part.arrival for part in self.parts)

    def seen(self, flags: Mapping[Version, int], lost: Mapping[Version, tuple[Window, ...]]) -> Mosaic:
        """The same with other flags and lost windows for the versions named."""

        def look(part: Part) -> Part:
            version, arrival = part.row.scene.version, part.arrival
            if arrival is not None and version in lost:
                arrival = replace(arrival, lost=lost[version])
            return replace(part, row=replace(part.row, flags=flags.get(version, part.row.flags)), arrival=arrival)

        return replace(self, shown=tuple(map(look, self.shown)), hidden=tuple(map(look, self.hidden)))


@dataclass(frozen=True, slots=True)
class Settled:
    """A slot after arrivals: every version of every scene in it, and the ledger's word on each arrival."""

    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]


def settle(before: Sequence[Part], arrivals: Sequence[Arrival]) -> Settled:
    """Lets arrivals take their places among the versions that a slot has; it looks at the scenes alone.

    The highest rank stands; at equal revisions a file that was replaced in place stands instead of its old bytes.
    """
    parts, entries = list(before), []
    by_name = sorted(arrivals, key=lambda one: one.key.name)
    for arrival in sorted(by_name, key=lambda one: one.scene.rank):
        twin = next((part for part in parts if part.row.scene.version == arrival.scene.version), None)
        if twin is None or _returns(arrival, twin, parts):
            parts = _enter(arrival, twin, parts)
        elif twin.row.withdrawn:
            detail = f"the bytes of {twin.row.scene.source} were withdrawn: retry it to have them back"
            entries.append(Entry(arrival.key, State.QUARANTINED, arrival.scene.sha256, WITHDRAWN, detail))
        elif twin.row.scene.source != arrival.scene.source:
            detail = f"equal to {twin.row.scene.source}"
            entries.append(Entry(arrival.key, State.DUPLICATE, arrival.scene.sha256, "same-bytes", detail))
        else:  # a crash came between commit and ledger: the cube knows, also whose place this one took
            entries += [_word(part.row, _key(part), parts) for part in parts if _gave_way(part, twin)]
            entries.append(_word(twin.row, arrival.key, parts))
    stood = {part.index for part in before if part.row.standing}
    told = [part for part in parts if part.arrival or (part.index in stood and part.row.superseded)]
    return Settled(tuple(parts), (*entries, *(_word(part.row, _key(part), parts) for part in told)))


def _gave_way(part: Part, best: Part) -> bool:
    same = part.row.scene.identity == best.row.scene.identity
    return same and part.index is not None and part.row.superseded and not part.row.withdrawn and best.row.standing


def _returns(arrival: Arrival, twin: Part, parts: Sequence[Part]) -> bool:
    """Whether a version that the slot had once comes back: it was withdrawn, or replaced in place and put back."""
    best = _standing(arrival.scene, parts)
    if twin.row.withdrawn:
        return arrival.again
    return twin.row.superseded and (best is None or _replaces(arrival.scene, best.row.scene))


def _enter(arrival: Arrival, twin: Part | None, parts: Sequence[Part]) -> list[Part]:
    """The versions with a new one, which stands or not; one that comes back keeps its row."""
    best = _standing(arrival.scene, parts)
    new = Part(arrival.row, arrival=arrival)
    if twin is not None:
        row = replace(twin.row, withdrawn=False, superseded=False, file=new.row.file)
        new = replace(new, row=row, index=twin.index)
    others = [part for part in parts if part is not twin]
    if best is None or _replaces(arrival.scene, best.row.scene):
        return [*(_superseded(part) if part is best else part for part in others), new]
    return [*others, _superseded(new)]


def _standing(scene: Scene, parts: Iterable[Part]) -> Part | None:
    return next((part for part in parts if part.row.standing and part.row.scene.identity == scene.identity), None)


def _key(part: Part) -> FileKey:
    return part.arrival.key if part.arrival else FileKey(part.row.scene.source, *part.row.file)


def _word(row: SceneRow, key: FileKey, parts: Sequence[Part]) -> Entry:
    """The ledger's word on a version of a scene."""
    if row.standing:
        return Entry(key, State.ACCEPTED, row.scene.sha256)
    best = (part.row.scene for part in parts if part.row.standing and part.row.scene.identity == row.scene.identity)
    detail = f"{next(best, row.scene).source} is a newer version"
    return Entry(key, State.SUPERSEDED, row.scene.sha256, "older-revision", detail)


def _replaces(scene: Scene, rival: Scene) -> bool:
    return _in_place(scene, rival) or scene.rank > rival.rank


def _in_place(scene: Scene, rival: Scene) -> bool:
    return scene.source == rival.source and scene.revision == rival.revision


def _superseded(part: Part) -> Part:
    return replace(part, row=replace(part.row, superseded=True))


def without(before: Sequence[Part], versions: Iterable[Version]) -> list[Part]:
    """The versions of a slot once some are withdrawn: the best ones left that the cube has kept stand instead."""
    gone = set(versions)
    parts = [_withdrawn(part) if part.row.scene.version in gone else part for part in before]
    taken = {part.row.scene.identity for part in parts if part.row.standing}
    best: dict[tuple, Part] = {}
    for part in parts:
        identity = part.row.scene.identity
        if part.row.kept and identity not in taken and (identity not in best or outranks(part.row, best[identity].row)):
            best[identity] = part
    risen = [id(part) for part in best.values()]
    return [replace(part, row=replace(part.row, superseded=False)) if id(part) in risen else part for part in parts]


def _withdrawn(part: Part) -> Part:
    return replace(part, row=replace(part.row, withdrawn=True), has_pixels=False)


def compose_slot(slot: int, parts: Sequence[Part], before: Sequence[Part], axis: TimeAxis, layers: int) -> Mosaic:
    """The mosaic of a slot's versions.

    Args:
        slot: which one.
        parts: every version, as :func:`settle` leaves them.
        before: what the slot was made of, whose places are written too.
        axis: of the cube.
        layers: index of the first layer that is free.
    """
    standing = {part.row.scene.identity: part.row for part in parts if part.row.standing}
    hidden = [part for part in parts if part.row.superseded and part.has_pixels and _was_known(part, standing)]
    shown = [part for part in parts if part.row.standing]
    placed, free = [], layers
    for part in [*shown, *hidden]:
        if part.row.layer == NO_LAYER and _needs_layer(part, [*shown, *hidden]):
            part, free = replace(part, row=replace(part.row, layer=free)), free + 1
        placed.append(part)
    order = {id(row): i for i, row in enumerate(best_first([part.row for part in placed], axis))}
    placed.sort(key=lambda part: order[id(part.row)])
    return Mosaic(
        slot,
        tuple(part for part in placed if part.row.standing),
        tuple(part for part in placed if not part.row.standing),
        tuple(dict.fromkeys(part.row.place for part in [*parts, *before])),
    )


def _was_known(part: Part, standing: Mapping[tuple, SceneRow]) -> bool:
    """Whether a superseded version was ever the best one known: it came before the one that stands."""
    winner = standing.get(part.row.scene.identity)
    known_first = winner is None or part.row.scene.available_at < winner.scene.available_at
    return part.row.layer != NO_LAYER or known_first


def _needs_layer(part: Part, parts: Sequence[Part]) -> bool:
    if not part.row.standing:
        return True
    return any(other is not part and other.row.place.intersection(part.row.place) for other in parts)


def parts_of(table: SceneTable, slot: int) -> list[Part]:
    """Every version that a slot of the cube has or had."""
    rows = {index: table.row(index) for index in table.of_slot(slot)}
    return [Part(row, index, has_pixels=row.kept) for index, row in rows.items()]
