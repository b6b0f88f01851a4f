from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.episode import Episode, MeanErrors

INIT = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)
STEP = timedelta(minutes=5)
NAN = np.nan


def row(*values: object) -> NDArray[np.float32]:
    """Layers of one row of pixels: ``(..., 1, x)``."""
    return np.array(values, np.float32)[..., np.newaxis, :]


def episode(
    context: NDArray[np.float32], forecast: NDArray[np.float32], truth: NDArray[np.float32] | None = None
) -> Episode:
    times = tuple(INIT - age * STEP for age in range(len(context) - 1, -1, -1))
    return Episode("product", "rain", "mm/h", "fake", "", INIT, STEP, times, context, forecast, truth)


def test_persistence_is_the_newest_valid_value() -> None:
    one = episode(row([1, 1, NAN], [2, NAN, NAN]), row([0, 0, 0]))
    np.testing.assert_array_equal(one.persistence(), [[2, 1, NAN]])


def test_forecast_and_persistence_are_judged_on_the_same_pixels() -> None:
    one = episode(row([10, 10, NAN, 10]), row([8, 8, 8, NAN]), row([7, NAN, 0, 0]))
    assert one.mean_errors() == {1: MeanErrors(forecast=1.0, persistence=3.0)}


def test_leads_without_truth_have_no_mean_error() -> None:
    one = episode(row([1, 1]), row([1, 1], [1, 1], [1, 1]), row([2, NAN], [NAN, NAN], [1, 4]))
    assert list(one.mean_errors()) == [1, 3]
    assert replace(one, truth=None).mean_errors() == {}


def test_an_error_is_positive_where_the_forecast_is_too_high() -> None:
    one = episode(row([5, 0]), row([3, 1]), row([2, 2]))
    np.testing.assert_array_equal(one.error(1), [[1, -1]])
    np.testing.assert_array_equal(one.persistence_error(1), [[3, -2]])


def test_an_interval_has_a_width_and_holds_a_share_of_what_came() -> None:
    one = episode(row([0, 0, 0, 0]), row([1, 1, 1, 1]), row([0, 2, 3, NAN]))
    bounded = replace(one, interval=row([[0, 0, 0, 0]], [[2, 2, 2, NAN]]))
    np.testing.assert_array_equal(bounded.width(1), [[2, 2, 2, NAN]])
    assert bounded.held(1) == pytest.approx(2 / 3)
    assert one.held(1) is None
    assert replace(bounded, truth=None).held(1) is None


def test_an_interval_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"interval is \(2, lead, y, x\)"):
        replace(episode(row([0, 0]), row([1, 1])), interval=row([0, 0]))


def test_mean_weights_leave_unknown_patches_out_and_sum_to_one() -> None:
    attention = row([[0.2, 0.4, NAN], [0.8, 0.6, NAN]])
    one = replace(episode(row([1, 1, 1], [1, 1, 1]), row([1, 1, 1])), attention=attention)
    np.testing.assert_allclose(one.mean_weights(), [[0.3, 0.7]], rtol=1e-6)


def test_frames_that_show_nothing_are_not_among_the_newest() -> None:
    one = episode(row([1, 1], [NAN, NAN], [1, NAN], [1, 1]), row([1, 1]))
    assert one.newest_frames(2) == (2, 3)
    assert one.newest_frames(9) == (0, 2, 3)


@pytest.mark.parametrize(("horizon", "leads"), [(1, (1,)), (2, (1, 2)), (6, (1, 4, 6)), (12, (1, 6, 12))])
def test_shown_leads_reach_from_the_first_to_the_last(horizon: int, leads: tuple[int, ...]) -> None:
    assert episode(row([1]), row(*[[1]] * horizon)).spread_leads(3) == leads


@pytest.mark.parametrize(
    ("forecast", "sentence"),
    [
        (3.0, "5 min ahead it is 1 mm/h off on average: 75% less than persistence (4)."),
        (10.0, "5 min ahead it is 8 mm/h off on average: 100% more than persistence (4)."),
        (6.0, "5 min ahead it is 4 mm/h off on average: no better than persistence (4)."),
    ],
)
def test_the_verdict_spares_nobody(forecast: float, sentence: str) -> None:
    one = episode(row([6]), row([forecast]), row([2]))
    assert one.verdict(one.mean_errors()) == sentence


def test_without_truth_there_is_no_verdict() -> None:
    assert episode(row([6]), row([6])).verdict({}) == "The truth is not known yet."


def test_times_are_as_brief_as_they_are_clear() -> None:
    one = episode(row([1], [1]), row([1]))
    assert [one.clock(time) for time in (*one.acquired, INIT + timedelta(hours=13))] == [
        "11:55Z",
        "12:00Z",
        "02 Jun 01:00Z",
    ]
    assert [one.age(0), one.age(1), one.ahead(3)] == ["5 min before", "newest", "+15 min"]
    assert replace(one, acquired=(INIT, INIT + STEP)).age(1) == "5 min after"
    assert replace(one, cadence=timedelta(days=8)).clock(INIT) == "2024-06-01"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"acquired": (INIT,)}, "found 1 for 2"),
        ({"forecast": np.zeros((3, 2, 2), np.float32)}, "forecast is"),
        ({"truth": np.zeros((2, 1, 2), np.float32)}, "truth has the shape"),
        ({"attention": np.zeros((1, 2, 1, 2), np.float32), "patch": 4}, r"\(1, 2, 1, 1\), found \(1, 2, 1, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(episode(row([1, 1], [1, 1]), row([1, 1])), **change)  # pyright: ignore[reportArgumentType] - breaks one field
