from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.appraisal import beats_baselines, complete_tests, mean_skills, score
from models.prediction import Network
from pipeline.baselines import Ladder
from pipeline.config import Settings
from pipeline.evaluation import Scores, evaluate
from pipeline.metrics import ErrorSums
from pipeline.rungs import baselines
from tests.models.products import prepared


def test_a_test_sample_is_complete_when_the_cube_reaches_its_last_target(sky: Settings) -> None:
    material = prepared(sky)
    assert [one.init for one in material.split.test] == [12, 13, 14]
    assert [one.init for one in complete_tests(material.split, material.cube)] == [12, 13]


def test_a_model_is_scored_as_it_would_be_published(sky: Settings, make_network: Callable[..., Network]) -> None:
    """Filled up by the extrapolation, on the same pixels as the baselines."""
    material, network = prepared(sky), make_network(sky, trained=True)
    found = score(sky, material, network)
    assert found is not None
    references = baselines(sky)
    published = Ladder((network.champion(sky.forecast.tile).predictor, references["extrapolation"]))
    tests = complete_tests(material.split, material.cube)
    expected = evaluate({"model": published, **references}, material.cube, tests, sky.samples, (0,))
    assert set(found.sums) == set(expected.sums)
    for name, sums in expected.sums.items():
        np.testing.assert_array_equal(found.sums[name].count, sums.count)
        np.testing.assert_allclose(found.sums[name].squared, sums.squared)
    assert len({sums.count.tobytes() for sums in found.sums.values()}) == 1


def test_without_a_complete_test_sample_there_is_no_score(sky: Settings, make_network: Callable[..., Network]) -> None:
    material = prepared(sky)
    unfinished = replace(material.split, test=material.split.test[-1:])
    none = replace(material, plan=replace(material.plan, split=unfinished))
    assert score(sky, none, make_network(sky)) is None
    assert mean_skills(None) == {}


def sums(*squares: float) -> ErrorSums:
    """Mean squared errors, a lead each."""
    squared = np.array(squares)[:, np.newaxis]
    return ErrorSums(np.full(squared.shape, 10), squared, 10 * squared, squared)


def test_mean_skill_counts_every_lead_alike_and_leaves_out_what_makes_no_error() -> None:
    scores = Scores({"model": sums(1, 6), "persistence": sums(2, 8), "extrapolation": sums(0, 3)}, 1)
    assert mean_skills(scores) == {"persistence": pytest.approx(0.375), "extrapolation": pytest.approx(-1)}
    perfect = Scores({"model": sums(0, 0), "persistence": sums(0, 0)}, 1)
    assert mean_skills(perfect) == {}


@pytest.mark.parametrize(
    ("validation", "test", "good"),
    [
        (0.1, {"persistence": 0.3, "extrapolation": 0.01}, True),
        (0.1, {"persistence": 0.3, "extrapolation": -0.01}, False),
        (0.1, {"persistence": -0.1, "extrapolation": 0.2}, False),
        (-0.1, {"persistence": 0.3, "extrapolation": 0.1}, False),
        (0.0, {}, False),
        (math.nan, {}, False),
        (0.1, {}, True),
    ],
)
def test_a_good_model_beats_both_baselines_on_validation_chips_and_on_the_test_part(
    validation: float, test: dict[str, float], good: bool
) -> None:
    assert beats_baselines(validation, test) is good
