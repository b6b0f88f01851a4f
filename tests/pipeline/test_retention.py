from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.bucket import Bucket
from pipeline.catalog import LATEST
from pipeline.errors import PublishError
from pipeline.record import Outlet
from pipeline.retention import Tidied, pin, tidy, unpin
from pipeline.shelf import BucketShelf, Entry, FolderShelf, shelf_at
from pipeline.specs import ForecastSpec
from pipeline.withdrawal import withdraw, withdrawals
from tests.pipeline.published import (
    INIT,
    PRODUCT,
    RUN,
    an_outlet,
    at,
    files_of,
    publish_run,
    the_latest,
    visible,
)

DAY = timedelta(days=1)
NOW = INIT + 10 * DAY


@pytest.fixture
def paths(outlet: Outlet) -> list[Path]:
    """Runs of five days, oldest first, each made at its init time."""
    return [publish_run(outlet, at(day * 24 * 60), created=INIT + day * DAY) for day in range(5)]


def _tidy(outlet: Outlet, *, dry_run: bool = False, **keep: object) -> Tidied:
    return tidy(outlet.place, PRODUCT, ForecastSpec.model_validate(keep), now=NOW, dry_run=dry_run)


def _left(outlet: Outlet) -> list[Path]:
    return [run.path for run in visible(outlet.place)]


def _days(outlet: Outlet) -> list[str]:
    return shelf_at(outlet.place, PRODUCT).days()


@pytest.mark.usefixtures("paths")
def test_everything_stays_unless_the_configuration_says_otherwise(outlet: Outlet) -> None:
    assert _tidy(outlet) == Tidied((), ())
    assert len(visible(outlet.place)) == 5


def test_runs_made_too_long_ago_go_with_their_days(outlet: Outlet, paths: list[Path]) -> None:
    done = _tidy(outlet, keep_for=timedelta(days=7, hours=1))
    assert done.runs == tuple(path.as_posix() for path in paths[:3])
    assert _left(outlet) == paths[3:]
    assert _days(outlet) == ["2020/04/04", "2020/04/05"]


def test_a_hindcast_is_as_old_as_its_making(outlet: Outlet) -> None:
    hindcast = publish_run(outlet, at(0), created=NOW)
    publish_run(outlet, at(60), created=NOW)
    assert _tidy(outlet, keep_for=DAY).runs == ()
    assert hindcast in _left(outlet)


def test_the_newest_so_many_runs_stay(outlet: Outlet, paths: list[Path]) -> None:
    _tidy(outlet, keep_runs=2)
    assert _left(outlet) == paths[3:]


def test_of_one_init_time_the_runs_made_last_stay(outlet: Outlet) -> None:
    times = {snapshot: INIT + timedelta(hours=hours) for snapshot, hours in {"A": 2, "B": 1, "C": 3}.items()}
    made = {name: publish_run(outlet, replace(RUN, snapshot=name), created=time) for name, time in times.items()}
    _tidy(outlet, keep_runs=2)
    assert set(_left(outlet)) == {made["A"], made["C"]}


@pytest.mark.parametrize("keep", [{"keep_for": timedelta(seconds=1)}, {"keep_runs": 1}])
def test_the_latest_and_pinned_runs_stay_whatever_their_age_and_number(
    outlet: Outlet, paths: list[Path], keep: dict[str, object]
) -> None:
    pin(outlet.place, PRODUCT, paths[1].name)
    _tidy(outlet, **keep)
    assert _left(outlet) == [paths[1], paths[4]]
    assert the_latest(outlet.place).path == paths[4]
    unpin(outlet.place, PRODUCT, paths[1].name)
    _tidy(outlet, **keep)
    assert _left(outlet) == [paths[4]]


@pytest.mark.parametrize("keep", [{"keep_for": timedelta(days=7, hours=1)}, {"keep_runs": 2}])
def test_withdrawn_runs_go_as_published_ones_would(outlet: Outlet, paths: list[Path], keep: dict[str, object]) -> None:
    for path in (paths[0], paths[3]):
        withdraw(outlet.place, PRODUCT, path.name, "bad")
    pin(outlet.place, PRODUCT, paths[0].name)
    withdraw(outlet.place, PRODUCT, paths[1].name, "bad")
    _tidy(outlet, **keep)
    left = [one.path for one in withdrawals(outlet.place, PRODUCT)]
    assert left == [paths[0].as_posix(), paths[3].as_posix()]


def test_a_dry_run_says_what_would_go_and_touches_nothing(outlet: Outlet, paths: list[Path]) -> None:
    said = _tidy(outlet, keep_runs=2, dry_run=True)
    assert len(_left(outlet)) == 5
    assert said == _tidy(outlet, keep_runs=2)
    assert _left(outlet) == paths[3:]


def test_catalogue_and_latest_forget_a_run_before_it_goes(
    outlet: Outlet, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run(outlet, at(4 * 24 * 60 + 5), created=INIT + 4 * DAY)
    said: list[str] = []
    for shelf in (FolderShelf, BucketShelf):
        monkeypatch.setattr(shelf, "drop", lambda self, entry: said.append(_mentions(self, entry)))
    _tidy(outlet, keep_runs=1)
    assert len(said) == 5
    assert not any(path.name in text for path, text in zip(paths, said, strict=True))


def _mentions(shelf: FolderShelf | BucketShelf, entry: Entry) -> str:
    return f"{shelf.read(f'{entry.day}/catalog.json')}{shelf.read(LATEST)}"


def test_what_killed_commands_left_half_done_is_mended(outlet: Outlet, paths: list[Path]) -> None:
    withdraw(outlet.place, PRODUCT, paths[4].name, "bad")
    shelf = shelf_at(outlet.place, PRODUCT)
    (entry,) = shelf.entries("2020/04/05")
    shelf.update(f"{entry.name}/run.json", lambda: "{}")  # a withdrawal that did not come to its last step
    shelf.update("2020/04/04/catalog.json", lambda: None)  # a publish that died before the catalogue
    shelf.update(LATEST, lambda: None)
    _tidy(outlet)
    assert shelf.read(f"{entry.name}/run.json") is None
    assert paths[3].name in (shelf.read("2020/04/04/catalog.json") or "")
    assert json.loads(shelf.read(LATEST) or "")["run_key"] == paths[3].name


def test_pins_can_be_set_twice_and_only_on_runs(outlet: Outlet, paths: list[Path]) -> None:
    for act in (pin, pin, unpin, unpin):
        assert act(outlet.place, PRODUCT, "2020-04-01T13:10Z") == paths[0].as_posix()
    with pytest.raises(PublishError, match="none is called 2020-05-01"):
        pin(outlet.place, PRODUCT, "2020-05-01")


def test_a_pin_changes_no_byte_of_a_run(tmp_path: Path) -> None:
    folder = publish_run(an_outlet(tmp_path))
    before = files_of(folder)
    pin(tmp_path, PRODUCT, folder.name)
    assert files_of(folder).items() > before.items()
    unpin(tmp_path, PRODUCT, folder.name)
    assert files_of(folder) == before


def test_old_leftovers_go_and_young_ones_stay(tmp_path: Path) -> None:
    folder = publish_run(an_outlet(tmp_path))
    old = [tmp_path / ".staging-old", tmp_path / "radar/.latest.json.old", folder.parents[1] / ".catalog.json.old"]
    young = [path.with_name(path.name.replace("old", "young")) for path in old]
    gone = tmp_path / ".removed-young"
    for path in (*old, *young, gone):
        path.touch() if ".json" in path.name else path.mkdir()
    for path in old:
        os.utime(path, (0, 0))
    (tmp_path / "radar/2019/01/01").mkdir(parents=True)
    done = tidy(tmp_path, PRODUCT, ForecastSpec())
    assert set(done.leftovers) == {str(path) for path in (*old, gone)}
    assert not any(path.exists() for path in (*old, gone, tmp_path / "radar/2019"))
    assert all(path.exists() for path in young)
    assert len(visible(tmp_path)) == 1


def test_runs_without_a_manifest_in_a_bucket_are_leftovers_once_old(tmp_path: Path, s3_bucket: Bucket) -> None:
    outlet = an_outlet(s3_bucket, made_in=tmp_path)
    path = publish_run(outlet)
    publish_run(outlet, at(5))
    shelf = shelf_at(s3_bucket, PRODUCT)
    shelf.update(f"2020/04/01/20200401T1310Z/{path.name}/run.json", lambda: None)
    assert shelf.sweep(timedelta(hours=6)) == []
    found = [f"{s3_bucket}/{path.relative_to(s3_bucket.path)}"]
    assert shelf.sweep(timedelta(seconds=-5), dry_run=True) == found
    assert shelf.sweep(timedelta(seconds=-5)) == found
    assert len(shelf.entries("2020/04/01")) == 1
