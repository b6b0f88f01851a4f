"""Retries, timeouts, names and progress of flow runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, Task, flow, task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.forecast import find_missing, forecast, make_up, publish_forecast
from flows.housekeeping import clean_cube, housekeeping, tidy_forecasts
from flows.ingest import ingest, ingest_scenes
from flows.runs import FLOW_TIMEOUT, ONCE, QUICK, log_progress, run_name
from flows.train import train, train_network
from flows.verify import score_forecasts, verify
from pipeline.errors import CubecastError, ServiceError, StoreError

FLOWS: list[Flow[..., Any]] = [ingest, train, forecast, verify, housekeeping]
TASKS: list[Task[..., Any]] = [
    ingest_scenes,
    train_network,
    publish_forecast,
    find_missing,
    make_up,
    score_forecasts,
    clean_cube,
    tidy_forecasts,
]
AT_ONCE = {"retry_delay_seconds": 0}


def tries(error: Exception, options: dict[str, Any]) -> int:
    """How often a task is tried whose first try raises ``error``."""
    seen: list[None] = []

    @task(**options)
    def fails_once() -> None:
        seen.append(None)
        if len(seen) == 1:
            raise error

    @flow(name="tiny", persist_result=False)
    def tiny() -> None:
        fails_once()

    try:
        tiny()
    except type(error):
        assert len(seen) == 1
    return len(seen)


@pytest.mark.parametrize("each", FLOWS, ids=lambda each: each.name)
def test_a_flow_ends_in_time_and_keeps_no_result(each: Flow[..., Any]) -> None:
    assert each.timeout_seconds == FLOW_TIMEOUT
    assert each.persist_result is False
    assert each.retries == 0  # the tasks retry; both would multiply


@pytest.mark.parametrize("each", TASKS, ids=lambda each: each.name)
def test_a_task_ends_in_time_and_keeps_no_result(each: Task[..., Any]) -> None:
    assert each.timeout_seconds is not None
    assert each.timeout_seconds * (each.retries + 1) <= FLOW_TIMEOUT
    assert each.persist_result is False


def test_only_a_training_and_what_the_next_forecast_tries_anyway_are_not_tried_again() -> None:
    assert [each.name for each in TASKS if not each.retries] == ["train_network", "make_up"]


@pytest.mark.server
@pytest.mark.parametrize("error", [OSError("disk"), ServiceError("MLflow does not answer")], ids=repr)
def test_what_may_pass_is_tried_again(prefect_server: None, error: Exception) -> None:
    assert tries(error, QUICK | AT_ONCE) == 2


@pytest.mark.server
@pytest.mark.parametrize("error", [CubecastError("mend it"), StoreError("no cube")], ids=repr)
def test_what_the_user_must_mend_is_not_tried_again(prefect_server: None, error: Exception) -> None:
    assert tries(error, QUICK | AT_ONCE) == 1


@pytest.mark.server
def test_a_costly_task_is_not_tried_again(prefect_server: None) -> None:
    assert tries(OSError("disk"), ONCE) == 1


@pytest.mark.server
def test_a_run_is_named_after_the_product_and_the_init_time(prefect_server: None, tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[product]\nname = "sky"\n', encoding="utf-8")
    named = flow(forecast.fn, name="forecast", flow_run_name=run_name, persist_result=False)
    seen: list[str] = []

    def publish(*_: object) -> Any:
        seen.append(str(flow_run.name))
        return type("Done", (), {"run": "folder", "warning": "", "init": "20240601T0600Z", "fresh": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forecast.fn.__globals__, "publish_forecast", publish)
        patch.setitem(forecast.fn.__globals__, "find_missing", lambda *_: ())
        named(config)
        named(config, "2024-06-01T06:00Z")  # pyright: ignore[reportArgumentType] - as Prefect's page sends it
        named(tmp_path / "missing.toml")
    assert seen == ["forecast sky", "forecast sky 20240601T0600Z", "forecast missing"]


@pytest.mark.server
def test_the_server_keeps_no_result(prefect_server: None, product: Path) -> None:
    run = ingest(product, return_state=True).state_details.flow_run_id
    assert run is not None
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    assert state.is_completed()
    assert state.data is None


def test_progress_takes_ten_lines_of_a_log_at_most(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prefect.logging.get_run_logger", lambda: logging.getLogger("a run"))
    caplog.set_level(logging.INFO, "a run")
    progress = log_progress("files")
    for done in range(1, 1235):
        progress(done, 1234)
    assert len(caplog.messages) == 10
    assert caplog.messages[-1] == "1234 of 1234 files"
