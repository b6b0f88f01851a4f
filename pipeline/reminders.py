"""Alarms that stand are told again until somebody has mended the cause: one telling may get lost, or bring no cure.

A retraining right after skill was lost may find too few of the new scenes to prove itself by. So what listens to an
alarm hears of it again, every :data:`AGAIN` scenes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pipeline import durable
from pipeline.alarms import Alarm, standing

AGAIN: Final = 8
"""Scenes: no fewer than the independent blocks that a comparison asks for (:data:`significance.LEAST_BLOCKS`)."""


def due(said: Sequence[Alarm], path: Path, now: datetime, cadence: timedelta) -> tuple[Alarm, ...]:
    """Alarms that stand and are to be told: those that never were, and those that were a while ago.

    Args:
        said: everything that was raised and cleared, oldest first.
        path: file of what was told when.
        now: valid time of the newest scene, UTC: time that brings no scenes brings nothing new to tell.
        cadence: from scene to scene.
    """
    return tuple(one for one in standing(said) if is_due(one.name, path, now, cadence))


def is_due(name: str, path: Path, now: datetime, cadence: timedelta) -> bool:
    """Whether something that stands was never told, or not for :data:`AGAIN` scenes.

    Args:
        name: its kind, a space, and what tells it from others of its kind.
        path: as in :func:`due`.
        now: as in :func:`due`.
        cadence: as in :func:`due`.
    """
    told = _told(path)
    return name not in told or now - told[name] >= AGAIN * cadence


def note(path: Path, names: Iterable[str], now: datetime) -> None:
    """Keeps what was told, as of the newest scene; of each kind the last."""
    known = {name.partition(" ")[0]: (name, time) for name, time in _told(path).items()}
    known |= {name.partition(" ")[0]: (name, now) for name in names}
    durable.replace_text(path, json.dumps({name: time.isoformat() for name, time in known.values()}) + "\n")


def _told(path: Path) -> dict[str, datetime]:
    if not path.is_file():
        return {}
    return {name: datetime.fromisoformat(time) for name, time in json.loads(path.read_text(encoding="utf-8")).items()}
