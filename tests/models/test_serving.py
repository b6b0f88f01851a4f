from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from flows import product_verbs, verbs
from models import registry as registries
from models import serving
from models.journal import MODEL_FILE
from models.keepsake import DamagedError, Files, Keepsake, Version
from models.prediction import Network
from models.registry import Registry, open_registry
from models.serving import Asked, Origin, champion, glimpse, load, serve, version, within
from models.trainings import Trainings
from pipeline.config import Settings
from pipeline.config import load as load_settings
from pipeline.errors import ModelError, ServiceError
from pipeline.passport import Verdict
from tests.faults.mlflow_server import HOST, Server

Networks = Callable[..., Network]


@dataclass
class Shelf:
    """A registry in memory: files by version number; it can be silent, and slow."""

    files: dict[str, Files] = field(default_factory=dict)
    champion: str | None = None
    silent: bool = False
    slow: float = 0.0
    fetched: list[str] = field(default_factory=list)
    uri: str = "http://user:secret@mlflow:5000"
    answer_within: float | None = 5.0

    def find(self, number: str | None) -> Version | None:
        time.sleep(self.slow)
        if self.silent:
            raise ServiceError(f"MLflow at {self.uri} does not answer: refused. Start it")
        found = self.files.get(number or self.champion or "")
        return None if found is None else found.version

    def fetch(self, version: Version) -> Files:
        self.fetched.append(version.number)
        return self.files[version.number]


def files_of(network: Network, folder: Path, number: str, *, noted: bool = True) -> Files:
    path = folder / f"{number}.keras"
    network.model.save(path)
    card = json.dumps(network.card.to_json()).encode()
    found = Files(Version("tiny", number, f"run {number}"), card, path.read_bytes())
    return replace(found, version=replace(found.version, hashes=found.hashes)) if noted else found


def damaged(files: Files) -> Files:
    """One bit of the weights is another."""
    content = bytearray(files.model)
    content[len(content) // 2] ^= 4
    return replace(files, model=bytes(content))


def weights(network: Network | None) -> list[Any]:
    assert network is not None
    return network.model.get_weights()


@pytest.fixture
def product(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Settings:
    return tiny_settings(tmp_path)


@pytest.fixture
def shelf(product: Settings, make_network: Networks, tmp_path: Path) -> Shelf:
    """The first of two versions is champion."""
    both = [files_of(make_network(product, trained=True, seed=seed), tmp_path, str(seed)) for seed in (1, 2)]
    return Shelf({files.version.number: files for files in both}, "1")


def break_copy(settings: Settings) -> None:
    (path,) = settings.paths.champion.glob(f"*/{MODEL_FILE}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


# --- MLflow has the word --------------------------------------------------------------------------


def test_a_champion_is_kept_when_it_is_loaded_and_then_needs_no_download(product: Settings, shelf: Shelf) -> None:
    first, second = serve(product, shelf), serve(product, shelf)
    assert (first.origin, first.reason) == (Origin.MLFLOW, "")
    assert (second.origin, second.reason, second.why) == (Origin.KEPT, "", "")
    assert shelf.fetched == ["1"]
    for one, other in zip(weights(first.network), weights(second.network), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.network is not None
    assert second.network is not None
    assert (second.network.ref, second.network.card) == (first.network.ref, first.network.card)


def test_a_glimpse_knows_what_names_a_run_without_loading_the_network(
    product: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = serve(product, shelf).network
    assert network is not None
    monkeypatch.setattr(serving, "load", lambda *_: pytest.fail("loaded"))
    seen = glimpse(product, shelf)
    assert seen is not None
    assert (seen.ref, seen.motion) == (network.ref, network.champion().motion)
    assert shelf.fetched == ["1"]


@pytest.mark.parametrize("change", [{"champion": "2"}, {"champion": None}, {"silent": True}], ids=str)
def test_what_takes_more_than_a_glimpse_is_not_guessed(product: Settings, shelf: Shelf, change: dict[str, Any]) -> None:
    assert glimpse(product, shelf) is None  # nothing is kept yet
    serve(product, shelf)
    assert glimpse(product, replace(shelf, **change)) is None


def test_a_damaged_copy_is_left_to_whoever_loads_it(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    break_copy(product)
    assert glimpse(product, shelf) is None


def test_a_server_that_is_away_is_waited_for_once(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    shelf.slow, shelf.answer_within = 1.0, 0.1
    asked = Asked(shelf)
    assert glimpse(product, asked) is None
    shelf.slow = 0.0
    assert serve(product, asked).origin is Origin.KEPT
    assert "has not" in serve(product, asked).reason
    assert "has not" not in serve(product, Asked(shelf)).reason


def test_the_next_champion_is_fetched_and_kept(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    shelf.champion = "2"
    served = serve(product, shelf)
    assert served.network is not None
    assert served.network.ref.version == "2"
    kept = Keepsake(product.paths.champion).read()
    assert kept is not None
    assert kept.version.number == "2"


def test_where_mlflow_says_that_there_is_no_champion_there_is_none_in_the_next_outage_either(
    product: Settings, shelf: Shelf
) -> None:
    serve(product, shelf)
    shelf.champion = None
    assert serve(product, shelf) == serving.Served(None, Origin.MLFLOW)
    assert champion(product, shelf).network is None
    shelf.silent = True
    assert "No copy of a champion is kept here" in serve(product, shelf).reason


def test_the_same_number_of_another_server_is_another_model(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    other = shelf.files["2"]
    moved = replace(other, version=replace(other.version, number="1"))
    served = serve(product, Shelf({"1": moved}, "1"))
    assert served.origin is Origin.MLFLOW
    np.testing.assert_array_equal(weights(served.network)[0], weights(load(other, product))[0])


def test_a_version_without_noted_hashes_is_served_as_ever(product: Settings, shelf: Shelf) -> None:
    shelf.files["1"] = replace(shelf.files["1"], version=replace(shelf.files["1"].version, hashes={}))
    assert [serve(product, shelf).origin for _ in range(2)] == [Origin.MLFLOW, Origin.KEPT]


# --- MLflow is away, or its files are damaged -----------------------------------------------------


def test_while_mlflow_is_silent_the_copy_is_the_champion_and_says_so(product: Settings, shelf: Shelf) -> None:
    before = serve(product, shelf)
    shelf.silent = True
    served = serve(product, shelf)
    assert served.origin is Origin.KEPT
    np.testing.assert_array_equal(weights(served.network)[0], weights(before.network)[0])
    assert "MLflow at http://mlflow:5000 does not answer" in served.why
    assert "the copy of" in served.why
    assert "secret" not in served.why


def test_who_does_not_answer_in_time_does_not_answer(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    shelf.slow, shelf.answer_within = 30, 0.2
    start = time.monotonic()
    served = serve(product, shelf)
    assert time.monotonic() - start < 10
    assert served.origin is Origin.KEPT
    assert "answers within 0 s, but has not" in served.reason


def test_files_of_another_hash_than_noted_are_not_used(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    shelf.champion, shelf.files["2"] = "2", damaged(shelf.files["2"])
    served = serve(product, shelf)
    assert served.network is not None
    assert (served.origin, served.network.ref.version) == (Origin.KEPT, "1")
    assert "model.keras of tiny version 2 in MLflow has the hash" in served.why


def test_files_that_cannot_be_read_are_not_used_where_no_hash_was_noted(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    broken = replace(shelf.files["2"], model=b"PK\x03\x04 half a file")
    shelf.champion, shelf.files["2"] = "2", replace(broken, version=replace(broken.version, hashes={}))
    served = serve(product, shelf)
    assert served.origin is Origin.KEPT
    assert "those of tiny version 2 cannot" in served.why


def test_a_damaged_copy_is_put_right_from_mlflow(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    break_copy(product)
    served = serve(product, shelf)
    assert (served.origin, served.why) == (Origin.MLFLOW, "")
    assert "put right from MLflow" in served.reason
    again = serve(product, shelf)
    assert (again.origin, again.reason, shelf.fetched) == (Origin.KEPT, "", ["1", "1"])


def test_a_damaged_copy_is_never_used_and_the_reason_says_both(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    break_copy(product)
    shelf.silent = True
    served = serve(product, shelf)
    assert (served.network, served.origin) == (None, Origin.NOWHERE)
    assert "does not answer" in served.why
    assert "model.keras of tiny version 1 that is kept has the hash" in served.why
    with pytest.raises(ServiceError, match=r"does not answer.*that is kept has the hash"):
        champion(product, shelf)


def test_without_a_copy_an_outage_is_the_reason(product: Settings, shelf: Shelf) -> None:
    shelf.silent = True
    served = serve(product, shelf)
    assert (served.network, served.origin) == (None, Origin.NOWHERE)
    assert served.why.endswith("No copy of a champion is kept here")


def test_a_model_that_does_not_fit_any_more_is_the_reason_and_its_copy_fits_no_better(
    product: Settings, shelf: Shelf
) -> None:
    document: dict[str, Any] = product.model_dump()
    document["samples"]["horizon"] = 3
    longer = Settings(**document)
    for _ in range(2):
        served = serve(longer, shelf)
        assert (served.network, served.origin) == (None, Origin.NOWHERE)
        assert "samples.horizon 3. Train again" in served.why
        serve(product, shelf)  # the copy is there now
    with pytest.raises(ModelError, match="Train again"):
        champion(longer, shelf)


def test_whatever_goes_wrong_is_a_reason(product: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: str | None) -> Version:
        raise ZeroDivisionError(f"at {product.workspace}/mlflow\nand more")

    monkeypatch.setattr(shelf, "find", fail)
    assert serve(product, shelf).why == "ZeroDivisionError: at WORKSPACE/mlflow"


def test_a_disk_that_takes_no_copy_does_not_matter_to_the_forecast(
    product: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Keepsake, files: Files) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Keepsake, "keep", full)
    served = serve(product, shelf)
    assert served.network is not None
    assert (served.origin, served.why) == (Origin.MLFLOW, "")
    assert "Free some space" in served.reason


# --- any version ----------------------------------------------------------------------------------


def test_a_version_is_had_by_its_number_and_only_a_champion_is_kept(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    assert version(product, shelf, "2").ref.version == "2"
    kept = Keepsake(product.paths.champion).read()
    assert kept is not None
    assert kept.version.number == "1"
    with pytest.raises(ModelError, match=r"no tiny version 3 \(any more\)"):
        version(product, shelf, "3")
    assert serve(product, shelf).origin is Origin.KEPT  # that there is no version 3 is no word on the champion


def test_in_an_outage_the_copy_is_the_version_that_it_is_and_no_other(product: Settings, shelf: Shelf) -> None:
    serve(product, shelf)
    shelf.silent = True
    np.testing.assert_array_equal(weights(version(product, shelf, "1"))[0], weights(load(shelf.files["1"], product))[0])
    with pytest.raises(ServiceError, match="does not answer"):
        version(product, shelf, "2")


def test_the_answer_of_a_call_is_what_it_returns_or_raises() -> None:
    def fail() -> int:
        raise DamagedError("broken")

    for seconds in (None, 5.0):
        assert within(seconds, lambda: 3) == 3
        with pytest.raises(DamagedError, match="broken"):
            within(seconds, fail)


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, HOST)
    made = Server(tmp_path / "server")
    made.start()
    made.wait()
    yield made
    made.kill()


@pytest.fixture
def config(server: Server, sky: Settings, tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Path:
    """The made-up sky's cube, a server of its own, nothing trained."""
    settings = tiny_settings(tmp_path, tracking={"uri": f"http://{HOST}:{server.port}"})
    path = tmp_path / "product.toml"
    path.write_text(tomli_w.dumps(settings.model_dump(mode="json", exclude_defaults=True)))
    settings.workspace.mkdir()
    settings.paths.cube.symlink_to(sky.paths.cube)
    return path


def register(registry: Registry, network: Network, folder: Path) -> str:
    with Trainings(folder).begin("snapshot", "settings") as training:
        training.journal.model(network.model, network.card.to_json(), good=True)
        registry.deliver(training)
        registered = training.delivered.registered
    assert registered is not None
    return registered.version


def forecast(config: Path) -> tuple[verbs.Forecasted, dict[str, Any]]:
    """A run, made anew, and its manifest."""
    forecasts = load_settings(config).paths.forecasts
    if forecasts.exists():
        shutil.move(forecasts, forecasts.with_name(f"forecasts-{time.monotonic_ns()}"))
    done = verbs.forecast(config)
    return done, json.loads((Path(done.run) / "run.json").read_text())


def facts(manifest: dict[str, Any]) -> tuple[str, list[str]]:
    """Run key and bytes of all files."""
    files = [lead[part]["sha256"] for lead in manifest["leads"] for part in ("values", "quality", "item")]
    return manifest["run_key"], files


def break_model(registry: Registry, server: Server, number: str) -> None:
    """One bit of a version in MLflow's files."""
    place = registry.client.get_model_version_download_uri("tiny", number).partition(":/")[2]
    (path,) = (server.folder / "artifacts" / place.lstrip("/")).rglob(MODEL_FILE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.server
def test_a_forecast_is_made_by_the_network_while_mlflow_is_away_and_is_never_missing(
    server: Server, config: Path, make_network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(config)
    registry = open_registry(settings)
    register(registry, make_network(settings, trained=True), tmp_path / "first")
    shutil.rmtree(settings.paths.champion)  # what the registration has kept; the first forecast keeps it, too
    first, before = forecast(config)
    assert (first.model, first.warning, "rung" in before) == ("tiny 1", "", False)

    server.kill()
    second, away = forecast(config)
    assert second.model == "tiny 1"
    assert facts(away) == facts(before)
    assert away["rung"]["wanted"] == "network"
    assert "does not answer" in away["rung"]["why"]
    assert away["rung"]["why"] == second.warning
    assert product_verbs.verify(config).verdict is Verdict.EQUAL

    break_copy(settings)
    third, without = forecast(config)
    assert (third.model, without["model"]["source"]) == ("extrapolation 1", "extrapolation")
    assert "does not answer" in without["rung"]["why"]
    assert "that is kept has the hash" in without["rung"]["why"]
    assert str(tmp_path) not in json.dumps(without)
    assert product_verbs.verify(config).verdict is Verdict.EQUAL

    server.start()
    server.wait()
    fourth, back = forecast(config)
    assert fourth.model == "tiny 1"
    assert facts(back) == facts(before)
    assert "put right from MLflow" in fourth.warning
    assert "rung" not in back
    assert forecast(config)[0].warning == ""

    server.signal(signal.SIGSTOP)
    monkeypatch.setattr(registries, "SERVING_PATIENCE", 3.0)
    start = time.monotonic()
    fifth, hung = forecast(config)
    assert time.monotonic() - start < 20
    assert facts(hung) == facts(before)
    assert "answers within 3 s" in fifth.warning
    server.signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.server
def test_a_model_that_is_damaged_in_mlflow_gives_way_to_the_copy_of_the_last_champion(
    server: Server, config: Path, make_network: Networks, tmp_path: Path
) -> None:
    settings = load_settings(config)
    registry = open_registry(settings)
    for seed in (1, 2):
        register(registry, make_network(settings, trained=True, seed=seed), tmp_path / str(seed))
    assert "cubecast.sha256.model.keras" in registry.client.get_model_version("tiny", "2").tags
    break_model(registry, server, "1")
    whole, _ = forecast(config)  # the copy is the champion's, as its hash says
    assert (whole.model, whole.warning) == ("tiny 1", "")

    break_model(registry, server, "2")
    registry.client.set_registered_model_alias("tiny", "champion", "2")
    done, manifest = forecast(config)
    assert done.model == "tiny 1"
    assert "model.keras of tiny version 2 in MLflow has the hash" in manifest["rung"]["why"]
    assert "tiny version 1 stands in" in done.warning

    shutil.rmtree(settings.paths.champion)
    done, manifest = forecast(config)
    assert done.model == "extrapolation 1"
    assert "No copy of a champion is kept here" in manifest["rung"]["why"]


@pytest.mark.slow
@pytest.mark.server
def test_a_model_that_does_not_fit_stops_no_forecast_and_a_champion_that_is_gone_is_gone(
    server: Server, config: Path, make_network: Networks, tmp_path: Path
) -> None:
    settings = load_settings(config)
    registry = open_registry(settings)
    register(registry, make_network(settings, trained=True), tmp_path / "first")
    assert Keepsake(settings.paths.champion).read() is not None  # the registration has kept it
    text = config.read_text()
    config.write_text(text.replace("horizon = 2", "horizon = 3"))
    done, manifest = forecast(config)
    assert (done.model, len(manifest["leads"])) == ("extrapolation 1", 3)
    assert "samples.horizon 3. Train again" in done.warning
    assert manifest["rung"]["why"] == done.warning

    config.write_text(text)
    assert forecast(config)[0].model == "tiny 1"
    registry.client.delete_registered_model_alias("tiny", "champion")
    done, manifest = forecast(config)
    assert (done.model, done.warning, "rung" in manifest) == ("extrapolation 1", "", False)
    server.kill()
    assert forecast(config)[0].model == "extrapolation 1"
