"""Looks over configuration, scenes, machine and services, and says of each fault what to do about it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isnan
from pathlib import Path

import numpy as np

from pipeline import surroundings
from pipeline.config import Settings
from pipeline.errors import CubecastError, NotEnoughFramesError, SceneError
from pipeline.geotiff import Facts, check_size, facts
from pipeline.header import categorical, declaration, read_header
from pipeline.inbox import open_inbox
from pipeline.samples import split
from pipeline.scene import Contract, Fit, acquisition_time, blaming_mask, check, check_mask, mask_path
from pipeline.series import some
from pipeline.specs import BandSpec, MaskSpec
from pipeline.surroundings import GIB, Finding

CROWDED = 0.05
SHORTEST = timedelta(minutes=1)  # cadence

FIXES = {
    "missing-band": "mend the index of that band in [[bands]]",
    "wrong-dtype": "give the band in [[bands]] the dtype of the scenes",
    "ambiguous-band": "name the band by its number: index in [[bands]], without source",
    "wrong-scale": "mend declared in [[bands]]: the scale and offset that the scenes' own tags have",
    "wrong-crs": 'give [grid] the CRS of the scenes (cubecast init shows it), or set scenes.off_grid = "warp"',
    "off-grid": 'give [grid] the transform of the scenes (cubecast init shows it), or set scenes.off_grid = "warp"',
    "outside": "give [grid] the area of the scenes (cubecast init shows it), or move scenes of other areas elsewhere",
    "incomplete": "wait until the scene is written, or write it again without SPARSE_OK",
    "too-large": "write the scene again, tiled",
    "bad-mask": "mend the mask; the scene waits for it",
    "unreadable": "copy the file again; ingest sets it aside and goes on",
    "no-time": "mend scenes.pattern and scenes.time_format, or rename the file",
}


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Everything that can be checked without changing anything, in the order in which faults are best mended."""
    return (
        *surroundings.packages(),
        *surroundings.workspace(settings.workspace, _wanted(settings), cube=not settings.store.url),
        *surroundings.store(settings.store),
        *_scenes(settings),
        *surroundings.tracking(settings.tracking),
        *surroundings.scheduler(settings.services),
        *surroundings.ports(settings.services),
    )


def _wanted(settings: Settings) -> int:
    """Bytes that the workspace will hold, roughly."""
    if settings.store.url:
        return GIB
    slot = settings.grid.width * settings.grid.height * sum(np.dtype(band.dtype).itemsize for band in settings.bands)
    try:
        return slot * len(open_inbox(settings.scenes).files()) + GIB
    except CubecastError:
        return GIB


def _scenes(settings: Settings) -> Iterator[Finding]:
    if settings.scenes.url:
        yield from _beyond(settings)
        return
    folder = settings.scenes.folder
    what = "scenes.folder is a folder that can be read"
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        state = "may not be read" if folder.is_dir() else "is no folder"
        yield Finding("fault", what, f"{folder} {state}", "create it or mend its permissions, or mend scenes.folder")
        return
    yield Finding("ok", what, str(folder))  # on a network too: scenes are copied aside before they are read
    paths = [folder / key.name for key in open_inbox(settings.scenes).files()]
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


def _beyond(settings: Settings) -> Iterator[Finding]:
    """An inbox beyond this machine: its names only, since nothing is copied here."""
    what = "scenes.url is an inbox that can be listed"
    try:
        paths = [Path(key.name) for key in open_inbox(settings.scenes).files()]
    except CubecastError as error:
        yield Finding("fault", what, settings.scenes.url, str(error))
        return
    yield Finding("ok", what, f"{settings.scenes.url}: {len(paths)} files match {settings.scenes.pattern}")
    times, _ = ({}, []) if settings.scenes.time_tag else _times(settings, paths)
    if times:
        yield from _axis(settings, times)


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
    if settings.axis.cadence <= SHORTEST:
        fix = "nothing, if they are copies; if they are tiles, write {tile} in scenes.pattern where their names stand"
        return Finding("warning", what, found, fix)
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


@dataclass(slots=True)
class _Look:
    """What was found in a few scenes: faults with the scenes that have them, flaws, and how those that fit lie."""

    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    flaws: Counter[str] = field(default_factory=Counter)
    fits: list[Fit] = field(default_factory=list)


def _contract(settings: Settings, paths: Sequence[Path]) -> Iterator[Finding]:
    """The first, the middle and the last scene against bands and grid."""
    looked_at = list(dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]))
    contract = Contract(settings.bands, settings.grid.geobox(), settings.scenes.off_grid)
    look = _Look()
    for path in looked_at:
        try:
            own = facts(path)
            check_size(own)
            fit = check(own, contract)
            look.fits.append(fit)
            look.flaws.update(_disagreements(settings.bands, own, fit))
            _look_at_mask(path, settings.scenes.mask, contract, fit)
        except SceneError as error:
            look.faults[error.reason, error.detail].append(path.name)
    what = "scenes have the bands of [[bands]] and lie on [grid]"
    for (reason, detail), names in look.faults.items():
        yield Finding("fault", what, f"{some(names)}: {detail}", FIXES.get(reason, "mend the scene"))
    if not look.faults:
        yield Finding("ok", what, f"looked at {some([path.name for path in looked_at])}")
    for flaw in look.flaws:
        fix = "take the scenes' value over into [[bands]], unless you know better"
        yield Finding("warning", "scale, offset, nodata and units are those of the scenes", flaw, fix)
    yield from _warped(settings.bands, look.fits)


def _look_at_mask(scene: Path, spec: MaskSpec | None, contract: Contract, fit: Fit) -> None:
    path = None if spec is None else mask_path(scene, spec)
    if spec is None or path is None or not path.is_file():
        return  # missing masks are counted elsewhere
    with blaming_mask("beside it"):
        own = facts(path)
        check_size(own)
        check_mask(own, spec, contract, fit)


def _warped(bands: Sequence[BandSpec], fits: Sequence[Fit]) -> Iterator[Finding]:
    warped = sum(fit.warp for fit in fits)
    if not warped:
        return
    how = ", ".join(sorted({band.resampling for band in bands}))
    what = "scenes of another grid are warped onto [grid], as scenes.off_grid says"
    yield Finding("ok", what, f"{warped} of {len(fits)} looked at ({how})")
    for band in bands:
        if categorical(band.name) and band.resampling not in {"nearest", "mode"}:
            fix = f'set resampling = "nearest" for band {band.name}'
            found = f"band {band.name} sounds like categories and has {band.resampling}"
            yield Finding("warning", "nothing is mixed between categories or bits", found, fix)


def _disagreements(configured: Sequence[BandSpec], own: Facts, fit: Fit) -> Iterator[str]:
    """Where a scene declares something else than the configuration; a scene that declares nothing does not disagree."""
    for ours, index in zip(configured, fit.indices, strict=True):
        theirs = declaration(own.bands[index - 1], own.tags)
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
