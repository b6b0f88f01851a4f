"""Who served when, and why: a line of JSON for each change, on the disk when the call returns, never touched again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.durable import locked, make_folders, sync
from pipeline.errors import room
from pipeline.times import parse_time

LINES = "history.jsonl"
LOCK = ".lock"


class Step(StrEnum):
    """What happened to a version."""

    FIRST = "first"  # it beat the baselines, and nobody served
    PROMOTED = "promoted"
    FORCED = "forced"
    KEPT = "kept"  # it stays challenger
    ROLLED_BACK = "rolled back"  # it serves again
    FOUND = "found"  # it serves, and no command of cubecast has said so


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        step: what happened.
        version: to which version.
        before: who served until then; None: nobody.
        champion: who serves from then on; None: nobody.
        reason: why.
        time: when, UTC.
        evidence: what it was decided by, as JSON holds it.
    """

    step: Step
    version: str
    before: str | None
    champion: str | None
    reason: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"time": self.time.isoformat(timespec="seconds")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Entry:
        """The inverse of :meth:`to_json`."""
        told = dict(document)
        return cls(**told | {"step": Step(told["step"]), "time": parse_time(told["time"])})


@dataclass(frozen=True, slots=True)
class History:
    """All that happened to the versions of a product's model.

    Attributes:
        folder: of the lines and of the lock of whoever adds one.
    """

    folder: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes who serves as long as the block runs; a dead holder's lock is free at once."""
        make_folders(self.folder)
        with locked(self.folder / LOCK):
            yield

    def entries(self) -> list[Entry]:
        """All lines, oldest first; one that a crash left unfinished is none."""
        try:
            text = (self.folder / LINES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1]
        return [Entry.from_json(json.loads(line)) for line in whole.splitlines()]

    def append(self, entry: Entry) -> Entry:
        """Adds a line; whoever calls holds :meth:`alone`.

        Raises:
            CubecastError: the disk does not take it.
        """
        path, line = self.folder / LINES, json.dumps(entry.to_json(), ensure_ascii=False) + "\n"
        with room(self.folder, "a promotion is on record"):
            new = not path.exists()
            with path.open("ab") as handle:
                handle.truncate(_whole(path))
                handle.write(line.encode())
                handle.flush()
                os.fsync(handle.fileno())
            if new:
                sync(self.folder)
        return entry

    @property
    def champion(self) -> str | None:
        """Who serves, by the last line that says so."""
        last = next((one for one in reversed(self.entries()) if one.step is not Step.KEPT), None)
        return None if last is None else last.champion

    def came(self, version: str) -> Entry | None:
        """How a version came to serve, the last time that it was not by a rollback; None where that is not known."""
        rising = {Step.FIRST, Step.PROMOTED, Step.FORCED, Step.FOUND}
        return next((one for one in reversed(self.entries()) if one.champion == version and one.step in rising), None)


def _whole(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1
