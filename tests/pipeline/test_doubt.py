from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.baselines import Persistence, fill
from pipeline.doubt import Doubt, Doubted
from pipeline.errors import NotEnoughFramesError
from tests.pipeline.seers import Half, context

LEVELS = (0.1, 0.9)
FREE = ((-np.inf, np.inf),)


def met(spread: float, seed: int, *, leads: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Newest values, and truths that go farther astray from lead to lead, upward more than downward."""
    rng = np.random.default_rng(seed)
    newest = rng.uniform(0, 10, (40, 50, 1)).astype(np.float32)
    away = rng.exponential(spread, (leads, 40, 50, 1)) - 0.3 * spread
    return newest, (newest + np.arange(1, leads + 1)[:, None, None, None] * away).astype(np.float32)


def test_bounds_hold_as_many_truths_of_the_same_kind_as_they_promise_at_every_lead() -> None:
    doubt = Doubt.learned([met(1.0, seed) for seed in range(4)], LEVELS, FREE)
    newest, truth = met(1.0, 9)
    low, high = (newest + doubt.offsets[:, number, None, None] for number in (0, 1))
    held = ((low <= truth) & (truth <= high)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(held, 0.8, atol=0.03)
    assert (np.diff(doubt.offsets[:, 1, 0]) > 0).all()


def test_a_bound_lies_on_its_side_of_the_point_even_where_everything_rises() -> None:
    newest, truth = met(1.0, 0)
    doubt = Doubt.learned([(newest, truth + 100)], LEVELS, FREE)
    assert (doubt.offsets[:, 0] == 0).all()
    assert (doubt.offsets[:, 1] > 100).all()


def test_what_is_unknown_counts_nowhere_and_a_lead_without_truth_has_no_width() -> None:
    newest, truth = met(1.0, 0)
    holes = truth.copy()
    holes[:, :10] = np.nan
    holes[2] = np.nan
    doubt = Doubt.learned([(newest, holes)], LEVELS, FREE)
    np.testing.assert_allclose(doubt.offsets[:2], Doubt.learned([(newest, truth)], LEVELS, FREE).offsets[:2], rtol=0.2)
    assert (doubt.offsets[2] == 0).all()
    with pytest.raises(NotEnoughFramesError, match="at least one init time"):
        Doubt.learned([], LEVELS, FREE)


def test_bounds_stay_within_what_is_possible_and_leads_beyond_the_last_have_its_doubt() -> None:
    doubt = Doubt(LEVELS, np.array([[[-1.0], [2.0]], [[-200.0], [200.0]]], np.float32), ((0.0, 60.0),))
    said = Doubted(Persistence(), doubt).predict(context(4, 5, bands=1), 3)
    point = said.of("mean")
    np.testing.assert_array_equal(said.of("q50"), said.of("mean"))
    np.testing.assert_array_equal(said.of("q10")[:, 0], np.clip(point[:, 0] - 1, 0, 60))
    np.testing.assert_array_equal(said.of("q90")[:, 1:], np.full_like(point[:, 1:], 60))


def test_what_fills_in_for_a_network_brings_its_bounds_along() -> None:
    doubt = Doubt(LEVELS, np.array([[[-1.0], [2.0]]], np.float32), FREE)
    seen = context(4, 6, bands=1)
    network = doubt.of(Half().predict(seen, 1))
    whole = fill(network, Doubted(Persistence(), doubt).predict(seen, 1))
    width = whole.of("q90") - whole.of("q10")
    np.testing.assert_array_equal(width, np.full_like(width, 3))
    np.testing.assert_array_equal(whole.of("mean")[..., 3:, :], Persistence().predict(seen, 1).of("mean")[..., 3:, :])


def test_it_survives_json() -> None:
    doubt = Doubt.learned([met(1.0, 0)], LEVELS, FREE)
    again = Doubt.from_json(json.loads(json.dumps(doubt.to_json())), FREE)
    np.testing.assert_array_equal(again.offsets, doubt.offsets)
    assert (again.levels, again.valid) == (doubt.levels, doubt.valid)
