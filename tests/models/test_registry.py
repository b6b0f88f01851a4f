from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from models.delivery import RefusedError
from models.journal import Status
from models.prediction import Network
from models.production import Production
from models.registry import TAG, Registered, Registry, open_registry, tracking_uri
from models.trainings import Delivered, Training, Trainings
from pipeline import waiting
from pipeline.config import Settings
from pipeline.errors import ModelError, ServiceError
from pipeline.forecast import forecast
from pipeline.ingest import ingest
from pipeline.passport import Verdict, verify
from pipeline.predictor import Context
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scorestore import page_name
from pipeline.waiting import Waiting

pytestmark = pytest.mark.slow  # MLflow's import and its database take 10 CPU-s, each model one

FRESH = """
import sys
import numpy as np
from pathlib import Path
from models.registry import open_registry
from pipeline.config import Settings
from pipeline.predictor import Context

settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
network = open_registry(settings).load_champion(settings)
seen = np.load(sys.argv[2])
np.save(sys.argv[3], network.bare.predict(Context(**seen), 2).values)
"""


@pytest.fixture
def product(sky: Settings, tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Settings:
    """A product of its own in the sky's tracking database."""
    return tiny_settings(tmp_path, product={"name": tmp_path.name}, tracking={"uri": tracking_uri(sky)})


def seen() -> Context:
    values = np.random.default_rng(0).normal(0.3, 0.2, (1, 2, 21, 30, 1)).astype(np.float32)
    values[0, 1, 3:9, 4:8] = np.nan
    return Context(values, np.isfinite(values), np.zeros((1, 2), np.int64), np.array([[1, 0]], np.float32))


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    with Trainings(tmp_path / "trainings").begin("snapshot", "settings") as made:
        made.journal.status(Status.RUNNING, name="test")
        yield made


def register(registry: Registry, network: Network, *, good: bool) -> Registered:
    """A training whose whole record is its model."""
    with tempfile.TemporaryDirectory() as folder, Trainings(Path(folder)).begin("snapshot", "settings") as training:
        training.journal.model(network.model, network.card.to_json(), good=good)
        training.journal.status(Status.FINISHED)
        registry.deliver(training)
        registered = training.delivered.registered
    assert registered is not None
    return registered


def run_of(registry: Registry, training: Training) -> Any:
    registry.deliver(training)
    return registry.client.get_run(training.delivered.run_id)


def history(registry: Registry, training: Training, key: str) -> list[tuple[int, float]]:
    found = registry.client.get_metric_history(training.delivered.run_id, key)
    return sorted((one.step, one.value) for one in found)


def loaded(registry: Registry, settings: Settings) -> Network:
    network = registry.load_champion(settings)
    assert network is not None
    return network


def test_a_network_survives_the_registry_bit_by_bit(product: Settings, make_network: Callable[..., Network]) -> None:
    registry, network = open_registry(product), make_network(product, trained=True)
    registered = register(registry, network, good=True)
    shutil.rmtree(product.paths.champion)
    again = loaded(registry, product)
    assert again.card == network.card
    assert (again.ref.name, again.ref.version, again.ref.source) == (product.product.name, "1", "network")
    assert registered == Registered(product.product.name, "1", registered.run_id, champion=True)
    np.testing.assert_array_equal(again.bare.predict(seen(), 2).values, network.bare.predict(seen(), 2).values)
    np.testing.assert_array_equal(again.bare.attention(seen()), network.bare.attention(seen()))


def test_the_first_good_network_is_champion_and_stays_it(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry, network = open_registry(product), make_network(product)
    assert registry.champion_version() is None
    assert registry.load_champion(product) is None
    assert not register(registry, network, good=False).champion
    assert registry.champion_version() is None
    assert register(registry, network, good=True).champion
    assert not register(registry, network, good=True).champion
    assert registry.champion_version() == "2"


def test_a_champion_that_does_not_fit_the_configuration_is_refused(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry = open_registry(product)
    register(registry, make_network(product), good=True)

    def refused(rule: str, **changed: Any) -> None:
        document: dict[str, Any] = product.model_dump() | changed
        with pytest.raises(ModelError, match=rule):
            registry.load_champion(Settings(**document))

    band, samples = product.bands[0].model_dump(), product.samples.model_dump()
    refused(r"knows \('reflectance',\), configured \('other',\)", bands=[band | {"name": "other"}])
    refused("sees 2 frames.*context_frames is 3", samples=samples | {"context_frames": 3})
    refused("forecasts 2 slots ahead.*horizon 3", samples=samples | {"horizon": 3})
    refused(r"knows none, \[covariates\] has time_of_day", covariates={"time_of_day": True})
    document: dict[str, Any] = product.model_dump() | {"samples": samples | {"horizon": 1}}
    assert loaded(registry, Settings(**document)).card.network.horizon == 2


def test_a_champion_that_fits_no_more_gives_way_to_the_next_good_network(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    document: dict[str, Any] = product.model_dump()
    document["samples"]["horizon"] = 3
    longer = Settings(**document)
    assert register(open_registry(product), make_network(product), good=True).champion
    registry, network = open_registry(longer), make_network(longer)
    assert not register(registry, network, good=False).champion
    assert register(registry, network, good=True).champion
    assert loaded(registry, longer).card.network.horizon == 3
    assert not register(registry, network, good=True).champion


def test_a_network_of_older_layers_is_refused_and_gives_way(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry, network = open_registry(product), make_network(product)
    old = replace(network, card=replace(network.card, version=1))
    assert register(registry, old, good=True).champion
    with pytest.raises(ModelError, match="older cubecast"):
        registry.load_champion(product)
    assert register(registry, network, good=True).champion


def test_a_static_layer_that_has_changed_makes_its_network_unusable(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry, network = open_registry(product), make_network(product)
    register(registry, replace(network, card=replace(network.card, digest="of another file")), good=True)
    with pytest.raises(ModelError, match="a static layer's file has changed"):
        registry.load_champion(product)


def test_a_champion_of_other_forecast_bands_is_refused(product: Settings, make_network: Callable[..., Network]) -> None:
    band: dict[str, Any] = product.bands[0].model_dump()
    document: dict[str, Any] = product.model_dump() | {"bands": [band, band | {"name": "two", "index": 2}]}
    registry, both = open_registry(product), Settings(**document)
    register(registry, make_network(both), good=True)
    document["bands"][0]["forecast"] = False
    with pytest.raises(ModelError, match=r"forecasts the bands \['reflectance', 'two'\], configured are \['two'\]"):
        registry.load_champion(Settings(**document))


def test_a_champion_whose_files_are_gone_is_an_error_that_says_what_to_do(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry = open_registry(product)
    register(registry, make_network(product), good=True)
    for folder in (product.paths.mlflow / "artifacts", product.paths.champion):
        shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"version 1 cannot.*let the alias 'champion' point to another version"):
        registry.load_champion(product)


def test_a_run_has_the_status_of_its_training_and_runs_again_after_a_resume(
    product: Settings, training: Training
) -> None:
    registry = open_registry(product)
    run = run_of(registry, training)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "test")
    assert run.info.start_time == int(training.started.timestamp() * 1000)
    assert run.data.tags["cubecast.training"] == training.id
    for status in (Status.KILLED, Status.RUNNING, Status.FAILED, Status.RUNNING, Status.FINISHED):
        training.journal.status(status, at=2e9)
        info = run_of(registry, training).info
        assert (info.run_id, info.status) == (run.info.run_id, status)
        assert (info.end_time == 2e12) or status is Status.RUNNING
    training.journal.status(Status.KILLED, note="stopped at step 3")
    assert run_of(registry, training).data.tags["cubecast.ended"] == "stopped at step 3"


def test_a_run_keeps_parameters_files_and_the_numbers_that_are_numbers(
    product: Settings, training: Training, tmp_path: Path
) -> None:
    registry, journal = open_registry(product), training.journal
    (tmp_path / "note.txt").write_text("read me")
    journal.parameters({"a": 1, "long": "x" * 9000} | {f"p{number}": number for number in range(250)})
    for step, loss in enumerate([3.0, float("nan"), float("inf"), 0.1 + 0.2]):
        journal.metrics({"loss": loss}, step)
    journal.artifact(tmp_path / "note.txt", "notes")
    run = run_of(registry, training)
    assert (run.data.params["a"], run.data.params["p249"], len(run.data.params)) == ("1", "249", 252)
    assert len(run.data.params["long"]) == 5000
    assert history(registry, training, "loss") == [(0, 3.0), (3, 0.1 + 0.2)]
    path = registry.client.download_artifacts(run.info.run_id, "notes/note.txt", str(tmp_path))
    assert Path(path).read_text() == "read me"


def test_mlflow_drops_exact_repetitions(product: Settings, training: Training) -> None:
    registry, journal = open_registry(product), training.journal
    journal.parameters({"batch": 4})
    for step in range(60):
        journal.metrics({f"m{number}": step / 7 for number in range(40)}, step)
    first = run_of(registry, training)
    journal.metrics({"m0": 8.0}, 60)
    training.note_delivered(Delivered(first.info.run_id))
    run_of(registry, training)
    training.note_delivered(Delivered())
    assert run_of(registry, training).info.run_id == first.info.run_id
    assert history(registry, training, "m0") == [*((step, step / 7) for step in range(60)), (60, 8.0)]
    assert history(registry, training, "m39") == [(step, step / 7) for step in range(60)]


def test_a_record_told_anew_makes_no_second_model(
    product: Settings, training: Training, make_network: Callable[..., Network]
) -> None:
    registry, network = open_registry(product), make_network(product)
    training.journal.model(network.model, network.card.to_json(), good=True)
    first = run_of(registry, training)
    registered = training.delivered.registered
    training.note_delivered(Delivered())
    again = run_of(registry, training)
    assert training.delivered.registered == registered
    assert again.outputs.model_outputs == first.outputs.model_outputs
    assert len(again.outputs.model_outputs) == 1
    assert len(registry.client.search_model_versions(f"name = '{product.product.name}'")) == 1


def test_a_model_whose_upload_broke_off_is_taken_up_again(
    product: Settings, training: Training, make_network: Callable[..., Network]
) -> None:
    registry, network = open_registry(product), make_network(product, trained=True)
    run = run_of(registry, training).info.run_id
    begun = registry.client.create_logged_model(registry.experiment, "model", run)
    training.journal.model(network.model, network.card.to_json(), good=True)
    outputs = run_of(registry, training).outputs.model_outputs
    assert [one.model_id for one in outputs] == [begun.model_id]
    np.testing.assert_array_equal(
        loaded(registry, product).bare.predict(seen(), 2).values, network.bare.predict(seen(), 2).values
    )


def test_doubles_that_a_server_made_late_are_gone_at_the_end(
    product: Settings, training: Training, make_network: Callable[..., Network]
) -> None:
    registry, network, name = open_registry(product), make_network(product), product.product.name
    client = registry.client
    training.journal.model(network.model, network.card.to_json(), good=True)
    run = run_of(registry, training).info.run_id
    (version,) = client.search_model_versions(f"name = '{name}'")
    client.create_run(registry.experiment, tags={TAG: training.id})
    client.create_logged_model(registry.experiment, "model", run)
    client.create_model_version(name, str(version.source), run, model_id=version.model_id)
    training.journal.status(Status.FINISHED)
    registry.deliver(training)
    found = client.search_runs([registry.experiment], f"tags.`{TAG}` = '{training.id}'")
    assert [one.info.run_id for one in found] == [run]
    assert [one.version for one in client.search_model_versions(f"name = '{name}'")] == [version.version]
    assert len(client.search_logged_models([registry.experiment], f"source_run_id = '{run}'")) == 1
    assert registry.champion_version() == str(version.version)


def test_a_run_that_somebody_deleted_is_an_error_that_says_what_to_do(product: Settings, training: Training) -> None:
    registry = open_registry(product)
    registry.client.delete_run(run_of(registry, training).info.run_id)
    training.journal.status(Status.FINISHED)
    with pytest.raises(RefusedError, match="was deleted in MLflow: restore it"):
        registry.deliver(training)
    assert training.waiting == 1


def test_what_mlflow_does_not_take_is_no_outage(product: Settings, training: Training) -> None:
    training.journal.metrics({"not a * name": 1.0}, 0)
    with pytest.raises(RefusedError, match="does not take a record: Invalid value"):
        open_registry(product).deliver(training)


def test_a_product_finds_its_experiment_again(product: Settings) -> None:
    assert open_registry(product).experiment == open_registry(product).experiment


def test_a_server_that_does_not_answer_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_settings: Callable[..., Settings], training: Training
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = tiny_settings(tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    silence = r"MLflow at http://127\.0\.0\.1:9 does not answer.*mend tracking\.uri"
    with pytest.raises(ServiceError, match=silence):
        open_registry(dead)
    registry = open_registry(dead, now=False)
    with pytest.raises(ServiceError, match=silence):
        registry.deliver(training)
    assert training.waiting == 1


def test_a_champion_loads_without_pickle_in_a_process_that_knows_nothing_of_its_training(
    product: Settings, make_network: Callable[..., Network], tmp_path: Path
) -> None:
    network, given = make_network(product, trained=True), seen()
    register(open_registry(product), network, good=True)
    (tmp_path / "settings.json").write_text(product.model_dump_json())
    arrays: Mapping[str, Any] = {name: getattr(given, name) for name in ("values", "validity", "times", "ages")}
    np.savez(tmp_path / "seen.npz", **arrays)
    names = ["settings.json", "seen.npz", "said.npy"]
    subprocess.run(
        [sys.executable, "-c", FRESH, *(str(tmp_path / name) for name in names)],
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        check=True,
        timeout=300,
    )
    np.testing.assert_allclose(np.load(tmp_path / "said.npy"), network.bare.predict(given, 2).values, atol=1e-6)


def test_the_logged_model_holds_no_pickle(product: Settings, make_network: Callable[..., Network]) -> None:
    register(open_registry(product), make_network(product), good=True)
    files = {path.name for path in (product.paths.mlflow / "artifacts").rglob("*") if path.is_file()}
    assert {"model.keras", "card.json", "MLmodel", "requirements.txt"} <= files
    assert not {name for name in files if name.endswith((".pkl", ".pickle", ".cloudpickle"))}
    (needed,) = (product.paths.mlflow / "artifacts").rglob("requirements.txt")
    assert f"keras=={keras.__version__}" in needed.read_text()
    (card,) = (product.paths.mlflow / "artifacts").rglob("card.json")
    assert json.loads(card.read_text())["bands"] == ["reflectance"]


def test_any_version_is_loaded_by_its_number_champion_or_not(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry = open_registry(product)
    first, second = make_network(product, trained=True), make_network(product, trained=True, seed=1)
    for network in (first, second):
        register(registry, network, good=True)
    assert registry.champion_version() == "1"
    for version, network in (("1", first), ("2", second)):
        found = registry.load_version(product, version)
        assert found.ref.version == version
        np.testing.assert_array_equal(found.bare.predict(seen(), 2).values, network.bare.predict(seen(), 2).values)


def test_a_version_that_is_gone_is_an_error_that_names_it(
    product: Settings, make_network: Callable[..., Network]
) -> None:
    registry = open_registry(product)
    register(registry, make_network(product), good=True)
    for version in ("2", "nonsense"):
        with pytest.raises(ModelError, match=f"{product.product.name} version {version} \\(any more\\)"):
            registry.load_version(product, version)


def test_a_published_run_is_made_again_from_the_version_that_the_registry_keeps(
    product: Settings, sky: Settings, make_network: Callable[..., Network], tmp_path: Path
) -> None:
    registry = open_registry(product)
    (tmp_path / "inbox").symlink_to(sky.scenes.folder)
    ingest(product)  # a cube keeps the name of its product
    register(registry, make_network(product, trained=True), good=True)
    tile = product.forecast.tile
    run = forecast(product, loaded(registry, product).champion(tile))

    def load(settings: Settings, ref: ModelRef) -> Champion:
        return open_registry(settings).load_version(settings, ref.version).champion(settings.forecast.tile)

    found = verify(product, run, load)
    assert (found.verdict, found.rasters) == (Verdict.EQUAL, 4), found
    registry.client.delete_model_version(product.product.name, "1")
    found = verify(product, run, load)
    assert found.verdict is Verdict.LOST
    assert "version 1 (any more)" in found.obstacles[0]


def test_scores_of_forecasts_go_to_one_run_a_product_and_each_number_once(product: Settings) -> None:
    init = product.axis.origin
    path = page(product.paths.verification, "abc", init)
    save(path, RunScores("abc", init, "any 1", (Score(5, "sky", FORECAST, 10, 10.0, 10.0),)))
    known = Waiting()
    known.note(page_name("abc", init), [5, 10], [5])
    waiting.save(product.paths.verification / "state" / "waiting.json", known)
    registry = open_registry(product)
    production = Production(product.paths.verification, product.axis.axis(), registry.uri)
    assert registry.tell(production) == 1
    mark = product.paths.verification / "state" / "production.json"
    run = json.loads(mark.read_text())["run"]
    mark.unlink()  # killed before it was noted
    assert registry.tell(production) == 1
    assert json.loads(mark.read_text())["run"] == run
    found = registry.client.get_run(run)
    assert found.info.run_name == "production"
    (number,) = registry.client.get_metric_history(run, "mae/sky/0005min")
    assert (number.value, number.step, number.timestamp) == (1.0, 0, int(init.timestamp() * 1000))
