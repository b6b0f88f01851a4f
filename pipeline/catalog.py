"""Published forecast runs: written aside, checked, and shown whole; found again, oldest first or the latest.

A run is a folder with a manifest (run.json). It gets its name by one rename, after everything in it is on the disk, so
that a killed publish leaves nothing but a hidden staging folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline import durable
from pipeline.errors import PublishError
from pipeline.predictor import Forecast
from pipeline.raster import describe, read_dn, read_physical, sha256, write_cog
from pipeline.record import (
    MANIFEST,
    ModelRef,
    Outlet,
    RunRecord,
    grid_facts,
    iso,
    lead_tags,
    outlet_facts,
    run_folder,
    run_key,
)
from pipeline.sheets import Sheet, quality_sheet, stored_bands, value_sheet
from pipeline.stac import CATALOGUE, RasterFile, StoredFile, day_catalogue, iso_duration, lead_item
from pipeline.times import parse_time

SCHEMA_VERSION = 1
LATEST = "latest.json"
STAGING = ".staging-"

Checks = Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A complete run on the disk.

    Attributes:
        path: its folder.
        leads: minutes ahead -> GeoTIFF.
        quantities: names along the quantity axis.
        bands: names along the band axis.
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

    @property
    def order(self) -> tuple[datetime, datetime]:
        """Newer runs have the greater one."""
        return self.init, self.created

    def read(self, lead: int) -> NDArray[np.float32]:
        """What the run says for ``lead`` minutes ahead: ``(quantity, y, x, band)``, in units of the bands; or NaN."""
        layers = read_physical(self.leads[lead])
        split = layers.reshape(len(self.quantities), len(self.bands), *layers.shape[1:])
        return np.moveaxis(split, 1, -1)

    def source(self, lead: int) -> NDArray[np.uint8]:
        """Which rung of the ladder made each pixel, ``(y, x)``, as :class:`pipeline.predictor.Source` counts them."""
        return read_dn(quality_path(self.leads[lead]))[0].astype(np.uint8)


def quality_path(path: Path) -> Path:
    """The quality file beside the GeoTIFF of a lead."""
    return path.with_name(f"{path.stem}-quality.tif")


def publish(
    forecast: Forecast, run: RunRecord, outlet: Outlet, checks: Checks, *, created: datetime | None = None
) -> Path:
    """Publishes one run, whole or not at all; the same run again changes nothing.

    Args:
        forecast: of one init time, on ``outlet.grid``.
        run: what it was made of.
        outlet: where and in which form it comes out.
        checks: what it was checked for; False and numbers that are not finite are failures, texts are remarks.
        created: when it was made; now, unless given.

    Returns:
        The run's folder.

    Raises:
        PublishError: a check failed, a lead is empty or infinite, shapes do not fit, or the disk did not keep a file.
    """
    there = published(run, outlet)
    if there is not None:
        return there
    folder = run_folder(run, outlet)
    _refuse_faults(forecast, run, outlet, checks)
    with _staging(outlet.root, run_key(run, outlet)) as stage:
        leads = [_write_lead(stage, forecast, run, outlet, index) for index in range(forecast.values.shape[1])]
        made = {
            "created": iso(created or datetime.now(UTC)),
            "checks": {name: _plain(value) for name, value in checks.items()},
        }
        (stage / MANIFEST).write_text(_json(_manifest(forecast, run, outlet, leads) | made), encoding="utf-8")
        durable.sync_tree(stage)
        _show(folder, outlet, stage)
    return folder


def published(run: RunRecord, outlet: Outlet) -> Path | None:
    """Folder of this very run, if it is there already; completes a publish that died after its rename."""
    folder = run_folder(run, outlet)
    if not (folder / MANIFEST).is_file():
        return None
    _show(folder, outlet)
    return folder


def published_alike(run: RunRecord, outlet: Outlet, *, but: str) -> Path | None:
    """Folder of a run that is made of the same, whatever its specification says under ``but``; None where none is."""
    own = json.loads(run.specification)
    for path in sorted(run_folder(run, outlet).parent.glob(f"*/{MANIFEST}")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        specification = facts["specification"]
        then = replace(run, specification=json.dumps(specification, sort_keys=True))
        same = {name: value for name, value in specification.items() if name != but} == own
        if same and run_key(then, outlet) == facts["run_key"]:
            return published(then, outlet)
    return None


def runs(root: Path, product: str) -> Iterator[PublishedRun]:
    """Every complete run of a product, oldest first.

    Raises:
        PublishError: a manifest cannot be read.
    """
    for day in sorted((root / product).glob("[0-9]*/[0-9]*/[0-9]*")):
        yield from _runs_of_day(day)


def latest(root: Path, product: str) -> PublishedRun | None:
    """The newest run by (init, created), or None where there is none.

    Follows latest.json; where that is missing, or points to a run that is gone, looks through all runs.
    """
    try:
        pointer = json.loads((root / product / LATEST).read_text(encoding="utf-8"))
        return read_run(root / product / pointer["path"])
    except (OSError, ValueError, KeyError, PublishError):
        return max(runs(root, product), key=lambda run: run.order, default=None)


def find_run(root: Path, product: str, name: str) -> PublishedRun:
    """The run that is called by its key, its init time or its path.

    Raises:
        PublishError: there is none, or more than one.
    """
    if (Path(name) / MANIFEST).is_file():
        return read_run(Path(name))
    with suppress(ValueError):
        init = parse_time(name)
        return _one_of([run for run in runs(root, product) if run.init == init], name)
    return _one_of([run for run in runs(root, product) if run.run_key == name], name)


def _one_of(found: list[PublishedRun], name: str) -> PublishedRun:
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(run.run_key for run in found)
        msg = f"a name stands for one run, but {len(found)} are called {name}: say which by its key, {keys}"
    else:
        msg = (
            f"a run is called by its key, its init time (2020-04-01T13:10Z) or its path, but none is called {name}: "
            "cubecast forecast list names those that are there"
        )
    raise PublishError(msg)


def read_run(path: Path) -> PublishedRun:
    """The run in a folder.

    Raises:
        PublishError: the folder holds no complete run, or one that this version cannot read.
    """
    try:
        facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"a published run has a readable {MANIFEST}, but {path}: {error}. Forecast again, or remove the folder"
        raise PublishError(msg) from None
    if facts.get("schema_version") != SCHEMA_VERSION:
        msg = (
            f"{path / MANIFEST} has schema_version {facts.get('schema_version')}, this cubecast reads {SCHEMA_VERSION}"
        )
        raise PublishError(msg)
    return _run_of(path, facts)


def sweep(root: Path, older_than: timedelta) -> list[Path]:
    """Removes what publishes that died left behind; younger folders may belong to one that still runs.

    Returns:
        The removed folders.
    """
    limit = (datetime.now(UTC) - older_than).timestamp()
    dead = [folder for folder in sorted(root.glob(f"{STAGING}*")) if folder.stat().st_mtime < limit]
    for folder in dead:
        shutil.rmtree(folder)
    return dead


def _refuse_faults(forecast: Forecast, run: RunRecord, outlet: Outlet, checks: Checks) -> None:
    failed = {name: value for name, value in checks.items() if _is_failure(value)}
    if failed:
        found = ", ".join(f"{name} = {value}" for name, value in failed.items())
        msg = f"a run is published when every check holds, found {found}. Mend the cause and forecast again"
        raise PublishError(msg)
    expected = (1, *outlet.grid.shape, len(outlet.bands))
    shape = forecast.values.shape
    if (shape[0], *shape[3:]) != expected:
        msg = (
            f"a run holds one init time on its product's grid and bands: (batch, y, x, band) = {expected}, "
            f"found {(shape[0], *shape[3:])}. Publish with the grid and the bands that the forecast was made with"
        )
        raise PublishError(msg)
    _refuse_bad_leads(forecast, run)


def _refuse_bad_leads(forecast: Forecast, run: RunRecord) -> None:
    for index, values in enumerate(forecast.values[0]):
        name = f"{run.lead(index + 1).minutes} minutes ahead"
        if np.isnan(values).all():
            msg = (
                f"every lead has at least one value, found none {name}. Look at the run's inputs: are they all missing?"
            )
            raise PublishError(msg)
        if np.isinf(values).any():
            msg = (
                f"values are finite or NaN, found {int(np.isinf(values).sum())} infinite ones {name}. Look at the model"
            )
            raise PublishError(msg)


def _is_failure(value: str | float | bool) -> bool:
    if isinstance(value, str):
        return False
    return not value if isinstance(value, bool | np.bool_) else not np.isfinite(value)


@contextmanager
def _staging(root: Path, key: str) -> Iterator[Path]:
    """A hidden folder on the file system of ``root``, gone at the end unless it got a name."""
    durable.make_folders(root)
    # Not tempfile.mkdtemp: its folders are closed to every other user, and would stay so after the rename.
    stage = root / f"{STAGING}{key}-{uuid4().hex[:8]}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_lead(stage: Path, forecast: Forecast, run: RunRecord, outlet: Outlet, index: int) -> dict[str, Any]:
    """Writes the three files of the lead at ``index``; returns its part of the manifest."""
    lead = run.lead(index + 1)
    tags = lead_tags(run, outlet, lead)
    shown = value_sheet(forecast, index, stored_bands(outlet.bands, outlet.resolution))
    values = _write_sheet(stage / f"{lead.name}.tif", shown, outlet, tags)
    quality = _write_sheet(
        stage / f"{lead.name}-quality.tif", quality_sheet(forecast, index, run.cadence), outlet, tags
    )
    item = stage / f"{lead.name}.json"
    item.write_text(_json(lead_item(run, outlet, lead, values, quality)), encoding="utf-8")
    return {
        "lead_minutes": lead.minutes,
        "valid_time": iso(lead.valid_time),
        "values": asdict(values.file),
        "quality": asdict(quality.file),
        "item": asdict(_stored(item)),
    }


def _write_sheet(path: Path, sheet: Sheet, outlet: Outlet, tags: Mapping[str, str]) -> RasterFile:
    """Writes a GeoTIFF and reads every pixel back: a full disk shows up here, not at the reader's."""
    write_cog(path, sheet.data, outlet.grid, sheet.bands, nodata=sheet.nodata, tags=tags, overviews=sheet.overviews)
    if not np.array_equal(read_dn(path), sheet.data, equal_nan=sheet.data.dtype.kind == "f"):
        msg = f"a file reads back as it was written, but {path.name} does not. Look at the disk under {outlet.root}"
        raise PublishError(msg)
    return RasterFile(_stored(path), describe(path))


def _stored(path: Path) -> StoredFile:
    return StoredFile(path.name, sha256(path), path.stat().st_size)


def _manifest(forecast: Forecast, run: RunRecord, outlet: Outlet, leads: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "product": outlet.product.name,
        "init": iso(run.init),
        "run_key": run_key(run, outlet),
        "cadence": iso_duration(run.cadence),
        "model": asdict(run.model),
        "code_version": run.code_version,
        "snapshot": run.snapshot,
        "scenes": list(run.scenes),
        "specification": json.loads(run.specification),
        "grid": grid_facts(outlet.grid),
        "outlet": outlet_facts(outlet),
        "quantities": list(forecast.quantities),
        "bands": [band.name for band in outlet.bands],
        "leads": leads,
    }


def _show(folder: Path, outlet: Outlet, stage: Path | None = None) -> None:
    """Gives a staged run its name, where it has none yet, and mentions it in the day's catalogue and in latest.json."""
    durable.make_folders(outlet.folder)
    with durable.locked(outlet.folder / ".lock"):
        if stage is not None and not (folder / MANIFEST).is_file():
            if folder.exists():  # it lost its manifest: not a run any more
                folder.rename(outlet.root / f"{STAGING}broken-{uuid4().hex[:8]}")
            durable.move_folder(stage, folder)
        _list_day(folder.parent.parent, outlet.product.name)
        _swap_latest(outlet, read_run(folder))


def _list_day(day: Path, product: str) -> None:
    """Writes the day's catalogue anew from the runs that are there."""
    year, month, number = (int(part) for part in day.parts[-3:])
    items = [
        path.with_suffix(".json").relative_to(day).as_posix()
        for run in _runs_of_day(day)
        for path in run.leads.values()
    ]
    _replace_if_new(day / CATALOGUE, _json(day_catalogue(product, date(year, month, number), items)))


def _swap_latest(outlet: Outlet, run: PublishedRun) -> None:
    """Points latest.json to ``run``, or leaves it where it points to a newer one."""
    before = latest(outlet.root, outlet.product.name)
    newest = run if before is None else max(before, run, key=lambda one: one.order)
    pointer = {
        "schema_version": SCHEMA_VERSION,
        "product": newest.product,
        "init": iso(newest.init),
        "created": iso(newest.created),
        "run_key": newest.run_key,
        "path": newest.path.relative_to(outlet.folder).as_posix(),
    }
    _replace_if_new(outlet.folder / LATEST, _json(pointer))


def _replace_if_new(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        durable.replace_text(path, text)


def _runs_of_day(day: Path) -> list[PublishedRun]:
    return sorted((read_run(path.parent) for path in day.glob(f"*/*/{MANIFEST}")), key=lambda run: run.order)


def _run_of(path: Path, facts: dict[str, Any]) -> PublishedRun:
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
    )


def _plain(value: str | float | bool) -> str | float | bool:
    return value.item() if isinstance(value, np.generic) else value


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
