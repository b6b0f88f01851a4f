"""The made-up sky as GeoTIFF scenes, with everything that goes wrong on the way from a sensor to an inbox.

Demo, tests and benchmarks share them.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.synthetic import SyntheticSpec, synthesise
from pipeline.times import stamp

SCALE: Final = 0.001
"""Reflectance per DN."""
NODATA: Final = 65535
"""DN of a missing pixel."""
PATTERN: Final = "synthetic_{time}Z*.tif"
"""Names of the scenes, copies included, as ``[scenes] pattern`` writes them."""
TIME_FORMAT: Final = "%Y%m%dT%H%M"
"""How ``{time}`` of :data:`PATTERN` reads."""
AVAILABLE_TAG: Final = "AVAILABLE_AT"
"""TIFF tag with the time when a scene became available."""
LATENCY: Final = timedelta(minutes=2)
"""From acquisition to availability of a scene that is not late."""
LATE_SLOTS: Final = 12
"""From acquisition to availability of a late scene, in slots."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in which slots; by default one of each kind, in the first two thirds of 60 slots."""

    late: tuple[int, ...] = (6,)
    """Available only :data:`LATE_SLOTS` slots after the acquisition."""
    repeated: tuple[int, ...] = (13,)
    """Delivered twice: the same bytes under two names."""
    corrupt: tuple[int, ...] = (20,)
    """Pixels cannot be decoded."""
    half_written: tuple[int, ...] = (27,)
    """Cut off behind an intact header."""
    missing: tuple[int, ...] = (34,)
    """Not delivered."""

    def __post_init__(self) -> None:
        """Refuses two faults in one slot.

        Raises:
            ValueError: a slot is named twice.
        """
        if len(set(self.slots)) < len(self.slots):
            msg = f"a slot has one fault at most, found {sorted(self.slots)}"
            raise ValueError(msg)

    @classmethod
    def none(cls) -> Faults:
        """Nothing goes wrong."""
        return cls((), (), (), (), ())

    @property
    def slots(self) -> tuple[int, ...]:
        """All slots with a fault."""
        return tuple(itertools.chain.from_iterable(getattr(self, kind.name) for kind in fields(self)))


@dataclass(frozen=True, slots=True)
class WrittenScenes:
    """A folder of made-up scenes and which of its files are what; paths in the order of their slots."""

    folder: Path
    spec: SyntheticSpec
    good: tuple[Path, ...]
    """Scenes that can be read, one a slot, late ones included."""
    late: tuple[Path, ...]
    """Those of the good ones that came late."""
    repeated: tuple[Path, ...]
    """Second copies of good scenes."""
    corrupt: tuple[Path, ...]
    """Scenes whose pixels cannot be decoded."""
    half_written: tuple[Path, ...]
    """Scenes that were cut off."""
    missing: tuple[Path, ...]
    """Scenes that were never delivered: no such files."""


def encode(values: NDArray[np.float32], validity: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """DN of reflectances: value / :data:`SCALE`, :data:`NODATA` where not valid.

    >>> encode(np.float32([0.25, 0.5]), np.array([True, False])).tolist()
    [250, 65535]
    """
    return np.where(validity, np.rint(np.where(validity, values, 0) / SCALE), NODATA).astype(np.uint16)


def write_scene(
    path: Path, dn: NDArray[np.uint16], grid: GeoBox, time: datetime, available: datetime | None = None
) -> None:
    """A GeoTIFF of one acquisition, with all that a well-kept archive says in its tags.

    Args:
        path: the file; one of the same name is replaced.
        dn: ``(y, x)``, as :func:`encode` makes it.
        grid: of the shape of ``dn``.
        time: acquisition, UTC, for the baseline TIFF tag DateTime.
        available: when the scene could first be used, UTC; without it the tag is left out.
    """
    tags = {"TIFFTAG_DATETIME": f"{time:%Y:%m:%d %H:%M:%S}"}
    if available is not None:
        tags[AVAILABLE_TAG] = f"{available:%Y-%m-%dT%H:%M:%SZ}"
    with rasterio.open(path, "w", **_profile(grid)) as file:
        file.update_tags(**tags)
        file.scales, file.offsets, file.units, file.descriptions = (SCALE,), (0.0,), ("1",), ("reflectance",)
        file.write(dn, 1)


def write_scenes(folder: Path, spec: SyntheticSpec, faults: Faults | None = None) -> WrittenScenes:
    """Writes the sequence of ``spec`` into ``folder``, one ``synthetic_<time>.tif`` a slot, with ``faults`` in it.

    Raises:
        ValueError: a fault lies outside the sequence.
    """
    faults = Faults() if faults is None else faults
    _check_inside(faults, spec)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthetic_{stamp(time)}.tif" for time in spec.times]
    _write_frames(paths, spec, faults)
    for slot in faults.corrupt:
        corrupt(paths[slot])
    for slot in faults.half_written:
        _cut(paths[slot])
    copies = tuple(repeat(paths[slot]) for slot in sorted(faults.repeated))
    bad = {*faults.corrupt, *faults.half_written, *faults.missing}
    return WrittenScenes(
        folder=folder,
        spec=spec,
        good=tuple(path for slot, path in enumerate(paths) if slot not in bad),
        late=tuple(paths[slot] for slot in sorted(faults.late)),
        repeated=copies,
        corrupt=tuple(paths[slot] for slot in sorted(faults.corrupt)),
        half_written=tuple(paths[slot] for slot in sorted(faults.half_written)),
        missing=tuple(paths[slot] for slot in sorted(faults.missing)),
    )


def _profile(grid: GeoBox) -> dict[str, Any]:
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    place = {"height": grid.height, "width": grid.width, "crs": str(grid.crs), "transform": grid.transform}
    return {**layout, **place, "count": 1, "dtype": "uint16", "nodata": NODATA}


def _check_inside(faults: Faults, spec: SyntheticSpec) -> None:
    outside = [slot for slot in faults.slots if not 0 <= slot < spec.frames]
    if outside:
        msg = f"faults lie in slots 0 to {spec.frames - 1}, found {outside}: more frames, other slots or Faults.none()"
        raise ValueError(msg)


def _write_frames(paths: list[Path], spec: SyntheticSpec, faults: Faults) -> None:
    sequence, grid = synthesise(spec), spec.grid
    dn = encode(sequence.values, sequence.validity)
    for slot, (path, time) in enumerate(zip(paths, spec.times, strict=True)):
        latency = LATE_SLOTS * spec.cadence if slot in faults.late else LATENCY
        path.unlink(missing_ok=True)
        if slot not in faults.missing:
            write_scene(path, dn[slot], grid, time, time + latency)


def corrupt(path: Path) -> None:
    """Overwrites the first half of a scene's first block: the file's header and tags stay as they are.

    From the block's own two-byte header on, since GDAL does not compare deflate's checksum: bytes overwritten further
    inside are read as noise without an error (26 of 36 files tried, GDAL 3.10).
    """
    with rasterio.open(path) as file:
        offset, size = (int(file.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * (size // 2))


def _cut(path: Path) -> None:
    """Cuts off the last third of the file, which holds nothing but pixels."""
    with path.open("r+b") as raw:
        raw.truncate(path.stat().st_size * 2 // 3)


def repeat(path: Path) -> Path:
    """Delivers a scene again: the same bytes under a second name."""
    return shutil.copyfile(path, path.with_name(f"{path.stem}_copy.tif"))
