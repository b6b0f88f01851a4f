from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from models import courier
from models.courier import recorded
from models.journal import Kind, Status
from models.trainings import Delivered, State, Training, Trainings
from pipeline.errors import CubecastError, Interrupted, ModelError, ServiceError


class Cancellation(BaseException):
    """As Prefect's."""


@dataclass
class Listener:
    """Takes what waits; first it does not answer ``deaf`` times, or hangs until ``awake``."""

    deaf: int = 0
    awake: Event = field(default_factory=Event)
    patience: float = 5.0
    heard: list[str] = field(default_factory=list)
    tries: int = 0
    expected: int = 0

    def __post_init__(self) -> None:
        self.awake.set()

    def expect_model(self) -> None:
        self.expected += 1

    def deliver(self, training: Training) -> None:
        self.tries += 1
        self.awake.wait(30)
        if self.tries <= self.deaf:
            raise ServiceError("MLflow at http://nowhere does not answer: many more words")
        known = training.delivered
        for entry in training.journal.entries(known.position):
            self.heard.append(f"{training.id} {entry.kind} {entry.content.get('status', '')}".strip())
            known = Delivered("run", entry.end)
        training.note_delivered(known)


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(tmp_path / "trainings")


@pytest.fixture
def training(trainings: Trainings) -> Iterator[Training]:
    with trainings.begin("snapshot", "settings") as made:
        yield made


def wait_until(true: object, patience: float = 10) -> None:
    end = time.monotonic() + patience
    while not (true() if callable(true) else true):
        assert time.monotonic() < end
        time.sleep(0.01)


def last(training: Training) -> tuple[str, str]:
    said = training.journal.statuses()[-1].content
    return said["status"], said.get("note", "")


def test_everything_is_delivered_at_the_end(training: Training, tmp_path: Path) -> None:
    listener = Listener()
    (tmp_path / "map.txt").write_text("map")
    with recorded(listener, training, "train") as record:
        record.parameters({"batch": 4})
        record.metrics({"loss": 1.0}, 0)
        record.artifact(tmp_path / "map.txt", "maps")
        assert last(training) == ("RUNNING", "")
    assert training.waiting == 0
    kinds = [line.split()[1] for line in listener.heard]
    assert {"status", "parameters", "metrics", "artifact"} <= set(kinds)
    assert listener.heard[0].endswith("status RUNNING")
    assert listener.heard[-1].endswith("status FINISHED")
    assert any(
        "system/cpu_utilization_percentage" in entry.content["values"]
        for entry in training.journal.entries()
        if entry.kind is Kind.METRICS
    )


def test_news_travel_while_the_training_goes_on(training: Training) -> None:
    listener = Listener()
    with recorded(listener, training, "train") as record:
        record.metrics({"loss": 1.0}, 0)
        wait_until(lambda: any("metrics" in line for line in listener.heard))


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (Interrupted("stopped at step 3 of 9 on SIGTERM"), Status.KILLED, "stopped at step 3 of 9 on SIGTERM"),
        (KeyboardInterrupt(), Status.KILLED, "KeyboardInterrupt"),
        (SystemExit(143), Status.KILLED, "143"),
        (Cancellation(), Status.KILLED, "Cancellation"),
        (ModelError("losses stay finite\nbut"), Status.FAILED, "losses stay finite"),
        (MemoryError(), Status.FAILED, "MemoryError"),
    ],
)
def test_the_last_status_says_how_it_ended(
    trainings: Trainings, error: BaseException, status: Status, note: str
) -> None:
    listener = Listener()
    with (
        pytest.raises(type(error)),
        trainings.begin("snapshot", "settings") as training,
        recorded(listener, training, "train"),
    ):
        raise error
    assert last(training) == (status, note)
    assert listener.heard[-1].endswith(f"status {status}")
    assert training.state is (State.INTERRUPTED if status is Status.KILLED else State.FAILED)


def test_an_outage_is_told_once_and_ends_by_itself(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "PAUSE", 0.01)
    listener, notices = Listener(deaf=3), []
    with recorded(listener, training, "train", notice=notices.append) as record:
        for step in range(5):
            record.metrics({"loss": 1.0}, step)
        wait_until(lambda: listener.tries > 3)
    (line,) = notices
    begin = "MLflow at http://nowhere does not answer; the training goes on, its record waits in"
    assert line == f"{begin} {training.folder}: cubecast tracking sync"
    assert training.waiting == 0


def test_without_a_notice_the_log_warns(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    with recorded(Listener(deaf=99), training, "train"):
        pass
    assert [one.levelname for one in caplog.records] == ["WARNING"]


def test_who_never_listens_loses_nothing_and_stops_nothing(training: Training) -> None:
    listener = Listener(deaf=10**9)
    with recorded(listener, training, "train", notice=lambda _: None) as record:
        record.metrics({"loss": 1.0}, 0)
    assert record.registered is None
    assert training.state is State.RUNNING  # this process still has it
    assert last(training) == ("FINISHED", "")
    assert training.waiting == len(list(training.journal.entries()))
    listener.deaf = 0
    listener.deliver(training)
    assert training.waiting == 0


def test_who_hangs_delays_no_step_and_the_end_by_the_patience_alone(training: Training) -> None:
    listener = Listener(patience=0.3)
    listener.awake.clear()
    start = time.monotonic()
    with recorded(listener, training, "train", notice=lambda _: None) as record:
        for step in range(20):
            record.metrics({"loss": 1.0}, step)
        assert time.monotonic() - start < 2
    assert time.monotonic() - start < 4
    assert training.waiting
    listener.awake.set()
    wait_until(lambda: not training.waiting)


def test_other_trainings_are_delivered_once(trainings: Trainings, training: Training) -> None:
    with trainings.begin("snapshot", "settings") as other:
        other.journal.status(Status.KILLED)
    listener = Listener()
    with recorded(listener, training, "train", others=[other]):
        wait_until(lambda: not other.waiting)
    assert listener.heard.count(f"{other.id} status KILLED") == 1
    assert listener.expected == 0


def test_a_model_is_kept_before_anybody_listens(training: Training) -> None:
    class Model:
        def save(self, path: Path) -> None:
            path.write_text("weights")

    class Card:
        def to_json(self) -> dict[str, str]:
            return {}

    card: object = Card()
    listener = Listener(deaf=10**9)
    with recorded(listener, training, "train", notice=lambda _: None) as record:
        record.register(Model(), card, good=True)  # pyright: ignore[reportArgumentType] - a card without a network
    assert training.has_model_waiting
    assert training.journal.model_file.read_text() == "weights"
    assert listener.expected == 1


def test_a_full_disk_stops_a_training_with_its_own_words(training: Training) -> None:
    def run() -> None:
        with recorded(Listener(), training, "train", notice=lambda _: None) as record:
            training.journal.path.unlink()
            training.journal.path.mkdir()  # no line can be written any more
            record.metrics({"loss": 1.0}, 0)

    with pytest.raises(CubecastError, match="record is on the disk"):
        run()
