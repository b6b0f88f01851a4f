from __future__ import annotations

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.ledger import RETRY, WITHDRAWN, Entry, FileKey, Ledger, State

states = st.sampled_from(State)


def _entry(name: str, state: State, size: int = 1) -> Entry:
    return Entry(FileKey(name, size, 7), state, "ab", "reason", "detail")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_what_was_recorded_is_read_back_by_name(ledger: Ledger) -> None:
    ledger.record([_entry("b", State.ACCEPTED), _entry("a", State.QUARANTINED)], "c")
    assert ledger.entries() == [_entry("a", State.QUARANTINED), _entry("b", State.ACCEPTED)]


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=3), states, max_size=6))
def test_the_counts_sum_up_to_the_files_seen(tmp_path_factory: pytest.TempPathFactory, found: dict[str, State]) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    ledger.record([_entry(name, state) for name, state in found.items()], "c")
    assert sum(ledger.counts().values()) == len(found)


def test_pending_files_are_looked_at_again(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.PENDING), _entry("b", State.DUPLICATE)], "c")
    assert ledger.decided("c") == {FileKey("b", 1, 7)}


def test_a_refusal_holds_only_under_the_contract_that_it_was_made_under(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.QUARANTINED), _entry("b", State.ACCEPTED)], "old")
    assert {key.name for key in ledger.decided("old")} == {"a", "b"}
    assert {key.name for key in ledger.decided("new")} == {"b"}


def test_another_version_of_a_file_is_another_row(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.ACCEPTED)], "c")
    ledger.record([_entry("a", State.SUPERSEDED, size=2)], "c")
    assert [entry.state for entry in ledger.entries()] == [State.ACCEPTED, State.SUPERSEDED]


def test_a_version_that_was_never_decided_leaves_with_its_file(ledger: Ledger) -> None:
    ledger.record([_entry("growing", State.PENDING, size=1)], "c")
    ledger.record([_entry("growing", State.ACCEPTED, size=2)], "c")
    assert [entry.key.size for entry in ledger.entries()] == [2]


def test_entries_are_written_all_or_none(ledger: Ledger) -> None:
    broken = Entry(FileKey("b", 1, 7), State.ACCEPTED, None)  # pyright: ignore[reportArgumentType] - the fault
    with pytest.raises(StoreError):
        ledger.record([_entry("a", State.ACCEPTED), broken], "c")
    assert ledger.entries() == []


def test_writers_at_once_lose_nothing(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ledger.record([_entry(f"{i:02}", State.ACCEPTED)], "c"), range(24)))
    assert len(ledger.entries()) == 24


def test_a_damaged_ledger_says_that_it_can_be_made_again(ledger: Ledger) -> None:
    ledger.path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"ledger\.sqlite.*remove it"):
        ledger.entries()


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="permissions"):
        Ledger(tmp_path / "file" / "ledger.sqlite").entries()


# Second looks


def _told(entries: list[Entry]) -> dict[tuple[str, int], tuple[str, str]]:
    return {(e.key.name, e.key.size): (e.state.value, e.reason) for e in entries}


def test_a_retried_file_is_looked_at_again(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.QUARANTINED), _entry("b", State.ACCEPTED)], "c")
    told = ledger.retry(["b", "unknown"])
    assert _told(told) == {("b", 1): ("pending", RETRY)}
    assert {key.name for key in ledger.decided("c")} == {"a"}


def test_a_retry_of_everything_takes_what_is_quarantined_and_not_withdrawn(ledger: Ledger) -> None:
    ledger.record([_entry(name, State.QUARANTINED) for name in "ab"] + [_entry("c", State.ACCEPTED)], "c")
    ledger.withdraw(["b"], "upside down")
    assert _told(ledger.retry()) == {("a", 1): ("pending", RETRY)}
    assert ledger.decided("another") == {FileKey(name, 1, 7) for name in "bc"}


def test_a_retry_leaves_versions_that_the_inbox_no_longer_holds(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.QUARANTINED, size=9)], "c")
    ledger.record([_entry("a", State.QUARANTINED, size=2)], "c")
    assert _told(ledger.retry()) == {("a", 2): ("pending", RETRY)}
    ledger.record([_entry("a", State.ACCEPTED, size=2)], "c")
    assert ledger.counts() == dict.fromkeys(State, 0) | {State.ACCEPTED: 1, State.QUARANTINED: 1}


def test_a_withdrawn_file_stays_so_under_every_contract_until_it_is_retried(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.ACCEPTED)], "c")
    (told,) = ledger.withdraw(["a", "unknown"], "upside down")
    assert told == Entry(FileKey("a", 1, 7), State.QUARANTINED, "ab", WITHDRAWN, "upside down")
    assert ledger.entries() == [told]
    assert ledger.decided("another") == {told.key}
    ledger.retry(["a"])
    assert ledger.decided("another") == set()


# What is asked of it


def test_files_are_found_by_name_or_wildcard(ledger: Ledger) -> None:
    names = ["a[1].tif", "a1.tif", "b1.tif"]
    ledger.record([_entry(name, State.ACCEPTED) for name in names], "c")
    assert [e.key.name for e in ledger.find("a[1].tif")] == ["a1.tif", "a[1].tif"]
    assert [e.key.name for e in ledger.find("*1.tif")] == ["a1.tif", "b1.tif"]
    assert ledger.find("B1.tif") == []


def test_an_entry_says_when_and_under_which_contract_it_was_decided(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.ACCEPTED)], "c")
    (entry,) = ledger.entries()
    assert entry.contract == "c"
    assert datetime.now(UTC) - datetime.fromisoformat(entry.decided_at) < timedelta(minutes=5)


# Made again


def test_a_ledger_that_is_made_again_says_the_same(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record([_entry("a", State.ACCEPTED), _entry("b", State.QUARANTINED)], "c")
    again = Ledger(tmp_path / "again.sqlite")
    assert again.rebuild(ledger.entries()) == 2
    assert again.entries() == ledger.entries()
    assert [(e.contract, e.decided_at) for e in again.entries()] == [
        (e.contract, e.decided_at) for e in ledger.entries()
    ]


def test_what_others_know_does_not_replace_what_the_ledger_knows(ledger: Ledger) -> None:
    ledger.record([_entry("a", State.QUARANTINED)], "c")
    assert ledger.rebuild([_entry("a", State.ACCEPTED), _entry("b", State.ACCEPTED)]) == 1
    assert _told(ledger.entries()) == {("a", 1): ("quarantined", "reason"), ("b", 1): ("accepted", "reason")}
    assert ledger.rebuild([]) == 0


def test_a_ledger_that_is_made_again_knows_the_newest_version_of_a_file(ledger: Ledger) -> None:
    new, old = (Entry(FileKey("a", 1, modified), State.ACCEPTED) for modified in (8, 7))
    ledger.rebuild([new, old])
    assert [entry.key.modified_ns for entry in ledger.retry(["a"])] == [8]


def test_a_ledger_of_the_first_release_goes_on(ledger: Ledger) -> None:
    columns = "name TEXT, size INTEGER, modified_ns INTEGER, state TEXT, sha256 TEXT, reason TEXT, detail TEXT"
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.execute(
            f"CREATE TABLE file_versions ({columns}, contract TEXT, decided_at TEXT, "
            "PRIMARY KEY (name, size, modified_ns))"
        )
        row = ("a", 1, 7, "quarantined", "ab", "reason", "detail", "c", "2026-01-01T00:00:00+00:00")
        connection.execute(f"INSERT INTO file_versions VALUES ({', '.join('?' * 9)})", row)
    assert ledger.entries() == [_entry("a", State.QUARANTINED)]
    assert ledger.decided("c") == {FileKey("a", 1, 7)}
    ledger.retry()
    ledger.record([_entry("a", State.ACCEPTED)], "c")
    assert ledger.counts()[State.ACCEPTED] == 1


# Every history

files = st.tuples(st.sampled_from("abc"), st.integers(1, 3))
steps = st.one_of(
    st.tuples(st.just("record"), st.dictionaries(files, states, max_size=3)),
    st.tuples(st.just("retry"), st.one_of(st.none(), st.sets(st.sampled_from("abcd")))),
    st.tuples(st.just("withdraw"), st.sets(st.sampled_from("abcd"))),
)


class Book:
    """What a ledger should hold, as a dictionary that remembers the order of writing."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], tuple[str, str]] = {}

    def record(self, found: dict[tuple[str, int], State]) -> None:
        names = {name for name, _ in found}
        self.rows = {k: v for k, v in self.rows.items() if k[0] not in names or v[0] != "pending"}
        for key, state in found.items():
            self.rows.pop(key, None)
            self.rows[key] = (state.value, "reason")

    def newest(self) -> dict[str, tuple[str, int]]:
        return {name: (name, size) for name, size in self.rows}

    def retry(self, names: set[str] | None) -> None:
        for name, key in self.newest().items():
            state, reason = self.rows[key]
            bulk = names is None and state == "quarantined" and reason != WITHDRAWN
            if bulk or (names is not None and name in names and state != "pending"):
                self.rows[key] = ("pending", RETRY)

    def withdraw(self, names: set[str]) -> None:
        for name in names & self.newest().keys():
            self.rows[self.newest()[name]] = ("quarantined", WITHDRAWN)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=8))
def test_after_any_history_each_version_of_a_file_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]]
) -> None:
    ledger, book = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite"), Book()
    for step, what in history:
        if step == "record":
            ledger.record([_entry(name, state, size) for (name, size), state in what.items()], "c")
        elif step == "retry":
            ledger.retry(what)
        else:
            ledger.withdraw(what, "detail")
        getattr(book, step)(what)
        assert _told(ledger.entries()) == book.rows
        assert ledger.counts() == dict.fromkeys(State, 0) | Counter(State(state) for state, _ in book.rows.values())
        assert sum(ledger.counts().values()) == len(book.rows)
