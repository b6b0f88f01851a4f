from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipeline.catalog import LATEST, latest
from pipeline.errors import PublishError
from pipeline.record import MANIFEST, Outlet
from pipeline.shelf import WITHDRAWN, BucketShelf, FolderShelf, Text, shelf_at
from pipeline.withdrawal import Withdrawal, restore, withdraw, withdrawals
from tests.pipeline.published import INIT, PRODUCT, RUN, at, publish_run, the_latest, visible

DAY = "2020/04/01"


def _withdraw(outlet: Outlet, name: str, reason: str = "the inbox held another product") -> Withdrawal:
    return withdraw(outlet.place, PRODUCT, name, reason)


def _text(outlet: Outlet, name: str) -> str | None:
    return shelf_at(outlet.place, PRODUCT).read(name)


def _texts(outlet: Outlet) -> dict[str, str | None]:
    """Everything that readers start from."""
    shelf = shelf_at(outlet.place, PRODUCT)
    manifests = [f"{entry.name}/{file}" for entry in shelf.entries(DAY) for file in (MANIFEST, WITHDRAWN)]
    return {name: shelf.read(name) for name in (LATEST, f"{DAY}/catalog.json", *manifests)}


def test_a_withdrawn_run_is_not_seen_any_more_and_latest_moves_back(outlet: Outlet) -> None:
    older = publish_run(outlet, at(0))
    newer = publish_run(outlet, at(5))
    _withdraw(outlet, newer.name)
    assert [run.path for run in visible(outlet.place)] == [older]
    assert the_latest(outlet.place).path == older
    assert json.loads(_text(outlet, LATEST) or "")["run_key"] == older.name
    assert newer.name not in (_text(outlet, f"{DAY}/catalog.json") or "")


def test_the_only_run_withdrawn_leaves_no_latest_and_no_catalogue(outlet: Outlet) -> None:
    _withdraw(outlet, publish_run(outlet).name)
    assert latest(outlet.place, PRODUCT) is None
    assert _text(outlet, LATEST) is None
    assert _text(outlet, f"{DAY}/catalog.json") is None


def test_a_withdrawn_run_says_when_and_why_and_keeps_its_files(outlet: Outlet) -> None:
    path = publish_run(outlet)
    name = f"{DAY}/20200401T1310Z/{path.name}"
    manifest = json.loads(_text(outlet, f"{name}/run.json") or "")
    withdraw(outlet.place, PRODUCT, path.name, " wrong clock ", now=INIT)
    said = json.loads(_text(outlet, f"{name}/withdrawn.json") or "")
    assert (said["reason"], said["withdrawn"], said["run_key"]) == ("wrong clock", "2020-04-01T13:10:00Z", path.name)
    assert said["run"] == manifest
    (entry,) = shelf_at(outlet.place, PRODUCT).entries(DAY)
    assert len(entry.files) == 7
    assert list(withdrawals(outlet.place, PRODUCT)) == [
        Withdrawal(path.name, INIT, INIT, "wrong clock", path.as_posix())
    ]


def test_withdrawing_again_keeps_the_first_reason(outlet: Outlet) -> None:
    path = publish_run(outlet)
    first = _withdraw(outlet, path.name, "first")
    assert _withdraw(outlet, path.name, "second") == first


def test_a_restored_run_is_as_it_was(outlet: Outlet) -> None:
    publish_run(outlet, at(0))
    path = publish_run(outlet, at(5))
    before = _texts(outlet)
    _withdraw(outlet, path.name)
    assert restore(outlet.place, PRODUCT, path.name).path == path
    assert _texts(outlet) == before
    assert restore(outlet.place, PRODUCT, path.name).path == path


def test_a_restored_run_can_be_published_again(outlet: Outlet) -> None:
    path = publish_run(outlet)
    _withdraw(outlet, path.name)
    restore(outlet.place, PRODUCT, path.name)
    assert publish_run(outlet) == path


def test_a_run_that_lost_a_file_is_not_restored(outlet: Outlet) -> None:
    path = publish_run(outlet)
    _withdraw(outlet, path.name)
    shelf_at(outlet.place, PRODUCT).update(f"{DAY}/20200401T1310Z/{path.name}/lead-0005m.json", lambda: None)
    with pytest.raises(PublishError, match=r"has lost lead-0005m\.json"):
        restore(outlet.place, PRODUCT, path.name)
    assert visible(outlet.place) == []


@pytest.mark.parametrize("reason", ["", " \n"])
def test_a_withdrawal_needs_a_reason(outlet: Outlet, reason: str) -> None:
    path = publish_run(outlet)
    with pytest.raises(PublishError, match="for a reason that its users can read"):
        _withdraw(outlet, path.name, reason)
    assert len(visible(outlet.place)) == 1


def test_an_init_time_means_the_run_of_it_that_is_not_withdrawn(outlet: Outlet) -> None:
    first, second = (publish_run(outlet, replace(RUN, snapshot=snapshot)) for snapshot in "AB")
    _withdraw(outlet, first.name)
    assert _withdraw(outlet, "2020-04-01T13:10Z").run_key == second.name


STEPS = range(4)  # withdrawn.json, day catalogue, latest.json, manifest; or the manifest first


@pytest.mark.parametrize("step", STEPS)
def test_a_withdrawal_that_dies_at_any_step_has_decided_and_is_completed_by_the_next(outlet: Outlet, step: int) -> None:
    older, path = publish_run(outlet, at(0)), publish_run(outlet, at(5))
    with _dying_at(step):
        _withdraw(outlet, path.name, "first")
    seen = [older] if step else [older, path]
    assert [run.path for run in visible(outlet.place)] == seen
    assert the_latest(outlet.place).path == seen[-1]
    assert _withdraw(outlet, path.name, "second").reason == ("first" if step else "second")
    done = _texts(outlet)
    assert done[f"{DAY}/20200401T1315Z/{path.name}/run.json"] is None
    assert json.loads(done[LATEST] or "")["run_key"] == older.name


@pytest.mark.parametrize("step", STEPS)
def test_a_restoration_that_dies_at_any_step_is_completed_by_the_next(outlet: Outlet, step: int) -> None:
    older, path = publish_run(outlet, at(0)), publish_run(outlet, at(5))
    before = _texts(outlet)
    _withdraw(outlet, path.name)
    with _dying_at(step):
        restore(outlet.place, PRODUCT, path.name)
    assert [run.path for run in visible(outlet.place)] == ([older, path] if step > 1 else [older])
    restore(outlet.place, PRODUCT, path.name)
    assert _texts(outlet) == before


class _DeathError(BaseException):
    """Nothing of the command happens after it."""


@contextmanager
def _dying_at(step: int) -> Iterator[None]:
    """A command that dies before it changes its file number ``step``, counted from 0."""
    with pytest.MonkeyPatch.context() as patch:
        for shelf in (FolderShelf, BucketShelf):
            patch.setattr(shelf, "update", _counting(shelf.update, step))
        with pytest.raises(_DeathError):
            yield


def _counting(update: Callable[[Any, str, Text], None], step: int) -> Callable[[Any, str, Text], None]:
    left = itertools.count(step, -1)

    def counted(self: Any, name: str, text: Text) -> None:
        if next(left) == 0:
            raise _DeathError
        update(self, name, text)

    return counted
