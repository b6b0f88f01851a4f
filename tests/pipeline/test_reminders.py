from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.alarms import COVERAGE, DEGRADED, ERROR, RECOVERED, Alarm
from pipeline.reminders import AGAIN, due, is_due, note

START = datetime(2024, 6, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)


def alarm(kind: str = DEGRADED, measure: str = ERROR, scene: int = 0) -> Alarm:
    return Alarm(kind, measure, "sky 1", START, START + scene * STEP, {}, "look")


def told(path: Path, said: list[Alarm], scene: int) -> tuple[Alarm, ...]:
    """What is told as of a scene, and noted."""
    now = START + scene * STEP
    found = due(said, path, now, STEP)
    note(path, [one.name for one in found], now)
    return found


def test_an_alarm_that_stands_is_told_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    scenes = [scene for scene in range(3 * AGAIN) if told(path, [alarm()], scene)]
    assert scenes == [0, AGAIN, 2 * AGAIN]


def test_one_whose_telling_was_lost_is_told_at_the_next_scene(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    assert due([alarm()], path, START, STEP) == due([alarm()], path, START + STEP, STEP) == (alarm(),)


def test_skill_that_is_back_is_told_no_more_and_lost_anew_at_once(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    said = [alarm()]
    assert told(path, said, 0)
    said.append(alarm(RECOVERED, scene=2))
    assert not told(path, said, 2 * AGAIN)
    said.append(alarm(scene=2 * AGAIN + 1))
    assert told(path, said, 2 * AGAIN + 1) == (said[-1],)


def test_each_measure_has_its_own_clock(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    error, coverage = alarm(), alarm(measure=COVERAGE, scene=3)
    assert told(path, [error], 0) == (error,)
    assert told(path, [error, coverage], 3) == (coverage,)
    assert told(path, [error, coverage], AGAIN) == (error,)


def test_something_else_that_stands_has_its_own_clock_too(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    told(path, [alarm()], 0)
    assert is_due("champion 3", path, START, STEP)
    note(path, ["champion 3"], START)
    assert not is_due("champion 3", path, START + (AGAIN - 1) * STEP, STEP)
    assert is_due("champion 3", path, START + AGAIN * STEP, STEP)
    assert is_due("champion 4", path, START, STEP)
    assert not told(path, [alarm()], AGAIN - 1)
