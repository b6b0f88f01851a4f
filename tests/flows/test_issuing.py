from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from flows import verbs
from flows.issuing import by_champion
from pipeline.config import Settings, load
from pipeline.errors import CubecastError
from pipeline.rungs import Champion


@pytest.fixture
def ingested(product: Path) -> Path:
    verbs.ingest(product)
    return product


def under(deadline: str, product: Path) -> Path:
    """The configuration with a deadline."""
    text = product.read_text().replace("[training]", f'[forecast]\ndeadline = "{deadline}"\n\n[training]', 1)
    product.write_text(text)
    return product


def manifest(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))


def test_past_the_deadline_the_next_rung_is_published_and_says_why(ingested: Path) -> None:
    done = verbs.forecast(under("PT0.05S", ingested))
    assert done.model == "extrapolation 1"
    assert "not ready 0.05 s after the start (forecast.deadline)" in done.warning
    assert (done.fresh, done.late) == (True, done.warning)
    assert manifest(done.run)["rung"] == {"wanted": "network", "why": done.warning}


@pytest.mark.slow
def test_a_process_that_is_in_time_issues_the_run_that_it_would_without_a_deadline(ingested: Path) -> None:
    alone = verbs.forecast(ingested)
    assert verbs.forecast(under("PT5M", ingested)) == replace(alone, fresh=False)
    assert "rung" not in manifest(alone.run)


@pytest.mark.slow
def test_a_network_that_sleeps_is_ended_at_the_deadline(ingested: Path) -> None:
    """A real command, whose network stops where it stands."""
    with forecasting_under("PT15S", ingested) as forecasting:
        asleep = child_of(forecasting.pid)
        os.kill(asleep, signal.SIGSTOP)
        said, _ = forecasting.communicate(timeout=240)
    done = json.loads(said)
    assert done["model"] == "extrapolation 1"
    assert "15 s after the start" in manifest(done["run"])["rung"]["why"]
    assert not psutil.pid_exists(asleep)


@pytest.mark.slow
def test_a_network_that_is_killed_stops_nothing(ingested: Path) -> None:
    with forecasting_under("PT5M", ingested) as forecasting:
        os.kill(child_of(forecasting.pid), signal.SIGKILL)
        said, _ = forecasting.communicate(timeout=240)
    assert "ended with exit code -9" in json.loads(said)["warning"]


@pytest.mark.slow
def test_what_the_user_has_to_mend_comes_out_of_the_other_process(product: Path) -> None:
    with pytest.raises(CubecastError, match="ingest"):
        verbs.forecast(under("PT5M", product))


class Interrupted:
    """A registry whose network is stopped by Ctrl-C and says that of itself as TensorFlow does."""

    network, why, reason = property(lambda self: self), "", ""

    def glimpse(self, _: Settings) -> None:
        return None

    def serve(self, _: Settings) -> Self:
        return self

    def champion(self) -> Champion:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise SystemError("bad argument to internal function")


def test_ctrl_c_in_the_network_publishes_nothing(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.registry.open_registry", lambda *_, **__: Interrupted())
    settings = load(ingested)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            by_champion(settings, None, None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not settings.paths.forecasts.exists()


def forecasting_under(deadline: str, product: Path) -> subprocess.Popen[str]:
    """A real command."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", "forecast", "--json"]
    return subprocess.Popen([*command, "-c", str(under(deadline, product))], stdout=subprocess.PIPE, text=True)


def child_of(command: int) -> int:
    """The process that asks the network, as soon as it is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = [one.pid for one in psutil.Process(command).children() if "flows.issuing" in one.cmdline()]
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError("it never began")
