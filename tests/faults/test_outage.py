"""MLflow dies, hangs, comes back or never was there: trainings go on unhindered, and in the end it knows all, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.tracking_cli import app
from models.courier import recorded
from models.journal import Status
from models.registry import TAG, Registry, open_registry
from models.trainings import Training, Trainings
from pipeline.config import Settings, load
from tests.faults.mlflow_server import HOST, PATIENCE, Server
from tests.faults.record import record, tries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(sys.platform != "linux", reason="stops process groups"),
]

ROOT = Path(__file__).parents[2]
STEPS = 200
PAUSE = 0.1  # seconds from step to step
PARAMETERS = {f"setting.{number}": number / 7 for number in range(120)}

PRODUCT = """
workspace = "work"
[product]
name = "tiny"
[scenes]
folder = "inbox"
[[bands]]
name = "reflectance"
dtype = "uint16"
[grid]
crs = "EPSG:32633"
transform = [10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0]
width = 4
height = 4
[axis]
origin = "2024-01-01T00:00:00Z"
cadence = "PT5M"
[tracking]
uri = "http://127.0.0.1:{port}"
"""

# A folder of a configuration and a number of steps: trains that far in all, and prints each step.
TRAINING = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from models.courier import recorded
from models.registry import open_registry
from models.trainings import Trainings
from pipeline.config import load

settings, steps = load(Path(sys.argv[1])), int(sys.argv[2])
trainings = Trainings(settings.paths.trainings)
trainings.sweep()
left = trainings.interrupted()
with ExitStack() as stack:
    training = stack.enter_context(trainings.resume(left[0].id) if left else trainings.begin("snapshot", "settings"))
    told = stack.enter_context(recorded(open_registry(settings, now=False), training, "train"))
    for step in range(steps):
        told.metrics({"loss": 1 / (step + 1)}, step)
        print(step, flush=True)
        time.sleep(0.05)
"""

# A line is a configuration: all that waits there is delivered by a process of its own, whose number is the answer.
NURSERY = """
import os, signal, sys, traceback
from pathlib import Path
from models.registry import open_registry
from models.trainings import Trainings
from pipeline.config import load

settings = load(Path(sys.argv[1]))
open_registry(settings, now=False).expect_model()
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)
        continue
    try:
        registry = open_registry(settings, now=False)
        for one in Trainings(settings.paths.trainings).waiting():
            registry.deliver(one)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", HOST)
    monkeypatch.setenv("no_proxy", HOST)
    made = Server(tmp_path / "server")
    yield made
    made.kill()


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "product.toml"
    path.write_text(PRODUCT.replace("{port}", str(server.port)))
    return path


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a tiny Keras model."""
    import keras

    path = tmp_path_factory.mktemp("network") / "model.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    return path


@dataclass(frozen=True)
class Model:
    """A trained model, and the card of it."""

    path: Path

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.path.read_bytes())

    def to_json(self) -> dict[str, Any]:
        return {"bands": ["reflectance"]}


@dataclass
class Loop:
    """A training without a network: what it noted, and how long it took."""

    slowest: float = 0.0
    wall: float = 0.0

    def run(self, told: Any, events: Sequence[tuple[int, Callable[[], None]]] = ()) -> None:
        start = time.monotonic()
        told.parameters(PARAMETERS)
        for step in range(STEPS):
            before = time.thread_time()
            told.metrics({"loss": 1 / (step + 1), "skill": step / 7}, step)
            self.slowest = max(self.slowest, time.thread_time() - before)
            for when, event in events:
                if when == step:
                    event()
            time.sleep(PAUSE)
        self.wall = time.monotonic() - start

    def check(self) -> None:
        assert self.slowest < 0.05
        assert self.wall < 1.2 * STEPS * PAUSE


def faults_of(registry: Registry, training: Training, steps: int = STEPS, status: str = "FINISHED") -> list[str]:
    """What of a training MLflow does not hold, or holds twice."""
    client = registry.client
    runs = client.search_runs([registry.experiment], f"tags.`{TAG}` = '{training.id}'")
    if len(runs) != 1:
        return [f"{len(runs)} runs"]
    run = runs[0].info.run_id
    found = {key: client.get_metric_history(run, key) for key in runs[0].data.metrics}
    said = sorted((one.step, one.value) for one in found.get("loss", ()))
    faults = [] if said == [(step, 1 / (step + 1)) for step in range(steps)] else [f"losses {said}"]
    for key, history in found.items():
        if sorted(one.step for one in history) != list(range(len(history))):
            faults.append(f"{key} at {[one.step for one in history]}")
    if runs[0].info.status != status:
        faults.append(f"status {runs[0].info.status}")
    return faults


def faults_of_all(registry: Registry, training: Training) -> list[str]:
    """The same with parameters, files and the model."""
    faults = faults_of(registry, training)
    if faults:
        return faults
    client, run = registry.client, registry.client.get_run(training.delivered.run_id)
    files = {one.path for folder in ("maps", "card") for one in client.list_artifacts(run.info.run_id, folder)}
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    models = client.search_logged_models([registry.experiment], f"source_run_id = '{run.info.run_id}'")
    outputs = run.outputs.model_outputs if run.outputs else []
    whole = {
        "parameters": run.data.params == {key: str(value) for key, value in PARAMETERS.items()},
        "files": files == {"maps/map.txt", "card/card.json"},
        "versions": [one.run_id for one in versions] == [run.info.run_id],
        "models": [str(one.status) for one in models] == ["READY"],
        "outputs": [one.model_id for one in outputs] == [one.model_id for one in models],
    }
    return [name for name, right in whole.items() if not right]


def close(told: Any, model: Model, folder: Path) -> None:
    (folder / "map.txt").write_text("map")
    told.artifact(folder / "map.txt", "maps")
    told.register(model, model, good=True)


def sync(config: Path) -> Any:
    done = CliRunner().invoke(app, ["sync", "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def trainings_of(config: Path) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["status", "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["trainings"]


def test_a_server_that_is_killed_and_comes_back_knows_everything_at_the_end(
    server: Server, config: Path, settings: Settings, network: Path, tmp_path: Path
) -> None:
    server.start()
    server.wait()
    registry, loop, notices = open_registry(settings), Loop(), list[str]()
    registry.expect_model()
    with Trainings(settings.paths.trainings).begin("snapshot", "settings") as training:
        with recorded(registry, training, "train", notice=notices.append) as told:
            loop.run(told, [(50, server.kill), (80, server.start)])
            server.wait()
            close(told, Model(network), tmp_path)
        if training.waiting:  # the courier was in a long pause
            sync(config)
        faults = faults_of_all(registry, training)
    record("MLflow outage", "killed mid-run, back before the end", 1, len(faults), f"{loop.slowest * 1e3:.1f} ms CPU")
    assert not faults
    loop.check()
    assert len(notices) == 1
    (model,) = registry.client.search_model_versions("name = 'tiny'")
    assert registry.champion_version() == str(model.version)


def test_a_server_that_comes_after_the_end_is_told_by_a_sync(
    server: Server, config: Path, settings: Settings, network: Path, tmp_path: Path
) -> None:
    registry, loop = open_registry(settings, now=False), Loop()
    with (
        Trainings(settings.paths.trainings).begin("snapshot", "settings") as training,
        recorded(registry, training, "train", notice=lambda _: None) as told,
    ):
        loop.run(told)
        close(told, Model(network), tmp_path)
    loop.check()
    assert told.registered is None
    (before,) = trainings_of(config)
    assert (before["state"], before["model"]) == ("finished", "")
    assert before["waiting"] > STEPS
    assert CliRunner().invoke(app, ["sync", "--config", str(config)]).exit_code == 1
    server.start()
    server.wait()
    (sent,) = sync(config)["sent"]
    assert (sent["entries"], sent["model"], sent["champion"]) == (before["waiting"], "tiny 1", True)
    assert sync(config)["sent"] == []
    (after,) = trainings_of(config)
    assert (after["waiting"], after["model"]) == (0, "tiny 1")
    faults = faults_of_all(registry, training)
    record("MLflow outage", "never there, back after the end", 1, len(faults), f"{loop.slowest * 1e3:.1f} ms CPU")
    assert not faults


@pytest.mark.parametrize("stopped", [0, 60], ids=["from the start", "mid-run"])
def test_a_server_that_hangs_delays_nothing(
    server: Server, config: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    server.start()
    server.wait()
    registry, loop = open_registry(settings), Loop()
    events = [(stopped, lambda: server.signal(signal.SIGSTOP)), (170, lambda: server.signal(signal.SIGCONT))]
    with Trainings(settings.paths.trainings).begin("snapshot", "settings") as training:
        with recorded(registry, training, "train", notice=lambda _: None) as told:
            loop.run(told, events)
        if training.waiting:
            sync(config)
        faults = faults_of(registry, training)
    record("MLflow outage", f"hangs from step {stopped} on", 1, len(faults), f"{loop.slowest * 1e3:.1f} ms CPU")
    assert not faults
    loop.check()


def test_a_process_that_hangs_on_its_server_ends_in_time(server: Server, settings: Settings, config: Path) -> None:
    server.start()
    server.wait()
    server.signal(signal.SIGSTOP)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(config), "20"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 30 + 60  # the drain, and the imports
    assert "Traceback" not in done.stderr
    assert done.stderr.count("does not answer") <= 1
    server.signal(signal.SIGCONT)
    time.sleep(2)
    sync(config)
    (training,) = Trainings(settings.paths.trainings).all()
    faults = faults_of(open_registry(settings), training, 20)
    record("MLflow outage", "hangs all the time", 1, len(faults))
    assert not faults


def test_a_killed_training_is_told_killed_and_goes_on_in_its_run(
    server: Server, config: Path, settings: Settings
) -> None:
    server.start()
    server.wait()
    command = [sys.executable, "-c", TRAINING, str(config), "40"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while int(process.stdout.readline()) < 20:
            pass
        process.kill()
    assert [one["state"] for one in trainings_of(config)] == ["interrupted"]
    done = sync(config)
    (training,) = Trainings(settings.paths.trainings).all()
    assert done["died"] == [training.id]
    registry = open_registry(settings)
    run = registry.client.get_run(training.delivered.run_id)
    assert (run.info.status, run.data.tags["cubecast.ended"]) == ("KILLED", "its process died")
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=200)
    sync(config)
    assert training.delivered.run_id == run.info.run_id
    faults = faults_of(registry, training, 40)
    record("MLflow outage", "training killed and resumed", 1, len(faults))
    assert not faults


@contextmanager
def nursery(config: Path, said: Path) -> Iterator[subprocess.Popen[str]]:
    with (
        said.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(config)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield process


def deliver_for(process: subprocess.Popen[str], seconds: float) -> bool:
    """Has what waits delivered, and kills that after some time; whether it had not ended by then."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    child, killed = int(process.stdout.readline()), False
    with suppress(ProcessLookupError):
        if seconds < PATIENCE:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            killed = True
    assert process.stdout.readline() == "ended\n"
    return killed


def a_finished_training(settings: Settings, network: Path, folder: Path) -> Training:
    with Trainings(settings.paths.trainings).begin("snapshot", "settings") as training:
        journal, model = training.journal, Model(network)
        journal.status(Status.RUNNING, name="train")
        journal.parameters(PARAMETERS)
        for step in range(STEPS):
            journal.metrics({"loss": 1 / (step + 1), "skill": step / 7}, step)
        close(_Told(training), model, folder)
        journal.status(Status.FINISHED)
    return training


@dataclass(frozen=True)
class _Told:
    training: Training

    def artifact(self, path: Path, folder: str) -> None:
        self.training.journal.artifact(path, folder)

    def register(self, model: Model, card: Model, *, good: bool) -> None:
        self.training.journal.model(model, card.to_json(), good=good)


def test_a_courier_that_is_killed_at_any_moment_leaves_nothing_twice(
    server: Server, config: Path, settings: Settings, network: Path, tmp_path: Path
) -> None:
    server.start()
    server.wait()
    registry, dice = open_registry(settings), random.Random(4)
    faults, kills = list[str](), 0
    with nursery(config, tmp_path / "said.txt") as process:
        a_finished_training(settings, network, tmp_path)
        deliver_for(process, PATIENCE)  # the first one also makes experiment and model
        a_finished_training(settings, network, tmp_path)
        start = time.monotonic()
        deliver_for(process, PATIENCE)
        whole = time.monotonic() - start
        for _ in range(tries(60, 6)):
            training = a_finished_training(settings, network, tmp_path)
            while training.waiting:
                kills += deliver_for(process, dice.uniform(0, 1.2 * whole))
            faults += faults_of_all(registry, training)
        assert process.stdin
        process.stdin.close()
    assert not (tmp_path / "said.txt").read_text().count("Traceback")
    assert kills > tries(60, 6) // 2
    record("MLflow outage", "courier killed", kills, len(faults), f"a delivery takes {whole:.1f} s")
    assert not faults
