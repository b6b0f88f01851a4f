"""The product that a newcomer watches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from flows import feed, verbs
from flows.feed import CADENCE, _send, _sky, made_up
from pipeline.config import load
from pipeline.synthetic_feed import Fate, fate_of

if TYPE_CHECKING:
    from flows.server import Server

SHORT = 60  # scenes


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "HISTORY", SHORT)
        return made_up(tmp_path_factory.mktemp("up"), say=lambda _: None)


def test_scenes_are_there_from_the_beginning_and_can_be_ingested(config: Path) -> None:
    done = verbs.ingest(config)
    sky = _sky(load(config).axis.origin)
    fates = [fate_of(sky, slot) for slot in range(SHORT - 8)]
    assert done.states["accepted"] >= sum(fate not in {Fate.MISSING, Fate.CORRUPT} for fate in fates)
    assert done.states["quarantined"] == fates.count(Fate.CORRUPT)


def test_made_up_once_the_product_stays_as_it_is(config: Path) -> None:
    before = config.read_bytes()
    assert made_up(config.parent, say=lambda line: pytest.fail(line)) == config
    assert config.read_bytes() == before


def test_the_sun_never_sets_on_the_made_up_product(config: Path) -> None:
    from pipeline.synthetic import SyntheticSpec, _brightness

    start = load(config).axis.origin
    day = _sky(start)
    one = SyntheticSpec(frames=24, cadence=timedelta(hours=1), start=start, sunrise=day.sunrise, sunset=day.sunset)
    assert _brightness(one).min() > 0.8


def test_a_feed_that_was_away_brings_what_came_due_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - 10 * CADENCE
    sky = _sky(start)
    _send(tmp_path, sky, 0, until=start + 5 * CADENCE)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def stop(_: str) -> None:
        if len(list(tmp_path.iterdir())) >= len(before) + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _send(tmp_path, sky, 0, until=None, say=stop)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_first_training_is_ordered_once_and_again_where_it_has_died() -> None:
    runs: dict[str, str] = {}

    class Asked:
        def call(self, path: str, body: Any = None) -> Any:
            if body is None:
                return {"id": "d", "tags": []}
            key = body["idempotency_key"]
            return {"id": key, "state_type": runs.setdefault(key, "SCHEDULED")}

    server = cast("Server", Asked())
    first = feed._order(server, "train/up", "first-train")
    assert feed._order(server, "train/up", "first-train") == first
    runs[first] = "CRASHED"
    second = feed._order(server, "train/up", "first-train")
    assert second != first
    runs[second] = "COMPLETED"
    assert feed._order(server, "train/up", "first-train") == second
