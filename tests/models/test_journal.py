from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from models.journal import Entry, Journal, Kind, Status
from pipeline.errors import CubecastError

WRITER = """
import sys
from pathlib import Path
from models.journal import Journal

journal = Journal(Path(sys.argv[1]))
step = journal.next_step("loss")
while True:
    journal.metrics({"loss": 1 / (step + 1)}, step)
    print(step, flush=True)
    step += 1
"""

# The limit of a file's size stands for that of the disk.
CROWDED = """
import resource, sys
from itertools import count
from pathlib import Path
from models.journal import Journal
from pipeline.errors import CubecastError

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for step in count():
        Journal(Path(sys.argv[1])).metrics({"loss": 1.0}, step)
except CubecastError as error:
    print(error)
"""


def contents(journal: Journal, kind: Kind) -> list[Any]:
    return [entry.content for entry in journal.entries() if entry.kind is kind]


def numbers(journal: Journal) -> list[tuple[str, int, float]]:
    said = contents(journal, Kind.METRICS)
    return [(key, one["step"], value) for one in said for key, value in one["values"].items()]


def test_what_was_noted_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    before = int(time.time() * 1000)
    journal.status(Status.RUNNING, name="train")
    journal.parameters({"batch": 4})
    journal.metrics({"loss": 0.1}, 0)
    entries = list(Journal(tmp_path).entries())
    assert [entry.kind for entry in entries] == [Kind.STATUS, Kind.PARAMETERS, Kind.METRICS]
    assert [entry.content for entry in entries] == [
        {"status": "RUNNING", "name": "train"},
        {"batch": "4"},
        {"values": {"loss": 0.1}, "step": 0},
    ]
    assert all(before <= entry.time <= before + 60_000 for entry in entries)
    assert list(journal.entries(entries[0].end)) == entries[1:]
    assert all(journal.holds(position) for position in (0, *(entry.end for entry in entries)))
    assert not journal.holds(entries[0].end + 1)
    assert not journal.holds(entries[-1].end + 1)


def test_a_number_keeps_every_bit(tmp_path: Path) -> None:
    Journal(tmp_path).metrics({"loss": 0.1 + 0.2, "tiny": 5e-324}, 1)
    assert numbers(Journal(tmp_path)) == [("loss", 1, 0.1 + 0.2), ("tiny", 1, 5e-324)]


def test_a_metric_counts_once_at_each_step_also_after_a_restart(tmp_path: Path) -> None:
    Journal(tmp_path).metrics({"loss": 1.0, "skill": 0.5}, 3)
    again = Journal(tmp_path)
    again.metrics({"loss": 1.0, "rate": 0.1}, 3)
    again.metrics({"loss": 1.0}, 4)
    again.metrics({"loss": 1.0}, 4)
    assert numbers(again) == [("loss", 3, 1.0), ("skill", 3, 0.5), ("rate", 3, 0.1), ("loss", 4, 1.0)]
    assert (again.next_step("loss"), again.next_step("unheard")) == (5, 0)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": float("nan"), "skill": float("-inf")}, 0)
    assert list(journal.entries()) == []
    journal.metrics({"loss": 2.0}, 0)
    assert numbers(journal) == [("loss", 0, 2.0)]


def test_a_known_parameter_is_not_repeated_and_a_changed_one_becomes_a_tag(tmp_path: Path) -> None:
    Journal(tmp_path).parameters({"batch": 4, "long": "x" * 9000})
    journal = Journal(tmp_path)
    journal.parameters({"batch": 8, "long": "x" * 9000, "new": None})
    assert contents(journal, Kind.PARAMETERS) == [{"batch": "4", "long": "x" * 5000}, {"new": "None"}]
    assert contents(journal, Kind.TAGS) == [{"changed.batch": "8"}]


def test_an_artifact_is_a_copy_and_only_a_changed_one_is_noted_again(tmp_path: Path) -> None:
    file, journal = tmp_path / "note.txt", Journal(tmp_path)
    for text in ("old", "old", "new"):
        file.write_text(text)
        Journal(tmp_path).artifact(file, "notes")
    file.unlink()
    said = contents(journal, Kind.ARTIFACT)
    assert [(one["folder"], one["name"]) for one in said] == [("notes", "note.txt")] * 2
    assert journal.artifact_path(said[0]).read_text() == "new"


class Model:
    """Saves itself as Keras does: the name must end in .keras."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def save(self, path: Path) -> None:
        assert path.suffix == ".keras"
        path.write_text(self.weights)


def test_the_first_model_counts(tmp_path: Path) -> None:
    for weights, good in (("first", True), ("second", False)):
        Journal(tmp_path).model(Model(weights), {"bands": ["one"]}, good=good)
    journal = Journal(tmp_path)
    assert contents(journal, Kind.MODEL) == [{"good": True}]
    assert journal.model_file.read_text() == "first"
    assert json.loads(journal.card_file.read_text()) == {"bands": ["one"]}


def test_every_cut_of_the_last_line_loses_that_line_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": 1.0}, 0)
    whole = journal.path.read_bytes()
    journal.metrics({"loss": 2.0}, 1)
    both = journal.path.read_bytes()
    for cut in range(len(whole), len(both)):
        journal.path.write_bytes(both[:cut])
        assert numbers(Journal(tmp_path)) == [("loss", 0, 1.0)]
        Journal(tmp_path).metrics({"loss": 3.0}, 2)
        assert numbers(Journal(tmp_path)) == [("loss", 0, 1.0), ("loss", 2, 3.0)]


def test_zeros_that_a_power_cut_leaves_are_overwritten(tmp_path: Path) -> None:
    Journal(tmp_path).metrics({"loss": 1.0}, 0)
    with Journal(tmp_path).path.open("ab") as file:
        file.write(bytes(100))
    Journal(tmp_path).metrics({"loss": 2.0}, 1)
    assert numbers(Journal(tmp_path)) == [("loss", 0, 1.0), ("loss", 1, 2.0)]
    assert b"\0" not in Journal(tmp_path).path.read_bytes()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def write(key: str) -> None:
        for step in range(50):
            journal.metrics({key: 1.0}, step)

    threads = [Thread(target=write, args=(key,)) for key in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(Journal(tmp_path))) == [(key, step, 1.0) for key in "abcd" for step in range(50)]


def test_a_killed_writer_loses_nothing_that_it_had_said(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            said = [int(process.stdout.readline()) for _ in range(20)]
            process.kill()
            said += [int(line) for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -signal.SIGKILL
        steps = [step for _, step, _ in numbers(Journal(tmp_path))]
        assert steps == list(range(len(steps)))
        assert said[-1] < len(steps)


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CROWDED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.search(r"record is on the disk before.*File too large\. Free some space", done.stdout)
    steps = [step for _, step, _ in numbers(Journal(tmp_path))]
    assert len(steps) > 2
    Journal(tmp_path).metrics({"loss": 1.0}, len(steps))
    assert [step for _, step, _ in numbers(Journal(tmp_path))] == list(range(len(steps) + 1))


def test_an_append_that_failed_half_way_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": 1.0}, 0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(CubecastError, match="No space left on device"):
            journal.metrics({"loss": 2.0}, 1)
    journal.metrics({"loss": 3.0}, 1)
    assert numbers(Journal(tmp_path)) == [("loss", 0, 1.0), ("loss", 1, 3.0)]


def test_a_reader_of_a_journal_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    found: list[Entry] = list(Journal(tmp_path / "nowhere").entries())
    assert found == []
