from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.product_report import run_facts
from pipeline.chances import Chance
from pipeline.merit import UsefulHorizon
from pipeline.viewing import RunFacts

START = datetime(2024, 6, 1, 5, tzinfo=UTC)
KNOWN = UsefulHorizon(45, 37, ("persistence",), "no better than persistence 50 minutes ahead")
UNKNOWN = UsefulHorizon(None, 3, (), "3 of at least 10 runs of rain 1 have met truth 5 minutes ahead")


def said(
    capsys: pytest.CaptureFixture[str],
    useful: dict[str, UsefulHorizon],
    yielded: tuple[tuple[int, str], ...] = (),
    chances: tuple[Chance, ...] = (),
    why: str = "",
    climatology: str = "",
) -> str:
    bands = tuple(useful) or ("rain",)
    run_facts(
        RunFacts(
            product="rain",
            init=START,
            created=START,
            run_key="0123456789ab",
            path="run",
            newest=True,
            model="rain 1",
            source="network",
            snapshot="S",
            code_version="1",
            scenes=(),
            quantities=("mean",),
            bands=bands,
            rungs={},
            leads=(),
            useful=useful,
            yielded=yielded,
            probabilities=chances,
            why=why,
            climatology=climatology,
        )
    )
    return " ".join(capsys.readouterr().out.split())


def test_people_are_told_how_far_ahead_forecasts_have_been_useful(capsys: pytest.CaptureFixture[str]) -> None:
    assert "+45 min, by 37 runs: no better than persistence 50 minutes ahead" in said(capsys, {"rain": KNOWN})
    assert "not known: 3 of at least 10 runs" in said(capsys, {"rain": UNKNOWN})
    both = said(capsys, {"rain": KNOWN, "snow": UNKNOWN})
    assert "rain +45 min" in both
    assert "snow not known" in both
    assert "useful to" not in said(capsys, {})


def test_people_are_told_where_extrapolation_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    yielded = ((55, "rain"), (60, "rain"), (60, "snow"))
    assert "yielded +55 min, +60 min: extrapolation" in said(capsys, {"rain": KNOWN}, yielded[:2])
    assert "rain +55 min, +60 min; snow +60 min: ext" in said(capsys, {"rain": KNOWN, "snow": KNOWN}, yielded)
    assert "yielded" not in said(capsys, {"rain": KNOWN})


RAIN, COLD = Chance("rain", 0.5, below=False, unit="mm"), Chance("top", 253.0, below=True, unit="K")


def test_show_names_each_event_and_the_band_that_says_how_likely_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "probabilities at least 0.5 mm (p_ge_0p5) snapshot" in said(capsys, {"rain": KNOWN}, chances=(RAIN,))
    both = said(capsys, {"rain": KNOWN, "top": KNOWN}, chances=(RAIN, COLD))
    assert "rain at least 0.5 mm (rain_p_ge_0p5), top under 253 K (top_p_lt_253)" in both
    assert "probabilities" not in said(capsys, {"rain": KNOWN})


def test_show_says_why_a_run_is_not_by_the_champion(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model rain 1 (network) because a copy stood in" in said(capsys, {}, why="a copy stood in")
    assert "because" not in said(capsys, {})


def test_show_says_why_there_is_climatology(capsys: pytest.CaptureFixture[str]) -> None:
    filled = "no scene of the last 8 slots: 20240531T0500Z-a"
    assert f"scenes none climatology {filled}" in said(capsys, {}, climatology=filled)
    assert "climatology" not in said(capsys, {})
