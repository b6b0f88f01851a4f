from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running, Scheduled

from flows.waiting import CLOCKS, give_up, in_turn
from pipeline.errors import BusyError, ModelError


def test_outside_of_a_deployment_nobody_waits() -> None:
    assert give_up(datetime.now(UTC)) == 0


def test_a_server_that_is_gone_fails_no_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr("flows.waiting._own_run", gone)
    assert give_up(datetime.now(UTC)) == 0
    assert "runs that wait were left: ConnectionError: nobody there" in caplog.text


@flow(name="waits", persist_result=False)
def waits(config: str, init: str | None = None, why: str = "") -> None:
    """Never called."""


@pytest.mark.server
def test_those_give_up_that_were_asked_for_before_and_ask_for_the_same(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC) + timedelta(hours=1)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(waits), "sky")

        def asked(minutes: float, state: Any = None, **parameters: Any) -> FlowRun:
            due = began - CLOCKS + timedelta(minutes=minutes)
            made = client.create_flow_run_from_deployment(
                deployment, parameters={"config": "sky.toml"} | parameters, state=Scheduled(scheduled_time=due)
            )
            if state is not None:
                client.set_flow_run_state(made.id, state, force=True)
            return client.read_flow_run(made.id)

        own = asked(-9, Running())
        before, after = asked(-1), asked(1)
        hindcast = asked(-1, init="2024-06-01T12:00Z")
        remark = asked(-1, why="skill.degraded")
        monkeypatch.setattr("flows.waiting._own_run", lambda: own)
        assert give_up(began) == 1
        assert client.read_flow_run(remark.id).state_name == "Scheduled"
        assert give_up(began, but=("why",)) == 1
        assert client.read_flow_run(remark.id).state_name == "Cancelled"
        left: dict[UUID, str] = {
            one.id: str(client.read_flow_run(one.id).state_name) for one in (own, before, after, hindcast)
        }
    assert left == {own.id: "Running", before.id: "Cancelled", after.id: "Scheduled", hindcast.id: "Scheduled"}


def test_the_turn_of_another_one_is_waited_for_and_told_once() -> None:
    turns, heard = iter((BusyError("one trains"), BusyError("one trains"), "trained")), []

    def work() -> str:
        turn = next(turns)
        if isinstance(turn, BusyError):
            raise turn
        return turn

    assert in_turn(work, heard.append, pause=0.0) == "trained"
    assert heard == ["waits for its turn: one trains"]


def test_a_turn_that_does_not_come_is_waited_for_no_longer() -> None:
    def work() -> None:
        raise BusyError("one trains for ever")

    with pytest.raises(BusyError, match="for ever"):
        in_turn(work, lambda line: None, pause=0.01, patience=0.03)


def test_what_fails_in_its_turn_fails() -> None:
    def work() -> None:
        raise ModelError("the training diverges")

    with pytest.raises(ModelError, match="diverges"):
        in_turn(work, pytest.fail)
