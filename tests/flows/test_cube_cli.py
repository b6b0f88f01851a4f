from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.report import cube_facts
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from tests.flows.commands import answer, cubecast

SPEC = SyntheticSpec(height=48, width=64, frames=5)
FAULTS = Faults(late=(), repeated=(), corrupt=(), half_written=(), missing=(1, 2))


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of an ingested product of slots 0, 3 and 4; its paths are relative."""
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
    shutil.copytree(ingested.parent, tmp_path / "copy")
    return tmp_path / "copy" / ingested.name


def cube_folder(config: Path) -> Path:
    return config.parent / "work" / "synthetic" / "cube"


def damage(config: Path) -> None:
    """Takes away the pixels of one slot."""
    max((cube_folder(config) / "chunks").iterdir(), key=lambda path: path.stat().st_size).unlink()


def test_info_tells_grid_bands_gaps_scenes_and_size(ingested: Path) -> None:
    found = answer("cube", "info", "-c", ingested)
    assert (found["product"], found["shape"], found["crs"]) == ("synthetic", [48, 64], "EPSG:32633")
    assert found["arrays"][0]["bands"] == {"reflectance": "1"}
    assert (found["slots"], found["observed"], found["empty"]) == (5, 3, 2)
    assert found["longest_gap"] == {"after": "2024-06-01T05:00:00Z", "before": "2024-06-01T05:15:00Z", "slots": 2}
    assert found["scenes"] == {"standing": 3, "superseded": 0, "withdrawn": 0}
    files = [path for path in cube_folder(ingested).rglob("*") if path.is_file()]
    assert found["size"] == sum(path.stat().st_size for path in files)
    assert found["snapshots"] == 1


def test_info_for_people_says_the_same(ingested: Path) -> None:
    text = cubecast("cube", "info", "-c", ingested).output
    assert "3 of 5 hold a scene, every 5 min" in text
    assert "2 empty in between, at most 2 in a row (2024-06-01 05:00Z to 2024-06-01 05:15Z)" in text
    assert "crc32c" in text


def test_info_of_an_empty_cube_is_no_error() -> None:
    from datetime import timedelta

    from flows.cube_verbs import Info

    nothing: dict[str, Any] = {"first": None, "last": None, "longest_gap": None, "size": None, "tags": {}, "scenes": {}}
    counts = {"slots": 0, "observed": 0, "empty": 0, "snapshots": 0, "schema_version": 2}
    place = {"product": "p", "place": "s3://a/b", "snapshot": "S", "crs": "EPSG:4326", "shape": (1, 1)}
    found = Info(**nothing, **counts, **place, transform=(1, 0, 0, 0, 1, 0), arrays=(), cadence=timedelta(days=1))
    assert cube_facts(found)["observed"] == "none yet"


def test_log_lists_snapshots_newest_first_with_their_tags(config: Path, tmp_path: Path) -> None:
    before = answer("cube", "info", "-c", config)["snapshot"]
    cubecast("cube", "tag", "first", "-c", config)
    more = write_scenes(tmp_path / "more", SyntheticSpec(height=48, width=64, frames=6), Faults.none()).folder
    shutil.copy(more / "synthetic_20240601T0525Z.tif", config.parent / "inbox")
    cubecast("ingest", "-c", config)
    newest, oldest = answer("cube", "log", "-c", config)["snapshots"]
    assert (oldest["snapshot"], oldest["tags"], oldest["scenes"]) == (before, ["first"], 3)
    assert newest["message"] == "ingest 1 scene(s)"
    assert len(answer("cube", "log", "-c", config, "-n", 1)["snapshots"]) == 1


def test_verify_of_a_whole_cube_says_so(ingested: Path) -> None:
    done = cubecast("cube", "verify", "-c", ingested)
    assert done.exit_code == 0, done.output
    assert "is whole" in done.output


def test_verify_fails_on_damage_names_slot_and_scene_and_how_to_mend_it(config: Path) -> None:
    damage(config)
    (found,) = answer("cube", "verify", "-c", config, code=1)["damaged"]
    done = cubecast("cube", "verify", "-c", config)
    assert done.exit_code == 1
    assert found["time"].replace("T", " ").replace(":00Z", "Z") in done.output
    assert found["scenes"][0] in done.output
    assert f"cubecast cube repair --config {config}" in done.output


def test_repair_mends_what_verify_finds(config: Path) -> None:
    damage(config)
    done = cubecast("cube", "repair", "-c", config)
    assert done.exit_code == 0, done.output
    assert ": mended" in done.output
    assert cubecast("cube", "verify", "-c", config).exit_code == 0
    assert "nothing is damaged" in cubecast("cube", "repair", "-c", config).output


def test_repair_says_which_scene_is_gone_and_fails(config: Path) -> None:
    damage(config)
    for path in (config.parent / "inbox").iterdir():
        path.unlink()
    done = cubecast("cube", "repair", "-c", config)
    assert done.exit_code == 1
    assert "not mended" in done.output
    assert "synthetic_2024" in done.output


def test_repair_of_a_named_slot_does_not_ask_whether_it_is_damaged(config: Path) -> None:
    (slot,) = answer("cube", "repair", "-c", config, "--slot", "2024-06-01T05:15Z")["slots"]
    assert slot == {"time": "2024-06-01T05:15:00Z", "mended": True, "reason": ""}


@pytest.mark.parametrize(
    ("text", "said"), [("noon", "--slot: a time is written like"), ("2031-01-01", "a slot lies in the cube")]
)
def test_a_slot_that_is_none_is_explained(ingested: Path, text: str, said: str) -> None:
    done = cubecast("cube", "repair", "-c", ingested, "--slot", text)
    assert done.exit_code == 1
    assert said in done.output


def test_gc_says_what_it_would_take_and_takes_only_what_is_old(config: Path) -> None:
    would = answer("cube", "gc", "-c", config, "--dry-run")
    assert would["dry_run"] is True
    assert would["expired"] == 0
    assert "would expire 0 snapshot(s)" in cubecast("cube", "gc", "-c", config, "--dry-run").output
    assert cubecast("cube", "gc", "-c", config, "--keep-days", 7).exit_code == 0
    assert cubecast("cube", "verify", "-c", config).exit_code == 0


def test_gc_keeps_a_week_at_least(ingested: Path) -> None:
    assert cubecast("cube", "gc", "-c", ingested, "--keep-days", 6).exit_code == 2


def test_tags_are_given_listed_and_removed(config: Path) -> None:
    snapshot = answer("cube", "info", "-c", config)["snapshot"]
    assert answer("cube", "tag", "-c", config)["tags"] == {}
    assert f"good is snapshot {snapshot}" in cubecast("cube", "tag", "good", "-c", config).output
    cubecast("cube", "tag", "better", "--snapshot", "good", "-c", config)
    assert answer("cube", "tag", "--list", "-c", config)["tags"] == {"better": snapshot, "good": snapshot}
    assert cubecast("cube", "tag", "good", "--delete", "-c", config).exit_code == 0
    assert answer("cube", "tag", "-c", config)["tags"] == {"better": snapshot}
    assert cubecast("cube", "tag", "good", "--delete", "-c", config).exit_code == 1
    assert cubecast("cube", "tag", "--delete", "-c", config).exit_code == 2


def test_a_backup_is_a_cube_and_the_second_one_copies_nothing(config: Path, tmp_path: Path) -> None:
    first = answer("cube", "backup", tmp_path / "safe", "-c", config)
    assert first["snapshot"] == answer("cube", "info", "-c", config)["snapshot"]
    assert answer("cube", "backup", tmp_path / "safe", "-c", config)["files"] == 0
    shutil.rmtree(cube_folder(config))
    shutil.copytree(tmp_path / "safe", cube_folder(config))
    assert cubecast("cube", "verify", "-c", config).exit_code == 0


def test_export_writes_zarr_or_cogs_of_the_time_asked_for(ingested: Path, tmp_path: Path) -> None:
    whole = answer("cube", "export", tmp_path / "zarr", "-c", ingested)
    assert (whole["names"], whole["slots"]) == (["synthetic.zarr"], 5)
    part = ("--from", "2024-06-01T05:05Z", "--to", "2024-06-01T05:15Z")
    cogs = answer("cube", "export", tmp_path / "cog", "-c", ingested, "--format", "cog", *part)
    assert cogs["names"] == ["synthetic_20240601T0515Z.tif", "synthetic_20240601T0515Z-quality.tif"]
    past = answer("cube", "export", tmp_path / "past", "-c", ingested, "--as-of", "2024-06-01T05:02Z")
    assert (past["slots"], past["scenes"]) == (1, 1)


def test_export_into_a_folder_that_holds_something_is_refused(ingested: Path) -> None:
    done = cubecast("cube", "export", ingested.parent, "-c", ingested)
    assert done.exit_code == 1
    assert "choose a new or empty folder" in done.output


@pytest.mark.parametrize("verb", ["info", "log", "verify", "repair", "gc", "tag"])
def test_before_the_first_ingest_each_verb_says_to_ingest(ingested: Path, tmp_path: Path, verb: str) -> None:
    config = tmp_path / "product.toml"
    shutil.copy(ingested, config)
    done = cubecast("cube", verb, "-c", config)
    assert done.exit_code == 1
    assert "run cubecast ingest first" in done.output
