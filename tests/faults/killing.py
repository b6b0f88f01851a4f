"""A product whose ingest is killed: scenes that come, what lies on the disk in each phase of a write, what is wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.cube import Cube, open_cube
from pipeline.ledger import Ledger, State
from pipeline.store import CubeStore, NoCubeError
from tests.faults.case import PRODUCTS, Spot, write
from tests.faults.corpus import CADENCE, OFFSET, ORIGIN, SCALE, configuration

PRODUCT = PRODUCTS["pairs"]
SHAPE = (260, 260)  # three chunks each way


@dataclass(slots=True)
class Site:
    """A product whose ingest is killed.

    Attributes:
        folder: of the product.
        revisions: of each slot, the newest in the inbox.
    """

    folder: Path
    revisions: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inbox.mkdir(parents=True)
        text = configuration("pairs", shape=SHAPE, scenes='revision_tag = "REVISION"\nsettle = "PT0S"')
        self.config.write_text(text, encoding="utf-8")

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def config(self) -> Path:
        return self.folder / "product.toml"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def cube(self) -> Path:
        return self.work / "cube"

    def accepted(self) -> set[str]:
        """Files that were acknowledged."""
        return {name for name, state in self._known().items() if state is State.ACCEPTED}

    def waiting(self) -> int:
        """Files that were not decided yet."""
        return len(names(self.inbox) - self._known().keys())

    def _known(self) -> dict[str, State]:
        path = self.work / "ledger.sqlite"
        return {entry.key.name: entry.state for entry in Ledger(path).entries()} if path.exists() else {}

    def arrive(self, dice: random.Random) -> None:
        """A new scene comes, and a new revision of some scene."""
        self._write(len(self.revisions), 1)
        slot = dice.randrange(len(self.revisions))
        self._write(slot, self.revisions[slot] + 1)

    def _write(self, slot: int, revision: int) -> None:
        self.revisions[slot] = revision
        path = self.inbox / name_of(slot, revision)
        aside = path.with_suffix(".part")
        spot = Spot(aside, PRODUCT, PRODUCT.dn(slot, revision, shape=SHAPE), aside, "")
        write(spot, tags={"REVISION": f"{revision:03}"}, blockysize=64).rename(path)

    def faults(self) -> Iterator[str]:
        """What is wrong: scenes that were acknowledged and are not in the cube, slots that are not whole."""
        accepted = self.accepted()
        try:
            cube = open_cube(CubeStore(self.cube))
        except NoCubeError as error:
            yield from [str(error)] if accepted else []
            return
        shown = sorted(held(cube))
        for name in sorted(accepted):
            if not any(other[:TIME] == name[:TIME] and other >= name for other in shown):
                yield f"{name} is accepted, but the cube shows neither it nor a newer revision"
        yield from faults_of(cube, cube.observed().tolist())


def name_of(slot: int, revision: int) -> str:
    """A file's name; the newest revision of a time comes last."""
    return f"scene_{ORIGIN + slot * CADENCE:%Y%m%dT%H%M%SZ}_r{revision:03}.tif"


TIME = len("scene_20240601T050000Z")


def held(cube: Cube) -> set[str]:
    """Names of the files that a cube shows."""
    return {row.scene.source for row in cube.rows if not row.superseded}


def faults_of(cube: Cube, slots: Iterable[int]) -> Iterator[str]:
    """Which of the slots do not hold, whole, the one scene that the cube says they hold."""
    for slot in slots:
        scenes = cube.scenes([slot])
        values = cube.read([slot]).values[0]
        wrong = [~np.isclose(values, _expected(slot, int(scene.revision)), rtol=0, atol=1e-4) for scene in scenes]
        if len(wrong) != 1 or wrong[0].any():
            counts = [int(pixels.sum()) for pixels in wrong]
            yield f"slot {slot} holds {[scene.source for scene in scenes]}, wrong pixels: {counts} of {values.size}"


def _expected(slot: int, revision: int) -> np.ndarray:
    return np.moveaxis(PRODUCT.dn(slot, revision, shape=SHAPE), 0, -1) * SCALE + OFFSET


@dataclass(frozen=True, slots=True)
class Disk:
    """Names of the files of a workspace, and what the cube's branch says."""

    copies: frozenset[str]
    chunks: frozenset[str]
    manifests: frozenset[str]
    snapshots: frozenset[str]
    tip: bytes

    @classmethod
    def of(cls, site: Site) -> Disk:
        """What lies there now."""
        stagings = [site.work / name for name in names(site.work) if name.startswith(".staging-")]
        copies = frozenset(f"{folder}/{name}" for folder in stagings for name in names(folder))
        chunks, manifests, snapshots = (names(site.cube / part) for part in ("chunks", "manifests", "snapshots"))
        return cls(copies, chunks, manifests, snapshots, tip_of(site))


def tip_of(site: Site) -> bytes:
    """What the cube's branch says; empty where there is no cube."""
    try:
        return (site.cube / "refs" / "branch.main" / "ref.json").read_bytes()
    except OSError:
        return b""


def names(folder: Path) -> frozenset[str]:
    """Names of finished files in a folder."""
    try:
        return frozenset(name for name in os.listdir(folder) if "#" not in name)  # noqa: PTH208 - asked 1000 times a second
    except OSError:
        return frozenset()


# What tells that a phase has begun: of the disk before the ingest, and now.
SIGNS: dict[str, Callable[[Disk, Disk], bool]] = {
    "staging": lambda before, now: bool(now.copies - before.copies),
    "chunks": lambda before, now: bool(now.chunks - before.chunks),
    "commit": lambda before, now: bool(now.manifests - before.manifests),
    "barrier": lambda before, now: bool(now.snapshots - before.snapshots),
    "ledger": lambda before, now: now.tip != before.tip,
}
PHASES = tuple(SIGNS)


def phase_at_death(site: Site, before: Disk) -> str:
    """How far a killed ingest had come, from what it left on the disk."""
    now = Disk.of(site)
    begun = [phase for phase in PHASES if SIGNS[phase](before, now)]
    if not begun:
        return "start"
    if not before.tip and begun != ["staging"]:
        return "creation"
    if begun[-1] == "ledger" and held(open_cube(CubeStore(site.cube))) <= site.accepted():
        return "end"
    return begun[-1]
