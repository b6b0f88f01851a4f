"""Nothing that was started outlives us, and what fails says so."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.children import Children, Interrupted, Service, port_is_free
from pipeline.errors import ServiceError

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def children() -> Iterator[Children]:
    family = Children()
    yield family
    family.stop(family.running, grace=0)


def python(folder: Path, *lines: str, ends: bool = False) -> Service:
    command = (sys.executable, "-c", "\n".join(lines))
    return Service("child", command, dict(os.environ), folder, folder / "logs" / "child.log", ends)


def output(service: Service) -> str:
    deadline = time.monotonic() + 60
    while not service.log.read_text(encoding="utf-8").endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.05)
    return service.log.read_text(encoding="utf-8")


def watch(children: Children) -> None:
    while True:
        children.pause()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def vanishes(pid: int) -> bool:
    deadline = time.monotonic() + 10  # an orphan's parent buries it when it finds the time
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def test_a_child_that_stops_is_an_error_with_the_end_of_its_log(children: Children, tmp_path: Path) -> None:
    children.start(python(tmp_path, "print('first')", "print('\\n' * 20)", "raise SystemExit('the disk is full')"))
    with pytest.raises(
        ServiceError, match=r"(?s)child stopped with exit code 1\. .*child\.log:.*the disk is full"
    ) as it:
        watch(children)
    assert "first" not in str(it.value)


def test_a_server_that_ends_in_peace_is_missed_as_well(children: Children, tmp_path: Path) -> None:
    children.start(python(tmp_path, "pass"))
    with pytest.raises(ServiceError, match="exit code 0"):
        watch(children)


def test_a_service_that_ends_is_waited_for(children: Children, tmp_path: Path) -> None:
    service = python(tmp_path, "print('done')", ends=True)
    children.start(service)
    children.finish(service)
    assert service.log.read_text(encoding="utf-8") == "done\n"
    assert not children.running


def test_a_service_that_should_end_well_and_does_not_is_an_error(children: Children, tmp_path: Path) -> None:
    service = python(tmp_path, "raise SystemExit(3)", ends=True)
    children.start(service)
    with pytest.raises(ServiceError, match="exit code 3"):
        children.finish(service)


def tend_until(children: Children, true: Callable[[], bool], said: list[str]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, said
        children.tend(said.append)


def pids(service: Service) -> list[int]:
    return [int(line) for line in service.log.read_text(encoding="utf-8").split()]


PID = "import os; print(os.getpid(), flush=True)"


def test_a_service_that_stopped_is_started_again_and_said_to_be(children: Children, tmp_path: Path) -> None:
    service = python(tmp_path, PID, SLEEP)
    children.start(service)
    os.kill(int(output(service)), signal.SIGKILL)
    said: list[str] = []
    tend_until(children, lambda: len(pids(service)) == 2, said)
    assert len(said) == 1
    assert "child stopped with exit code -9; it starts again in 1 s" in said[0]


def test_a_service_that_stops_again_and_again_is_given_up(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.children.WAITS", (0.0, 0.0))
    children.start(python(tmp_path, "raise SystemExit('the disk is full')"))
    said: list[str] = []
    with pytest.raises(ServiceError, match=r"(?s)exit code 1, 3 times in a row, .*the disk is full"):
        tend_until(children, lambda: False, said)
    assert len(said) == 2


def test_the_log_of_a_child_that_runs_is_turned_when_it_has_grown_large(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.output.LARGE", 1000)
    monkeypatch.setattr("flows.children.TURNING", 0.5)
    count = "import time\nfor number in range(10**6): print(number, flush=True); time.sleep(0.002)"
    service = python(tmp_path, count)
    children.start(service)
    older = service.log.with_name("child.log.1")
    tend_until(children, older.exists, [])
    size = older.stat().st_size
    tend_until(children, lambda: 0 < service.log.stat().st_size < size, [])
    assert b"\0" not in service.log.read_bytes()
    assert older.read_text(encoding="utf-8").startswith("0\n1\n")


def test_the_logs_are_looked_at_once_a_minute(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.output.LARGE", 1)
    service = python(tmp_path, "print('some words')", SLEEP)
    children.start(service)
    output(service)
    for _ in range(3):
        children.tend([].append)
    assert output(service) == "some words\n"


ORPHAN = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {STUBBORN + '; ' + SLEEP!r}])"


@pytest.mark.parametrize("outlived", [True, False])
def test_what_a_dead_worker_started_goes_on_until_all_ends_and_what_a_dead_server_started_does_not(
    children: Children, tmp_path: Path, *, outlived: bool
) -> None:
    service = replace(
        python(tmp_path, ORPHAN, "import os; print(os.getpid(), p.pid, flush=True)", SLEEP), outlived=outlived
    )
    children.start(service)
    parent, orphan = map(int, output(service).split())
    os.kill(parent, signal.SIGKILL)
    tend_until(children, lambda: len(pids(service)) == 4, [])
    if outlived:
        assert is_alive(orphan)
    children.stop([service], grace=1)
    assert vanishes(orphan)


def test_a_child_that_ignores_requests_ends_by_force(children: Children, tmp_path: Path) -> None:
    service = python(tmp_path, STUBBORN, "import os", "print(os.getpid(), flush=True)", SLEEP)
    children.start(service)
    pid = int(output(service))
    began = time.monotonic()
    children.stop([service], grace=0.5)
    assert not is_alive(pid)
    assert time.monotonic() - began < 5


def test_what_a_child_started_ends_with_it(children: Children, tmp_path: Path) -> None:
    grandchild = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {STUBBORN + '; ' + SLEEP!r}])"
    service = python(tmp_path, grandchild, "print(p.pid, flush=True)", SLEEP)
    children.start(service)
    pid = int(output(service))
    assert is_alive(pid)
    children.stop([service], grace=5)
    assert vanishes(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_wish_that_a_pause_passes_on(children: Children, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup one of them is ignored
    try:
        with children.listening():
            os.kill(os.getpid(), number)
            with pytest.raises(Interrupted):
                children.pause()
            os.kill(os.getpid(), number)  # impatience breaks nothing
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_the_closing_of_the_terminal_ends_nothing(children: Children) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with children.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            children.pause()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_note_names_who_runs_and_goes_with_the_last(tmp_path: Path) -> None:
    note = tmp_path / "logs" / "children.json"
    children = Children(note)
    first, second = python(tmp_path, SLEEP), python(tmp_path, "pass", ends=True)
    children.start(first)
    alone = note.read_text(encoding="utf-8")
    children.start(second)
    assert note.read_text(encoding="utf-8") != alone
    children.finish(second)
    assert note.read_text(encoding="utf-8") == alone
    children.stop([first], grace=5)
    assert not note.exists()


def test_who_is_started_again_is_noted_again(tmp_path: Path) -> None:
    note = tmp_path / "logs" / "children.json"
    children = Children(note)
    service = python(tmp_path, PID, SLEEP)
    children.start(service)
    try:
        os.kill(int(output(service)), signal.SIGKILL)
        tend_until(children, lambda: len(pids(service)) == 2, [])
        (noted,) = json.loads(note.read_text(encoding="utf-8"))["leaders"]
        assert noted["pid"] == pids(service)[1]
    finally:
        children.stop([service], grace=0)


def test_a_server_is_waited_for_no_longer_than_asked(
    children: Children, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    service = python(tmp_path, "print('still thinking', flush=True)", SLEEP)
    children.start(service)
    output(service)
    with pytest.raises(ServiceError, match=r"(?s)no answer at http://127\.0\.0\.1:.* in 0\.5 s\. .*still thinking"):
        children.wait_for(service, f"http://127.0.0.1:{free_ports[0]}/", patience=0.5)


def test_a_port_is_free_until_somebody_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)
