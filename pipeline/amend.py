"""Changes of a cube by hand: scenes withdrawn, damaged slots made again from their recorded scenes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.admit import change, prepare
from pipeline.config import Settings
from pipeline.cube import store_of
from pipeline.errors import SceneError, StoreError
from pipeline.inbox import Inbox, open_inbox
from pipeline.ingest import STAGING, alone, arrival_of, contract_name, remember, rules_of
from pipeline.ledger import Entry, FileKey, Ledger, State
from pipeline.mosaic import Part, Settled, parts_of, without
from pipeline.scenetable import SceneRow, SceneTable
from pipeline.slots import Rules
from pipeline.store import Transaction


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a withdrawal did: the new snapshot, and the scenes taken out."""

    snapshot: str
    scenes: tuple[str, ...]


def withdraw(settings: Settings, name: str, why: str) -> Withdrawn:
    """Takes every version of a scene out of the cube; what stood behind it shows again, and older snapshots keep it.

    Args:
        settings: the product.
        name: the scene's file name.
        why: kept in the ledger.

    Raises:
        StoreError: the cube holds no such scene.
    """
    store, ledger, rules = store_of(settings), Ledger(settings.paths.ledger), rules_of(settings)
    with alone(settings.paths.root):
        remember(settings, store, ledger)
        gone, risen = store.update(partial(_take_out, name=name, rules=rules))
        entries = [
            Entry(FileKey(row.scene.source, *row.file), State.QUARANTINED, row.scene.sha256, "withdrawn", why)
            for row in gone
        ] + [Entry(FileKey(row.scene.source, *row.file), State.ACCEPTED, row.scene.sha256) for row in risen]
        ledger.record((), contract_name(settings), told=entries)
    return Withdrawn(store.tip(), tuple(row.scene.id for row in gone))


def _take_out(transaction: Transaction, name: str, rules: Rules) -> tuple[list[SceneRow], list[SceneRow]]:
    """Rows that are out now, and rows that stand in their places."""
    table = prepare(transaction.group, rules.layout)
    named = [row for row in table.rows() if row.scene.source == name]
    if not named:
        msg = f"a scene that is withdrawn is in the cube, but no scene came from {name}: see cubecast scenes list"
        raise StoreError(msg)
    fresh = [row for row in named if not row.withdrawn]  # none where a crash kept the ledger from hearing of it
    versions = {row.scene.version for row in fresh}
    slots = {row.slot: Settled(tuple(without(parts_of(table, row.slot), versions)), ()) for row in fresh}
    change(transaction, slots, table, rules, "withdraw")
    parts = [part for slot in slots.values() for part in slot.parts]
    return fresh or named, [part.row for part in parts if part.row.standing and _fell_before(part, table)]


def _fell_before(part: Part, table: SceneTable) -> bool:
    return part.index is not None and not table.row(part.index).standing


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of a damaged slot: whether it is whole again, and if not, why."""

    slot: int
    mended: bool
    reason: str = ""


def repair(settings: Settings, slots: Sequence[int]) -> list[Repair]:
    """Writes slots again from the files that their scenes came from, where those still lie in the inbox unchanged."""
    store, rules, inbox = store_of(settings), rules_of(settings), open_inbox(settings.scenes)
    with alone(settings.paths.root), tempfile.TemporaryDirectory(prefix=STAGING, dir=settings.paths.root) as name:
        return store.update(partial(_repair, slots=slots, rules=rules, inbox=inbox, folder=Path(name)))


def _repair(transaction: Transaction, slots: Sequence[int], rules: Rules, inbox: Inbox, folder: Path) -> list[Repair]:
    table = prepare(transaction.group, rules.layout)
    answers, settled = [], {}
    for slot in slots:
        try:
            settled[slot] = Settled(tuple(_from_files(table, slot, inbox, folder, rules)), ())
            answers.append(Repair(slot, mended=True))
        except SceneError as fault:
            answers.append(Repair(slot, mended=False, reason=str(fault)))
    faults = change(transaction, settled, table, rules, "repair") if settled else {}
    if faults:
        msg = f"scenes that were in the cube can be read again, but {next(iter(faults.values()))}"
        raise StoreError(msg)
    return answers


def _from_files(table: SceneTable, slot: int, inbox: Inbox, folder: Path, rules: Rules) -> list[Part]:
    """The versions of a slot, those whose pixels the cube keeps with their files as their source.

    Raises:
        SceneError: a file is gone, changed or unreadable.
    """
    parts = parts_of(table, slot)
    if not any(part.has_pixels for part in parts):
        raise SceneError("no-scene", "the cube knows of no scene that it could be made from: restore a backup")
    return [_from_file(part, inbox, folder, rules) if part.has_pixels else part for part in parts]


def _from_file(part: Part, inbox: Inbox, folder: Path, rules: Rules) -> Part:
    source = part.row.scene.source
    arrival = arrival_of(inbox.look(source), inbox, folder, rules)
    if arrival.scene.sha256 != part.row.scene.sha256:
        raise SceneError("changed", f"{source} holds other bytes than those in the cube: put the old file back")
    return replace(part, arrival=arrival)
