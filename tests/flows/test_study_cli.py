from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import verbs
from flows.study_verbs import hindcast_inits
from pipeline.config import load
from tests.flows.commands import answer, cubecast


def test_a_part_that_there_is_not_is_named(product: Path) -> None:
    done = cubecast("study", "skill", "-c", product, "--parts", "everything")
    assert done.exit_code == 2
    assert "found everything" in done.output


def test_thresholds_are_numbers(product: Path) -> None:
    done = cubecast("study", "skill", "-c", product, "--thresholds", "10,much")
    assert done.exit_code == 2
    assert "found 'much'" in done.output


def test_without_a_cube_there_is_nothing_to_study(product: Path) -> None:
    assert cubecast("study", "skill", "-c", product).exit_code == 1


def test_test_init_times_are_spread_over_the_test_part_and_their_truth_has_come(product: Path) -> None:
    verbs.ingest(product)
    settings = load(product)
    times, few = hindcast_inits(settings, 99), hindcast_inits(settings, 2)
    assert list(few) == [times[0], times[-1]]
    assert times[-1] + settings.samples.horizon * settings.axis.cadence <= newest_scene(product)
    assert hindcast_inits(settings, 2) == verbs.unseen_inits(product, 2)


def newest_scene(config: Path) -> Any:
    """Valid time of the newest scene."""
    from pipeline.cube import open_cube, store_of

    cube = open_cube(store_of(load(config)))
    return cube.layout.axis.valid_time(int(cube.observed()[-1]))


@pytest.mark.slow
def test_a_study_of_the_cascade_prints_its_table_and_goes_on(product: Path) -> None:
    verbs.ingest(product)
    asked = ("study", "skill", "-c", product, "--seeds", 1, "--inits", 2, "--parts", "cascade")
    done = cubecast(*asked)
    assert done.exit_code == 0, done.output
    assert "| cascade |" in done.output
    assert "insufficient evidence" in done.output
    again = answer(*asked)
    assert again["text"] in done.output
    assert again["run_id"]
    assert Path(again["picture"]).is_file()


@pytest.mark.slow
def test_hindcasts_are_made_from_nothing_in_a_workspace_of_their_own(product: Path, tmp_path: Path) -> None:
    text = product.read_text().replace("[training]", "[training]\nsteps_per_epoch = 2")
    product.write_text(text)
    done = answer("study", "hindcast", "-c", product, "--inits", 2, "--workspace", tmp_path / "build")
    assert len(done["runs"]) == len(done["inits"]) == 2
    for init, run in zip(done["inits"], done["runs"], strict=True):
        assert init in Path(run).parts
        assert (Path(run) / "lead-0005m.tif").is_file()
        assert Path(run).is_relative_to(tmp_path / "build")
    verified = tmp_path / "build" / "verification"
    assert len(list(verified.glob("*.json"))) == 2  # so that the second one could follow the first
    assert not load(product).paths.cube.exists()
