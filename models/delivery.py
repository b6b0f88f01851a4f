"""What waits of a training, sent in order; in MLflow each thing stands once, wherever an earlier delivery broke off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from models.journal import Entry, Kind, Status
from models.keepsake import sha256
from models.trainings import Delivered, Registered, Training
from pipeline.errors import ServiceError

CARD_FOLDER = "card"
GROUP = 100  # entries that are noted as delivered together


class RefusedError(ServiceError):
    """MLflow answers, but does not take what it is told."""


@dataclass(frozen=True, slots=True)
class Number:
    """A metric: MLflow drops one that it has with the same key, value, time (milliseconds since 1970) and step."""

    key: str
    value: float
    time: int
    step: int


class Desk(Protocol):
    """Where a delivery goes; each call may break off before or after it took effect."""

    def stage(self, run: str) -> str:
        """``active`` or ``deleted``; empty for a run that is not known here."""
        ...

    def runs(self, training: Training) -> list[str]:
        """Runs of a training, always in the same order."""
        ...

    def make_run(self, training: Training, name: str) -> str:
        """A new run of a training."""
        ...

    def delete_run(self, run: str) -> None:
        """Takes away a run that should not be."""
        ...

    def log_metrics(self, run: str, metrics: Sequence[Number]) -> None:
        """Numbers."""
        ...

    def log_parameters(self, run: str, values: Mapping[str, str]) -> None:
        """Settings; a repetition is taken."""
        ...

    def set_tag(self, run: str, key: str, text: str) -> None:
        """A text that may change."""
        ...

    def log_artifact(self, run: str, path: Path, folder: str) -> None:
        """A file; it takes the place of one of the same name."""
        ...

    def set_status(self, run: str, status: Status, time: int) -> None:
        """How the training is, and since when, in milliseconds since 1970."""
        ...

    def log_model(self, run: str, path: Path) -> str:
        """Id of the run's model in MLflow's form, uploaded where it is not yet whole."""
        ...

    def versions(self, run: str) -> list[str]:
        """Versions of the product's model that a run made, the first one first."""
        ...

    def make_version(self, run: str, model: str, hashes: Mapping[str, str]) -> Registered:
        """A new version of the product's model with the sha256 of its files by name; no champion."""
        ...

    def champion_serves(self) -> bool:
        """Whether there is a champion that fits the product as it is configured."""
        ...

    def registered(self, run: str, version: str, *, promote: bool) -> Registered:
        """A version as a value; ``promote`` makes it champion first."""
        ...

    def delete_model_doubles(self, run: str, kept: str) -> None:
        """Takes away versions and models of a run beside the version ``kept``."""
        ...


def deliver(desk: Desk, training: Training) -> None:
    """Sends everything that waits, and notes after each group how far it came.

    Whoever calls holds the lock of the training's delivery.

    Raises:
        RefusedError: the run was deleted.
    """
    delivery = _Delivery(desk, training)
    for group in _groups(training.journal.entries(delivery.known.position)):
        delivery.send(group)
        delivery.note(position=group[-1].end)


class _Delivery:
    def __init__(self, desk: Desk, training: Training) -> None:
        self._desk = desk
        self._training = training
        self.known = self._still_true(training.delivered)

    def note(self, **changed: Any) -> None:
        """Keeps what MLflow knows now."""
        self.known = replace(self.known, **changed)
        self._training.note_delivered(self.known)

    def send(self, group: Sequence[Entry]) -> None:
        """Sends entries of one kind."""
        run, entry, desk = self._run(), group[0], self._desk
        match entry.kind:
            case Kind.METRICS:
                desk.log_metrics(run, [number for one in group for number in _numbers(one)])
            case Kind.PARAMETERS:
                desk.log_parameters(run, entry.content)
            case Kind.TAGS:
                for key, text in entry.content.items():
                    desk.set_tag(run, f"cubecast.{key}", text)
            case Kind.ARTIFACT:
                desk.log_artifact(run, self._training.journal.artifact_path(entry.content), entry.content["folder"])
            case Kind.MODEL:
                self._send_model(run, good=entry.content["good"])
            case Kind.STATUS:
                self._send_status(run, entry)

    def _still_true(self, known: Delivered) -> Delivered:
        """What was delivered, as far as this server has it: it may be another one than last time."""
        stage = self._desk.stage(known.run_id) if known.run_id else "active"
        if stage == "deleted":
            msg = (
                f"a training is told to the run that it has, but {known.run_id} was deleted in MLflow: restore it, or "
                f"delete {self._training.folder}"
            )
            raise RefusedError(msg)
        return known if stage == "active" else Delivered()

    def _run(self) -> str:
        """The training's run; looked for before one is made, because a crash may have hindered the note of it."""
        if not self.known.run_id:
            found = self._desk.runs(self._training)
            self.note(run_id=found[0] if found else self._desk.make_run(self._training, self._name()))
        return self.known.run_id

    def _name(self) -> str:
        names = [one.content["name"] for one in self._training.journal.statuses() if "name" in one.content]
        return names[0] if names else self._training.id

    def _send_status(self, run: str, entry: Entry) -> None:
        status = Status(entry.content["status"])
        if "note" in entry.content:
            self._desk.set_tag(run, "cubecast.ended", entry.content["note"])
        if status is not Status.RUNNING:
            self._clear_doubles(run)
        self._desk.set_status(run, status, entry.time)

    def _send_model(self, run: str, *, good: bool) -> None:
        """A good version becomes champion where none serves; a version that was made but not noted counts."""
        desk, journal = self._desk, self._training.journal
        desk.log_artifact(run, journal.card_file, CARD_FOLDER)
        versions = desk.versions(run)
        version = versions[0] if versions else self._make_version(run)
        promote = good and not desk.champion_serves()
        self.note(registered=desk.registered(run, version, promote=promote))

    def _make_version(self, run: str) -> str:
        journal = self._training.journal
        hashes = {path.name: sha256(path.read_bytes()) for path in (journal.model_file, journal.card_file)}
        return self._desk.make_version(run, self._desk.log_model(run, journal.model_file), hashes).version

    def _clear_doubles(self, run: str) -> None:
        """A server that hung makes, when it wakes, everything that it was asked for meanwhile, more than once."""
        for other in self._desk.runs(self._training):
            if other != run:
                self._desk.delete_run(other)
        if self.known.registered:
            self._desk.delete_model_doubles(run, self.known.registered.version)


def _numbers(entry: Entry) -> Iterator[Number]:
    for key, value in entry.content["values"].items():
        yield Number(key, value, entry.time, entry.content["step"])


def _groups(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Entries that are sent together: neighbours of metrics; all others alone."""
    group: list[Entry] = []
    for entry in entries:
        if group and not (entry.kind is group[0].kind is Kind.METRICS and len(group) < GROUP):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
