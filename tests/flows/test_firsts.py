"""`cubecast up` says when there is something to look at, once a product."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import firsts
from flows.firsts import FirstForecasts


@pytest.fixture(autouse=True)
def _every_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "EVERY", 0.0)


def publish(file: Path, init: str, path: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"init": init, "path": path, "created": init}), encoding="utf-8")


def test_the_first_forecast_from_now_on_is_told_once(tmp_path: Path) -> None:
    old, new = (tmp_path / name / "latest.json" for name in ("old", "new"))
    publish(old, "2024-06-01T05:00:00Z", "a")
    said: list[str] = []
    looked = FirstForecasts({"old": old, "new": new, "in a bucket": None})
    looked.look(said.append)
    assert said == []
    publish(new, "2024-06-01T06:40:00Z", "2024/06/01/20240601T0640Z/b")
    publish(old, "2024-06-01T06:45:00Z", "2024/06/01/20240601T0645Z/c")
    looked.look(said.append)
    assert said == [
        "First forecast of old, from what was known at 2024-06-01 06:45 UTC",
        f"  {old.parent}/2024/06/01/20240601T0645Z/c",
        "First forecast of new, from what was known at 2024-06-01 06:40 UTC",
        f"  {new.parent}/2024/06/01/20240601T0640Z/b",
    ]
    publish(new, "2024-06-01T06:50:00Z", "d")
    looked.look(said.append)
    assert len(said) == 4


def test_a_file_that_cannot_be_read_is_looked_at_again(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "latest.json"
    looked = FirstForecasts({"small": file})
    file.write_text("{", encoding="utf-8")
    looked.look(said.append)
    publish(file, "2024-06-01T06:40:00Z", "b")
    looked.look(said.append)
    assert len(said) == 2
