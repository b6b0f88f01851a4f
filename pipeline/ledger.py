"""What became of every file ever seen: pending, accepted, duplicate, superseded or quarantined, with the reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pipeline.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file_versions (
    name TEXT NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    state TEXT NOT NULL, sha256 TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    contract TEXT NOT NULL, decided_at TEXT NOT NULL,
    PRIMARY KEY (name, size, modified_ns)
)
"""


_SELECT = "SELECT name, size, modified_ns, state, sha256, reason, detail FROM file_versions"


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
    """The ledger's word on one file."""

    key: FileKey
    state: State
    sha256: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """A SQLite database with one row for every version of every file; the cube can tell it all again."""

    path: Path

    def decided(self, contract: str) -> set[FileKey]:
        """Files that need no second look: settled, or refused under the same ``contract``, a name of what was asked."""
        sql = f"{_SELECT} WHERE state != ? AND (state != ? OR contract = ?)"
        return {entry.key for entry in self._read(sql, State.PENDING, State.QUARANTINED, contract)}

    def entries(self) -> list[Entry]:
        """Every file seen, by name."""
        return self._read(f"{_SELECT} ORDER BY name, modified_ns")

    def _read(self, sql: str, *values: str) -> list[Entry]:
        with self._connection() as connection:
            rows = connection.execute(sql, values).fetchall()
        return [Entry(FileKey(*row[:3]), State(row[3]), *row[4:]) for row in rows]

    def counts(self) -> dict[State, int]:
        """Files in each state; their sum is the number of files seen."""
        states = [entry.state for entry in self.entries()]
        return {state: states.count(state) for state in State}

    def record(self, entries: Sequence[Entry], contract: str) -> None:
        """Writes entries, replacing what was said of the same files and of versions never decided; all or none."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            (e.key.name, e.key.size, e.key.modified_ns, e.state.value, e.sha256, e.reason, e.detail, contract, now)
            for e in entries
        ]
        waiting = [(e.key.name, State.PENDING.value) for e in entries]
        with self._connection() as connection:
            connection.executemany("DELETE FROM file_versions WHERE name = ? AND state = ?", waiting)
            connection.executemany("INSERT OR REPLACE INTO file_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

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
