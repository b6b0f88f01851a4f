from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from flows import artifacts, verbs
from flows.artifacts import (
    forecast_text,
    key,
    lineage,
    progress,
    retraining_text,
    show_forecast,
    skill_table,
    verification_text,
)
from flows.digest_verbs import digest
from flows.events import resource_id
from flows.model_verbs import Retrained
from pipeline.alarms import Alarm
from pipeline.inspect import inspect, write
from pipeline.metrics import ErrorRow
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes

ROW = ErrorRow(5, "rain", "mm/h", {"forecast": 0.8, "extrapolation": 1.0, "persistence": 2.0}, {}, {"forecast": 0.79})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A product with a run, and the run's path."""
    folder = tmp_path_factory.mktemp("shown")
    path = folder / "product.toml"
    write(
        inspect(write_scenes(folder / "small", SyntheticSpec(height=64, width=64, frames=8), Faults.none()).folder),
        path,
    )
    verbs.ingest(path)
    return path, verbs.forecast(path).run


def test_a_report_has_picture_leads_and_where_everything_is(published: tuple[Path, str]) -> None:
    found = digest(*published)
    text = forecast_text(found)
    first, last = found.shown[0], found.shown[-1]
    assert text.count("](data:image/png;base64,iVBOR") == 1
    assert f"![reflectance at +{first} min, " in text
    assert f"+{last} min; one colour scale" in text
    for fact in (found.facts.run_key, found.facts.snapshot, found.facts.path, "extrapolation 1"):
        assert fact in text
    assert text.count("| +") == len(found.facts.leads)
    assert len(text) < 60_000  # a day of them in Prefect's database is 17 MB at most


def test_lineage_goes_from_the_file_to_the_product(published: tuple[Path, str]) -> None:
    found = digest(*published)
    rows = lineage(found)
    assert [row["scene"] for row in rows] == list(found.facts.scenes)
    for row in rows:
        assert row["file"].startswith("synthetic_2024")
        assert row["file"].removeprefix("synthetic_")[:13] == row["scene"][:13]
        assert (row["snapshot"], row["product"]) == (found.facts.snapshot, published[1])


def test_a_model_in_mlflow_is_a_link(published: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.digest_verbs import model_page, training_page

    assert (model_page(published[0], "3"), training_page(published[0], "abc")) == ("", "")
    monkeypatch.setenv("CUBECAST_TRACKING__URI", "http://127.0.0.1:5000/")
    assert model_page(published[0], "3") == "http://127.0.0.1:5000/#/models/small/versions/3"
    assert training_page(published[0], "abc") == "http://127.0.0.1:5000/#/runs/abc"


def test_skill_is_a_table_of_leads() -> None:
    assert skill_table([ROW]).splitlines()[2] == "| +5 min | rain | 0.8 mm/h | 1 (-20 %) | 2 (-60 %) | 79% |"
    assert skill_table([]) == "No truth has come yet."


def test_alarms_stand_above_the_table() -> None:
    time = datetime(2024, 6, 1, 12, tzinfo=UTC)
    alarm = Alarm("skill.degraded", "error", "sky 1", time, time, {}, "retrain")
    text = verification_text("sky", verbs.Verified(3, 2, (ROW,), (), (), (alarm,)))
    assert text.index("**skill.degraded** since 2024-06-01 12:00Z: retrain") < text.index("+5 min")


def test_a_challenger_that_is_kept_back_says_why() -> None:
    kept = Retrained(
        "sky", "20240601T1200Z-ab", "2", "run", "SNAP", good=True, promoted=False, decision="keep as challenger",
        champion="1", reasons=("it is no better",), wanted=96, why="skill.degraded", test=(ROW,),
    )  # fmt: skip
    text = retraining_text(kept, "http://mlflow/#/runs/run")
    for part in ("[sky 2](http://mlflow/#/runs/run)", "keep as challenger", "version 1", "- it is no better", "+5 min"):
        assert part in text


@pytest.mark.parametrize("product", ["hrv_1km", "a-b", "x__y"])
def test_keys_are_what_prefect_takes(product: str) -> None:
    assert set(key("forecast", product)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert resource_id(product).endswith(product)


def test_a_page_that_cannot_be_made_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prefect.context.FlowRunContext.get", lambda: object())
    show_forecast(Path("missing.toml"), "run")
    assert "a forecast's report is not shown: ConfigError" in caplog.text


def test_outside_of_a_run_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.digest_verbs, "digest", lambda *_: pytest.fail("nobody asked"))
    show_forecast(Path("missing.toml"), "run")


@pytest.mark.server
def test_the_server_keeps_the_history_of_a_product(prefect_server: None, published: tuple[Path, str]) -> None:
    told: list[int] = []

    @task(persist_result=False)
    def works() -> None:
        step = progress("scenes", lambda done, total: told.append(done))
        for done in (1, 50, 100):
            step(done, 100)

    @flow(name="shows", persist_result=False)
    def shows() -> None:
        works()
        for _ in range(2):
            show_forecast(*published)

    shows()
    assert told == [1, 50, 100]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    kinds = [(one.key, one.type) for one in found]
    assert kinds.count(("forecast-small", "markdown")) == 2
    assert kinds.count(("lineage-small", "table")) == 2
    assert [one.data for one in found if one.type == "progress"] == [100.0]


def test_a_server_that_is_away_holds_up_a_long_task_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def away(shown: list[Any], what: str, percent: float) -> None:
        tries.append(percent)
        raise ConnectionError("nobody there")

    @contextmanager
    def in_a_run(what: str) -> Iterator[bool]:
        with suppress(ConnectionError):
            yield True

    monkeypatch.setattr(artifacts, "_show_progress", away)
    monkeypatch.setattr(artifacts, "_harmless", in_a_run)
    monkeypatch.setattr(artifacts, "EVERY", 0.0)
    step = progress("scenes", lambda done, total: None)
    for done in range(1, 100):
        step(done, 100)
    assert tries == [1.0]
