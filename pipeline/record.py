"""What a forecast run is made of, and the names that follow from it: run key, folders, files, tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter

from pipeline.bucket import Bucket, Location
from pipeline.grid import geobox
from pipeline.specs import BandSpec, ProductSpec, Resolution
from pipeline.times import minutes, parse_time, stamp

MANIFEST = "run.json"
KEY_LENGTH = 12
YIELDED = "yielded"  # in a specification: ``[lead in minutes, band]`` where the run says what extrapolation says


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model made a run: its registered name and version, and the rung of the ladder that it stands for.

    ``digest``: of its files, as a registry that was lost and made anew counts versions from 1 again; empty: not known.
    """

    name: str
    version: str
    source: str
    digest: str = ""

    @property
    def full_name(self) -> str:
        """Name and version, as scores call it."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything that decides what a run says, apart from the product that it belongs to.

    Attributes:
        init: the slot that the run is issued for, UTC.
        cadence: from slot to slot, whole minutes; lead ``n`` is ``n * cadence``.
        model: what made it.
        snapshot: commit of the cube that it read.
        scenes: ids of the scenes in its context, oldest first.
        specification: JSON of every setting that decides the values and that no other field holds: context, horizon,
            motion, tiles, calibration.
        code_version: version of cubecast.
    """

    init: datetime
    cadence: timedelta
    model: ModelRef
    snapshot: str
    scenes: tuple[str, ...]
    specification: str
    code_version: str

    def __post_init__(self) -> None:
        if self.init.utcoffset() != timedelta(0):
            msg = f"the init time of a run is in UTC, found {self.init.isoformat()}: add a Z"
            raise ValueError(msg)
        if self.cadence < timedelta(minutes=1) or self.cadence % timedelta(minutes=1):
            msg = f"the cadence of a run is whole minutes, because lead times name its files, found {self.cadence}"
            raise ValueError(msg)
        try:
            json.loads(self.specification)
        except ValueError as error:
            msg = f"the specification of a run is JSON, found {self.specification[:60]!r}: {error}"
            raise ValueError(msg) from None

    @property
    def yielded(self) -> tuple[tuple[int, str], ...]:
        """Leads (minutes) and bands where the run says what extrapolation says."""
        return yielded_of(json.loads(self.specification))

    def lead(self, number: int) -> Lead:
        """Lead ``number``, from 1."""
        return Lead(minutes(number * self.cadence), self.init + number * self.cadence)


@dataclass(frozen=True, slots=True)
class Lead:
    """One step of a run.

    >>> Lead(5, datetime(2020, 4, 1, 13, 15)).name
    'lead-0005m'
    """

    minutes: int
    valid_time: datetime

    @property
    def name(self) -> str:
        """How its files begin."""
        return f"lead-{self.minutes:04d}m"


@dataclass(frozen=True, slots=True)
class Outlet:
    """In what form and where the runs of one product come out.

    Attributes:
        product: name and terms of use.
        bands: the forecast's bands, in the order of its band axis.
        grid: the forecast's grid.
        root: folder of this machine where runs are made, and published unless there is a bucket.
        resolution: of the stored values, as the scenes' or finer.
        bucket: where runs are published instead.
        probabilities: thresholds by band whose probabilities are stored, where the forecast has quantiles.
    """

    product: ProductSpec
    bands: tuple[BandSpec, ...]
    grid: GeoBox
    root: Path
    resolution: Resolution = "fine"
    bucket: Bucket | None = None
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict, hash=False)

    @property
    def place(self) -> Location:
        """Where published runs lie, of all products."""
        return self.bucket or self.root

    @property
    def folder(self) -> Path:
        """The product's folder; in a bucket, as programs on GDAL name it."""
        return (self.bucket.path if self.bucket else self.root) / self.product.name


def run_key(run: RunRecord, outlet: Outlet) -> str:
    """Twelve hexadecimal digits over everything that decides a run's bytes; the time of its making is not among it."""
    model = {name: value for name, value in asdict(run.model).items() if name != "digest" or value}
    facts = {
        "run": asdict(run) | {"specification": json.loads(run.specification), "model": model},
        "product": outlet.product.model_dump(),
        "bands": [band.model_dump() for band in outlet.bands],
        "grid": grid_facts(outlet.grid),
        "resolution": outlet.resolution,
        **_probabilities(outlet),
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def run_name(run: RunRecord, outlet: Outlet) -> str:
    """What the run is called below its product's folder."""
    return f"{run.init:%Y/%m/%d}/{stamp(run.init)}/{run_key(run, outlet)}"


def run_folder(run: RunRecord, outlet: Outlet) -> Path:
    """Where the run is published."""
    return outlet.folder / run_name(run, outlet)


def grid_facts(grid: GeoBox) -> dict[str, Any]:
    """A grid as JSON: CRS (WKT), affine transform and ``[height, width]``."""
    crs = None if grid.crs is None else grid.crs.to_wkt()
    return {"crs": crs, "transform": list(grid.transform)[:6], "shape": list(grid.shape)}


def outlet_facts(outlet: Outlet) -> dict[str, Any]:
    """An outlet as JSON, without grid and root."""
    return {
        "product": outlet.product.model_dump(mode="json"),
        "bands": [band.to_json() for band in outlet.bands],
        "resolution": outlet.resolution,
        **_probabilities(outlet),
    }


def _probabilities(outlet: Outlet) -> dict[str, Any]:
    """Nothing where none are asked for, as in runs from before there were any: their keys stay what they are."""
    asked = {band: list(thresholds) for band, thresholds in outlet.probabilities.items()}
    return {"probabilities": asked} if asked else {}


def outlet_of(manifest: dict[str, Any], root: Path) -> Outlet:
    """The outlet that a manifest speaks of, by its ``outlet`` and ``grid``.

    Raises:
        KeyError: the manifest is of an older cubecast, which did not note its outlet.
    """
    facts, grid = manifest["outlet"], manifest["grid"]
    return Outlet(
        ProductSpec.model_validate(facts["product"]),
        tuple(BandSpec.model_validate(band) for band in facts["bands"]),
        geobox(grid["crs"], tuple(grid["transform"]), tuple(grid["shape"])),
        root,
        facts["resolution"],
        probabilities={band: tuple(values) for band, values in facts.get("probabilities", {}).items()},
    )


def record_of(manifest: dict[str, Any]) -> RunRecord:
    """The record that a manifest speaks of."""
    return RunRecord(
        init=parse_time(manifest["init"]),
        cadence=TypeAdapter(timedelta).validate_python(manifest["cadence"]),
        model=ModelRef(**manifest["model"]),
        snapshot=manifest["snapshot"],
        scenes=tuple(manifest["scenes"]),
        specification=json.dumps(manifest["specification"], sort_keys=True),
        code_version=manifest["code_version"],
    )


def yielded_of(specification: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """Leads (minutes) and bands that a specification yields to extrapolation."""
    return tuple((int(lead), str(band)) for lead, band in specification.get(YIELDED, ()))


def iso(time: datetime) -> str:
    """A UTC time as tags and items carry it.

    >>> from datetime import UTC
    >>> iso(datetime(2020, 4, 1, 13, 10, tzinfo=UTC))
    '2020-04-01T13:10:00Z'
    """
    return time.isoformat().replace("+00:00", "Z")


def lead_tags(run: RunRecord, outlet: Outlet, lead: Lead) -> dict[str, str]:
    """Dataset tags of a lead's files.

    The baseline TIFF tags (TIFF 6.0, section 8) are those that programs show without being asked.
    """
    product = outlet.product
    given = [band for minutes, band in run.yielded if minutes == lead.minutes]
    return {
        "product": product.name,
        "init_time": iso(run.init),
        "valid_time": iso(lead.valid_time),
        "lead_minutes": str(lead.minutes),
        "run_key": run_key(run, outlet),
        "model": run.model.name,
        "model_version": run.model.version,
        "model_source": run.model.source,
        "snapshot": run.snapshot,
        "scenes": json.dumps(run.scenes, ensure_ascii=False),
        "licence": product.licence,
        "attribution": product.attribution,
        "TIFFTAG_DATETIME": f"{lead.valid_time:%Y:%m:%d %H:%M:%S}",
        "TIFFTAG_SOFTWARE": f"cubecast {run.code_version}",
        "TIFFTAG_COPYRIGHT": product.attribution or product.licence,
        "TIFFTAG_IMAGEDESCRIPTION": product.title or product.name,
        **({YIELDED: " ".join(given)} if given else {}),
    }
