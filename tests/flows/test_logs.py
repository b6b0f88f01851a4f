"""What a flow run says is kept as lines of JSON, whole, of however many processes, and never without end."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from flows import logs
from pipeline.config import load
from pipeline.times import parse_time

RUN = UUID("01a22505-b1d9-7d4e-8b24-97e9f38e141e")


@pytest.fixture(autouse=True)
def _no_subject_is_left() -> Iterator[None]:
    yield
    logging.getLogger().removeHandler(logs._handler)
    logs._handler.first = None
    logs._subject.set(None)


def begin(config: Path, **parameters: Any) -> None:
    run = SimpleNamespace(id=RUN, name="forecast small", parameters={"config": str(config), **parameters})
    logs.keep_log(SimpleNamespace(name="forecast"), run, None)  # type: ignore[arg-type]


def lines(config: Path) -> list[dict[str, str]]:
    text = (load(config).paths.logs / "cubecast.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_says_which_run_product_and_init_time_it_is_about(product: Path) -> None:
    begin(product, init="2024-06-01T06:40")
    logging.getLogger("cubecast.flows").warning("extrapolation stands in: %s", "no champion")
    (line,) = lines(product)
    assert (line["run"], line["product"], line["flow"]) == (str(RUN), "small", "forecast")
    assert line["init"] == "20240601T0640Z"
    assert line["message"] == "extrapolation stands in: no champion"
    assert parse_time(line["time"])


def test_a_run_that_learns_its_init_time_says_so_from_then_on(product: Path) -> None:
    begin(product)
    log = logging.getLogger("cubecast.flows")
    log.warning("before")
    logs.about(parse_time("2024-06-01T06:40Z"))
    log.warning("after")
    assert [line.get("init") for line in lines(product)] == [None, "20240601T0640Z"]


def test_a_line_from_a_thread_that_knows_no_run_is_kept(product: Path) -> None:
    copy_context().run(begin, product)
    logging.getLogger("somewhere").warning("from a thread")
    assert lines(product)[0]["run"] == str(RUN)


def test_hooks_that_went_well_are_no_news(product: Path) -> None:
    begin(product)
    log = logging.getLogger("somebody.flow_runs")
    log.setLevel(logging.INFO)
    log.info("Running hook 'keep_log' in response to entering state 'Running'")
    log.info("Hook 'keep_log' finished running successfully")
    log.error("Hook 'prove_life' has failed")
    log.info("3 of 3 runs")
    assert [line["message"] for line in lines(product)] == ["Hook 'prove_life' has failed", "3 of 3 runs"]


def test_an_exception_is_kept_with_its_traceback(product: Path) -> None:
    begin(product)
    try:
        int("full")
    except ValueError:
        logging.getLogger("cubecast.flows").exception("no")
    assert "ValueError: invalid literal" in lines(product)[0]["error"]


def test_a_configuration_that_cannot_be_read_stops_no_run(tmp_path: Path) -> None:
    begin(tmp_path / "gone.toml")
    logging.getLogger("cubecast.flows").warning("said elsewhere")
    assert not list(tmp_path.iterdir())


def test_a_file_is_turned_over_when_it_is_large_and_old_ones_go(tmp_path: Path) -> None:
    file = tmp_path / "cubecast.jsonl"
    for number in range(100):
        logs.append(file, f"{number:09}", largest=100)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cubecast.jsonl", "cubecast.lock", *(f"cubecast.jsonl.{n}" for n in range(1, logs.KEPT + 1))}
    kept = [line for n in range(logs.KEPT, 0, -1) for line in (tmp_path / f"{file.name}.{n}").read_text().splitlines()]
    assert [int(line) for line in kept] == list(range(40, 90))
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "cubecast.jsonl"
    program = (
        "import sys; from pathlib import Path; from flows.logs import append\n"
        "for n in range(200): append(Path(sys.argv[1]), f'{sys.argv[2]} {n}', largest=1000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = [line for path in tmp_path.glob("*.jsonl*") for line in path.read_text().splitlines()]
    assert len(set(found)) == len(found)
    assert {"a 199", "b 199"} & set(found)
    assert all(len(line.split()) == 2 for line in found)


def test_no_line_fails_the_run_that_says_it(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    begin(product)
    log = logging.getLogger("cubecast.flows")
    log.warning("%d scenes", "no number")
    log.warning("after")
    assert [line["message"] for line in lines(product)] == ["after"]


def test_a_name_that_is_no_text_is_kept_as_far_as_it_is_one(tmp_path: Path) -> None:
    logs.append(tmp_path / "log", b"scene_\xff.tif".decode(errors="surrogateescape"))
    assert (tmp_path / "log").read_text(encoding="utf-8") == "scene_\\udcff.tif\n"
