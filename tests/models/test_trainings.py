from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from models.journal import Status
from models.trainings import Delivered, Registered, State, Training, Trainings
from pipeline.errors import ModelError

HOLDER = """
import sys, time
from pathlib import Path
from models.journal import Status
from models.trainings import Trainings

with Trainings(Path(sys.argv[1])).begin("snapshot", "settings") as training:
    training.journal.status(Status.RUNNING, name="train")
    print(training.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(tmp_path / "trainings")


@pytest.fixture
def killed(trainings: Trainings) -> Training:
    """A training whose process was killed, two hours ago."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(trainings.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        alive = next(one for one in trainings.all() if one.id == name)
        assert alive.state is State.RUNNING
        assert trainings.interrupted() == []
        assert trainings.sweep() == []
        with pytest.raises(ModelError, match=f"{name} has one already"), trainings.resume(name):
            pass
        os.kill(process.pid, signal.SIGKILL)
    past = time.time() - 7200
    os.utime(alive.journal.path, (past, past))
    return alive


def finished(trainings: Trainings, status: Status = Status.FINISHED, *, delivered: bool = True) -> Training:
    with trainings.begin("snapshot", "settings") as training:
        training.journal.status(Status.RUNNING)
        training.journal.status(status)
    if delivered:
        end = list(training.journal.entries())[-1].end
        training.note_delivered(Delivered("run", end, Registered("product", "3", "run", champion=True)))
    return training


def test_a_training_begins_with_what_it_was_told(trainings: Trainings) -> None:
    with trainings.begin("snapshot", "settings") as training:
        assert training.alive
        (found,) = trainings.all()
        assert (found.id, found.snapshot, found.fingerprint) == (training.id, "snapshot", "settings")
        assert (found.started, found.checkpoints) == (training.started, training.folder / "checkpoints")
    assert not training.alive


def test_a_training_that_ran_into_a_signal_or_an_error_is_interrupted_or_failed(trainings: Trainings) -> None:
    states = [finished(trainings, status).state for status in (Status.FINISHED, Status.KILLED, Status.FAILED)]
    assert states == [State.FINISHED, State.INTERRUPTED, State.FAILED]


def test_what_can_go_on_is_listed_newest_first(trainings: Trainings) -> None:
    with trainings.begin("snapshot", "settings"):
        pass
    finished(trainings)
    others = [finished(trainings, Status.KILLED), finished(trainings, Status.FAILED)]
    found = [one.id for one in trainings.interrupted()]
    assert len(found) == 3
    assert {one.id for one in others} < set(found)
    assert found == sorted(found, reverse=True)


def test_the_dead_are_told_killed_at_their_last_sign_of_life_once(trainings: Trainings, killed: Training) -> None:
    assert killed.state is State.INTERRUPTED
    assert [one.id for one in trainings.sweep()] == [killed.id]
    assert trainings.sweep() == []
    (last,) = list(killed.journal.statuses())[1:]
    assert last.content == {"status": "KILLED", "note": "its process died"}
    assert last.time / 1000 == pytest.approx(time.time() - 7200, abs=60)
    assert killed.state is State.INTERRUPTED
    assert killed.note == "its process died"


def test_a_killed_training_goes_on_in_its_folder(trainings: Trainings, killed: Training) -> None:
    with trainings.resume(killed.id) as training:
        assert training.folder == killed.folder
        training.journal.status(Status.RUNNING)
        assert trainings.sweep() == []
        assert killed.state is State.RUNNING


def test_only_a_training_that_was_begun_and_has_not_finished_goes_on(trainings: Trainings) -> None:
    done = finished(trainings)
    for name, rule in ((done.id, "does not go on"), ("20200101T000000Z-abcd", "has no 20200101T")):
        with pytest.raises(ModelError, match=rule), trainings.resume(name):
            pass


def test_what_was_delivered_is_remembered(trainings: Trainings) -> None:
    training = finished(trainings, delivered=False)
    assert training.delivered == Delivered()
    assert training.waiting == 2
    first = next(training.journal.entries())
    training.note_delivered(Delivered("run", first.end, Registered("product", "1", "run", champion=False)))
    (again,) = trainings.all()
    assert again.delivered == Delivered("run", first.end, Registered("product", "1", "run", champion=False))
    assert again.waiting == 1
    assert [one.id for one in trainings.waiting()] == [training.id]


def test_a_journal_that_lost_its_end_is_delivered_from_the_start(trainings: Trainings) -> None:
    training = finished(trainings)
    text = training.journal.path.read_bytes()
    training.journal.path.write_bytes(text[:-10])
    assert training.delivered == Delivered("run")
    assert training.waiting == 1


def test_old_trainings_go_when_they_are_finished_and_told(trainings: Trainings) -> None:
    waits = finished(trainings, delivered=False)
    stopped = finished(trainings, Status.KILLED)
    done = {finished(trainings).id for _ in range(4)}
    with ExitStack() as stack:
        alive = stack.enter_context(trainings.begin("snapshot", "settings"))
        gone = trainings.forget(keep=2)
    assert len(gone) == 2
    assert set(gone) < done
    left = {one.id for one in trainings.all()}
    assert left == ({waits.id, stopped.id, alive.id} | done) - set(gone)
    assert trainings.forget(keep=2) == []


def test_of_those_that_were_stopped_the_newest_stay_and_the_fruitless_are_named(trainings: Trainings) -> None:
    stopped = [finished(trainings, status).id for status in (Status.KILLED, Status.FAILED) for _ in range(2)]
    *others, oldest = trainings.all()
    for one in others:
        one.note_delivered(replace(one.delivered, registered=None))
    oldest.note_delivered(replace(oldest.delivered, registered=Registered("sky", "1", "run", champion=True)))
    fruitless: list[str] = []
    gone = trainings.forget(keep=1, fruitless=fruitless.append)
    assert sorted(gone) == sorted(stopped)[:3]
    assert sorted(fruitless) == sorted(set(gone) - {oldest.id})


def test_who_asks_whether_a_training_lives_makes_nobody_believe_that_it_does(trainings: Trainings) -> None:
    stopped = finished(trainings, Status.KILLED)
    with (stopped.folder / "alive.lock").open("a") as asker:
        fcntl.flock(asker, fcntl.LOCK_SH)
        assert stopped.state is State.INTERRUPTED


def test_a_training_that_never_came_into_being_leaves_nothing(trainings: Trainings) -> None:
    (trainings.root / ".new-20200101T000000Z-abcd").mkdir(parents=True)
    assert trainings.all() == []
    trainings.forget()
    assert list(trainings.root.iterdir()) == []


def test_without_a_folder_there_are_no_trainings(trainings: Trainings) -> None:
    assert (trainings.all(), trainings.sweep(), trainings.waiting(), trainings.forget()) == ([], [], [], [])


def test_one_trainer_works_for_a_product_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path / "trainings")
    code = (
        "import sys, time; from pathlib import Path; from models.trainings import Trainings\n"
        "with Trainings(Path(sys.argv[1])).alone():\n    print('mine', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(trainings.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ModelError, match="another process does already"), trainings.alone():
            pass
        other.kill()
        other.wait()
    with trainings.alone():
        assert trainings.all() == []
