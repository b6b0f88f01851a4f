"""`cubecast up`: Prefect, MLflow and a worker a work pool on this machine, for one product, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from flows.children import HOST, POLL, Child, Service, check_alive, port_is_free, start, stop, wait_for
from pipeline.config import load
from pipeline.errors import ConfigError, ServiceError

DEMO: Final = Path("work/demo/product.toml")
DEPLOYMENTS: Final = Path(__file__).parents[1] / "deploy" / "prefect.yaml"
POOLS: Final = {"cpu": 2, "gpu": 1}
"""Work pools, and how many flow runs each works on at once."""
PATIENCE: Final = 300.0  # seconds for a server to answer; 15 on an idle machine
GRACE: Final = 20.0  # seconds for a worker to report what it drops; a server needs 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers of one product stand.

    Attributes:
        product: its name.
        config: its configuration, absolute.
        workspace: its folder; the servers keep everything inside.
        tracking: MLflow's address if one is configured elsewhere, else the database for our own server.
        prefect_port: port of our Prefect server.
        mlflow_port: port of our MLflow server.
    """

    product: str
    config: Path
    workspace: Path
    tracking: str
    prefect_port: int
    mlflow_port: int

    @property
    def prefect(self) -> str:
        """Address of Prefect's pages."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def api(self) -> str:
        """Address of Prefect's interface."""
        return f"{self.prefect}/api"

    @property
    def serves_mlflow(self) -> bool:
        """Whether MLflow is ours to start."""
        return self.tracking.startswith("sqlite:")

    @property
    def mlflow(self) -> str:
        """Address of MLflow's pages."""
        return f"http://{HOST}:{self.mlflow_port}" if self.serves_mlflow else self.tracking

    def environment(self) -> dict[str, str]:
        """For every child: this machine's, without the user's own Prefect settings (a Cloud account, a profile)."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return kept | {
            "PREFECT_HOME": str(self.workspace / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_COLORS": "false",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its helper processes take 0.8 GiB
            "CUBECAST_TRACKING__URI": self.mlflow,
            "CUBECAST_CONFIG": str(self.config),
            "CUBECAST_NAME": self.product,
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def service(self, name: str, *command: str) -> Service:
        """A Python program of this environment, run inside the workspace."""
        arguments = (sys.executable, "-m", *command)
        return Service(name, arguments, self.environment(), self.workspace, self.workspace / "logs" / f"{name}.log")


def up(config: Path, *, say: Say) -> None:
    """Runs Prefect, MLflow and the workers until SIGINT or SIGTERM; then stops them all.

    Args:
        config: TOML file of the product.
        say: gets what a person should read, line by line.

    Raises:
        ConfigError: the configuration is missing or breaks a rule.
        ServiceError: a port is taken, or a child fails; the others are stopped first.
    """
    place = find_place(config)
    check_ports(place, config)
    place.workspace.mkdir(parents=True, exist_ok=True)
    servers: list[Child] = []
    workers: list[Child] = []
    with _interruptible() as interrupted:
        try:
            say(f"Starting the servers of {place.product}; logs in {place.workspace / 'logs'}")
            _start_servers(place, servers, say)
            _start_workers(place, servers, workers, say)
            say(_welcome(place))
            _watch([*servers, *workers])
        except KeyboardInterrupt:
            say("Stopping")
        finally:
            interrupted()
            stop(workers, GRACE)  # first: a worker without its server waits for it and reports nothing
            stop(servers, GRACE)


def find_place(config: Path) -> Place:
    """Reads where the servers of a product stand.

    Raises:
        ConfigError: there is no configuration, or it breaks a rule.
    """
    if config == DEMO and not config.exists():
        raise ConfigError(f"{DEMO}: the demo has not run in this folder. Run make demo first, or give --config FILE")
    if not DEPLOYMENTS.exists():
        raise ConfigError(f"{DEPLOYMENTS} is missing: cubecast up runs in a checkout (pip install --editable .)")
    settings = load(config)
    own = f"sqlite:///{settings.paths.mlflow / 'mlflow.db'}"
    return Place(
        settings.product.name,
        config.resolve(),
        settings.paths.root,
        settings.tracking.uri or own,
        settings.services.prefect_port,
        settings.services.mlflow_port,
    )


def check_ports(place: Place, config: Path) -> None:
    """Looks whether the servers could listen.

    Raises:
        ServiceError: a port is taken, or both are the same.
    """
    ports = {"prefect_port": place.prefect_port}
    if place.serves_mlflow:
        ports["mlflow_port"] = place.mlflow_port
    for setting, port in ports.items():
        if list(ports.values()).count(port) > 1 or not port_is_free(port):
            raise ServiceError(
                f"services.{setting} = {port}: another program listens on this port, perhaps another cubecast up. "
                f"Stop it, or set another port: [services] {setting} in {config}, "
                f"or CUBECAST_SERVICES__{setting.upper()}={port + 10}"
            )


def _start_servers(place: Place, servers: list[Child], say: Say) -> None:
    server = ("prefect", "server", "start", "--host", HOST, "--port", str(place.prefect_port))
    servers.append(start(place.service("prefect", *server)))
    if place.serves_mlflow:
        servers.insert(0, start(place.service("mlflow", *_mlflow_command(place))))
    wait_for(f"{place.api}/health", servers, PATIENCE)
    say(f"Prefect answers at {place.prefect}")
    if place.serves_mlflow:
        wait_for(f"{place.mlflow}/health", servers[::-1], PATIENCE)
        say(f"MLflow answers at {place.mlflow}")


def _mlflow_command(place: Place) -> tuple[str, ...]:
    folder = place.workspace / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    store = ("--backend-store-uri", place.tracking, "--artifacts-destination", (folder / "artifacts").as_uri())
    return ("mlflow", "server", "--host", HOST, "--port", str(place.mlflow_port), "--workers", "1", *store)


def _start_workers(place: Place, servers: list[Child], workers: list[Child], say: Say) -> None:
    for pool in POOLS:
        _create_pool(place.api, pool)
    _bury_lost_runs(place.api)
    say("Deploying ingest, train, forecast and verify")
    _deploy(place, servers)  # before the workers: it also withdraws what was scheduled while nobody worked
    for pool, limit in POOLS.items():
        command = ("prefect", "worker", "start", "--pool", pool, "--name", f"{pool} on this machine")
        workers.append(start(place.service(f"worker-{pool}", *command, "--type", "process", "--limit", str(limit))))
    _await_workers(place.api, [*servers, *workers])


def _create_pool(api: str, name: str) -> None:
    try:
        _call(f"{api}/work_pools/", {"name": name, "type": "process"})
    except HTTPError as error:
        if error.code != 409:  # it is there from last time
            raise


def _bury_lost_runs(api: str) -> None:
    """Runs that a killed `cubecast up` left behind would hold their deployment's only place for ever."""
    unfinished = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
    crashed = {"type": "CRASHED", "message": "cubecast up ended before this run did"}
    for run in _call(f"{api}/flow_runs/filter", unfinished):
        _call(f"{api}/flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})


def _deploy(place: Place, servers: list[Child]) -> None:
    command = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
    child = start(place.service("deploy", *command))
    try:
        while child.process.poll() is None:
            check_alive(servers)
            time.sleep(POLL)
    finally:
        stop([child], grace=5)
    if child.process.returncode:
        check_alive([child])


def _await_workers(api: str, children: list[Child]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(_call(f"{api}/work_pools/{pool}")["status"] == "READY" for pool in POOLS):
        check_alive(children)
        if time.monotonic() > deadline:
            raise ServiceError(f"no worker reports to {api} within {PATIENCE:g} s: see the logs of the workers")
        time.sleep(POLL)


def _call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _watch(children: list[Child]) -> None:
    while True:
        check_alive(children)
        time.sleep(POLL)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """SIGTERM and a closed terminal act like Ctrl-C; once the yielded function is called, all three are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers] and None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _welcome(place: Place) -> str:
    command = f"PREFECT_API_URL={place.api} {Path(sys.executable).with_name('prefect')} deployment run"
    return f"""
Prefect   {place.prefect}
MLflow    {place.mlflow}
Retrain   {command} train/{place.product}
Forecast  {command} forecast/{place.product}
Ingest and forecast also run every five minutes, as {DEPLOYMENTS} says.
Ctrl-C stops everything."""
