from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.lagrangian import estimate_trajectories
from pipeline.leaks import audit
from pipeline.samples import (
    MIN_TRAINING,
    MIN_VALIDATION,
    Sample,
    Split,
    SplitMode,
    context_slots,
    read_context,
    read_targets,
    sample,
    split,
    thin,
)
from pipeline.specs import MotionSpec, SampleSpec
from pipeline.times import from_seconds, seconds

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SHAPE = (300, 400)
law = settings(max_examples=40, deadline=None)


def spec(**changed: Any) -> SampleSpec:
    return SampleSpec.model_validate(changed)


@st.composite
def series(draw: st.DrawFn) -> NDArray[np.int64]:
    """Observed slots of a regular series, or of one with gaps and now and then an outage."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    gaps = random.integers(1, draw(st.sampled_from([1, 3, 12])), draw(st.integers(2, 150)), endpoint=True)
    gaps[random.integers(len(gaps))] += draw(st.sampled_from([0, 40]))
    return draw(st.integers(0, 5)) + np.concatenate([[0], np.cumsum(gaps)])


@st.composite
def specs(draw: st.DrawFn) -> SampleSpec:
    frames = draw(st.integers(1, 6))
    return SampleSpec(
        context_frames=frames,
        max_age=draw(st.integers(max(1, frames - 1), 20)),
        horizon=draw(st.integers(1, 12)),
        test_fraction=draw(st.floats(0.05, 0.85)),
        validation_fraction=draw(st.floats(0.05, 0.85)),
        embargo=draw(st.integers(0, 5)),
        max_missing=draw(st.none() | st.integers(0, frames - 1)),
        max_inits=draw(st.integers(1, 120)),
        partial=draw(st.booleans()),
    )


def needed(asked: SampleSpec) -> int:
    return min(2, asked.context_frames) if asked.max_missing is None else asked.context_frames - asked.max_missing


def split_or_assume(observed: NDArray[np.int64], asked: SampleSpec) -> Split:
    try:
        return split(observed, asked, SHAPE, 48)
    except NotEnoughFramesError:
        assume(False)
        raise


def everything(parts: Split) -> list[Sample]:
    return [*parts.training, *parts.validation, *parts.test]


@law
@given(series(), specs())
def test_no_target_is_at_or_before_its_init_time(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    parts = split_or_assume(observed, asked)
    for one in everything(parts):
        assert one.targets == tuple(range(one.init + 1, one.init + asked.horizon + 1))[: len(one.targets)]
        assert set(one.targets).intersection(observed.tolist())
    assert {len(one.targets) for one in parts.test} <= {asked.horizon}


@law
@given(series(), specs())
@example(np.arange(14), spec())
@example(np.arange(100), spec())
def test_partial_targets_add_samples_and_change_neither_the_whole_ones_nor_the_parts(
    observed: NDArray[np.int64], asked: SampleSpec
) -> None:
    unlimited = asked.model_copy(update={"max_inits": 1000})
    purged, partial = (
        split_or_assume(observed, unlimited.model_copy(update={"partial": wish})) for wish in (False, True)
    )
    assert replace(partial, training=purged.training, validation=purged.validation) == purged
    for few, more in ((purged.training, partial.training), (purged.validation, partial.validation)):
        assert set(few) <= set(more)
        assert all(len(one.targets) < asked.horizon for one in set(more).difference(few))


def test_partial_targets_are_those_before_the_boundary() -> None:
    purged, partial = (split(np.arange(25), spec(test_fraction=0.4, partial=wish), SHAPE, 48) for wish in (False, True))
    assert partial.mode is purged.mode is SplitMode.BLOCKS
    assert [one.init for one in purged.training] == list(range(1, 8))
    assert [one.init for one in partial.training] == list(range(1, 13))
    assert [len(one.targets) for one in partial.training] == [6] * 7 + [5, 4, 3, 2, 1]
    assert {one.targets[-1] for one in partial.training[6:]} == {13}


@law
@given(series(), specs())
def test_a_context_is_the_newest_observed_slots_neither_after_the_init_time_nor_too_old(
    observed: NDArray[np.int64], asked: SampleSpec
) -> None:
    for one in everything(split_or_assume(observed, asked)):
        usable = [slot for slot in observed.tolist() if one.init - asked.max_age <= slot <= one.init]
        assert list(one.context) == usable[-asked.context_frames :]
        assert len(one.context) >= needed(asked)


@law
@given(series(), specs())
@example(np.arange(100), spec(horizon=1))
@example(np.arange(30), spec())
def test_no_training_sample_touches_a_later_part(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    parts = split_or_assume(observed, asked)
    end = parts.test_start if parts.validation_start is None else parts.validation_start
    assert parts.training
    assert all(slot < end <= parts.test_start for one in parts.training for slot in one.slots)
    assert all(slot < parts.test_start for one in parts.validation for slot in one.slots)


@law
@given(series(), specs())
@example(np.arange(100), spec())
def test_all_that_a_later_part_meets_is_its_own(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    parts = split_or_assume(observed, asked)
    present = set(observed.tolist())
    assert all(slot >= parts.test_start for one in parts.test for slot in present.intersection(one.targets))
    start = parts.validation_start
    if start is not None:
        assert all(slot >= start for one in parts.validation for slot in present.intersection(one.targets))


@law
@given(series(), specs())
@example(np.array([0, 1, 2, 3, 4, 9, 10]), spec(test_fraction=0.25, max_age=20))
def test_the_test_part_starts_with_a_forecast_from_the_last_frame_before_it(
    observed: NDArray[np.int64], asked: SampleSpec
) -> None:
    parts = split_or_assume(observed, asked)
    last = int(observed[observed < parts.test_start][-1])
    usable = context_slots(observed, last, asked)
    meets = set(observed.tolist()).intersection(range(last + 1, last + asked.horizon + 1))
    inits = [one.init for one in parts.test]
    assert min(inits, default=last) >= last
    assert (last in inits) == bool(len(usable) >= needed(asked) and meets)


@law
@given(series(), specs())
@example(np.arange(100), spec(embargo=0))
@example(np.arange(100), spec(embargo=3))
@example(np.array([0, 1, 2, 3, 4, 5, 6, 7, 10, 11]), spec(horizon=3, embargo=0))  # both could meet 8 and 9
def test_nothing_that_a_part_must_meet_is_visible_to_an_earlier_one(
    observed: NDArray[np.int64], asked: SampleSpec
) -> None:
    parts = split_or_assume(observed, asked)
    touched = {slot for one in parts.training for slot in one.slots}
    report = audit(parts, sorted(touched.intersection(observed.tolist())))
    assert report.sound, report.to_json()


@law
@given(series(), specs())
@example(np.arange(100), spec(embargo=3))
def test_the_embargo_lies_between_the_parts(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    parts = split_or_assume(observed, asked)

    def apart(samples: tuple[Sample, ...], start: int) -> int:
        last = max(slot for one in samples for slot in one.slots)
        return int(((observed > last) & (observed < start)).sum())

    assert min(apart(known, parts.test_start) for known in (parts.training, parts.validation)) >= asked.embargo
    if parts.validation_start is not None:
        assert apart(parts.training, parts.validation_start) >= asked.embargo


@law
@given(series(), specs())
@example(np.arange(100), spec())
def test_parts_follow_each_other_in_time(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    parts = split_or_assume(observed, asked)
    in_time = [parts.training, parts.test]
    if parts.mode is SplitMode.TEMPORAL:
        in_time.insert(1, parts.validation)
    inits = [one.init for part in in_time for one in part]
    assert inits == sorted(set(inits))


@law
@given(series(), specs())
def test_the_same_series_is_split_in_the_same_way(observed: NDArray[np.int64], asked: SampleSpec) -> None:
    assert split_or_assume(observed, asked) == split(observed.copy(), asked, SHAPE, 48)


def test_an_embargo_costs_training_and_not_the_parts_that_judge_it() -> None:
    without, embargoed = (split(np.arange(100), spec(embargo=slots), SHAPE, 48) for slots in (0, 5))
    assert without.mode is embargoed.mode is SplitMode.TEMPORAL
    assert embargoed.test == without.test
    assert len(embargoed.training) < len(without.training)
    assert embargoed.validation_start is not None
    assert max(one.targets[-1] for one in embargoed.training) == embargoed.validation_start - 6
    assert max(one.targets[-1] for one in embargoed.validation) == embargoed.test_start - 6


def test_an_embargo_that_leaves_nothing_is_an_error_that_names_it() -> None:
    with pytest.raises(NotEnoughFramesError, match=r"embargo of 9; .* only 1 observed slots.*samples\.embargo"):
        split(np.arange(12), spec(horizon=1, embargo=9), SHAPE, 48)
    with pytest.raises(NotEnoughFramesError, match=r"embargo of 50; .* only 0 observed slots"):
        split(np.arange(12), spec(horizon=1, embargo=50), SHAPE, 48)


@pytest.mark.parametrize(("missing", "fewest"), [(None, 2), (0, 4), (1, 3), (3, 1)])
def test_a_context_misses_no_more_frames_than_allowed(missing: int | None, fewest: int) -> None:
    observed = np.flatnonzero(np.arange(200) % 7 < 4)
    parts = split(observed, spec(max_missing=missing, max_age=6), SHAPE, 48)
    assert min(len(one.context) for one in everything(parts)) == fewest


@law
@given(series(), specs())
def test_validation_takes_a_part_of_the_time_only_where_enough_is_left(
    observed: NDArray[np.int64], asked: SampleSpec
) -> None:
    parts = split_or_assume(observed, asked)
    whole = Window(0, *SHAPE[:1], 0, *SHAPE[1:])
    assert (parts.mode is SplitMode.TEMPORAL) == (parts.validation_start is not None)
    assert (parts.mode is SplitMode.TEMPORAL) == (parts.training_area == parts.validation_area == whole)
    if parts.mode is SplitMode.TEMPORAL:
        assert len(parts.training) >= min(MIN_TRAINING, asked.max_inits)
        assert len(parts.validation) >= min(MIN_VALIDATION, asked.max_inits)
    else:
        assert parts.training == parts.validation


@law
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=200, unique=True), st.integers(1, 220))
def test_thinning_keeps_order_and_both_ends(inits: list[int], limit: int) -> None:
    samples = [Sample(init, (), ()) for init in inits]
    kept = thin(samples, limit)
    assert len(kept) == min(limit, len(samples))
    assert [one for one in samples if one in kept] == list(kept)
    assert kept[0] == samples[0]
    assert limit == 1 or kept[-1] == samples[-1]


@law
@given(st.integers(4, 900), st.integers(4, 900), st.floats(0.05, 0.85), st.integers(0, 200))
@example(100, 101, 0.2, 48)
@example(48, 48, 0.2, 48)
@example(891, 1843, 0.2, 48)
def test_training_area_and_validation_stripe_lie_apart_inside_the_grid(
    height: int, width: int, fraction: float, buffer: int
) -> None:
    parts = split(np.arange(12), spec(horizon=2, validation_fraction=fraction), (height, width), buffer)
    assert parts.mode is SplitMode.BLOCKS
    area, stripe = parts.training_area, parts.validation_area
    whole = Window(0, height, 0, width)
    assert area.intersection(whole) == area
    assert stripe.intersection(whole) == stripe
    gap = stripe.x0 - area.x1 if width >= height else stripe.y0 - area.y1
    left = stripe.x0 if width >= height else stripe.y0
    assert gap == min(buffer, left // 3)
    assert left - gap >= 2 * left / 3 - 1e-9  # the training area keeps at least two thirds of what the stripe leaves


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_frames_are_an_error_that_says_what_to_do(count: int) -> None:
    with pytest.raises(NotEnoughFramesError, match=f"at least 3 observed slots, found {count}: ingest more scenes"):
        split(np.arange(count), spec(), SHAPE, 48)


def test_a_horizon_that_reaches_into_the_test_part_from_everywhere_is_an_error() -> None:
    with pytest.raises(NotEnoughFramesError, match=r"7 observed slots\. Ingest more scenes, or lower samples\.horizon"):
        split(np.arange(10), spec(horizon=9), SHAPE, 48)


@pytest.mark.parametrize(
    ("name", "frames", "minutes"),
    [
        ("hrv_1km_20200401", 25, 5),
        ("fmi_1km_20160928", 40, 5),
        ("knmi_1km_20100826", 92, 5),
        ("typhoon200717_relative", 139, 60),
    ],
)
def test_every_init_time_of_the_scoring_protocol_is_a_test_sample_and_no_training_sample_meets_its_frames(
    shared_data: Path, name: str, frames: int, minutes: int
) -> None:
    score = runpy.run_path(str(shared_data.parent / "score" / "score.py"))
    protocol = score["SETS"][name]
    times = sorted(score["scenes"](protocol))
    asked = [(time - times[0]) // timedelta(minutes=minutes) for time in score["init_times"](protocol)]
    observed = np.array([(time - times[0]) // timedelta(minutes=minutes) for time in times])
    parts = split(observed, spec(horizon=protocol.leads, test_fraction=0.4), SHAPE, 48)
    assert len(times) == frames
    assert set(asked) <= {one.init for one in parts.test}
    assert min(one.init for one in parts.test) == min(asked) == parts.test_start - 1
    assert all(slot < parts.test_start for one in [*parts.training, *parts.validation] for slot in one.slots)


def read(product: Product, init: int, asked: SampleSpec, **when: Any) -> Any:
    whole = product.cube()
    return read_context(product.cube(**when), sample(whole.observed(), init, asked), asked)


def test_a_missing_frame_comes_first_empty_and_as_old_as_may_be(product: Product) -> None:
    product.scene(3)
    product.scene(5)
    product.ingest()
    found = read(product, 6, spec(context_frames=4, max_age=8))
    assert np.isnan(found.values[0, :2]).all()
    assert not found.validity[0, :2].any()
    assert found.validity[0, 2:].all()
    assert found.ages[0].tolist() == [8, 8, 3, 1]
    assert found.times[0].tolist() == [seconds(product.time(slot)) for slot in (-2, -2, 3, 5)]


def test_an_age_counts_from_the_exact_acquisition(product: Product) -> None:
    product.scene(1.8)
    product.scene(3.2)
    product.ingest()
    found = read(product, 3, spec(context_frames=2, max_age=4))
    np.testing.assert_allclose(found.ages[0], [1.2, -0.2], atol=1e-6)
    assert from_seconds(found.times[0, 1]) == product.time(3.2)


def test_a_frame_that_was_not_there_yet_is_missing(product: Product) -> None:
    """The sample knows of it, the cube as of that time does not show it."""
    for slot in range(3):
        product.scene(slot)
    product.ingest()
    found = read(product, 2, spec(context_frames=3, max_age=4), as_of=product.time(1))
    assert found.validity[0].any(axis=(1, 2, 3)).tolist() == [False, True, True]
    assert found.ages[0].tolist() == [4, 2, 1]


def test_targets_without_a_scene_and_beyond_the_cube_are_missing(product: Product) -> None:
    product.scene(0)
    product.scene(2)
    product.ingest()
    found = read_targets(product.cube(), sample(np.array([0, 2]), 0, spec(horizon=4)))
    assert found.validity.any(axis=(1, 2, 3)).tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.values[1, ..., 0], product.dn(2000)[0] * 0.1 - 3, atol=1e-5)


def test_targets_are_filled_up_to_a_horizon_with_missing_ones(product: Product) -> None:
    for slot in range(4):
        product.scene(slot)
    product.ingest()
    found = read_targets(product.cube(), Sample(0, (0,), (1, 2)), horizon=4)
    assert found.validity.any(axis=(1, 2, 3)).tolist() == [True, True, False, False]


def test_what_lies_outside_the_area_that_a_part_reads_does_not_reach_it_not_even_through_the_motion(
    make_product: Callable[..., Product],
) -> None:
    area = Window(0, 40, 0, 30)
    whole, spoiled = make_product(), make_product()
    for slot in range(5):
        moving = np.roll(whole.dn(0), 2 * slot, axis=2)
        whole.scene(slot, moving)
        moving[..., area.x1 :] = whole.dn(slot + 1)[..., area.x1 :]
        spoiled.scene(slot, moving)
    situation = sample(np.arange(5), 3, spec(context_frames=3, max_age=4, horizon=1))
    seen, met = [], []
    for product in (whole, spoiled):
        product.ingest()
        context = read_context(product.cube(), situation, spec(context_frames=3, max_age=4), area=area)
        motion = estimate_trajectories(context, MotionSpec())[0].motion
        seen.append((context.values, motion.flow))
        met.append(read_targets(product.cube(), situation, area).values)
    np.testing.assert_array_equal(seen[0][0], whole.cube().read([1, 2, 3]).values[np.newaxis, :, :, :30])
    for one, other in zip((*seen[0], met[0]), (*seen[1], met[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(seen[0][1]).max() > 0.5


def test_the_record_names_boundaries_and_counts() -> None:
    parts = split(np.arange(100), spec(), SHAPE, 48)
    told = parts.describe()
    assert (told["split_mode"], told["split_test_start_slot"], told["split_validation_start_slot"]) == (
        "temporal",
        80,
        64,
    )
    assert told["split_training_inits"] == len(parts.training)
    assert told["split_training_area"] == "(slice(0, 300, None), slice(0, 400, None))"
