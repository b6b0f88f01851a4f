from __future__ import annotations

from pathlib import Path

import pytest

from models.registry import open_registry
from models.skillrecord import record, write
from models.skillstudy import Wish, study
from pipeline.config import Settings
from pipeline.errors import ServiceError
from pipeline.skill import Skill
from tests.models.products import changed


@pytest.fixture
def product(sky: Settings, tmp_path: Path) -> Settings:
    return changed(sky, tmp_path)


@pytest.fixture
def found(product: Settings) -> Skill:
    """References alone, which need no training."""
    return study(product, Wish(inits=2, variants=()))


def test_the_report_lies_beside_the_specification(product: Settings, found: Skill) -> None:
    files = write(product, found)
    assert files.report.parent == files.picture.parent == product.paths.root / "study" / found.key
    assert files.picture.name in files.report.read_text()
    assert files.picture.stat().st_size > 10_000


@pytest.mark.slow
def test_its_run_in_mlflow_holds_table_picture_and_errors_by_lead_once(product: Settings, found: Skill) -> None:
    files, registry = write(product, found), open_registry(product)
    run = record(registry, found, (files.report, files.picture))
    assert {one.path for one in registry.client.list_artifacts(run)} == {"skill.md", "skill.png"}
    history = registry.client.get_metric_history(run, "test_mae_persistence_reflectance")
    assert [one.step for one in history] == [5, 10]
    assert [one.value for one in history] == pytest.approx(found.by_lead("persistence", "MAE", 0)[0].tolist())
    assert registry.client.get_run(run).info.status == "FINISHED"
    assert record(registry, found, (files.report,)) == run


@pytest.mark.slow
def test_a_run_that_breaks_off_is_an_outage_and_is_made_again(product: Settings, found: Skill) -> None:
    files, registry = write(product, found), open_registry(product)
    with pytest.raises(ServiceError, match="try again"):
        record(registry, found, (product.workspace / "nowhere.png",))
    run = record(registry, found, (files.report,))
    assert registry.client.get_run(run).info.status == "FINISHED"
