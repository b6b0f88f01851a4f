"""The forecast flow without a server: what it makes, in which order, and what it tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import forecast as flows_forecast
from flows import verbs
from flows.events import FORECAST_LATE, FORECAST_PUBLISHED
from pipeline.errors import NoCubeError, PublishError, WithdrawnError
from pipeline.times import stamp

CONFIG = Path("sky.toml")
FIRST = datetime(2024, 6, 1, 12, tzinfo=UTC)


def slot(number: int) -> datetime:
    return FIRST + number * timedelta(minutes=5)


@dataclass
class Service:
    """A product whose scenes come while runs are made.

    Attributes:
        newest: slots whose scene has come, as they come: one more with every run that is made up for.
        published: slots with a run, in the order of their making.
        bad: slots whose run fails.
    """

    newest: list[int]
    published: list[int] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    withdrawn: bool = False
    told: list[tuple[str, str]] = field(default_factory=list)
    released: int = 0

    def forecast(self, config: Path, *, init: datetime | None) -> verbs.Forecasted:
        if self.withdrawn:
            raise WithdrawnError("taken back")
        return self._made(self.newest[0] if init is None else round((init - FIRST) / timedelta(minutes=5)))

    def missing(self, config: Path, newest: str) -> tuple[datetime, ...]:
        return tuple(slot(one) for one in range(self.newest[0] - 1, 0, -1) if one not in self.published)

    def make_up(self, config: Path, init: datetime) -> verbs.Forecasted:
        number = round((init - FIRST) / timedelta(minutes=5))
        if len(self.newest) > 1:
            self.newest.pop(0)
        if number in self.bad:
            raise PublishError("every pixel is missing")
        return self._made(number, late="it was missing")

    def _made(self, number: int, late: str = "") -> verbs.Forecasted:
        fresh = number not in self.published
        self.published += [number] * fresh
        return verbs.Forecasted(f"run {number}", stamp(slot(number)), "sky 1", (), fresh=fresh, late=late)

    def emit(self, name: str, product: str, payload: dict[str, Any]) -> bool:
        self.told.append((name, payload["run"]))
        return True

    def give_up(self, since: datetime) -> int:
        self.released += 1
        return 0


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs the flow's own code on a service."""

    def on(service: Service, init: datetime | None = None) -> str:
        for name in ("forecast", "missing", "make_up"):
            monkeypatch.setattr(verbs, name, getattr(service, name))
        monkeypatch.setattr(verbs, "product_name", lambda config: "sky")
        for name in ("emit", "give_up"):
            monkeypatch.setattr(flows_forecast, name, getattr(service, name))
        return flows_forecast.forecast.fn(CONFIG, init)

    for name in ("publish_forecast", "find_missing", "make_up"):
        monkeypatch.setattr(flows_forecast, name, getattr(flows_forecast, name).fn)
    with disable_run_logger():
        yield on


def test_the_newest_run_is_made_first_and_then_what_is_missing_newest_first(run: Any) -> None:
    service = Service([4], published=[1])
    assert run(service) == "run 4"
    assert service.published == [1, 4, 3, 2]


def test_a_scene_that_comes_meanwhile_goes_before_what_is_missing(run: Any) -> None:
    service = Service([4, 5], published=[1])
    assert run(service) == "run 5"
    assert service.published == [1, 4, 3, 5, 2]


def test_a_run_that_fails_stops_no_other(run: Any) -> None:
    service = Service([4], published=[1], bad={3})
    assert run(service) == "run 4"
    assert service.published == [1, 4, 2]


def test_a_run_that_is_there_is_told_once(run: Any) -> None:
    service = Service([2], published=[1])
    run(service)
    run(service)
    assert service.told == [(FORECAST_PUBLISHED, "run 2")]


def test_what_is_made_up_for_is_told_to_be_late(run: Any) -> None:
    service = Service([3], published=[1])
    run(service)
    assert service.told == [(FORECAST_PUBLISHED, "run 3"), (FORECAST_PUBLISHED, "run 2"), (FORECAST_LATE, "run 2")]


def test_a_hindcast_makes_up_for_nothing_and_releases_nobody(run: Any) -> None:
    service = Service([4], published=[1])
    assert run(service, slot(2)) == "run 2"
    assert (service.published, service.released) == ([1, 2], 0)


def test_a_newest_run_that_was_withdrawn_is_no_failure(run: Any) -> None:
    service = Service([4], published=[1], withdrawn=True)
    assert run(service) == ""
    assert service.published == [1]


def test_before_the_first_scene_there_is_nothing_to_forecast_and_nothing_failed(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service([1])
    monkeypatch.setattr(service, "forecast", _without_cube)
    assert run(service) == ""
    assert (service.told, service.released) == ([], 0)
    with pytest.raises(NoCubeError, match="run cubecast ingest first"):
        run(service, slot(1))  # who asks for a hindcast is told


def _without_cube(config: Path, *, init: datetime | None) -> verbs.Forecasted:
    raise NoCubeError("work/cube")


def test_runs_that_wait_are_released_each_time_the_newest_is_there(run: Any) -> None:
    service = Service([3], published=[1])
    run(service)
    assert service.released == 2
