"""Scenes into the cube: stage, check, plan what each slot is made of, write it, commit.

A batch of scenes becomes one snapshot. A scene that turns out unreadable while it is written takes nothing with it: the
batch's uncommitted work is discarded and written again without it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline import cube as cubes
from pipeline import mosaic, schema
from pipeline.config import Settings
from pipeline.cube import SceneRow
from pipeline.errors import SceneError
from pipeline.ledger import Entry, FileKey, Ledger, State
from pipeline.mosaic import Layer, Mosaic
from pipeline.scene import Contract, check, discover, identify, open_geotiff, stage
from pipeline.schema import Layout
from pipeline.store import CubeStore, Transaction

BATCH = 32  # scenes a commit: the cost of a commit is spread, a crash costs little
PASSING = frozenset({"unstable", "no-mask", "companion-gone"})  # reasons that time may mend: the file stays pending

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest did.

    Attributes:
        snapshot: the newest snapshot afterwards; None where no cube came to be.
        entries: the ledger's word on each file that was looked at in this run.
        seen: files in the ledger by state, all runs together.
    """

    snapshot: str | None
    entries: tuple[Entry, ...]
    seen: dict[State, int]

    def count(self, state: State) -> int:
        """Files of this run that ended in ``state``."""
        return sum(entry.state is state for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of the inbox that is a scene of this product."""

    key: FileKey
    layer: Layer

    @property
    def digest(self) -> str:
        """Hash of the file."""
        return self.layer.scene.sha256


@dataclass(slots=True)
class Batch:
    """The files of one snapshot on their way: still fresh, or decided."""

    fresh: list[Candidate]
    entries: list[Entry]

    def refuse(self, faults: dict[str, SceneError]) -> None:
        """Decides on the fresh files with these hashes."""
        self.entries += [
            _refusal(one.key, one.digest, faults[one.digest]) for one in self.fresh if one.digest in faults
        ]
        self.fresh = [one for one in self.fresh if one.digest not in faults]


def ingest(settings: Settings, *, progress: Progress | None = None) -> Report:
    """Brings every new file of the inbox into the cube or says why not; done twice it is done once.

    Args:
        settings: the product.
        progress: told how many files are decided, of how many.

    Raises:
        CubecastError: the inbox is missing, or the cube belongs to another configuration.
    """
    ledger = Ledger(settings.paths.ledger)
    decided = ledger.decided()
    files = [path for path in discover(settings.scenes) if FileKey.of(path) not in decided]
    entries: list[Entry] = []
    for paths in _batches(files):
        entries += _ingest_batch(settings, ledger, paths)
        if progress is not None:
            progress(len(entries), len(files))
    store = CubeStore(settings.paths.cube)
    return Report(store.tip() if store.exists() else None, tuple(entries), ledger.counts())


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    remaining = iter(files)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _ingest_batch(settings: Settings, ledger: Ledger, paths: Sequence[Path]) -> list[Entry]:
    with _staging(settings.paths.root) as folder:
        examined = mosaic.on_dask(partial(examine, path, settings, folder) for path in paths)
        batch = Batch(
            [one for one in examined if isinstance(one, Candidate)], [one for one in examined if isinstance(one, Entry)]
        )
        if batch.fresh:
            _write(settings, batch, folder)
        _keep_refused(settings, batch.entries)
    ledger.record(batch.entries)
    return batch.entries


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=root) as folder:
        yield Path(folder)


def examine(path: Path, settings: Settings, folder: Path) -> Candidate | Entry:
    """Stages a file and checks it against the contract: a candidate, or the ledger's word on why not."""
    key = FileKey.of(path)
    digest = ""
    try:
        staged = stage(path, folder)
        digest = staged.sha256
        scene = identify(staged, settings.scenes)
        slot = _slot(scene.acquired, settings)
        with open_geotiff(staged.path) as dataset:
            place = check(dataset, Contract(settings.bands, settings.grid.geobox()))
    except SceneError as fault:
        return _refusal(key, digest, fault)
    return Candidate(key, Layer(staged, scene, slot, place))


def _slot(acquired: datetime, settings: Settings) -> int:
    axis = settings.axis.axis()
    slot = axis.slot(acquired)
    if slot < 0:
        detail = f"acquired {acquired:%Y-%m-%d %H:%M}Z, the cube starts {axis.origin:%Y-%m-%d %H:%M}Z"
        raise SceneError("before-origin", detail)
    return slot


def _refusal(key: FileKey, digest: str, fault: SceneError) -> Entry:
    state = State.PENDING if fault.reason in PASSING else State.QUARANTINED
    return Entry(key, state, digest, fault.reason, fault.detail)


def _write(settings: Settings, batch: Batch, folder: Path) -> None:
    """Brings what is fresh in the batch into the cube, and decides on all of it."""
    layout = Layout.of(settings)
    with CubeStore(settings.paths.cube).writer() as transaction:
        _prepare(transaction, layout)
        rows = cubes.read_rows(transaction.group)
        _sort_out(batch, rows)
        while batch.fresh:
            mosaics = _plan(batch, rows, settings, folder)
            outcome = mosaic.write(transaction.group, mosaics, layout, settings.scenes.mask)
            if not outcome.broken:
                _commit(transaction, batch, rows, layout, outcome.good)
                return
            transaction.discard()
            batch.refuse(outcome.broken)


def _prepare(transaction: Transaction, layout: Layout) -> None:
    if "layout" in transaction.group.attrs:
        schema.check(transaction.group, layout)
        return
    schema.create(transaction.group, layout)
    transaction.commit("create", {"product": layout.product})


def _sort_out(batch: Batch, rows: Sequence[SceneRow]) -> None:
    """Decides on files that bring nothing new: bytes known already, or a lower revision than what is known."""
    known = {row.scene.sha256: row for row in rows}
    best = {row.scene.identity: row.scene.rank for row in rows if not row.superseded}
    fresh: dict[tuple, Candidate] = {}
    for one in sorted(batch.fresh, key=lambda one: one.layer.scene.rank, reverse=True):
        scene = one.layer.scene
        rival = fresh.get(scene.identity)
        if scene.sha256 in known:
            batch.entries.append(_seen_before(one, known[scene.sha256]))
        elif rival is not None and rival.digest == one.digest:
            batch.entries.append(_duplicate(one, rival.layer.scene.source))
        elif rival is not None or best.get(scene.identity, ("", "")) > scene.rank:
            batch.entries.append(
                Entry(one.key, State.SUPERSEDED, one.digest, "older-revision", "a higher one is known")
            )
        else:
            fresh[scene.identity] = one
    batch.fresh = sorted(fresh.values(), key=lambda one: (one.layer.slot, one.key.name))


def _seen_before(one: Candidate, row: SceneRow) -> Entry:
    if row.scene.source != one.layer.scene.source:
        return _duplicate(one, row.scene.source)
    # A crash came between the commit and the ledger: the cube knows.
    return Entry(one.key, State.SUPERSEDED if row.superseded else State.ACCEPTED, one.digest)


def _duplicate(one: Candidate, original: str) -> Entry:
    return Entry(one.key, State.DUPLICATE, one.digest, "same-bytes", f"equal to {original}")


def _plan(batch: Batch, rows: Sequence[SceneRow], settings: Settings, folder: Path) -> list[Mosaic]:
    """What each touched slot is made of; refuses scenes whose slot cannot be composed again."""
    by_slot: dict[int, list[Candidate]] = defaultdict(list)
    for one in batch.fresh:
        by_slot[one.layer.slot].append(one)
    mosaics: list[Mosaic] = []
    for slot, arrivals in by_slot.items():
        replaced = {one.layer.scene.identity for one in arrivals}
        stay = [row for row in rows if row.slot == slot and not row.superseded and row.scene.identity not in replaced]
        companions = _companions(stay, settings, folder)
        if len(companions) == len(stay):
            mosaics.append(Mosaic.of(slot, companions + [one.layer for one in arrivals], settings.axis.axis()))
        else:
            names = ", ".join(row.scene.source for row in stay)
            fault = SceneError(
                "companion-gone", f"its slot also holds {names}, no longer whole in the inbox: put it back"
            )
            batch.refuse({one.digest: fault for one in arrivals})
    return mosaics


def _companions(rows: Sequence[SceneRow], settings: Settings, folder: Path) -> list[Layer]:
    """Scenes that are in the slot already, read again from the inbox, where they still have the same bytes."""
    paths = [settings.scenes.folder / row.scene.source for row in rows]
    examined = [examine(path, settings, folder) for path in paths if path.is_file()]
    wanted = {row.scene.sha256 for row in rows}
    return [one.layer for one in examined if isinstance(one, Candidate) and one.digest in wanted]


def _commit(
    transaction: Transaction, batch: Batch, rows: Sequence[SceneRow], layout: Layout, good: dict[str, int]
) -> None:
    identities = {one.layer.scene.identity for one in batch.fresh}
    replaced = [row for row in rows if not row.superseded and row.scene.identity in identities]
    pixels = layout.grid.height * layout.grid.width
    fresh = [SceneRow(one.layer.scene, one.layer.slot, good.get(one.digest, 0) / pixels) for one in batch.fresh]
    cubes.mark_superseded(transaction.group, [row.scene.sha256 for row in replaced])
    cubes.append_rows(transaction.group, fresh)
    transaction.commit(f"ingest {len(fresh)} scene(s)", {"scenes": [row.scene.id for row in fresh]})
    batch.entries += [Entry(one.key, State.ACCEPTED, one.digest) for one in batch.fresh]
    batch.fresh = []


def _keep_refused(settings: Settings, entries: Sequence[Entry]) -> None:
    """Copies quarantined files aside, untouched, each beside a note."""
    for entry in entries:
        if entry.state is State.QUARANTINED:
            folder = settings.paths.quarantine / entry.reason
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(settings.scenes.folder / entry.key.name, folder / entry.key.name)
            note = {"file": entry.key.name, "sha256": entry.sha256, "reason": entry.reason, "detail": entry.detail}
            (folder / f"{entry.key.name}.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
