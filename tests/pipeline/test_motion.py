from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConfigError
from pipeline.grid import geobox
from pipeline.motion import Motion, advect, displacement, displacements, estimate, warp, warp_nearest
from pipeline.specs import MotionSpec

SHAPE = (96, 128)
SPEC = MotionSpec()


def single(values: ArrayLike) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def texture(dx: float = 0.0, dy: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """Waves of 12 to 60 px, all moved by (dx, dy): known between the pixels too."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
    waves = zip(*(rng.uniform(*span, 24) for span in ((12, 60), (0, 2 * np.pi), (0, 2 * np.pi))), strict=True)
    field = sum(
        np.sin(2 * np.pi / long * (np.cos(way) * (x - dx) + np.sin(way) * (y - dy)) + at) for long, way, at in waves
    )
    return np.asarray(field, np.float32)


def frames_moving(dx: float, dy: float, ages: Iterable[float]) -> NDArray[np.float32]:
    return np.stack([texture(-age * dx, -age * dy) for age in ages])


def uniform(dx: float, dy: float, shape: tuple[int, int] = SHAPE) -> Motion:
    return Motion(np.broadcast_to(single([dx, dy]), (*shape, 2)).copy())


def vortex() -> Motion:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    return Motion(np.float32(0.05) * np.dstack([SHAPE[0] / 2 - y, x - SHAPE[1] / 2]).astype(np.float32))


def known(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isfinite(values)


@pytest.mark.parametrize("ages", [(3, 2, 1, 0), (7, 3.5, 1, 0), (2, 0), (1, -0.25)])
def test_a_known_shift_is_recovered_whatever_the_gaps_between_frames(ages: tuple[float, ...]) -> None:
    dx, dy = 1.3, -0.7
    values = frames_moving(dx, dy, ages)
    flow = estimate(values, known(values), single(ages), SPEC).flow
    inside = flow[12:-12, 12:-12]
    assert np.abs(inside.mean(axis=(0, 1)) - [dx, dy]).max() < 0.05
    assert np.abs(inside - [dx, dy]).mean() < 0.1


def test_frames_in_any_order_give_the_same_motion() -> None:
    ages = single([3, 2, 1, 0])
    values = frames_moving(1.3, -0.7, ages)
    turned = estimate(values[::-1], known(values), ages[::-1], SPEC)
    np.testing.assert_array_equal(turned.flow, estimate(values, known(values), ages, SPEC).flow)


def test_the_unit_of_the_values_does_not_matter() -> None:
    ages = single([2, 1, 0])
    values = frames_moving(2, 1, ages)
    other = estimate(values * 1e4 - 3e5, known(values), ages, SPEC)
    assert np.abs(other.flow - estimate(values, known(values), ages, SPEC).flow).max() < 0.2


def test_holes_do_not_matter() -> None:
    ages = single([3, 2, 1, 0])
    values = frames_moving(1.5, 1, ages)
    rng = np.random.default_rng(1)
    for frame in values:  # moving gaps beside a stripe that is never seen
        for y, x in rng.integers(0, 80, (4, 2)):
            frame[y : y + 14, x : x + 14] = np.nan
    values[:, :, 60:68] = np.nan
    flow = estimate(values, known(values), ages, SPEC).flow
    assert np.isfinite(flow).all()
    assert np.abs(flow[12:-12, 12:-12] - [1.5, 1]).mean() < 0.2


def test_flagged_values_are_not_followed() -> None:
    ages = single([2, 1, 0])
    values = frames_moving(1, 1, ages)
    validity = known(values)
    stuck = values.copy()
    stuck[:, 40:60, 40:60] = 500
    validity[:, 40:60, 40:60] = False
    unknown = np.where(validity, values, np.float32(np.nan))
    np.testing.assert_array_equal(
        estimate(stuck, validity, ages, SPEC).flow, estimate(unknown, validity, ages, SPEC).flow
    )


def test_a_frame_that_is_nearly_empty_is_left_out() -> None:
    ages = single([2, 1, 0])
    values = frames_moving(1.5, 1, ages)
    values[1, 4:] = np.nan
    expected = estimate(values[[0, 2]], known(values[[0, 2]]), ages[[0, 2]], SPEC)
    np.testing.assert_array_equal(estimate(values, known(values), ages, SPEC).flow, expected.flow)


def test_two_frames_minutes_apart_make_no_storm() -> None:
    values = np.stack([texture(0), texture(2), texture(2.5)])
    flow = estimate(values, known(values), single([1, 0.001, 0]), SPEC).flow
    assert np.hypot(*flow[12:-12, 12:-12].mean(axis=(0, 1))) < 3


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((3, *SHAPE), np.float32),
        np.full((3, *SHAPE), np.nan, np.float32),
        texture()[None],
        np.stack([texture(), np.full(SHAPE, np.nan, np.float32)]),
        np.zeros((0, *SHAPE), np.float32),
    ],
    ids=["constant", "all missing", "one frame", "one usable frame", "no frame"],
)
def test_nothing_moves_where_nothing_can_be_followed(values: NDArray[np.float32]) -> None:
    ages = np.arange(len(values), dtype=np.float32)[::-1]
    assert not estimate(values, known(values), ages, SPEC).flow.any()


def test_method_none_means_that_nothing_moves() -> None:
    values = frames_moving(2, 2, (1, 0))
    assert not estimate(values, known(values), single([1, 0]), MotionSpec(method="none")).flow.any()


@pytest.mark.parametrize(
    ("crs", "side", "cadence", "limit"),
    [
        ("EPSG:32633", 1000, 5, 30),  # 100 m/s
        ("EPSG:32633", 5000, 5, 8),  # at least 8 pixels
        ("EPSG:32633", 1000, 60, 50),  # at most a quarter of the shorter side
        ("EPSG:4326", 0.01, 2, 12.8),  # at 45 north 1112 x 786 m, 935 m a side
    ],
)
def test_the_speed_limit_follows_pixel_size_and_cadence(crs: str, side: float, cadence: int, limit: float) -> None:
    north = 46 if crs == "EPSG:4326" else 5e6
    grid = geobox(crs, (side, 0, 0, 0, -side, north), (200, 300))
    assert SPEC.limited(grid, timedelta(minutes=cadence)).max_speed == pytest.approx(limit, rel=0.01)


def test_a_speed_limit_that_was_said_stays_and_a_product_that_stands_still_has_none() -> None:
    grid = geobox("EPSG:32633", (1000, 0, 0, 0, -1000, 5e6), (200, 300))
    for spec in (MotionSpec(max_speed=12), MotionSpec(method="none")):
        assert spec.limited(grid, timedelta(minutes=5)) == spec


def test_where_the_pixels_are_not_known_nothing_moves_by_more_than_a_quarter_of_the_frame() -> None:
    values = np.random.default_rng(0).normal(size=(2, 96, 96)).astype(np.float32)
    flow = estimate(values, known(values), single([1, 0]), MotionSpec(smoothing=0)).flow
    assert np.hypot(flow[..., 0], flow[..., 1]).max() <= 24 * (1 + 1e-6)


def test_no_motion_is_faster_than_believed() -> None:
    values = frames_moving(4, 3, (2, 1, 0))
    flow = estimate(values, known(values), single([2, 1, 0]), MotionSpec(max_speed=2)).flow
    speed = np.hypot(flow[..., 0], flow[..., 1])
    assert speed.max() <= 2 * (1 + 1e-5)
    assert speed[20:-20, 20:-20].mean() > 1.9


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (12, 200), (200, 9)])
def test_small_and_narrow_frames_have_a_motion(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    assert np.isfinite(estimate(values, known(values), single([1, 0]), SPEC).flow).all()


def test_a_wider_blur_gives_a_smoother_flow() -> None:
    values = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    rough, soft = (
        estimate(values, known(values), single([1, 0]), MotionSpec(smoothing=part)).flow for part in (0, 0.2)
    )
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(rough, axis=1)).mean()


def test_a_flow_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite everywhere"):
        Motion(np.full((4, 4, 2), np.nan, np.float32))


def test_whole_pixels_are_moved_exactly() -> None:
    field = texture()
    values, validity = advect(field, known(field), uniform(3, -2), 1)
    np.testing.assert_array_equal(values[:-2, 3:], field[2:, :-3])
    assert validity[:-2, 3:].all()


def test_what_flows_in_is_unknown() -> None:
    field = texture()
    values, validity = advect(field, known(field), uniform(3, -2), 2)
    assert not validity[:, :6].any()
    assert not validity[-4:].any()
    assert validity[:-4, 6:].all()
    np.testing.assert_array_equal(validity, np.isfinite(values))


def test_no_motion_changes_nothing() -> None:
    field = texture()
    field[5:9, 7:20] = np.nan
    values, validity = advect(field, known(field), Motion.still(SHAPE), 5)
    np.testing.assert_array_equal(values, field)
    np.testing.assert_array_equal(validity, known(field))


@pytest.mark.parametrize("slots", [1, 3, 0.4, -2])
def test_there_and_back_is_the_identity_inside(slots: float) -> None:
    field, motion = texture(), vortex()
    there = advect(field, known(field), motion, slots)
    back, validity = advect(*there, motion, -slots)
    inside = (slice(20, -20), slice(36, -36))
    assert validity[inside].all()
    assert np.abs(back - field)[inside].mean() < 0.05 * field.std()


def test_a_vortex_turns_by_its_angle() -> None:
    travelled = displacement(vortex(), 8)
    angle = -0.05 * 8  # x runs right and y down: back against a turn from x to y
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for y, x in ((48, 84), (30, 64), (60, 50)):
        from_centre = np.array([y - 48, x - 64]) @ turn
        source = np.array([y, x]) - travelled[y, x, ::-1]
        assert np.abs(source - from_centre - [48, 64]).max() < 0.01


def test_displacements_on_the_way_equal_those_from_the_start() -> None:
    motion, leads = vortex(), (1, 2, 3, -1, -2)
    for lead, travelled in zip(leads, displacements(motion, leads), strict=True):
        np.testing.assert_allclose(travelled, displacement(motion, lead), atol=1e-4)


def test_a_fraction_of_a_slot_moves_by_a_fraction() -> None:
    np.testing.assert_allclose(displacement(uniform(3, -2), 0.25), uniform(0.75, -0.5).flow, atol=1e-6)


def test_a_missing_pixel_spoils_only_those_that_it_outweighs() -> None:
    field = np.ones(SHAPE, np.float32)
    field[50, 50] = np.nan
    values, validity = advect(field, known(field), uniform(0.3, 0), 1)
    assert np.argwhere(~validity[:, 1:]).tolist() == [[50, 49]]
    np.testing.assert_allclose(values[validity], 1)


def test_every_band_moves_as_it_would_alone() -> None:
    bands = np.dstack([texture(seed=seed) for seed in range(6)])
    bands[10:20, 10:20, 3] = np.nan
    travelled = displacement(vortex(), 2)
    values, validity = warp(bands, known(bands), travelled)
    for band in range(6):
        alone = warp(bands[..., band], known(bands[..., band]), travelled)
        np.testing.assert_array_equal(values[..., band], alone[0])
        np.testing.assert_array_equal(validity[..., band], alone[1])


def test_labels_move_without_being_mixed() -> None:
    labels = np.random.default_rng(0).integers(1, 4, SHAPE).astype(np.uint8)
    moved = warp_nearest(labels, uniform(2.3, 0).flow, outside=0)
    np.testing.assert_array_equal(moved[:, 3:], labels[:, 1:-2])
    assert not moved[:, :1].any()


def test_a_frame_too_wide_for_the_remap_says_what_to_do() -> None:
    wide = np.zeros((1, 40_000), np.float32)
    with pytest.raises(ConfigError, match="divide the product"):
        advect(wide, known(wide), uniform(1, 0, wide.shape), 1)
