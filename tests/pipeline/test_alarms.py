from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import alarms, alarmscores
from pipeline.alarms import (
    COVERAGE,
    DEGRADED,
    ERROR,
    RECOVERED,
    RULES,
    WARM,
    Alarm,
    Series,
    changes,
    history,
    standing,
    watch,
)
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scorestore import Store

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 6, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
HALF_MORE = log(1.5)


def correlated(count: int, phi: float, spread: float, seed: int) -> NDArray[np.float64]:
    """A stationary first-order autoregression, ``(scene,)``."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=count) * spread * np.sqrt(1 - phi**2)
    found = np.empty(count)
    found[0] = random.normal() * spread
    for at in range(1, count):
        found[at] = phi * found[at - 1] + noise[at]
    return found


def series(values: NDArray[np.float64], known: float = np.nan) -> Series:
    cells = values.reshape(len(values), -1)
    valid = int(START.timestamp()) + 300 * np.arange(len(values))
    return Series(valid, cells, np.full(cells.shape[1], known))


def raised(values: NDArray[np.float64]) -> list[int]:
    return [one.scene for one in changes(series(values), RULES[ERROR]) if one.open]


def test_a_loss_by_half_is_seen_within_an_hour_of_scenes() -> None:
    """The median delay is 6 scenes; of 100 series at least 85 % take no more than 12."""
    delays = []
    for seed in range(100):
        values = correlated(160, 0.8, 0.1, seed)
        values[120:] += HALF_MORE
        delays.append(next((scene - 119 for scene in raised(values) if scene >= 120), 999))
    assert np.median(delays) <= 8
    assert np.mean(np.array(delays) <= 12) >= 0.85


@pytest.mark.parametrize(("phi", "most"), [(0.5, 0.02), (0.9, 0.4)])
def test_skill_that_only_fluctuates_raises_next_to_nothing(phi: float, most: float) -> None:
    """Alarms per 1,000 scenes, whose errors resemble those before them."""
    assert np.mean([len(raised(correlated(1000, phi, 0.1, seed))) for seed in range(40)]) <= most


def test_one_bad_scene_raises_nothing_however_bad() -> None:
    values = correlated(100, 0.5, 0.05, 0)
    values[60] += 5
    assert raised(values) == []


def test_it_clears_when_skill_is_back_and_not_halfway() -> None:
    values = np.zeros(200)
    values[40:100] = HALF_MORE
    values[100:150] = 0.3 * HALF_MORE  # under what raises, over what clears
    found = changes(series(values), RULES[ERROR])
    assert [one.open for one in found] == [True, False]
    assert 40 < found[0].scene <= 52
    assert found[0].since == 40
    assert 150 < found[1].scene <= 162


def test_a_loss_is_not_learned_as_usual() -> None:
    values = np.zeros(400)
    values[30:] = HALF_MORE
    assert raised(values)[0] <= 42
    assert len(changes(series(values), RULES[ERROR])) == 1


def test_nothing_is_raised_before_there_is_a_level() -> None:
    values = np.concatenate([[0.0], np.full(WARM - 1, 2.0)])
    assert raised(values) == []


def test_held_out_truths_are_a_level_from_the_first_scene_on() -> None:
    missed = np.full(WARM + 12, 0.25)  # from the start, so the first scenes alone would call it usual
    assert changes(series(missed), RULES[COVERAGE]) == []
    assert [one.open for one in changes(series(missed, known=0.0), RULES[COVERAGE])] == [True]


@pytest.mark.parametrize(("worse", "share"), [(0.0, 0.0), (0.15, 0.01), (HALF_MORE, 0.9)])
def test_a_model_that_was_never_as_good_as_held_out_truths_said_is_told_of(worse: float, share: float) -> None:
    """Of 100 models whose first 36 scenes are so much worse than their validation; a loss of half is told of."""
    told = [changes(series(correlated(36, 0.8, 0.1, seed) + worse, known=0.0), RULES[ERROR]) for seed in range(100)]
    found = np.mean([bool(one) for one in told])
    assert found >= share if worse == HALF_MORE else found <= share


def test_a_level_of_errors_is_what_honest_held_out_truths_showed() -> None:
    """Two leads, of which validation knew one; what it was fitted to flatters and counts for nothing."""
    proof = {"judged": "left out", "levels": [0.1, 0.9], "coverage": [[0.75], [None]], "error": [[0.5], [None]]}
    known = {judged: alarmscores._ratio(proof | {"judged": judged}, (2, 1)) for judged in ("left out", "fitted")}
    np.testing.assert_allclose(known["left out"], [log(0.5), np.nan])
    unknown = [known["fitted"], *(alarmscores._ratio(one, (2, 1)) for one in (None, {"judged": "left out"}))]
    assert np.isnan(unknown).all()
    np.testing.assert_allclose(alarmscores._missed(proof, (3, 1)), [0.05, np.nan, np.nan])


def test_leads_that_start_later_have_levels_of_their_own() -> None:
    """A long lead that joins with a worse ratio than the short ones is no loss."""
    values = np.full((120, 2), -0.4)
    values[:, 1] = 0.6
    values[:20, 1] = np.nan
    assert changes(series(values), RULES[ERROR]) == []


# --- from pages to alarms -------------------------------------------------------------------------


def keep(
    folder: Path,
    slots: range,
    ratio: float,
    model: str = "radar 1",
    *,
    held: float | None = 0.8,
    key: str = "1",
    step: timedelta = STEP,
) -> None:
    """Runs of one lead, whose error is so many times that of extrapolation; their keys begin with ``key``."""
    promised = None if held is None else 0.8
    for slot in slots:
        init, name = START + slot * step, f"{key}{slot:011x}"
        errors = 100 * ratio * (1 + 0.01 * (slot % 3))
        scores = (
            Score(5, "sky", FORECAST, 100, errors, 1.0, held=held, promised=promised),
            Score(5, "sky", "extrapolation", 100, 100.0, 1.0),
        )
        save(page(folder, name, init), RunScores(name, init, model, scores))


def watched(folder: Path) -> tuple[Alarm, ...]:
    store = Store(folder, "tiny")
    store.refresh()
    return watch(store, folder / "alarms.jsonl")


def test_an_alarm_is_told_once_and_says_since_when_how_much_and_what_to_do(tmp_path: Path) -> None:
    keep(tmp_path, range(40), 0.8)
    assert watched(tmp_path) == ()
    assert not (tmp_path / "alarms.jsonl").exists()
    keep(tmp_path, range(40, 52), 1.2)
    (alarm,) = watched(tmp_path)
    assert (alarm.kind, alarm.measure, alarm.model) == (DEGRADED, ERROR, "radar 1")
    assert alarm.since == START + 41 * STEP  # the valid time of the run at slot 40
    assert alarm.evidence["worse_by"] == pytest.approx(0.5, abs=0.03)
    assert alarm.evidence["error_ratio"] == pytest.approx(1.2, abs=0.03)
    assert "cubecast models retrain" in alarm.advice
    before = (tmp_path / "alarms.jsonl").read_bytes()
    assert watched(tmp_path) == ()
    assert (tmp_path / "alarms.jsonl").read_bytes() == before
    assert standing(history(tmp_path / "alarms.jsonl")) == [alarm]


def test_the_same_scores_give_the_same_alarms_however_they_arrive(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for first, last, ratio in ((0, 40, 0.8), (40, 60, 1.3), (60, 100, 0.8)):
        keep(one, range(first, last), ratio)
        keep(other, range(first, last), ratio)
        watched(one)
    assert watched(other) == ()  # lost and back: nothing is changed by now
    said = [history(folder / "alarms.jsonl") for folder in (one, other)]
    assert said[0] == said[1]
    assert [alarm.kind for alarm in said[0]] == [DEGRADED, RECOVERED]


def test_what_stands_of_a_model_is_closed_as_soon_as_its_successor_is_scored(tmp_path: Path) -> None:
    """A retraining is asked for as long as an alarm stands, so a cure would be followed by another training."""
    keep(tmp_path, range(40), 0.8)
    keep(tmp_path, range(40, 60), 1.3)
    watched(tmp_path)
    keep(tmp_path, range(60, 61), 1.3, model="radar 2")
    (alarm,) = watched(tmp_path)
    assert (alarm.kind, alarm.model, alarm.at) == (RECOVERED, "radar 2", START + 61 * STEP)
    assert standing(history(tmp_path / "alarms.jsonl")) == []
    keep(tmp_path, range(61, 64 + WARM), 1.3, model="radar 2")  # its own level, from its own scenes
    assert watched(tmp_path) == ()


def test_what_a_new_model_says_nothing_of_is_closed_too(tmp_path: Path) -> None:
    keep(tmp_path, range(40), 0.8)
    keep(tmp_path, range(40, 60), 0.8, held=0.3)
    assert [one.measure for one in watched(tmp_path)] == [COVERAGE]
    keep(tmp_path, range(60, 61), 0.8, model="radar 2", held=None)
    (alarm,) = watched(tmp_path)
    assert (alarm.kind, alarm.measure, alarm.model) == (RECOVERED, COVERAGE, "radar 2")


@pytest.mark.parametrize("slot", [20, 60])
def test_a_hindcast_by_an_old_model_changes_nothing(tmp_path: Path, slot: int) -> None:
    keep(tmp_path, range(20), 0.8, model="radar 1")
    keep(tmp_path, range(21, 50), 0.8, model="radar 2")
    keep(tmp_path, range(50, 61), 1.3, model="radar 2")
    (alarm,) = watched(tmp_path)
    keep(tmp_path, range(slot, slot + 1), 0.8, model="radar 1", key="0")
    assert watched(tmp_path) == ()
    assert standing(history(tmp_path / "alarms.jsonl")) == [alarm]


def test_a_model_that_comes_back_is_told_of_as_it_stands(tmp_path: Path) -> None:
    keep(tmp_path, range(40), 0.8)
    keep(tmp_path, range(40, 60), 1.3)
    (alarm,) = watched(tmp_path)
    keep(tmp_path, range(60, 65), 0.8, model="radar 2")
    watched(tmp_path)
    keep(tmp_path, range(65, 66), 1.3)
    assert watched(tmp_path) == (alarm,)


def test_what_stands_in_for_a_model_is_not_watched(tmp_path: Path) -> None:
    keep(tmp_path, range(40), 0.8)
    keep(tmp_path, range(40, 80), 1.0, model="extrapolation 1")
    assert watched(tmp_path) == ()


DAY = timedelta(days=1)


def kinds(folder: Path) -> list[str]:
    return [one.kind for one in history(folder / "alarms.jsonl")]


@pytest.mark.parametrize("step", [DAY, 5 * DAY])
def test_an_alarm_of_a_slow_product_is_raised_and_cleared(tmp_path: Path, step: timedelta) -> None:
    for last, ratio in ((40, 0.8), (100, 1.3), (200, 0.8)):
        keep(tmp_path, range(len(list(tmp_path.glob("*.json"))), last), ratio, step=step)
        watched(tmp_path)
    assert kinds(tmp_path) == [DEGRADED, RECOVERED]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is 20 scenes, and what makes the level."""
    monkeypatch.setattr(alarmscores, "LOOKED_AT", 10 * DAY)
    monkeypatch.setattr(alarmscores, "ENOUGH", 20)
    monkeypatch.setattr(alarmscores, "LESSON", 30)


@pytest.mark.usefixtures("short")
def test_an_alarm_clears_when_its_beginning_is_not_read_any_more(tmp_path: Path) -> None:
    for scene in range(200):
        keep(tmp_path, range(scene, scene + 1), 1.3 if 40 <= scene < 100 else 0.8, step=DAY)
        watched(tmp_path)
    raised, cleared = history(tmp_path / "alarms.jsonl")
    assert (raised.kind, cleared.kind) == (DEGRADED, RECOVERED)
    assert 40 < (raised.at - START) / DAY <= 45
    assert 100 < (cleared.at - START) / DAY <= 108


@pytest.mark.usefixtures("short")
def test_no_more_is_read_of_an_old_model_than_its_first_scenes_and_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, range(150), 0.8, step=DAY)
    watched(tmp_path)
    opened: list[str] = []
    path = Store.path
    monkeypatch.setattr(Store, "path", lambda store, day: opened.append(day) or path(store, day))
    alarms.watch(Store(tmp_path, "tiny"), tmp_path / "alarms.jsonl")
    days = [f"{(START + day * DAY).date()}" for day in range(150)]
    assert {*opened} == {*days[:30], *days[-20:]}


def test_an_alarm_is_a_line_of_plain_json(tmp_path: Path) -> None:
    keep(tmp_path, range(40), 0.8)
    keep(tmp_path, range(40, 60), 1.3)
    watched(tmp_path)
    (line,) = (tmp_path / "alarms.jsonl").read_text().splitlines()
    document = json.loads(line)
    assert document["kind"] == "skill.degraded"
    assert document["evidence"]["usual_error_ratio"] == pytest.approx(0.8 * exp(log(1.01)), abs=0.01)
    assert Alarm.from_json(document).to_json() == document
