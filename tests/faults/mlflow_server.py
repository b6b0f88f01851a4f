"""A real MLflow server for tests that take it away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

HOST = "127.0.0.1"
DIRECT = build_opener(ProxyHandler({}))
PATIENCE = 120.0  # seconds


@dataclass
class Server:
    """An MLflow server that can be killed and stopped; its database stays."""

    folder: Path
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        store = ("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}")
        place = ("--artifacts-destination", (self.folder / "artifacts").as_uri())
        address = ("--host", HOST, "--port", str(self.port), "--workers", "1")
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *address, *store, *place],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def answers(self) -> bool:
        try:
            with DIRECT.open(f"http://{HOST}:{self.port}/health", timeout=2):
                return True
        except (URLError, OSError):
            return False

    def wait(self) -> None:
        wait_until(self.answers, PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_until(true: Callable[[], bool], patience: float) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
