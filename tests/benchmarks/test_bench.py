from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import (
    bench_append,
    bench_attention,
    bench_chips,
    bench_convlstm,
    bench_forecast,
    bench_ingest,
    bench_reader,
    study_networks,
)
from tests.benchmarks.bench import Bar, Figure, cost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")

KEYS = {"name", "value", "unit", "bar", "at_least", "repeats", "min", "max"}
TINY = {
    "ingest": "--here --repeats 1 --sizes 64 96 --warm 64 --layouts cog",
    "append": "--few 1 --many 2 --appends 2 --side 64",
    "chips": "--here --repeats 1 --slots 2 --side 192 --chips 2",
    "attention": "--here --repeats 1 --chip 32 --batch 1 --filters 4",
    "convlstm": "--here --repeats 1 --tiny",
    "forecast": "--repeats 1 --side 256 --peaks",
    "reader": "--slots 40 --side 128 --chip 32 --repeats 1 --reads 3 --steps 2",
}
LEARNING = {
    "attention": bench_attention.main,
    "convlstm": bench_convlstm.main,
    "forecast": bench_forecast.main,
    "reader": bench_reader.main,
}
MAINS = {"ingest": bench_ingest.main, "append": bench_append.main, "chips": bench_chips.main}
CASES = [*MAINS.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in LEARNING.items())]
FIGURES = {
    "ingest": {
        "cog 64: ours / limit",
        "cog 64: odc-stac / ours",
        "cog 64: ours, peak",
        "ours, peak at 96 / at 64",
    },
    "append": {"an append after 2 / after 1, CPU"},
    "chips": {"random chips, Cube.read", "aligned chips, arrays"},
    "attention": {"attention / convlstm", "attention / convlstm, peak"},
    "convlstm": set(),
    "forecast": {"reading the context / forward passes", "writing / GDAL's COG driver on the same arrays"},
    "reader": {"plain chips / training"},
}


@pytest.mark.parametrize(("name", "main"), CASES)
def test_a_benchmark_writes_its_figures(
    name: str, main: Callable[[Sequence[str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*TINY[name].split(), "--folder", str(tmp_path), "--results", str(tmp_path)])
    printed = capsys.readouterr().out
    figures: list[dict[str, Any]] = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {figure["name"] for figure in figures} >= FIGURES[name]
    assert all(figure.keys() == KEYS and figure["min"] <= figure["value"] <= figure["max"] for figure in figures)
    assert all(figure["name"] in printed for figure in figures)


def test_the_work_of_living_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        spent = cost(child.stdout.readline)
        child.communicate(b"\n")
    assert 0.4 < spent.cpu < 1
    assert spent.children > 1


def test_a_peak_forgets_what_was_before() -> None:
    large = bytearray(200 << 20)
    del large
    small = cost(lambda: None).peak
    assert cost(lambda: bytearray(b"1") * (200 << 20)).peak > small + 150


def test_a_missed_bar_is_said() -> None:
    assert "missed" in str(Figure("speed", [9, 10, 11], "m/s", Bar(12, at_least=True)))
    assert "missed" not in str(Figure("cost", [9, 10, 11], "s", Bar(12)))


@pytest.mark.slow
def test_a_study_trains_each_network_and_keeps_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBECAST_TRAINING__PIXELS", "20000")
    study_networks.main(["--budget", "0.1", "--seeds", "1", "--kinds", "convlstm", "--results", str(tmp_path)])
    (run,) = json.loads((tmp_path / "networks-demo.json").read_text(encoding="utf-8"))
    assert (run["name"], run["seed"]) == ("convlstm", 0)
    assert run["rmse"] > run["mae"] > 0
    assert "extrapolation" in capsys.readouterr().out
