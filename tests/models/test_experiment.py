from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio

from models.appraisal import beats_baselines, mean_skills, score
from models.experiment import Watcher, train
from models.material import plan
from models.registry import open_registry
from models.start import Start
from models.training import Progress
from pipeline.cube import open_cube
from pipeline.errors import Interrupted, ModelError, NotEnoughFramesError
from pipeline.store import CubeStore
from tests.models.products import again, changed, prepared

if TYPE_CHECKING:
    from tests.models.conftest import Trained


@pytest.mark.slow
def test_a_training_leaves_everything_that_explains_it_in_mlflow(trained: Trained, tmp_path: Path) -> None:
    client, run_id = trained.registry.client, trained.outcome.registered.run_id
    run = client.get_run(run_id)
    cube = open_cube(CubeStore(trained.settings.paths.cube))
    snapshot, areas = cube.snapshot, plan(trained.settings, cube).split
    assert run.info.status == "FINISHED"
    assert run.data.params["snapshot"] == snapshot == trained.outcome.snapshot
    assert {
        "training.epochs": "2",
        "samples.horizon": "2",
        "motion.method": "dis",
        "split_mode": "blocks",
        "split_test_start_slot": "13",
        "split_training_area": str(areas.training_area.slices),
        "split_validation_area": str(areas.validation_area.slices),
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
        "training single pixels",
        "training",
        "calibrating intervals",
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
    registry = open_registry(settings)
    with pytest.raises(NotEnoughFramesError):
        train(settings, registry)
    newest, *_ = registry.client.search_runs([registry.experiment], order_by=["attributes.start_time DESC"])
    assert newest.info.status == "FAILED"
    assert "samples.horizon" in newest.data.tags["cubecast.ended"]
    assert registry.champion_version() is None
    assert not registry.client.search_registered_models("name = 'failing'")


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_in_its_run_and_comes_to_the_same(trained: Trained, tmp_path: Path) -> None:
    settings = changed(trained.settings, tmp_path, product={"name": "stopped"})
    registry = open_registry(settings)
    steps = []

    def interrupt(at: Progress) -> None:
        steps.append((at.epoch, at.step))
        if len(steps) == 4:  # the first step of the second epoch
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(settings, registry, watcher=Watcher(step=interrupt))
    (stopped,) = registry.client.search_runs([registry.experiment])
    assert stopped.info.status == "KILLED"
    outcome = train(settings, registry, watcher=Watcher(step=lambda at: steps.append((at.epoch, at.step))))
    (run,) = registry.client.search_runs([registry.experiment])
    assert run.info.status == "FINISHED"
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert outcome.history == trained.outcome.history
    assert outcome.registered is not None
    for name in ("loss", "val_loss"):
        history = registry.client.get_metric_history(run.info.run_id, name)
        assert [one.value for one in history] == [epoch[name] for epoch in outcome.history]


@pytest.mark.slow
def test_what_goes_on_is_said_or_chosen(trained: Trained, tmp_path: Path) -> None:
    settings = changed(trained.settings, tmp_path, product={"name": "chosen"})
    registry = open_registry(settings)
    with pytest.raises(ModelError, match="there is none"):
        train(settings, registry, start=Start.RESUME)
    with pytest.raises(Interrupted):
        train(settings, registry, limit=timedelta(microseconds=1))
    others = again(settings, training={**settings.training.model_dump(), "epochs": 1})
    with pytest.raises(ModelError, match=r"others.*--fresh"):
        train(others, registry, start=Start.RESUME)
    fresh = train(others, registry)
    assert len(fresh.history) == 1 + 1  # the weights that it began with are measured first
    assert len(registry.client.search_runs([registry.experiment])) == 2
    assert len(train(settings, registry, start=Start.RESUME).history) == 1 + 2
