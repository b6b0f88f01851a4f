"""A run that publishes its model's rival where verification asks for it, and what its manifest says of usefulness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.baselines import Persistence
from pipeline.bounds import valid_ranges
from pipeline.config import Settings
from pipeline.merit import NEWEST, UsefulHorizon, Yielding, useful_horizon, yielded
from pipeline.record import YIELDED, RunRecord
from pipeline.rungs import Champion, OfBands, forecast_bands
from pipeline.scorebook import RunScores, recent

USEFUL = "useful_horizon"  # in a manifest


def with_yielded(settings: Settings, champion: Champion | None, run: RunRecord) -> RunRecord:
    """The run with the leads and bands in its specification that the newest scores ask to yield; itself without any.

    The rival of a model that sees things move along the flow is the extrapolation, of another one persistence.
    """
    if champion is None or not settings.forecast.yield_to_extrapolation:
        return run
    leads, bands = _leads(settings, run), _bands(settings)
    rival = "persistence" if champion.motion is None else "extrapolation"
    mask = yielded(_scored(settings, run), run.model.full_name, run.init, leads, bands, rival=rival)
    if not mask.any():
        return run
    cells = [[leads[lead], bands[band]] for lead, band in np.argwhere(mask)]
    specification = json.loads(run.specification) | {YIELDED: cells}
    return replace(run, specification=json.dumps(specification, sort_keys=True))


def giving_way(settings: Settings, champion: Champion, run: RunRecord) -> Champion:
    """The champion as the run's specification has it: with its rival's values where they are published.

    Where nothing moves, as inside of a champion, extrapolation is persistence.
    """
    if not run.yielded:
        return champion
    places, cells = forecast_bands(settings), set(run.yielded)
    mask = np.array([[(lead, band) in cells for band in _bands(settings)] for lead in _leads(settings, run)])
    rival, valid = OfBands(Persistence(), places), valid_ranges([settings.bands[place] for place in places])
    return replace(champion, still=Yielding(champion.still, rival, mask, valid))


def usefulness(settings: Settings, run: RunRecord) -> dict[str, Any]:
    """What a run's manifest says of how far ahead forecasts like it have been useful, by band."""
    scored, leads = _scored(settings, run), _leads(settings, run)
    found = {band: useful_horizon(scored, run.model.full_name, run.init, leads, band) for band in _bands(settings)}
    return {USEFUL: {band: one.to_json() for band, one in found.items()}}


def usefulness_of(manifest: Mapping[str, Any]) -> dict[str, UsefulHorizon]:
    """The inverse of :func:`usefulness`; empty for a run of an older cubecast."""
    return {band: UsefulHorizon.from_json(one) for band, one in manifest.get(USEFUL, {}).items()}


def _scored(settings: Settings, run: RunRecord) -> list[RunScores]:
    return recent(settings.paths.verification, run.model.full_name, run.init, NEWEST)


def _leads(settings: Settings, run: RunRecord) -> list[int]:
    return [run.lead(number).minutes for number in range(1, settings.samples.horizon + 1)]


def _bands(settings: Settings) -> list[str]:
    return [settings.bands[place].name for place in forecast_bands(settings)]
