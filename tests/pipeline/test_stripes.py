from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.cube import Cube
from pipeline.grid import Window
from pipeline.samples import SplitMode, split
from pipeline.specs import SampleSpec
from pipeline.stripes import Ground, at_the_end, representative, survey

DISC = np.hypot(*np.mgrid[-50:50, -60:60]) < 40
FIFTH = 0.2


def busy(known: NDArray, change: NDArray) -> Ground:
    return Ground(np.asarray(known, np.float64), np.asarray(change, np.float64))


def inside(ground: Ground, area: Window) -> float:
    return float(ground.known[area.slices].sum() / ground.known.sum())


def test_the_stripe_of_a_disc_in_an_empty_frame_holds_its_share_of_the_disc() -> None:
    ground = busy(DISC, DISC)
    training, stripe = representative(ground, FIFTH, buffer=5)
    assert 0.2 <= inside(ground, stripe) < 0.23
    assert inside(ground, at_the_end(DISC.shape, FIFTH, 5)[1]) < 0.05  # the default saw next to nothing
    assert inside(ground, training) > 0.65


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_the_stripe_lies_where_as_much_happens_as_elsewhere(side: str) -> None:
    change = np.zeros((80, 100))
    first, last = slice(0, 20), slice(-20, None)
    change[:] = 3  # no other side is like the whole: it lacks the middle, where nothing happens
    change[20:60, 20:80] = 0
    wanted = {"top": (first, slice(None)), "bottom": (last, slice(None))}
    wanted |= {"left": (slice(None), first), "right": (slice(None), last)}
    change[wanted[side]] = change.mean()
    _, stripe = representative(busy(np.ones_like(change), change), FIFTH, buffer=5)
    starts = {"top": stripe.y1 < 40, "bottom": stripe.y0 > 40, "left": stripe.x1 < 50, "right": stripe.x0 > 50}
    assert [name for name, there in starts.items() if there] == [side]


def test_a_grid_of_one_row_is_divided_along_it() -> None:
    training, stripe = representative(busy(np.ones((1, 50)), np.ones((1, 50))), FIFTH, buffer=5)
    assert training.shape[0] == stripe.shape[0] == 1
    assert 0 < stripe.shape[1] < 20 < training.shape[1]


def test_without_anything_that_changes_it_is_at_the_end_of_the_longer_side() -> None:
    expected = at_the_end((40, 90), FIFTH, 10)
    assert representative(busy(np.ones((40, 90)), np.zeros((40, 90))), FIFTH, 10) == expected
    assert representative(busy(np.zeros((40, 90)), np.zeros((40, 90))), FIFTH, 10) == expected


@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.05, 0.85), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_training_area_and_stripe_lie_apart_inside_the_grid(
    height: int, width: int, fraction: float, buffer: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    known = random.integers(0, 3, (height, width)) * (random.random((height, width)) < random.random())
    ground = busy(known, known * random.random((height, width)))
    training, stripe = representative(ground, fraction, buffer)
    whole = Window(0, height, 0, width)
    assert training.intersection(whole) == training
    assert stripe.intersection(whole) == stripe
    assert min(*training.shape, *stripe.shape) > 0
    rows = max(stripe.y0 - training.y1, training.y0 - stripe.y1)
    columns = max(stripe.x0 - training.x1, training.x0 - stripe.x1)
    assert max(rows, columns) >= 0


@dataclass
class Series:
    """Frames of two bands that stand for a cube."""

    values: NDArray[np.float32]

    @property
    def layout(self) -> Any:
        return SimpleNamespace(grid=SimpleNamespace(shape=self.values.shape[1:3]))

    def read(self, slots: tuple[int, ...]) -> Any:
        values = self.values[list(slots)]
        return SimpleNamespace(values=np.nan_to_num(values), validity=np.isfinite(values))


def test_what_happens_is_counted_over_known_pixels_and_bands_weigh_alike() -> None:
    values = np.zeros((3, 4, 5, 2), np.float32)
    values[1::2, :, :2] = [1, 1000]  # left columns flicker, in units of their own
    values[:, 0] = np.nan
    ground = survey(cast("Cube", Series(values)), [0, 1, 2], bands=(0, 1))
    assert np.array_equal(ground.known[:, 0], [0, 4, 4, 4])  # two pairs of two bands
    alone = survey(cast("Cube", Series(values)), [0, 1, 2], bands=(0,))
    assert np.allclose(ground.change, 2 * alone.change)
    assert ground.change[1, 0] > 0
    assert not ground.change[:, 2:].any()
    assert not ground.change[0].any()


def test_only_what_training_may_see_is_looked_at() -> None:
    asked: list[int] = []

    def look(slots: Any) -> Ground:
        asked.extend(slots)
        return busy(np.ones((60, 60)), np.ones((60, 60)))

    spec = SampleSpec(context_frames=2, max_age=3, horizon=2)
    parts = split(np.arange(12), spec, (60, 60), 4, survey=look)
    assert parts.mode is SplitMode.BLOCKS
    assert asked == sorted(asked)
    assert max(asked) < min(slot for one in parts.test for slot in one.targets)
