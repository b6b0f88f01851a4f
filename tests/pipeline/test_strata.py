from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import strata
from pipeline.grid import Window, geobox, window_of
from pipeline.predictor import Source
from pipeline.strata import Canvas, Errors, Part, field, quarters, windows

if TYPE_CHECKING:
    from pathlib import Path

GRID = geobox("EPSG:32633", (10, 0, 500_000, 0, -10, 5_000_000), (40, 48))


def canvas(seed: int = 0) -> Canvas:
    """A forecast of three rungs, with holes in truth and forecast."""
    random = np.random.default_rng(seed)
    truth, said = (random.normal(size=(40, 48)).astype(np.float32) for _ in range(2))
    truth[random.random(truth.shape) < 0.2] = np.nan
    source = random.integers(0, 4, truth.shape).astype(np.uint8)
    truth[source == Source.NONE] = np.nan
    age = np.where(source == Source.NONE, np.nan, 5.0 * source).astype(np.float32)
    fields = {
        "forecast": field(said, said + 1, (said - 1, said + 1), truth),
        "persistence": field(said, said, None, truth),
    }
    return Canvas(np.isfinite(truth), source, age, fields)


def totals(parts: list[dict[str, Any]], predictor: str) -> list[float]:
    errors = [part["errors"][predictor] for part in parts]
    return [sum(part["pixels"] for part in parts), sum(e.absolute for e in errors), sum(e.squared for e in errors)]


@given(st.integers(0, 50))
def test_rungs_and_quarters_add_up_to_the_whole(seed: int) -> None:
    one = canvas(seed)
    rungs = [facts for _, facts in one.rungs()]
    areas = [facts for _, facts in one.regions(quarters((40, 48)))]
    for name, each in one.fields.items():
        whole = [one.counts.sum(), each.absolute.sum(dtype=float), each.squared.sum(dtype=float)]
        np.testing.assert_allclose(totals(rungs, name), whole)
        np.testing.assert_allclose(totals(areas, name), whole)


def test_errors_of_a_rung_are_those_of_its_pixels() -> None:
    one = canvas()
    facts = dict(one.rungs())["extrapolation"]
    chosen = one.source == Source.EXTRAPOLATION
    forecast = one.fields["forecast"]
    assert forecast.covered is not None
    assert facts["errors"]["forecast"] == Errors(
        pytest.approx(float(forecast.absolute[chosen].sum(dtype=float))),
        pytest.approx(float(forecast.squared[chosen].sum(dtype=float))),
        int(forecast.covered[chosen].sum()),
    )
    assert (facts["published"], facts["age"]) == (int(chosen.sum()), 10.0)
    assert facts["errors"]["persistence"].covered is None


def test_pixels_without_truth_do_not_count_but_were_published() -> None:
    nothing = np.full((4, 4), np.nan, np.float32)
    one = Canvas(
        np.zeros((4, 4), bool),
        np.full((4, 4), Source.NETWORK, np.uint8),
        nothing,
        {"forecast": field(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), None, nothing)},
    )
    ((name, facts),) = one.rungs()
    assert (name, facts["pixels"], facts["published"], facts["age"]) == ("network", 0, 16, None)
    assert facts["errors"]["forecast"] == Errors(0.0, 0.0)


def test_regions_that_share_an_edge_share_no_pixel() -> None:
    west = window_of((500_000, 4_999_600, 500_215, 5_000_000), GRID)
    east = window_of((500_215, 4_999_600, 500_480, 5_000_000), GRID)
    assert (west, east) == (Window(0, 40, 0, 21), Window(0, 40, 21, 48))


def test_regions_are_quarters_unless_they_are_named_and_none_lies_beyond_the_grid() -> None:
    assert [*windows({}, GRID)] == [*strata.QUARTERS]
    named = {"city": (500_100.0, 4_999_700.0, 500_200.0, 4_999_800.0), "sea": (0.0, 0.0, 1.0, 1.0)}
    assert windows(named, GRID) == {"city": Window(20, 30, 10, 20)}


def test_parts_are_read_as_they_were_written_and_runs_without_have_none(tmp_path: Path) -> None:
    errors = {"forecast": Errors(1.5, 2.25, 3), "persistence": Errors(2.0, 4.0)}
    part = Part(5, "sky", strata.REGION, "north-west", 4, 6, 2.5, 0.75, 0.8, errors)
    path = tmp_path / "20240601T0505Z-abc.json"
    assert strata.load(path) == ()
    strata.save(path, [part])
    assert strata.load(path) == (part,)
