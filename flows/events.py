"""What happened to a product, told to the Prefect server: triggers of deployments listen to it, and pages show it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from math import isfinite
from typing import Any, Final

CUBE_UPDATED: Final = "cube.updated"
FORECAST_PUBLISHED: Final = "forecast.published"
FORECAST_LATE: Final = "forecast.late"
SKILL_DEGRADED: Final = "skill.degraded"
SKILL_RECOVERED: Final = "skill.recovered"
CHAMPION_OUTDONE: Final = "champion.outdone"
MODEL_PROMOTED: Final = "model.promoted"


def resource_id(product: str) -> str:
    """What the events of a product are about.

    >>> resource_id("hrv_1km")
    'cubecast.product.hrv_1km'
    """
    return f"cubecast.product.{product}"


def emit(name: str, product: str, payload: Mapping[str, Any]) -> bool:
    """Tells the server that something happened to a product; whatever hinders that fails no run.

    An event can be lost with its server: who listens also looks by himself, on a schedule.

    Args:
        name: one of this module's.
        product: whose.
        payload: more of it; texts, numbers, times, paths, dataclasses, and lists and dictionaries of these.

    Returns:
        Whether it was handed over: not where there is neither a run nor the address of a server.
    """
    log = logging.getLogger("cubecast.events")
    try:
        from prefect.context import FlowRunContext, TaskRunContext
        from prefect.events import emit_event

        in_run = FlowRunContext.get() is not None or TaskRunContext.get() is not None
        if not in_run and not os.environ.get("PREFECT_API_URL"):  # Prefect would start a server of its own for it
            return False
        resource = {"prefect.resource.id": resource_id(product), "prefect.resource.name": product}
        sent = emit_event(name, resource, payload=plain(payload))
    except Exception as error:  # noqa: BLE001 - a forecast that nobody hears of is better than none
        log.warning("the event %s of %s was not told: %s: %s", name, product, type(error).__name__, error)
        return False
    return sent is not None


def plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload as JSON has it; numbers that are none become null.

    >>> plain({"skill": float("nan"), "files": ("a.tif",)})
    {'skill': None, 'files': ['a.tif']}
    """
    return _finite(json.loads(json.dumps(payload, default=_told)))


def _told(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
