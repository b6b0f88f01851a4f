"""The dead are buried, the living never, and what can be done again is done again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.server import Server
from flows.sweeper import TRIES, Patience, Run, Sweeper, Vigil, sweep
from tests.flows.fake_prefect import FakePrefect, serving

PATIENCE = Patience(every=10, silent=90, starting=180)
AT_ONCE = Patience(every=0.01, silent=0.05, starting=0.2)


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    with serving(FakePrefect()) as fake:
        yield fake


def run(beat: str | None = "1", state: str = "RUNNING", sign: int = 0) -> Run:
    return Run("r", "r", "f", "d", state, None, {}, (), beat, 0, (str(sign), str(beat)))


def looks(vigil: Vigil, *times: float, **kind: object) -> list[float]:
    """When the run was held for dead."""
    return [time for time in times if vigil.look([run(**kind)], time)]  # type: ignore[arg-type]


def every(last: int) -> range:
    return range(0, last + 1, 10)


def test_a_run_that_is_silent_for_long_enough_is_lost() -> None:
    assert looks(Vigil(PATIENCE), *every(120)) == [90, 100, 110, 120]


def test_a_run_that_has_not_beaten_yet_may_take_its_time_to_start() -> None:
    assert looks(Vigil(PATIENCE), *every(190), beat=None, state="PENDING") == [180, 190]


def test_every_sign_of_life_begins_the_count_anew() -> None:
    vigil = Vigil(PATIENCE)
    beats = [str(time // 80) for time in every(400)]
    assert not any(vigil.look([run(beat)], time) for time, beat in zip(every(400), beats, strict=True))


def test_what_a_server_or_a_sweeper_that_was_away_missed_counts_against_nobody() -> None:
    vigil = Vigil(PATIENCE)
    assert not looks(vigil, *every(80))
    assert looks(vigil, *range(600, 700, 10)) == [690]


def test_a_run_that_changes_its_state_has_given_a_sign() -> None:
    vigil = Vigil(PATIENCE)
    assert not looks(vigil, *every(80), state="PENDING", sign=1)
    assert not looks(vigil, *range(90, 160, 10), sign=2)


def test_a_dead_forecast_crashes_and_is_done_again_once(prefect: FakePrefect) -> None:
    prefect.add("dead", parameters={"config": "a.toml", "init": None})
    lines: list[str] = []
    found = sweep(Server(prefect.api), say=lines.append, patience=AT_ONCE)
    assert prefect.runs["dead"]["state_type"] == "CRASHED"
    assert found.buried == found.again == ("dead",)
    (order,) = prefect.orders
    assert order["parameters"] == {"config": "a.toml", "init": None}
    assert order["labels"] == {"cubecast.again": 1}
    assert "no sign of life" in lines[0]
    sweep(Server(prefect.api), say=lines.append, patience=AT_ONCE)  # another sweeper, that knows nothing of the first
    assert len(prefect.orders) == 1


def test_the_tasks_of_a_dead_run_are_not_shown_at_work(prefect: FakePrefect) -> None:
    prefect.add("dead")
    prefect.tasks |= {"done": "COMPLETED", "begun": "RUNNING"}
    sweep(Server(prefect.api), say=lambda _: None, patience=AT_ONCE)
    assert prefect.tasks == {"done": "COMPLETED", "begun": "CRASHED"}


def test_a_living_run_is_left_alone_however_long_it_takes(prefect: FakePrefect) -> None:
    prefect.add("slow")
    sweeper = Sweeper(Server(prefect.api), AT_ONCE, lambda _: None)
    for _ in range(60):
        prefect.beat("slow")
        assert not sweeper.look().buried


def test_a_database_that_takes_no_heartbeats_gives_no_verdicts(prefect: FakePrefect) -> None:
    prefect.add("alive")
    sweeper = Sweeper(Server(prefect.api), AT_ONCE, lambda _: None)
    sweeper.look()
    prefect.locked = True
    with pytest.raises(OSError, match="503"):
        sweeper.look()
    assert prefect.runs["alive"]["state_type"] == "RUNNING"


def test_a_training_is_not_done_again(prefect: FakePrefect) -> None:
    prefect.add("long", flow="train")
    assert sweep(Server(prefect.api), say=lambda _: None, patience=AT_ONCE).buried == ("long",)
    assert not prefect.orders


def test_what_somebody_cancelled_is_not_done_again(prefect: FakePrefect) -> None:
    prefect.add("unwanted", "CANCELLING")
    sweep(Server(prefect.api), say=lambda _: None, patience=AT_ONCE)
    assert prefect.runs["unwanted"]["state_type"] == "CANCELLED"
    assert not prefect.orders


def test_what_crashes_again_and_again_is_given_up_and_said_once(prefect: FakePrefect) -> None:
    prefect.add("poison", "CRASHED", labels={"cubecast.again": TRIES})
    lines: list[str] = []
    assert sweep(Server(prefect.api), say=lines.append, patience=AT_ONCE).given_up == ("poison",)
    assert not prefect.orders
    assert len(lines) == 1


def test_other_peoples_runs_are_theirs(prefect: FakePrefect) -> None:
    prefect.add("by hand", deployment_id=None)
    assert not sweep(Server(prefect.api), say=lambda _: None, patience=AT_ONCE).buried
