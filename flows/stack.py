"""`cubecast up`: Prefect, MLflow and a worker for each work pool on this machine, for one product, until Ctrl-C."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request

from flows.children import DIRECT, HOST, Children, Interrupted, Service, port_is_free
from pipeline.config import Settings, load
from pipeline.errors import ConfigError, ServiceError

DEMO: Final = Path("work/demo/product.toml")
DEPLOYMENTS: Final = Path(__file__).parents[1] / "deploy" / "prefect.yaml"
POOLS: Final = {"cpu": 2, "gpu": 1}
"""Work pools, and how many flow runs each works on at once."""
PATIENCE: Final = 300.0  # seconds for a server to answer; 15 on an idle machine
GRACE: Final = 20.0  # seconds to end in peace; 3 on an idle machine
TRIES: Final = 30  # one a second

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

    @property
    def ports(self) -> dict[str, int]:
        """The ports that our servers need, by setting."""
        ports = {"prefect_port": self.prefect_port}
        return ports | {"mlflow_port": self.mlflow_port} if self.serves_mlflow else ports

    def service(self, name: str, *command: str) -> Service:
        """A Python program of this environment, run inside the workspace."""
        arguments = (sys.executable, "-m", *command)
        return Service(name, arguments, _environment(self), self.workspace, self.workspace / "logs" / f"{name}.log")


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
    check_ports(place)
    place.workspace.mkdir(parents=True, exist_ok=True)
    children = Children()
    with children.listening(), _stopping(place, children):
        try:
            say(f"Starting the servers of {place.product}, half a minute; logs in {place.workspace / 'logs'}")
            _start_servers(place, children, say)
            _start_workers(place, children, say)
            say(_welcome(place))
            while True:
                children.pause()
        except Interrupted:
            say("Stopping")


def find_place(config: Path) -> Place:
    """Reads where the servers of a product stand.

    Raises:
        ConfigError: there is no configuration, or it breaks a rule.
    """
    if config == DEMO and not config.exists():
        raise ConfigError(f"{DEMO}: the demo has not run in this folder. Run make demo first, or give --config FILE")
    if not DEPLOYMENTS.exists():
        raise ConfigError(f"{DEPLOYMENTS} is missing: cubecast up needs a checkout (pip install --editable .)")
    settings = load(config)
    return Place(
        settings.product.name,
        config.resolve(),
        settings.paths.root,
        settings.tracking.uri or _database(settings),
        settings.services.prefect_port,
        settings.services.mlflow_port,
    )


def check_ports(place: Place) -> None:
    """Looks whether the servers could listen.

    Raises:
        ServiceError: a port is taken, or both are the same.
    """
    if len(set(place.ports.values())) < len(place.ports):
        raise ServiceError(
            f"services.prefect_port and services.mlflow_port are two ports, both are {place.prefect_port}: "
            f"change one in [services] of {place.config}"
        )
    for setting, port in place.ports.items():
        if not port_is_free(port):
            raise ServiceError(
                f"services.{setting} = {port}: another program listens there, perhaps another cubecast up. Stop it, or "
                f"choose another port: [services] {setting} in {place.config} or CUBECAST_SERVICES__{setting.upper()}"
            )


def _database(settings: Settings) -> str:
    return f"sqlite:///{settings.paths.mlflow / 'mlflow.db'}"  # models.registry.tracking_uri, without loading MLflow


def _environment(place: Place) -> dict[str, str]:
    """This machine's, without the user's own Prefect settings: a Cloud account or a profile has no say here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    direct = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), HOST)))
    return kept | {
        "PREFECT_HOME": str(place.workspace / "prefect"),
        "PREFECT_API_URL": place.api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_CLI_COLORS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its helper processes take 0.8 GiB
        "CUBECAST_TRACKING__URI": place.mlflow,
        "CUBECAST_CONFIG": str(place.config),  # for deploy/prefect.yaml, as CUBECAST_NAME
        "CUBECAST_NAME": place.product,
        "DO_NOT_TRACK": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _start_servers(place: Place, children: Children, say: Say) -> None:
    server = ("server", "start", "--host", HOST, "--port", str(place.prefect_port))
    prefect = place.service("prefect", "prefect", *server)
    children.start(prefect)
    if place.serves_mlflow:
        mlflow = place.service("mlflow", *_mlflow_command(place))
        children.start(mlflow)
        children.wait_for(mlflow, f"{place.mlflow}/health", PATIENCE)
        say(f"MLflow answers at {place.mlflow}")
    children.wait_for(prefect, f"{place.api}/health", PATIENCE)
    say(f"Prefect answers at {place.prefect}")


def _mlflow_command(place: Place) -> tuple[str, ...]:
    folder = place.workspace / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    store = ("--backend-store-uri", place.tracking, "--artifacts-destination", (folder / "artifacts").as_uri())
    return ("mlflow", "server", "--host", HOST, "--port", str(place.mlflow_port), "--workers", "1", *store)


def _start_workers(place: Place, children: Children, say: Say) -> None:
    with _prefect_answers(place):
        for pool in POOLS:
            _create_pool(place.api, pool)
        _bury_lost_runs(place.api)
    say("Deploying ingest, train, forecast and verify")
    command = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
    deploy = replace(place.service("deploy", *command), ends=True)
    children.start(deploy)  # before the workers: it also withdraws what was scheduled while nobody worked
    children.finish(deploy)
    for pool, limit in POOLS.items():
        worker = ("worker", "start", "--pool", pool, "--type", "process", "--limit", str(limit))
        children.start(place.service(f"worker-{pool}", "prefect", *worker, "--name", f"{pool} on this machine"))
    with _prefect_answers(place):
        while not all(_call(f"{place.api}/work_pools/{pool}")["status"] == "READY" for pool in POOLS):
            children.pause()


def _create_pool(api: str, name: str) -> None:
    # With a command given, a flow run stays in its worker's process group and cannot outlive the worker. Prefect's own
    # way puts it into a session of its own, behind a second Python process.
    engine = shlex.join([sys.executable, "-m", "prefect.engine"])
    env = {"type": "object", "additionalProperties": {"type": "string"}}
    template = {
        "job_configuration": {"command": engine, "env": "{{ env }}"},
        "variables": {"type": "object", "properties": {"env": env}},
    }
    try:
        _call(f"{api}/work_pools/", {"name": name, "type": "process", "base_job_template": template})
    except HTTPError as error:
        if error.code != 409:  # it is there from last time
            raise
        _call(f"{api}/work_pools/{name}", {"base_job_template": template}, method="PATCH")


def _bury_lost_runs(api: str) -> None:
    """Runs without a worker would hold the only place of their deployment for ever."""
    unfinished = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
    crashed = {"type": "CRASHED", "message": "cubecast up ended before this run did"}
    for run in _call(f"{api}/flow_runs/filter", unfinished):
        _call(f"{api}/flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})


def _call(url: str, body: dict[str, Any] | None = None, *, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    for left in reversed(range(TRIES)):
        try:
            with DIRECT.open(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            if error.code != 503 or not left:  # 503: another part of the server writes to SQLite
                raise
            time.sleep(1)
    return None


@contextmanager
def _prefect_answers(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log = place.workspace / "logs" / "prefect.log"
        raise ServiceError(f"Prefect at {place.api} fails: {error}. Its log, {log}, may tell why") from None


@contextmanager
def _stopping(place: Place, children: Children) -> Iterator[None]:
    """Workers end before their server, and what they could not finish is said to be so."""
    try:
        yield
    finally:
        children.stop([one for one in children.running if one.name.startswith("worker")], GRACE)
        with suppress(OSError):  # the server may be what failed
            _bury_lost_runs(place.api)
        children.stop(children.running, GRACE)


def _welcome(place: Place) -> str:
    prefect = shlex.quote(str(Path(sys.executable).with_name("prefect")))
    command = f"PREFECT_API_URL={place.api} {prefect} deployment run"
    return f"""
Prefect   {place.prefect}
MLflow    {place.mlflow}
Retrain   {command} train/{place.product}
Forecast  {command} forecast/{place.product}
Ingest and forecast also run every five minutes, as {DEPLOYMENTS} says.
Ctrl-C stops everything."""
