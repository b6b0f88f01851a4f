from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import Persistence, extrapolation
from pipeline.lagrangian import Advected, advance, align, align_targets, estimate_trajectories
from pipeline.motion import Motion, advect
from pipeline.predictor import Context, Forecast, Source
from pipeline.specs import MotionSpec
from pipeline.trajectories import Trajectories

SHAPE = (80, 96)
INSIDE = (slice(16, -16), slice(16, -16))
SPEC = MotionSpec()
SPEED = (2.0, -1.0)


def wave(slots: float, seed: int = 0) -> NDArray[np.float32]:
    """A pattern that moves at SPEED, known between the pixels too."""
    rng = np.random.default_rng(seed)
    y, x = (axis - slots * speed for axis, speed in zip(np.mgrid[: SHAPE[0], : SHAPE[1]], SPEED[::-1], strict=True))
    terms = rng.uniform((12, 0, 0), (50, 2 * np.pi, 2 * np.pi), (20, 3))
    return np.asarray(sum(np.sin(2 * np.pi / w * (x * np.cos(a) + y * np.sin(a)) + p) for w, a, p in terms), np.float32)


def context(ages: Sequence[float] = (3, 2, 1, 0), batch: int = 1, bands: int = 1) -> Context:
    """Items and bands differ in pattern, not in motion."""
    frames = [
        [np.dstack([wave(-age, 10 * item + band) for band in range(bands)]) for age in ages] for item in range(batch)
    ]
    values = np.array(frames, np.float32)
    when = np.tile(np.array(ages, np.float32), (batch, 1))
    return Context(values, np.isfinite(values), (-300 * when).astype(np.int64), when)


def uniform(dx: float, dy: float) -> Trajectories:
    return Trajectories.of(Motion(np.tile(np.array([dx, dy], np.float32), (*SHAPE, 1))))


@dataclass(frozen=True)
class Counting:
    """Says its lead number everywhere in two quantities; knows nothing in the left half of band 0."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        batch, _, y, x, band = context.values.shape
        values = np.empty((batch, horizon, 2, y, x, band), np.float32)
        values[:] = np.arange(1, horizon + 1)[:, None, None, None, None]
        values[..., : x // 2, 0] = np.nan
        source = np.full((batch, horizon, y, x), Source.NETWORK, np.uint8)
        return Forecast(values, source, np.zeros(source.shape, np.float32), ("mean", "q50"))


def test_aligned_frames_show_the_same_pattern_at_any_age() -> None:
    given = context((3, 1.5, 0, -0.5))
    aligned = align(given, [uniform(*SPEED)])
    for frame in range(4):
        assert np.abs(aligned.values[0, frame] - wave(0)[..., None])[INSIDE].mean() < 0.03
        assert aligned.validity[0, frame][INSIDE].all()


def test_aligning_leaves_the_newest_frame_and_the_acquisition_times() -> None:
    given = context()
    aligned = align(given, [uniform(*SPEED)])
    np.testing.assert_array_equal(aligned.values[0, -1], given.values[0, -1])
    np.testing.assert_array_equal(aligned.ages, given.ages)
    np.testing.assert_array_equal(aligned.times, given.times)


def test_aligning_does_not_change_what_it_was_given() -> None:
    given = context()
    before = given.values.copy()
    align(given, [uniform(*SPEED)])
    np.testing.assert_array_equal(given.values, before)


def covariates_of(given: Context, horizon: int) -> NDArray[np.float32]:
    """Row, column, and the time's number, which is the same all over the grid."""
    y, x = np.indices(SHAPE, np.float32)
    times = given.values.shape[1] + horizon
    return np.stack([np.dstack([y, x, np.full_like(y, time)]) for time in range(times)])[np.newaxis]


def test_covariates_are_those_of_the_place_where_what_moves_is_at_their_time() -> None:
    given = context((3, 1, 0))
    y, x = np.indices(SHAPE, np.float32)
    told = replace(given, covariates=covariates_of(given, 2))
    found = align(told, [uniform(*SPEED)]).covariates
    assert found is not None
    for at, slots in enumerate((-3, -1, 0, 1, 2)):
        np.testing.assert_allclose(found[0, at, ..., 0], np.clip(y + slots * SPEED[1], 0, SHAPE[0] - 1), atol=1e-3)
        np.testing.assert_allclose(found[0, at, ..., 1], np.clip(x + slots * SPEED[0], 0, SHAPE[1] - 1), atol=1e-3)
        np.testing.assert_array_equal(found[0, at, ..., 2], at)


def test_covariates_that_are_the_same_all_over_the_grid_stay_a_view() -> None:
    given = context()
    told = np.broadcast_to(np.ones((1, 6, 1, 1, 2), np.float32), (1, 6, *SHAPE, 2))
    assert align(replace(given, covariates=told), [uniform(*SPEED)]).covariates is told


def test_covariates_do_not_change_where_the_frames_go() -> None:
    given = context((2, 0, 1))
    told = align(replace(given, covariates=covariates_of(given, 3)), [uniform(*SPEED)])
    np.testing.assert_array_equal(told.values, align(given, [uniform(*SPEED)]).values)


def test_the_order_of_the_frames_stays() -> None:
    given = context((0, 2, 1))
    aligned = align(given, [uniform(*SPEED)])
    np.testing.assert_array_equal(aligned.values[0, 0], given.values[0, 0])
    np.testing.assert_array_equal(np.isnan(aligned.values[0, :, 40, :6, 0]).sum(axis=1), [0, 4, 2])


def test_pulled_back_truth_is_the_newest_frame_where_only_motion_happens() -> None:
    targets = np.stack([wave(lead)[..., None] for lead in (1, 2, 4)])
    pulled = align_targets(targets, uniform(*SPEED), (1, 2, 4))
    assert np.abs(pulled - wave(0)[..., None])[:, *INSIDE].max() < 0.2
    assert np.isnan(pulled[2, :, -8:]).all()


def test_pulled_back_truth_keeps_its_gaps() -> None:
    targets = np.stack([wave(1)[..., None]])
    targets[0, 40, 40] = np.nan
    pulled = align_targets(targets, uniform(*SPEED), (1,))
    assert np.argwhere(np.isnan(pulled[0, 16:-16, 16:-16, 0])).tolist() == [[41 - 16, 38 - 16]]


def test_advancing_undoes_the_pulling_back() -> None:
    targets = np.stack([wave(lead)[..., None] for lead in (1, 2)])
    pulled = align_targets(targets, uniform(*SPEED), (1, 2))
    flat = np.zeros((1, 2, *SHAPE))
    forecast = advance(
        Forecast(pulled[None, :, None], flat.astype(np.uint8), flat.astype(np.float32)), [uniform(*SPEED)]
    )
    np.testing.assert_allclose(forecast.values[0, :, 0][:, *INSIDE], targets[:, *INSIDE], atol=1e-4)


def test_extrapolation_beats_persistence_on_a_moving_pattern() -> None:
    given = context()
    moved, still = (predictor.predict(given, 3).values[0, :, 0] for predictor in (extrapolation(SPEC), Persistence()))
    truth = np.stack([wave(lead)[..., None] for lead in (1, 2, 3)])
    errors = [np.abs(forecast - truth)[:, *INSIDE].mean(axis=(1, 2, 3)) for forecast in (moved, still)]
    assert (errors[0] < 0.15 * errors[1]).all()


def test_what_flows_in_has_no_value_no_source_and_no_age() -> None:
    forecast = extrapolation(SPEC).predict(context(), 4)
    unknown = np.asarray(np.isnan(forecast.values).all(axis=(2, 5)))
    assert 4 <= unknown[0, 3, 40].sum() <= 12
    assert unknown[0, 3, 40, :4].all()
    np.testing.assert_array_equal(forecast.source == Source.NONE, unknown)
    np.testing.assert_array_equal(np.isnan(forecast.age), unknown)


def test_what_persists_along_the_flow_is_labelled_extrapolation() -> None:
    source = extrapolation(SPEC).predict(context(), 2).source
    assert set(np.unique(source)) == {Source.NONE, Source.EXTRAPOLATION}


def test_the_age_goes_with_its_pixel() -> None:
    given = context()
    validity = given.validity.copy()
    validity[0, -1, 30:50, 30:50] = False
    holed = Context(given.values, validity, given.times, given.ages)
    age = extrapolation(SPEC).predict(holed, 5).age[0, 4]
    assert age[35, 50] == 1  # the hole's centre (40, 40) moved by 5 slots
    assert age[60, 60] == 0


def test_an_item_of_a_batch_is_forecast_as_it_would_be_alone() -> None:
    both = context(batch=2)
    second = Context(both.values[1:], both.validity[1:], both.times[1:], both.ages[1:])
    together, alone = (extrapolation(SPEC).predict(given, 2).values[-1] for given in (both, second))
    np.testing.assert_array_equal(together, alone)


def test_motion_is_taken_from_the_band_that_the_spec_names() -> None:
    given = context(bands=2)
    frozen = given.values.copy()
    frozen[..., 0] = frozen[:, -1:, ..., 0]
    mixed = Context(frozen, given.validity, given.times, given.ages)
    first, second = (estimate_trajectories(mixed, MotionSpec(band=band))[0].motion.flow for band in (1, 2))
    assert np.abs(first).max() < 0.01
    assert np.abs(second[INSIDE].mean(axis=(0, 1)) - SPEED).max() < 0.05


def test_every_quantity_band_and_lead_moves() -> None:
    forecast = Advected(Counting(), SPEC).predict(context(bands=2), 3)
    assert forecast.quantities == ("mean", "q50")
    for lead in range(3):
        first_known = np.isfinite(forecast.values[0, lead, :, 40, :, 0]).argmax(axis=-1)
        np.testing.assert_allclose(first_known, SHAPE[1] // 2 + SPEED[0] * (lead + 1), atol=1)
        assert (forecast.values[0, lead, :, *INSIDE, 1] == lead + 1).all()


def test_a_pixel_is_known_in_all_quantities_or_in_none() -> None:
    given = Counting().predict(context(), 2)
    given.values[0, :, 1, 30:50, 60:80, 0] = np.nan
    moved = advance(given, [uniform(*SPEED)])
    unknown = np.isnan(moved.values[0, :, :, 25:55, 55:90, 0])
    np.testing.assert_array_equal(unknown[:, 0], unknown[:, 1])
    assert unknown[:, 0].sum(axis=(1, 2)).tolist() == [400, 400]


def test_many_quantities_move_as_each_would_alone() -> None:
    given = context(bands=2)
    given.values[0, -1, 20:30, 20:30, 1] = np.nan
    newest = given.values[:, -1:, None]
    labels = np.ones((1, 1, *SHAPE), np.uint8)
    both = Forecast(np.concatenate([newest, newest**2], axis=2), labels, labels.astype(np.float32), ("mean", "q90"))
    alone = Forecast(newest, labels, labels.astype(np.float32))
    motion = uniform(1.25, -0.5)
    together, apart = (advance(one, [motion]) for one in (both, alone))
    np.testing.assert_array_equal(together.of("mean"), apart.of("mean"))
    valid = np.isfinite(newest[0, 0, 0])
    np.testing.assert_allclose(apart.values[0, 0, 0], advect(newest[0, 0, 0], valid, motion.motion, 1)[0], rtol=1e-5)
    np.testing.assert_array_equal(together.source, apart.source)


def test_whatever_has_a_value_has_a_source_and_an_age() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    seen = np.hypot(y - 40, x - 60) < 30  # a disc, as a radar sees
    labels = np.where(seen, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
    ages = np.where(seen, np.float32(x % 3), np.float32(np.nan))
    still = Forecast(ages[None, None, None, ..., None], labels[None, None], ages[None, None], ("mean",))
    moved = advance(still, [uniform(1.4, -0.7)])
    known = np.isfinite(moved.values[0, 0, 0, ..., 0])
    assert 2500 < known.sum() < 3200
    np.testing.assert_array_equal(moved.source[0, 0] == Source.NETWORK, known)
    np.testing.assert_array_equal(np.isfinite(moved.age[0, 0]), known)


def test_a_pixel_known_in_one_band_keeps_its_source() -> None:
    forecast = Advected(Counting(), SPEC).predict(context(bands=2), 1)
    assert np.isnan(forecast.values[0, 0, 0, 40, 30, 0])
    assert forecast.source[0, 0, 40, 30] == Source.NETWORK


def test_with_method_none_a_wrapped_predictor_says_what_it_says_alone() -> None:
    given = context()
    wrapped = extrapolation(MotionSpec(method="none")).predict(given, 2)
    np.testing.assert_array_equal(wrapped.values, Persistence().predict(given, 2).values)
