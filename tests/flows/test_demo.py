from __future__ import annotations

from pathlib import Path

import pytest

from flows.demo import check, demo, write_product
from pipeline.config import load
from pipeline.errors import CubecastError, NoSkillError
from pipeline.metrics import ErrorRow


def row(forecast: float, persistence: float) -> ErrorRow:
    errors = {"forecast": forecast, "persistence": persistence, "extrapolation": 1.0}
    return ErrorRow(5, "reflectance", "1", errors, errors)


def test_a_model_that_does_not_beat_persistence_is_an_error() -> None:
    check([row(0.9, 1.0), row(1.0, 1.05)])
    with pytest.raises(NoSkillError, match="must beat persistence"):
        check([row(0.9, 1.0), row(1.2, 1.0)])


def test_a_demo_without_scores_is_an_error() -> None:
    with pytest.raises(NoSkillError):
        check([])


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("precious", encoding="utf-8")
    with pytest.raises(CubecastError, match="holds something else"):
        demo(tmp_path)
    assert mine.read_text(encoding="utf-8") == "precious"


def test_the_demos_configuration_comes_from_looking_at_its_scenes(tmp_path: Path) -> None:
    settings = load(write_product(tmp_path))
    assert settings.scenes.folder == tmp_path / "scenes"
    assert settings.bands[0].nodata == 65535
    assert settings.product.name == "demo"
