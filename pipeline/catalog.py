"""Published runs found again, oldest first, the latest or one by name; what day catalogues and latest.json say of them.

A run is a folder with a manifest (run.json) that was put there last, and without a withdrawn.json.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bucket import Bucket, Location, Objects
from pipeline.chances import Chance
from pipeline.errors import PublishError, WithdrawnError
from pipeline.raster import read_dn, read_physical
from pipeline.record import MANIFEST, ModelRef, iso, yielded_of
from pipeline.sheets import UNKNOWN
from pipeline.shelf import WITHDRAWN, Entry, Shelf, named, shelf_at
from pipeline.stac import CATALOGUE, day_catalogue
from pipeline.times import parse_time

SCHEMA_VERSION = 1
LATEST = "latest.json"


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A complete run.

    Attributes:
        path: its folder; in a bucket, as programs on GDAL name it (``/vsis3/...``).
        leads: minutes ahead -> GeoTIFF.
        quantities: names along the quantity axis.
        bands: names along the band axis.
        bucket: where it lies, if not on this machine.
        yielded: leads (minutes) and bands where it says what extrapolation says, because its model had done worse.
        chances: the events whose probabilities stand behind the quantities in its files.
    """

    product: str
    init: datetime
    created: datetime
    run_key: str
    path: Path
    model: ModelRef
    snapshot: str
    scenes: tuple[str, ...]
    leads: Mapping[int, Path]
    quantities: tuple[str, ...]
    bands: tuple[str, ...]
    bucket: Bucket | None = None
    yielded: tuple[tuple[int, str], ...] = ()
    chances: tuple[Chance, ...] = ()

    @property
    def order(self) -> tuple[datetime, datetime]:
        """Newer runs have the greater one."""
        return self.init, self.created

    def read(self, lead: int) -> NDArray[np.float32]:
        """What the run says for ``lead`` minutes ahead: ``(quantity, y, x, band)``, in units of the bands; or NaN."""
        with self._reading():
            layers = read_physical(self.leads[lead], range(self._likely))
        split = layers.reshape(len(self.quantities), len(self.bands), *layers.shape[1:])
        return np.moveaxis(split, 1, -1)

    def probability(self, lead: int, band: str, threshold: float) -> NDArray[np.float32]:
        """How likely an event is ``lead`` minutes ahead, ``(y, x)``, from 0 to 1; NaN where nothing is known.

        Raises:
            PublishError: the run does not say it.
        """
        places = {(one.band, one.threshold): index for index, one in enumerate(self.chances, self._likely)}
        if (band, threshold) not in places:
            msg = (
                f"a run says the probabilities that forecast.probabilities asked for, {self.run_key} says "
                f"{[f'{one.band} {one.sign} {one.number}' for one in self.chances]}, not one of {band} at {threshold:g}"
            )
            raise PublishError(msg)
        with self._reading():
            return read_physical(self.leads[lead], [places[band, threshold]])[0]

    def source(self, lead: int) -> NDArray[np.uint8]:
        """Which rung of the ladder made each pixel, ``(y, x)``, as :class:`pipeline.predictor.Source` counts them."""
        return self.quality(lead)[0]

    def quality(self, lead: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Which rung made each pixel, and the age of its newest input in minutes (NaN: none), ``(y, x)`` both."""
        with self._reading():
            sources, ages = read_dn(quality_path(self.leads[lead]))
        return sources.astype(np.uint8), np.where(ages == UNKNOWN, np.float32(np.nan), ages.astype(np.float32))

    @property
    def _likely(self) -> int:
        """How many layers of a file hold quantities; those behind them are probabilities."""
        return len(self.quantities) * len(self.bands)

    def _reading(self) -> AbstractContextManager[object]:
        return self.bucket.reading() if self.bucket else nullcontext()


@contextmanager
def at_hand(run: PublishedRun) -> Iterator[PublishedRun]:
    """The run in a folder of this machine: one of a bucket is brought here for as long as it is looked at."""
    if run.bucket is None:
        yield run
        return
    name = run.path.relative_to(run.bucket.path / run.product).as_posix()
    with TemporaryDirectory() as folder:
        Objects.of(run.bucket, run.product).download(name, Path(folder))
        yield read_run(Path(folder))


def quality_path(path: Path) -> Path:
    """The quality file beside the GeoTIFF of a lead."""
    return path.with_name(f"{path.stem}-quality.tif")


def runs(place: Location, product: str) -> Iterator[PublishedRun]:
    """Every complete run of a product, oldest first; those that go meanwhile, or cannot be read, are left out."""
    shelf = shelf_at(place, product)
    for day in shelf.days():
        yield from sorted(opened(shelf, shelf.entries(day)), key=lambda run: run.order)


def latest(place: Location, product: str) -> PublishedRun | None:
    """The newest run by (init, created), or None where there is none.

    Follows latest.json; where that is missing, or points to a run that is gone, looks through all runs.
    """
    shelf = shelf_at(place, product)
    with suppress(ValueError, KeyError, PublishError):
        run = open_run(shelf, json.loads(shelf.read(LATEST) or "{}")["path"])
        if run is not None:
            return run
    return newest(shelf)


def newest(shelf: Shelf) -> PublishedRun | None:
    """The newest run by (init, created) that can be read, whatever latest.json says."""
    for day in reversed(shelf.days()):
        shown = [entry for entry in shelf.entries(day) if entry.published]
        for init in sorted({entry.init for entry in shown}, reverse=True):
            found = list(opened(shelf, (entry for entry in shown if entry.init == init)))
            if found:
                return max(found, key=lambda run: run.order)
    return None


def find_run(place: Location, product: str, name: str) -> PublishedRun:
    """The run that is called by its key, its init time or its path.

    Raises:
        PublishError: there is none, or more than one.
        WithdrawnError: it was withdrawn.
    """
    if _holds_a_run(Path(name)):  # of any product, also a copy
        return read_run(Path(name))
    shelf = shelf_at(place, product)
    run = open_run(shelf, one_of(published_or_withdrawn(shelf, name), name).name)
    if run is None:
        msg = f"a run is read while it is there, but {name} went just now: choose another one"
        raise PublishError(msg)
    return run


def _holds_a_run(folder: Path) -> bool:
    """Whether a folder of this machine is of a run, be it whole or not: its name must not lead to another one."""
    return any((folder / name).is_file() for name in (MANIFEST, WITHDRAWN)) or any(folder.glob("lead-*.tif"))


def published_or_withdrawn(shelf: Shelf, name: str) -> list[Entry]:
    """Published runs of that name; where there are none, withdrawn ones.

    Raises:
        PublishError: the name is none.
    """
    found = entries_named(shelf, name)
    return [entry for entry in found if entry.published] or [entry for entry in found if entry.withdrawn]


def entries_named(shelf: Shelf, name: str) -> list[Entry]:
    """What :func:`pipeline.shelf.named` finds.

    Raises:
        PublishError: the name is none.
    """
    try:
        return named(shelf, name)
    except ValueError:
        msg = (
            f"a run is called by its key (12 digits 0-9a-f), its init time (2020-04-01T13:10Z) or its path, found "
            f"{name!r}: cubecast forecast list names those that are there"
        )
        raise PublishError(msg) from None


def one_of(found: list[Entry], name: str) -> Entry:
    """The only one.

    Raises:
        PublishError: there is none, or more than one.
    """
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(entry.key for entry in found)
        msg = f"a name stands for one run, but {len(found)} are called {name}: say which by its key, {keys}"
    else:
        msg = (
            f"a run is there before anything is done with it, but none is called {name}: cubecast forecast list names "
            "those that are"
        )
    raise PublishError(msg)


def read_run(path: Path) -> PublishedRun:
    """The run in a folder of this machine.

    Raises:
        PublishError: the folder holds no complete run, or one that this version cannot read.
        WithdrawnError: it was withdrawn.
    """
    if (path / WITHDRAWN).is_file():
        raise _withdrawn(path, (path / WITHDRAWN).read_text(encoding="utf-8"))
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error) from None
    return _run_of(path, _facts(path, text))


def open_run(shelf: Shelf, name: str) -> PublishedRun | None:
    """The run of that name on a shelf; None where there is none, or not any more.

    Raises:
        PublishError: its manifest cannot be read.
        WithdrawnError: it was withdrawn.
    """
    path = shelf.path / name
    gone = shelf.read(f"{name}/{WITHDRAWN}")
    if gone is not None:
        raise _withdrawn(path, gone)
    text = shelf.read(f"{name}/{MANIFEST}")
    return None if text is None else _run_of(path, _facts(path, text), shelf.bucket)


def manifest(shelf: Shelf, name: str) -> dict[str, Any] | None:
    """What a run says of itself, published or withdrawn; None where there is none.

    Raises:
        PublishError: it cannot be read.
    """
    gone = shelf.read(f"{name}/{WITHDRAWN}")
    if gone is not None:
        return json.loads(gone)["run"]
    text = shelf.read(f"{name}/{MANIFEST}")
    return None if text is None else _facts(shelf.path / name, text)


def manifest_if_readable(shelf: Shelf, name: str) -> dict[str, Any] | None:
    """As :func:`manifest`; None, and a warning in the log, also where the disk has damaged it."""
    try:
        return manifest(shelf, name)
    except PublishError as error:
        _leave_out(error)
        return None


def refresh(shelf: Shelf, days: Iterable[str], *, without: frozenset[str] = frozenset()) -> None:
    """Makes the catalogues of some days, and latest.json, say what is there; the caller keeps other writers out.

    Args:
        shelf: the product's.
        days: whose runs have changed.
        without: names of runs that are about to go.
    """
    for day in days:
        shelf.update(f"{day}/{CATALOGUE}", lambda day=day: _catalogue(shelf, day, without))
    shelf.update(LATEST, lambda: _pointer(shelf))


def as_json(value: dict[str, Any]) -> str:
    """A document as all files of a run are written."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def opened(shelf: Shelf, entries: Iterable[Entry]) -> Iterator[PublishedRun]:
    """The published ones of some entries; those that go meanwhile are left out.

    Raises:
        PublishError: a manifest cannot be read.
    """
    for entry in entries:
        run = _open_if_readable(shelf, entry.name) if entry.published else None
        if run is not None:
            yield run


def _open_if_readable(shelf: Shelf, name: str) -> PublishedRun | None:
    """A run; None, and a warning in the log, where the disk has damaged its manifest: the others are still there."""
    try:
        return open_run(shelf, name)
    except WithdrawnError:  # a moment ago
        return None
    except PublishError as error:
        _leave_out(error)
        return None


def _leave_out(error: PublishError) -> None:
    logging.getLogger("cubecast.catalog").warning("left out: %s", error)


def _catalogue(shelf: Shelf, day: str, without: frozenset[str]) -> str | None:
    shown = [entry for entry in shelf.entries(day) if entry.published and entry.name not in without]
    inside = [f"{entry.name}/{file}".removeprefix(f"{day}/") for entry in shown for file in sorted(entry.files)]
    items = [path for path in inside if path.rpartition("/")[2].startswith("lead-") and path.endswith(".json")]
    year, month, number = (int(part) for part in day.split("/"))
    return as_json(day_catalogue(shelf.product, date(year, month, number), items)) if items else None


def _pointer(shelf: Shelf) -> str | None:
    run = newest(shelf)
    if run is None:
        return None
    pointer = {
        "schema_version": SCHEMA_VERSION,
        "product": run.product,
        "init": iso(run.init),
        "created": iso(run.created),
        "run_key": run.run_key,
        "path": run.path.relative_to(shelf.path).as_posix(),
    }
    return as_json(pointer)


def _withdrawn(path: Path, text: str) -> WithdrawnError:
    said = json.loads(text)
    return WithdrawnError(
        f"a withdrawn run is neither read nor published again, but {path} was withdrawn {said['withdrawn']}: "
        f"{said['reason']}. Take another run, or put it back: cubecast forecast restore {path.name}"
    )


def _unreadable(path: Path, why: object) -> PublishError:
    return PublishError(
        f"a published run has a readable {MANIFEST}, but {path}: {why}. Forecast or fetch it again, or remove it"
    )


def _facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise _unreadable(path, error) from None
    if facts.get("schema_version") != SCHEMA_VERSION:
        msg = (
            f"{path / MANIFEST} has schema_version {facts.get('schema_version')}, this cubecast reads {SCHEMA_VERSION}"
        )
        raise PublishError(msg)
    return facts


def _run_of(path: Path, facts: dict[str, Any], bucket: Bucket | None = None) -> PublishedRun:
    return PublishedRun(
        product=facts["product"],
        init=parse_time(facts["init"]),
        created=parse_time(facts["created"]),
        run_key=facts["run_key"],
        path=path,
        model=ModelRef(**facts["model"]),
        snapshot=facts["snapshot"],
        scenes=tuple(facts["scenes"]),
        leads={lead["lead_minutes"]: path / lead["values"]["name"] for lead in facts["leads"]},
        quantities=tuple(facts["quantities"]),
        bands=tuple(facts["bands"]),
        bucket=bucket,
        yielded=yielded_of(facts.get("specification", {})),
        chances=tuple(Chance(**one) for one in facts.get("probabilities", ())),
    )
