from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from pipeline.amend import withdraw
from pipeline.audit import verify
from pipeline.ingest import Note
from pipeline.ledger import FileKey, Ledger, State
from pipeline.maintenance import collect, expire
from pipeline.transaction import Transaction
from tests.faults.record import FULL
from tests.pipeline.conftest import make_product

__all__ = ["make_product"]  # a fixture

HEIGHT, WIDTH, FILL, SLOTS = 264, 6, 65535, 2  # two chunks below each other: a layer keeps the one that differs
OFFSETS = (-30, 30)  # s
PLACES = {"a": slice(0, 5), "b": slice(2, 6)}  # columns; the tiles overlap
MADE = datetime(2024, 6, 1, 6, tzinfo=UTC)  # when a scene could be had, at the earliest
SCENES = {
    "pattern": "{tile}_{time}*.tif",
    "settle": timedelta(0),
    "revision_tag": "REVISION",
    "available_tag": "AVAILABLE",
    "firewall": {"stuck": "off", "level": "off", "lost": "off"},
}


class Cut(Exception):  # noqa: N818 - not an error, a power cut
    """The ingest's end."""


@dataclass(slots=True, eq=False)
class Version:
    """A scene as it was delivered, and what became of it."""

    name: str
    tile: str
    slot: int
    offset: int
    revision: str
    available: datetime
    values: NDArray  # (y, x) of the whole grid, DN; FILL where it has none
    sha256: str = ""
    standing: bool = False
    withdrawn: bool = False
    kept: bool = False

    @property
    def identity(self) -> tuple[str, int, int]:
        return self.tile, self.slot, self.offset

    @property
    def rank(self) -> tuple[str, str]:
        return self.revision, self.sha256

    def replaces(self, rival: Version) -> bool:
        in_place = self.name == rival.name and self.revision == rival.revision
        return in_place or self.rank > rival.rank


@dataclass(slots=True, eq=False)
class File:
    """A file in the inbox; ``version`` is None where it can never enter."""

    key: FileKey
    sha256: str
    version: Version | None


class Model:
    """What the cube should show and the ledger should say, as dictionaries."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, int, int], list[Version]] = defaultdict(list)
        self.said: dict[FileKey, tuple[str, State]] = {}  # hash, state
        self.again: set[FileKey] = set()

    def undecided(self, files: Iterable[File]) -> list[File]:
        """Files that an ingest looks at: all of them where there is no cube yet."""
        if not self.versions:
            return list(files)
        return [file for file in files if self.said.get(file.key, ("", State.PENDING))[1] is State.PENDING]

    def take(self, files: Iterable[File], decide: bool) -> None:
        """An ingest; where its end is cut off nothing is said of the files."""
        words: dict[FileKey, tuple[str, State]] = {}
        found = self.undecided(files)
        taken = [file for file in found if file.version]
        for file in found:
            if not file.version:
                words[file.key] = file.sha256, State.QUARANTINED
        for file in sorted(taken, key=lambda file: (file.version.rank if file.version else (), file.key.name)):
            words[file.key] = file.sha256, self._enter(file)
        if decide:
            for key in words:
                for other in [one for one in self.said if one.name == key.name and self.said[one][1] is State.PENDING]:
                    del self.said[other]
            self.said |= words
            self.again -= set(words)
            self.tell(file.version.identity for file in taken if file.version)

    def _enter(self, file: File) -> State:
        new = file.version
        assert new is not None
        versions = self.versions[new.identity]
        twin = next((one for one in versions if one.sha256 == new.sha256), None)
        best = next((one for one in versions if one.standing), None)
        if twin is None:
            versions.append(new)
        elif twin.withdrawn and file.key not in self.again:
            return State.QUARANTINED
        elif not twin.withdrawn and (twin.standing or (best is not None and not new.replaces(best))):
            return State.DUPLICATE if twin.name != new.name else State.SUPERSEDED
        here = twin or new
        here.withdrawn, here.standing = False, best is None or new.replaces(best)
        here.kept = True
        if best is not None and here.standing:
            best.standing = False
        return State.SUPERSEDED

    def tell(self, identities: Iterable[tuple[str, int, int]]) -> None:
        """The ledger's word on every version of these acquisitions, whenever its file was seen."""
        for version in [one for identity in identities for one in self.versions[identity]]:
            state = State.QUARANTINED if version.withdrawn else State.SUPERSEDED
            state = State.ACCEPTED if version.standing else state
            for key, (sha256, before) in self.said.items():
                if (key.name, sha256) == (version.name, version.sha256) and before is not State.PENDING:
                    self.said[key] = sha256, state

    def withdraw(self, name: str) -> None:
        for identity, versions in self.versions.items():
            gone = [one for one in versions if one.name == name and not one.withdrawn]
            for one in gone:
                one.withdrawn, one.standing = True, False
            left = [one for one in versions if one.kept and not one.withdrawn]
            if gone and left and not any(one.standing for one in left):
                max(left, key=lambda one: one.rank).standing = True
            self.tell([identity])

    def shown(self, slot: int, as_of: datetime | None) -> list[Version]:
        """Versions that make up a slot, best first."""
        chosen = []
        for (_, own, _), versions in self.versions.items():
            known = [one for one in versions if not one.withdrawn and (one.standing or (as_of and one.kept))]
            known = [one for one in known if as_of is None or one.available <= as_of]
            if own == slot and known:
                chosen.append(max(known, key=lambda one: (one.standing, one.rank)))
        return sorted(chosen, key=lambda one: (abs(one.offset), one.offset, one.tile, one.sha256))

    def values(self, slot: int, as_of: datetime | None = None) -> NDArray:
        """What a slot shows: ``(y, x)``, DN."""
        canvas = np.full((HEIGHT, WIDTH), FILL, np.uint16)
        for version in self.shown(slot, as_of):
            canvas = np.where(canvas == FILL, version.values, canvas)
        return canvas


class IngestMachine(RuleBasedStateMachine):
    """The real ingest against a model of it."""

    make: Callable[..., Any]

    @initialize()
    def begin(self) -> None:
        transform = (10, 0, 5e5, 0, -10, 5e6)
        self.product = type(self).make(scenes=SCENES, grid={"width": WIDTH, "height": HEIGHT, "transform": transform})
        self.model = Model()
        self.files: dict[str, File] = {}
        self.archive: list[tuple[bytes, Version]] = []
        self.tagged: dict[str, list[NDArray]] = {}
        self.seeds = 0
        self.checked = ""

    def teardown(self) -> None:
        if hasattr(self, "product"):
            shutil.rmtree(self.product.settings.workspace.parent)

    # --- deliveries

    def _name(self, tile: str, slot: int, offset: int, letter: str) -> str:
        time = self.product.time(slot) + timedelta(seconds=offset)
        return f"{tile}_{time:%Y%m%dT%H%M%SZ}_{letter}.tif"

    def _lies(self, path: Path, version: Version | None) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.files[path.name] = File(FileKey.of(path), digest, version)

    def _write(self, name: str, tile: str, dn: NDArray, revision: int, hour: int) -> Path:
        columns = PLACES[tile]
        tags = {"REVISION": str(revision), "AVAILABLE": (MADE + timedelta(hours=hour)).isoformat()}
        corner = self.product.transform @ Affine.translation(columns.start, 0)
        return self.product.scene(0, dn[None, :, columns], name=name, tags=tags, transform=corner, blockysize=16)

    @rule(
        tile=st.sampled_from("ab"),
        slot=st.integers(0, SLOTS - 1),
        offset=st.sampled_from(OFFSETS),
        letter=st.sampled_from("AB"),
        revision=st.integers(1, 3),
        hour=st.integers(0, 3),
        hole=st.sampled_from([slice(0, 0), slice(0, 9), slice(100, 260), slice(250, 264)]),
    )
    def deliver(self, tile: str, slot: int, offset: int, letter: str, revision: int, hour: int, hole: slice) -> None:
        self.seeds += 1
        values = np.full((HEIGHT, WIDTH), FILL, np.uint16)
        values[:, PLACES[tile]] = self.product.dn(self.seeds, (HEIGHT, WIDTH))[:, PLACES[tile]]
        values[hole] = FILL
        name = self._name(tile, slot, offset, letter)
        path = self._write(name, tile, values, revision, hour)
        available = MADE + timedelta(hours=hour)
        version = Version(name, tile, slot, offset, str(revision), available, values)
        self._lies(path, version)
        version.sha256 = self.files[name].sha256
        self.archive.append((path.read_bytes(), version))

    @rule(slot=st.integers(0, SLOTS - 1), hour=st.integers(0, 3), offset=st.sampled_from(OFFSETS))
    def deliver_and_ingest(self, slot: int, hour: int, offset: int) -> None:
        self.deliver("a", slot, offset, "A", 2, hour, slice(100, 260))
        self.ingest()

    @precondition(lambda self: self.archive)
    @rule(at=st.integers(0, 50), change=st.integers(1, 3), at_once=st.booleans())
    def deliver_another_version(self, at: int, change: int, at_once: bool) -> None:
        old = self.archive[at % len(self.archive)][1]
        letter = old.name[-5] if change == 1 else "AB"[old.name[-5] == "A"]
        revision = int(old.revision) % 3 + 1 if change == 3 else int(old.revision)
        self.deliver(old.tile, old.slot, old.offset, letter, revision, (at + change) % 4, slice(0, 9 * (at % 2)))
        if at_once:
            self.ingest()

    @precondition(lambda self: self.archive)
    @rule(at=st.integers(0, 50), letter=st.sampled_from("ABC"))
    def deliver_again(self, at: int, letter: str) -> None:
        """The bytes of an earlier file, under its own name or another one."""
        content, old = self.archive[at % len(self.archive)]
        path = self.product.inbox / self._name(old.tile, old.slot, old.offset, letter)
        path.write_bytes(content)
        again = Version(path.name, old.tile, old.slot, old.offset, old.revision, old.available, old.values, old.sha256)
        self._lies(path, again)

    @rule(tile=st.sampled_from("ab"), slot=st.integers(0, SLOTS - 1), empty=st.booleans())
    def deliver_what_is_refused(self, tile: str, slot: int, empty: bool) -> None:
        self.seeds += 1
        name = self._name(tile, slot, 0, "A")
        if empty:
            path = self._write(name, tile, np.full((HEIGHT, WIDTH), FILL, np.uint16), 4, self.seeds)
        else:
            path = self.product.inbox / name
            path.write_bytes(b"no TIFF" * self.seeds)
        self._lies(path, None)

    @precondition(lambda self: self.files)
    @rule(at=st.integers(0, 50))
    def remove(self, at: int) -> None:
        name = sorted(self.files)[at % len(self.files)]
        (self.product.inbox / name).unlink()
        del self.files[name]

    # --- ingests and their faults

    def _has_cube(self) -> bool:
        return self.product.store.exists()

    def _after(self, decide: bool = True) -> None:
        self.model.take(self.files.values(), decide)
        self._learn()

    def _learn(self) -> None:
        """Which overtaken versions the cube keeps is its own affair, but for those that were the best known once."""
        if not self._has_cube():
            return
        rows = {(row.scene.tile, row.scene.acquired, row.scene.sha256): row for row in self.product.cube().rows}
        for versions in self.model.versions.values():
            best = next((one for one in versions if one.standing), None)
            for one in versions:
                acquired = self.product.time(one.slot) + timedelta(seconds=one.offset)
                kept = rows[one.tile, acquired, one.sha256].kept
                if best is not None and not one.withdrawn and one.kept and one.available < best.available:
                    assert kept, f"{one.name} was the best known"
                one.kept = kept

    @rule()
    def ingest(self) -> None:
        if self._has_cube():
            self._remember()
        report = self.product.ingest()
        self._after()
        states = {key: state for key, (_, state) in self.model.said.items()}
        found = {entry.key: entry.state for entry in self.product.ledger.entries()}
        assert found == states
        assert report.seen == {state: list(states.values()).count(state) for state in State}
        assert all(states[file.key] is not State.PENDING for file in self.files.values())
        again = self.product.ingest()
        assert (again.snapshot, again.seen) == (report.snapshot, report.seen)
        assert again.entries == () or not self._has_cube()

    def _remember(self) -> None:
        """A lost ledger is made again from the cube and the quarantine."""
        if self.model.said:
            return
        for row in self.product.cube().rows:
            state = State.QUARANTINED if row.withdrawn else State.SUPERSEDED if row.superseded else State.ACCEPTED
            self.model.said[FileKey(row.scene.source, *row.file)] = row.scene.sha256, state
        for path in sorted(self.product.settings.paths.quarantine.glob("*/*.json")):
            entry = Note(**json.loads(path.read_text(encoding="utf-8"))).entry
            self.model.said.setdefault(entry.key, (entry.sha256, State.QUARANTINED))

    @rule()
    def crash_before_the_ledger(self) -> None:
        if self._has_cube():
            self._remember()
        undecided = self.model.undecided(self.files.values())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "record", _cut)
            with suppress(Cut):
                self.product.ingest()
        if undecided:
            self._after(decide=False)

    @rule()
    def crash_before_the_commit(self) -> None:
        if self._has_cube():
            self._remember()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Transaction, "commit", _cut)
            patch.setattr(Ledger, "record", _cut)
            with suppress(Cut):
                self.product.ingest()

    @rule()
    def lose_the_ledger(self) -> None:
        self.product.settings.paths.ledger.unlink(missing_ok=True)
        self.model.said, self.model.again = {}, set()

    # --- by hand

    def _withdrawable(self) -> list[str]:
        return sorted({v.name for vs in self.model.versions.values() for v in vs if not v.withdrawn})

    @precondition(lambda self: self._withdrawable())
    @rule(at=st.integers(0, 50))
    def withdraw(self, at: int) -> None:
        self._remember()
        names = self._withdrawable()
        withdraw(self.product.settings, names[at % len(names)], "by hand")
        self.model.withdraw(names[at % len(names)])
        for row in self.product.cube().rows:  # files that were taken in, but of which the ledger had not heard
            if row.scene.source == names[at % len(names)]:
                self.model.said.setdefault(FileKey(row.scene.source, *row.file), (row.scene.sha256, State.QUARANTINED))
        self._learn()

    @precondition(lambda self: self.files)
    @rule(at=st.integers(0, 50))
    def retry(self, at: int) -> None:
        name = sorted(self.files)[at % len(self.files)]
        file = self.files[name]
        sources = [v.name for vs in self.model.versions.values() for v in vs if v.sha256 == file.sha256]
        if file.key not in self.model.said or sources not in ([], [name]):
            return
        if self.model.said[file.key][1] is State.PENDING:
            return
        (entry,) = self.product.ledger.retry([name])
        assert entry.key == file.key
        self.model.said[file.key] = file.sha256, State.PENDING
        self.model.again.add(file.key)

    @precondition(lambda self: self._has_cube())
    @rule()
    def tag(self) -> None:
        name = f"tag-{len(self.tagged)}"
        self.product.store.tag(name)
        self.tagged[name] = [self.model.values(slot) for slot in range(SLOTS)]

    @precondition(lambda self: self._has_cube())
    @rule()
    def expire_and_collect(self) -> None:
        expire(self.product.store, datetime.now(UTC), floor=timedelta(0))
        collect(self.product.store, datetime.now(UTC), floor=timedelta(0))

    # --- laws

    def _matches(self, cube: Any, expected: list[NDArray], why: str) -> None:
        found = cube.read(range(min(cube.size, SLOTS))).values[..., 0]
        for slot, dn in enumerate(expected):
            physical = np.where(dn == FILL, np.nan, dn * 0.1 - 3.0).astype(np.float32)
            have = found[slot] if slot < len(found) else np.full_like(physical, np.nan)
            np.testing.assert_allclose(have, physical, rtol=1e-5, atol=1e-5, err_msg=f"slot {slot} {why}")

    @invariant()
    def the_cube_is_what_the_model_is(self) -> None:
        if not hasattr(self, "product") or not self._has_cube() or self.checked == self.product.store.tip():
            return
        times = {v.available for vs in self.model.versions.values() for v in vs}
        second = timedelta(seconds=1)
        for as_of in [None, *sorted({time + by for time in times for by in (-second, 0 * second)})]:
            cube = self.product.cube(as_of=as_of)
            shown = [self.model.shown(slot, as_of) for slot in range(SLOTS)]
            names = [[v.sha256 for v in versions] for versions in shown]
            assert [[row.scene.sha256 for row in cube.shown(slot)] for slot in range(SLOTS)] == names
            assert cube.observed().tolist() == [slot for slot in range(SLOTS) if shown[slot]]
            self._matches(cube, [self.model.values(slot, as_of) for slot in range(SLOTS)], f"as of {as_of}")
        for name, expected in self.tagged.items():
            snapshot = self.product.store.tags()[name]
            self._matches(self.product.cube(snapshot=snapshot), expected, name)
        cube = self.product.cube()
        assert verify(cube).damaged == ()
        for row in cube.rows:
            (version,) = [
                one
                for one in self.model.versions[row.scene.tile, row.slot, self._offset(row)]
                if one.sha256 == row.scene.sha256
            ]
            if row.standing:
                share = np.count_nonzero(version.values != FILL) / version.values.size
                assert row.valid_fraction == pytest.approx(share)
        self.checked = cube.snapshot

    def _offset(self, row: Any) -> int:
        return round((row.scene.acquired - self.product.time(row.slot)).total_seconds())


def _cut(*_: Any, **__: Any) -> None:
    raise Cut


def test_the_cube_is_what_its_scenes_make_it_whatever_happens(
    make_product: Callable[..., Any],
) -> None:
    IngestMachine.make = staticmethod(make_product)
    run_state_machine_as_test(
        IngestMachine,
        settings=settings(
            max_examples=150 if FULL else 12,
            phases=list(Phase) if FULL else [Phase.generate],
            stateful_step_count=30 if FULL else 15,
            deadline=None,
            database=None,
            derandomize=not FULL,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
