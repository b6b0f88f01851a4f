"""The command line as an impatient user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.command import explain
from pipeline.config import load
from pipeline.cube import open_cube, store_of
from pipeline.forecast import forecast as publish
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from tests.flows.commands import cubecast

VERBS = ("init", "doctor", "ingest", "train", "forecast", "verify", "quality", "demo", "up", "sweep")
SPEC = SyntheticSpec(height=48, width=64, frames=8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inbox")
    return write_scenes(folder, SPEC, Faults.none()).folder


@pytest.fixture
def config(scenes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "product.toml"
    assert cubecast("init", scenes, "--output", path, "--yes").exit_code == 0
    return path


def test_every_verb_is_there() -> None:
    text = cubecast("--help").output
    assert all(verb in text for verb in (*VERBS, "cube", "scenes"))


def test_init_writes_a_configuration_that_ingest_takes(config: Path) -> None:
    done = cubecast("ingest", "--config", config, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["states"]["accepted"] == SPEC.frames


def test_init_asks_what_the_scenes_do_not_say(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "asked.toml"
    done = CliRunner().invoke(app, ["init", str(scenes), "--output", str(path)], input="CC-BY-4.0\n" + "\n" * 20)
    assert done.exit_code == 0, done.output
    assert "CC-BY-4.0" in path.read_text(encoding="utf-8")


def test_init_of_an_area_cuts_the_grid_to_it(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "area.toml"
    area = "372000,5242000,402000,5262000"  # 30 x 20 km of the upper left corner
    assert cubecast("init", scenes, "--output", path, "--yes", "--bounds", area).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert "width = 30" in text
    assert "height = 20" in text
    assert json.loads(cubecast("ingest", "-c", path, "--json").stdout)["states"]["accepted"] == SPEC.frames


@pytest.mark.parametrize("area", ["1,2,3", "a,b,c,d", "0,0,1,1"])
def test_an_area_that_is_none_is_exit_code_2(scenes: Path, tmp_path: Path, area: str) -> None:
    done = cubecast("init", scenes, "--output", tmp_path / "p.toml", "--yes", "--bounds", area)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_init_does_not_overwrite_unasked(config: Path, scenes: Path) -> None:
    assert cubecast("init", scenes, "--output", config, "--yes").exit_code == 2
    assert cubecast("init", scenes, "--output", config, "--yes", "--overwrite").exit_code == 0


def test_ingest_twice_says_nothing_new(config: Path) -> None:
    cubecast("ingest", "--config", config)
    assert "nothing new" in cubecast("ingest", "--config", config).output


def test_ingest_names_each_refused_file_and_why(config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8")
    inbox = tmp_path / "inbox"
    write_scenes(inbox, SPEC, Faults(late=(), repeated=(), corrupt=(3,), half_written=(), missing=()))
    mended = tmp_path / "other.toml"
    folder = next(line for line in text.splitlines() if line.startswith("folder = "))
    mended.write_text(text.replace(folder, f'folder = "{inbox}"'), encoding="utf-8")
    done = cubecast("ingest", "--config", mended)
    assert done.exit_code == 0, done.output
    assert "7 accepted, 1 quarantined" in done.output
    assert "quarantined, unreadable" in done.output


def test_a_wrong_configuration_is_exit_code_2_with_field_value_and_rule(config: Path) -> None:
    config.write_text(
        config.read_text(encoding="utf-8").replace('dtype = "uint16"', 'dtype = "uint17"'), encoding="utf-8"
    )
    done = cubecast("ingest", "--config", config)
    assert done.exit_code == 2
    assert "bands.0.dtype = 'uint17'" in done.output
    assert "Traceback" not in done.output


def test_a_missing_configuration_says_how_to_write_one(tmp_path: Path) -> None:
    done = cubecast("forecast", "--config", tmp_path / "none.toml")
    assert done.exit_code == 2
    assert "cubecast init" in done.output


def test_without_a_name_the_configuration_is_the_one_that_init_writes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("ingest", "forecast"):
        none = cubecast(verb)
        assert none.exit_code == 2
        assert "cubecast init SCENES_FOLDER --output product.toml" in none.output
    assert cubecast("init", scenes, "--yes").exit_code == 0
    assert cubecast("ingest").exit_code == 0
    assert cubecast("forecast", "list").exit_code == 0


def test_no_scenes_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = cubecast("init", empty, "--output", tmp_path / "p.toml", "--yes")
    assert done.exit_code == 2
    assert "empty" in done.output


def test_forecast_before_ingest_says_to_ingest(config: Path) -> None:
    done = cubecast("verify", "--config", config)
    assert done.exit_code == 1
    assert "run cubecast ingest first" in done.output


def test_verify_prints_errors_and_on_request_every_score(config: Path) -> None:
    text = config.read_text(encoding="utf-8") + "\n[verification]\nthresholds = {reflectance = [0.3]}\n"
    config.write_text(text, encoding="utf-8")
    assert cubecast("ingest", "--config", config).exit_code == 0
    settings = load(config)
    cube = open_cube(store_of(settings))
    for slot in (2, 3):
        publish(settings, None, init=cube.layout.axis.valid_time(slot))
    short, long = (cubecast("verify", "--config", config, *more) for more in ((), ("--scores",)))
    assert (short.exit_code, long.exit_code) == (0, 0), long.output
    assert "jumpiness" not in short.output
    assert all(word in long.output for word in ("correlation", "jumpiness", "CSI", "FSS 5 px"))
    rows = json.loads(cubecast("verify", "--config", config, "--json").stdout)["scores"]
    assert {row["predictor"] for row in rows} == {"forecast", "persistence", "extrapolation"}
    assert rows[0]["events"][0]["threshold"] == 0.3
    page = config.parent / "quality.html"
    shown = cubecast("quality", "--config", config, "--html", page)
    assert all(word in shown.output for word in ("extrapolation", "south-east", "no alarm")), shown.output
    assert page.read_text(encoding="utf-8").count("<svg") >= 3
    assert json.loads(cubecast("quality", "--config", config, "--json").stdout)["runs"] == 2


def test_an_init_time_that_is_no_time_is_explained(config: Path) -> None:
    done = cubecast("forecast", "--config", config, "--init", "yesterday")
    assert done.exit_code == 1
    assert "2020-04-01T13:10Z" in done.output


def test_an_init_time_that_is_yet_to_come_publishes_nothing(config: Path) -> None:
    done = cubecast("forecast", "--config", config, "--init", "2999-01-01T00:00Z")
    assert done.exit_code == 1
    assert "ahead of the clock" in done.output
    assert not load(config).paths.forecasts.exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = cubecast("verify", "--config", tmp_path / "none.toml", "--debug")
    assert done.exception is not None
    assert type(done.exception).__name__ == "ConfigError"


def test_doctor_finds_nothing_wrong_with_a_fresh_product_and_speaks_json(config: Path) -> None:
    done = cubecast("doctor", "--config", config, "--json")
    levels = {finding["level"] for finding in json.loads(done.stdout)["findings"]}
    assert "ok" in levels


def test_doctor_fails_on_a_fault_and_says_what_to_do(config: Path, scenes: Path) -> None:
    text = config.read_text(encoding="utf-8").replace('units = "1"', 'units = "1"').replace("EPSG:32633", "EPSG:32634")
    config.write_text(text, encoding="utf-8")
    done = cubecast("doctor", "--config", config)
    assert done.exit_code == 1
    assert "->" in done.output


def test_a_sweeper_without_a_server_says_which_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    done = cubecast("sweep", "--once")
    assert done.exit_code == 1
    assert "set PREFECT_API_URL=" in done.output


def test_a_made_up_product_and_one_of_ones_own_exclude_each_other(tmp_path: Path) -> None:
    done = cubecast("up", "--feed", "--config", tmp_path / "product.toml")
    assert done.exit_code == 2
    assert "give it or --config" in done.output


def test_an_installation_without_tensorflow_is_told_what_to_install() -> None:
    assert "extra cpu or gpu" in explain(ModuleNotFoundError("No module named 'keras'", name="keras"))


def test_a_fault_of_our_own_is_no_traceback_but_says_how_to_get_one() -> None:
    assert explain(ValueError("boom")) == "a fault of cubecast's own, ValueError: boom. --debug shows where"


def test_a_full_disk_is_not_called_a_fault_of_cubecast() -> None:
    said = explain(OSError("1071000 requested and 786400 written"))
    assert "that the disk has room" in said
    assert "1071000 requested" in said
