"""What `prefect deploy` and the workers will find."""

from __future__ import annotations

import json
import pkgutil
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.logging import disable_run_logger
from prefect.utilities.callables import parameter_schema

import flows
from flows import model_verbs, verbs
from flows.events import SKILL_DEGRADED, resource_id
from flows.forecast import forecast, publish_forecast
from flows.ingest import ingest
from flows.retrain import train_challenger
from flows.stack import DEPLOYMENTS, POOLS
from flows.train import train, train_network
from flows.verify import verify

FILE: dict[str, Any] = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
DEPLOYED: dict[str, dict[str, Any]] = {each["entrypoint"]: each for each in FILE["deployments"]}
HEAVY = ("keras", "mlflow", "tensorflow")


def loaded(entrypoint: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)


def modules_after(code: str) -> set[str]:
    report = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_flow_has_a_deployment() -> None:
    assert set(DEPLOYED) == {
        f"flows.{verb}:{verb}" for verb in ("ingest", "train", "retrain", "forecast", "verify", "housekeeping")
    }


@pytest.mark.parametrize("entrypoint", DEPLOYED)
def test_an_entrypoint_loads_without_a_placeholder(entrypoint: str) -> None:
    assert loaded(entrypoint).name == entrypoint.split(":")[1]


@pytest.mark.parametrize("entrypoint", DEPLOYED)
def test_a_parameter_has_a_type_and_a_description(entrypoint: str) -> None:
    for name, schema in parameter_schema(loaded(entrypoint)).properties.items():
        assert "type" in schema or "anyOf" in schema, name
        assert len(schema.get("description", "")) > 15, name


@pytest.mark.parametrize("entrypoint", DEPLOYED)
def test_a_deployment_gives_every_required_parameter_and_no_other(entrypoint: str) -> None:
    schema = parameter_schema(loaded(entrypoint))
    given = set(DEPLOYED[entrypoint]["parameters"])
    assert set(schema.required) <= given <= set(schema.properties)


def test_deployments_of_two_products_stand_side_by_side() -> None:
    assert {each["name"] for each in DEPLOYED.values()} == {"{{ $CUBECAST_NAME }}"}


def test_nothing_is_fetched_before_a_run() -> None:
    assert FILE["pull"] == []


def test_a_worker_stands_behind_every_pool() -> None:
    assert {each["work_pool"]["name"] for each in DEPLOYED.values()} == set(POOLS)


def test_a_deployment_says_what_it_does_and_runs_once_at_a_time() -> None:
    for each in DEPLOYED.values():
        assert each["description"]
        assert "cubecast" in each["tags"]
        assert each["concurrency_limit"]["limit"] == 1


def test_a_training_that_somebody_asked_for_waits_for_the_one_before() -> None:
    for verb in ("train", "retrain"):
        assert DEPLOYED[f"flows.{verb}:{verb}"]["concurrency_limit"]["collision_strategy"] == "ENQUEUE"


def test_a_retraining_starts_every_week_and_when_skill_is_lost() -> None:
    deployed = DEPLOYED["flows.retrain:retrain"]
    (trigger,) = deployed["triggers"]
    assert trigger["expect"] == [SKILL_DEGRADED]
    assert trigger["match"] == {"prefect.resource.id": resource_id("{{ $CUBECAST_NAME }}")}
    assert set(trigger["parameters"]) <= set(parameter_schema(loaded("flows.retrain:retrain")).properties)
    assert deployed["work_pool"]["name"] == "gpu"


def test_all_but_the_training_are_scheduled_whatever_events_come() -> None:
    scheduled = {entrypoint: each["schedules"] for entrypoint, each in DEPLOYED.items() if "schedules" in each}
    assert set(DEPLOYED) - set(scheduled) == {"flows.train:train"}
    for (schedule,) in scheduled.values():
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_what_an_event_asks_for_waits_for_the_run_in_progress() -> None:
    """It may have read the cube before that event."""
    triggered = [each for each in DEPLOYED.values() if "triggers" in each]
    assert len(triggered) >= 2
    assert {each["concurrency_limit"]["collision_strategy"] for each in triggered} == {"ENQUEUE"}


def test_an_init_time_without_a_zone_is_utc() -> None:
    given = forecast.validate_parameters({"config": "product.toml", "init": "2024-06-01T06:00"})
    assert given["init"] == datetime(2024, 6, 1, 6, tzinfo=UTC)


def test_the_task_of_a_forecast_is_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    done = verbs.Forecasted("run", "init", "model", ())
    monkeypatch.setattr(verbs, "forecast", lambda config, *, init: (done, config, init))
    assert publish_forecast.fn(Path("a.toml"), None) == (done, Path("a.toml"), None)


def test_the_task_of_a_training_is_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keras")
    monkeypatch.setattr(verbs, "train", lambda config, *, watcher, start: (config, callable(watcher.phase), start))
    with disable_run_logger():
        assert train_network.fn(Path("a.toml"), "resume") == (Path("a.toml"), True, "resume")


def test_the_task_of_a_retraining_is_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keras")
    monkeypatch.setattr(model_verbs, "retrain", lambda config, **asked: (config, asked))
    with disable_run_logger():
        config, asked = train_challenger.fn(
            Path("a.toml"), start="fresh", warm=True, force=False, reason="", why="skill.degraded"
        )
    assert config == Path("a.toml")
    assert callable(asked.pop("watcher").phase)
    assert asked == {"start": "fresh", "warm": True, "force": False, "reason": "", "why": "skill.degraded"}


@pytest.mark.server
def test_the_ingest_flow_ingests_and_the_verify_flow_verifies(prefect_server: None, product: Path) -> None:
    snapshot = ingest(product)
    assert snapshot == verbs.ingest(product).snapshot != None  # noqa: E711 - the chain says it in one line
    assert verify(product) == 0


@pytest.mark.server
def test_a_flow_returns_the_key_of_what_it_made(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keras")
    trained = verbs.Trained(
        "id", "sky", "3", "run", champion=True, good=True, snapshot="s", epochs=1, validation_skill=0.1, test=()
    )
    monkeypatch.setattr(verbs, "train", lambda config, *, watcher, start: trained)
    done = verbs.Forecasted("folder", "20240601T0600Z", "model", (), fresh=False)
    monkeypatch.setattr(verbs, "forecast", lambda config, *, init: done)
    monkeypatch.setattr(verbs, "missing", lambda config, newest: ())
    assert train(Path("a.toml")) == "models:/sky/3"
    assert forecast(Path("a.toml")) == "folder"


@pytest.mark.server
def test_a_flow_warns_in_its_log_of_a_model_that_could_not_be_had(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = verbs.Forecasted("folder", "20240601T0600Z", "extrapolation 1", (), "MLflow does not answer", fresh=False)
    monkeypatch.setattr(verbs, "forecast", lambda config, *, init: done)
    monkeypatch.setattr(verbs, "missing", lambda config, newest: ())
    assert forecast(Path("a.toml")) == "folder"
    (line,) = (one for one in caplog.records if "does not answer" in one.getMessage())
    assert (line.levelname, line.getMessage()) == ("WARNING", "forecast by extrapolation 1: MLflow does not answer")


def test_flows_import_without_what_learns() -> None:
    names = [f"flows.{module.name}" for module in pkgutil.iter_modules(flows.__path__)]
    assert not modules_after(f"import {', '.join(names)}").intersection(HEAVY)


def test_the_command_line_imports_neither_prefect_nor_arrays() -> None:
    assert not modules_after("import flows.cli").intersection({*HEAVY, "prefect", "numpy", "pydantic", "rasterio"})


def test_help_takes_less_than_half_a_cpu_second() -> None:
    command = [str(Path(sys.executable).with_name("cubecast")), "--help"]
    subprocess.run(command, capture_output=True, check=True)  # the first one may compile
    assert min(_cpu_seconds(command) for _ in range(3)) < 0.5


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
