from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows import model_verbs
from flows.model_verbs import Change, Comparison, LeadDifference, Listing, Promoted, VersionLine
from models.history import Entry, History, Step
from models.trainings import Trainings
from pipeline.config import load
from pipeline.errors import ModelError
from tests.flows.commands import cubecast

TIME = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def comparison(**changed: Any) -> Comparison:
    facts: dict[str, Any] = {
        "product": "tiny",
        "version": "2",
        "champion": "1",
        "rival": "the champion",
        "decision": "keep as challenger",
        "promotes": False,
        "conditions": (("better", False, "1.0 % larger"), ("cost", True, "cheap")),
        "estimate": 0.01,
        "low": -0.02,
        "high": 0.04,
        "leads": (LeadDifference(5, 0.01, -0.02, 0.04),),
        "inits": 100,
        "blocks": 16,
        "wanted": 120,
        "snapshot": "S",
        "table": (),
    }
    return Comparison(**facts | changed)


def test_versions_are_listed_with_role_worth_and_ruling(monkeypatch: pytest.MonkeyPatch) -> None:
    line = VersionLine(
        "2", ("challenger",), TIME, "run", "SNAPSHOT12", True, {"persistence": 0.4}, "keep as challenger: no", ""
    )
    change = Change(TIME, "promoted", "1", None, "1", "first")
    monkeypatch.setattr(model_verbs, "listing", lambda config: Listing("tiny", (line,), (change,)))
    said = cubecast("models", "list", "-c", "a.toml", "--history").output
    for word in ("challenger", "SNAPSHOT", "-40 % of persistence's", "keep as challenger", "promoted", "first"):
        assert word in said
    found = json.loads(cubecast("models", "list", "-c", "a.toml", "--json").stdout)
    assert found["versions"][0]["skills"] == {"persistence": 0.4}
    assert found["history"][0]["time"] == "2026-01-02T03:04:00Z"


def test_a_comparison_says_which_conditions_are_met_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_verbs, "compare", lambda config, version, *, progress: comparison(version=version))
    said = cubecast("models", "compare", "2", "-c", "a.toml").output
    assert "tiny version 2 against version 1: keep as challenger" in said
    assert "1.0 % larger" in said
    assert "To promote it" not in said
    monkeypatch.setattr(model_verbs, "compare", lambda *_, **__: comparison(promotes=True, champion=None))
    said = cubecast("models", "compare", "2", "-c", "a.toml").output
    assert "To promote it: cubecast models promote 2" in said


def test_a_version_that_the_gate_stops_is_an_error_that_says_how_to_force_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Promoted:
        raise ModelError("stopped. cubecast models promote 2 --force --reason TEXT")

    monkeypatch.setattr(model_verbs, "promote", refuse)
    done = cubecast("models", "promote", "2", "-c", "a.toml")
    assert done.exit_code == 1
    assert "--force --reason TEXT" in done.output


def test_promotion_and_rollback_pass_on_what_was_said_and_tell_who_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    done = Promoted("tiny", "forced", "2", "1", "because", TIME)
    monkeypatch.setattr(
        model_verbs, "promote", lambda *arguments, **options: asked.append((arguments, options)) or done
    )
    said = cubecast("models", "promote", "2", "-c", "a.toml", "--force", "--reason", "because").output
    assert "tiny version 2 serves now instead of version 1, forced" in said
    assert asked[0][0] == (Path("a.toml"), "2")
    assert (asked[0][1]["force"], asked[0][1]["reason"]) == (True, "because")
    monkeypatch.setattr(model_verbs, "rollback", lambda config, reason: asked.append(reason) or done)
    found = json.loads(cubecast("models", "rollback", "-c", "a.toml", "--reason", "worse", "--json").stdout)
    assert (found["champion"], asked[-1]) == ("2", "worse")


def test_a_product_without_promotions_is_on_no_probation(product: Path) -> None:
    assert model_verbs.probation(product) is None
    assert model_verbs.rival(load(product)) is None


def test_a_probation_is_told_with_its_watch(product: Path) -> None:
    pytest.importorskip("keras")
    history = History(load(product).paths.promotions)
    with history.alone():
        history.append(Entry(Step.PROMOTED, "3", "2", "3"))
    found = model_verbs.probation(product)
    assert found is not None
    assert (found.champion, found.previous, found.runs, found.alarm) == ("3", "2", 0, "")


def test_train_and_retrain_exclude_each_other(product: Path) -> None:
    pytest.importorskip("keras")
    from flows import verbs

    trainings = Trainings(load(product).paths.trainings)
    with trainings.alone():
        for verb in (verbs.train, model_verbs.retrain):
            with pytest.raises(ModelError, match="one training of a product runs at a time"):
                verb(product)
    with trainings.alone():
        pass
