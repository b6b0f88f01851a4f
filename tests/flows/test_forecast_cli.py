from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rasterio
from PIL import Image

from flows import verbs
from pipeline.config import load
from pipeline.forecast import forecast
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from pipeline.verify import verify
from tests.flows.commands import answer, cubecast

SPEC = SyntheticSpec(height=48, width=64, frames=8)
START = datetime(2024, 6, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a product with two extrapolated runs; only the older one's truth has come."""
    folder = tmp_path_factory.mktemp("published")
    write_scenes(folder / "inbox", SPEC, Faults.none())
    config = folder / "product.toml"
    assert cubecast("init", folder / "inbox", "--output", config, "--yes").exit_code == 0
    config.write_text(
        config.read_text(encoding="utf-8")
        .replace('latency = "PT0S"', 'latency = "PT0S"\nsettle = "PT0S"')
        .replace(str(folder / "inbox"), "inbox"),
        encoding="utf-8",
    )
    assert cubecast("ingest", "-c", config).exit_code == 0
    settings = load(config)
    forecast(settings, None, init=datetime(2024, 6, 1, 5, 20, tzinfo=UTC))
    forecast(settings, None)
    verify(settings)
    return config


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made.parent, tmp_path / "copy")
    return tmp_path / "copy" / made.name


def runs(config: Path) -> list[dict[str, Any]]:
    return answer("forecast", "list", "-c", config)["runs"]


def test_list_names_the_newest_runs_newest_first(made: Path) -> None:
    newest, older = runs(made)
    assert (newest["init"], older["init"]) == ("2024-06-01T05:35:00Z", "2024-06-01T05:20:00Z")
    assert (newest["newest"], older["newest"]) == (True, False)
    assert newest["model"] == "extrapolation 1"
    assert newest["leads"] == [5 * lead for lead in range(1, len(newest["leads"]) + 1)]
    assert next(iter(newest["rungs"])) == "extrapolation"
    assert sum(newest["rungs"].values()) == pytest.approx(1)
    assert len(answer("forecast", "list", "-c", made, "-n", 1)["runs"]) == 1


def test_list_for_people_marks_the_latest(made: Path) -> None:
    lines = [line for line in cubecast("forecast", "list", "-c", made).output.splitlines() if "2024-06-01" in line]
    assert ["latest" in line for line in lines] == [True, False]
    assert "extrapolation" in lines[0]


def test_list_of_a_product_without_runs_is_empty(config: Path) -> None:
    shutil.rmtree(load(config).paths.forecasts)
    assert runs(config) == []
    done = cubecast("forecast", "list", "-c", config)
    assert done.exit_code == 0
    assert done.output.strip() == "no published runs yet: cubecast forecast makes one"
    assert cubecast("forecast", "withdrawn", "-c", config).output.strip() == "no withdrawn runs"


def test_show_tells_leads_rungs_ages_and_the_skill_that_truth_has_shown(made: Path) -> None:
    found = answer("forecast", "show", "2024-06-01T05:20Z", "-c", made)
    first = found["leads"][0]
    assert (first["minutes"], first["valid_time"]) == (5, "2024-06-01T05:25:00Z")
    assert (first["middle"], first["oldest"]) == (0, 5)  # what clouds hid in the newest frame is from the one before
    errors = first["met"][0]["mae"]
    assert errors["forecast"] == pytest.approx(errors["extrapolation"], rel=1e-3)  # it is one, in steps of 1/16 DN
    assert answer("forecast", "show", "-c", made)["leads"][-1]["met"] == []  # nothing after 05:35 has come
    text = cubecast("forecast", "show", "2024-06-01T05:20Z", "-c", made).output
    assert "against the truth that has come" in text
    assert "+0 %" in text


def test_show_of_a_run_without_truth_tells_how_its_model_did_so_far(made: Path) -> None:
    found = answer("forecast", "show", "-c", made)
    assert (found["init"], found["newest"]) == ("2024-06-01T05:35:00Z", True)
    assert all(lead["met"] == [] for lead in found["leads"])
    older = answer("forecast", "show", "2024-06-01T05:20Z", "-c", made)
    assert found["leads"][0]["usual"] == older["leads"][0]["met"]
    assert "no truth of this run has come" in cubecast("forecast", "show", "-c", made).output


def test_a_run_is_found_by_its_key_and_by_its_path(made: Path) -> None:
    newest, older = runs(made)
    by_key = answer("forecast", "show", older["run_key"], "-c", made)
    assert by_key["init"] == older["init"]
    assert answer("forecast", "show", by_key["path"], "-c", made) == by_key
    assert newest["run_key"] != older["run_key"]


def test_a_run_that_is_not_there_says_how_to_find_those_that_are(made: Path) -> None:
    for name in ("0123456789ab", "2020-01-01", "nonsense"):
        done = cubecast("forecast", "show", name, "-c", made)
        assert done.exit_code == 1
        assert "cubecast forecast list" in done.output


def test_two_runs_of_one_init_time_are_told_apart_by_their_keys(config: Path) -> None:
    settings = load(config)
    other = settings.model_copy(update={"motion": settings.motion.model_copy(update={"method": "none"})})
    forecast(other, None, init=datetime(2024, 6, 1, 5, 20, tzinfo=UTC))
    done = cubecast("forecast", "show", "2024-06-01T05:20Z", "-c", config)
    assert done.exit_code == 1
    keys = {run["run_key"] for run in runs(config) if run["init"] == "2024-06-01T05:20:00Z"}
    assert len(keys) == 2
    assert all(key in done.output for key in keys)


def test_before_the_first_run_show_says_to_forecast(config: Path) -> None:
    shutil.rmtree(load(config).paths.forecasts)
    done = cubecast("forecast", "show", "-c", config)
    assert (done.exit_code, "cubecast forecast makes one" in done.output) == (1, True)


def test_a_picture_is_a_page_or_a_film_by_its_name(made: Path, tmp_path: Path) -> None:
    for name in ("a/page.png", "a/film.GIF"):
        done = cubecast("forecast", "show", "-c", made, "--picture", tmp_path / name)
        assert (done.exit_code, str(tmp_path / name) in done.output) == (0, True)
    with Image.open(tmp_path / "a/page.png") as page, Image.open(tmp_path / "a/film.GIF") as film:
        assert (page.format, film.format) == ("PNG", "GIF")
        leads = len(answer("forecast", "show", "-c", made)["leads"])
        assert leads < film.n_frames <= leads + 4


def test_a_picture_of_another_kind_is_refused(made: Path, tmp_path: Path) -> None:
    done = cubecast("forecast", "show", "-c", made, "--picture", tmp_path / "page.pdf")
    assert (done.exit_code, "a .png or a .gif" in done.output) == (1, True)


def test_verify_of_an_untouched_run_is_equal(made: Path) -> None:
    found = answer("forecast", "verify", "-c", made)
    assert (found["verdict"], found["rasters"]) == ("equal", 2 * (found["files"] - 1) // 3)
    assert "the same, pixel for pixel" in cubecast("forecast", "verify", "-c", made).output


def test_verify_of_a_copy_anywhere_is_equal(made: Path, tmp_path: Path) -> None:
    path = answer("forecast", "show", "-c", made)["path"]
    copy = shutil.copytree(path, tmp_path / "received")
    assert answer("forecast", "verify", copy, "-c", made)["verdict"] == "equal"


def test_verify_names_the_file_the_band_and_how_far_off_a_changed_pixel_is(config: Path) -> None:
    path = Path(answer("forecast", "show", "-c", config)["path"]) / "lead-0005m.tif"
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        dn = file.read(1)
        dn[20, 20] += 16
        file.write(dn, 1)
    done = cubecast("forecast", "verify", "-c", config)
    assert done.exit_code == 1
    assert "lead-0005m.tif: 1 of 3072 pixels of mean would be others, by at most" in done.output
    assert "damaged." in done.output
    (fault,) = answer("forecast", "verify", "--hashes", "-c", config, code=1)["faults"]
    assert fault["file"] == "lead-0005m.tif"


def test_verify_without_the_cube_says_why_the_pixels_cannot_be_made_again(config: Path) -> None:
    shutil.rmtree(load(config).paths.cube)
    assert answer("forecast", "verify", "--hashes", "-c", config)["verdict"] == "whole"
    found = answer("forecast", "verify", "-c", config, code=1)
    assert (found["verdict"], len(found["obstacles"])) == ("not re-creatable", 1)
    assert "its pixels cannot be made again" in cubecast("forecast", "verify", "-c", config).output


@pytest.mark.parametrize("how", ["option", "setting"])
def test_a_run_is_issued_for_the_slot_that_is_due_by_the_clock_whether_or_not_its_scene_has_come(
    config: Path, how: str
) -> None:
    options = ("--init", "now") if how == "option" else ()
    if how == "setting":
        config.write_text(config.read_text(encoding="utf-8") + '\n[forecast]\nissue = "due"\n', encoding="utf-8")
    before = datetime.now(UTC)
    done = answer("forecast", "-c", config, *options)
    found = answer("forecast", "show", "-c", config)
    init = datetime.fromisoformat(found["init"])
    assert before - timedelta(minutes=5) < init <= datetime.now(UTC)
    assert (done["model"], done["run"], found["newest"]) == ("climatology 1", found["path"], True)
    assert set(found["rungs"]) <= {"climatology", "none"}
    assert answer("verify", "-c", config)["scored"] == 0


def test_a_verb_is_told_the_time_and_a_hindcast_needs_none(config: Path) -> None:
    then = datetime(2024, 6, 1, 5, 43, tzinfo=UTC)
    assert verbs.forecast(config, due=True, now=then).init == "20240601T0540Z"
    assert verbs.forecast(config, now=then).init == "20240601T0535Z"
    assert (
        verbs.forecast(config, init=datetime(2024, 6, 1, 5, 20, tzinfo=UTC), due=True, now=then).init
        == "20240601T0520Z"
    )
