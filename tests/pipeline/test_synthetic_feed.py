"""A feed that never ends is the sequence that ends, and what goes wrong in it goes wrong in the same slots."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.synthetic import SyntheticSpec, stream, synthesise
from pipeline.synthetic_feed import CHANCES, LATE, LATENCY, Delivery, Fate, deliver, deliveries, fate_of

SPEC = SyntheticSpec(height=32, width=48, frames=12)
LONG = SyntheticSpec(height=16, width=16, frames=400)


def scene(fate: Fate) -> Delivery:
    (frame,) = islice(stream(SPEC), 1)
    return Delivery(frame, SPEC.start, SPEC.start + LATENCY, fate)


def test_frames_one_by_one_are_those_of_the_sequence() -> None:
    whole = synthesise(SPEC)
    for frame in stream(SPEC):
        np.testing.assert_array_equal(frame.values, whole.values[frame.slot])
        np.testing.assert_array_equal(frame.validity, whole.validity[frame.slot])


def test_scenes_arrive_in_the_order_of_their_arrival_late_ones_late_and_missing_ones_never() -> None:
    arrived = list(deliveries(LONG, 0))
    assert [one.due for one in arrived] == sorted(one.due for one in arrived)
    fates = {slot: fate_of(LONG, slot) for slot in range(LONG.frames - LATE)}
    assert {one.frame.slot for one in arrived} >= {slot for slot, fate in fates.items() if fate is not Fate.MISSING}
    assert not any(one.fate is Fate.MISSING for one in arrived)
    assert all((one.due - one.time > LATE * LONG.cadence) == (one.fate is Fate.LATE) for one in arrived)
    assert {one.fate for one in arrived} == set(Fate) - {Fate.MISSING}


def test_faults_are_as_frequent_as_said() -> None:
    counts = Counter(fate_of(SPEC, slot) for slot in range(10_000))
    assert {fate: counts[fate] / 10_000 for fate in CHANCES} == pytest.approx(CHANCES, abs=0.01)


def test_a_feed_that_begins_later_brings_the_same_scenes() -> None:
    late = list(deliveries(SPEC, 6))
    early = {one.name: one for one in deliveries(SPEC, 0)}
    assert late
    for one in late:
        np.testing.assert_array_equal(one.frame.values, early[one.name].frame.values)
        assert one.fate == early[one.name].fate


def test_a_scene_is_whole_when_it_is_seen_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = deliver(tmp_path, scene(Fate.GOOD), SPEC)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    with rasterio.open(path) as file:
        assert file.read(1).shape == (32, 48)


def test_a_repeated_scene_has_the_same_bytes_under_two_names(tmp_path: Path) -> None:
    deliver(tmp_path, scene(Fate.REPEATED), SPEC)
    first, second = (path.read_bytes() for path in tmp_path.iterdir())
    assert first == second


def test_a_corrupt_scene_opens_and_cannot_be_read(tmp_path: Path) -> None:
    with (
        rasterio.open(deliver(tmp_path, scene(Fate.CORRUPT), SPEC)) as file,
        pytest.raises(rasterio.errors.RasterioIOError),
    ):
        file.read(1)
