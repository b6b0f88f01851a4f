"""`cubecast up`: Prefect, MLflow, a sweeper and a worker for each work pool on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import HTTPError

from flows.children import HOST, Children, Interrupted, Service, port_is_free
from flows.firsts import FirstForecasts
from flows.groups import end_remains, owner_at_work
from flows.server import Server
from pipeline.config import Settings, load
from pipeline.errors import ConfigError, ServiceError

DEMO: Final = Path("work/demo/product.toml")
DEPLOYMENTS: Final = Path(__file__).parents[1] / "deploy" / "prefect.yaml"
BESIDE_INGESTS: Final = 2
"""Runs of the cpu pool at once beside the ingests: a forecast need not wait for a verification or the housekeeping."""
POOLS: Final[Mapping[str, tuple[str, ...]]] = {"cpu": (), "gpu": ("nice", "-n", "10")}
"""Our work pools, and how their runs begin: a training that has no GPU leaves the processors to forecasts."""
UNFINISHED: Final = frozenset({"PENDING", "RUNNING", "CANCELLING"})
"""Types of states of flow runs that a worker has, or should have."""
HISTORY: Final = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # by default runs stay for ever
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "P14D",
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P2D",  # ISO 8601: no number of seconds is understood here
}
"""How long Prefect's database keeps what has ended; the user's own environment may say otherwise."""
PATIENCE: Final = 300.0  # seconds for a server to answer; 15 on an idle machine
GRACE: Final = 20.0  # seconds to end in peace; 3 on an idle machine

Answer = TypeVar("Answer")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Product:
    """A product that is served.

    Attributes:
        name: its name.
        config: its configuration, absolute.
        latest: file that names its newest forecast; None: forecasts go to a bucket.
    """

    name: str
    config: Path
    latest: Path | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers of some products stand.

    Attributes:
        products: whom they serve.
        workspace: folder of the first product; the servers keep everything inside.
        tracking: MLflow's address if one is configured elsewhere, else the database for our own server.
        prefect_port: port of our Prefect server.
        mlflow_port: port of our MLflow server.
    """

    products: tuple[Product, ...]
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

    @property
    def note(self) -> Path:
        """File that names our children while they run."""
        return self.workspace / "logs" / "children.json"

    def limit(self, pool: str) -> int:
        """How many flow runs our worker of a pool works on at once.

        The ingest of every product watches its inbox for 4.5 of 5 minutes, so a place for each is always taken.
        """
        return len(self.products) + BESIDE_INGESTS if pool == "cpu" else 1

    def service(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Service:
        """A Python program of this environment, run inside the workspace."""
        arguments = (sys.executable, "-m", *command)
        everything = _environment(self) | dict(environment or {})
        return Service(name, arguments, everything, self.workspace, self.workspace / "logs" / f"{name}.log")


def up(configs: Sequence[Path], *, say: Say, feed: bool = False) -> None:
    """Runs Prefect, MLflow and the workers until SIGINT or SIGTERM; then stops them all.

    Args:
        configs: TOML files of the products.
        say: gets what a person should read, line by line.
        feed: make up scenes for the first product as well, one for each slot.

    Raises:
        ConfigError: a configuration is missing or breaks a rule.
        ServiceError: another one serves from the same workspace, a port is taken, or a child fails again and again; the
            others are stopped first.
    """
    place = find_place(configs)
    check_alone(place)
    end_remains(place.note, say)
    check_ports(place)
    place.workspace.mkdir(parents=True, exist_ok=True)
    children, firsts = Children(place.note), FirstForecasts({one.name: one.latest for one in place.products})
    with children.listening(), _stopping(place, children):
        try:
            say(f"Starting the servers of {_names(place)}, half a minute; they keep all they know in {place.workspace}")
            _start_servers(place, children, say)
            _start_workers(place, children, say)
            if feed:
                children.start(place.service("feed", "flows.feed", str(place.products[0].config)))
            say(_welcome(place))
            while True:
                children.tend(say)
                firsts.look(say)
        except Interrupted:
            say("Stopping")


def find_place(configs: Sequence[Path]) -> Place:
    """Reads where the servers of some products stand: where the first one says.

    Raises:
        ConfigError: there is no configuration, or one breaks a rule, or two products have one name.
    """
    if not DEPLOYMENTS.exists():
        raise ConfigError(f"{DEPLOYMENTS} is missing: cubecast up needs a checkout (pip install --editable .)")
    everything = [_settings(config) for config in configs]
    products = tuple(
        Product(one.product.name, config.resolve(), _latest(one))
        for one, config in zip(everything, configs, strict=True)
    )
    names = [product.name for product in products]
    if len(set(names)) < len(names):
        raise ConfigError(f"products that share servers have names of their own, found {names}: change [product] name")
    first = everything[0]
    return Place(
        products,
        first.paths.root,
        first.tracking.uri or _database(first),
        first.services.prefect_port,
        first.services.mlflow_port,
    )


def check_alone(place: Place) -> None:
    """Looks whether another one serves from the workspace: two workers would take each other's runs for lost.

    Raises:
        ServiceError: it does.
    """
    other = owner_at_work(place.note)
    if other is not None:
        raise ServiceError(
            f"one cubecast up at a time serves from a workspace, process {other.pid} does from {place.workspace}: "
            f"stop it, or choose another workspace: [paths] workspace in {place.products[0].config}"
        )


def check_ports(place: Place) -> None:
    """Looks whether the servers could listen.

    Raises:
        ServiceError: a port is taken, or both are the same.
    """
    config = place.products[0].config
    if len(set(place.ports.values())) < len(place.ports):
        raise ServiceError(
            f"services.prefect_port and services.mlflow_port are two ports, both are {place.prefect_port}: "
            f"change one in [services] of {config}"
        )
    for setting, port in place.ports.items():
        if not port_is_free(port):
            raise ServiceError(
                f"services.{setting} = {port}: another program listens there, perhaps another cubecast up. Stop it, or "
                f"choose another port: [services] {setting} in {config} or CUBECAST_SERVICES__{setting.upper()}"
            )


def _settings(config: Path) -> Settings:
    if config == DEMO and not config.exists():
        raise ConfigError(f"{DEMO}: the demo has not run in this folder. Run make demo first, or give --config FILE")
    return load(config)


def _latest(settings: Settings) -> Path | None:
    return None if settings.forecast.store.url else settings.paths.forecasts / settings.product.name / "latest.json"


def _database(settings: Settings) -> str:
    return f"sqlite:///{settings.paths.mlflow / 'mlflow.db'}"  # models.registry.tracking_uri, without loading MLflow


def _names(place: Place) -> str:
    return ", ".join(product.name for product in place.products)


def _environment(place: Place) -> dict[str, str]:
    """This machine's, without the user's own Prefect settings: a Cloud account or a profile has no say here.

    Only how long history is kept (:data:`HISTORY`) is the user's to say.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    history = {name: os.environ.get(name, ours) for name, ours in HISTORY.items()}
    direct = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), HOST)))
    return (
        kept
        | history
        | {
            "PREFECT_HOME": str(place.workspace / "prefect"),
            "PREFECT_API_URL": place.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
            # In memory, they are lost with the server, and a run whose lease is lost ends itself.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # to open SQLite; for its locks see flows.prefect_server
            # Twelve times a minute it would mark all that waits, at once: most of SQLite's "database is locked".
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "10",  # 30 is half of a cadence of a minute
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_COLORS": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its helper processes take 0.8 GiB
            "CUBECAST_TRACKING__URI": place.mlflow,
            "DO_NOT_TRACK": "1",
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
    )


def _start_servers(place: Place, children: Children, say: Say) -> None:
    prefect = place.service("prefect", *prefect_command(place))
    children.start(prefect)
    if place.serves_mlflow:
        mlflow = place.service("mlflow", *_mlflow_command(place))
        children.start(mlflow)
        children.wait_for(mlflow, f"{place.mlflow}/health", PATIENCE)
        say(f"MLflow answers at {place.mlflow}")
    children.wait_for(prefect, f"{place.api}/health", PATIENCE)
    say(f"Prefect answers at {place.prefect}")


def prefect_command(place: Place) -> tuple[str, ...]:
    """Module and arguments of Prefect's server."""
    return ("flows.prefect_server", "server", "start", "--host", HOST, "--port", str(place.prefect_port))


def _mlflow_command(place: Place) -> tuple[str, ...]:
    folder = place.workspace / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    store = ("--backend-store-uri", place.tracking, "--artifacts-destination", (folder / "artifacts").as_uri())
    return ("mlflow", "server", "--host", HOST, "--port", str(place.mlflow_port), "--workers", "1", *store)


def _start_workers(place: Place, children: Children, say: Say) -> None:
    server = Server(place.api)
    with _prefect_answers(place):
        for pool in POOLS:
            _patiently(children, partial(_create_pool, server, pool))
        for run in _patiently(children, partial(_runs, server, UNFINISHED)):
            _patiently(children, partial(_end, server, run, "CRASHED"))
    for product in place.products:  # before the workers: it also withdraws what was scheduled while nobody worked
        say(f"Deploying the flows of {product.name}")
        deploy = _deploy(place, product)
        children.start(deploy)
        children.finish(deploy)
    for pool in POOLS:
        children.start(_worker(place, pool))
    children.start(place.service("sweeper", "flows.sweeper"))
    with _prefect_answers(place):
        while not all(_patiently(children, partial(_is_ready, server, pool)) for pool in POOLS):
            children.pause()
        for product in place.products:
            _patiently(children, partial(_order_ingest, server, product.name))


def _order_ingest(server: Server, product: str) -> None:
    """The schedule's first one may be five minutes away."""
    found = server.call(f"/deployments/name/ingest/{product}")
    server.call(f"/deployments/{found['id']}/create_flow_run", {"tags": found["tags"]})


def _is_ready(server: Server, pool: str) -> bool:
    return server.call(f"/work_pools/{pool}")["status"] == "READY"


def _patiently(children: Children, ask: Callable[[], Answer]) -> Answer:
    """What a server says that may be too busy to answer at once; a child that dies meanwhile ends the waiting."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except HTTPError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            children.pause()


def _deploy(place: Place, product: Product) -> Service:
    command = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
    told = {"CUBECAST_CONFIG": str(product.config), "CUBECAST_NAME": product.name}
    return replace(place.service(f"deploy-{product.name}", *command, environment=told), ends=True)


def _worker(place: Place, pool: str) -> Service:
    command = ("prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", str(place.limit(pool)))
    service = place.service(f"worker-{pool}", *command, "--name", f"{pool} on this machine")
    return replace(service, outlived=True)  # its runs go on, and tell the server themselves what becomes of them


def _create_pool(server: Server, name: str) -> None:
    # With a command given, a flow run stays in its worker's process group and cannot outlive the worker. Prefect's own
    # way puts it into a session of its own, behind a second Python process.
    engine = shlex.join([*POOLS[name], sys.executable, "-m", "prefect.engine"])
    env = {"type": "object", "additionalProperties": {"type": "string"}}
    template = {
        "job_configuration": {"command": engine, "env": "{{ env }}"},
        "variables": {"type": "object", "properties": {"env": env}},
    }
    try:
        server.call("/work_pools/", {"name": name, "type": "process", "base_job_template": template})
    except HTTPError as error:
        if error.code != 409:  # it is there from last time
            raise
        server.call(f"/work_pools/{name}", {"base_job_template": template}, method="PATCH")


def _runs(server: Server, states: Collection[str], among: Collection[str] | None = None) -> list[str]:
    """Ids of the flow runs in some states, of all (None) or of those that are asked about."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": sorted(states)}}}
    if among is not None:  # a page of the answer holds 200, and weeks of crashed runs may be more
        wanted["id"] = {"any_": sorted(among)}
    return [run["id"] for run in server.call("/flow_runs/filter", {"flow_runs": wanted})]


def _end(server: Server, run: str, state: str) -> None:
    """A run without a worker would hold the only place of its deployment until the sweeper has seen enough."""
    told = {"type": state, "message": "cubecast up ended before this run did"}
    server.call(f"/flow_runs/{run}/set_state", {"state": told, "force": True})


@contextmanager
def _prefect_answers(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log = place.workspace / "logs" / "prefect.log"
        raise ServiceError(f"Prefect at {place.api} fails: {error}. Its log, {log}, may tell why") from None


@contextmanager
def _stopping(place: Place, children: Children) -> Iterator[None]:
    """Workers end before their server, and what they could not finish is cancelled, which nobody does again."""
    server, ending = Server(place.api), set[str]()
    try:
        yield
    finally:
        with suppress(OSError):  # the server may be what failed
            ending.update(_runs(server, UNFINISHED))
        before = ("worker", "sweeper", "feed")
        children.stop([one for one in children.running if one.name.startswith(before)], GRACE)
        with suppress(OSError):
            for run in {*_runs(server, UNFINISHED), *_runs(server, {"CRASHED"}, among=ending)}:
                _end(server, run, "CANCELLED")
        children.stop(children.running, GRACE)


def _looks(place: Place, product: Product) -> Iterator[str]:
    """Commands that look at a product; MLflow's database lies in the workspace of the first one."""
    cubecast, config = shlex.quote(str(Path(sys.executable).with_name("cubecast"))), shlex.quote(str(product.config))
    finds = not place.serves_mlflow or product == place.products[0]
    where = "" if finds else f"CUBECAST_TRACKING__URI={place.mlflow} "
    yield f"Quality   {cubecast} quality --config {config}"
    yield f"Models    {where}{cubecast} models list --config {config}"


def _welcome(place: Place) -> str:
    prefect = shlex.quote(str(Path(sys.executable).with_name("prefect")))
    command = f"PREFECT_API_URL={place.api} {prefect} deployment run"
    orders = [
        f"{word:9} {command} {flow}/{product.name}"
        for product in place.products
        for word, flow in (("Train", "train"), ("Retrain", "retrain"), ("Forecast", "forecast"))
    ]
    lines = [
        "",
        f"Prefect   {place.prefect}",
        f"MLflow    {place.mlflow}",
        *orders,
        *(line for product in place.products for line in _looks(place, product)),
        f"Logs      {place.workspace / 'logs'}",
        f"What runs when, {DEPLOYMENTS} says.",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)
