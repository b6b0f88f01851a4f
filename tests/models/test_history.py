from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.history import LINES, Entry, History, Step

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def history(tmp_path: Path) -> History:
    found = History(tmp_path / "promotions")
    with found.alone():
        found.append(Entry(Step.FIRST, "1", None, "1", "first", TIME))
        found.append(Entry(Step.KEPT, "2", "1", "1", "no better", TIME))
        found.append(Entry(Step.PROMOTED, "3", "1", "3", "better", TIME, {"estimate": -0.1}))
    return found


def test_lines_are_read_as_they_were_written(history: History) -> None:
    assert [one.step for one in history.entries()] == [Step.FIRST, Step.KEPT, Step.PROMOTED]
    assert history.entries()[-1] == Entry(Step.PROMOTED, "3", "1", "3", "better", TIME, {"estimate": -0.1})


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    assert History(tmp_path / "none").entries() == []
    assert History(tmp_path / "none").champion is None


def test_a_version_that_was_kept_does_not_serve(history: History) -> None:
    with history.alone():
        history.append(Entry(Step.KEPT, "4", "3", "3"))
    assert history.champion == "3"


def test_how_a_version_came_to_serve_is_told_by_its_promotion_not_by_a_rollback(history: History) -> None:
    with history.alone():
        history.append(Entry(Step.ROLLED_BACK, "1", "3", "1"))
    found = history.came("1")
    assert found is not None
    assert found.step is Step.FIRST
    assert history.champion == "1"
    assert history.came("7") is None


def test_what_a_crash_left_of_a_line_is_overwritten_and_nothing_else_is_touched(history: History) -> None:
    path = history.folder / LINES
    before = path.read_bytes()
    path.write_bytes(before + b'{"step": "promo')
    assert len(history.entries()) == 3
    with history.alone():
        history.append(Entry(Step.KEPT, "4", "3", "3"))
    assert path.read_bytes().startswith(before)
    assert [one.version for one in history.entries()] == ["1", "2", "3", "4"]
