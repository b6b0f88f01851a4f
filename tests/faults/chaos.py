"""A real Prefect server, two workers, a sweeper and a tiny product, and how each of them is made to fail."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from flows.children import Children, Service, port_is_free
from flows.heartbeat import EVERY
from flows.server import Server
from flows.stack import Place, Product, _create_pool, _deploy, prefect_command
from pipeline.config import load
from pipeline.inspect import inspect, write
from pipeline.synthetic import SyntheticSpec, stream
from pipeline.synthetic_scenes import encode, write_scene
from pipeline.times import stamp

HISTORY = 6  # scenes that are there from the beginning
BEAT = "2"  # seconds
UNFINISHED = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
PATIENCE = 240.0  # seconds for everything to settle
SPEC = SyntheticSpec(height=64, width=64, frames=40)


@dataclass
class Site:
    """A product in a folder, and its stack.

    Attributes:
        folder: where everything lies.
        children: the servers and workers.
        said: what the supervisor told.
        dropped: init times of the scenes that have come.
    """

    folder: Path
    children: Children = field(default_factory=Children)
    said: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    sky: Iterator[Any] = field(default_factory=lambda: stream(SPEC))

    def __post_init__(self) -> None:
        self.inbox.mkdir()
        for _ in range(HISTORY):
            self.drop()
        write(inspect(self.inbox), self.config)

    @property
    def inbox(self) -> Path:
        return self.folder / "small"

    @property
    def config(self) -> Path:
        return self.folder / "product.toml"

    @property
    def forecasts(self) -> Path:
        return load(self.config).paths.forecasts

    def drop(self) -> None:
        """A scene comes."""
        frame = next(self.sky)
        time_ = SPEC.axis.valid_time(frame.slot)
        path = self.inbox / f"synthetic_{stamp(time_)}.tif"
        aside = path.with_suffix(".part")
        write_scene(aside, encode(frame.values, frame.validity), SPEC.grid, time_, time_)
        aside.rename(path)
        self.dropped.append(stamp(time_))

    def published(self, init: str) -> int:
        """How many runs of an init time are visible."""
        return len(list(self.forecasts.rglob(f"{init}/*/run.json")))


@dataclass
class Stack:
    """What runs."""

    site: Site
    place: Place
    server: Server
    deployments: dict[str, str] = field(default_factory=dict)

    def process(self, name: str) -> psutil.Process:
        """The process of a service."""
        running = self.site.children._running
        return psutil.Process(next(running[service].pid for service in running if service.name == name))

    def flows(self) -> list[psutil.Process]:
        """Processes of flow runs."""
        found: list[psutil.Process] = []
        for name in ("worker-a", "worker-b"):
            with suppress(psutil.Error):
                found += [
                    one for one in self.process(name).children(recursive=True) if "prefect.engine" in one.cmdline()
                ]
        return found

    def order(self, flow: str) -> None:
        """Somebody asks for a run; whoever asks a server that is away asks again."""
        parameters = {"watch": 0} if flow == "ingest" else {}
        order = {"parameters": parameters, "tags": ["cubecast"]}
        self.patiently(lambda: self.server.call(f"/deployments/{self.deployments[flow]}/create_flow_run", order))

    def is_under_way(self, flow: str) -> bool:
        """Whether a worker has a run of this flow."""
        return any(
            run["deployment_id"] == self.deployments[flow] and run["state_type"] in {"PENDING", "RUNNING"}
            for run in self.unfinished()
        )

    def patiently(self, ask: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except OSError:
                assert time.monotonic() < end
                self.pause()

    def pause(self) -> None:
        """Time passes; who died is started again."""
        self.site.children.tend(self.site.said.append)

    def wait_until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, self.report()
            self.pause()

    def unfinished(self) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}}
        return self.patiently(lambda: self.server.call("/flow_runs/filter", wanted))

    def held(self) -> int:
        """Places of deployments that are taken."""
        limits = self.patiently(lambda: self.server.call("/v2/concurrency_limits/filter", {}))
        return sum(limit["active_slots"] for limit in limits)

    def report(self) -> str:
        runs = self.patiently(lambda: self.server.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 30}))
        lines = [f"{run['name']} {run['state_type']} {run['state'].get('message')} {run['labels']}" for run in runs]
        logs = [path.read_text()[-2000:] for path in (self.place.workspace / "logs").glob("sweeper.log")]
        return "\n".join([*lines, *self.site.said, *logs])


def kill_flow(stack: Stack) -> None:
    for process in stack.flows()[:1]:
        process.kill()


def kill_worker(stack: Stack, dice: random.Random) -> None:
    """The worker alone: its runs go on."""
    stack.process(dice.choice(["worker-a", "worker-b"])).kill()


def kill_machine(stack: Stack) -> None:
    """Both workers with all that they started, at once: nobody is left who could tell."""
    for name in ("worker-a", "worker-b"):
        os.killpg(stack.process(name).pid, signal.SIGKILL)


def end_worker(stack: Stack, dice: random.Random) -> None:
    """As a machine that is shut down ends it."""
    os.killpg(stack.process(dice.choice(["worker-a", "worker-b"])).pid, signal.SIGTERM)


def kill_server(stack: Stack) -> None:
    os.killpg(stack.process("prefect").pid, signal.SIGKILL)


FAULTS: dict[str, Callable[[Stack, random.Random], None]] = {
    "machine": lambda stack, _: kill_machine(stack),
    "server": lambda stack, _: kill_server(stack),
    "flow": lambda stack, _: kill_flow(stack),
    "worker": kill_worker,
    "end": end_worker,
}


def _port() -> int:
    """A port that stays free while its server is dead: below those that the system gives to clients."""
    return next(port for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100) if port_is_free(port))


def _kept(stack: Stack) -> dict[str, str]:
    """Ids of ingest and forecast; the other deployments go, whose runs would only take the machine's time."""
    name = stack.place.products[0].name
    ids = {flow: stack.server.call(f"/deployments/name/{flow}/{name}")["id"] for flow in ("ingest", "forecast")}
    for one in stack.server.call("/deployments/filter", {}):
        if one["id"] not in ids.values():
            stack.server.call(f"/deployments/{one['id']}", method="DELETE")
    return ids


@contextmanager
def running(site: Site) -> Iterator[Stack]:
    workspace = load(site.config).paths.root
    product = Product(load(site.config).product.name, site.config)
    place = Place((product,), workspace, "sqlite:", _port(), _port())
    stack = Stack(site, place, Server(place.api, patience=10))
    environment = {EVERY: BEAT, "CUBECAST_TRACKING__URI": "", "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false"}

    def service(name: str, *command: str) -> Service:
        return place.service(name, *command, environment=environment)

    workspace.mkdir(parents=True, exist_ok=True)
    children = site.children
    try:
        prefect = service("prefect", *prefect_command(place))
        children.start(prefect)
        children.wait_for(prefect, f"{place.api}/health", PATIENCE)
        for pool in ("cpu", "gpu"):
            _create_pool(stack.server, pool)
        deploy = replace(_deploy(place, product), ends=True)
        children.start(deploy)
        children.finish(deploy)
        stack.deployments = _kept(stack)
        for name in ("a", "b"):
            command = (
                "prefect",
                "worker",
                "start",
                "--pool",
                "cpu",
                "--type",
                "process",
                "--limit",
                "2",
                "--name",
                name,
            )
            children.start(replace(service(f"worker-{name}", *command), outlived=True))
        children.start(service("sweeper", "flows.sweeper"))
        yield stack
    finally:
        children.stop([one for one in children.running if one.name != "prefect"], 5)
        children.stop(children.running, 5)
