from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

from models.journal import Journal, Kind
from models.meter import CPU, sample, sampled


def steps(folder: Path) -> list[int]:
    return [entry.content["step"] for entry in Journal(folder).entries() if entry.kind is Kind.METRICS]


def wait_for(folder: Path, count: int) -> None:
    end = time.monotonic() + 10
    while len(steps(folder)) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_sample_comes_at_once_and_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    for count in (1, 2):
        with sampled(Journal(tmp_path), every=60):
            wait_for(tmp_path, count)
    assert steps(tmp_path) == [0, 1]


def test_samples_come_regularly_and_are_told(tmp_path: Path) -> None:
    told: list[bool] = []
    with sampled(Journal(tmp_path), every=0.01, told=lambda: told.append(True)):
        wait_for(tmp_path, 4)
    count = len(steps(tmp_path))
    assert steps(tmp_path) == list(range(count))
    assert len(told) == count
    time.sleep(0.05)
    assert len(steps(tmp_path)) == count


def test_a_sample_tells_of_machine_and_process(tmp_path: Path) -> None:
    found = sample(psutil.Process(), tmp_path)
    memory = psutil.virtual_memory().total / 1e6
    assert 0 <= found[CPU] <= 100
    assert 1 < found["system/process_memory_usage_megabytes"] < found["system/system_memory_usage_megabytes"] < memory


def test_a_disk_that_is_full_ends_the_sampling_without_a_word(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with sampled(journal, every=0.01):
        wait_for(tmp_path, 1)
        while not journal.path.is_dir():  # a sample may come in between
            journal.path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                journal.path.mkdir()
        time.sleep(0.2)
