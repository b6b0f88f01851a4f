"""Workers, flow runs and servers die at any moment; then nothing is stuck, nothing missing, nothing there twice."""

from __future__ import annotations

import random
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import pytest

from flows import verbs
from tests.faults.chaos import FAULTS, HISTORY, PATIENCE, Site, Stack, running
from tests.faults.record import record, tries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(2 * 3600),
    pytest.mark.skipif(sys.platform != "linux", reason="kills process groups"),
]


QUIET = 12.0  # seconds from an event to the run that it starts, at most


def test_whoever_dies_every_scene_has_its_forecast_once_and_nothing_is_stuck(tmp_path: Path) -> None:
    site, dice = Site(tmp_path), random.Random(7)
    verbs.ingest(site.config)
    verbs.forecast(site.config)
    struck: list[str] = []
    failures: list[str] = []
    with running(site) as stack:
        for fault in islice(cycle(FAULTS), tries(20, 3)):
            _round(stack, fault, dice.choice(["ingest", "forecast"]), dice)
            struck.append(fault)
            failures += _faults(stack)
            record("death under Prefect", fault, struck.count(fault), len(failures))
    assert not failures


def _round(stack: Stack, fault: str, phase: str, dice: random.Random) -> None:
    """A scene comes and is worked on, somebody dies in the middle of it, and everything settles."""
    site = stack.site
    site.drop()
    stack.order("ingest")
    stack.wait_until(lambda: stack.is_under_way(phase))  # the forecast is asked for by the event of the ingest
    for _ in range(dice.randrange(24)):
        stack.pause()
    FAULTS[fault](stack, dice)
    _settle(stack)


def _settle(stack: Stack) -> None:
    idle = time.monotonic()
    end = idle + PATIENCE
    while stack.unfinished() or stack.held() or not stack.site.published(stack.site.dropped[-1]):
        assert time.monotonic() < end, stack.report()
        idle = time.monotonic() if stack.unfinished() else idle
        if time.monotonic() - idle > QUIET:  # the event died with the server; the schedule asks in its place
            stack.order("forecast")
        stack.pause()


def _faults(stack: Stack) -> list[str]:
    """What is wrong now."""
    site = stack.site
    counts = {init: site.published(init) for init in site.dropped[HISTORY:]}
    return [f"{init} has {count} visible runs" for init, count in counts.items() if count != 1]
