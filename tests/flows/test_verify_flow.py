"""The verify flow without a server: what it tells, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import model_verbs, quality_verbs, verbs
from flows import verify as flows_verify
from flows.events import CHAMPION_OUTDONE
from pipeline.alarms import DEGRADED, ERROR, RECOVERED, Alarm
from pipeline.reminders import AGAIN, due, is_due, note

CONFIG = Path("sky.toml")
FIRST = datetime(2024, 6, 1, 12, tzinfo=UTC)
STEP = timedelta(minutes=5)


def alarm(kind: str, scene: int) -> Alarm:
    return Alarm(kind, ERROR, "sky 2", FIRST, FIRST + scene * STEP, {}, "look")


@dataclass
class Service:
    """A product with one scene a verification.

    Attributes:
        found: alarms, by the scene at which verification finds them.
        outdone: scenes from which on the predecessor does better.
        away: scenes at which no server hears anything.
    """

    folder: Path
    found: dict[int, Alarm] = field(default_factory=dict)
    outdone: range = range(0)
    away: range = range(0)
    scene: int = 0
    heard: list[tuple[int, str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "told.json"

    @property
    def now(self) -> datetime:
        return FIRST + self.scene * STEP

    def score_forecasts(self, config: Path) -> verbs.Verified:
        alarms = tuple(one for scene, one in self.found.items() if scene == self.scene)
        return verbs.Verified(1, 1, (), (), (), alarms)

    def watch_champion(self, config: Path) -> model_verbs.Watched:
        alarm = "roll back" if self.scene in self.outdone else ""
        return model_verbs.Watched("sky", "2", "1", 8, 24, 0.2, 0.1, 0.3, alarm)

    def emit(self, name: str, product: str, payload: dict[str, Any]) -> bool:
        there = self.scene not in self.away
        self.heard += [(self.scene, name)] * there
        return there

    def due_alarms(self, config: Path) -> tuple[Alarm, ...]:
        said = [one for scene, one in self.found.items() if scene <= self.scene]
        return due(said, self.path, self.now, STEP)

    def is_due(self, config: Path, name: str) -> bool:
        return is_due(name, self.path, self.now, STEP)

    def note_told(self, config: Path, names: Iterable[str]) -> None:
        note(self.path, names, self.now)


def replay(service: Service, scenes: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What is heard over so many scenes."""
    for name in ("due_alarms", "is_due", "note_told"):
        monkeypatch.setattr(quality_verbs, name, getattr(service, name))
    for name in ("score_forecasts", "watch_champion", "emit"):
        monkeypatch.setattr(flows_verify, name, getattr(service, name))
    monkeypatch.setattr(flows_verify, "show_verification", lambda config, done: None)
    monkeypatch.setattr(verbs, "product_name", lambda config: "sky")
    with disable_run_logger():
        for service.scene in range(scenes):
            flows_verify.verify.fn(CONFIG)
    return service.heard


def test_before_the_first_scene_there_is_nothing_to_verify_and_nothing_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path)
    monkeypatch.setattr(service, "score_forecasts", lambda config: None)
    assert replay(service, 2, monkeypatch) == []


def test_an_alarm_that_stands_is_told_again_until_it_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {2: alarm(DEGRADED, 2), 2 + 2 * AGAIN: alarm(RECOVERED, 2 + 2 * AGAIN)}
    heard = replay(Service(tmp_path, found), 40, monkeypatch)
    assert heard == [(2, DEGRADED), (2 + AGAIN, DEGRADED), (2 + 2 * AGAIN, RECOVERED)]


def test_an_alarm_that_no_server_heard_is_told_at_the_next_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = replay(Service(tmp_path, {2: alarm(DEGRADED, 2)}, away=range(2, 5)), 8, monkeypatch)
    assert heard == [(5, DEGRADED)]


def test_a_champion_that_is_outdone_is_told_again_every_few_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = replay(Service(tmp_path, outdone=range(3, 5 + AGAIN)), 40, monkeypatch)
    assert heard == [(3, CHAMPION_OUTDONE), (3 + AGAIN, CHAMPION_OUTDONE)]
