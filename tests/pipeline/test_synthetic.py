from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import synthetic
from pipeline.synthetic import SyntheticSequence, SyntheticSpec

SMALL = SyntheticSpec(height=64, width=80, frames=12)
EDGE = 24  # px; what enters from outside within three slots is not in the frame that is carried


@pytest.fixture(scope="module")
def sequence() -> SyntheticSequence:
    return synthetic.synthesise(SyntheticSpec())


def carried(sequence: SyntheticSequence, field: NDArray[np.float32], slot: int, lead: int) -> NDArray[np.float32]:
    for step in range(slot, slot + lead):
        field = synthetic.carry(field, sequence.flow[step])
    return field


def inner_error(a: NDArray[np.float32], b: NDArray[np.float32], edge: int = EDGE) -> float:
    return float(np.abs(a - b)[edge:-edge, edge:-edge].mean())


def headings(sequence: SyntheticSequence) -> NDArray[np.float32]:
    mean = sequence.flow.mean(axis=(1, 2))
    return np.degrees(np.arctan2(mean[:, 1], mean[:, 0]))


def test_the_same_spec_gives_the_same_bytes() -> None:
    one, two = synthetic.synthesise(SMALL), synthetic.synthesise(SMALL)
    for part in ("values", "validity", "flow", "cloud", "ground", "brightness"):
        assert getattr(one, part).tobytes() == getattr(two, part).tobytes()


def test_another_seed_gives_another_sky_and_another_ground() -> None:
    one, two = synthetic.synthesise(SMALL), synthetic.synthesise(replace(SMALL, seed=1))
    assert np.abs(one.cloud - two.cloud).mean() > 0.05
    assert np.abs(one.ground - two.ground).mean() > 0.01


def test_the_number_of_gaps_leaves_the_values_alone() -> None:
    one, two = synthetic.synthesise(replace(SMALL, gaps=0.0)), synthetic.synthesise(replace(SMALL, gaps=3.0))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.validity.all()
    assert 0.5 < two.validity.mean() < 1


def test_arrays_are_what_they_are_said_to_be(sequence: SyntheticSequence) -> None:
    assert sequence.values.shape == sequence.validity.shape == sequence.cloud.shape == (60, 192, 192)
    assert sequence.flow.shape == (60, 192, 192, 2)
    floats = (sequence.values, sequence.flow, sequence.cloud, sequence.ground, sequence.brightness)
    assert {part.dtype for part in floats} == {np.dtype(np.float32)}
    assert 0 <= sequence.values.min() < 0.1
    assert 0.8 < sequence.values.max() <= 1


def test_under_a_clear_sky_the_ground_stands_still() -> None:
    sequence = synthetic.synthesise(replace(SMALL, noise=0.0))
    seen = sequence.values / sequence.brightness[:, None, None]
    clear = sequence.cloud == 0
    assert 0.2 < clear.mean() < 0.8
    np.testing.assert_allclose(seen[clear], np.broadcast_to(sequence.ground, seen.shape)[clear], rtol=1e-5)


def test_the_ground_has_texture_that_clouds_uncover(sequence: SyntheticSequence) -> None:
    assert sequence.ground.std() > 0.03
    assert (sequence.cloud == 0).any(axis=0).mean() > 0.99
    assert (sequence.cloud > 0.3).any(axis=0).mean() > 0.9


@pytest.mark.parametrize("cover", [0.2, 0.5, 0.8])
def test_cover_is_the_cloudy_part_of_the_sky(cover: float) -> None:
    sequence = synthetic.synthesise(SyntheticSpec(height=160, width=160, frames=8, cover=cover))
    assert (sequence.cloud > 0).mean() == pytest.approx(cover, abs=0.12)


def test_clouds_have_all_sizes_and_are_no_white_noise(sequence: SyntheticSequence) -> None:
    spectrum = np.abs(np.fft.fft2(sequence.cloud[::10] - sequence.cloud[::10].mean())) ** 2
    wave = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192))
    bands = [spectrum[:, (wave > 1 / length) & (wave <= 2 / length)].mean() for length in (64, 32, 16, 8, 4)]
    assert all(1.5 < coarse / fine < 30 for coarse, fine in pairwise(bands))


@pytest.mark.parametrize(("lead", "part"), [(1, 0.5), (2, 0.6), (3, 0.65)])
def test_the_true_motion_explains_most_of_the_change(sequence: SyntheticSequence, lead: int, part: float) -> None:
    for slot in range(0, 54, 9):
        truth = sequence.values[slot + lead]
        moved = inner_error(carried(sequence, sequence.values[slot], slot, lead), truth)
        assert moved < part * inner_error(sequence.values[slot], truth)


def test_the_true_motion_does_not_explain_everything(sequence: SyntheticSequence) -> None:
    lead, edge = 6, 40
    for slot in range(0, 54, 9):
        truth = sequence.cloud[slot + lead]
        moved = inner_error(carried(sequence, sequence.cloud[slot], slot, lead), truth, edge)
        still = inner_error(sequence.cloud[slot], truth, edge)
        assert 0.25 * still < moved < 0.75 * still


def test_flow_points_the_way_things_go() -> None:
    field = np.zeros((40, 50), np.float32)
    field[10:13, 20:23] = 1
    moved = synthetic.carry(field, np.full((40, 50, 2), (5, -3), np.float32))
    np.testing.assert_allclose(moved, np.roll(field, (-3, 5), (0, 1)), atol=1e-6)


def test_flow_changes_in_space_and_time(sequence: SyntheticSequence) -> None:
    assert sequence.flow.std(axis=(1, 2)).min() > 0.3
    assert np.abs(np.diff(sequence.flow, axis=0)).mean() > 0.01
    assert np.abs(np.diff(sequence.flow, axis=1)).max() < 0.2  # smooth: no pixel overtakes its neighbour


@pytest.mark.parametrize("shape", [(192, 192), (96, 240)])
def test_flow_squeezes_no_cloud(shape: tuple[int, int]) -> None:
    flow = synthetic.synthesise(SyntheticSpec(*shape, frames=3)).flow
    divergence = np.gradient(flow[..., 0], axis=2) + np.gradient(flow[..., 1], axis=1)
    rotation = np.gradient(flow[..., 1], axis=2) - np.gradient(flow[..., 0], axis=1)
    assert np.abs(divergence)[:, 1:-1, 1:-1].max() < 1e-3
    assert np.abs(rotation).max() > 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_last_third_moves_as_nothing_before(seed: int) -> None:
    sequence = synthetic.synthesise(SyntheticSpec(height=96, width=96, frames=48, seed=seed))
    before, after = headings(sequence)[:32], headings(sequence)[32:]
    assert after.mean() > before.max() + 30
    assert after[6:].min() > before.max() + 45
    speeds = np.hypot(*sequence.flow.mean(axis=(1, 2)).T)
    assert speeds[38:].mean() > speeds[:32].mean() + 0.5


def test_the_sun_rises_and_the_frames_with_it(sequence: SyntheticSequence) -> None:
    assert (np.diff(sequence.brightness) > 0).all()
    thirds = sequence.values.reshape(3, -1).mean(axis=1)
    assert thirds[0] * 1.2 < thirds[1] < thirds[2]


def test_the_night_is_dark_and_the_next_morning_is_as_this_one() -> None:
    spec = SyntheticSpec(height=16, width=16, frames=30, cadence=timedelta(hours=1))
    brightness = synthetic.synthesise(spec).brightness
    assert brightness.min() == pytest.approx(spec.night)
    np.testing.assert_allclose(brightness[24:], brightness[:6])


def test_sensor_gaps_are_few_and_somewhere_else_each_time(sequence: SyntheticSequence) -> None:
    assert 0.97 < sequence.validity.mean() < 1
    assert len({frame.tobytes() for frame in sequence.validity if not frame.all()}) > 10


def test_the_grid_is_north_up_and_off_the_origin() -> None:
    transform = SMALL.grid.transform
    assert (transform.a, transform.e, transform.b, transform.d) == (1000, -1000, 0, 0)
    assert min(abs(transform.c), abs(transform.f)) > 1e5
    assert SMALL.grid.shape == (64, 80)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"height": 8}, "16 x 16"),
        ({"frames": 2}, "3 frames"),
        ({"cadence": timedelta(seconds=90)}, "whole minutes"),
        ({"cover": 1.0}, "cover lies between"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(SMALL, **change)  # pyright: ignore[reportArgumentType] - each case breaks one field
