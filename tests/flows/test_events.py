from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types._datetime import now
from prefect.utilities.templating import apply_values

from flows import events
from flows.events import CUBE_UPDATED, emit, plain, resource_id
from flows.stack import DEPLOYMENTS

PATIENCE = 60  # s


def started_by(event: str, about: str, monkeypatch: pytest.MonkeyPatch, *, product: str) -> set[str]:
    """Entrypoints of a product's deployments that an event about some product starts."""
    monkeypatch.setenv("CUBECAST_NAME", product)
    monkeypatch.setenv("CUBECAST_CONFIG", "/data/product.toml")
    received = ReceivedEvent(
        occurred=now("UTC"),
        received=now("UTC"),
        event=event,
        resource={"prefect.resource.id": resource_id(about)},  # pyright: ignore[reportArgumentType]
        id=uuid4(),
    )
    started = set()
    for each in yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]:
        for trigger in each.get("triggers", []):
            declared = DeploymentEventTrigger.model_validate(
                apply_values({**trigger, "parameters": None}, {}, warn_on_notset=False)
            )
            declared.set_deployment_id(uuid4())
            core = declared.as_automation().trigger.model_dump(mode="json")
            if EventTrigger.model_validate(core).covers(received):
                started.add(each["entrypoint"])
    return started


def test_a_new_snapshot_starts_a_forecast_and_a_verification_of_its_product(monkeypatch: pytest.MonkeyPatch) -> None:
    started = started_by(CUBE_UPDATED, "hrv_1km", monkeypatch, product="hrv_1km")
    assert started == {"flows.forecast:forecast", "flows.verify:verify"}


@pytest.mark.parametrize("other", ["fmi", "hrv", "hrv_1km_2"])
def test_the_events_of_another_product_start_nothing(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    assert not started_by(CUBE_UPDATED, other, monkeypatch, product="hrv_1km")


def test_a_payload_is_json_whatever_is_in_it() -> None:
    @dataclass(frozen=True)
    class Evidence:
        skill: float
        since: datetime

    told = plain({"path": Path("a"), "evidence": Evidence(float("inf"), datetime(2024, 6, 1, tzinfo=UTC)), "n": (1,)})
    assert told == {"path": "a", "evidence": {"skill": None, "since": "2024-06-01 00:00:00+00:00"}, "n": [1]}


def test_outside_of_a_run_and_without_a_server_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert emit(CUBE_UPDATED, "sky", {}) is False


def test_what_cannot_be_told_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr("prefect.events.emit_event", gone)
    assert emit(CUBE_UPDATED, "sky", {}) is False
    assert "cube.updated of sky was not told: ConnectionError: nobody there" in caplog.text


@pytest.mark.server
def test_an_event_of_a_run_reaches_the_server(prefect_server: None) -> None:
    @flow(name="tells", persist_result=False)
    def tells() -> bool:
        return emit(events.FORECAST_PUBLISHED, "sky", {"init": "20240601T1200Z"})

    assert tells()
    wanted = {"filter": {"event": {"name": [events.FORECAST_PUBLISHED]}}}
    until = time.monotonic() + PATIENCE
    with get_client(sync_client=True) as client:
        while not (found := client._client.post("/events/filter", json=wanted).json()["events"]):
            assert time.monotonic() < until
            time.sleep(0.5)
    assert found[0]["resource"]["prefect.resource.id"] == "cubecast.product.sky"
    assert found[0]["payload"] == {"init": "20240601T1200Z"}
