from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.appraisal import mean_skills, score, scored
from models.modelcard import FILE, Facts, model_card, write_card
from models.prediction import Network
from pipeline.config import Settings
from pipeline.forecast import outlet
from tests.models.products import prepared


@pytest.fixture(scope="module")
def facts(sky: Settings, make_network: Callable[..., Network]) -> Facts:
    material, network = prepared(sky), make_network(sky, trained=True)
    scores = score(sky, material, network)
    assert scores is not None
    rows = tuple(scores.rows(outlet(sky).bands, sky.axis.cadence))
    skills = mean_skills(scores)
    card = replace(network.card, pixel=1000.0)
    tests = scored(sky, material)
    return Facts(sky, "20260101T000000Z-abcd", material.plan, card, rows, skills, 0.12, 4321, False, tests)


def test_a_card_says_what_the_model_is_made_of_and_how_it_is_made_again(facts: Facts) -> None:
    said = model_card(facts)
    assert "# Model card: Tiny clouds" in said
    assert "4,321 parameters" in said
    assert "does **not** beat both baselines" in said
    assert f"snapshot `{facts.plan.cube.snapshot}`" in said
    assert "tagged `training-20260101T000000Z-abcd`" in said
    assert "16 scenes, 2024-06-01" in said
    assert "Sound: of every pair of parts" in said
    assert '"epochs": 2' in said
    assert str(facts.settings.workspace) not in said


def test_a_card_has_errors_by_lead_beside_the_baselines(facts: Facts) -> None:
    lines = model_card(facts).splitlines()
    (head,) = (line for line in lines if line.startswith("| lead | band | MAE"))
    assert head.count("persistence") == 2
    (row,) = (line for line in lines if line.startswith("| 10 min | reflectance (1) |"))
    assert f"{facts.rows[1].rmse['persistence']:.4g}" in row


def test_a_card_says_what_is_not_known(facts: Facts) -> None:
    said = model_card(facts)
    assert "Extrapolation's share" not in said
    assert "How far extrapolation is mixed in is not known" in said
    assert "is **not known** for this network: `cubecast study skill`" in said
    assert "fill 1 independent blocks as long as the horizon: under 8" in said


def test_a_card_of_a_training_without_test_samples_says_so(facts: Facts) -> None:
    said = model_card(replace(facts, rows=(), skills={}, tests=()))
    assert "No test init time has all its truth" in said
    assert "- not scored on whole forecasts" in said


def test_a_study_of_another_network_tells_nothing_of_this_one(facts: Facts, tmp_path: Path) -> None:
    settings = facts.settings.model_copy(update={"workspace": tmp_path})
    folder = tmp_path / "study" / "abc"
    folder.mkdir(parents=True)
    broken = {"title": "", "key": "abc", "specification": {"settings": {"training": {}}}, "entries": []}
    (folder / "results.json").write_text(json.dumps(broken))
    assert "is **not known** for this network" in model_card(replace(facts, settings=settings))
    (folder / "results.json").write_text("no JSON")
    assert "is **not known** for this network" in model_card(replace(facts, settings=settings))


def test_a_card_is_a_file_of_the_run(facts: Facts, tmp_path: Path) -> None:
    path = write_card(facts, tmp_path)
    assert path.name == FILE == "model-card.md"
    assert path.read_text() == model_card(facts)
