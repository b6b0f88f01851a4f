from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from models.history import Entry, History, Step
from models.prediction import Network
from models.probation import Predecessor, Watch, probation, rival, watched
from pipeline.config import Settings
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.predictor import Context, Source
from pipeline.rungs import ladder
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scoring import PREVIOUS
from pipeline.specs import ModelSpec
from tests.models.conftest import SKY

CONFIG = Path("/data/tiny.toml")


@pytest.fixture
def settings(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Settings:
    return tiny_settings(tmp_path)


@pytest.fixture
def history(settings: Settings) -> History:
    """Version 3 was promoted over version 2."""
    found = History(settings.paths.promotions)
    with found.alone():
        found.append(Entry(Step.FIRST, "2", None, "2"))
        found.append(Entry(Step.PROMOTED, "3", "2", "3"))
    return found


def write(
    settings: Settings, runs: int, ratio: float, *, model: str = "tiny 3", rival: str = "tiny 2", yielded: bool = False
) -> None:
    """Runs every slot whose squared error is ``ratio`` times the predecessor's, give or take some."""
    random = np.random.default_rng(3)
    for number in range(runs):
        init, scores = SKY.start + number * SKY.cadence, []
        for lead in (5, 10):
            theirs = 100 * float(np.exp(random.normal(0, 0.3)))
            ours = theirs * ratio * float(np.exp(random.normal(0, 0.05)))
            scores.append(Score(lead, "reflectance", FORECAST, 1000, ours, ours, yielded=yielded))
            scores.append(Score(lead, "reflectance", PREVIOUS, 1000, theirs, theirs))
        run = RunScores(f"{number:012x}", init, model, tuple(scores), rival)
        save(page(settings.paths.verification, run.run_key, init), run)


def test_a_champion_that_was_promoted_over_another_one_is_watched_by_it(settings: Settings, history: History) -> None:
    assert watched(settings, history) == Watch("3", "2", history.entries()[1].time)


def test_nobody_watches_the_first_champion_nor_one_that_was_rolled_back_to(
    settings: Settings, history: History
) -> None:
    with history.alone():
        history.append(Entry(Step.ROLLED_BACK, "2", "3", "2"))
    assert watched(settings, history) is None
    assert watched(settings, History(settings.paths.root / "none")) is None


def test_a_challenger_that_was_kept_ends_no_probation(settings: Settings, history: History) -> None:
    with history.alone():
        history.append(Entry(Step.KEPT, "4", "3", "3"))
    assert watched(settings, history) == Watch("3", "2", history.entries()[1].time)


def test_a_probation_of_no_runs_is_none(settings: Settings, history: History) -> None:
    none = settings.model_copy(update={"models": ModelSpec(probation=0)})
    assert watched(none, history) is None


def test_a_predecessor_that_does_better_is_an_alarm_that_names_the_way_back(
    settings: Settings, history: History
) -> None:
    write(settings, 40, 1.3)
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert found.runs == 40
    assert found.found is not None
    assert found.found.estimate == pytest.approx(1.3**0.5 - 1, abs=0.02)
    assert "version 3, does worse than its predecessor, version 2: over 40 runs" in found.alarm
    assert 'cubecast models rollback --config /data/tiny.toml --reason "version 3 does worse"' in found.alarm


def test_equals_and_better_ones_raise_no_alarm(settings: Settings, history: History) -> None:
    write(settings, 40, 0.9)
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert (found.alarm, found.runs, found.over) == ("", 40, False)


def test_a_few_runs_are_not_enough_for_an_alarm(settings: Settings, history: History) -> None:
    write(settings, 15, 2.0)  # 7 blocks of a horizon of 2
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert found.alarm == ""


def test_what_was_published_instead_of_the_champion_says_nothing_of_it(settings: Settings, history: History) -> None:
    write(settings, 40, 2.0, yielded=True)
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert (found.runs, found.alarm) == (0, "")


def test_runs_of_other_versions_do_not_count(settings: Settings, history: History) -> None:
    write(settings, 40, 2.0, model="tiny 2")
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert found.runs == 0


class Shelf:
    """Has one network, and counts how often it is asked for."""

    def __init__(self, network: Network | None) -> None:
        self.network = network
        self.asked: list[str] = []

    def load_version(self, settings: Settings, version: str) -> Network:
        self.asked.append(version)
        if self.network is None:
            raise ModelError("version 2 is gone")
        return self.network


def context(frames: int) -> Context:
    values = np.random.default_rng(0).uniform(0.1, 0.9, (1, frames, 48, 48, 1)).astype(np.float32)
    start = int((SKY.start + timedelta(hours=1)).timestamp())
    times = np.array([[start + 300 * number for number in range(frames)]], np.int64)
    ages = np.arange(frames, dtype=np.float32)[::-1][np.newaxis]
    return Context(values, np.isfinite(values), times, ages)


def test_the_predecessor_is_loaded_when_it_is_asked_and_once(
    settings: Settings, history: History, make_network: Callable[..., Network]
) -> None:
    shelf = Shelf(make_network(settings, trained=True))
    found = rival(settings, shelf, history)
    assert found is not None
    assert found.model == "tiny 3"
    assert shelf.asked == []
    said = [found.predictor.predict(context(2), 2) for _ in range(2)]
    assert shelf.asked == ["2"]
    network = make_network(settings, trained=True)
    expected = ladder(settings, network.champion(settings.forecast.tile)).predict(context(2), 2)
    np.testing.assert_array_equal(said[0].values, expected.values)


def test_after_enough_runs_the_predecessor_is_asked_no_more(settings: Settings, history: History) -> None:
    write(settings, 5, 1.0)
    short = settings.model_copy(update={"models": ModelSpec(probation=5)})
    assert rival(short, Shelf(None), history) is None
    assert rival(short.model_copy(update={"models": ModelSpec(probation=6)}), Shelf(None), history) is not None


@pytest.mark.parametrize("frames", [1, 3])
def test_a_run_that_saw_more_or_fewer_frames_is_answered_from_the_newest(
    settings: Settings, make_network: Callable[..., Network], frames: int
) -> None:
    network = make_network(settings, trained=True)
    asked = Predecessor(settings, Shelf(network), "2")
    seen = context(3)
    part = slice(3 - frames, None)
    some = replace(
        seen,
        values=seen.values[:, part],
        validity=seen.validity[:, part],
        times=seen.times[:, part],
        ages=seen.ages[:, part],
    )
    said = asked.predict(some, 2)
    assert np.isfinite(said.values).all()
    assert set(np.unique(said.source)) <= {Source.NETWORK, Source.EXTRAPOLATION, Source.PERSISTENCE}


def test_a_predecessor_that_cannot_be_had_is_asked_once_and_not_scored(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(None)
    asked = Predecessor(settings, shelf, "2")
    for _ in range(2):
        with pytest.raises(NotEnoughFramesError, match="does not answer: version 2 is gone"):
            asked.predict(context(2), 2)
    assert shelf.asked == ["2"]
    assert len(caplog.records) == 1


def test_runs_that_met_another_predecessor_say_nothing_of_this_one(settings: Settings, history: History) -> None:
    write(settings, 30, 1.5, rival="tiny 1")
    found = probation(settings, history, CONFIG)
    assert found is not None
    assert (found.runs, found.alarm) == (0, "")
    assert rival(settings, Shelf(None), history) is not None


def test_a_probation_that_is_over_reads_no_later_run(settings: Settings, history: History) -> None:
    over = settings.model_copy(update={"models": ModelSpec(probation=5)})
    write(settings, 30, 1.5)
    for path in sorted(settings.paths.verification.glob("*.json"))[5:]:
        path.write_text("not read", encoding="utf-8")
    found = probation(over, history, CONFIG)
    assert found is not None
    assert (found.runs, found.over) == (5, True)
