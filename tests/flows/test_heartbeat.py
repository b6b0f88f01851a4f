"""Heartbeats come from beside the run, whatever the run does, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from flows.heartbeat import EVERY, LABEL, SECONDS
from flows.sweeper import BEATS, START, STARTING, Patience
from tests.flows.fake_prefect import FakePrefect, serving

RUN = """
import sys, time
from types import SimpleNamespace
from flows.heartbeat import prove_life
prove_life(None, SimpleNamespace(id=sys.argv[1], deployment_id="d"), None)
print("started", flush=True)
{work}
"""
SLEEP = "time.sleep(600)"
HOLD_THE_LOCK = "import ctypes; ctypes.PyDLL(None).sleep(600)"  # PyDLL, unlike CDLL, does not let go of it


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    with serving(FakePrefect()) as fake:
        fake.add("run")
        yield fake


def start(prefect: FakePrefect, work: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PREFECT_API_URL": prefect.api, EVERY: "0.1"}
    command = [sys.executable, "-c", RUN.format(work=work), "run"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def beats(prefect: FakePrefect) -> str:
    return prefect.runs["run"]["labels"].get(LABEL, "")


def test_a_run_that_holds_the_interpreters_lock_is_alive(prefect: FakePrefect) -> None:
    process = start(prefect, HOLD_THE_LOCK)
    try:
        wait_until(lambda: beats(prefect).startswith("5 "))
    finally:
        end(process)


def test_a_killed_run_is_silent(prefect: FakePrefect) -> None:
    process = start(prefect, SLEEP)
    wait_until(lambda: bool(beats(prefect)))
    end(process)
    time.sleep(0.5)
    last = beats(prefect)
    time.sleep(1)
    assert beats(prefect) == last


def test_heartbeats_outlive_a_server_that_is_away(prefect: FakePrefect) -> None:
    process = start(prefect, SLEEP)
    try:
        wait_until(lambda: bool(beats(prefect)))
        prefect.locked = True
        time.sleep(0.5)
        last, prefect.locked = beats(prefect), False
        wait_until(lambda: beats(prefect) != last)
    finally:
        end(process)


def test_a_sweeper_is_as_patient_as_runs_are_slow_to_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVERY, "2")
    assert Patience.of_environment() == Patience(2, BEATS * 2, STARTING / SECONDS * 2)
    monkeypatch.setenv(START, "900")
    assert Patience.of_environment().starting == 900
