from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import CubecastError, LeakError
from pipeline.grid import Window
from pipeline.leaks import LeakReport, Way, audit, refuse
from pipeline.samples import Sample, Split, SplitMode, split
from pipeline.specs import SampleSpec
from pipeline.times import TimeAxis

GRID = (6, 8)
PIXELS = 48
AXIS = TimeAxis(datetime(2024, 6, 1, 5, tzinfo=UTC), timedelta(minutes=5))


def sound(frames: int = 100) -> Split:
    """A split in time of 100 frames, or in blocks of 20."""
    return split(np.arange(frames), SampleSpec(context_frames=3, max_age=4, horizon=2), GRID, 2)


def checked(parts: Split, statistics: set[int] | None = None) -> LeakReport:
    own = {slot for one in parts.training for slot in one.slots}
    return audit(parts, sorted(own if statistics is None else statistics), axis=AXIS)


def leaks(report: LeakReport) -> dict[tuple[str, str, Way], int]:
    """Pixel-times of every pair that leaks."""
    return {(one.seen_by, one.targets_of, one.way): one.pixel_times for one in report.pairs if one.pixel_times}


def met_at(*slots: int) -> Sample:
    """A sample that must meet these slots and sees the two frames before them."""
    return Sample(slots[0] - 1, (slots[0] - 2, slots[0] - 1), slots)


# --- what is counted ------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> Window:
    y0, x0 = draw(st.integers(0, GRID[0] - 1)), draw(st.integers(0, GRID[1] - 1))
    return Window(y0, draw(st.integers(y0 + 1, GRID[0])), x0, draw(st.integers(x0 + 1, GRID[1])))


@st.composite
def hand_made(draw: st.DrawFn) -> Split:
    """Samples of any slots in any areas; most such splits leak."""
    slots = st.lists(st.integers(0, 11), max_size=3).map(tuple)
    samples = st.lists(st.builds(Sample, st.integers(0, 11), slots, slots), max_size=3).map(tuple)
    mode = draw(st.sampled_from(SplitMode))
    return Split(mode, draw(samples), draw(samples), draw(samples), draw(windows()), draw(windows()), test_start=8)


def painted(slots: set[int], *areas: Window) -> NDArray[np.bool_]:
    """``(slot, y, x)``, true at these slots within the hull of these areas."""
    cells = np.zeros((12, *GRID), bool)
    y, x = ([edge for area in areas for edge in edges(area)] for edges in (_rows, _columns))
    cells[sorted(slots), min(y) : max(y), min(x) : max(x)] = True
    return cells


def _rows(area: Window) -> tuple[int, int]:
    return area.y0, area.y1


def _columns(area: Window) -> tuple[int, int]:
    return area.x0, area.x1


@settings(max_examples=150, deadline=None)
@given(hand_made(), st.sets(st.integers(0, 11), max_size=4))
def test_pixel_times_are_those_that_painted_masks_share(parts: Split, statistics: set[int]) -> None:
    areas = {"training": [parts.training_area], "validation": [parts.validation_area]}
    areas["test"] = [parts.training_area, parts.validation_area]
    targets = {n: {slot for one in getattr(parts, n) for slot in one.targets} for n in areas}
    contexts = {n: {slot for one in getattr(parts, n) for slot in one.context} for n in areas}
    report = checked(parts, statistics)
    found = {(one.seen_by, one.targets_of, one.way): one.pixel_times for one in report.pairs}
    for early, late in (("training", "validation"), ("training", "test"), ("validation", "test")):
        must_meet = painted(targets[late], *areas[late])
        for way, seen in ((Way.TARGET, targets[early]), (Way.CONTEXT, contexts[early])):
            assert found[early, late, way] == (painted(seen, *areas[early]) & must_meet).sum()
        if early == "training":
            known = painted(statistics, parts.training_area)
            assert found[early, late, Way.STATISTICS] == (known & must_meet).sum()
    assert set(report.strays) == statistics - targets["training"] - contexts["training"]
    assert report.sound == (not report.strays and not leaks(report))


@pytest.mark.parametrize("frames", [20, 100])
def test_a_split_made_by_the_rules_is_sound_and_let_through(frames: int) -> None:
    report = checked(sound(frames))
    assert report.sound
    assert leaks(report) == {}
    refuse(report)


def test_looking_back_is_counted_and_is_no_leak() -> None:
    parts = sound()
    report = checked(parts)
    known = {slot for one in parts.validation for slot in one.slots}
    seen = {slot for one in parts.test for slot in one.context}
    counts = {(one.by, one.into): one.frames for one in report.look_back}
    assert counts["test", "validation"] == len(known & seen) > 0
    assert counts["test", "training"] == 0
    assert report.sound


def test_areas_that_lie_apart_see_nothing_of_each_other_at_the_same_times() -> None:
    parts = sound(20)
    report = checked(parts)
    assert parts.mode is SplitMode.BLOCKS
    assert parts.training == parts.validation
    assert report.separation == 2
    assert {(one.by, one.into): one.frames for one in report.look_back}["validation", "training"] == 0
    assert checked(sound()).separation is None


# --- what is refused ------------------------------------------------------------------------------


def spoil(**changed: Any) -> LeakReport:
    return checked(replace(sound(), **changed))


def test_a_target_of_training_in_validation_is_refused() -> None:
    parts = sound()
    report = spoil(training=(*parts.training, parts.validation[3]))
    targets = PIXELS * len(parts.validation[3].targets)
    assert leaks(report)["training", "validation", Way.TARGET] == targets
    with pytest.raises(LeakError, match="no target of validation is visible to training"):
        refuse(report)


def test_a_target_of_test_in_a_context_of_training_is_refused() -> None:
    parts = sound()
    late = parts.test_start + 2
    report = spoil(training=(*parts.training, Sample(late, (late - 30, late), (late + 40,))))
    assert leaks(report) == {("training", "test", way): PIXELS for way in (Way.CONTEXT, Way.STATISTICS)}
    with pytest.raises(
        LeakError, match=rf"48 pixel-times of 1 slots \(context\), first {AXIS.valid_time(late):%Y%m%dT%H%MZ}"
    ):
        refuse(report)


def test_a_partial_sample_that_keeps_one_target_too_many_is_refused() -> None:
    parts = sound()
    assert parts.validation_start is not None
    last = parts.training[-1]
    assert len(last.targets) == 1
    spoiled = Sample(last.init, last.context, tuple(range(last.init + 1, parts.validation_start + 1)))
    report = spoil(training=(*parts.training[:-1], spoiled))
    assert leaks(report)["training", "validation", Way.TARGET] == PIXELS
    with pytest.raises(LeakError, match="no target of validation is visible to training"):
        refuse(report)


def test_validation_that_meets_a_target_of_test_is_refused() -> None:
    parts = sound()
    report = spoil(validation=(*parts.validation, met_at(parts.test_start)))
    assert leaks(report) == {("validation", "test", Way.TARGET): PIXELS}
    with pytest.raises(LeakError, match="no target of test is visible to validation"):
        refuse(report)


def test_validation_that_sees_a_target_of_test_is_refused() -> None:
    parts = sound()
    start = parts.test_start
    report = spoil(validation=(*parts.validation, Sample(start + 1, (start, start + 1), (start + 50,))))
    assert leaks(report) == {("validation", "test", Way.CONTEXT): 2 * PIXELS}


@pytest.mark.parametrize("part", ["validation", "test"])
def test_statistics_from_a_later_part_are_refused(part: str) -> None:
    parts = sound()
    own = {slot for one in parts.training for slot in one.slots}
    report = checked(parts, own | set(getattr(parts, part)[-1].targets[:1]))
    assert leaks(report) == {("training", part, Way.STATISTICS): PIXELS}
    with pytest.raises(LeakError, match="measure the statistics over the slots and the area of the training samples"):
        refuse(report)


def test_statistics_from_the_embargo_are_refused() -> None:
    parts = sound()
    own = {slot for one in parts.training for slot in one.slots}
    embargoed = parts.test_start - 1
    report = checked(parts, own | {embargoed})
    assert leaks(report) == {}
    assert report.strays == (embargoed,)
    with pytest.raises(LeakError, match=r"slots that training samples touch, found 1 others, first 20240601T"):
        refuse(report)


def test_areas_that_overlap_at_the_same_times_are_refused() -> None:
    parts = sound(20)
    wider = replace(parts, training_area=replace(parts.training_area, x1=parts.validation_area.x0 + 1))
    report = checked(wider)
    targets = {slot for one in parts.training for slot in one.targets}
    assert report.separation == 0
    assert leaks(report)["training", "validation", Way.TARGET] == GRID[0] * len(targets)
    with pytest.raises(LeakError, match="keep the areas of the two parts apart"):
        refuse(report)


@pytest.mark.parametrize("one", [Sample(5, (4, 6), (7,)), Sample(5, (3, 4), (5,))])
def test_a_sample_that_sees_what_comes_after_its_init_time_is_refused(one: Sample) -> None:
    report = spoil(training=(one,))
    assert leaks(report) == {("training", "training", Way.FORESIGHT): PIXELS}
    with pytest.raises(LeakError, match="no sample of training sees a frame after its init time"):
        refuse(report)


def test_the_worst_pair_is_the_one_that_is_named() -> None:
    parts = sound()
    start = parts.test_start
    report = spoil(validation=(*parts.validation, met_at(start)), training=(met_at(start, start + 1, start + 2),))
    assert len(leaks(report)) > 1
    with pytest.raises(CubecastError, match=r"no target of test is visible to training, found 144 pixel-times"):
        refuse(report)


# --- the report -----------------------------------------------------------------------------------


def test_the_report_is_json_that_tells_rules_parts_pairs_and_verdict() -> None:
    parts = sound()
    told = json.loads(json.dumps(checked(parts).to_json()))
    assert told["verdict"] == "sound"
    assert len(told["rules"]) == 6
    assert told["split_mode"] == "temporal"
    assert told["parts"]["training"]["samples"] == len(parts.training)
    assert told["parts"]["test"]["targets"]["first_and_last_slot"][0] == parts.test_start
    assert told["parts"]["test"]["targets"]["first_and_last"][0] == f"{AXIS.valid_time(parts.test_start):%Y%m%dT%H%MZ}"
    assert told["parts"]["training"]["area"] == {"y0": 0, "y1": 6, "x0": 0, "x1": 8}
    assert told["look_back"]["counts"][2]["frames"] > 0
    assert {pair["pixel_times"] for pair in told["pairs"]} == {0}
    assert json.loads(json.dumps(spoil(training=parts.test).to_json()))["verdict"] == "leaking"


def test_examples_are_five_at_most_and_slots_where_no_axis_is_known() -> None:
    parts = sound()
    report = audit(replace(parts, training=parts.test), [])
    pair = next(one for one in report.pairs if (one.targets_of, one.way) == ("test", Way.TARGET))
    assert pair.slots > len(pair.examples) == 5
    assert pair.examples[0] == f"slot {parts.test_start}"


def test_a_part_without_samples_leaks_nothing() -> None:
    assert spoil(test=()).to_json()["parts"]["test"]["targets"]["slots"] == 0
    assert spoil(test=()).sound
