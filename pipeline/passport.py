"""A published run against its passport: its files against the manifest, its pixels against what they were made of.

The manifest says which model version, snapshot, settings, interval widths and yielded leads made a run. They are taken
up once more and the forecast is made again: what comes out must be the stored files, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from pipeline.catalog import read_run
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.draft import Draft
from pipeline.errors import CubecastError, ModelError, PublishError
from pipeline.forecast import FOLLOWED, FRAMES, WIDTHS, Situation, make, outlet, record, widened
from pipeline.pieces import View
from pipeline.publishing import drafting
from pipeline.raster import Overviews, copy, describe, pairs, sha256
from pipeline.record import MANIFEST, ModelRef, Outlet, RunRecord, iso, outlet_of, record_of, run_key
from pipeline.rungs import Champion
from pipeline.samples import sample
from pipeline.shelf import PINNED
from pipeline.specs import MotionSpec, SampleSpec
from pipeline.stac import SHA2_256
from pipeline.times import parse_time
from pipeline.yielding import giving_way

NETWORK = "network"  # source of a model that is registered

Manifest = dict[str, Any]
Loader = Callable[[Settings, ModelRef], Champion]


class Verdict(StrEnum):
    """What a check came to."""

    EQUAL = "equal"  # files and pixels
    WHOLE = "whole"  # the files; nobody asked for the pixels
    DIFFERS = "differs"
    DAMAGED = "damaged"
    LOST = "not re-creatable"


@dataclass(frozen=True, slots=True)
class Fault:
    """A file of a run that is not as it was published."""

    file: str
    what: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What does not come out again as it was stored.

    Attributes:
        file: its name.
        what: the band, or the part of the file beside its pixels.
        pixels: how many differ.
        size: how many there are.
        largest: greatest difference of two values, in ``units``; 0 where values and missing pixels change places.
        units: of the band.
    """

    file: str
    what: str
    pixels: int = 0
    size: int = 0
    largest: float = 0.0
    units: str = "1"


@dataclass(frozen=True, slots=True)
class Passport:
    """What a check found.

    Attributes:
        path: the run's folder.
        files: how many were checked, the manifest among them.
        rasters: how many GeoTIFFs were made again and compared.
        faults: files that are missing, changed or too many.
        differences: what did not come out again.
        obstacles: why the pixels cannot be made again.
        remarks: what else is not as it was then.
        verdict: in a word.
    """

    path: Path
    files: int
    rasters: int = 0
    faults: tuple[Fault, ...] = ()
    differences: tuple[Difference, ...] = ()
    obstacles: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    verdict: Verdict = Verdict.WHOLE

    @property
    def good(self) -> bool:
        """Whether all that was asked for is as it should be."""
        return self.verdict in {Verdict.EQUAL, Verdict.WHOLE}

    def judged(self) -> Passport:
        """With the verdict that follows from the findings."""
        found = {Verdict.DAMAGED: self.faults, Verdict.DIFFERS: self.differences, Verdict.LOST: self.obstacles}
        good = Verdict.EQUAL if self.rasters else Verdict.WHOLE
        return replace(self, verdict=next((verdict for verdict, what in found.items() if what), good))


def check_files(path: Path) -> Passport:
    """Whether a run's files are what its manifest says, and the manifest is what was published.

    Raises:
        PublishError: the folder holds no run that this cubecast reads.
    """
    manifest = _manifest(path)
    files = [lead[part] for lead in manifest["leads"] for part in ("values", "quality", "item")]
    known = {MANIFEST, PINNED, *(file["name"] for file in files)}
    extra = {one.name for one in path.iterdir() if not one.name.startswith(".")} - known
    faults = [
        *_manifest_faults(manifest),
        *(fault for file in files for fault in _file_faults(path, file)),
        *(fault for lead in manifest["leads"] for fault in _item_faults(path, lead)),
        *(Fault(name, "is not in the manifest") for name in sorted(extra)),
    ]
    return Passport(path, 1 + len(files), faults=tuple(faults)).judged()


def verify(settings: Settings, path: Path, load: Loader) -> Passport:
    """Checks a run's files, makes its pixels again and compares them.

    Args:
        settings: the product: where its cube and its models lie, and its covariates. All else is taken from the run.
        path: the run's folder, or a copy of it.
        load: finds a model by name and version, for given settings.

    Raises:
        PublishError: the folder holds no run that this cubecast reads.
    """
    found, manifest = check_files(path), _manifest(path)
    found = replace(found, remarks=tuple(_remarks(manifest)))
    try:
        with _made_again(settings, manifest, load) as draft:
            differences = tuple(_differences_of(draft, path, manifest["leads"]))
    except CubecastError as error:
        return replace(found, obstacles=(str(error),)).judged()
    return replace(found, rasters=2 * len(manifest["leads"]), differences=differences).judged()


# --- files ----------------------------------------------------------------------------------------


def _manifest(path: Path) -> Manifest:
    read_run(path)
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def _manifest_faults(manifest: Manifest) -> Iterator[Fault]:
    """A run key is a hash over all that decides a run: it does not fit a manifest in which something was changed."""
    try:
        run = record_of(manifest)
        key = run_key(run, outlet_of(manifest, Path())) if "outlet" in manifest else manifest["run_key"]
    except (ValueError, KeyError, TypeError) as error:
        yield Fault(MANIFEST, f"cannot be understood, {type(error).__name__}: {error}")
        return
    if key != manifest["run_key"]:
        yield Fault(MANIFEST, f"was changed: run {manifest['run_key']} was not made of what it says")
    for number, lead in enumerate(manifest["leads"], start=1):
        due = run.lead(number)
        if (lead["lead_minutes"], lead["valid_time"]) != (due.minutes, iso(due.valid_time)):
            yield Fault(MANIFEST, f"was changed: lead {number} is not {due.minutes} minutes after the init time")


def _file_faults(path: Path, file: Mapping[str, Any]) -> Iterator[Fault]:
    there, name = path / file["name"], file["name"]
    if not there.is_file():
        yield Fault(name, "is missing")
    elif (size := there.stat().st_size) != file["size"]:
        yield Fault(name, f"has {size} bytes, published were {file['size']}")
    elif sha256(there) != file["sha256"]:
        yield Fault(name, "holds other bytes than were published")


def _item_faults(path: Path, lead: Mapping[str, Any]) -> Iterator[Fault]:
    """An item that is not of the files beside it; one that cannot be read is found by its hash."""
    name = lead["item"]["name"]
    try:
        item = json.loads((path / name).read_text(encoding="utf-8"))
        said = {key: asset["file:checksum"] for key, asset in item["assets"].items()}
        time = item["properties"]["datetime"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if parse_time(time) != parse_time(lead["valid_time"]):
        yield Fault(name, f"says {time}, the manifest {lead['valid_time']}")
    if said != {"data": SHA2_256 + lead["values"]["sha256"], "quality": SHA2_256 + lead["quality"]["sha256"]}:
        yield Fault(name, "has other checksums than the manifest")


# --- pixels ---------------------------------------------------------------------------------------


def _remarks(manifest: Manifest) -> Iterator[str]:
    made, here = manifest["code_version"], version("cubecast")
    if made != here:
        yield f"it was made by cubecast {made}, this is {here}"
    if "outlet" not in manifest:
        yield "it does not note its bands and their resolution, as older versions: those of the configuration are taken"


def _differences_of(draft: Draft, path: Path, leads: list[Manifest]) -> Iterator[Difference]:
    """Where the stored GeoTIFFs say something else; those that cannot be read are known as faults already."""
    for index, lead in enumerate(leads):
        yield from _differences(path / lead["values"]["name"], draft.values(index), "average")
        yield from _differences(path / lead["quality"]["name"], draft.quality(index), "nearest")


def _differences(path: Path, plain: Path, overviews: Overviews) -> Iterator[Difference]:
    again = plain.with_suffix(".again.tif")
    copy(plain, again, overviews=overviews)
    if path.is_file() and sha256(path) != sha256(again):
        with suppress(RasterioError):
            yield from _apart(path, again)
    again.unlink()


def _apart(path: Path, again: Path) -> Iterator[Difference]:
    stored, made = describe(path), describe(again)
    if (stored.grid.shape, stored.dtype, len(stored.bands)) != (made.grid.shape, made.dtype, len(made.bands)):
        yield Difference(path.name, f"shape and type: {(len(stored.bands), *stored.grid.shape)} {stored.dtype}")
        return
    for number, band in enumerate(made.bands, start=1):
        found = [_gap(theirs, ours, made.nodata) for theirs, ours in pairs(path, again, number)]
        pixels = sum(count for count, _ in found)
        if pixels:
            largest = max(size for _, size in found) * abs(band.scale)
            yield Difference(path.name, band.name, pixels, math.prod(made.grid.shape), largest, band.units)
    if repr(stored) != repr(made):  # repr: NaN equals no NaN
        yield Difference(path.name, "names, units, scales, grid or tags")


def _gap(theirs: NDArray, ours: NDArray, nodata: float | None) -> tuple[int, float]:
    """How many pixels differ, and by how many DN at most where both are values."""
    wrong = _unequal(ours, theirs)
    largest = _largest(ours[wrong], theirs[wrong], nodata) if wrong.any() else 0.0
    return int(wrong.sum()), largest


def _unequal(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    apart = one != other
    return apart & ~(np.isnan(one) & np.isnan(other)) if one.dtype.kind == "f" else apart


def _largest(one: NDArray, other: NDArray, nodata: float | None) -> float:
    """Greatest difference of two DN that are both values."""
    both = (one != nodata) & (other != nodata)
    apart = np.abs(one[both].astype(np.float64) - other[both])
    return float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0


@contextmanager
def _made_again(settings: Settings, manifest: Manifest, load: Loader) -> Iterator[Draft]:
    """The run's forecast, from what its manifest names.

    Raises:
        CubecastError: something of it is gone, or not what it was.
    """
    with _understood():
        run = record_of(manifest)
        out = _outlet(manifest, settings)
    cube = open_cube(store_of(settings), snapshot=run.snapshot)
    specification = json.loads(run.specification)
    with _understood():
        then, situation = _as_then(settings, specification, out, cube), _situation(specification, run, cube)
    champion = load(then, run.model) if run.model.source == NETWORK else None
    told = None if champion is None else covariates_of(then)
    _refuse_other(record(then, champion, situation, told), run)
    if champion is not None and WIDTHS in specification:
        champion = widened(champion, np.array(specification[WIDTHS]), out.bands)
    if champion is not None:
        champion = giving_way(then, champion, run)
    view = View(situation.cube, situation.sample, then.samples, told)
    with drafting(run, out) as draft:
        make(then, champion, view, draft, draft.folder)
        yield draft


def _outlet(manifest: Manifest, settings: Settings) -> Outlet:
    """The run's; one that does not note it is from before there were probabilities."""
    if "outlet" in manifest:
        return outlet_of(manifest, settings.paths.forecasts)
    return replace(outlet(settings), probabilities={})


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        msg = (
            f"a run is made again from its {MANIFEST}, which cannot be understood, {type(error).__name__}: {error}. "
            "Restore it from a copy"
        )
        raise PublishError(msg) from None


def _as_then(settings: Settings, specification: Manifest, out: Outlet, cube: Cube) -> Settings:
    """Settings as the run had them; bands that were not forecast are those of the cube."""
    spoken = {band.name: band for band in out.bands}
    bands = tuple(spoken.get(one.name) or one.model_copy(update={"forecast": False}) for one in cube.layout.bands)
    then = {"tile": specification["tile"], "climatology_frames": specification.get(FRAMES, 0)}
    update = {
        "bands": bands,
        "grid": cube.layout.grid_spec,
        "axis": cube.layout.axis_spec,
        "samples": SampleSpec.model_validate(specification["samples"]),
        "motion": MotionSpec.model_validate(specification["motion"]),
        "forecast": settings.forecast.model_copy(update=then),
    }
    return cast("Settings", settings.model_copy(update=update))


def _situation(specification: Manifest, run: RunRecord, cube: Cube) -> Situation:
    as_of = specification["as_of"]
    seen = replace(cube, as_of=None if as_of is None else parse_time(as_of))
    spec = SampleSpec.model_validate(specification["samples"])
    return Situation(seen, sample(seen.observed(), cube.layout.axis.slot(run.init), spec))


def _refuse_other(again: RunRecord, run: RunRecord) -> None:
    """What would be made now is this run, whatever cubecast makes it and whatever scores it followed.

    Raises:
        ModelError: it is not.
    """
    ours, theirs = ({**asdict(one), **json.loads(one.specification)} for one in (again, run))
    apart = {"specification", "code_version", *FOLLOWED}
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    other = [name for name in names if name not in apart]
    if other:
        msg = (
            f"a run is made again of what it was made of, but found other {' and '.join(other)}: configuration, static "
            f"layers or {MANIFEST} have changed since. Put them back"
        )
        raise ModelError(msg)
