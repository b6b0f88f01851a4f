"""The last champion on this machine's disk, checked by hashes: what forecasts are made with while MLflow is away."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from models.journal import CARD, MODEL_FILE
from pipeline.durable import locked, make_folders, move_folder, replace_text, sync_tree
from pipeline.errors import ModelError

NOTE = "kept.json"
RETIRED = "retired.json"
UNBORN = ".new-"
FILES = (CARD, MODEL_FILE)


class DamagedError(ModelError):
    """A model's files are not what was registered or kept, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Version:
    """A model version, whoever has its files.

    Attributes:
        name: of the registered model.
        number: what MLflow calls it.
        run: id of the MLflow run that made it: two servers count alike, but give no two runs the same id.
        hashes: sha256 by file name, as far as anybody noted them.
    """

    name: str
    number: str
    run: str
    hashes: Mapping[str, str] = field(default_factory=dict)

    def is_same(self, other: Version) -> bool:
        """Whether both are one version, and nobody noted another hash of one of its files."""
        alike = (self.name, self.number, self.run) == (other.name, other.number, other.run)
        both = self.hashes.keys() & other.hashes.keys()
        return alike and all(self.hashes[name] == other.hashes[name] for name in both)

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


@dataclass(frozen=True, slots=True)
class Files:
    """All of a model version, as bytes: what is checked is what is loaded.

    Attributes:
        version: which one.
        card: what the weights mean, JSON.
        model: the network, in Keras's form.
        kept: when it was laid aside here; None: it was not.
    """

    version: Version
    card: bytes
    model: bytes
    kept: datetime | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each file."""
        return {CARD: sha256(self.card), MODEL_FILE: sha256(self.model)}

    def checked(self, where: str) -> Files:
        """The same, if the files are what was noted of their version.

        Args:
            where: they were found, for the error.

        Raises:
            DamagedError: they are not.
        """
        for name, found in self.hashes.items():
            noted = self.version.hashes.get(name, found)
            if found != noted:
                msg = (
                    f"a model is used when its files are what was registered, but {name} of {self.version} {where} "
                    f"has the hash {found[:12]}, noted is {noted[:12]}"
                )
                raise DamagedError(msg)
        return self


@dataclass(frozen=True, slots=True)
class Keepsake:
    """The folder of the last champion; a reader finds one of them whole, or none.

    Attributes:
        folder: a note of what is kept, and beside it a folder with the files.
    """

    folder: Path

    def read(self) -> Files | None:
        """What is kept, checked; None where nothing is.

        Raises:
            DamagedError: it is not what was kept.
        """
        while (note := self._note()) is not None:
            try:
                return _read(self.folder, note)
            except (OSError, ValueError, KeyError, TypeError, DamagedError) as error:
                if self._note() == note:  # otherwise another process has put a newer one in its place
                    raise _damaged(error) from error
        return None

    def keep(self, files: Files) -> None:
        """Puts a champion in the place of the last one, in one step, when it is on the disk.

        Raises:
            OSError: the disk does not take it.
        """
        make_folders(self.folder)
        place = f"{files.version.number}-{uuid4().hex[:8]}"
        facts = {
            "name": files.version.name,
            "version": files.version.number,
            "run": files.version.run,
            "kept": datetime.now(UTC).isoformat(timespec="seconds"),
            "folder": place,
            "sha256": files.hashes,
        }
        with locked(self.folder / ".lock"), _aside(self.folder / f"{UNBORN}{place}") as aside:
            (aside / CARD).write_bytes(files.card)
            (aside / MODEL_FILE).write_bytes(files.model)
            sync_tree(aside)
            move_folder(aside, self.folder / place)
            replace_text(self.folder / NOTE, json.dumps(facts, indent=2) + "\n")
            self._sweep(place)

    def retire(self) -> None:
        """Nothing counts as kept any more: there is no champion. The files stay until another one is kept."""
        with suppress(FileNotFoundError):
            (self.folder / NOTE).replace(self.folder / RETIRED)

    def _note(self) -> str | None:
        try:
            return (self.folder / NOTE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _damaged(error) from error

    def _sweep(self, but: str) -> None:
        (self.folder / RETIRED).unlink(missing_ok=True)
        for other in self.folder.iterdir():
            if other.is_dir() and other.name != but:
                shutil.rmtree(other, ignore_errors=True)


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def _read(folder: Path, note: str) -> Files:
    facts = json.loads(note)
    hashes = {name: str(facts["sha256"][name]) for name in FILES}
    version = Version(facts["name"], facts["version"], facts["run"], hashes)
    card, model = ((folder / facts["folder"] / name).read_bytes() for name in FILES)
    return Files(version, card, model, datetime.fromisoformat(facts["kept"])).checked("that is kept")


def _damaged(error: Exception) -> DamagedError:
    if isinstance(error, DamagedError):
        return error
    return DamagedError(f"a champion is kept for when MLflow is away, but cannot be read: {error}")


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is gone at the end unless it has got its name."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
