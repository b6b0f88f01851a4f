from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.times import TimeAxis, from_seconds, minutes, parse_time, seconds, stamp

times = st.integers(315_532_800_000, 2_840_140_800_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
whole_seconds = times.map(lambda time: time.replace(microsecond=0))
cadences = st.integers(1, 40 * 86400).map(lambda s: timedelta(seconds=s))
axes = st.builds(TimeAxis, whole_seconds, cadences)
slots = st.integers(-5000, 5000)


@given(axes, slots)
def test_the_valid_time_of_a_slot_belongs_to_that_slot(axis: TimeAxis, slot: int) -> None:
    assert axis.slot(axis.valid_time(slot)) == slot


@given(axes, times)
def test_a_time_is_never_further_than_half_a_cadence_from_its_slot(axis: TimeAxis, time: datetime) -> None:
    assert abs(axis.valid_time(axis.slot(time)) - time) <= axis.cadence / 2


@given(axes, times, st.timedeltas(timedelta(0), timedelta(days=900)))
def test_a_later_time_is_never_in_an_earlier_slot(axis: TimeAxis, time: datetime, later: timedelta) -> None:
    assert axis.slot(time + later) >= axis.slot(time)


@given(axes, times)
def test_a_slot_is_reached_from_its_time_until_the_next_one_s(axis: TimeAxis, time: datetime) -> None:
    slot = axis.reached(time)
    assert axis.valid_time(slot) <= time < axis.valid_time(slot + 1)


@given(whole_seconds, st.integers(1, 10_000), slots)
def test_of_two_equally_near_slots_the_earlier_is_taken(origin: datetime, half: int, slot: int) -> None:
    axis = TimeAxis(origin, timedelta(seconds=2 * half))
    assert axis.slot(axis.valid_time(slot) + timedelta(seconds=half)) == slot


@given(axes, st.integers(-500, 500), st.integers(-500, 500))
def test_age_counts_the_slots_between(axis: TimeAxis, init: int, input_slot: int) -> None:
    assert axis.age(init, axis.valid_time(input_slot)) == pytest.approx(init - input_slot)


@given(whole_seconds)
def test_seconds_and_from_seconds_are_inverse(time: datetime) -> None:
    assert from_seconds(seconds(time)) == time


@given(whole_seconds)
def test_a_stamp_reads_back_as_its_time(time: datetime) -> None:
    assert parse_time(stamp(time)) == time


@given(st.lists(whole_seconds.map(lambda time: time.replace(second=0)), min_size=2))
def test_stamps_of_whole_minutes_sort_like_their_times(several: list[datetime]) -> None:
    assert [stamp(time) for time in sorted(several)] == sorted(stamp(time) for time in several)


def test_a_time_without_zone_is_utc() -> None:
    assert parse_time("2020-04-01 13:10").tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2020-13-01", "13:10"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a time is written like 2020-04-01T13:10Z"):
        parse_time(text)


def test_an_axis_outside_utc_is_refused() -> None:
    elsewhere = datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(ValueError, match="in UTC"):
        TimeAxis(elsewhere, timedelta(minutes=5))


@pytest.mark.parametrize("cadence", [timedelta(0), timedelta(seconds=-60), timedelta(seconds=1.5)])
def test_a_cadence_is_a_positive_number_of_whole_seconds(cadence: timedelta) -> None:
    with pytest.raises(ValueError, match="whole number of seconds"):
        TimeAxis(datetime(2020, 1, 1, tzinfo=UTC), cadence)


def test_minutes_are_rounded() -> None:
    assert minutes(timedelta(seconds=89)) == 1
    assert minutes(timedelta(seconds=91)) == 2
