"""What became of every file ever seen: pending, accepted, duplicate, superseded or quarantined, with the reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError

RETRY = "retry"  # reason of a file whose decision was taken back
WITHDRAWN = "withdrawn"  # reason of a file that a person took out of the cube

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file_versions (
    name TEXT NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    state TEXT NOT NULL, sha256 TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    contract TEXT NOT NULL, decided_at TEXT NOT NULL,
    PRIMARY KEY (name, size, modified_ns)
)
"""

_SELECT = "SELECT name, size, modified_ns, state, sha256, reason, detail, contract, decided_at FROM file_versions"
_INSERT = "INTO file_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Rows are numbered as they are written: the last one of a name is the version that the inbox held last.
_NEWEST = "rowid = (SELECT max(rowid) FROM file_versions AS other WHERE other.name = file_versions.name)"


class State(StrEnum):
    """What became of a file."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class FileKey:
    """A version of a file: the same name with other bytes is another one."""

    name: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileKey:
        """The version that lies at ``path`` now."""
        status = path.stat()
        return cls(path.name, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Entry:
    """The ledger's word on one file.

    Attributes:
        key: the file's version.
        state: what became of it.
        sha256: of the bytes, hexadecimal; empty where they were never read.
        reason: code of the refusal; empty where there was none.
        detail: the refusal in words.
        contract: name of what was asked of the file; it and the time say how the word came to be, not what it is.
        decided_at: when it was written, UTC.
    """

    key: FileKey
    state: State
    sha256: str = ""
    reason: str = ""
    detail: str = ""
    contract: str = field(default="", compare=False)
    decided_at: str = field(default="", compare=False)

    def row(self, contract: str, now: str) -> tuple[str | int, ...]:
        """The entry as the database holds it."""
        key = self.key
        word = (self.state.value, self.sha256, self.reason, self.detail)
        return (key.name, key.size, key.modified_ns, *word, contract, now)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A SQLite database with one row for every version of every file; the cube can tell it all again.

    A version keeps its row when another one takes its name, unless it was never decided.
    """

    path: Path

    def decided(self, contract: str) -> set[FileKey]:
        """Files that need no second look: settled, withdrawn, or refused under the same ``contract``."""
        sql = "SELECT name, size, modified_ns FROM file_versions WHERE state NOT IN (?, ?)"
        refused = "OR (state = ? AND (contract = ? OR reason = ?))"
        values = (State.PENDING, State.QUARANTINED, State.QUARANTINED, contract, WITHDRAWN)
        with self._connection() as connection:
            return {FileKey(*row) for row in connection.execute(f"{sql} {refused}", values)}

    def wanted(self) -> set[FileKey]:
        """Files whose decision was taken back, and which no ingest has looked at since."""
        sql = "SELECT name, size, modified_ns FROM file_versions WHERE state = ? AND reason = ?"
        with self._connection() as connection:
            return {FileKey(*row) for row in connection.execute(sql, (State.PENDING, RETRY))}

    def entries(self) -> list[Entry]:
        """Every file seen, by name."""
        with self._connection() as connection:
            return _read(connection, "1")

    def find(self, name: str) -> list[Entry]:
        """Every version of the files called ``name``, which may hold the wildcards ``*``, ``?`` and ``[...]``."""
        with self._connection() as connection:
            return _read(connection, "name = ? OR name GLOB ?", name, name)

    def counts(self) -> dict[State, int]:
        """Files in each state; their sum is the number of files seen."""
        with self._connection() as connection:
            found = dict(connection.execute("SELECT state, count(*) FROM file_versions GROUP BY state").fetchall())
        return {state: found.get(state.value, 0) for state in State}

    def record(self, entries: Sequence[Entry], contract: str, *, told: Sequence[Entry] = ()) -> None:
        """Writes entries, replacing what was said of the same files and of versions never decided; all or none.

        Args:
            entries: files that were looked at; they become the newest versions of their names.
            contract: name of what was asked of them.
            told: words on bytes that were seen before, for every version of their name that held them; which version
                is the newest does not change.
        """
        now = _now()
        waiting = [(entry.key.name, State.PENDING) for entry in entries]
        with self._connection() as connection:
            _tell(connection, told, contract, now)
            connection.executemany("DELETE FROM file_versions WHERE name = ? AND state = ?", waiting)
            connection.executemany(f"INSERT OR REPLACE {_INSERT}", [entry.row(contract, now) for entry in entries])

    def rebuild(self, entries: Iterable[Entry]) -> int:
        """Writes what others know of files that the ledger does not know; how many those were.

        Args:
            entries: with the contract and the time of their decision where known, in any order.
        """
        now = _now()
        oldest_first = sorted(entries, key=lambda entry: entry.key.modified_ns)
        rows = [entry.row(entry.contract, entry.decided_at or now) for entry in oldest_first]
        with self._connection() as connection:
            return connection.executemany(f"INSERT OR IGNORE {_INSERT}", rows).rowcount if rows else 0

    def retry(self, names: Iterable[str] | None = None) -> list[Entry]:
        """Takes decisions back, so that the next ingest looks again; the files as they stand now, pending.

        Args:
            names: the newest version of each, whatever became of it; None: everything quarantined but not withdrawn.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if names is None:
                chosen = _read(connection, f"{_NEWEST} AND state = ? AND reason != ?", State.QUARANTINED, WITHDRAWN)
            else:
                chosen = [entry for entry in _newest(connection, names) if entry.state is not State.PENDING]
            return _change(connection, chosen, State.PENDING, RETRY, "")

    def withdraw(self, names: Iterable[str], detail: str) -> list[Entry]:
        """Refuses the newest version of each file for good, under every contract, until it is retried.

        Args:
            names: of files in the ledger; others are passed over.
            detail: why, in words.

        Returns:
            The files as they stand now, also those that were withdrawn before.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            return _change(connection, _newest(connection, names), State.QUARANTINED, WITHDRAWN, detail)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_SCHEMA)
                yield connection
        except sqlite3.DatabaseError as error:
            msg = (
                f"the ledger can be read and written, but {self.path} cannot: {error}. Mend its permissions or free "
                "space; if it is damaged remove it: the next ingest makes it again from the cube"
            )
            raise StoreError(msg) from error


def _tell(connection: sqlite3.Connection, told: Sequence[Entry], contract: str, now: str) -> None:
    sql = "UPDATE file_versions SET state = ?, reason = ?, detail = ?, decided_at = ?"
    words = [(e.state, e.reason, e.detail, now, e.key.name, e.sha256, State.PENDING) for e in told]
    connection.executemany(f"{sql} WHERE name = ? AND sha256 = ? AND state != ?", words)
    connection.executemany(f"INSERT OR IGNORE {_INSERT}", [entry.row(contract, now) for entry in told])


def _read(connection: sqlite3.Connection, where: str, *values: Any) -> list[Entry]:
    rows = connection.execute(f"{_SELECT} WHERE {where} ORDER BY name, modified_ns, size", values)
    return [Entry(FileKey(*row[:3]), State(row[3]), *row[4:]) for row in rows]


def _newest(connection: sqlite3.Connection, names: Iterable[str]) -> list[Entry]:
    found = (_read(connection, f"name = ? AND {_NEWEST}", name) for name in sorted(set(names)))
    return [entry for entries in found for entry in entries]


def _change(
    connection: sqlite3.Connection, entries: Sequence[Entry], state: State, reason: str, detail: str
) -> list[Entry]:
    """Says something else of files that the ledger knows; their bytes and contract stay."""
    now = _now()
    changed = [Entry(e.key, state, e.sha256, reason, detail, e.contract, now) for e in entries]
    sql = "UPDATE file_versions SET state = ?, reason = ?, detail = ?, decided_at = ?"
    keys = [(state, reason, detail, now, e.key.name, e.key.size, e.key.modified_ns) for e in changed]
    connection.executemany(f"{sql} WHERE name = ? AND size = ? AND modified_ns = ?", keys)
    return changed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
