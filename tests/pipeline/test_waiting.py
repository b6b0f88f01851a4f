from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.waiting import Waiting, load, save

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_is_known_by_its_open_leads_as_long_as_its_page_is_there() -> None:
    known = Waiting()
    known.note("a", [10, 5, 15], {5})
    assert known.of("a", frozenset({"a"})) == [10, 15]
    assert known.of("a", frozenset()) is None
    assert known.of("b", frozenset({"b"})) is None


def test_a_run_that_no_truth_has_met_has_no_page_and_is_known() -> None:
    known = Waiting()
    known.note("a", [5, 10], ())
    assert known.of("a", frozenset()) == [5, 10]


def test_what_is_kept_comes_back_and_a_broken_file_says_nothing(tmp_path: Path) -> None:
    path, known = tmp_path / "state" / "waiting.json", Waiting()
    known.note("a", [5, 10], {5})
    known.note("gone", [5], (), lost=True)
    save(path, known)
    assert load(path) == known
    known.keep(["a"])
    assert (known.leads, known.lost) == ({"a": [5, 10]}, set())
    path.write_text('{"leads": ')
    assert load(path) == Waiting()
