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
from pathlib import Path

import pytest

from flows import verbs
from flows.tending import tend
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
