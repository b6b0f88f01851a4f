"""What a training has to say, on the disk before it goes on: a crash loses none of it, a repetition adds nothing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import RLock
from typing import Any

from pipeline.durable import make_folders, replace_text, sync
from pipeline.errors import room

LINES = "journal.jsonl"
ARTIFACTS = "artifacts"
MODEL_FOLDER = "model"
MODEL_FILE = "model.keras"
CARD = "card.json"
LONGEST_TEXT = 5000  # characters of a parameter; MLflow takes 6000


class Status(StrEnum):
    """How a training is, in MLflow's words."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class Kind(StrEnum):
    """What an entry is about."""

    PARAMETERS = "parameters"
    TAGS = "tags"
    METRICS = "metrics"
    ARTIFACT = "artifact"
    MODEL = "model"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a journal.

    Attributes:
        kind: what it is about.
        content: what it says.
        time: when it was written, in milliseconds since 1970.
        end: position of the next entry, in bytes.
    """

    kind: Kind
    content: Mapping[str, Any]
    time: int
    end: int


@dataclass(slots=True)
class _Said:
    """What a journal holds already, and where its last whole line ends."""

    end: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, set[int]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    model: bool = False

    def add(self, entry: Entry) -> None:
        """Takes in one more entry."""
        self.end = entry.end
        if entry.kind is Kind.PARAMETERS:
            self.parameters |= entry.content
        elif entry.kind is Kind.METRICS:
            for key in entry.content["values"]:
                self.metrics.setdefault(key, set()).add(entry.content["step"])
        elif entry.kind is Kind.ARTIFACT:
            self.artifacts[_place(entry.content)] = entry.content["digest"]
        self.model = self.model or entry.kind is Kind.MODEL


class Journal:
    """The entries of one training, each a line of JSON that is on the disk when the call returns.

    One process writes, in as many threads as it likes; others may read meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LINES
        self._lock = RLock()
        self._known: _Said | None = None

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Notes settings and facts that hold for the whole training.

        A repetition is left out. MLflow cannot change a parameter: another value of a known one becomes a tag.
        """
        with self._lock:
            known = self._said().parameters
            texts = {key: str(value)[:LONGEST_TEXT] for key, value in values.items()}
            self._append(Kind.PARAMETERS, {key: text for key, text in texts.items() if key not in known})
            changed = {key: text for key, text in texts.items() if known.get(key, text) != text}
            self._append(Kind.TAGS, {f"changed.{key}": text for key, text in changed.items()})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Notes numbers at a step; leaves out what is known at that step, and infinities and NaN."""
        with self._lock:
            known = self._said().metrics
            new = {
                key: float(value)
                for key, value in values.items()
                if math.isfinite(value) and step not in known.get(key, ())
            }
            if new:
                self._append(Kind.METRICS, {"values": new, "step": step})

    def artifact(self, path: Path, folder: str) -> None:
        """Copies a file and notes it; leaves out one that is there already, byte for byte."""
        with self._lock, self._room():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            content = {"folder": folder, "name": path.name, "digest": digest}
            if self._said().artifacts.get(_place(content)) == digest:
                return
            target = self.artifact_path(content)
            make_folders(target.parent)
            _put(target, lambda aside: shutil.copyfile(path, aside))
            self._append(Kind.ARTIFACT, content)

    def model(self, model: Any, card: Mapping[str, Any], *, good: bool) -> None:
        """Keeps a Keras model and what its weights mean; ``good``: it may become champion. The first one counts."""
        with self._lock, self._room():
            if self._said().model:
                return
            make_folders(self.model_file.parent)
            _put(self.model_file, model.save)
            replace_text(self.card_file, json.dumps(card, indent=2) + "\n")
            self._append(Kind.MODEL, {"good": good})

    def status(self, status: Status, *, name: str = "", note: str = "", at: float | None = None) -> None:
        """Notes how the training is.

        Args:
            status: how it is.
            name: what people call the training.
            note: why it ended.
            at: since when, in seconds since 1970; default: now.
        """
        content = {"status": status, "name": name, "note": note}
        with self._lock:
            self._append(Kind.STATUS, {key: text for key, text in content.items() if text}, at)

    def entries(self, since: int = 0) -> Iterator[Entry]:
        """Entries from a position on, oldest first, until the first that a crash left unfinished."""
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            return
        with handle:
            handle.seek(since)
            for line in handle:
                since += len(line)
                entry = _parsed(line, since)
                if entry is None:
                    return
                yield entry

    def statuses(self) -> list[Entry]:
        """Its entries about the status, oldest first."""
        return [entry for entry in self.entries() if entry.kind is Kind.STATUS]

    def holds(self, position: int) -> bool:
        """Whether an entry ends at a position; 0 is where the first one starts."""
        if position == 0:
            return True
        try:
            with self.path.open("rb") as handle:
                handle.seek(position - 1)
                return handle.read(1) == b"\n"
        except FileNotFoundError:
            return False

    def next_step(self, key: str) -> int:
        """The step after the last one of a metric; 0 where there is none."""
        with self._lock:
            return max(self._said().metrics.get(key, ()), default=-1) + 1

    def artifact_path(self, content: Mapping[str, Any]) -> Path:
        """Where the file of an entry about an artifact lies."""
        return self.folder / ARTIFACTS / content["folder"] / content["name"]

    @property
    def model_file(self) -> Path:
        """Where the model lies."""
        return self.folder / MODEL_FOLDER / MODEL_FILE

    @property
    def card_file(self) -> Path:
        """Where it says what the model's weights mean."""
        return self.folder / MODEL_FOLDER / CARD

    def _said(self) -> _Said:
        if self._known is None:
            self._known = _Said()
            for entry in self.entries():
                self._known.add(entry)
        return self._known

    def _append(self, kind: Kind, content: Mapping[str, Any], at: float | None = None) -> None:
        if not content:
            return
        said, stamp = self._said(), int((time.time() if at is None else at) * 1000)
        line = json.dumps({"kind": kind, "time": stamp, "content": content}, allow_nan=False).encode() + b"\n"
        with self._room():
            self._write(line, said.end)
        said.add(Entry(kind, content, stamp, said.end + len(line)))

    def _write(self, line: bytes, end: int) -> None:
        new = not self.path.exists()
        with self.path.open("ab") as handle:
            handle.truncate(end)  # what a crash or a full disk left of a line
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
        if new:
            sync(self.folder)

    def _room(self) -> AbstractContextManager[None]:
        return room(self.folder, "a training's record is on the disk before the training goes on")


def _place(content: Mapping[str, Any]) -> str:
    return f"{content['folder']}/{content['name']}"


def _parsed(line: bytes, end: int) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        said = json.loads(line)
        return Entry(Kind(said["kind"]), said["content"], said["time"], end)
    except (ValueError, KeyError, TypeError):
        return None


def _put(target: Path, write: Any) -> None:
    """A file gets its name when it is whole and on the disk."""
    aside = target.with_name(f"new-{target.name}")  # Keras wants to see the suffix
    write(aside)
    sync(aside)
    aside.replace(target)
    sync(target.parent)
