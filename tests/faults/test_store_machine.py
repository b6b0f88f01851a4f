from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from pipeline.errors import StoreError
from pipeline.maintenance import backup, collect, expire
from pipeline.store import CubeStore, Transaction
from tests.faults.record import FULL

SLOTS = 6
NOW = timedelta(0)
Values = tuple[int, ...]
SLOT = st.integers(0, SLOTS - 1)
VALUE = st.integers(1, 99)


class Cut(Exception):  # noqa: N818 - not an error, a power cut
    """The writer's end."""


class StoreMachine(RuleBasedStateMachine):
    """A cube against a dictionary of what each of its snapshots holds."""

    tags = Bundle("tags")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = CubeStore(self.folder / "cube")
        self.snapshots: dict[str, Values] = {}  # readable, oldest first
        self.history: list[str] = []  # oldest first
        self.tagged: dict[str, str] = {}
        self.names = 0

    @property
    def newest(self) -> Values:
        return self.snapshots[self.history[-1]] if self.history else (0,) * SLOTS

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _put(self, transaction: Transaction, changes: dict[int, int]) -> None:
        array = transaction.group.require_array("a", shape=(SLOTS,), chunks=(1,), dtype="int64", fill_value=0)
        for slot, value in changes.items():
            array[slot] = value

    def _committed(self, snapshot: str, changes: dict[int, int]) -> None:
        self.snapshots[snapshot] = tuple(changes.get(slot, value) for slot, value in enumerate(self.newest))
        self.history.append(snapshot)

    @rule(changes=st.dictionaries(SLOT, VALUE, min_size=1))
    def write(self, changes: dict[int, int]) -> None:
        with self.store.writer(manifest_slots=2) as transaction:
            self._put(transaction, changes)
            self._committed(transaction.commit("write", {}), changes)

    @precondition(lambda self: self.history)
    @rule(changes=st.dictionaries(SLOT, VALUE, min_size=2, max_size=4))
    def write_by_forks(self, changes: dict[int, int]) -> None:
        def change(transaction: Transaction) -> str:
            self._put(transaction, dict(list(changes.items())[:1]))
            forks = []
            for slot, value in list(changes.items())[1:]:
                forks.append(transaction.fork())
                forks[-1].group["a"][slot] = value
            transaction.merge(reversed(forks))
            return transaction.commit("forks", {})

        self._committed(self.store.update(change), changes)

    @rule(changes=st.dictionaries(SLOT, VALUE, min_size=1), settled=st.booleans(), discarded=st.booleans())
    def give_up(self, changes: dict[int, int], settled: bool, discarded: bool) -> None:
        with self.store.writer() as transaction:
            self._put(transaction, changes)
            if settled:
                transaction.settle()
            if discarded:
                transaction.discard()

    @rule(changes=st.dictionaries(SLOT, VALUE, min_size=1), settled=st.booleans())
    def crash(self, changes: dict[int, int], settled: bool) -> None:
        with suppress(Cut), self.store.writer() as transaction:
            self._put(transaction, changes)
            if settled:
                transaction.settle()
                transaction._branch = ""  # a kill leaves the branch behind
            raise Cut

    @rule()
    def reopen(self) -> None:
        self.store = CubeStore(self.folder / "cube")

    @precondition(lambda self: self.history)
    @rule(target=tags, at=st.integers(0, 20))
    def tag(self, at: int) -> str:
        snapshot = self.history[at % len(self.history)]
        self.names += 1
        name = f"tag-{self.names}"
        assert self.store.tag(name, snapshot) == snapshot
        self.tagged[name] = snapshot
        return name

    @rule(name=consumes(tags))
    def untag(self, name: str) -> None:
        self.store.untag(name)
        del self.tagged[name]

    @precondition(lambda self: self.history)
    @rule(at=st.integers(0, 20))
    def expire(self, at: int) -> None:
        kept = self.history[at % len(self.history) :]
        limit = next(commit.written_at for commit in self.store.history() if commit.snapshot == kept[0])
        expire(self.store, limit, floor=NOW)
        self.history = kept

    @precondition(lambda self: self.history)
    @rule()
    def collect(self) -> None:
        collect(self.store, datetime.now(UTC), floor=NOW)
        reached = {*self.history, *self.tagged.values()}
        self.snapshots = {snapshot: values for snapshot, values in self.snapshots.items() if snapshot in reached}

    @precondition(lambda self: self.history)
    @rule()
    def move_to_the_backup(self) -> None:
        backup(self.store, self.folder / "copy")
        shutil.rmtree(self.folder / "cube")
        shutil.copytree(self.folder / "copy", self.folder / "cube")

    @invariant()
    def every_snapshot_reads_as_it_was_written(self) -> None:
        for snapshot, values in self.snapshots.items():
            assert tuple(self.store.group(snapshot)["a"][:].tolist()) == values

    @invariant()
    def the_newest_is_the_last_that_was_committed(self) -> None:
        assert self.store.exists() == bool(self.history)
        if self.history:
            assert self.store.tip() == self.history[-1]
            assert [commit.snapshot for commit in self.store.history()][-2::-1] == self.history

    @invariant()
    def tags_name_what_they_were_given_to(self) -> None:
        if self.history:
            assert self.store.tags() == self.tagged
            assert all(self.store.resolve(name) == snapshot for name, snapshot in self.tagged.items())
            with pytest.raises(StoreError):
                self.store.resolve("never-given")


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=200 if FULL else 15,
    stateful_step_count=40 if FULL else 20,
    deadline=None,
    database=None,
    derandomize=not FULL,
    suppress_health_check=list(HealthCheck),
)
