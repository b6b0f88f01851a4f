"""A forecast becomes a published run: checked, written aside, read back, and shown whole or not at all.

A killed publish leaves nothing but a hidden staging folder or, in a bucket, files without a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import durable
from pipeline.catalog import SCHEMA_VERSION, as_json, manifest_if_readable, open_run, refresh
from pipeline.chances import chances
from pipeline.draft import Draft
from pipeline.errors import PublishError
from pipeline.predictor import Forecast
from pipeline.raster import Overviews, copy, describe, same_pixels, sha256
from pipeline.record import (
    MANIFEST,
    Outlet,
    RunRecord,
    grid_facts,
    iso,
    outlet_facts,
    run_folder,
    run_key,
    run_name,
)
from pipeline.shelf import LEFTOVERS, Shelf, shelf_at, staging, sweep
from pipeline.stac import RasterFile, StoredFile, iso_duration, lead_item

Checks = Mapping[str, str | float | bool]


def publish(
    forecast: Forecast | Draft,
    run: RunRecord,
    outlet: Outlet,
    checks: Checks,
    *,
    remarks: Mapping[str, Any] | None = None,
    created: datetime | None = None,
) -> Path:
    """Publishes one run, whole or not at all; the same run again changes nothing.

    Args:
        forecast: of one init time, on ``outlet.grid``; or a draft of this run.
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
    _refuse_faults(checks)
    sweep(outlet.root, LEFTOVERS)
    with _drafted(forecast, run, outlet) as draft, staging(outlet.root, run_key(run, outlet)) as stage:
        _refuse_bad_leads(draft)
        leads = [_write_lead(stage, draft, index) for index in range(len(draft.leads))]
        made = {
            "created": iso(created or datetime.now(UTC)),
            "checks": {name: _plain(value) for name, value in checks.items()},
        }
        facts = {**(remarks or {}), **_manifest(draft, leads), **made}
        (stage / MANIFEST).write_text(as_json(facts), encoding="utf-8")
        durable.sync_tree(stage)
        return _show(run, outlet, stage)


@contextmanager
def drafting(run: RunRecord, outlet: Outlet) -> Iterator[Draft]:
    """An empty draft of a run, gone at the end."""
    with staging(outlet.root, f"{run_key(run, outlet)}-draft") as folder:
        yield Draft(folder, run, outlet)


@contextmanager
def _drafted(forecast: Forecast | Draft, run: RunRecord, outlet: Outlet) -> Iterator[Draft]:
    if isinstance(forecast, Draft):
        yield forecast
        return
    _refuse_misfits(forecast, outlet)
    with drafting(run, outlet) as draft:
        draft.put_whole(forecast)
        yield draft


def published(run: RunRecord, outlet: Outlet) -> Path | None:
    """Folder of this very run, if it is there already; completes a publish that died after it was shown.

    Raises:
        WithdrawnError: it was withdrawn.
    """
    if open_run(_shelf(outlet), run_name(run, outlet)) is None:
        return None
    return _show(run, outlet)


def published_alike(run: RunRecord, outlet: Outlet, *, but: Collection[str]) -> Path | None:
    """Folder of a run that is made of the same, or None.

    Another snapshot with the same scenes makes no other: a late scene that a run does not see is no reason for one.

    Args:
        run: what it would be made of.
        outlet: where it would come out.
        but: names whose values in its specification may differ.

    Raises:
        WithdrawnError: it was withdrawn.
    """
    own = json.loads(run.specification)
    shelf = _shelf(outlet)
    entries = [entry for entry in shelf.entries(f"{run.init:%Y/%m/%d}") if entry.init == run.init]
    for facts in filter(None, (manifest_if_readable(shelf, entry.name) for entry in entries)):
        specification = facts["specification"]
        then = replace(run, specification=json.dumps(specification, sort_keys=True), snapshot=facts["snapshot"])
        same = {name: value for name, value in specification.items() if name not in but} == own
        if same and run_key(then, outlet) == facts["run_key"]:
            return published(then, outlet)
    return None


def published_by_a_network(run: RunRecord, outlet: Outlet) -> Path | None:
    """Folder of a network's run for the same init time that saw the same scenes; None where there is none."""
    shelf, seen = _shelf(outlet), (iso(run.init), list(run.scenes))
    for entry in shelf.entries(f"{run.init:%Y/%m/%d}"):
        facts = manifest_if_readable(shelf, entry.name) if entry.init == run.init and entry.published else None
        if facts and facts["model"]["source"] == "network" and (facts["init"], facts["scenes"]) == seen:
            return outlet.folder / entry.name
    return None


def _refuse_faults(checks: Checks) -> None:
    failed = {name: value for name, value in checks.items() if _is_failure(value)}
    if failed:
        found = ", ".join(f"{name} = {value}" for name, value in failed.items())
        msg = f"a run is published when every check holds, found {found}. Mend the cause and forecast again"
        raise PublishError(msg)


def _refuse_misfits(forecast: Forecast, outlet: Outlet) -> None:
    expected = (1, *outlet.grid.shape, len(outlet.bands))
    shape = forecast.values.shape
    if (shape[0], *shape[3:]) != expected:
        msg = (
            f"a run holds one init time on its product's grid and bands: (batch, y, x, band) = {expected}, "
            f"found {(shape[0], *shape[3:])}. Publish with the grid and the bands that the forecast was made with"
        )
        raise PublishError(msg)


def _refuse_bad_leads(draft: Draft) -> None:
    for lead, (low, high) in zip(draft.leads, draft.ends, strict=True):
        name = f"{lead.minutes} minutes ahead"
        if np.isnan(low):
            msg = (
                f"every lead has at least one value, found none {name}. Look at the run's inputs: are they all missing?"
            )
            raise PublishError(msg)
        if np.isinf((low, high)).any():
            msg = f"values are finite or NaN, found infinite ones {name}, from {low:g} to {high:g}. Look at the model"
            raise PublishError(msg)


def _is_failure(value: str | float | bool) -> bool:
    if isinstance(value, str):
        return False
    return not value if isinstance(value, bool | np.bool_) else not np.isfinite(value)


def _write_lead(stage: Path, draft: Draft, index: int) -> dict[str, Any]:
    """Writes the three files of the lead at ``index``; returns its part of the manifest."""
    lead = draft.leads[index]
    values = _write(draft.values(index), stage, "average")
    quality = _write(draft.quality(index), stage, "nearest")
    item = stage / f"{lead.name}.json"
    item.write_text(as_json(lead_item(draft.run, draft.outlet, lead, values, quality)), encoding="utf-8")
    return {
        "lead_minutes": lead.minutes,
        "valid_time": iso(lead.valid_time),
        "values": asdict(values.file),
        "quality": asdict(quality.file),
        "item": asdict(_stored(item)),
    }


def _write(source: Path, stage: Path, overviews: Overviews) -> RasterFile:
    """Writes a GeoTIFF and reads every pixel back: a full disk shows up here, not at the reader's."""
    path = stage / source.name
    copy(source, path, overviews=overviews)
    if not same_pixels(source, path):
        msg = f"a file reads back as it was written, but {path.name} does not. Look at the disk under {stage.parent}"
        raise PublishError(msg)
    return RasterFile(_stored(path), describe(path))


def _stored(path: Path) -> StoredFile:
    return StoredFile(path.name, sha256(path), path.stat().st_size)


def _manifest(draft: Draft, leads: list[dict[str, Any]]) -> dict[str, Any]:
    run, outlet = draft.run, draft.outlet
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
        "quantities": list(draft.quantities),
        "bands": [band.name for band in outlet.bands],
        "probabilities": [asdict(one) for one in chances(outlet.bands, outlet.probabilities, draft.quantities)],
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
