from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import verbs
from flows.cli import app
from flows.shelf_verbs import withdraw
from models.registry import Registry
from models.serving import Origin, Served
from pipeline.baselines import Persistence
from pipeline.errors import ModelError, WithdrawnError
from pipeline.predictor import Context, Forecast
from pipeline.record import ModelRef
from pipeline.rungs import Champion

REF = ModelRef("small", "7", "network")


@dataclass(frozen=True)
class Speechless:
    """Loads, but cannot forecast."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        raise ModelError("a calibration is for 12 leads: fit it again")


@dataclass(frozen=True)
class Broken:
    """Fails as no one has foreseen."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        raise RuntimeError("out of memory on the device")


@dataclass(frozen=True)
class Infinite:
    """Says what cannot be published."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        return replace(said, values=said.values + np.float32(np.inf))


@dataclass(frozen=True)
class Network:
    """A network as far as a forecast knows one."""

    predictor: Any

    def champion(self) -> Champion:
        return Champion(self.predictor, REF)


def serve(monkeypatch: pytest.MonkeyPatch, predictor: Any, origin: Origin, reason: str) -> None:
    network: Any = None if predictor is None else Network(predictor)
    monkeypatch.setattr(Registry, "serve", lambda self, settings: Served(network, origin, reason))


def manifest(done: verbs.Forecasted) -> dict[str, Any]:
    return json.loads((Path(done.run) / "run.json").read_text(encoding="utf-8"))


@pytest.fixture
def ingested(product: Path) -> Path:
    verbs.ingest(product)
    return product


def test_a_forecast_says_who_made_it_and_why_not_another(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, None, Origin.NOWHERE, "no answer")
    done = verbs.forecast(ingested)
    assert (done.model, done.warning) == ("extrapolation 1", "no answer")
    assert manifest(done)["rung"] == {"wanted": "network", "why": "no answer"}


def test_what_is_to_be_said_of_a_copy_alone_is_no_reason_of_the_run(
    ingested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, Persistence(), Origin.MLFLOW, "the copy was put right")
    done = verbs.forecast(ingested)
    assert (done.model, done.warning) == ("small 7", "the copy was put right")
    assert "rung" not in manifest(done)


def test_a_model_that_loads_but_cannot_forecast_gives_way_to_extrapolation(
    ingested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, Speechless(), Origin.MLFLOW, "")
    done = verbs.forecast(ingested)
    assert (done.model, done.warning) == ("extrapolation 1", "a calibration is for 12 leads: fit it again")
    assert manifest(done)["rung"]["why"] == done.warning


@pytest.mark.parametrize(
    ("network", "why"), [(Broken(), "failed, RuntimeError: out of memory"), (Infinite(), "infinite ones 5 minutes")]
)
def test_whatever_a_network_does_there_is_a_forecast(
    ingested: Path, monkeypatch: pytest.MonkeyPatch, network: Any, why: str
) -> None:
    serve(monkeypatch, network, Origin.MLFLOW, "")
    done = verbs.forecast(ingested)
    assert done.model == "extrapolation 1"
    assert why in done.warning
    assert manifest(done)["rung"] == {"wanted": "network", "why": done.warning}


def test_what_the_user_has_to_mend_is_said_whatever_stands_in(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, Persistence(), Origin.MLFLOW, "")
    run = verbs.forecast(ingested).run
    withdraw(ingested, run, "upside down")
    with pytest.raises(WithdrawnError, match="upside down"):
        verbs.forecast(ingested)


def test_the_command_line_warns_and_its_json_stays_json(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, None, Origin.NOWHERE, "no answer")
    spoken, told = (CliRunner().invoke(app, ["forecast", "-c", str(ingested), *more]) for more in ((), ("--json",)))
    assert (spoken.exit_code, told.exit_code) == (0, 0)
    assert "warning: forecast by extrapolation 1: no answer" in spoken.stderr
    assert "no answer" not in spoken.stdout
    assert json.loads(told.stdout)["warning"] == "no answer"
