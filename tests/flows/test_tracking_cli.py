from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.journal import Status
from models.trainings import Training, Trainings
from pipeline.config import load
from tests.flows.commands import answer, cubecast


def begun(config: Path, *statuses: Status, note: str = "") -> Training:
    """A training that wrote two epochs and these statuses; its process is gone."""
    with Trainings(load(config).paths.trainings).begin("snapshot", "settings") as training:
        for epoch in range(2):
            training.journal.metrics({"loss": 1.0}, epoch)
        for status in statuses:
            training.journal.status(status, name="train", note=note)
    return training


def test_without_trainings_there_is_nothing_to_see_and_nothing_to_tell(product: Path) -> None:
    assert answer("tracking", "status", "-c", product) == {"trainings": []}
    assert answer("tracking", "sync", "-c", product) == {"sent": [], "died": [], "forgotten": []}
    assert "MLflow knows everything" in cubecast("tracking", "sync", "-c", product).output


def test_status_tells_how_each_training_is_and_what_waits(product: Path) -> None:
    note = "stopped at step 7 of 9 on SIGTERM"
    stopped, failed = begun(product, Status.KILLED, note=note), begun(product, Status.FAILED, note="no")
    found = {one["id"]: one for one in answer("tracking", "status", "-c", product)["trainings"]}
    assert found[stopped.id] == {
        "id": stopped.id,
        "started": stopped.started.isoformat().replace("+00:00", "Z"),
        "state": "interrupted",
        "epochs": 2,
        "note": note,
        "run_id": "",
        "waiting": 3,
        "model": "",
    }
    assert found[failed.id]["state"] == "failed"
    text = cubecast("tracking", "status", "-c", product).output
    assert f"interrupted after 2 epoch(s): {note.partition(chr(58))[0]}" in text
    assert "3 waiting: tracking sync" in text


@pytest.mark.slow  # MLflow's import and its database take 10 CPU-s
def test_a_sync_tells_everything_once_and_a_dead_training_is_killed(product: Path) -> None:
    done, dead = begun(product, Status.FINISHED), begun(product, Status.RUNNING)
    said = answer("tracking", "sync", "-c", product)
    assert said["died"] == [dead.id]
    assert {one["id"]: one["entries"] for one in said["sent"]} == {done.id: 3, dead.id: 4}
    assert [one["fault"] for one in said["sent"]] == ["", ""]
    assert answer("tracking", "sync", "-c", product)["sent"] == []
    states = {
        one["id"]: (one["state"], one["waiting"]) for one in answer("tracking", "status", "-c", product)["trainings"]
    }
    assert states == {done.id: ("finished", 0), dead.id: ("interrupted", 0)}
    assert "delivered" in cubecast("tracking", "status", "-c", product).output


@pytest.mark.slow
def test_what_mlflow_refuses_is_named_and_holds_up_no_other(product: Path) -> None:
    bad = begun(product, Status.FINISHED)
    bad.journal.metrics({"not a * name": 1.0}, 0)
    good = begun(product, Status.FINISHED)
    result = cubecast("tracking", "sync", "-c", product, "--json")
    assert result.exit_code == 1
    sent = {one["id"]: one for one in json.loads(result.stdout)["sent"]}
    assert "does not take a record" in sent[bad.id]["fault"]
    assert (sent[good.id]["fault"], sent[good.id]["entries"]) == ("", 3)
