from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.product_report import run_facts
from pipeline.chances import Chance
from pipeline.viewing import RunFacts

INIT = datetime(2020, 4, 1, 13, 10, tzinfo=UTC)


def facts(*chances: Chance, bands: tuple[str, ...] = ("rain",)) -> RunFacts:
    words = (
        "p",
        INIT,
        INIT,
        "0123456789ab",
        "/p",
        True,
        "m 1",
        "network",
        "S",
        "0.1.0",
        ("a",),
        ("mean", "q10", "q90"),
    )
    return RunFacts(*words, bands, {}, (), chances)


def shown(found: RunFacts, capsys: pytest.CaptureFixture[str]) -> str:
    run_facts(found)
    return " ".join(capsys.readouterr().out.split())


def test_show_names_each_event_and_the_band_that_says_how_likely_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    rain, cold = Chance("rain", 0.5, below=False, unit="mm"), Chance("top", 253.0, below=True, unit="K")
    assert "probabilities at least 0.5 mm (p_ge_0p5) snapshot" in shown(facts(rain), capsys)
    both = shown(facts(rain, cold, bands=("rain", "top")), capsys)
    assert "rain at least 0.5 mm (rain_p_ge_0p5), top under 253 K (top_p_lt_253)" in both
    assert "probabilities" not in shown(facts(), capsys)
