"""Scenes into the cube: find what is new in the inbox, look at it safely, admit what fits, say why the rest does not.

A batch of files becomes one snapshot. Every file is looked at in a private copy, its bytes only in child processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline import schema
from pipeline.admit import admit, refusal
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.durable import locked, replace_text
from pipeline.errors import NoCubeError, SceneError, StoreError
from pipeline.geotiff import check_size
from pipeline.inbox import Inbox, open_inbox
from pipeline.ledger import WITHDRAWN, Entry, FileKey, Ledger, State
from pipeline.mosaic import Arrival
from pipeline.reader import readers
from pipeline.scene import Fit, Staged, blaming_mask, check, check_mask, identify, mask_path
from pipeline.scenetable import SceneRow
from pipeline.schema import Layout
from pipeline.slots import Rules
from pipeline.store import CubeStore
from pipeline.times import TimeAxis
from pipeline.workers import on_threads

BATCH = 32  # scenes a commit: the cost of a commit is spread, a crash costs little
CLOCKS = timedelta(days=1)  # how far the clocks of a sensor and of this machine may differ
STAGING = ".staging-"
LONGEST_NAME = 200  # bytes; a note's name is longer than its file's, and 255 is what file systems take

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest did.

    Attributes:
        snapshot: the newest snapshot afterwards; None where no cube came to be.
        entries: the ledger's word on each file that was looked at in this run, or whose place another one took.
        seen: files in the ledger by state, all runs together.
    """

    snapshot: str | None
    entries: tuple[Entry, ...]
    seen: dict[State, int]

    def count(self, state: State) -> int:
        """Files of this run that ended in ``state``."""
        return sum(entry.state is state for entry in self.entries)


def ingest(settings: Settings, *, progress: Progress | None = None) -> Report:
    """Brings every new file of the inbox into the cube or says why not; done twice it is done once.

    Args:
        settings: the product.
        progress: told how many files are decided, of how many.

    Raises:
        CubecastError: the inbox is missing, the cube belongs to another configuration, or the disk takes no more.
    """
    store, ledger = store_of(settings), Ledger(settings.paths.ledger)
    inbox, contract = open_inbox(settings.scenes), contract_name(settings)
    entries: list[Entry] = []
    with alone(settings.paths.root):
        files = _undecided(inbox, store, ledger, settings)
        wanted = ledger.wanted()
        for keys in _batches(files):
            decided = _ingest_batch(settings, store, inbox, keys, wanted & set(keys))
            told = [entry for entry in decided if entry.key not in set(keys)]
            ledger.record([entry for entry in decided if entry.key in set(keys)], contract, told=told)
            entries += decided
            if progress is not None:
                progress(len(entries), max(len(files), len(entries)))
    return Report(_tip(store), tuple(entries), ledger.counts())


def _tip(store: CubeStore) -> str | None:
    return store.tip() if store.exists() else None


def rules_of(settings: Settings) -> Rules:
    """How a product's scenes become slots."""
    return Rules(Layout.of(settings), settings.scenes, settings.services.dask)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """One ingest of a product at a time: a second one waits, and then finds the work done."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "ingest.lock"):
            for folder in root.glob(f"{STAGING}*"):  # nobody else is at work: a killed ingest left it
                shutil.rmtree(folder)
            yield
    except OSError as error:
        msg = f"a workspace can be written, but {root} cannot: {error}. Mend its permissions or free space on its disk"
        raise StoreError(msg) from error


def contract_name(settings: Settings) -> str:
    """A name of all that decides whether a file is refused: under another configuration it gets another chance."""
    asked = (settings.scenes, *settings.bands, settings.grid, settings.axis)
    return hashlib.sha256("".join(part.model_dump_json() for part in asked).encode()).hexdigest()[:16]


def _undecided(inbox: Inbox, store: CubeStore, ledger: Ledger, settings: Settings) -> list[FileKey]:
    """Files of the inbox that need a look; all of them where the cube is gone."""
    files = inbox.files()
    try:
        schema.check(store.group(), Layout.of(settings))
    except NoCubeError:
        return files
    remember(settings, store, ledger)
    decided = ledger.decided(contract_name(settings))
    return [key for key in files if key not in decided]


def remember(settings: Settings, store: CubeStore, ledger: Ledger) -> None:
    """Makes a lost ledger again."""
    if not any(ledger.counts().values()):
        ledger.rebuild(remembered(settings, store))


def remembered(settings: Settings, store: CubeStore) -> list[Entry]:
    """What the cube and the quarantine know of files: a lost ledger is made from it."""
    entries = [
        Entry(FileKey(row.scene.source, *row.file), _state(row), row.scene.sha256, WITHDRAWN if row.withdrawn else "")
        for row in open_cube(store).rows
        if row.file != (0, 0)
    ]
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in settings.paths.quarantine.glob("*/*.json")]
    return entries + [Note(**note).entry for note in notes]


def _state(row: SceneRow) -> State:
    if row.withdrawn:
        return State.QUARANTINED
    return State.SUPERSEDED if row.superseded else State.ACCEPTED


@dataclass(frozen=True, slots=True)
class Note:
    """What lies beside a refused file."""

    file: str
    size: int
    modified_ns: int
    sha256: str
    reason: str
    detail: str
    contract: str

    @classmethod
    def of(cls, entry: Entry, contract: str) -> Note:
        """The note on a refusal."""
        return cls(*_facts(entry.key), entry.sha256, entry.reason, entry.detail, contract)

    @property
    def entry(self) -> Entry:
        """The ledger's word."""
        key = FileKey(self.file, self.size, self.modified_ns)
        return Entry(key, State.QUARANTINED, self.sha256, self.reason, self.detail, contract=self.contract)


def _facts(key: FileKey) -> tuple[str, int, int]:
    return key.name, key.size, key.modified_ns


def _batches(files: Sequence[FileKey]) -> Iterator[list[FileKey]]:
    remaining = iter(files)
    while batch := list(islice(remaining, BATCH)):
        yield batch


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a file gave: an arrival or the ledger's word on why not, and the private copy if there is one."""

    key: FileKey
    copy: Path | None = None
    arrival: Arrival | None = None
    refusal: Entry | None = None


def _ingest_batch(
    settings: Settings, store: CubeStore, inbox: Inbox, keys: Sequence[FileKey], wanted: set[FileKey]
) -> list[Entry]:
    """Looks at files and brings in what fits; ``wanted`` are those that a person wants back."""
    rules = rules_of(settings)
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=settings.paths.root) as name:
        looks = on_threads(partial(examine, key, inbox, Path(name), rules) for key in keys)
        entries = [look.refusal for look in looks if look.refusal]
        arrivals = [replace(look.arrival, again=look.key in wanted) for look in looks if look.arrival]
        if arrivals:
            slots = schema.manifest_slots(rules.layout)
            entries += store.update(partial(admit, arrivals=arrivals, rules=rules), manifest_slots=slots)
        copies = {look.key: look.copy for look in looks}
        for entry in entries:
            copy = copies.get(entry.key)
            if entry.state is State.QUARANTINED and entry.reason != WITHDRAWN and copy is not None:
                _keep(Note.of(entry, contract_name(settings)), copy, settings.paths.quarantine / entry.reason)
    return entries


def examine(key: FileKey, inbox: Inbox, folder: Path, rules: Rules) -> Look:
    """Copies a file aside and checks it against the contract."""
    staged = None
    try:
        staged = inbox.fetch(key, folder)
        return Look(key, staged.path, _arrival(key, staged, inbox, rules))
    except SceneError as fault:
        copy, digest = (staged.path, staged.sha256) if staged else (None, "")
        return Look(key, copy, refusal=refusal(key, digest, _in_its_name(fault, copy, key)))


def _in_its_name(fault: SceneError, copy: Path | None, key: FileKey) -> SceneError:
    """The fault as the user knows the file: the name of our copy is nobody's business."""
    return fault if copy is None else SceneError(fault.reason, fault.detail.replace(copy.name, key.name))


def arrival_of(key: FileKey, inbox: Inbox, folder: Path, rules: Rules) -> Arrival:
    """A file of the inbox, copied aside, that keeps the contract.

    Raises:
        SceneError: why it does not.
    """
    return _arrival(key, inbox.fetch(key, folder), inbox, rules)


def _arrival(key: FileKey, staged: Staged, inbox: Inbox, rules: Rules) -> Arrival:
    facts = readers().facts(staged.path)
    check_size(facts)
    scene = identify(staged, facts, rules.scenes)
    slot = _slot(scene.acquired, rules.layout.axis)
    fit = check(facts, rules.contract)
    mask = inbox.mask(key.name, staged.path.parent)
    return Arrival(key, staged.path, scene, slot, fit, mask and (mask, _mask_fit(mask, key.name, fit, rules)))


def _mask_fit(mask: Path, scene: str, fit: Fit, rules: Rules) -> Fit:
    assert rules.scenes.mask is not None
    with blaming_mask(mask_path(Path(scene), rules.scenes.mask).name):
        facts = readers().facts(mask)
        check_size(facts)
        return check_mask(facts, rules.scenes.mask, rules.contract, fit)


def _slot(acquired: datetime, axis: TimeAxis) -> int:
    slot = axis.slot(acquired)
    if slot < 0:
        detail = f"acquired {acquired:%Y-%m-%d %H:%M}Z, the cube starts {axis.origin:%Y-%m-%d %H:%M}Z"
        raise SceneError("before-origin", detail)
    if acquired > datetime.now(UTC) + CLOCKS:  # one such file would make the time axis endless
        raise SceneError("from-future", f"acquired {acquired:%Y-%m-%d %H:%M}Z, later than now: check name and clock")
    return slot


def _keep(note: Note, copy: Path, folder: Path) -> None:
    """Puts a refused file aside, untouched, beside a note; a second one of its name does not replace it."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / note.file
    if len(os.fsencode(note.file)) > LONGEST_NAME or (target.exists() and _sha256(target) != note.sha256):
        stem = os.fsencode(target.stem)[: LONGEST_NAME // 2].decode(errors="ignore")
        target = folder / f"{stem}-{note.sha256[:12]}{target.suffix[:8]}"
    shutil.move(copy, target)
    text = json.dumps(asdict(note), indent=2) + "\n"
    replace_text(target.with_name(f"{target.name}.json"), text)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
