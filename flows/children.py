"""Child processes that are started, watched and stopped together, and leave nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import ProxyHandler, build_opener

from flows.groups import Leader, await_nobody, exists, leader, send, write_note
from flows.output import last_lines, open_output, turn_over
from pipeline.errors import ServiceError

HOST: Final = "127.0.0.1"
POLL: Final = 0.25  # seconds
TAIL: Final = 15  # lines of a log that are shown when its program fails
TURNING: Final = 60.0  # seconds from one look at the size of the logs to the next
WAITS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds before a service that stopped is started again: the first time, the second one in a row, and so on."""
QUICK: Final = 60.0  # seconds; who stopped sooner after its start has stopped in a row
DIRECT: Final = build_opener(ProxyHandler({}))
"""Opens addresses of this machine; a proxy is for others."""


class Interrupted(Exception):  # noqa: N818 - no error: somebody pressed Ctrl-C
    """The user wants an end."""


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A program to run.

    Attributes:
        name: what people call it.
        command: program and arguments.
        environment: all of it; nothing is inherited.
        folder: working directory.
        log: file of its output, from its first start on; beyond 20 MB it becomes ``.1``.
        ends: whether it is done some time, successfully.
        outlived: whether what it started goes on when it stops, and ends at the latest when it is ended.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    ends: bool = False
    outlived: bool = False


@dataclass(slots=True)
class _Death:
    """How a service stops again and again.

    Attributes:
        in_a_row: how often it has stopped soon after its start.
        due: when it starts again; None: it runs.
    """

    in_a_row: int = 0
    due: float | None = None


class Children:
    """The children of this process.

    A signal only leaves a note, which :meth:`pause` reads: so it cannot fall between the start of a program and its
    entry here, and no second Ctrl-C can break off the clearing up.

    Args:
        note: file that names them while they run, for :func:`flows.groups.end_remains` if this process is killed.
    """

    def __init__(self, note: Path | None = None) -> None:
        self._note = note
        self._leaders: dict[Service, Leader | None] = {}
        self._running: dict[Service, subprocess.Popen[bytes]] = {}
        self._started: dict[Service, float] = {}
        self._deaths: dict[Service, _Death] = {}
        self._orphans: dict[Service, set[int]] = {}
        self._interrupted = False
        self._looked = time.monotonic()

    @property
    def running(self) -> tuple[Service, ...]:
        """Services in the order of their start."""
        return tuple(self._running)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes Ctrl-C, SIGTERM and the closing of the terminal as a wish to end; under nohup it closes unheard."""

        def note(*_: object) -> None:
            self._interrupted = True

        detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
        wishes = (signal.SIGINT, signal.SIGTERM) + (() if detached else (signal.SIGHUP,))
        before = {number: signal.signal(number, note) for number in wishes}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, service: Service) -> None:
        """Starts a service in a session of its own, so that the terminal's Ctrl-C does not reach it before us."""
        self._start(service, anew=True)

    def _start(self, service: Service, *, anew: bool) -> None:
        self._started[service] = time.monotonic()
        with open_output(service.log, anew=anew) as log:
            self._running[service] = subprocess.Popen(
                service.command,
                cwd=service.folder,
                env=dict(service.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._leaders[service] = leader(service.name, self._running[service].pid)
        self._write_note()

    def _write_note(self) -> None:
        if self._note is not None:
            leaders = [self._leaders[service] for service in self._running]
            write_note(self._note, [one for one in leaders if one is not None])

    def pause(self) -> None:
        """Waits a moment.

        Raises:
            Interrupted: the user wants an end.
            ServiceError: a service stopped by itself; with the end of its log.
        """
        self._wait_a_moment()
        for service in self._stopped():
            raise ServiceError(f"{self._how_it_stopped(service)}. {log_end(service)}")

    def tend(self, say: Callable[[str], None]) -> None:
        """Waits a moment, starts again what has stopped, and turns logs that have grown too large.

        Args:
            say: told of each service that stopped.

        Raises:
            Interrupted: the user wants an end.
            ServiceError: a service stops again and again; with the end of its log.
        """
        self._wait_a_moment()
        for service in self._stopped():
            self._revive(service, say)
        self._turn_logs()

    def _turn_logs(self) -> None:
        if (now := time.monotonic()) - self._looked < TURNING:
            return
        self._looked = now
        for service in self._running:
            turn_over(service.log)

    def _revive(self, service: Service, say: Callable[[str], None]) -> None:
        now, death = time.monotonic(), self._deaths.setdefault(service, _Death())
        if death.due is None:
            death.in_a_row = death.in_a_row + 1 if now - self._started[service] < QUICK else 1
            if death.in_a_row > len(WAITS):
                times = f"{len(WAITS) + 1} times in a row, each within {QUICK:g} s of its start"
                raise ServiceError(f"{self._how_it_stopped(service)}, {times}. {log_end(service)}")
            wait = WAITS[death.in_a_row - 1]
            say(f"{self._how_it_stopped(service)}; it starts again in {wait:g} s. Its log: {service.log}")
            death.due = now + wait
        if now >= death.due:
            death.due = None
            self._leave(service, self._running[service].pid)
            self._start(service, anew=False)

    def _leave(self, service: Service, group: int) -> None:
        """What a stopped service started goes on, or ends now: it could hold the port that the next one needs."""
        if service.outlived:
            self._orphans.setdefault(service, set()).add(group)
        else:
            send(group, signal.SIGKILL)
            await_nobody(group)

    def _stopped(self) -> list[Service]:
        over = [service for service, process in self._running.items() if process.poll() is not None]
        return [service for service in over if not (service.ends and self._running[service].returncode == 0)]

    def _how_it_stopped(self, service: Service) -> str:
        return f"{service.name} stopped with exit code {self._running[service].returncode}"

    def _wait_a_moment(self) -> None:
        time.sleep(POLL)
        if self._interrupted:
            raise Interrupted
        for groups in self._orphans.values():
            groups -= {group for group in groups if not exists(group)}  # the system gives numbers out again

    def wait_for(self, service: Service, url: str, patience: float) -> None:
        """Waits until ``url`` of ``service`` answers with success.

        Raises:
            Interrupted: the user wants an end.
            ServiceError: a service stopped, or there is no answer within ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        while not _answers(url):
            if time.monotonic() > deadline:
                raise ServiceError(f"{service.name} gives no answer at {url} in {patience:g} s. {log_end(service)}")
            self.pause()

    def finish(self, service: Service) -> None:
        """Waits for the success of a service that ends.

        Raises:
            Interrupted: the user wants an end.
            ServiceError: it failed, or another stopped.
        """
        while self._running[service].poll() != 0:
            self.pause()
        del self._running[service]
        self._write_note()

    def stop(self, services: Collection[Service], grace: float) -> None:
        """Ends services and what they started: by request, and after ``grace`` seconds by force."""
        ending = {service: self._running.pop(service) for service in services if service in self._running}
        orphans = {group for service in ending for group in self._orphans.pop(service, ()) if exists(group)}
        groups = {process.pid for process in ending.values()} | orphans
        for group in groups:
            send(group, signal.SIGTERM)
        deadline = time.monotonic() + grace
        for process in ending.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            send(process.pid, signal.SIGKILL)  # what the service started and did not end is in its group
            process.wait()
        for group in orphans:
            send(group, signal.SIGKILL)
        for group in groups:
            await_nobody(group)
        self._write_note()


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def log_end(service: Service) -> str:
    """The last lines of a service's log, and where the others are."""
    lines = last_lines(service.log, TAIL)
    return "\n".join([f"The end of {service.log}:", *(f"  {line}" for line in lines)])


def _answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=5):
            return True
    except OSError:
        return False
