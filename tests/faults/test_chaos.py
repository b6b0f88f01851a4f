"""Workers, flow runs and servers die at any moment; then nothing is stuck, nothing missing, nothing there twice."""

from __future__ import annotations

import random
import sys
from itertools import cycle, islice
from pathlib import Path

import pytest

from flows import verbs
from tests.faults.chaos import FAULTS, Site, Stack, running
from tests.faults.record import record, tries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(2 * 3600),
    pytest.mark.skipif(sys.platform != "linux", reason="kills process groups"),
]


def test_whoever_dies_every_scene_has_its_forecast_once_and_nothing_is_stuck(tmp_path: Path) -> None:
    site, dice = Site(tmp_path), random.Random(7)
    verbs.ingest(site.config)
    verbs.forecast(site.config)
    rounds = tries(20, 3)
    failures: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    with running(site) as stack:
        for fault in islice(cycle(FAULTS), rounds):
            phase = dice.choice(["ingest", "forecast"])
            _round(stack, fault, phase, dice)
            failures[fault] += _faults(stack)
    for fault, found in failures.items():
        record(
            f"{fault} dies under Prefect",
            "chaos",
            sum(one == fault for one in islice(cycle(FAULTS), rounds)),
            len(found),
        )
    assert not any(failures.values()), failures


def _round(stack: Stack, fault: str, phase: str, dice: random.Random) -> None:
    """A scene comes and is worked on, somebody dies in the middle of it, and everything settles."""
    site = stack.site
    site.drop()
    stack.order("ingest")
    if phase == "ingest":
        _strike(stack, fault, dice)
    stack.wait_until(lambda: not stack.unfinished())
    stack.order("forecast")
    if phase == "forecast":
        _strike(stack, fault, dice)
    stack.wait_until(lambda: site.published(site.dropped[-1]) > 0)
    stack.wait_until(lambda: not stack.unfinished() and not stack.held())


def _strike(stack: Stack, fault: str, dice: random.Random) -> None:
    """Somewhere between the start of a process and its end."""
    stack.wait_until(lambda: bool(stack.flows()) or not stack.unfinished())
    for _ in range(dice.randrange(16)):
        stack.pause()
    FAULTS[fault](stack, dice)


def _faults(stack: Stack) -> list[str]:
    """What is wrong now."""
    site = stack.site
    inits = site.dropped[-(len(site.dropped) - 6) :]
    counts = {init: site.published(init) for init in inits}
    return [f"{init} has {count} visible runs" for init, count in counts.items() if count != 1]
