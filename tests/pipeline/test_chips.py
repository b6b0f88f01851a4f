from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.chips import COVARIATES, PARTS, AlignedFrames, ChipReader, Chips, Recipe, chip_size
from pipeline.config import Settings
from pipeline.covariates import Covariates, covariates_of
from pipeline.errors import ConfigError
from pipeline.grid import Window
from pipeline.interest import Interest, measure_interest
from pipeline.normalise import measure
from pipeline.samples import Sample, sample
from pipeline.specs import MotionSpec, SampleSpec

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SPEC = SampleSpec(context_frames=2, max_age=4, horizon=2)
SPEED = 2  # px a slot, eastward
FRAMES = 7


@pytest.fixture(scope="module")
def drifting(make_product: Any) -> Product:
    """Clouds that move as a whole."""
    product = make_product(grid={"width": 96, "height": 80})
    sky = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(80, 160)), (0, 0), 3)
    dn = np.rint(500 + 300 * sky / sky.std()).clip(0, 2000).astype(np.uint16)
    for slot in range(FRAMES):
        start = 40 - SPEED * slot
        product.scene(slot, dn[:, start : start + 96])
    product.ingest()
    return product


def aligned(
    product: Product,
    folder: Path,
    *,
    covariates: Covariates | None = None,
    area: Window | None = None,
    **changed: Any,
) -> AlignedFrames:
    cube = product.cube()
    statistics = measure(cube, range(3), [Window(0, 80, 0, 96)])
    recipe = Recipe(SPEC, MotionSpec.model_validate({}), statistics, (0,))
    return AlignedFrames(cube, replace(recipe, **changed), folder, covariates, area)


def told(product: Product, **spec: bool) -> Covariates:
    document: dict[str, Any] = product.settings.model_dump() | {"covariates": spec}
    return covariates_of(Settings(**document))


def wanted(product: Product, *inits: int) -> list[Sample]:
    return [sample(product.cube().observed(), init, SPEC) for init in inits]


def files(folder: Path) -> dict[str, int]:
    """When each file was written; hidden ones are not part of a cache."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.glob("*/*/[!.]*"))}


def test_what_moves_stands_still_at_its_place_at_the_init_time(drifting: Product, tmp_path: Path) -> None:
    source = aligned(drifting, tmp_path)
    (ready,) = source.prepare(wanted(drifting, 2))
    assert (ready.frames.shape, ready.targets.shape) == ((1, 2, 80, 96, 1), (1, 2, 80, 96, 1))
    assert ready.ages.tolist() == [[1, 0]]
    inside = (slice(15, 65), slice(20, 75))
    now = source.recipe.statistics.scale(drifting.cube().read([2]).values[0])[inside]
    layers: list[NDArray[np.float32]] = [*ready.frames[0], *ready.targets[0]]
    still = [float(np.abs(layer[inside].astype(np.float32) - now).mean()) for layer in layers]
    moved = source.recipe.statistics.scale(drifting.cube().read([4]).values[0])[inside]
    assert max(still) < 0.15 * float(np.abs(moved - now).mean())
    assert still[1] < 1e-3


def test_targets_are_what_came_true_and_nothing_where_nothing_came(drifting: Product, tmp_path: Path) -> None:
    (ready,) = aligned(drifting, tmp_path).prepare(wanted(drifting, FRAMES - 2))
    assert np.isfinite(ready.targets[0, 0]).mean() > 0.8
    assert np.isnan(ready.targets[0, 1]).all()


def test_targets_that_a_sample_may_not_meet_are_missing_and_none_of_a_cache_comes_back(
    drifting: Product, tmp_path: Path
) -> None:
    source = aligned(drifting, tmp_path)
    (one,) = wanted(drifting, 2)
    (whole,), (partial,) = source.prepare([one]), source.prepare([one.until(3)])
    assert np.isfinite(whole.targets[0, 1]).mean() > 0.8
    assert np.isnan(partial.targets[0, 1]).all()
    assert (whole.leads, partial.leads) == (2, 1)
    for part in ("frames", "ages"):
        np.testing.assert_array_equal(getattr(partial, part), getattr(whole, part))
    np.testing.assert_array_equal(partial.targets[0, 0], whole.targets[0, 0])


def test_a_cache_is_found_again_and_gives_the_same_samples(drifting: Product, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    first = aligned(drifting, tmp_path).prepare(wanted(drifting, 1, 2), progress=lambda *at: told.append(at))
    before = files(tmp_path)
    again = aligned(drifting, tmp_path).prepare(wanted(drifting, 1, 2))
    assert files(tmp_path) == before
    assert len(before) == 2 * len(PARTS)
    assert told == [(1, 2), (2, 2)]
    for one, other in zip(first, again, strict=True):
        assert isinstance(other.frames, np.memmap)
        for part in PARTS:
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


@pytest.mark.parametrize(("part", "left"), [*((part, 0.7) for part in PARTS), ("targets", 0), ("frames", 40)])
def test_a_half_written_cache_file_is_not_used(drifting: Product, tmp_path: Path, part: str, left: float) -> None:
    (whole,) = aligned(drifting, tmp_path).prepare(wanted(drifting, 2))
    expected = np.array(getattr(whole, part))
    (path,) = tmp_path.glob(f"*/*/*-{part}.npy")
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(b"\x93NUMPY" * (size // 6))
    os.truncate(path, int(left if left == 40 else left * size))
    (again,) = aligned(drifting, tmp_path).prepare(wanted(drifting, 2))
    np.testing.assert_array_equal(getattr(again, part), expected)


def test_a_cache_that_was_being_written_when_the_training_died_is_made_again(drifting: Product, tmp_path: Path) -> None:
    (whole,) = aligned(drifting, tmp_path).prepare(wanted(drifting, 2))
    (path,) = tmp_path.glob("*/*/*-targets.npy")
    path.rename(path.with_name(f".{path.name}"))
    (again,) = aligned(drifting, tmp_path).prepare(wanted(drifting, 2))
    np.testing.assert_array_equal(again.targets, whole.targets)


def test_another_recipe_removes_the_old_cache_but_not_from_under_whoever_reads_it(
    drifting: Product, tmp_path: Path
) -> None:
    (old,) = aligned(drifting, tmp_path).prepare(wanted(drifting, 2))
    copy = np.array(old.frames)
    (tmp_path / "notes").mkdir()
    other = aligned(drifting, tmp_path, motion=MotionSpec.model_validate({"method": "none"}))
    other.prepare(wanted(drifting, 2))
    assert {path.name for path in tmp_path.iterdir()} == {other.key, "notes", ".lock"}
    np.testing.assert_array_equal(old.frames, copy)


def test_whatever_decides_the_bytes_decides_the_key(drifting: Product, tmp_path: Path) -> None:
    source = aligned(drifting, tmp_path)
    recipe = source.recipe
    others = [
        replace(source, recipe=replace(recipe, samples=SPEC.model_copy(update={"horizon": 3}))),
        replace(source, recipe=replace(recipe, samples=SPEC.model_copy(update={"max_age": 5}))),
        replace(source, recipe=replace(recipe, motion=MotionSpec.model_validate({"smoothing": 0.1}))),
        replace(source, recipe=replace(recipe, statistics=replace(recipe.statistics, snapshot="another"))),
        replace(source, recipe=replace(recipe, forecast_bands=(0, 1))),
        replace(source, covariates=told(drifting, time_of_day=True)),
        replace(source, covariates=told(drifting, time_of_year=True)),
    ]
    assert len({one.key for one in [source, *others]}) == 8
    thinned = replace(recipe, samples=SPEC.model_copy(update={"max_inits": 7}))
    assert replace(source, recipe=thinned).key == source.key
    assert replace(source, covariates=told(drifting)).key == source.key


AREAS = (Window(0, 80, 0, 60), Window(0, 80, 70, 96))


def test_areas_lie_side_by_side_and_are_found_again(drifting: Product, tmp_path: Path) -> None:
    parts = [aligned(drifting, tmp_path, area=area).prepare(wanted(drifting, 2)) for area in AREAS]
    assert [one.frames.shape[2:4] for (one,) in parts] == [(80, 60), (80, 26)]
    found = files(tmp_path)
    assert len(found) == 2 * len(PARTS)
    for area in AREAS:
        aligned(drifting, tmp_path, area=area).prepare(wanted(drifting, 2))
    assert files(tmp_path) == found


def test_nothing_beside_an_area_decides_what_is_in_it(make_product: Any, tmp_path: Path) -> None:
    """Not even through the motion: two skies that are alike on the left only give the same samples there."""
    frames: list[tuple[NDArray, NDArray]] = []
    for seed in (1, 2):
        product = make_product(grid={"width": 96, "height": 80})
        left, right = (cv2.GaussianBlur(np.random.default_rng(s).normal(size=(80, 80)), (0, 0), 3) for s in (0, seed))
        for slot in range(5):
            sky = np.hstack([left[:, 10 + slot :][:, :60], right[:, slot * seed :][:, :36]])
            product.scene(slot, np.rint(1000 + 5000 * sky).clip(0, 2000).astype(np.uint16))
        product.ingest()
        source = aligned(product, tmp_path / str(seed), area=AREAS[0])
        statistics = replace(source.recipe.statistics, mean=(100.0,), deviation=(30.0,))
        (one,) = replace(source, recipe=replace(source.recipe, statistics=statistics)).prepare(wanted(product, 2))
        frames.append((one.frames, one.targets))
    for one, other in zip(*frames, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(frames[0][0]).mean() > 0.8


def test_covariates_are_kept_beside_the_frames(drifting: Product, tmp_path: Path) -> None:
    sun = told(drifting, time_of_day=True, solar_zenith=True)
    source = aligned(drifting, tmp_path, covariates=sun)
    (made,), (found,) = source.prepare(wanted(drifting, 2)), source.prepare(wanted(drifting, 2))
    assert made.covariates is not None
    assert made.covariates.shape == (1, 2 + 2, 80, 96, 3)
    assert made.covariates.dtype == np.float16
    assert np.isfinite(made.covariates).all()
    np.testing.assert_array_equal(found.covariates, made.covariates)
    (path,) = tmp_path.glob(f"*/*/*-{COVARIATES}.npy")
    path.unlink()
    (again,) = source.prepare(wanted(drifting, 2))
    np.testing.assert_array_equal(again.covariates, made.covariates)


def test_what_is_the_same_all_over_the_grid_is_kept_once(drifting: Product, tmp_path: Path) -> None:
    (one,) = aligned(drifting, tmp_path, covariates=told(drifting, time_of_day=True)).prepare(wanted(drifting, 2))
    assert one.covariates is not None
    assert one.covariates.shape == (1, 4, 80, 96, 2)
    (path,) = tmp_path.glob(f"*/*/*-{COVARIATES}.npy")
    assert path.stat().st_size < 200


def test_an_area_has_the_covariates_of_its_place(drifting: Product, tmp_path: Path) -> None:
    still, area = MotionSpec.model_validate({"method": "none"}), AREAS[1]
    sun = told(drifting, solar_zenith=True)
    (whole,) = aligned(drifting, tmp_path / "a", covariates=sun, motion=still).prepare(wanted(drifting, 2))
    (part,) = aligned(drifting, tmp_path / "b", covariates=sun, motion=still, area=area).prepare(wanted(drifting, 2))
    assert whole.covariates is not None
    np.testing.assert_array_equal(part.covariates, whole.covariates[:, :, :, 70:96])


OPEN = Path("/proc/self/fd")


@pytest.fixture
def few_files() -> Iterator[None]:
    """A process that may open 64 files beside those that it has, for now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(OPEN.iterdir())) + 64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not OPEN.is_dir(), reason="open files are counted in /proc")
@pytest.mark.usefixtures("few_files")
def test_more_samples_than_files_are_usually_open_can_be_prepared(drifting: Product, tmp_path: Path) -> None:
    assert len(aligned(drifting, tmp_path).prepare(wanted(drifting, 2) * 30)) == 30


def test_more_samples_than_may_ever_be_open_are_refused_before_the_work(drifting: Product, tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        pytest.skip("this machine opens any number of files")
    with pytest.raises(ConfigError, match=rf"allows a process {most}: lower samples\.max_inits"):
        aligned(drifting, tmp_path).prepare(wanted(drifting, 2) * most)
    assert not list(tmp_path.iterdir())


# --- chips ----------------------------------------------------------------------------------------


def numbered(samples: int, height: int, width: int) -> tuple[Chips, ...]:
    """Every pixel says its row, its column and its sample, in frames and targets alike."""
    y, x = np.indices((height, width), np.float32)

    def layers(count: int, sample: int) -> NDArray[np.float32]:
        return np.broadcast_to(np.stack([y, x, np.full_like(y, sample)], axis=-1), (1, count, height, width, 3))

    return tuple(Chips(layers(3, i), np.array([[2, 1, 0]], np.float32) + i, layers(2, i)) for i in range(samples))


def reader(area: Window, size: tuple[int, int], **changed: Any) -> ChipReader:
    return ChipReader(**{"samples": numbered(3, 60, 70), "area": area, "size": size, "batch": 4, "seed": 1} | changed)


def same(one: Chips, other: Chips) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(other, part), equal_nan=True) for part in PARTS)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    area = Window(0, 60, 0, 70)
    first = reader(area, (16, 16))
    expected = first.read(5)
    for step in (6, 4, 5):
        assert same(first.read(step), expected) == (step == 5)
    assert same(reader(area, (16, 16)).read(5), expected)
    assert not same(reader(area, (16, 16), seed=2).read(5), expected)


def test_a_saved_step_restores_the_reader_in_the_middle_of_an_epoch() -> None:
    whole = reader(Window(0, 60, 0, 70), (16, 16), drop_frames=0.3)
    through = list(islice(whole.iterate(), 7))
    again = islice(reader(Window(0, 60, 0, 70), (16, 16), drop_frames=0.3).iterate(4), 3)
    assert [same(one, other) for one, other in zip(through[4:], again, strict=True)] == [True] * 3
    assert not same(through[4], through[3])


@st.composite
def places(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    y0, x0 = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    area = Window(y0, draw(st.integers(y0 + 4, 60)), x0, draw(st.integers(x0 + 4, 70)))
    height, width = area.shape
    return area, (draw(st.integers(1, height)), draw(st.integers(1, width)))


@settings(max_examples=40, deadline=None)
@given(places(), st.integers(0, 1000))
def test_chips_never_leave_their_area(place: tuple[Window, tuple[int, int]], step: int) -> None:
    area, size = place
    chips = reader(area, size).read(step)
    rows, columns = chips.frames[..., 0], chips.frames[..., 1]
    assert (area.y0 <= rows).all()
    assert (rows < area.y1).all()
    assert (area.x0 <= columns).all()
    assert (columns < area.x1).all()
    assert chips.frames.shape == (4, 3, *size, 3)
    assert chips.frames.dtype == chips.targets.dtype == chips.ages.dtype == np.float32


def orientations(chips: Chips) -> Iterator[tuple[float, ...]]:
    """Which way rows and columns run in each chip."""
    for frame in chips.frames[:, 0]:
        down, right = frame[1, 0] - frame[0, 0], frame[0, 1] - frame[0, 0]
        yield (*down[:2].tolist(), *right[:2].tolist())


def test_a_turned_chip_turns_frames_and_targets_alike_and_keeps_what_belongs_together() -> None:
    square = reader(Window(0, 60, 0, 70), (8, 8), batch=64)
    chips = square.read(0)
    for frame in range(3):
        np.testing.assert_array_equal(chips.frames[:, frame], chips.targets[:, frame % 2])
    np.testing.assert_array_equal(chips.ages, [2, 1, 0] + chips.frames[:, 0, 0, 0, 2:])
    assert len(set(orientations(chips))) == 8


def test_a_chip_that_is_no_square_keeps_its_sides() -> None:
    chips = reader(Window(0, 60, 0, 70), (8, 12), batch=64).read(0)
    assert chips.frames.shape[2:4] == (8, 12)
    assert len(set(orientations(chips))) == 4


def test_chips_that_watch_are_neither_turned_nor_mirrored() -> None:
    chips = reader(Window(0, 60, 0, 70), (8, 8), batch=32, augment=False).read(0)
    assert set(orientations(chips)) == {(1, 0, 0, 1)}


@pytest.mark.parametrize("part", ["frames", "targets"])
def test_a_chip_with_enough_to_see_is_preferred(part: str) -> None:
    (one,) = numbered(1, 60, 70)
    holed = np.array(getattr(one, part))
    holed[:, -1 if part == "frames" else slice(None), :, :40] = np.nan  # only the newest frame and the targets count
    chips = reader(Window(0, 60, 0, 70), (10, 10), samples=(replace(one, **{part: holed}),), batch=200).read(0)
    seen = np.isfinite(getattr(chips, part)[:, -1]).mean(axis=(1, 2, 3)) >= 0.5
    assert seen.mean() > 0.8  # 43 % of the places, 4 tries: 1 - 0.57**4 = 0.89
    assert not seen.all()  # the tries end


def test_leads_of_a_later_part_do_not_decide_where_a_chip_lies() -> None:
    (one,) = numbered(1, 60, 70)
    targets = np.array(one.targets)
    targets[:, :1, :, :40][np.random.default_rng(0).random((1, 1, 60, 40, 3)) < 0.3] = np.nan
    targets[:, 1] = np.nan
    first = replace(one, targets=targets[:, :1])

    def drawn(sample: Chips) -> Chips:
        return reader(Window(0, 60, 0, 70), (16, 16), samples=(sample,), batch=50).read(0)

    np.testing.assert_array_equal(drawn(replace(one, targets=targets, leads=1)).frames, drawn(first).frames)
    assert not np.array_equal(drawn(replace(one, targets=targets)).frames, drawn(first).frames)


def test_covariates_turn_with_the_chips() -> None:
    samples = tuple(replace(one, covariates=np.repeat(one.frames[:, :1], 5, axis=1)) for one in numbered(3, 60, 70))
    chips = reader(Window(0, 60, 0, 70), (8, 8), samples=samples, batch=64).read(0)
    assert chips.covariates is not None
    assert (chips.covariates.shape, chips.covariates.dtype) == ((64, 5, 8, 8, 3), np.float32)
    for time in range(5):
        np.testing.assert_array_equal(chips.covariates[:, time], chips.frames[:, 0])


# --- hidden frames --------------------------------------------------------------------------------


def hidden(chips: Chips) -> NDArray[np.bool_]:
    """Which frames of each chip show nothing."""
    return np.asarray(np.isnan(chips.frames).all(axis=(2, 3, 4)))


def long(frames: int) -> tuple[Chips, ...]:
    (one,) = numbered(1, 60, 70)
    ages = np.arange(frames, dtype=np.float32)[np.newaxis, ::-1]
    return (replace(one, frames=np.repeat(one.frames[:, :1], frames, axis=1), ages=ages),)


def test_hidden_frames_are_missing_whole_and_nothing_else_changes() -> None:
    area = Window(0, 60, 0, 70)
    seen, some = (reader(area, (8, 8), batch=64, drop_frames=share).read(3) for share in (0.0, 0.4))
    gone = hidden(some)
    assert not hidden(seen).any()
    assert 0 < gone.mean() < 0.4
    np.testing.assert_array_equal(np.isnan(some.frames).any(axis=(2, 3, 4)), gone)
    np.testing.assert_array_equal(some.frames[~gone], seen.frames[~gone])
    np.testing.assert_array_equal(some.targets, seen.targets)
    np.testing.assert_array_equal(some.ages, seen.ages)


def test_each_frame_is_hidden_as_often_as_asked_for_and_the_newest_too() -> None:
    chips = reader(Window(0, 60, 0, 70), (4, 4), samples=long(8), batch=2000, drop_frames=0.1).read(0)
    np.testing.assert_allclose(hidden(chips).mean(axis=0), 0.1, atol=0.03)


@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 2), (3, 2), (8, 2)])
def test_two_frames_stay_where_there_were_as_many(frames: int, left: int) -> None:
    chips = reader(Window(0, 60, 0, 70), (4, 4), samples=long(frames), batch=100, drop_frames=0.999).read(0)
    np.testing.assert_array_equal((~hidden(chips)).sum(axis=1), left)


def test_frames_that_were_missing_are_not_counted_among_those_that_stay() -> None:
    (one,) = long(4)
    holed = np.array(one.frames)
    holed[:, :2] = np.nan
    samples = (replace(one, frames=holed),)
    chips = reader(Window(0, 60, 0, 70), (4, 4), samples=samples, batch=50, drop_frames=0.999).read(0)
    np.testing.assert_array_equal(hidden(chips), np.tile([True, True, False, False], (50, 1)))


# --- jitter ---------------------------------------------------------------------------------------


def test_jitter_is_one_factor_and_one_shift_for_all_frames_and_targets_of_a_chip() -> None:
    area = Window(0, 60, 0, 70)
    plain, varied = (reader(area, (8, 8), batch=64, jitter=spread).read(2) for spread in (0.0, 0.1))
    lines = []
    for chip in range(64):
        before, after = (
            np.concatenate([one.frames[chip].ravel(), one.targets[chip].ravel()]) for one in (plain, varied)
        )
        lines.append(np.polyfit(before, after, 1))
        np.testing.assert_allclose(np.polyval(lines[-1], before), after, atol=1e-3)
    gains, shifts = np.transpose(lines)
    np.testing.assert_allclose([gains.std(), shifts.std()], 0.1, atol=0.03)
    np.testing.assert_allclose([gains.mean(), shifts.mean()], [1, 0], atol=0.05)


def test_without_jitter_a_batch_is_what_it_was() -> None:
    area = Window(0, 60, 0, 70)
    assert same(reader(area, (8, 8), jitter=0.0).read(2), reader(area, (8, 8)).read(2))


# --- interest -------------------------------------------------------------------------------------


def spotted() -> tuple[tuple[Chips, ...], Interest]:
    """Something to see in one corner of one of three samples; rows and columns are told by the covariates."""
    samples = list(numbered(3, 60, 70))
    field = np.zeros((1, 1, 60, 70, 1), np.float32)
    field[0, 0, :16, :16] = np.random.default_rng(0).normal(size=(16, 16, 1))
    samples = [replace(one, frames=np.zeros_like(one.frames), covariates=one.frames) for one in samples]
    samples[1] = replace(samples[1], frames=np.broadcast_to(field, samples[1].frames.shape))
    area = Window(0, 60, 0, 70)
    return tuple(samples), measure_interest(samples, area, (16, 16), "texture", bands=(0,))


def test_interest_draws_more_chips_where_there_is_something_to_see() -> None:
    samples, interest = spotted()
    shares: list[float] = []
    for wish in (None, interest):
        chips = reader(Window(0, 60, 0, 70), (16, 16), samples=samples, batch=400, interest=wish).read(0)
        shares.append(float((np.ptp(chips.frames, axis=(1, 2, 3, 4)) > 0).mean()))
    assert shares[0] < 0.1
    assert shares[1] > 0.45


def test_what_a_training_varies_does_not_touch_the_chips_that_watch_it() -> None:
    samples, interest = spotted()
    area, size = Window(0, 60, 0, 70), (16, 16)
    plain = reader(area, size, samples=samples)
    varied = reader(area, size, samples=samples, seed=5, interest=interest, drop_frames=0.5, jitter=0.2)
    for step in range(4):
        watching = [one.watching(samples, area, size).read(step) for one in (plain, varied)]
        assert same(*watching)
        assert not hidden(watching[0]).any()
    assert not same(plain.read(0), varied.read(0))


def test_an_interest_of_other_places_is_refused() -> None:
    samples, interest = spotted()
    with pytest.raises(ValueError, match="on the reader's own samples and places"):
        reader(Window(0, 60, 0, 70), (8, 8), samples=samples, interest=interest)
    with pytest.raises(ValueError, match="on the reader's own samples and places"):
        reader(Window(0, 60, 0, 70), (16, 16), samples=samples[:2], interest=interest)


def test_a_chip_larger_than_its_area_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inside its area of \(10, 70\) pixels, found one of \(16, 16\)"):
        reader(Window(0, 10, 0, 70), (16, 16))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128), st.integers(1, 8))
def test_a_chip_is_whole_patches_that_fit(height: int, width: int, asked: int, patch: int) -> None:
    area = Window(0, height, 0, width)
    if min(height, width) < patch:
        with pytest.raises(ConfigError, match=rf"a patch of {patch} pixels.*lower training\.patch"):
            chip_size(area, asked, patch)
        return
    for chip, side in zip(chip_size(area, asked, patch), (height, width), strict=True):
        assert chip % patch == 0
        assert min(asked, side) - patch < chip <= min(asked, side)
