from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

from models.experiment import (
    Material,
    Watcher,
    beats_baselines,
    complete_tests,
    mean_skills,
    network_spec,
    prepare,
    score,
    train,
)
from models.prediction import Network
from pipeline.baselines import Ladder
from pipeline.config import Settings
from pipeline.cube import open_cube
from pipeline.errors import ConfigError, NotEnoughFramesError
from pipeline.evaluation import Scores, evaluate
from pipeline.forecast import baselines
from pipeline.ingest import ingest
from pipeline.metrics import ErrorSums
from pipeline.samples import SplitMode
from pipeline.store import CubeStore
from pipeline.synthetic_scenes import write_scene

if TYPE_CHECKING:
    from tests.models.conftest import Trained

HUGE = 60_000  # DN


def prepared(settings: Settings, **watched: Any) -> Material:
    return prepare(settings, open_cube(CubeStore(settings.paths.cube)), Watcher(**watched))


def changed(settings: Settings, root: Path, **sections: Any) -> Settings:
    """The same cube with other settings."""
    document: dict[str, Any] = settings.model_dump() | {"workspace": root / "work"} | sections
    made = Settings(**document)
    made.workspace.mkdir()
    made.paths.cube.symlink_to(settings.paths.cube)
    return made


# --- what a training learns from ------------------------------------------------------------------


def test_nothing_of_the_test_part_changes_what_is_learned_from(sky: Settings, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clean = prepared(sky, prepared=lambda *at: told.append(at))
    document: dict[str, Any] = sky.model_dump()
    spoiled = Settings(
        **document | {"workspace": tmp_path / "work", "scenes": document["scenes"] | {"folder": tmp_path}}
    )
    for path in sky.scenes.folder.glob("*.tif"):
        shutil.copy(path, tmp_path)
    axis, grid = sky.axis.axis(), sky.grid.geobox()
    assert clean.split.test_start == 13
    for slot in range(clean.split.test_start, 16):
        time = axis.valid_time(slot)
        dn = np.full(grid.shape, HUGE, np.uint16)
        write_scene(tmp_path / f"synthetic_{time:%Y%m%dT%H%M}Z.tif", dn, grid, time)
    ingest(spoiled)
    found = prepared(spoiled)
    assert float(np.nanmax(found.cube.read([14]).values)) > 50
    assert found.card.statistics.mean == clean.card.statistics.mean
    assert found.card.statistics.deviation == clean.card.statistics.deviation
    for step in range(3):
        np.testing.assert_array_equal(found.training.read(step).targets, clean.training.read(step).targets)
    for one, other in zip(found.validation, clean.validation, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
    assert told[-1] == (len(clean.split.training), len(clean.split.training))


def test_statistics_come_from_the_training_area_alone(sky: Settings) -> None:
    material = prepared(sky)
    area = material.split.training_area
    assert material.split.mode is SplitMode.BLOCKS
    slots = sorted({slot for one in material.split.training for slot in one.slots})
    values = material.cube.read(slots, area).values.astype(np.float64)
    assert material.card.statistics.mean[0] == pytest.approx(float(np.nanmean(values)))
    whole = material.cube.read(slots).values.astype(np.float64)
    assert material.card.statistics.mean[0] != pytest.approx(float(np.nanmean(whole)))


def test_a_grid_smaller_than_the_buffer_still_has_room_to_learn(sky: Settings) -> None:
    material = prepared(sky)
    assert sky.samples.block_buffer == 48 == sky.grid.width
    assert material.training.size == (16, 16)
    assert material.training.area.shape == (48, 26)
    assert all(chips.frames.shape[2:4] == (16, 8) for chips in material.validation)
    assert sum(len(chips.frames) for chips in material.validation) == 48


def test_a_grid_smaller_than_a_patch_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"validation_fraction": 0.05}
    with pytest.raises(ConfigError, match=r"patch of 4 pixels, found one of 48 x 2.*samples\.validation_fraction"):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_cube_too_short_to_train_on_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"horizon": 20}
    with pytest.raises(NotEnoughFramesError, match=r"lower samples\.horizon"):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_test_sample_is_complete_when_the_cube_reaches_its_last_target(sky: Settings) -> None:
    material = prepared(sky)
    assert [one.init for one in material.split.test] == [12, 13, 14]
    assert [one.init for one in complete_tests(material.split, material.cube)] == [12, 13]


def test_a_network_is_shaped_by_the_configuration(sky: Settings) -> None:
    spec = network_spec(sky)
    assert (spec.context_frames, spec.horizon, spec.bands_in, spec.bands_out) == (2, 2, 1, (0,))
    assert (spec.patch, spec.filters, spec.attention_units) == (4, 4, 4)


# --- what it is worth -----------------------------------------------------------------------------


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
    none = replace(material, split=replace(material.split, test=material.split.test[-1:]))
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


# --- a whole training -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_leaves_everything_that_explains_it_in_mlflow(trained: Trained, tmp_path: Path) -> None:
    client, run_id = trained.registry.client, trained.outcome.registered.run_id
    run = client.get_run(run_id)
    snapshot = open_cube(CubeStore(trained.settings.paths.cube)).snapshot
    assert run.info.status == "FINISHED"
    assert run.data.params["snapshot"] == snapshot == trained.outcome.snapshot
    assert {
        "training.epochs": "2",
        "samples.horizon": "2",
        "motion.method": "dis",
        "split_mode": "blocks",
        "split_test_start_slot": "13",
        "split_training_area": "(slice(0, 48, None), slice(0, 26, None))",
    }.items() <= run.data.params.items()
    epochs = {name: client.get_metric_history(run_id, name) for name in ("loss", "val_loss", "val_skill")}
    for name, history in epochs.items():
        assert [(one.step, one.value) for one in history] == [
            (epoch, entry[name]) for epoch, entry in enumerate(trained.outcome.history)
        ]
    for row in trained.outcome.table(trained.settings):
        for name in ("model", "persistence", "extrapolation"):
            leads = client.get_metric_history(run_id, f"test_mae_{name}_reflectance")
            assert {one.step: one.value for one in leads}[row.lead_minutes] == pytest.approx(row.mae[name])
    listed = {file.path for folder in ("attention", "card") for file in client.list_artifacts(run_id, folder)}
    assert listed == {
        "attention/attention-0005m.tif",
        "attention/attention-0010m.tif",
        "attention/forecast.png",
        "card/card.json",
    }
    card = json.loads(Path(client.download_artifacts(run_id, "card/card.json", str(tmp_path))).read_text())
    assert card["statistics"]["snapshot"] == snapshot
    with rasterio.open(client.download_artifacts(run_id, "attention/attention-0005m.tif", str(tmp_path))) as maps:
        assert maps.crs.to_epsg() == 32633
        assert maps.transform.c == trained.settings.grid.transform[2]
        np.testing.assert_allclose(maps.read().sum(axis=0), 1, atol=1e-5)


@pytest.mark.slow
def test_a_training_goes_through_its_phases_and_registers_what_it_made(trained: Trained) -> None:
    outcome, client = trained.outcome, trained.registry.client
    assert trained.phases == (
        "aligning frames along the motion",
        "training",
        "scoring the test part",
        "drawing attention maps",
        "registering",
    )
    assert (outcome.registered.name, outcome.registered.version) == ("tiny", "1")
    best = max(epoch["val_skill"] for epoch in outcome.history)
    assert outcome.good == beats_baselines(best, mean_skills(outcome.scores)) == outcome.registered.champion
    assert str(client.get_model_version("tiny", "1").run_id) == outcome.registered.run_id
    assert client.get_run(outcome.registered.run_id).data.metrics["good"] == outcome.good


@pytest.mark.slow
def test_what_a_training_registered_forecasts_like_what_it_scored(trained: Trained) -> None:
    registry, settings = trained.registry, trained.settings
    registry.client.set_registered_model_alias("tiny", "champion", "1")
    network = registry.load_champion(settings)
    assert network is not None
    again = score(settings, prepared(settings), network)
    assert again is not None
    assert trained.outcome.scores is not None
    for name, kept in trained.outcome.scores.sums.items():
        np.testing.assert_array_equal(again.sums[name].squared, kept.squared)


@pytest.mark.slow
def test_a_training_that_fails_leaves_a_failed_run_and_no_model(trained: Trained, tmp_path: Path) -> None:
    product = {"name": "failing"}
    spec = trained.settings.samples.model_dump() | {"horizon": 20}
    tracking = {"uri": f"sqlite:///{trained.settings.paths.mlflow / 'mlflow.db'}"}
    settings = changed(trained.settings, tmp_path, product=product, samples=spec, tracking=tracking)
    registry = replace(trained.registry, model_name="failing")
    with pytest.raises(NotEnoughFramesError):
        train(settings, registry)
    newest, *_ = registry.client.search_runs([registry.experiment], order_by=["attributes.start_time DESC"])
    assert newest.info.status == "FAILED"
    assert registry.champion_version() is None
    assert not registry.client.search_registered_models("name = 'failing'")
