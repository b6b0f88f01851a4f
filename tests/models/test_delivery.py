"""A server in memory that breaks off before or after any call: in the end it holds everything, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from models.delivery import GROUP, Number, RefusedError, deliver
from models.journal import Status
from models.trainings import Registered, Training, Trainings


class BrokenOffError(Exception):
    pass


@dataclass
class Server:
    """MLflow's tables. Call number ``fatal`` breaks off: before it takes effect, or ``late``, after.

    ``echo``: a call that breaks off late takes effect twice, as when a request is repeated to a server that hangs.
    """

    fatal: int = -1
    late: bool = False
    echo: bool = False
    calls: int = 0
    made: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    metrics: set[tuple[str, Number]] = field(default_factory=set)
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    registered_versions: list[str] = field(default_factory=list)
    champion: str | None = None

    def call(self, effect: Callable[[], Any]) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if number != self.fatal:
            return effect()
        for _ in range(self.late * (1 + self.echo)):
            effect()
        raise BrokenOffError

    def stage(self, run: str) -> str:
        return self.call(lambda: "deleted" if run in self.deleted else "active" if run in self.made else "")

    def runs(self, training: Training) -> list[str]:
        live = [run for run, name in self.made.items() if name == training.id and run not in self.deleted]
        return self.call(lambda: sorted(live))

    def make_run(self, training: Training, name: str) -> str:
        def make() -> str:
            run = f"run {len(self.made)}"
            self.made[run] = training.id
            self.tags["name"] = name
            self.statuses[run] = Status.RUNNING
            return run

        return self.call(make)

    def delete_run(self, run: str) -> None:
        self.call(lambda: self.deleted.add(run))

    def log_metrics(self, run: str, metrics: Sequence[Number]) -> None:
        self.call(lambda: self.metrics.update((run, one) for one in metrics))

    def log_parameters(self, run: str, values: Mapping[str, str]) -> None:
        self.call(lambda: self.parameters.update(values))

    def set_tag(self, run: str, key: str, text: str) -> None:
        self.call(lambda: self.tags.update({key: text}))

    def log_artifact(self, run: str, path: Path, folder: str) -> None:
        self.call(lambda: self.artifacts.update({f"{folder}/{path.name}": path.read_text()}))

    def set_status(self, run: str, status: Status, time: int) -> None:
        self.call(lambda: self.statuses.update({run: status}))

    def log_model(self, run: str, path: Path) -> str:
        def log() -> str:
            if not self.models:
                self.models.append(path.read_text())
            return "model"

        return self.call(log)

    def versions(self, run: str) -> list[str]:
        return self.call(lambda: sorted(self.registered_versions))

    def make_version(self, run: str, model: str, hashes: Mapping[str, str]) -> Registered:
        def make() -> Registered:
            version = str(len(self.registered_versions) + 1)
            self.registered_versions.append(version)
            return Registered("product", version, run, champion=False)

        return self.call(make)

    def champion_serves(self) -> bool:
        return self.champion_version() is not None

    def champion_version(self) -> str | None:
        return self.call(lambda: self.champion)

    def registered(self, run: str, version: str, *, promote: bool) -> Registered:
        def tell() -> Registered:
            self.champion = version if promote else self.champion
            return Registered("product", version, run, champion=self.champion == version)

        return self.call(tell)

    def delete_model_doubles(self, run: str, kept: str) -> None:
        self.call(lambda: self.registered_versions.__setitem__(slice(None), [kept]))


class Model:
    def save(self, path: Path) -> None:
        path.write_text("weights")


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """A training with an entry of every kind, interrupted once."""
    with Trainings(tmp_path).begin("snapshot", "settings") as training:
        journal = training.journal
        journal.status(Status.RUNNING, name="train")
        journal.parameters({"batch": 4})
        journal.metrics({"loss": 1.0, "skill": 0.0}, 0)
        journal.status(Status.KILLED, note="stopped")
        journal.status(Status.RUNNING, name="train")
        journal.parameters({"batch": 8})
        for step in (1, 2):
            journal.metrics({"loss": 1.0}, step)
        (tmp_path / "map.txt").write_text("map")
        journal.artifact(tmp_path / "map.txt", "maps")
        journal.model(Model(), {"bands": []}, good=True)
        journal.status(Status.FINISHED)
    return training


def summary(server: Server) -> dict[str, Any]:
    """What a person sees in MLflow."""
    (run,) = server.made.keys() - server.deleted
    return {
        "metrics": sorted((one.key, one.step, one.value) for where, one in server.metrics if where == run),
        "parameters": server.parameters,
        "tags": server.tags,
        "artifacts": server.artifacts,
        "status": server.statuses[run],
        "versions": server.registered_versions,
        "models": server.models,
        "champion": server.champion,
    }


WHOLE = {
    "metrics": [("loss", 0, 1.0), ("loss", 1, 1.0), ("loss", 2, 1.0), ("skill", 0, 0.0)],
    "parameters": {"batch": "4"},
    "tags": {"name": "train", "cubecast.changed.batch": "8", "cubecast.ended": "stopped"},
    "artifacts": {"maps/map.txt": "map", "card/card.json": '{\n  "bands": []\n}\n'},
    "status": Status.FINISHED,
    "versions": ["1"],
    "models": ["weights"],
    "champion": "1",
}


def test_everything_arrives(training: Training) -> None:
    server = Server()
    deliver(server, training)
    assert summary(server) == WHOLE
    assert training.delivered.registered == Registered("product", "1", "run 0", champion=True)
    assert training.waiting == 0


@pytest.mark.parametrize(("late", "echo"), [(False, False), (True, False), (True, True)])
def test_wherever_a_delivery_breaks_off_the_next_one_completes_it_once(
    training: Training, *, late: bool, echo: bool
) -> None:
    whole = Server()
    deliver(whole, training)
    for fatal in range(whole.calls):
        (training.folder / "delivered.json").unlink()
        server = Server(fatal, late, echo)
        with suppress(BrokenOffError):
            deliver(server, training)
            pytest.fail(f"call {fatal} breaks off")
        deliver(server, training)
        assert summary(server) == WHOLE
        assert training.waiting == 0


def test_what_is_delivered_is_sent_no_more(training: Training) -> None:
    server = Server()
    deliver(server, training)
    calls = server.calls
    training.journal.metrics({"late": 1.0}, 0)
    deliver(server, training)
    assert server.calls == calls + 2  # is the run there, and the number


def test_another_server_is_told_everything(training: Training) -> None:
    deliver(Server(), training)
    training.journal.metrics({"skill": 1.0}, 1)
    other = Server()
    deliver(other, training)
    assert summary(other) == WHOLE | {"metrics": [*WHOLE["metrics"], ("skill", 1, 1.0)]}


def test_a_run_that_somebody_deleted_stays_deleted(training: Training) -> None:
    server = Server()
    deliver(server, training)
    server.delete_run("run 0")
    training.journal.metrics({"late": 1.0}, 0)
    with pytest.raises(RefusedError, match="run 0 was deleted in MLflow: restore it"):
        deliver(server, training)
    assert training.waiting == 1


def test_numbers_travel_in_groups(tmp_path: Path) -> None:
    with Trainings(tmp_path).begin("snapshot", "settings") as training:
        for step in range(3 * GROUP):
            training.journal.metrics({"loss": 1.0}, step)
    server = Server()
    deliver(server, training)
    assert len(server.metrics) == 3 * GROUP
    assert server.calls == 2 + 3  # the run looked for and made, then the groups


def test_a_bad_model_and_a_later_one_are_no_champions(training: Training, tmp_path: Path) -> None:
    server = Server()
    with Trainings(tmp_path).begin("snapshot", "settings") as bad:
        bad.journal.model(Model(), {}, good=False)
    deliver(server, bad)
    assert server.champion is None
    server.champion = "7"
    deliver(server, training)
    assert server.champion == "7"
