"""`cubecast up`, from the terminal of the person who schedules and triggers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import pytest
import rasterio

from flows.children import port_is_free
from flows.stack import DEMO, HISTORY, _create_pool, _welcome, _worker, check_ports, find_place
from pipeline.config import load
from pipeline.errors import ConfigError, ServiceError

BIN = Path(sys.executable).parent


def test_without_a_demo_the_user_hears_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"work/demo/product\.toml.*make demo.*--config FILE"):
        find_place([DEMO])


def test_a_taken_port_is_named_with_the_setting_that_changes_it(
    product: Path, monkeypatch: pytest.MonkeyPatch, free_ports: tuple[int, int]
) -> None:
    monkeypatch.setenv("CUBECAST_SERVICES__PREFECT_PORT", str(free_ports[0]))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("CUBECAST_SERVICES__MLFLOW_PORT", str(port))
        with pytest.raises(ServiceError, match=rf"services\.mlflow_port = {port}: .*CUBECAST_SERVICES__MLFLOW_PORT"):
            check_ports(find_place([product]))


def test_two_servers_need_two_ports(
    product: Path, monkeypatch: pytest.MonkeyPatch, free_ports: tuple[int, int]
) -> None:
    monkeypatch.setenv("CUBECAST_SERVICES__MLFLOW_PORT", str(free_ports[0]))
    monkeypatch.setenv("CUBECAST_SERVICES__PREFECT_PORT", str(free_ports[0]))
    with pytest.raises(ServiceError, match="are two ports"):
        check_ports(find_place([product]))


def test_several_products_share_the_servers_of_the_first(product: Path, tmp_path: Path) -> None:
    second = tmp_path / "second" / "product.toml"
    second.parent.mkdir()
    text = product.read_text(encoding="utf-8")
    name = load(product).product.name
    second.write_text(text.replace(f'name = "{name}"', 'name = "other"', 1), encoding="utf-8")
    place = find_place([product, second])
    assert [one.name for one in place.products] == [name, "other"]
    assert place.workspace == load(product).paths.root
    looks = [line for line in _welcome(place).splitlines() if line.startswith("Models")]
    assert [f"CUBECAST_TRACKING__URI={place.mlflow} " in line for line in looks] == [False, True]
    assert looks[1].endswith(f"models list --config {second}")


def test_products_that_share_servers_have_names_of_their_own(product: Path) -> None:
    with pytest.raises(ConfigError, match=r"names of their own.*\[product\] name"):
        find_place([product, product])


@pytest.mark.parametrize("products", [1, 3, 8])
def test_ingests_that_watch_their_inboxes_leave_two_places_for_other_runs(product: Path, products: int) -> None:
    one = find_place([product])
    command = _worker(replace(one, products=one.products * products), "cpu").command
    assert int(command[command.index("--limit") + 1]) == products + 2


def test_trainings_take_turns(product: Path) -> None:
    one = find_place([product])
    command = _worker(replace(one, products=one.products * 3), "gpu").command
    assert command[command.index("--limit") + 1] == "1"


@pytest.mark.parametrize(("pool", "begins"), [("cpu", f"{sys.executable} "), ("gpu", "nice -n 10 ")])
def test_trainings_leave_the_processors_to_forecasts(pool: str, begins: str) -> None:
    told: list[Any] = []
    _create_pool(SimpleNamespace(call=lambda _path, body: told.append(body)), pool)  # type: ignore[arg-type]
    assert told[0]["base_job_template"]["job_configuration"]["command"].startswith(begins)


def test_the_users_own_prefect_account_has_no_say(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api")
    place = find_place([product])
    environment = place.service("prefect", "prefect").environment
    assert "PREFECT_API_KEY" not in environment
    assert environment["PREFECT_API_URL"] == place.api
    assert Path(environment["PREFECT_HOME"]).is_relative_to(place.workspace)


def server_settings(environment: Mapping[str, str]) -> list[Any]:
    """What Prefect itself reads of an environment: kinds that are deleted, days of runs, days of events."""
    read = """
import json
from prefect.settings import get_current_settings
server = get_current_settings().server
vacuum = server.services.db_vacuum
kinds = sorted(vacuum.enabled_vacuum_types)
print(json.dumps([kinds, vacuum.retention_period.days, server.events.retention_period.days]))
"""
    command = (sys.executable, "-c", read)
    return json.loads(subprocess.run(command, env=dict(environment), capture_output=True, check=True).stdout)


def test_prefects_database_forgets_old_runs_and_events(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HISTORY:
        monkeypatch.delenv(name, raising=False)
    environment = find_place([product]).service("prefect", "prefect").environment
    assert server_settings(environment) == [["events", "flow_runs", "orphans"], 14, 2]


def test_the_user_says_how_long_history_is_kept(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "orphans")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD", "P30D")
    monkeypatch.setenv("PREFECT_SERVER_EVENTS_RETENTION_PERIOD", "P5D")
    environment = find_place([product]).service("prefect", "prefect").environment
    assert server_settings(environment) == [["orphans"], 30, 5]


def test_a_proxy_is_not_asked_for_this_machine(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    environment = find_place([product]).service("prefect", "prefect").environment
    assert environment["no_proxy"] == environment["NO_PROXY"] == "example.org,127.0.0.1"


def test_workers_record_to_our_mlflow_and_to_another_where_one_is_configured(
    product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = find_place([product])
    assert ours.serves_mlflow
    assert ours.service("worker", "prefect").environment["CUBECAST_TRACKING__URI"] == ours.mlflow
    monkeypatch.setenv("CUBECAST_TRACKING__URI", "http://mlflow.example.org")
    theirs = find_place([product])
    assert not theirs.serves_mlflow
    assert theirs.mlflow == "http://mlflow.example.org"
    assert set(theirs.ports) == {"prefect_port"}


def test_our_mlflow_serves_the_database_that_the_commands_write(product: Path) -> None:
    from models.registry import tracking_uri

    assert find_place([product]).tracking == tracking_uri(load(product))


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where a user types."""

    product: Path
    ports: tuple[int, int]

    @property
    def environment(self) -> dict[str, str]:
        prefect, mlflow = self.ports
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CUBECAST_"))}
        return kept | {
            "CUBECAST_SERVICES__PREFECT_PORT": str(prefect),
            "CUBECAST_SERVICES__MLFLOW_PORT": str(mlflow),
            "CUBECAST_SAMPLES__HORIZON": "2",
            "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
            "PREFECT_HOME": str(self.product.parent / "user"),
        }

    @property
    def screen(self) -> Path:
        return self.product.parent / "up.txt"

    def run(self, *command: str) -> str:
        done = subprocess.run(
            (BIN / command[0], *command[1:]),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """What another `cubecast up` says, on ports of its own."""
        own = {"CUBECAST_SERVICES__PREFECT_PORT": "4991", "CUBECAST_SERVICES__MLFLOW_PORT": "4992"}
        command = (BIN / "cubecast", "up", *arguments)
        done = subprocess.run(
            command, env=self.environment | own, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode not in (0, None)
        return " ".join((done.stdout + done.stderr).split())

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        command = (BIN / "cubecast", "up", "--config", self.product)
        with self.screen.open("wb") as screen:
            process = subprocess.Popen(command, env=self.environment, stdout=screen, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)

    def prefect(self, process: subprocess.Popen[bytes]) -> int:
        """The first child of `cubecast up`."""
        return min(pid for pid, parent in processes().items() if parent == process.pid)

    def await_answer(self, path: str) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError):
                return self.ask(self.ports[0], path)
            time.sleep(0.5)
        pytest.fail("the server did not come back")

    def await_welcome(self, process: subprocess.Popen[bytes]) -> str:
        return self.await_words(process, "Ctrl-C stops everything")

    def await_words(self, process: subprocess.Popen[bytes], words: str) -> str:
        while words not in (text := self.screen.read_text(encoding="utf-8")):
            assert process.poll() is None, text
            time.sleep(0.2)
        return text

    def ask(self, port: int, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def await_scheduled(self, flows: set[str]) -> None:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            runs = self.ask(self.ports[0], "/api/flow_runs/filter", wanted)
            found = {self.ask(self.ports[0], f"/api/flows/{run['flow_id']}")["name"] for run in runs}
            if flows <= found:
                return
            time.sleep(1)
        pytest.fail(f"nobody has scheduled {flows - found}")


@pytest.fixture
def terminal(product: Path, free_ports: tuple[int, int]) -> Terminal:
    return Terminal(product, free_ports)


def processes() -> dict[int, int]:
    """Parent of every process that has not ended."""
    listing = subprocess.run(("ps", "-eo", "pid=,ppid=,stat="), capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in listing.splitlines())
    return {int(child): int(parent) for child, parent, state in lines if not state.startswith("Z")}


def descendants(pid: int) -> set[int]:
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.slow
@pytest.mark.server
def test_a_user_starts_everything_triggers_a_forecast_and_stops_everything_twice(terminal: Terminal) -> None:
    terminal.run("cubecast", "ingest", "--config", str(terminal.product))
    with terminal.up() as process:
        text = terminal.await_welcome(process)
        assert f"http://127.0.0.1:{terminal.ports[0]}" in text
        assert f"http://127.0.0.1:{terminal.ports[1]}" in text
        terminal.run("prefect", "deployment", "run", "forecast/small", "--param", 'init="2024-06-01T06:40"', "--watch")
        (first,) = load(terminal.product).paths.forecasts.rglob("20240601T0640Z/*/lead-0005m.tif")
        with rasterio.open(first) as file:
            assert (file.width, file.height, file.crs.to_epsg()) == (96, 96, 32633)
        terminal.await_scheduled({"ingest", "forecast", "verify"})
        assert terminal.ask(terminal.ports[1], "/api/2.0/mlflow/experiments/search?max_results=5")["experiments"]
        assert "rung" not in json.loads((first.parent / "run.json").read_text())  # the flow has asked MLflow as well
        started = descendants(process.pid)
        assert len(started) >= 4
        text = terminal.await_words(process, "First forecast of small, from what was known at 2024-06-01 06:40 UTC")
        assert str(first.parent) in text
        assert "stop it, or choose another workspace" in terminal.refused("--config", str(terminal.product))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not started & set(processes())
        assert all(map(port_is_free, terminal.ports))
    with terminal.up() as process:
        terminal.await_welcome(process)
        first = descendants(process.pid)
        os.kill(terminal.prefect(process), signal.SIGKILL)
        terminal.await_words(process, "prefect stopped with exit code -9; it starts again in 1 s")
        terminal.await_answer("/api/health")
        started = descendants(process.pid) | first
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not started & set(processes())
        assert all(map(port_is_free, terminal.ports))
