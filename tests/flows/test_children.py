"""Nothing that was started outlives us, and what fails says so."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
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
    before = signal.getsignal(number)
    with children.listening():
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted):
            children.pause()
        os.kill(os.getpid(), number)  # impatience breaks nothing
    assert signal.getsignal(number) is before


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
