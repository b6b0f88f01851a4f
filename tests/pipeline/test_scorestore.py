from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from pipeline import strata
from pipeline.scorebook import FORECAST, RunScores, Score, page, save
from pipeline.scorestore import SCHEMA, Store, codes, names, numbers, times
from pipeline.strata import REGION, RUNG, Errors, Part
from pipeline.times import seconds

if TYPE_CHECKING:
    from pathlib import Path

DAY = datetime(2024, 6, 1, 23, 55, tzinfo=UTC)


def a_run(key: str = "a", init: datetime = DAY, leads: int = 2) -> RunScores:
    scores = [
        Score(5 * lead, "sky", name, 10, 10.0 * lead * (1 + (name != FORECAST)), 40.0, 8 if name == FORECAST else None)
        for lead in range(1, leads + 1)
        for name in (FORECAST, "persistence")
    ]
    return RunScores(key, init, "fake 1", tuple(replace(s, held=0.7, promised=0.8) for s in scores))


def keep(folder: Path, run: RunScores, *parts: Part) -> None:
    path = page(folder, run.run_key, run.init)
    if parts:
        strata.save(path, parts)
    save(path, run)


def test_a_row_says_what_the_page_says(tmp_path: Path) -> None:
    keep(tmp_path, a_run())
    store = Store(tmp_path, "tiny")
    assert store.refresh() == ["2024-06-01"]
    rows = pq.read_table(store.path("2024-06-01")).to_pylist()
    assert [row["predictor"] for row in rows] == [FORECAST, "persistence"] * 2
    first = rows[0]
    assert first["valid"] == DAY + timedelta(minutes=5)
    assert (first["product"], first["run_key"], first["model"]) == ("tiny", "a", "fake 1")
    assert (first["mae"], first["rmse"], first["covered"], first["held"]) == (1.0, 2.0, 0.8, 0.7)
    assert (first["rung"], first["region"], first["yielded"]) == ("all", "all", False)


def test_parts_are_rows_of_their_own_and_pages_without_them_still_load(tmp_path: Path) -> None:
    errors = {FORECAST: Errors(6.0, 12.0, 3), "persistence": Errors(9.0, 27.0)}
    network = Part(5, "sky", RUNG, "network", 3, 4, 2.5, 0.7, 0.8, errors)
    west, unscored = replace(network, kind=REGION, name="west", pixels=0), replace(network, lead_minutes=60)
    keep(tmp_path, a_run(), network, west, unscored)
    keep(tmp_path, a_run("old", DAY - timedelta(hours=1)))
    store = Store(tmp_path, "tiny")
    store.refresh()
    table = store.read(("run_key", "rung", "region", "mae", "published", "age"))
    found = [row for row in table.to_pylist() if (row["rung"], row["region"]) != ("all", "all")]
    assert {(row["run_key"], row["rung"], row["region"], row["mae"]) for row in found} == {
        ("a", "network", "all", 2.0),
        ("a", "network", "all", 3.0),
        ("a", "all", "west", None),
    }
    assert {(row["published"], row["age"]) for row in found} == {(4, 2.5)}


def test_a_day_is_made_anew_when_a_page_of_it_has_changed_and_otherwise_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path, "tiny")
    keep(tmp_path, a_run(leads=1))
    keep(tmp_path, a_run("b", DAY + timedelta(minutes=5)))
    assert store.refresh() == ["2024-06-01", "2024-06-02"]
    assert store.refresh() == []
    keep(tmp_path, a_run(leads=2))
    assert store.refresh() == ["2024-06-01"]
    assert len(store.read(("lead",))) == 8
    page(tmp_path, "a", DAY).unlink()
    assert store.refresh() == ["2024-06-01"]
    assert store.days == ["2024-06-02"]


def test_a_day_that_is_deleted_or_older_than_a_page_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path, "tiny")
    keep(tmp_path, a_run())
    store.refresh()
    os.utime(store.path("2024-06-01"), ns=(0, 0))
    assert store.refresh() == ["2024-06-01"]
    store.path("2024-06-01").unlink()
    assert store.refresh() == ["2024-06-01"]


def test_columns_are_read_by_what_is_asked_for_also_where_nothing_is(tmp_path: Path) -> None:
    store = Store(tmp_path, "tiny")
    empty = store.read(SCHEMA.names)
    assert (codes(empty, "model")[0].tolist(), codes(empty, "model")[1]) == ([], [])
    for day in range(3):
        keep(tmp_path, a_run(f"{day}", DAY + timedelta(days=day)))
    store.refresh()
    table = store.read(("init", "predictor", "mae"), since=DAY + timedelta(days=1), predictor=[FORECAST])
    assert sorted({*times(table, "init").tolist()}) == [seconds(DAY + timedelta(days=day)) for day in (1, 2)]
    assert {*numbers(table, "mae").tolist()} == {1.0, 2.0}
    assert [codes(table, "predictor")[1][code] for code in codes(table, "predictor")[0]] == [FORECAST] * 4


def test_names_are_of_pages_alone(tmp_path: Path) -> None:
    keep(tmp_path, a_run())
    (tmp_path / ".20240601T2355Z-a.json.1234").write_text("half")
    (tmp_path / "notes.json").write_text("{}")
    assert names(tmp_path) == {"20240601T2355Z-a"}
    assert names(tmp_path / "absent") == frozenset()


@pytest.mark.parametrize("pixels", [0, 4])
def test_what_nobody_knows_is_null(tmp_path: Path, pixels: int) -> None:
    keep(tmp_path, RunScores("a", DAY, "fake 1", (Score(5, "sky", FORECAST, pixels, 0.0, 0.0),)))
    store = Store(tmp_path, "tiny")
    store.refresh()
    (row,) = store.read(("mae", "covered", "held")).to_pylist()
    assert row == {"mae": 0.0 if pixels else None, "covered": None, "held": None}
