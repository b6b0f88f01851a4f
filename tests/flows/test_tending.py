"""``cubecast ingest --watch`` as a supervisor and an impatient user meet it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from flows import verbs
from flows.tending import changes, tend
from pipeline.errors import CubecastError
from pipeline.inspect import inspect, write
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes

SPEC = SyntheticSpec(height=48, width=64, frames=3)
PATIENCE = 120  # s


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A product whose second and third scene have not come yet."""
    scenes = write_scenes(tmp_path / "all", SPEC, Faults.none()).folder
    path = tmp_path / "product.toml"
    write(inspect(scenes), path)
    text = path.read_text(encoding="utf-8").replace('latency = "PT0S"', 'latency = "PT0S"\nsettle = "PT0S"')
    path.write_text(text.replace('folder = "all"', 'folder = "inbox"'), encoding="utf-8")
    (tmp_path / "inbox").mkdir()
    arrive(path, 0)
    return path


def arrive(config: Path, number: int) -> None:
    source = sorted((config.parent / "all").iterdir())[number]
    aside = config.parent / source.name
    shutil.copy(source, aside)
    aside.rename(config.parent / "inbox" / source.name)


@pytest.fixture
def watcher(config: Path) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", "from flows.cli import main; main()"]
    options = ["ingest", "--config", str(config), "--watch", "--every", "0.2", "--json"]
    with subprocess.Popen([*program, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_arrival_is_one_line_until_a_signal_ends_it_in_peace(
    watcher: subprocess.Popen[str], config: Path, number: signal.Signals
) -> None:
    assert watcher.stdout is not None
    first = json.loads(watcher.stdout.readline())
    arrive(config, 1)
    second = json.loads(watcher.stdout.readline())
    watcher.send_signal(number)
    assert watcher.wait(PATIENCE) == 0
    assert watcher.stdout.read() == ""
    assert (first["states"]["accepted"], second["states"]["accepted"]) == (1, 1)
    assert second["seen"]["accepted"] == 2
    assert second["snapshot"] != first["snapshot"]


def interrupting(config: Path) -> tuple[list[verbs.Ingested], list[Exception]]:
    """Tends until the first news, then presses Ctrl-C."""
    news: list[verbs.Ingested] = []
    faults: list[Exception] = []

    def done(found: verbs.Ingested) -> None:
        news.append(found)
        os.kill(os.getpid(), signal.SIGINT)

    tend(config, 0.2, done=done, failed=faults.append)
    return news, faults


def test_a_signal_ends_it_and_leaves_the_handlers_as_they_were(config: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    news, faults = interrupting(config)
    assert [found.states["accepted"] for found in news] == [1]
    assert not faults
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_inbox_that_is_not_there_is_an_error(config: Path) -> None:
    shutil.rmtree(config.parent / "inbox")
    with pytest.raises(CubecastError, match="inbox"):
        interrupting(config)


def test_what_only_waits_is_told_once(config: Path) -> None:
    """A scene from the future waits for its time; it is looked at again whenever the inbox changes."""
    (scene,) = (config.parent / "inbox").iterdir()
    waiting = scene.rename(scene.with_name("synthetic_20990601T0500Z.tif"))
    told: list[verbs.Ingested] = []

    def go_on() -> None:
        os.utime(waiting, (1, 1))
        time.sleep(3)  # for another ingest that has nothing to tell
        arrive(config, 1)

    def done(found: verbs.Ingested) -> None:
        told.append(found)
        if len(told) == 1:
            threading.Thread(target=go_on).start()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    tend(config, 0.2, done=done, failed=lambda _: None)
    assert [found.states["accepted"] for found in told] == [0, 1]
    assert [one.reason for one in told[0].refused] == ["from-future"]


def test_a_server_that_does_not_answer_is_told_and_tried_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.workers.CONNECT_S", "1s")
    text = config.read_text(encoding="utf-8") + '\n[services]\ndask = "tcp://127.0.0.1:1"\n'
    config.write_text(text, encoding="utf-8")
    faults: list[Exception] = []

    def failed(error: Exception) -> None:
        faults.append(error)
        arrive(config, len(faults))
        if len(faults) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    tend(config, 0.2, done=lambda _: None, failed=failed)
    assert ["dask" in str(error) for error in faults] == [True, True]


def test_a_look_without_a_span_is_one(config: Path) -> None:
    assert len(list(changes(config, timedelta(0), every=0.2, failed=pytest.fail))) == 1


def test_for_a_span_every_change_is_seen_and_then_it_ends(config: Path) -> None:
    seen = 0
    for _ in changes(config, timedelta(seconds=4), every=0.2, failed=pytest.fail):
        seen += 1
        if seen < 3:
            arrive(config, seen)
    assert seen == 3


def test_an_ingest_says_what_is_new_and_only_if_something_is(config: Path) -> None:
    first, again = verbs.ingest(config), verbs.ingest(config)
    assert (first.changed, [name[:22] for name in first.scenes], first.newest) == (
        True,
        ["synthetic_20240601T050"],
        "20240601T0500Z",
    )
    assert (again.changed, again.scenes, again.newest) == (False, (), "")
    assert again.snapshot == first.snapshot
