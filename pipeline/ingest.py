"""Scenes into the cube: stage, check, plan what each slot is made of, write it, commit.

A batch of scenes becomes one snapshot. A scene that turns out unreadable while it is written takes nothing with it: the
batch's uncommitted work is discarded and written again without it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import zarr

from pipeline import cube as cubes
from pipeline import mosaic, schema
from pipeline.config import Settings
from pipeline.cube import SceneRow
from pipeline.durable import locked
from pipeline.errors import SceneError, StoreError
from pipeline.ledger import Entry, FileKey, Ledger, State
from pipeline.mosaic import Layer, Mosaic, Version
from pipeline.scene import (
    Contract,
    Scene,
    Staged,
    check,
    check_mask,
    discover,
    identify,
    open_geotiff,
    stage,
    stage_mask,
)
from pipeline.schema import Layout
from pipeline.store import CubeStore, Transaction

BATCH = 32  # scenes a commit: the cost of a commit is spread, a crash costs little
CLOCKS = timedelta(days=1)  # how far the clocks of a sensor and of this machine may differ
STAGING = ".staging-"
# Reasons that time may mend: the file stays pending.
PASSING = frozenset({"unstable", "unavailable", "incomplete", "no-mask", "bad-mask", "from-future", "companion-gone"})

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
    def scene(self) -> Scene:
        """The scene that it is."""
        return self.layer.scene

    @property
    def slot(self) -> int:
        """Where it belongs."""
        return self.layer.slot


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a batch enters the cube, one file for each acquisition, and the word on files that bring nothing new."""

    fresh: tuple[Candidate, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What each touched slot is made of, and faults of the files whose slot cannot be composed."""

    mosaics: tuple[Mosaic, ...]
    faults: dict[Version, SceneError]


def ingest(settings: Settings, *, progress: Progress | None = None) -> Report:
    """Brings every new file of the inbox into the cube or says why not; done twice it is done once.

    Args:
        settings: the product.
        progress: told how many files are decided, of how many.

    Raises:
        CubecastError: the inbox is missing, the cube belongs to another configuration, or the disk takes no more.
    """
    store, ledger = CubeStore(settings.paths.cube), Ledger(settings.paths.ledger)
    contract = _contract(settings)
    entries: list[Entry] = []
    with _alone(settings.paths.root):
        files = _undecided(settings, store, ledger.decided(contract))
        for paths in _batches(files):
            decided = _ingest_batch(settings, paths)
            ledger.record(decided, contract)
            entries += decided
            if progress is not None:
                progress(len(entries), len(files))
    return Report(store.tip() if store.exists() else None, tuple(entries), ledger.counts())


@contextmanager
def _alone(root: Path) -> Iterator[None]:
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


def _contract(settings: Settings) -> str:
    """A name of all that decides whether a file is refused: under another configuration it gets another chance."""
    asked = (settings.scenes, *settings.bands, settings.grid, settings.axis)
    return hashlib.sha256("".join(part.model_dump_json() for part in asked).encode()).hexdigest()[:16]


def _undecided(settings: Settings, store: CubeStore, decided: set[FileKey]) -> list[Path]:
    """Files of the inbox that need a look; all of them where the cube is gone."""
    files = discover(settings.scenes)
    if not store.exists():
        return files
    schema.check(store.group(), Layout.of(settings))
    return [path for path in files if _key(path) not in decided]


def _key(path: Path) -> FileKey:
    """The version of a file that lies there now; of none where it has gone meanwhile."""
    try:
        return FileKey.of(path)
    except OSError:
        return FileKey(path.name, -1, -1)


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    remaining = iter(files)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _ingest_batch(settings: Settings, paths: Sequence[Path]) -> list[Entry]:
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=settings.paths.root) as name:
        folder = Path(name)
        examined = mosaic.on_dask(partial(examine, path, settings, folder) for path in paths)
        entries = [one for one in examined if isinstance(one, Entry)]
        candidates = [one for one in examined if isinstance(one, Candidate)]
        if candidates:
            entries += _write(settings, candidates, folder)
        for entry in entries:
            if entry.state is State.QUARANTINED:
                _keep(entry, folder / entry.key.name, settings.paths.quarantine / entry.reason)
    return entries


def examine(path: Path, settings: Settings, folder: Path) -> Candidate | Entry:
    """Stages a file and checks it against the contract: a candidate, or the ledger's word on why not."""
    key = _key(path)
    digest = ""
    try:
        staged = stage(path, folder)
        digest = staged.sha256
        return Candidate(key, _layer(staged, settings, folder))
    except SceneError as fault:
        return _refusal(key, digest, fault)


def _layer(staged: Staged, settings: Settings, folder: Path) -> Layer:
    scene = identify(staged, settings.scenes)
    slot = _slot(scene.acquired, settings)
    grid, spec = settings.grid.geobox(), settings.scenes.mask
    with open_geotiff(staged.path) as dataset:
        place = check(dataset, Contract(settings.bands, grid))
    if spec is None:
        return Layer(staged, None, scene, slot, place)
    mask = stage_mask(staged.source, spec, folder / "masks")
    check_mask(mask, grid, place)
    return Layer(staged, mask, scene, slot, place)


def _slot(acquired: datetime, settings: Settings) -> int:
    axis = settings.axis.axis()
    slot = axis.slot(acquired)
    if slot < 0:
        detail = f"acquired {acquired:%Y-%m-%d %H:%M}Z, the cube starts {axis.origin:%Y-%m-%d %H:%M}Z"
        raise SceneError("before-origin", detail)
    if acquired > datetime.now(UTC) + CLOCKS:  # one such file would make the time axis endless
        raise SceneError("from-future", f"acquired {acquired:%Y-%m-%d %H:%M}Z, later than now: check name and clock")
    return slot


def _refusal(key: FileKey, digest: str, fault: SceneError) -> Entry:
    state = State.PENDING if fault.reason in PASSING else State.QUARANTINED
    return Entry(key, state, digest, fault.reason, fault.detail)


def _write(settings: Settings, candidates: list[Candidate], folder: Path) -> list[Entry]:
    """Brings what is new into the cube as one snapshot, and says what became of each candidate."""
    layout = Layout.of(settings)
    refused: list[Entry] = []
    with CubeStore(settings.paths.cube).writer() as transaction:
        while True:
            rows = _prepare(transaction.group, layout)
            choice = choose(candidates, rows)
            plan = _plan(choice.fresh, rows, settings, folder)
            outcome = mosaic.write(transaction.group, plan.mosaics, layout, settings.scenes.mask)
            faults = plan.faults | _faults(plan.mosaics, outcome.broken, choice.fresh)
            if not faults:
                return [*refused, *choice.entries, *_commit(transaction, choice.fresh, rows, layout, outcome.good)]
            transaction.discard()
            broken = [one for one in candidates if one.scene.version in faults]
            refused += [_refusal(one.key, one.scene.sha256, faults[one.scene.version]) for one in broken]
            candidates = [one for one in candidates if one.scene.version not in faults]


def _prepare(root: zarr.Group, layout: Layout) -> list[SceneRow]:
    """The scenes table of the cube, which is created where there is none."""
    if "layout" in root.attrs:
        schema.check(root, layout)
    else:
        schema.create(root, layout)
    return cubes.read_rows(root)


def choose(candidates: Sequence[Candidate], rows: Sequence[SceneRow]) -> Choice:
    """The best version of each acquisition, if it is better than what the cube has; it looks at the scenes alone."""
    current = {row.scene.identity: row.scene for row in rows if not row.superseded}
    fresh: dict[tuple, Candidate] = {}
    entries: list[Entry] = []
    by_name = sorted(candidates, key=lambda one: one.key.name)
    for one in sorted(by_name, key=lambda one: one.scene.rank, reverse=True):
        identity = one.scene.identity
        rival = fresh[identity].scene if identity in fresh else current.get(identity)
        if rival is None or _replaces(one.scene, rival):
            fresh[identity] = one
        else:
            entries.append(_settled(one, rival))
    return Choice(tuple(sorted(fresh.values(), key=lambda one: (one.slot, one.key.name))), tuple(entries))


def _replaces(scene: Scene, rival: Scene) -> bool:
    """A higher rank wins; at equal revisions a file that was replaced in place wins over its old bytes."""
    if scene.sha256 == rival.sha256:
        return False
    in_place = scene.source == rival.source and scene.revision == rival.revision
    return in_place or scene.rank > rival.rank


def _settled(one: Candidate, rival: Scene) -> Entry:
    digest = one.scene.sha256
    if digest != rival.sha256:
        return Entry(one.key, State.SUPERSEDED, digest, "older-revision", f"{rival.source} is a newer version")
    if one.scene.source != rival.source:
        return Entry(one.key, State.DUPLICATE, digest, "same-bytes", f"equal to {rival.source}")
    return Entry(one.key, State.ACCEPTED, digest)  # a crash came between commit and ledger: the cube knows


def _plan(fresh: Sequence[Candidate], rows: Sequence[SceneRow], settings: Settings, folder: Path) -> Plan:
    by_slot: dict[int, list[Candidate]] = defaultdict(list)
    for one in fresh:
        by_slot[one.slot].append(one)
    mosaics: list[Mosaic] = []
    faults: dict[Version, SceneError] = {}
    for slot, arrivals in by_slot.items():
        replaced = {one.scene.identity for one in arrivals}
        stay = [row for row in rows if row.slot == slot and not row.superseded and row.scene.identity not in replaced]
        companions = _companions(stay, settings, folder / "companions")
        if len(companions) == len(stay):
            mosaics.append(Mosaic.of(slot, companions + [one.layer for one in arrivals], settings.axis.axis()))
        else:
            faults |= dict.fromkeys([one.scene.version for one in arrivals], _companion_gone(row.scene for row in stay))
    return Plan(tuple(mosaics), faults)


def _companions(rows: Sequence[SceneRow], settings: Settings, folder: Path) -> list[Layer]:
    """Scenes that are in the slot already, read again from the inbox, where they still have the same bytes."""
    examined = [examine(settings.scenes.folder / row.scene.source, settings, folder) for row in rows]
    wanted = {row.scene.version for row in rows}
    return [one.layer for one in examined if isinstance(one, Candidate) and one.scene.version in wanted]


def _companion_gone(scenes: Iterable[Scene]) -> SceneError:
    names = ", ".join(scene.source for scene in scenes)
    return SceneError("companion-gone", f"its slot also holds {names}, no longer whole in the inbox: put it back")


def _faults(
    mosaics: Sequence[Mosaic], broken: dict[Version, SceneError], fresh: Sequence[Candidate]
) -> dict[Version, SceneError]:
    """Faults of fresh scenes: their own ones, or that a scene which was in their slot before can no longer be read."""
    versions = {one.scene.version for one in fresh}
    faults: dict[Version, SceneError] = {}
    for slot in mosaics:
        own = [layer.scene.version for layer in slot.layers if layer.scene.version in versions]
        old = [layer.scene for layer in slot.layers if layer.scene.version in broken.keys() - versions]
        faults |= {version: broken[version] for version in own if version in broken}
        if old:
            faults = dict.fromkeys(own, _companion_gone(old)) | faults
    return faults


def _commit(
    transaction: Transaction,
    fresh: Sequence[Candidate],
    rows: Sequence[SceneRow],
    layout: Layout,
    good: dict[Version, int],
) -> list[Entry]:
    if fresh:
        values = layout.grid.height * layout.grid.width * len(layout.groups)
        added = [SceneRow(one.scene, one.slot, good.get(one.scene.version, 0) / values) for one in fresh]
        identities = {row.scene.identity for row in added}
        replaced = [i for i, row in enumerate(rows) if not row.superseded and row.scene.identity in identities]
        cubes.mark_superseded(transaction.group, replaced)
        cubes.append_rows(transaction.group, added)
        transaction.commit(f"ingest {len(added)} scene(s)", {"scenes": [row.scene.id for row in added]})
    return [Entry(one.key, State.ACCEPTED, one.scene.sha256) for one in fresh]


def _keep(entry: Entry, staged: Path, folder: Path) -> None:
    """Puts a refused file aside, untouched, beside a note; a second one of its name does not replace it."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / entry.key.name
    if target.exists() and _sha256(target) != entry.sha256:
        target = folder / f"{target.stem}-{entry.sha256[:12]}{target.suffix}"
    shutil.move(staged, target)
    note = {"file": entry.key.name, "sha256": entry.sha256, "reason": entry.reason, "detail": entry.detail}
    target.with_name(f"{target.name}.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
