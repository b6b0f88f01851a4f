"""A product whose publishing is killed: what its commands do, when they die, what is wrong with what readers see."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pipeline.catalog import latest, runs
from pipeline.config import Settings, load
from pipeline.forecast import forecast
from pipeline.ingest import ingest
from pipeline.inspect import inspect, write
from pipeline.retention import tidy
from pipeline.specs import ForecastSpec
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from pipeline.times import parse_time, stamp
from pipeline.withdrawal import restore, withdraw

FRAMES = 40
FIRST = 4  # slot of the first forecast: its context is full
KEPT = 3  # runs that a tidying leaves
# How many writing steps a phase has, about; a command that dies after more than it has does not die.
STEPS = {
    "staging": 8,
    "fsync": 30,
    "shown": 2,
    "catalogue": 4,
    "latest": 5,
    "withdraw": 14,
    "restore": 14,
    "tidy": 30,
}
PHASES = ("rasters", *STEPS)  # while GDAL writes, no step can be counted: killed from outside
PUBLISHING = PHASES[:6]


@dataclass(frozen=True, slots=True)
class Site:
    """A product of 40 small scenes, ingested once; each folder of runs starts empty.

    Attributes:
        config: its configuration.
        root: of its runs.
    """

    config: Path
    root: Path

    @classmethod
    def make(cls, folder: Path) -> Site:
        """Writes and ingests the scenes."""
        scenes = write_scenes(folder / "inbox", SyntheticSpec(height=64, width=64, frames=FRAMES), Faults.none())
        config = folder / "product.toml"
        write(inspect(scenes.folder), config)
        settings = load(config)
        ingest(settings)
        return cls(config, settings.paths.forecasts)

    @property
    def product(self) -> str:
        return load(self.config).product.name

    def inits(self) -> list[str]:
        """Init times that a forecast can be made for."""
        axis = load(self.config).axis.axis()
        return [stamp(axis.valid_time(slot)) for slot in range(FIRST, FRAMES)]

    def clear(self) -> None:
        """Starts without runs again; in one step, so that readers see nothing broken."""
        self.root.rename(self.root.with_name(f"{self.root.name}-{len(list(self.root.parent.iterdir()))}"))

    def stages(self) -> list[Path]:
        """What dead publishes have left."""
        return sorted(self.root.glob(".staging-*"))

    def swept(self) -> bool:
        """Whether a tidying, once they are old, leaves nothing of what dead commands left."""
        for path in self.root.rglob(".*"):
            os.utime(path, (0, 0))
        tidy(self.root, self.product, ForecastSpec())
        return [path.name for path in self.root.rglob(".*")] == [".lock"]


def perform(line: str) -> None:
    """Does what a line of JSON says; dies in the phase and at the step that it names, if it comes there."""
    order = json.loads(line)
    settings = load(Path(order["config"]))
    if order["phase"] in STEPS:
        _die_in(order["phase"], order["step"], settings.paths.forecasts)
    _ACTS[order["act"]](settings, order["name"])
    Path(order["done"]).touch()


def _publish(settings: Settings, name: str) -> None:
    forecast(settings, None, init=parse_time(name))


def _withdraw(settings: Settings, name: str) -> None:
    withdraw(settings.paths.forecasts, settings.product.name, name, "tried")


def _restore(settings: Settings, name: str) -> None:
    restore(settings.paths.forecasts, settings.product.name, name)


def _tidy(settings: Settings, _: str) -> None:
    tidy(settings.paths.forecasts, settings.product.name, ForecastSpec(keep_runs=KEPT))


_ACTS: dict[str, Callable[[Settings, str], None]] = {
    "publish": _publish,
    "withdraw": _withdraw,
    "restore": _restore,
    "tidy": _tidy,
}


def act_of(phase: str) -> str:
    """The command that has that phase."""
    return "publish" if phase in PUBLISHING else phase


def _die_in(phase: str, step: int, root: Path) -> None:
    """From now on, this process kills itself before the writing step of that number (from 0) in a phase."""
    now = "start" if phase in PUBLISHING else phase
    left = count(step, -1)

    def follow(event: str, arguments: tuple) -> None:
        nonlocal now
        path = str(arguments[0]) if arguments else ""
        if event not in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} or str(root) not in path:
            return
        if phase in PUBLISHING:
            now = _phase(now, event, path)
        reads = event == "open" and str(arguments[1]).startswith("r")  # os.open has no mode: it is there for fsync
        if now == phase and not reads and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename" and ".staging-" in path:
            now = "shown"

    sys.addaudithook(follow)


def _phase(now: str, event: str, path: str) -> str:
    """Which phase of a publish an event belongs to, from the one before it."""
    if ".staging-" in path:
        return "fsync" if now == "fsync" or path.endswith("run.json") else "staging"
    if now in {"shown", "catalogue"} and "latest.json" in path:
        return "latest"
    if now == "shown" and "catalog.json" in path:
        return "catalogue"
    return now


def faults(root: Path, product: str) -> Iterator[str]:
    """What is wrong with what cubecast shows, and with what latest.json and the day catalogues show to others."""
    for run in runs(root, product):
        yield from broken(run.path)
    newest = latest(root, product)
    if newest is not None:
        yield from broken(newest.path)
    folder = root / product
    yield from _dangling(folder / "latest.json", lambda said: [f"{said['path']}/run.json"])
    for path in folder.glob("*/*/*/catalog.json"):
        yield from _dangling(path, lambda said: [link["href"] for link in said["links"]])


def broken(run: Path) -> Iterator[str]:
    """Files of a run that is seen which are not as its manifest says."""
    try:
        manifest = (run / "run.json").read_bytes()
        files = [lead[part] for lead in json.loads(manifest)["leads"] for part in ("values", "quality", "item")]
        wrong = [one["name"] for one in files if _sha256(run / one["name"]) != one["sha256"]]
    except (OSError, ValueError) as error:
        wrong = [str(error)]
    if wrong and (run / "run.json").is_file():  # it did not go meanwhile
        yield f"{run} is seen, but broken: {wrong}"


def _dangling(path: Path, links: Callable[[dict], list[str]]) -> Iterator[str]:
    """What a file points to and is not there, although it still points there."""
    for _ in range(3):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        lost = [link for link in links(json.loads(text)) if not (path.parent / link).is_file()]
        if not lost:
            return
    yield f"{path} points to {lost}"


def content(run: Path) -> dict[str, str]:
    """What must be the same whenever a run is made: the hash of every file, and the manifest but for its time."""
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    made = {path.name: _sha256(path) for path in run.iterdir() if path.name.startswith("lead-")}
    return made | {"run.json": json.dumps(manifest | {"created": ""})}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
