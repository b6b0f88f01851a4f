"""Arrivals into the cube, as one snapshot: settle who stands, write slots, let the firewall judge, commit.

A scene that turns out broken or impossible while it is written takes nothing with it: the uncommitted work is discarded
and done again without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import zarr

from pipeline import cube as cubes
from pipeline import firewall, scenetable, schema, slots
from pipeline.errors import SceneError
from pipeline.firewall import Verdict
from pipeline.judgement import judge
from pipeline.ledger import Entry, FileKey, State
from pipeline.mosaic import Arrival, Mosaic, Settled, Version, compose_slot, parts_of, settle
from pipeline.scenetable import SceneRow, SceneTable
from pipeline.schema import Layout
from pipeline.slots import Rules
from pipeline.store import Transaction

# Reasons that time may mend: the file stays pending.
PASSING = frozenset({"unstable", "unavailable", "incomplete", "no-mask", "bad-mask", "from-future"})


@dataclass(frozen=True, slots=True)
class Written:
    """Uncommitted work.

    Attributes:
        mosaics: the slots written.
        verdicts: what the firewall says of each scene that arrived.
        good: usable pixels of each scene that arrived.
        faults: scenes that cannot enter; where there is one, nothing may be committed.
    """

    mosaics: tuple[Mosaic, ...]
    verdicts: dict[Version, Verdict]
    good: dict[Version, int]
    faults: dict[Version, SceneError]


def prepare(root: zarr.Group, layout: Layout) -> SceneTable:
    """The scenes table of a writable cube, which is created where there is none and brought to the newest schema."""
    if "layout" in root.attrs:
        schema.check(root, layout)
        if root.attrs["schema_version"] != schema.SCHEMA_VERSION:
            scenetable.upgrade(root, schema.read(root))
    else:
        schema.create(root, layout)
    return SceneTable.read(root, layout)


def admit(transaction: Transaction, arrivals: Sequence[Arrival], rules: Rules) -> list[Entry]:
    """Brings arrivals into the cube as one snapshot.

    Returns:
        The ledger's word on each, and on scenes whose place another one has taken.
    """
    refused: list[Entry] = []
    remaining = list(arrivals)
    while True:
        table = prepare(transaction.group, rules.layout)
        settled = _settle(remaining, table)
        faults = change(transaction, settled, table, rules, "ingest")
        if not faults:
            return [*refused, *(entry for slot in settled.values() for entry in slot.entries)]
        transaction.discard()
        broken = [one for one in remaining if one.scene.version in faults]
        refused += [refusal(one.key, one.scene.sha256, faults[one.scene.version]) for one in broken]
        remaining = [one for one in remaining if one.scene.version not in faults]


def change(
    transaction: Transaction, settled: dict[int, Settled], table: SceneTable, rules: Rules, verb: str
) -> dict[Version, SceneError]:
    """Brings slots to what they shall be as one snapshot; where nothing differs there is none.

    Returns:
        Scenes that cannot be written as they arrive; where there is one, nothing is committed.
    """
    written = _write(transaction, settled, table, rules)
    if not written.faults:
        _commit(transaction, settled, written, table, verb)
    return written.faults


def refusal(key: FileKey, digest: str, fault: SceneError) -> Entry:
    """The ledger's word on a file with a fault."""
    state = State.PENDING if fault.reason in PASSING else State.QUARANTINED
    return Entry(key, state, digest, fault.reason, fault.detail)


def _settle(arrivals: Iterable[Arrival], table: SceneTable) -> dict[int, Settled]:
    by_slot: dict[int, list[Arrival]] = defaultdict(list)
    for one in arrivals:
        by_slot[one.slot].append(one)
    return {slot: settle(parts_of(table, slot), by_slot[slot]) for slot in sorted(by_slot)}


def _write(transaction: Transaction, settled: dict[int, Settled], table: SceneTable, rules: Rules) -> Written:
    mosaics = _mosaics(transaction.group, settled, table, rules.layout)
    outcome = slots.write(transaction, mosaics, rules)
    verdicts = {
        version: firewall.verdict(survey, rules.layout.leading.bands, rules.scenes.firewall)
        for version, survey in outcome.surveys.items()
    }
    faults = {version: said.refusal for version, said in verdicts.items() if said.refusal} | outcome.broken
    written = Written(tuple(mosaics), verdicts, outcome.good, faults)
    if faults:
        return written
    return _judged(transaction, written, _standing_changed(settled, verdicts, table), table, rules)


def _mosaics(root: zarr.Group, settled: dict[int, Settled], table: SceneTable, layout: Layout) -> list[Mosaic]:
    free = cubes.layers(root, layout)
    mosaics = []
    for slot, after in settled.items():
        if list(after.parts) == parts_of(table, slot):
            continue  # nothing new in it
        mosaic = compose_slot(slot, after.parts, parts_of(table, slot), layout.axis, free)
        if not mosaic.differs(parts_of(table, slot)):
            continue  # an older version that never was the best one known
        free = max([free, *(part.row.layer + 1 for part in mosaic.parts)])
        mosaics.append(mosaic)
    return mosaics


def _standing_changed(
    settled: dict[int, Settled], verdicts: dict[Version, Verdict], table: SceneTable
) -> list[SceneRow]:
    """Rows that are new, or stand or fall otherwise than before."""
    return [
        _with_verdict(part.row, verdicts.get(part.row.scene.version))
        for after in settled.values()
        for part in after.parts
        if part.index is None or table.row(part.index).standing != part.row.standing
    ]


def _judged(
    transaction: Transaction, written: Written, changed: Sequence[SceneRow], table: SceneTable, rules: Rules
) -> Written:
    """Writes again the slots of scenes with lost parts, and of scenes that others show to be stuck or shifted."""
    flags = {row.scene.version: row.flags for row in judge(changed, table, rules.scenes.firewall)}
    lost = {version: said.lost for version, said in written.verdicts.items() if said.lost}
    mosaics = {mosaic.slot: mosaic for mosaic in [*written.mosaics, *_elsewhere(flags, written.mosaics, table, rules)]}
    after = {slot: mosaic.seen(flags, lost) for slot, mosaic in mosaics.items()}
    again = [after[slot] for slot, mosaic in mosaics.items() if after[slot] != mosaic]
    second = slots.write(transaction, again, rules)
    return replace(written, mosaics=tuple(after.values()), good=written.good | second.good, faults=second.broken)


def _elsewhere(flags: Iterable[Version], mosaics: Sequence[Mosaic], table: SceneTable, rules: Rules) -> list[Mosaic]:
    """Slots that are not written, but some of whose scenes are seen with other eyes now."""
    touched = {mosaic.slot for mosaic in mosaics}
    known = {table.row(index).slot for version in flags for index in table.of_version(version)}
    axis = rules.layout.axis
    return [compose_slot(slot, parts_of(table, slot), (), axis, schema.NO_LAYER) for slot in sorted(known - touched)]


def _with_verdict(row: SceneRow, verdict: Verdict | None) -> SceneRow:
    return row if verdict is None else replace(row, fingerprint=verdict.fingerprint, levels=verdict.levels)


def _commit(
    transaction: Transaction, settled: dict[int, Settled], written: Written, table: SceneTable, verb: str
) -> None:
    """Brings the scenes table up to what was written, and makes all of it a snapshot."""
    final = {part.row.scene.version: part for mosaic in written.mosaics for part in mosaic.parts}
    parts = [final.get(p.row.scene.version, p) for after in settled.values() for p in after.parts]
    new = [_finished(part.row, written, table.layout) for part in parts if part.index is None]
    stored = {
        part.index: _finished(part.row, written, table.layout) if part.row.scene.version in written.good else part.row
        for part in [*parts, *final.values()]
        if part.index is not None
    }
    changed = {index: row for index, row in stored.items() if row != table.row(index)}
    again = [part.row for part in final.values() if part.arrival and part.index is not None]
    if not new and not changed and not again:
        return
    scenetable.replace(transaction.group, changed)
    scenetable.append(transaction.group, sorted(new, key=lambda row: (row.slot, row.scene.source)))
    ids = [row.scene.id for row in new or again or changed.values()]
    transaction.commit(f"{verb} {len(ids)} scene(s)", {"scenes": ids})


def _finished(row: SceneRow, written: Written, layout: Layout) -> SceneRow:
    """A new row with all that was learnt of its scene."""
    values = layout.grid.height * layout.grid.width * len(layout.groups)
    fraction = written.good.get(row.scene.version, 0) / values
    return replace(_with_verdict(row, written.verdicts.get(row.scene.version)), valid_fraction=fraction)
