from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.ledger import Entry, FileKey, Ledger, State

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
