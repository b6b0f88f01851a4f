"""Thirty minutes of scenes through the whole product; six hours are ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.driver import soak
from tests.soak.scenario import SHORT, scenario


@pytest.mark.slow
@pytest.mark.server
def test_half_an_hour_of_faulty_scenes_is_forecast_on_time_and_scored_once(tmp_path: Path) -> None:
    report = soak(scenario(SHORT), tmp_path)
    assert report.holds, "\n".join(report.lines())
