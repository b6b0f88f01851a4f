"""A folder a training: whose it is, whether it runs, what it has to say, and how much of that MLflow was told."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO
from uuid import uuid4

from models.journal import Entry, Journal, Kind, Status
from pipeline.durable import make_folders, move_folder, replace_text, sync
from pipeline.errors import BusyError, ModelError

KEPT = 5  # finished trainings
TRIES = 5  # to take a lock, in half a second
FACTS = "training.json"
UNBORN = ".new-"
DYING = ".old-"


class State(StrEnum):
    """How a training is, whatever its last words were."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version in the registry."""

    name: str
    version: str
    run_id: str
    champion: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """How much of a training MLflow knows.

    Attributes:
        run_id: its run; empty while there is none.
        position: of the first entry that waits, in bytes.
        registered: its model version.
    """

    run_id: str = ""
    position: int = 0
    registered: Registered | None = None

    @classmethod
    def from_text(cls, text: str) -> Delivered:
        """The inverse of what :meth:`Training.note_delivered` writes."""
        said = json.loads(text)
        registered = said["registered"]
        return cls(said["run_id"], said["position"], Registered(**registered) if registered else None)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """One training, alive or not.

    Attributes:
        id: UTC time of its start, and four letters.
        folder: everything of it.
        snapshot: of the cube, that it learns from.
        fingerprint: of the settings that decide what it comes to.
        started: when.
        journal: what it has to say.
    """

    id: str
    folder: Path
    snapshot: str
    fingerprint: str
    started: datetime
    journal: Journal

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def alive(self) -> bool:
        """Whether a process works on it."""
        with _lock(self.folder, TRIES, share=True) as free:
            return not free

    @property
    def state(self) -> State:
        """How it is."""
        if self.alive:
            return State.RUNNING
        last = self._last_status  # after that: one that ends in between has finished, and was not interrupted
        said = last.content["status"] if last else Status.KILLED
        return {Status.FINISHED: State.FINISHED, Status.FAILED: State.FAILED}.get(Status(said), State.INTERRUPTED)

    @property
    def note(self) -> str:
        """Why it ended, where it could tell."""
        last = self._last_status
        return last.content.get("note", "") if last else ""

    @property
    def delivered(self) -> Delivered:
        """What MLflow knows of it; nothing where that was lost with the end of the journal."""
        try:
            found = Delivered.from_text(self._delivered_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Delivered()
        return found if self.journal.holds(found.position) else Delivered(found.run_id)

    @property
    def waiting(self) -> int:
        """How many entries MLflow was not told."""
        return sum(1 for _ in self.journal.entries(self.delivered.position))

    @property
    def has_model_waiting(self) -> bool:
        """Whether a model waits to be registered."""
        return any(entry.kind is Kind.MODEL for entry in self.journal.entries(self.delivered.position))

    @property
    def delivery_lock(self) -> Path:
        """Lock file of whoever tells MLflow."""
        return self.folder / "delivery.lock"

    def note_delivered(self, delivered: Delivered) -> None:
        """Keeps what MLflow knows, in one step."""
        replace_text(self._delivered_file, json.dumps(asdict(delivered)) + "\n")

    @property
    def _delivered_file(self) -> Path:
        return self.folder / "delivered.json"

    @property
    def _last_status(self) -> Entry | None:
        return next(reversed(self.journal.statuses()), None)


@dataclass(frozen=True, slots=True)
class Trainings:
    """All trainings of a product."""

    root: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process trains for the product as long as the block runs; a dead one's lock is free at once.

        Raises:
            BusyError: one does.
        """
        make_folders(self.root)
        with _lock(self.root, TRIES) as free:
            if not free:
                busy = next((f"the training {one.id}" for one in self.all() if one.alive), "another process")
                msg = (
                    f"one training of a product runs at a time, {busy} does already: wait for its end (cubecast "
                    "tracking status), or stop it; the next one goes on from there"
                )
                raise BusyError(msg)
            yield

    @contextmanager
    def begin(self, snapshot: str, fingerprint: str) -> Iterator[Training]:
        """A new training, ours as long as the block runs.

        Args:
            snapshot: of the cube, that it learns from.
            fingerprint: of the settings that decide what it comes to.
        """
        started = datetime.now(UTC)
        name = f"{started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:4]}"
        unborn = self.root / f"{UNBORN}{name}"
        make_folders(unborn)
        facts = {"snapshot": snapshot, "fingerprint": fingerprint, "started": started.isoformat()}
        with _lock(unborn):
            replace_text(unborn / FACTS, json.dumps(facts, indent=2) + "\n")
            sync(unborn)
            move_folder(unborn, self.root / name)
            yield self._read(name)

    @contextmanager
    def resume(self, name: str) -> Iterator[Training]:
        """A training that nobody works on, ours as long as the block runs.

        Raises:
            ModelError: there is none of this name, it has finished, or another process works on it.
        """
        training = next((one for one in self.all() if one.id == name), None)
        if training is None:
            raise ModelError(f"only a training that was begun can go on, {self.root} has no {name}: cubecast train")
        with _lock(training.folder, TRIES) as free:
            if not free:
                raise ModelError(f"one process works on a training, but {name} has one already: wait for its end")
            if _finished(training):
                raise ModelError(f"a training that has finished does not go on, {name} has: train --fresh begins anew")
            yield training

    def all(self) -> list[Training]:
        """Every training, newest first."""
        if not self.root.is_dir():
            return []
        names = sorted((path.parent.name for path in self.root.glob(f"[0-9]*/{FACTS}")), reverse=True)
        return [self._read(name) for name in names]

    def interrupted(self) -> list[Training]:
        """Those that can go on: failed ones too, for a disk that was full or a fault since mended; newest first."""
        return [one for one in self.all() if one.state in {State.INTERRUPTED, State.FAILED}]

    def waiting(self) -> list[Training]:
        """Those of which MLflow does not know everything, oldest first."""
        return [one for one in reversed(self.all()) if one.waiting]

    def sweep(self) -> list[Training]:
        """Gives those whose process died without a word their last one: KILLED, at their last sign of life."""
        return [one for one in self.all() if _bury(one)]

    def forget(self, keep: int = KEPT, *, fruitless: Callable[[str], None] | None = None) -> list[str]:
        """Deletes trainings that MLflow knows wholly, but for the ``keep`` newest finished and ``keep`` newest others.

        Args:
            keep: how many.
            fruitless: told the id of each one that came to no model.

        Returns:
            Their ids.
        """
        for left in [*self.root.glob(f"{UNBORN}*"), *self.root.glob(f"{DYING}*")]:
            _delete(left)
        known = [(one, one.state) for one in self.all() if not one.waiting]
        finished = [one for one, state in known if state is State.FINISHED]
        stopped = [one for one, state in known if state in {State.INTERRUPTED, State.FAILED}]
        gone: list[str] = []
        for one in [*finished[keep:], *stopped[keep:]]:
            made = one.delivered.registered is not None
            if _delete(one.folder):
                gone.append(one.id)
                if not made and fruitless is not None:
                    fruitless(one.id)
        return gone

    def _read(self, name: str) -> Training:
        folder = self.root / name
        said = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        started = datetime.fromisoformat(said["started"])
        return Training(name, folder, said["snapshot"], said["fingerprint"], started, Journal(folder))


@contextmanager
def _lock(folder: Path, tries: int = 1, *, share: bool = False) -> Iterator[bool]:
    """Takes the lock of whoever works on a training; False where another has it. The dead hold none.

    Those that only ask share it, so that none of them takes another for a living training.
    """
    with (folder / "alive.lock").open("a") as handle:
        yield any(_locks(handle, number, fcntl.LOCK_SH if share else fcntl.LOCK_EX) for number in range(tries))


def _locks(handle: IO[str], number: int, way: int) -> bool:
    time.sleep(0.1 * min(number, 1))  # who only asks whether it is free holds it for a moment
    try:
        fcntl.flock(handle, way | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _finished(training: Training) -> bool:
    statuses = training.journal.statuses()
    return bool(statuses) and statuses[-1].content["status"] == Status.FINISHED


def _bury(training: Training) -> bool:
    if not _seems_to_run(training):
        return False
    with _lock(training.folder) as free:
        if not free or not _seems_to_run(training):
            return False
        training.journal.status(Status.KILLED, note="its process died", at=training.journal.path.stat().st_mtime)
        return True


def _seems_to_run(training: Training) -> bool:
    statuses = training.journal.statuses()
    return bool(statuses) and statuses[-1].content["status"] == Status.RUNNING


def _delete(folder: Path) -> bool:
    """Deletes the folder of a training that nobody works on; half of one is never seen."""
    try:
        with _lock(folder) as free:
            if not free:
                return False
            dying = folder.with_name(f"{DYING}{folder.name.removeprefix(DYING)}")
            folder.rename(dying)
    except FileNotFoundError:
        return False  # another process was faster
    shutil.rmtree(dying, ignore_errors=True)
    return True
