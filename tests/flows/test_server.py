"""Prefect's interface without Prefect."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.server import Server
from tests.flows.fake_prefect import FakePrefect, serving


def test_a_server_that_wants_a_token_gets_it_and_a_new_one_when_that_has_expired() -> None:
    with serving(FakePrefect(token="first")) as fake:
        fake.add("run")
        server = Server(fake.api)
        server.call("/flow_runs/run/labels", {"a": 1}, method="PATCH")
        fake.token = "second"
        server.call("/flow_runs/run/labels", {"b": 2}, method="PATCH")
        assert fake.runs["run"]["labels"] == {"a": 1, "b": 2}


def test_a_busy_server_is_asked_again_and_at_last_believed() -> None:
    with serving(FakePrefect(locked=True)) as fake, pytest.raises(OSError, match="503"):
        Server(fake.api).call("/flow_runs/run/labels", {}, method="PATCH", tries=2)


def test_we_say_who_we_are_as_prefect_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakePrefect()) as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.api)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
        server = Server.of_environment()
        assert server is not None
        server.call("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": []}}}})
        assert fake.headers["Authorization"] == "Basic YWRtaW46cGFzcw=="


def test_without_a_server_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert Server.of_environment() is None


def test_a_heartbeat_loads_neither_prefect_nor_anything_of_ours() -> None:
    heavy = "{'prefect', 'pipeline', 'numpy'}"
    program = f"import flows.heartbeat, sys; print({heavy} & {{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
