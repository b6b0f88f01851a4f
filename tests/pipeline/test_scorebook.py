from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.scorebook import FORECAST, RunScores, Score, load, page, recent, save

START = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)


def kept(folder: Path, number: int, model: str = "rain 1") -> RunScores:
    run = RunScores(f"key{number}", START + number * STEP, model, (Score(5, "rain", FORECAST, 9, 1.0, 1.0),))
    save(page(folder, run.run_key, run.init), run)
    return run


def test_the_newest_runs_of_a_model_before_an_init_time_come_oldest_first(tmp_path: Path) -> None:
    runs = [kept(tmp_path, number) for number in range(6)]
    kept(tmp_path, 7, model="rain 2")
    assert recent(tmp_path, "rain 1", START + 5 * STEP, 3) == runs[2:5]
    assert recent(tmp_path, "rain 1", START + 99 * STEP, 99) == runs
    assert recent(tmp_path / "none", "rain 1", START, 9) == []


def test_older_files_are_not_read(tmp_path: Path) -> None:
    runs = [kept(tmp_path, number) for number in range(3)]
    page(tmp_path, "key0", START).write_text("no JSON")
    assert recent(tmp_path, "rain 1", START + 9 * STEP, 2) == runs[1:]


def test_of_a_model_with_few_runs_older_files_are_not_read_either(tmp_path: Path) -> None:
    for number in range(8):
        kept(tmp_path, number)
    page(tmp_path, "key3", START + 3 * STEP).write_text("no JSON")
    run = kept(tmp_path, 8, model="rain 2")
    assert recent(tmp_path, "rain 2", START + 9 * STEP, 2) == [run]


def test_a_file_from_before_there_was_yielding_speaks_of_the_model(tmp_path: Path) -> None:
    run = kept(tmp_path, 0)
    path = page(tmp_path, run.run_key, run.init)
    document = json.loads(path.read_text())
    del document["scores"][0]["yielded"]
    path.write_text(json.dumps(document))
    assert load(path) == run
    assert not run.scores[0].yielded
