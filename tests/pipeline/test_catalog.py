from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.bucket import Bucket
from pipeline.catalog import LATEST, PublishedRun, at_hand, find_run, latest, read_run, runs
from pipeline.errors import PublishError, WithdrawnError
from pipeline.passport import check_files
from pipeline.record import MANIFEST, Outlet, run_key
from pipeline.shelf import shelf_at
from pipeline.withdrawal import withdraw
from tests.pipeline.published import INIT, PRODUCT, RUN, an_outlet, at, publish_run, the_latest, visible


def test_runs_come_oldest_first_whatever_the_order_of_publication(outlet: Outlet) -> None:
    for minutes in (5, 60 * 24, 0, -60 * 24 * 40):
        publish_run(outlet, at(minutes))
    inits = [run.init for run in visible(outlet.place)]
    assert inits == sorted(inits)
    assert len(inits) == 4


def test_latest_never_goes_back_to_an_older_init(outlet: Outlet) -> None:
    newest = publish_run(outlet, at(10))
    publish_run(outlet, at(0))
    publish_run(outlet, at(10))
    assert the_latest(outlet.place).path == newest


def test_of_two_runs_of_one_init_the_later_made_is_the_latest(outlet: Outlet) -> None:
    late = publish_run(outlet, replace(RUN, snapshot="B"), created=INIT + timedelta(hours=2))
    publish_run(outlet, replace(RUN, snapshot="A"), created=INIT + timedelta(hours=1))
    assert the_latest(outlet.place).path == late


@pytest.mark.parametrize("text", [None, "", "{}", '{"path": "2020/04/01/gone"}'])
def test_latest_is_found_without_its_pointer(outlet: Outlet, text: str | None) -> None:
    newest = publish_run(outlet, at(5))
    publish_run(outlet, at(0))
    shelf_at(outlet.place, PRODUCT).update(LATEST, lambda: text)
    assert the_latest(outlet.place).path == newest


def test_latest_steps_back_when_its_run_is_removed(outlet: Outlet) -> None:
    older = publish_run(outlet, at(0))
    newer = publish_run(outlet, at(5))
    shelf = shelf_at(outlet.place, PRODUCT)
    shelf.drop(next(entry for entry in shelf.entries("2020/04/01") if entry.key == newer.name))
    assert the_latest(outlet.place).path == older


def test_there_is_no_latest_before_the_first_run(outlet: Outlet) -> None:
    assert latest(outlet.place, PRODUCT) is None
    assert visible(outlet.place) == []


def test_products_in_one_place_do_not_see_each_other(outlet: Outlet) -> None:
    publish_run(outlet)
    assert list(runs(outlet.place, "satellite")) == []


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    manifest = publish_run(an_outlet(tmp_path)) / "run.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(PublishError, match="schema_version 99, this cubecast reads 1"):
        read_run(manifest.parent)


def test_a_manifest_that_the_disk_has_damaged_hides_no_other_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outlet = an_outlet(tmp_path)
    damaged, whole = publish_run(outlet, at(5)), publish_run(outlet)
    (damaged / MANIFEST).write_text("{")
    assert [run.path for run in runs(outlet.place, PRODUCT)] == [whole]
    assert str(damaged) in caplog.text
    publish_run(outlet, at(-5))
    assert latest(outlet.place, PRODUCT).path == whole  # type: ignore[union-attr]


def test_a_run_that_goes_while_runs_are_listed_is_left_out(outlet: Outlet) -> None:
    for minutes in (0, 60 * 24):
        publish_run(outlet, at(minutes))
    listed = runs(outlet.place, PRODUCT)
    first = next(listed)
    withdraw(outlet.place, PRODUCT, "2020-04-02T13:10Z", "while others look")
    assert first.init == INIT
    assert list(listed) == []


def _found(outlet: Outlet, name: str) -> PublishedRun:
    return find_run(outlet.place, PRODUCT, name)


def test_a_run_is_found_by_key_by_init_time_and_by_path(outlet: Outlet) -> None:
    path = publish_run(outlet)
    publish_run(outlet, at(5))
    names = [path.name, "2020-04-01T13:10Z", "20200401T1310Z", path.as_posix(), f"{path.parent.as_posix()}/"]
    assert {_found(outlet, name).path for name in names} == {path}


def test_a_copy_that_lost_its_manifest_is_not_taken_for_the_run_that_it_is_a_copy_of(tmp_path: Path) -> None:
    outlet = an_outlet(tmp_path / "shelf")
    path = publish_run(outlet)
    copy = Path(shutil.copytree(path, tmp_path / "copy" / path.name))
    assert _found(outlet, str(copy)).path == copy
    (copy / MANIFEST).unlink()
    with pytest.raises(PublishError, match=f"has a readable run.json, but {copy}"):
        _found(outlet, str(copy))


def test_a_copy_of_a_withdrawn_run_says_why_it_was_withdrawn(tmp_path: Path) -> None:
    outlet = an_outlet(tmp_path / "shelf")
    path = publish_run(outlet)
    withdraw(outlet.place, PRODUCT, path.name, "upside down")
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    with pytest.raises(WithdrawnError, match="upside down"):
        _found(outlet, str(copy))


def test_a_name_that_is_no_run_s_is_refused_with_a_reason(outlet: Outlet) -> None:
    for snapshot in "AB":
        publish_run(outlet, replace(RUN, snapshot=snapshot))
    with pytest.raises(PublishError, match="2 are called 2020-04-01T13:10Z: say which by its key, "):
        _found(outlet, "2020-04-01T13:10Z")
    for name in ("2020-04-01T13:15Z", "0123456789ab"):
        with pytest.raises(PublishError, match=f"none is called {name}"):
            _found(outlet, name)
    for name in ("", "yesterday", "/"):
        with pytest.raises(PublishError, match="its path, found"):
            _found(outlet, name)


def test_whoever_opens_a_withdrawn_run_is_told_why(tmp_path: Path) -> None:
    outlet = an_outlet(tmp_path)
    path = publish_run(outlet)
    withdraw(tmp_path, PRODUCT, path.name, "a scene was of another day", now=INIT)
    for read in (lambda: read_run(path), lambda: _found(outlet, run_key(RUN, outlet))):
        with pytest.raises(WithdrawnError, match="withdrawn 2020-04-01T13:10:00Z: a scene was of another day"):
            read()


def test_a_run_of_a_bucket_is_brought_here_to_be_looked_at(tmp_path: Path, s3_bucket: Bucket) -> None:
    there = an_outlet(s3_bucket, made_in=tmp_path)
    publish_run(there)
    run = the_latest(s3_bucket)
    with at_hand(run) as here:
        assert check_files(here.path).good
        assert here.path.is_relative_to(tempfile.gettempdir())
        np.testing.assert_array_equal(here.read(5), run.read(5))
    assert not here.path.exists()
    with at_hand(read_run(publish_run(an_outlet(tmp_path / "here")))) as same:
        assert same.path.is_relative_to(tmp_path / "here")
