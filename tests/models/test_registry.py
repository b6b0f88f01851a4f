from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from models.prediction import Network
from models.registry import Registered, Registry, open_registry, tracking_uri
from pipeline.config import Settings
from pipeline.errors import ModelError, ServiceError
from pipeline.predictor import Context

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


def register(registry: Registry, network: Network, *, good: bool) -> Registered:
    with registry.run("test") as tracker:
        return registry.register(tracker, network.model, network.card, good=good)


def loaded(registry: Registry, settings: Settings) -> Network:
    network = registry.load_champion(settings)
    assert network is not None
    return network


def test_a_network_survives_the_registry_bit_by_bit(product: Settings, make_network: Callable[..., Network]) -> None:
    registry, network = open_registry(product), make_network(product, trained=True)
    registered = register(registry, network, good=True)
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
    document: dict[str, Any] = product.model_dump() | {"samples": samples | {"horizon": 1}}
    assert loaded(registry, Settings(**document)).card.network.horizon == 2


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
    shutil.rmtree(product.paths.mlflow / "artifacts")
    with pytest.raises(ModelError, match=r"version 1 cannot.*let the alias 'champion' point to another version"):
        registry.load_champion(product)


def test_a_run_is_finished_or_failed(product: Settings) -> None:
    registry = open_registry(product)
    with registry.run("good") as good:
        assert registry.client.get_run(good.run_id).info.status == "RUNNING"
    with pytest.raises(KeyboardInterrupt), registry.run("bad") as bad:
        raise KeyboardInterrupt
    assert registry.client.get_run(good.run_id).info.status == "FINISHED"
    assert registry.client.get_run(bad.run_id).info.status == "FAILED"
    assert registry.client.get_run(good.run_id).info.run_name == "good"


def test_a_tracker_keeps_parameters_files_and_the_numbers_that_are_numbers(product: Settings, tmp_path: Path) -> None:
    registry = open_registry(product)
    note = tmp_path / "note.txt"
    note.write_text("read me")
    with registry.run("test") as tracker:
        tracker.parameters({"a": 1, "long": "x" * 9000})
        for step, loss in enumerate([3.0, float("nan"), float("inf"), 0.5]):
            tracker.metrics({"loss": loss}, step)
        tracker.artifact(note, "notes")
    run = registry.client.get_run(tracker.run_id)
    assert run.data.params["a"] == "1"
    assert len(run.data.params["long"]) == 5000
    history = registry.client.get_metric_history(tracker.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(0, 3.0), (3, 0.5)]
    path = registry.client.download_artifacts(tracker.run_id, "notes/note.txt", str(tmp_path))
    assert Path(path).read_text() == "read me"


def test_a_product_finds_its_experiment_again(product: Settings) -> None:
    assert open_registry(product).experiment == open_registry(product).experiment


def test_a_server_that_does_not_answer_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_settings: Callable[..., Settings]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = tiny_settings(tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer.*mend tracking\.uri"):
        open_registry(dead)


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
