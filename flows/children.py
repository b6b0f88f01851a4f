"""Child processes that are started, watched and stopped together, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from pipeline.errors import ServiceError

HOST: Final = "127.0.0.1"
POLL: Final = 0.25  # seconds
TAIL: Final = 15  # lines of a log that are shown when its program fails


@dataclass(frozen=True, slots=True)
class Service:
    """A program that keeps running.

    Attributes:
        name: what people call it.
        command: program and arguments.
        environment: all of it; nothing is inherited.
        folder: working directory.
        log: file of its output, from this start on.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Child:
    """A started service."""

    service: Service
    process: subprocess.Popen[bytes]


def start(service: Service) -> Child:
    """Starts a service in a session of its own, so that the terminal's Ctrl-C does not reach it before us."""
    service.log.parent.mkdir(parents=True, exist_ok=True)
    with service.log.open("wb") as log:
        process = subprocess.Popen(
            service.command,
            cwd=service.folder,
            env=dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Child(service, process)


def check_alive(children: Iterable[Child]) -> None:
    """Looks whether all are running.

    Raises:
        ServiceError: one is not; with the end of its log.
    """
    for child in children:
        code = child.process.poll()
        if code is not None:
            raise ServiceError(f"{child.service.name} stopped with exit code {code}. {_end(child.service.log)}")


def wait_for(url: str, children: Sequence[Child], patience: float) -> None:
    """Waits until ``url`` answers with success; the last of ``children`` serves it.

    Raises:
        ServiceError: a child stopped, or there is no answer within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while not _answers(url):
        check_alive(children)
        if time.monotonic() > deadline:
            service = children[-1].service
            raise ServiceError(f"{service.name} does not answer at {url} within {patience:g} s. {_end(service.log)}")
        time.sleep(POLL)


def stop(children: Sequence[Child], grace: float) -> None:
    """Ends all of them and what they started: by request, and after ``grace`` seconds by force."""
    for child in children:
        _signal(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
        _signal(child.process.pid, signal.SIGKILL)
        child.process.wait()


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a group of zombies
        os.killpg(group, number)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in lines)])
