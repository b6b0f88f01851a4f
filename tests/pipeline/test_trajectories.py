from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.motion import Motion, displacement, displacements
from pipeline.trajectories import Trajectories

SHAPE = (60, 84)


def swirl(shape: tuple[int, int], speed: float = 2.0) -> Motion:
    """A flow that turns around the middle of the frame."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = np.stack([0.5 - (y + 0.5) / shape[0], (x + 0.5) / shape[1] - 0.5], axis=-1)
    return Motion((speed * angle).astype(np.float32))


def test_ways_are_those_of_the_flow_to_a_512th_of_a_pixel() -> None:
    whole = Trajectories.of(swirl(SHAPE))
    for slots in (1, 2.5, -3):
        np.testing.assert_allclose(whole.at(slots), displacement(swirl(SHAPE), slots), atol=1 / 500)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_window_sees_the_very_ways_of_the_whole_frame(step: int) -> None:
    coarse = (-(-SHAPE[0] // step), -(-SHAPE[1] // step))
    whole = Trajectories(swirl(coarse), SHAPE, Window(0, SHAPE[0], 0, SHAPE[1]), step)
    window = Window(13, 40, 31, 84)
    np.testing.assert_array_equal(whole.within(window).at(3), whole.at(3)[window.slices])
    assert whole.at(3).shape == (*SHAPE, 2)


def test_what_is_added_to_a_pixel_is_exact_wherever_a_window_begins() -> None:
    way = Trajectories.of(swirl(SHAPE)).at(5)
    here = np.arange(SHAPE[1], dtype=np.float32) + way[..., 0]
    far = np.arange(20_000, 20_000 + SHAPE[1], dtype=np.float32) + way[..., 0]
    np.testing.assert_array_equal(far - 20_000, here)


def test_a_coarse_flow_is_followed_in_pixels_of_the_frame() -> None:
    """A smooth flow on a grid three times as coarse gives nearly the ways of the fine one."""
    fine, coarse = swirl((60, 84), 2.0), swirl((20, 28), 2.0 / 3)
    said = Trajectories(coarse, (60, 84), Window(0, 60, 0, 84), 3).at(4)
    assert float(np.abs(said - displacement(fine, 4))[6:-6, 6:-6].max()) < 0.05


def test_the_reach_bounds_every_way_and_is_nothing_where_nothing_moves() -> None:
    ways: list[NDArray[np.float32]] = list(displacements(swirl(SHAPE), (3, -6)))
    moving, still = Trajectories.of(swirl(SHAPE)), Trajectories.of(Motion.still(SHAPE))
    for one in (moving, still):
        one.follow((3, -6))
    assert moving.longest((3, -6)) > max(float(np.abs(way).max()) for way in ways)
    assert moving.longest((3,)) < moving.longest((-6,))
    assert still.longest((3, -6)) == 0


def test_a_flow_of_another_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="in steps of 2"):
        Trajectories(swirl(SHAPE), SHAPE, Window(0, 1, 0, 1), 2)
