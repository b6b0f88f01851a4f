"""`cubecast up` as a soak runs it: started as a user does, looked at from outside, and broken on purpose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from flows.server import Server
from tests.soak.observation import Usage

PATIENCE = 300.0  # seconds until all servers and workers are there
AWAY = 90.0  # seconds that a server may be away, while it is restarted
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")
LATE = timedelta(minutes=2)  # a scheduled run that should have begun so long ago
ROLES = {
    "prefect": "flows.prefect_server",
    "mlflow": "mlflow server",
    "worker-cpu": "--pool cpu",
    "worker-gpu": "--pool gpu",
    "sweeper": "sweep",
}
"""Long-lived programs: name -> what stands in their command lines."""
WHOLE = ("prefect", "mlflow")
"""Of these all processes count; what a worker starts are runs, which end."""


@dataclass(slots=True)
class Services:
    """The programs behind a product.

    Attributes:
        config: of the product.
        port: of the Prefect server.
        environment: variables on top of ours.
    """

    config: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def screen(self) -> Path:
        """What `cubecast up` says."""
        return self.config.parent / "up.txt"

    def ask(self, path: str, body: Any = None) -> Any:
        """What the Prefect server says; one that is away for a while is waited for."""
        server, end = Server(f"http://127.0.0.1:{self.port}/api"), time.monotonic() + AWAY
        while True:
            try:
                return server.call(path, body)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def start(self) -> None:
        """Starts everything and waits for it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CUBECAST_"))}
        command = (str(Path(sys.executable).with_name("cubecast")), "up", "--config", str(self.config))
        with self.screen.open("wb") as screen:
            environment = kept | self.environment
            self.process = subprocess.Popen(command, env=environment, stdout=screen, stderr=subprocess.STDOUT)
        wait_for(lambda: "Ctrl-C stops everything" in self.says(), PATIENCE, "cubecast up is there")

    def says(self) -> str:
        """What `cubecast up` has said; AssertionError where it has ended."""
        text = self.screen.read_text(encoding="utf-8")
        assert self.process is not None
        assert self.process.poll() is None, text
        return text

    def stop(self) -> None:
        """Ends everything, as Ctrl-C does."""
        if self.process is None:
            return
        self.release()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            for one in self._own().children(recursive=True):
                one.kill()
            self.process.kill()
            raise
        self.process = None

    # --- what runs ------------------------------------------------------------------------------------

    def usage(self, step: int) -> list[Usage]:
        """What the long-lived processes hold."""
        found = [_usage(step, "cubecast up", [self._own()])]
        for role in ROLES:
            with suppress(psutil.NoSuchProcess, StopIteration):
                program = self.program(role)
                tree = [program, *program.children(recursive=True)] if role in WHOLE else [program]
                found.append(_usage(step, role, tree))
        return found

    def program(self, role: str) -> psutil.Process:
        """The process of a role; StopIteration where there is none now."""
        return next(one for one in self._own().children() if ROLES[role] in _command(one))

    def _own(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def runs(self, *, name: str = "", states: tuple[str, ...] = ACTIVE) -> list[dict[str, Any]]:
        """Flow runs in some states; of one flow, where it is named."""
        asked: dict[str, Any] = {"flow_runs": {"state": {"type": {"any_": list(states)}}}, "limit": 200}
        if name:
            asked["flows"] = {"name": {"any_": [name]}}
        return self.ask("/flow_runs/filter", asked)

    def request(self, deployment: str, **parameters: Any) -> str:
        """Asks for a run of a deployment, as a person does on Prefect's pages; its id."""
        found = self.ask(f"/deployments/name/{deployment}")
        asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"/deployments/{found['id']}/create_flow_run", asked)["id"]

    def state(self, run: str) -> str:
        """Type of a run's state."""
        return self.ask(f"/flow_runs/{run}")["state_type"]

    def stuck(self) -> list[str]:
        """Runs that wait or work although nothing is left to do; an ingest may stay and watch the inbox."""
        at_work = [run for run in self.runs() if not run["name"].startswith("ingest")]
        watching = [run for run in self.runs(name="ingest") if run["state_type"] == "RUNNING"]
        late = [run for run in self.runs(states=("SCHEDULED",)) if _overdue(run)]
        return [f"{run['name']}: {run['state_name']}" for run in (*at_work, *watching[1:], *late)]

    # --- what breaks ----------------------------------------------------------------------------------

    def kill_worker(self) -> bool:
        """Ends the worker and its runs at once while it works on a forecast; whether there was one."""
        found = wait_until(lambda: self._engine("forecast") is not None, 60.0)
        with suppress(StopIteration):
            os.killpg(self.program("worker-cpu").pid, signal.SIGKILL)
        return found

    def kill_run(self) -> bool:
        """Ends the process of a forecast's run at once; whether there was one."""
        if not wait_until(lambda: self._engine("forecast") is not None, 60.0):
            return False
        engine = self._engine("forecast")
        if engine is None:
            return False
        for one in (engine, *engine.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        return True

    def restart_prefect(self) -> None:
        """Ends the server; whoever watches over it starts it again."""
        self.program("prefect").terminate()

    def hang_mlflow(self) -> None:
        """Stops MLflow where it stands: its port is open and nobody answers."""
        self._signal_mlflow(signal.SIGSTOP)

    def kill_mlflow(self) -> None:
        """Ends MLflow at once."""
        self._signal_mlflow(signal.SIGKILL)

    def release(self) -> None:
        """Lets go on what was stopped."""
        with suppress(psutil.NoSuchProcess):
            self._signal_mlflow(signal.SIGCONT)

    def _signal_mlflow(self, number: signal.Signals) -> None:
        with suppress(StopIteration, ProcessLookupError):
            os.killpg(self.program("mlflow").pid, number)

    def _engine(self, flow: str) -> psutil.Process | None:
        """The process of a run of a flow that runs now."""
        with suppress(OSError):
            ids = {run["id"] for run in self.runs(name=flow, states=("RUNNING",))}
            return next((one for one in self._own().children(recursive=True) if _run_id(one) in ids), None)
        return None


def wait_until(true: Callable[[], bool], patience: float, pause: float = 0.5) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def wait_for(true: Callable[[], bool], patience: float, what: str) -> None:
    """Waits until something is true; AssertionError where that takes too long."""
    assert wait_until(true, patience), f"{what}: not within {patience:g} s"


def _usage(step: int, role: str, tree: list[psutil.Process]) -> Usage:
    memory, files = 0.0, 0
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            memory += one.memory_info().rss / 2**20
            files += one.num_fds()
    return Usage(step, role, tree[0].pid, memory, files)


def _command(one: psutil.Process) -> str:
    try:
        return " ".join(one.cmdline())
    except psutil.Error:
        return ""


def _run_id(one: psutil.Process) -> str:
    """Of the flow run that a process works on: the engine, not what that started."""
    try:
        return one.environ().get("PREFECT__FLOW_RUN_ID", "") if "prefect" in " ".join(one.cmdline()) else ""
    except psutil.Error:
        return ""


def _overdue(run: dict[str, Any]) -> bool:
    if run["state_name"] == "AwaitingConcurrencySlot":
        return False
    due = datetime.fromisoformat(run["expected_start_time"])
    return datetime.now(UTC) - due > LATE
