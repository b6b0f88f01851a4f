"""Looks over configuration, scenes, machine and services, and says of each fault what to do about it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import Settings
from pipeline.errors import CubecastError, NotEnoughFramesError, SceneError
from pipeline.header import read_header
from pipeline.samples import split
from pipeline.scene import Contract, acquisition_time, check, discover, mask_path, open_geotiff
from pipeline.series import some
from pipeline.specs import BandSpec, MaskSpec, ServiceSpec, TrackingSpec

BASE = ("rasterio", "icechunk", "zarr", "dask", "prefect", "mlflow")
MOUNTS = Path("/proc/mounts")  # Linux only; elsewhere nothing is said about file systems
REMOTE = re.compile(r"nfs\d*|cifs|smb\w*|9p|afs|ceph|lustre|glusterfs|beegfs|gpfs|fuse.*")
TIMEOUT_S = 3
GIB = 2**30
CROWDED = 0.05

FIXES = {
    "missing-band": "mend the index of that band in [[bands]]",
    "wrong-dtype": "give the band in [[bands]] the dtype of the scenes",
    "wrong-crs": "give [grid] the CRS of the scenes (cubecast init shows it), or warp the scenes to the grid",
    "off-grid": "give [grid] the transform and size of the scenes (cubecast init shows them), or warp the scenes to it",
    "unreadable": "copy the file again; ingest sets it aside and goes on",
    "no-time": "mend scenes.pattern and scenes.time_format, or rename the file",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``warning``, it works with a flaw; ``fault``, some command will fail.
        what: the rule.
        found: what was found.
        fix: what to do; empty where all is well.
    """

    level: Literal["ok", "warning", "fault"]
    what: str
    found: str
    fix: str = ""


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Everything that can be checked without changing anything, in the order in which faults are best mended."""
    return (
        *_packages(),
        *_workspace(settings),
        *_scenes(settings),
        *_tracking(settings.tracking),
        *_ports(settings.services),
    )


def _packages() -> Iterator[Finding]:
    found = {name: _version(name) for name in BASE}
    missing = [name for name, number in found.items() if number is None]
    what = "the packages of cubecast are installed"
    if missing:
        yield Finding("fault", what, f"missing: {', '.join(missing)}", "set the environment up again: make test")
    else:
        yield Finding("ok", what, ", ".join(f"{name} {number}" for name, number in found.items()))
    what = "TensorFlow is installed, for training and for network forecasts"
    if find_spec("tensorflow") is None:
        fix = "install the extra cpu or gpu of cubecast; ingest, verify and baseline forecasts work without"
        yield Finding("warning", what, "not installed", fix)
    else:
        number = _version("tensorflow") or _version("tensorflow-cpu") or ""
        yield Finding("ok", what, f"tensorflow {number}, keras {_version('keras')}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# The workspace


def _workspace(settings: Settings) -> Iterator[Finding]:
    existing = next(path for path in (settings.workspace, *settings.workspace.parents) if path.exists())
    what = "workspace is a folder that can be written"
    fault = _why_not_writable(existing)
    if fault is not None:
        yield Finding("fault", what, f"{existing}: {fault}", "mend its permissions, or set another workspace")
        return
    yield Finding("ok", what, str(settings.workspace))
    yield from _local(existing)
    yield _room(settings, existing)


def _why_not_writable(folder: Path) -> str | None:
    if not folder.is_dir():
        return "is a file"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _local(folder: Path) -> Iterator[Finding]:
    if not MOUNTS.is_file():
        return
    kind = file_system(folder.resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))
    what = "the workspace lies on a local disk, since its lock and its durability rest on flock and fsync"
    if REMOTE.fullmatch(kind):
        yield Finding("warning", what, f"{folder} is on {kind}", "set a workspace on a local disk")
    else:
        yield Finding("ok", what, kind)


def file_system(path: Path, mounts: str) -> str:
    r"""Type of the file system on which an absolute path lies.

    Args:
        path: without symbolic links.
        mounts: what /proc/mounts says (proc(5), fstab(5)): device, mount point with octal escapes, type, and more.

    >>> file_system(Path("/data/my cube"), "/dev/vda / ext4 rw 0 0\nhost:/x /data/my\\040cube nfs4 rw 0 0")
    'nfs4'
    """
    best, kind = Path("/"), "unknown"
    for fields in (line.split() for line in mounts.splitlines()):
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, fields[2]
    return kind


def _room(settings: Settings, folder: Path) -> Finding:
    slot = settings.grid.width * settings.grid.height * sum(np.dtype(band.dtype).itemsize for band in settings.bands)
    need = slot * _count(settings) + GIB
    free = shutil.disk_usage(folder).free
    what = "the disk has room for the scenes uncompressed and 1 GiB for models and forecasts"
    found = f"{free / GIB:.1f} GiB free, {need / GIB:.1f} GiB wanted"
    if free >= need:
        return Finding("ok", what, found)
    return Finding("warning", what, found, "free some space, or set a workspace on a larger disk")


def _count(settings: Settings) -> int:
    try:
        return len(discover(settings.scenes))
    except CubecastError:
        return 0


# The scenes


def _scenes(settings: Settings) -> Iterator[Finding]:
    folder = settings.scenes.folder
    what = "scenes.folder is a folder that can be read"
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        state = "may not be read" if folder.is_dir() else "is no folder"
        yield Finding("fault", what, f"{folder} {state}", "create it or mend its permissions, or mend scenes.folder")
        return
    yield Finding("ok", what, str(folder))
    paths = discover(settings.scenes)
    yield _matching(settings, paths)
    times, faults = _times(settings, paths)
    if faults:
        level = "warning" if times else "fault"
        found = f"{len(faults)} of {len(paths)} have none: {some(faults)}"
        yield Finding(level, "every scene has an acquisition time", found, FIXES["no-time"])
    if times:
        yield from _axis(settings, times)
        yield from _contract(settings, sorted(times, key=lambda path: (times[path], path)))
        yield from _masks(settings.scenes.mask, list(times))


def _matching(settings: Settings, paths: Sequence[Path]) -> Finding:
    spec = settings.scenes
    others = sorted(
        {p.name for p in spec.folder.iterdir() if p.suffix.lower() in {".tif", ".tiff"}} - {p.name for p in paths}
    )
    what = f"the files in scenes.folder match scenes.pattern, {spec.pattern}"
    fix = "mend scenes.pattern (cubecast init guesses it), or move what is no scene elsewhere; links are not followed"
    if not paths and not others:
        return Finding("warning", what, "no GeoTIFF there yet", "put scenes there, or mend scenes.folder")
    if others:
        return Finding(
            "warning" if paths else "fault", what, f"{len(paths)} do; {len(others)} not: {some(others)}", fix
        )
    return Finding("ok", what, f"{len(paths)} scenes")


def _times(settings: Settings, paths: Sequence[Path]) -> tuple[dict[Path, datetime], list[str]]:
    times, faults = {}, []
    for path in paths:
        try:
            tags = read_header(path).tags if settings.scenes.time_tag else {}
            times[path] = acquisition_time(path.name, tags, settings.scenes)
        except SceneError as error:
            faults.append(error.detail if error.reason == "no-time" else f"{path.name} ({error})")
    return times, faults


def _axis(settings: Settings, times: Mapping[Path, datetime]) -> Iterator[Finding]:
    axis = settings.axis.axis()
    slots = {path: axis.slot(time) for path, time in times.items()}
    early = sorted(path.name for path, slot in slots.items() if slot < 0)
    if early:
        first = min(times.values())
        level = "fault" if len(early) == len(slots) else "warning"
        found = f"{len(early)} of {len(slots)} are: {some(early)}"
        fix = f"set axis.origin to {first:%Y-%m-%dT%H:%M:%SZ} before the first ingest, or move them elsewhere"
        yield Finding(level, f"no scene is older than axis.origin, {axis.origin:%Y-%m-%dT%H:%M:%SZ}", found, fix)
    kept = {path: slot for path, slot in slots.items() if slot >= 0}
    if kept:
        yield _crowding(settings, kept)
        yield _enough(settings, np.unique(list(kept.values())))


def _crowding(settings: Settings, slots: Mapping[Path, int]) -> Finding:
    """Two scenes of one slot; tiles of one acquisition are none."""
    places: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for path, slot in sorted(slots.items()):
        places[slot, settings.scenes.tile_text(path.name)].append(path.name)
    crowded = [names for names in places.values() if len(names) > 1]
    what = f"every scene has a slot of its own, axis.cadence being {settings.axis.cadence}"
    if not crowded:
        return Finding("ok", what, f"{len(slots)} scenes, {len(places)} slots")
    found = f"{len(crowded)} of {len(places)} have several: {some([' and '.join(names) for names in crowded])}"
    if len(crowded) > CROWDED * len(places):
        fix = "lower axis.cadence; if they are tiles, write {tile} in scenes.pattern where their names stand"
        return Finding("warning", what, found, fix)
    return Finding("warning", what, found, "nothing, if it does not matter which; otherwise lower axis.cadence")


def _enough(settings: Settings, observed: np.ndarray) -> Finding:
    spec = settings.samples
    what = f"the scenes suffice for {spec.context_frames} context frames and a horizon of {spec.horizon}"
    slots = int(observed[-1] - observed[0]) + 1
    try:
        parts = split(observed, spec, (settings.grid.height, settings.grid.width), spec.block_buffer)
    except NotEnoughFramesError as error:
        return Finding("fault", what, f"{len(observed)} of {slots} slots observed", str(error))
    samples = (*parts.training, *parts.validation, *parts.test)
    full = np.mean([len(sample.context) == spec.context_frames for sample in samples])
    found = f"{len(observed)} of {slots} slots observed, {len(parts.training)} init times to train on"
    if full < 0.5:
        fix = f"raise samples.max_age, now {spec.max_age} slots, or lower samples.context_frames"
        return Finding("warning", what, f"{found}; only {full:.0%} have a full context", fix)
    return Finding("ok", what, found)


def _contract(settings: Settings, paths: Sequence[Path]) -> Iterator[Finding]:
    """The first, the middle and the last scene against bands and grid."""
    looked_at = list(dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]))
    contract = Contract(settings.bands, settings.grid.geobox())
    faults: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    flaws: Counter[str] = Counter()
    for path in looked_at:
        try:
            with open_geotiff(path) as dataset:
                check(dataset, contract)
            flaws.update(_disagreements(settings.bands, read_header(path).bands))
        except SceneError as error:
            faults[error.reason, error.detail].append(path.name)
    what = "scenes have the bands of [[bands]] and lie on [grid]"
    for (reason, detail), names in faults.items():
        yield Finding("fault", what, f"{some(names)}: {detail}", FIXES.get(reason, "mend the scene"))
    if not faults:
        yield Finding("ok", what, f"looked at {some([path.name for path in looked_at])}")
    for flaw in flaws:
        fix = "take the scenes' value over into [[bands]], unless you know better"
        yield Finding("warning", "scale, offset, nodata and units are those of the scenes", flaw, fix)


def _disagreements(configured: Sequence[BandSpec], declared: Sequence[BandSpec]) -> Iterator[str]:
    """Where a scene declares something else than the configuration; a scene that declares nothing does not disagree."""
    by_index = {band.index: band for band in declared}
    for ours in configured:
        theirs = by_index.get(ours.index, ours)
        if (theirs.scale, theirs.offset) not in {(1, 0), (ours.scale, ours.offset)}:
            scaling = f"DN * {theirs.scale:g} + {theirs.offset:g}"
            yield f"band {ours.name}: {scaling} in the scenes, DN * {ours.scale:g} + {ours.offset:g} in [[bands]]"
        if theirs.nodata is not None and not _same(theirs.nodata, ours.nodata):
            yield f"band {ours.name}: nodata is {theirs.nodata:g} in the scenes, {ours.nodata} in [[bands]]"
        if theirs.units not in {"1", ours.units}:
            yield f"band {ours.name}: in {theirs.units} in the scenes, in {ours.units} in [[bands]]"


def _same(declared: float, configured: float | None) -> bool:
    return configured is not None and (declared == configured or (isnan(declared) and isnan(configured)))


def _masks(spec: MaskSpec | None, scenes: Sequence[Path]) -> Iterator[Finding]:
    if spec is None:
        return
    what = "every scene has its mask in scenes.mask.folder"
    absent = [path.name for path in scenes if not mask_path(path, spec).is_file()]
    if absent:
        fix = "mend scenes.mask.folder and scenes.mask.suffix, or bring the masks: a scene waits for its mask"
        level = "fault" if len(absent) == len(scenes) else "warning"
        yield Finding(level, what, f"{len(absent)} of {len(scenes)} have none: {some(absent)}", fix)
    else:
        yield Finding("ok", what, f"{len(scenes)} masks")


# The services


def _tracking(spec: TrackingSpec) -> Iterator[Finding]:
    if not spec.uri.startswith(("http://", "https://")):
        return
    what = "the MLflow server at tracking.uri answers"
    try:
        with urllib.request.urlopen(f"{spec.uri.rstrip('/')}/health", timeout=TIMEOUT_S) as answer:
            yield Finding("ok", what, f"{spec.uri}: {answer.status}")
    except urllib.error.HTTPError as error:
        fix = "check the address and your credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        yield Finding("warning", what, f"{spec.uri}: {error.code} {error.reason}", fix)
    except (OSError, ValueError) as error:
        fix = "start the server (cubecast up), or mend tracking.uri; empty keeps the record in the workspace"
        yield Finding("fault", what, f"{spec.uri}: {getattr(error, 'reason', error)}", fix)


def _ports(spec: ServiceSpec) -> Iterator[Finding]:
    for name, port in (("prefect_port", spec.prefect_port), ("mlflow_port", spec.mlflow_port)):
        what = f"services.{name} is free for cubecast up"
        fault = _why_not_free(port)
        if fault is None:
            yield Finding("ok", what, str(port))
        else:
            fix = f"nothing, if cubecast up runs already; otherwise set services.{name} to another port"
            yield Finding("warning", what, f"{port}: {fault}", fix)
    if spec.prefect_port == spec.mlflow_port:
        what = "Prefect and MLflow have a port each"
        yield Finding("fault", what, f"both have {spec.prefect_port}", "set services.mlflow_port to another port")


def _why_not_free(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just closed counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None
