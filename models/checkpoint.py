"""The state of a training on the disk: whole or not at all, two of them, and never one of another training."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable import make_folders, sync
from pipeline.errors import ModelError, room

PATTERN = "checkpoint-*.npz"
KEPT = 2
DIGEST = hashlib.sha256().digest_size
FACTS = "facts"  # entry of the archive that holds everything but arrays, as JSON

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that a training needs to go on as if it had never stopped.

    Attributes:
        fingerprint: settings and data that the training depends on, as JSON can hold them.
        arrays: weights, the optimizer's variables and whatever else is made of arrays, in named groups.
        numbers: counters and scales of the optimisation.
        losses: of the steps of the running epoch.
        history: one entry an epoch that has ended.
        wall: seconds spent so far.
        cpu: processor seconds spent so far.
        finished: nothing is left to do.
    """

    fingerprint: Fingerprint
    arrays: Mapping[str, tuple[NDArray[Any], ...]]
    numbers: Mapping[str, float]
    losses: tuple[float, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    wall: float = 0.0
    cpu: float = 0.0
    finished: bool = False

    def to_bytes(self) -> bytes:
        """The state behind its SHA-256, as an NPZ archive."""
        facts = {name: getattr(self, name) for name in _FACTS} | {
            "groups": {name: len(group) for name, group in self.arrays.items()}
        }
        entries: dict[str, Any] = {
            f"{name}/{n}": one for name, group in self.arrays.items() for n, one in enumerate(group)
        }
        archive = io.BytesIO()
        np.savez(archive, **{FACTS: np.frombuffer(json.dumps(facts).encode(), np.uint8)}, **entries)
        return hashlib.sha256(archive.getbuffer()).digest() + archive.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: the bytes are not those that were written.
        """
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            msg = "a checkpoint has the checksum that it was written with, this one has another: it is broken"
            raise ValueError(msg)
        with np.load(io.BytesIO(data[DIGEST:]), allow_pickle=False) as archive:
            facts = json.loads(archive[FACTS].tobytes())
            groups = facts.pop("groups").items()
            arrays = {name: tuple(archive[f"{name}/{n}"] for n in range(size)) for name, size in groups}
        facts |= {"losses": tuple(facts["losses"]), "history": tuple(facts["history"])}
        return cls(arrays=arrays, **facts)


_FACTS = ("fingerprint", "numbers", "losses", "history", "wall", "cpu", "finished")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a training keeps its state; one process at a time.

    Attributes:
        folder: of this training alone; made when it is needed.
    """

    folder: Path

    def save(self, state: State) -> None:
        """Keeps a state beside the one before; from then on it survives a crash of the process and of the machine.

        Raises:
            CubecastError: the disk does not take it; the ones before are still there.
        """
        with room(self.folder, "a training keeps checkpoints, from which it can go on"):
            make_folders(self.folder)
            kept = self._paths()
            number = _number(kept[-1]) + 1 if kept else 0
            path = self.folder / PATTERN.replace("*", f"{number:08}")
            _write(path, state.to_bytes())
            for old in [*kept, path][:-KEPT]:
                old.unlink()

    def newest(self) -> State | None:
        """The newest whole state; None where there is none. A broken one is removed: it would push out a whole one."""
        for path in reversed(self._paths()):
            try:
                return State.from_bytes(path.read_bytes())
            except ValueError:
                path.unlink()
        return None

    def resume(self, fingerprint: Fingerprint) -> State | None:
        """The newest whole state of the same training; None where there is none.

        Raises:
            ModelError: it is that of a training with other settings or data.
        """
        state = self.newest()
        found = [] if state is None else list(_differences(state.fingerprint, fingerprint))
        if found:
            msg = (
                f"a training goes on with the settings and the data that it began with; in {self.folder} lies one with "
                f"{'; '.join(found)}: put them back, or train anew with --fresh"
            )
            raise ModelError(msg)
        return state

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(PATTERN), key=_number)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _write(path: Path, data: bytes) -> None:
    """The file, on the disk before it gets its name; there is one writer, so what a crash left aside is overwritten."""
    aside = path.with_name(".checkpoint")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def _differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What two fingerprints do not share, in words.

    >>> _differences({"training.filters": 4, "seed": 1}, {"training.filters": 8, "seed": 1})
    ['training.filters = 4 instead of 8']
    """
    return [
        f"{name} = {before.get(name)} instead of {now.get(name)}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
