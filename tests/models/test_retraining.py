from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

from models import retraining
from models.contest import CHALLENGER
from models.experiment import Outcome
from models.gate import Entrant
from models.history import Step
from models.keepsake import DamagedError, Keepsake
from models.prediction import Network
from models.promotion import CHALLENGER as CHALLENGER_ROLE
from models.promotion import PREVIOUS, RULING, Promotions
from models.registry import Registered, Registry, open_registry, tracking_uri
from models.retraining import Compared, Wish, compare, force, promote, retrain, roll_back
from models.seen import Seen
from models.serving import CHAMPION
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.errors import ModelError
from pipeline.grid import Window
from tests.models.conftest import SKY
from tests.models.products import changed
from tests.models.test_registry import register

pytestmark = pytest.mark.slow  # MLflow's import and its database take 10 CPU-s, each model one


@pytest.fixture
def product(sky: Settings, tmp_path: Path) -> Settings:
    """The sky's cube and tracking database, with models and promotions of its own."""
    return changed(sky, tmp_path, product={"name": tmp_path.name}, tracking={"uri": tracking_uri(sky)})


@pytest.fixture
def registry(product: Settings, make_network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Version 1 serves, version 2 does not."""
    made = open_registry(product)
    snapshot = open_cube(store_of(product)).snapshot
    for seed, good in ((0, True), (1, False)):
        network = make_network(product, trained=True, seed=seed)
        seen = Seen(Window(0, 48, 0, 48), SKY.start)
        version = register(made, Network(network.model, replace(network.card, seen=seen), network.ref), good=good)
        made.client.set_tag(version.run_id, "cubecast.snapshot", snapshot)
    return made


def easy(monkeypatch: pytest.MonkeyPatch, *, factor: float) -> None:
    """Contests of 40 init times in which the challenger's squared errors are the champion's times a factor."""
    hold = retraining.hold

    def long(*arguments: Any, **options: Any) -> Any:
        held = hold(*arguments, **options)
        random, shape = np.random.default_rng(0), (40, 2, 1)
        theirs = random.uniform(1, 2, shape)
        ours = theirs * factor * random.uniform(0.95, 1.05, shape)
        trial = replace(
            held.trial,
            slots=np.arange(40, dtype=np.int64),
            challenger=Entrant(CHALLENGER, ours, 1.0),
            champion=Entrant("champion", theirs, 1.0),
            baselines=(Entrant("persistence", theirs * 2),),
            coverage=None,
        )
        return replace(held, trial=trial)

    monkeypatch.setattr(retraining, "hold", long)


def test_a_version_that_proves_better_is_promoted_and_the_copy_on_disk_follows(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy(monkeypatch, factor=0.5)
    assert registry.load_champion(product).ref.version == "1"  # type: ignore[union-attr]
    compared, entry = promote(product, registry, "2")
    assert compared.ruling.promotes
    assert (entry.step, entry.before, entry.champion) == (Step.PROMOTED, "1", "2")
    assert entry.evidence["estimate"] == pytest.approx(0.5**0.5 - 1, abs=0.01)
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("2", "1")
    assert registry.serve(product).network.ref.version == "2"  # type: ignore[union-attr]
    kept = Keepsake(product.paths.champion).read()
    assert kept is not None
    assert kept.version.number == "2"
    back = roll_back(product, registry, "worse on radar")
    assert (back.step, back.champion) == (Step.ROLLED_BACK, "1")
    assert registry.serve(product).network.ref.version == "1"  # type: ignore[union-attr]
    kept = Keepsake(product.paths.champion).read()
    assert kept is not None
    assert kept.version.number == "1"
    assert [one.step for one in registry.history.entries()] == [Step.FIRST, Step.PROMOTED, Step.ROLLED_BACK]


def test_a_comparison_leaves_evidence_with_the_run_and_changes_nothing(product: Settings, registry: Registry) -> None:
    found = compare(product, registry, "2")
    assert found.champion == "1"
    assert not found.ruling.promotes  # two init times
    (listed,) = registry.listed("2")
    names = {Path(one.path).name for one in registry.client.list_artifacts(listed.run, "promotion")}
    assert names == {"evidence.json", "evidence.md", "evidence.png"}
    assert listed.tags[RULING].startswith("insufficient evidence: 2 init times fill 1 independent blocks")
    assert registry.alias(CHAMPION) == "1"
    with pytest.raises(ModelError, match=r"2 is not: 2 init times fill 1.*models promote 2 --force --reason TEXT"):
        promote(product, registry, "2")
    assert registry.alias(CHAMPION) == "1"


def test_what_cannot_be_compared_is_an_error_that_says_what_to_do(product: Settings, registry: Registry) -> None:
    with pytest.raises(ModelError, match=r"9 is none of: 2, 1. cubecast models list"):
        compare(product, registry, "9")
    with pytest.raises(ModelError, match="version 1 is that itself"):
        compare(product, registry, "1")


def test_a_champion_that_cannot_be_read_now_lets_no_challenger_through(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy(monkeypatch, factor=0.5)
    shutil.rmtree(product.paths.champion, ignore_errors=True)  # a copy that is kept would do
    whole = stored(registry, "1").read_bytes()
    stored(registry, "1").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="version 1 in MLflow has the hash"):
        promote(product, registry, "2")
    assert registry.alias(CHAMPION) == "1"


def test_one_that_a_person_promotes_while_it_is_compared_was_not_promoted_by_the_gate(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy(monkeypatch, factor=0.5)
    compared = compare(product, registry, "2")
    force(product, registry, "2", "a person was faster")
    outcome = Outcome("20260101T000000Z-abcd", None, ({"val_skill": 0.1},), None, "snapshot", good=True)
    settled = retraining._settle(Promotions(registry, registry.history), outcome, compared, Wish())
    assert not settled.promoted
    assert "version 2 is champion already" in settled.reasons[0]


def test_force_needs_a_reason_and_a_model_that_can_be_loaded(product: Settings, registry: Registry) -> None:
    with pytest.raises(ModelError, match="found no reason"):
        force(product, registry, "2", " ")
    with pytest.raises(ModelError, match=r"has no .* version 9"):
        force(product, registry, "9", "because")
    entry = force(product, registry, "2", "the old one is for winter")
    assert (entry.step, entry.reason, registry.alias(CHAMPION)) == (Step.FORCED, "the old one is for winter", "2")


def stored(registry: Registry, version: str) -> Path:
    """Where MLflow keeps a version's network."""
    source = registry.client.get_model_version(registry.model_name, version).source
    model = registry.client.get_logged_model(str(source).removeprefix("models:/"))
    return Path(urlparse(model.artifact_location).path) / "data" / "model.keras"


def test_a_version_whose_file_was_exchanged_in_mlflows_store_is_not_loaded(
    product: Settings, registry: Registry
) -> None:
    ours, theirs = (stored(registry, version) for version in ("2", "1"))
    ours.write_bytes(theirs.read_bytes())
    for refused in (lambda: registry.load_version(product, "2"), lambda: compare(product, registry, "2")):
        with pytest.raises(DamagedError, match=r"model.keras of .* version 2 in MLflow has the hash"):
            refused()
    with pytest.raises(DamagedError, match="has the hash"):
        force(product, registry, "2", "whatever")
    assert registry.alias(CHAMPION) == "1"


def trained(registry: Registry, monkeypatch: pytest.MonkeyPatch, *, registered: bool = True) -> list[dict[str, Any]]:
    """A training that has made version 2, and what it was asked for."""
    asked: list[dict[str, Any]] = []
    run = registry.listed("2")[0].run
    made = Registered(registry.model_name, "2", run, champion=False) if registered else None

    def train(settings: Settings, _: Registry, **options: Any) -> Outcome:
        asked.append(options | {"warm": settings.training.warm_start})
        return Outcome("20260101T000000Z-abcd", made, ({"val_skill": 0.1},), None, "snapshot", good=True)

    monkeypatch.setattr(retraining, "train", train)
    return asked


def test_a_retraining_promotes_what_is_better(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = trained(registry, monkeypatch)
    easy(monkeypatch, factor=0.5)
    settled = retrain(product, registry, Wish(warm=True))
    assert settled.promoted
    assert asked[0]["contends"]
    assert asked[0]["warm"] == "champion"
    assert (registry.alias(CHAMPION), registry.alias(CHALLENGER_ROLE), registry.alias(PREVIOUS)) == ("2", None, "1")


def test_a_retraining_keeps_what_is_not_as_challenger_with_the_reasons(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(registry, monkeypatch)
    easy(monkeypatch, factor=1.0)
    settled = retrain(product, registry, Wish())
    assert not settled.promoted
    assert (registry.alias(CHAMPION), registry.alias(CHALLENGER_ROLE)) == ("1", "2")
    assert "which does not show that it is better" in "; ".join(settled.reasons)
    last = registry.history.entries()[-1]
    assert (last.step, last.version, last.champion) == (Step.KEPT, "2", "1")
    assert not last.evidence["conditions"]["better"]


def test_insufficient_evidence_is_overruled_by_force_alone(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(registry, monkeypatch)
    settled = retrain(product, registry, Wish())
    assert not settled.promoted
    assert settled.reasons[0].startswith("2 init times fill 1 independent blocks")
    settled = retrain(product, registry, Wish(force=True, reason="the satellite was replaced"))
    assert settled.promoted
    entry = registry.history.entries()[-1]
    assert (entry.step, entry.reason, entry.before) == (Step.FORCED, "the satellite was replaced", "1")


def test_a_champion_that_changed_during_the_comparison_stops_a_promotion(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(registry, monkeypatch)
    easy(monkeypatch, factor=0.5)
    judged = retraining.compare

    def slow(*arguments: Any, **options: Any) -> Compared:
        found = judged(*arguments, **options)
        return replace(found, champion="7")  # who served when it began

    monkeypatch.setattr(retraining, "compare", slow)
    settled = retrain(product, registry, Wish())
    assert not settled.promoted
    assert "Compare again: cubecast models compare 2" in settled.reasons[0]
    assert registry.alias(CHAMPION) == "1"


def test_while_mlflow_is_away_a_challenger_waits(
    product: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(registry, monkeypatch, registered=False)
    settled = retrain(product, registry, Wish())
    assert (settled.promoted, settled.entry) == (False, None)
    assert "cubecast tracking sync" in settled.reasons[0]


def test_the_first_champion_is_on_record(registry: Registry) -> None:
    (entry,) = registry.history.entries()
    assert (entry.step, entry.version, entry.before) == (Step.FIRST, "1", None)
    assert json.dumps(entry.to_json())
