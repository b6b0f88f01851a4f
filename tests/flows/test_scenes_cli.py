from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from tests.flows.commands import answer, cubecast

SPEC = SyntheticSpec(height=48, width=64, frames=4)
FAULTS = Faults(late=(), repeated=(), corrupt=(2,), half_written=(), missing=())
GOOD, BAD = "synthetic_20240601T0505Z.tif", "synthetic_20240601T0510Z.tif"


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of an ingested product: three good scenes and a bad one."""
    folder = tmp_path_factory.mktemp("ingested")
    write_scenes(folder / "inbox", SPEC, FAULTS)
    config = folder / "product.toml"
    assert cubecast("init", folder / "inbox", "--output", config, "--yes").exit_code == 0
    text = config.read_text(encoding="utf-8").replace('latency = "PT0S"', 'latency = "PT0S"\nsettle = "PT0S"')
    config.write_text(text.replace(str(folder / "inbox"), "inbox"), encoding="utf-8")
    assert answer("ingest", "--config", config)["states"]["accepted"] == 3
    return config


@pytest.fixture
def config(ingested: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(ingested.parent, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy" / ingested.name


def states(config: Path) -> dict[str, str]:
    return {file["file"]: file["state"] for file in answer("scenes", "list", "-c", config)["files"]}


def test_every_file_is_listed_with_what_became_of_it(ingested: Path) -> None:
    found = states(ingested)
    assert (len(found), found[GOOD], found[BAD]) == (4, "accepted", "quarantined")
    (refused,) = answer("scenes", "list", "-c", ingested, "--state", "quarantined")["files"]
    assert (refused["file"], refused["reason"]) == (BAD, "unreadable")
    text = cubecast("scenes", "list", "-c", ingested).output
    assert all(word in text for word in (GOOD, BAD, "accepted", "quarantined", "unreadable"))


def test_a_state_that_is_none_is_refused(ingested: Path) -> None:
    assert cubecast("scenes", "list", "-c", ingested, "--state", "lost").exit_code == 2


def test_a_scene_is_shown_with_its_place_in_the_cube(ingested: Path) -> None:
    found = answer("scenes", "show", GOOD, "-c", ingested)
    (scene,) = found["scenes"]
    assert (scene["role"], scene["slot_time"], scene["place"]) == ("standing", "2024-06-01T05:05:00Z", [0, 48, 0, 64])
    assert scene["sha256"].startswith(scene["id"].split("-")[1])
    text = cubecast("scenes", "show", GOOD, "-c", ingested).output
    assert f"columns 0 to 64; {scene['valid_fraction']:.1%} of the grid is good" in text


def test_a_refused_file_is_shown_with_the_whole_reason(ingested: Path) -> None:
    found = answer("scenes", "show", BAD, "-c", ingested)
    assert found["scenes"] == []
    (file,) = found["files"]
    assert file["detail"]
    assert file["detail"][:40] in cubecast("scenes", "show", BAD, "-c", ingested).output


def test_names_may_hold_wildcards(ingested: Path) -> None:
    assert len(answer("scenes", "show", "synthetic_*", "-c", ingested)["files"]) == 4


@pytest.mark.parametrize("verb", ["show", "retry"])
def test_a_name_that_was_never_seen_says_where_to_look(ingested: Path, verb: str) -> None:
    done = cubecast("scenes", verb, "nonsense.tif", "-c", ingested)
    assert done.exit_code == 1
    assert "see cubecast scenes list" in done.output


def test_a_retried_file_is_pending_until_the_next_ingest_looks_again(config: Path) -> None:
    done = cubecast("scenes", "retry", BAD, "-c", config)
    assert done.exit_code == 0, done.output
    assert "by the next cubecast ingest" in done.output
    assert states(config)[BAD] == "pending"
    cubecast("ingest", "-c", config)
    assert states(config)[BAD] == "quarantined"


def test_all_quarantined_files_can_be_retried_at_once(config: Path) -> None:
    found = answer("scenes", "retry", "--all", "--now", "-c", config)
    assert found["retried"] == [BAD]
    assert found["ingest"]["states"]["quarantined"] == 1
    text = cubecast("scenes", "retry", "--all", "--now", "-c", config).output
    assert "1 file(s) will be looked at again" in text
    assert "1 quarantined" in text


@pytest.mark.parametrize("arguments", [[], [GOOD, "--all"]])
def test_retry_wants_names_or_all(ingested: Path, arguments: list[str]) -> None:
    assert cubecast("scenes", "retry", *arguments, "-c", ingested).exit_code == 2


def test_a_withdrawn_scene_is_out_of_the_cube_and_says_why(config: Path) -> None:
    done = cubecast("scenes", "withdraw", GOOD, "--why", "birds", "-c", config)
    assert done.exit_code == 0, done.output
    assert "their place shows nothing" in done.output
    found = answer("scenes", "show", GOOD, "-c", config)
    assert found["scenes"][0]["role"] == "withdrawn"
    assert (found["files"][0]["reason"], found["files"][0]["detail"]) == ("withdrawn", "birds")
    assert answer("cube", "info", "-c", config)["observed"] == 2


def test_a_withdrawal_needs_a_reason(ingested: Path) -> None:
    assert cubecast("scenes", "withdraw", GOOD, "-c", ingested).exit_code == 2


def test_before_the_first_ingest_there_is_nothing_to_list(ingested: Path, tmp_path: Path) -> None:
    config = tmp_path / "product.toml"
    shutil.copy(ingested, config)
    done = cubecast("scenes", "list", "-c", config)
    assert done.exit_code == 1
    assert "run cubecast ingest" in done.output
