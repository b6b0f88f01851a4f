"""A forecast becomes a published run: checked, written aside, read back, and shown whole or not at all.

A killed publish leaves nothing but a hidden staging folder or, in a bucket, files without a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import durable
from pipeline.catalog import SCHEMA_VERSION, as_json, manifest, open_run, refresh
from pipeline.chances import chances
from pipeline.errors import PublishError
from pipeline.predictor import Forecast
from pipeline.raster import describe, read_dn, sha256, write_cog
from pipeline.record import (
    MANIFEST,
    Outlet,
    RunRecord,
    grid_facts,
    iso,
    lead_tags,
    outlet_facts,
    run_folder,
    run_key,
    run_name,
)
from pipeline.sheets import Sheet, quality_sheet, stored_bands, value_sheet
from pipeline.shelf import LEFTOVERS, Shelf, shelf_at, staging, sweep
from pipeline.stac import RasterFile, StoredFile, iso_duration, lead_item

Checks = Mapping[str, str | float | bool]


def publish(
    forecast: Forecast,
    run: RunRecord,
    outlet: Outlet,
    checks: Checks,
    *,
    remarks: Mapping[str, Any] | None = None,
    created: datetime | None = None,
) -> Path:
    """Publishes one run, whole or not at all; the same run again changes nothing.

    Args:
        forecast: of one init time, on ``outlet.grid``.
        run: what it was made of.
        outlet: where and in which form it comes out.
        checks: what it was checked for; False and numbers that are not finite are failures, texts are remarks.
        remarks: what else the manifest says of the run, JSON by name: it decides no byte of any other file.
        created: when it was made; now, unless given.

    Returns:
        The run's folder.

    Raises:
        PublishError: a check failed, a lead is empty or infinite, shapes do not fit, or the disk did not keep a file.
        WithdrawnError: this very run was withdrawn.
    """
    there = published(run, outlet)
    if there is not None:
        return there
    _refuse_faults(forecast, run, outlet, checks)
    sweep(outlet.root, LEFTOVERS)
    with staging(outlet.root, run_key(run, outlet)) as stage:
        leads = [_write_lead(stage, forecast, run, outlet, index) for index in range(forecast.values.shape[1])]
        made = {
            "created": iso(created or datetime.now(UTC)),
            "checks": {name: _plain(value) for name, value in checks.items()},
        }
        facts = {**(remarks or {}), **_manifest(forecast, run, outlet, leads), **made}
        (stage / MANIFEST).write_text(as_json(facts), encoding="utf-8")
        durable.sync_tree(stage)
        return _show(run, outlet, stage)


def published(run: RunRecord, outlet: Outlet) -> Path | None:
    """Folder of this very run, if it is there already; completes a publish that died after it was shown.

    Raises:
        WithdrawnError: it was withdrawn.
    """
    if open_run(_shelf(outlet), run_name(run, outlet)) is None:
        return None
    return _show(run, outlet)


def published_alike(run: RunRecord, outlet: Outlet, *, but: str) -> Path | None:
    """Folder of a run that is made of the same, whatever its specification says under ``but``; None where none is.

    Raises:
        WithdrawnError: it was withdrawn.
    """
    own = json.loads(run.specification)
    shelf = _shelf(outlet)
    entries = [entry for entry in shelf.entries(f"{run.init:%Y/%m/%d}") if entry.init == run.init]
    for facts in filter(None, (manifest(shelf, entry.name) for entry in entries)):
        specification = facts["specification"]
        then = replace(run, specification=json.dumps(specification, sort_keys=True))
        same = {name: value for name, value in specification.items() if name != but} == own
        if same and run_key(then, outlet) == facts["run_key"]:
            return published(then, outlet)
    return None


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


def _write_lead(stage: Path, forecast: Forecast, run: RunRecord, outlet: Outlet, index: int) -> dict[str, Any]:
    """Writes the three files of the lead at ``index``; returns its part of the manifest."""
    lead = run.lead(index + 1)
    tags = lead_tags(run, outlet, lead)
    shown = value_sheet(forecast, index, stored_bands(outlet.bands, outlet.resolution), outlet.probabilities)
    values = _write_sheet(stage / f"{lead.name}.tif", shown, outlet, tags)
    quality = _write_sheet(
        stage / f"{lead.name}-quality.tif", quality_sheet(forecast, index, run.cadence), outlet, tags
    )
    item = stage / f"{lead.name}.json"
    item.write_text(as_json(lead_item(run, outlet, lead, values, quality)), encoding="utf-8")
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
        "probabilities": [asdict(one) for one in chances(outlet.bands, outlet.probabilities, forecast.quantities)],
        "leads": leads,
    }


def _shelf(outlet: Outlet) -> Shelf:
    return shelf_at(outlet.place, outlet.product.name)


def _show(run: RunRecord, outlet: Outlet, stage: Path | None = None) -> Path:
    """Gives a staged run its name, where it has none yet, and mentions it in the day's catalogue and in latest.json."""
    shelf, name = _shelf(outlet), run_name(run, outlet)
    with shelf.alone():
        if stage is not None and open_run(shelf, name) is None:
            shelf.take(stage, name)
        refresh(shelf, [f"{run.init:%Y/%m/%d}"])
    return run_folder(run, outlet)


def _plain(value: str | float | bool) -> str | float | bool:
    return value.item() if isinstance(value, np.generic) else value
