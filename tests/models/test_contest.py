from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contest import CHALLENGER, CHAMPION, Held, hold, rehearsed
from models.dossier import write_dossier
from models.gate import Decision, judge
from models.prediction import Network
from models.seen import Seen
from pipeline.catalog import runs
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.forecast import outlet
from pipeline.grid import Window
from pipeline.record import ModelRef
from tests.models.conftest import SKY

GRID = Window(0, 48, 0, 48)


def entrant(network: Network, version: str, *, until: int | None = 5) -> Network:
    """A network that has seen scenes up to a slot; None: nobody noted which."""
    seen = None if until is None else Seen(GRID, SKY.start + until * SKY.cadence)
    card = replace(network.card, seen=seen)
    return Network(network.model, card, ModelRef(network.ref.name, version, "network"))


@pytest.fixture(scope="module")
def held(sky: Settings, make_network: Callable[..., Network]) -> Held:
    network = make_network(sky, trained=True)
    other = make_network(sky, trained=True, seed=1)
    return hold(sky, entrant(network, "2"), entrant(other, "1"), snapshot(sky))


def snapshot(settings: Settings) -> str:
    return open_cube(store_of(settings)).snapshot


def test_all_meet_the_same_init_times_of_the_test_part(held: Held) -> None:
    assert held.trial.slots.tolist() == [12, 13]
    assert held.trial.block == 2
    assert held.trial.leads == (5, 10)
    trial = held.trial
    assert trial.champion is not None
    for one in (trial.challenger, trial.champion, *trial.baselines):
        assert one.squared.shape == (2, 2, 1)
        assert (one.squared > 0).all()
    assert {one.name for one in trial.baselines} == {"persistence", "extrapolation"}


def test_costs_coverage_and_a_tried_forecast_are_part_of_the_evidence(held: Held) -> None:
    trial = held.trial
    assert trial.champion is not None
    assert trial.challenger.cost > 0
    assert trial.champion.cost > 0
    assert trial.coverage is not None
    assert trial.coverage.shape == (2, 1)
    assert trial.promised == pytest.approx(0.8)
    assert trial.fault == ""
    assert set(held.rows[0].rmse) == {CHALLENGER, CHAMPION, "persistence", "extrapolation"}


def test_a_network_against_itself_is_no_better(sky: Settings, make_network: Callable[..., Network]) -> None:
    network = make_network(sky, trained=True)
    same = hold(sky, entrant(network, "2"), entrant(network, "1"), snapshot(sky)).trial
    assert same.champion is not None
    np.testing.assert_array_equal(same.challenger.squared, same.champion.squared)
    assert judge(same, sky.models).decision is Decision.INSUFFICIENT


def test_without_a_champion_there_are_the_baselines(sky: Settings, make_network: Callable[..., Network]) -> None:
    alone = hold(sky, entrant(make_network(sky, trained=True), "1"), None, snapshot(sky)).trial
    assert alone.champion is None
    assert len(alone.baselines) == 2


def test_a_champion_that_has_learned_from_what_judges_it_is_refused(
    sky: Settings, make_network: Callable[..., Network]
) -> None:
    network = make_network(sky, trained=True)
    with pytest.raises(ModelError, match=r"version 1 has seen scenes up to .*ingest newer scenes .*--force"):
        hold(sky, entrant(network, "2"), entrant(network, "1", until=13), snapshot(sky))
    with pytest.raises(ModelError, match="nobody noted what version 1 has seen"):
        hold(sky, entrant(network, "2"), entrant(network, "1", until=None), snapshot(sky))


def test_what_came_after_the_challengers_snapshot_is_not_looked_at(
    sky: Settings, make_network: Callable[..., Network]
) -> None:
    with pytest.raises(Exception, match="snapshot"):
        hold(sky, entrant(make_network(sky), "2"), None, "0" * 20)


def test_the_split_is_that_of_the_training_whatever_is_configured_by_now(
    sky: Settings, make_network: Callable[..., Network]
) -> None:
    network = entrant(make_network(sky, trained=True), "2")
    wide = network.card.samples.model_copy(update={"test_fraction": 0.4})
    then = Network(network.model, replace(network.card, samples=wide), network.ref)
    assert len(hold(sky, then, None, snapshot(sky)).trial.slots) > 2


def test_without_a_complete_test_sample_nothing_is_compared(
    sky: Settings, make_network: Callable[..., Network]
) -> None:
    network = entrant(make_network(sky), "2")
    short = network.card.samples.model_copy(update={"test_fraction": 0.01})
    then = Network(network.model, replace(network.card, samples=short), network.ref)
    with pytest.raises(NotEnoughFramesError, match="the snapshot has none: ingest more"):
        hold(sky, then, None, snapshot(sky))


def test_a_tried_forecast_is_seen_by_nobody(sky: Settings, make_network: Callable[..., Network]) -> None:
    before = list(runs(outlet(sky).place, sky.product.name))
    assert rehearsed(sky, make_network(sky, trained=True)) == ""
    assert list(runs(outlet(sky).place, sky.product.name)) == before


def test_a_network_that_says_nothing_usable_fails_its_trial(
    sky: Settings, make_network: Callable[..., Network]
) -> None:
    network = make_network(sky)
    network.model.set_weights([np.full(one.shape, np.inf) for one in network.model.get_weights()])
    assert rehearsed(sky, network) != ""


def test_a_dossier_shows_conditions_and_errors_by_lead(held: Held, sky: Settings, tmp_path: Path) -> None:
    numbers, text, picture = write_dossier(held, judge(held.trial, sky.models), ("2", "1"), tmp_path)
    said = text.read_text()
    assert "# Version 2 against version 1: insufficient evidence" in said
    assert "| evidence | **no** |" in said
    assert "| 10 min | reflectance (1) |" in said
    found: dict[str, Any] = json.loads(numbers.read_text())
    assert (found["challenger"], found["champion"], found["inits"]) == ("2", "1", [12, 13])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert timedelta(minutes=5) == SKY.cadence
