from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from flows.verbs import ingest
from pipeline.config import load
from pipeline.forecast import forecast
from pipeline.inspect import inspect, write
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes
from tests.flows import commands

cubecast = partial(commands.cubecast, "forecast")
answer = partial(commands.answer, "forecast")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a product with an extrapolation from each of its last two scenes."""
    folder = tmp_path_factory.mktemp("published")
    path = folder / "product.toml"
    write(
        inspect(write_scenes(folder / "inbox", SyntheticSpec(height=64, width=64, frames=8), Faults.none()).folder),
        path,
    )
    ingest(path)
    settings = load(path)
    for slot in (6, 7):
        forecast(settings, None, init=settings.axis.axis().valid_time(slot))
    return path


@pytest.fixture
def config(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(published.parent, copy)
    return copy / published.name


def runs(config: Path) -> list[Path]:
    """Folders of the two runs, older first."""
    return sorted(path.parent for path in load(config).paths.forecasts.rglob("run.json"))


def test_a_run_is_withdrawn_listed_and_restored(config: Path) -> None:
    older, newer = runs(config)
    done = answer("withdraw", newer.name, "--reason", "a scene was upside down", "-c", config)
    assert (done["run"], done["latest"]) == (str(newer), str(older))
    (listed,) = answer("withdrawn", "-c", config)["withdrawn"]
    assert (listed["run_key"], listed["reason"]) == (newer.name, "a scene was upside down")
    assert "a scene was upside down" in cubecast("withdrawn", "-c", config).output
    assert answer("restore", newer, "-c", config) == {"run": str(newer), "latest": str(newer)}
    assert runs(config) == [older, newer]


def test_a_withdrawn_forecast_is_not_made_again_unasked(config: Path) -> None:
    older, newer = runs(config)
    init = newer.parent.name
    cubecast("withdraw", init, "--reason", "clouds of another day", "-c", config)
    done = cubecast("--init", init, "-c", config)
    assert done.exit_code == 1
    assert "clouds of another day" in done.output
    assert f"cubecast forecast restore {newer.name}" in " ".join(done.output.split())
    assert runs(config) == [older]


def test_a_withdrawal_without_a_reason_or_a_run_is_refused(config: Path) -> None:
    older, _ = runs(config)
    assert cubecast("withdraw", older.name, "-c", config).exit_code == 2
    for arguments in (
        (older.name, "--reason", " "),
        ("2031-01-01T00:00Z", "--reason", "bad"),
        ("x", "--reason", "bad"),
    ):
        done = cubecast("withdraw", *arguments, "-c", config)
        assert done.exit_code == 1
        assert "error:" in done.output
    assert len(runs(config)) == 2


def test_runs_that_are_kept_no_longer_go_unless_they_have_a_pin(config: Path) -> None:
    older, newer = runs(config)
    config.write_text(config.read_text(encoding="utf-8") + "\n[forecast]\nkeep_runs = 1\n", encoding="utf-8")
    assert answer("pin", older.name, "-c", config) == {"run": str(older), "pinned": True}
    assert answer("tidy", "-c", config)["runs"] == []
    assert answer("unpin", older.name, "-c", config)["pinned"] is False
    assert answer("tidy", "--dry-run", "-c", config)["runs"] == [str(older)]
    assert runs(config) == [older, newer]
    assert "1 run(s), 0 leftover(s)" in cubecast("tidy", "-c", config).output
    assert runs(config) == [newer]
