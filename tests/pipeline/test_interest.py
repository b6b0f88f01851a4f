from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.chips import Chips
from pipeline.grid import Window
from pipeline.interest import CELL, UNIFORM, Interest, Kind, measure_interest

HEIGHT, WIDTH = 96, 160
WHOLE = Window(0, HEIGHT, 0, WIDTH)
SIZE = (32, 32)
KINDS: tuple[Kind, ...] = ("texture", "change", "activity")


def sample(frame: NDArray[np.floating], target: NDArray[np.floating] | None = None) -> Chips:
    """One band; the older frame is noise, which must not matter."""
    noise = np.random.default_rng(0).normal(size=frame.shape) * 100
    frames = np.stack([noise, frame])[np.newaxis, ..., np.newaxis].astype(np.float32)
    coming = np.stack([frame if target is None else target] * 2)[np.newaxis, ..., np.newaxis].astype(np.float32)
    return Chips(frames, np.array([[1, 0]], np.float32), coming)


def dull() -> NDArray[np.float64]:
    return np.full((HEIGHT, WIDTH), -1.0)


def spot() -> NDArray[np.float64]:
    """Noise above the average in one corner, on a plain below it."""
    field = dull()
    field[:32, 128:] = np.random.default_rng(1).uniform(1, 3, (32, 32))
    return field


def measured(kind: Kind, *samples: Chips, area: Window = WHOLE, size: tuple[int, int] = SIZE) -> Interest:
    return measure_interest(samples, area, size, kind, bands=(0,))


def interesting(kind: Kind) -> Chips:
    return sample(dull(), spot()) if kind == "change" else sample(spot())


@pytest.mark.parametrize("kind", KINDS)
def test_chips_are_drawn_more_often_where_there_is_something_to_see(kind: Kind) -> None:
    chances = measured(kind, sample(dull()), interesting(kind)).chances
    assert chances.sum() == pytest.approx(1)
    best = np.unravel_index(chances.argmax(), chances.shape)
    assert tuple(map(int, best)) == (1, 0, 7)  # half a chip and more beside the spot, where many corners see it
    assert chances[0].max() < 0.05 * chances.max()
    assert chances[1].sum() == pytest.approx(1 - UNIFORM / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_draws_go_anywhere(kind: Kind) -> None:
    interest = measured(kind, sample(dull()), interesting(kind))
    corners = np.outer(*(np.minimum(CELL, room - np.arange(0, room, CELL)) for room in interest.room))
    least = UNIFORM * np.stack([corners, corners]) / (2 * corners.sum())
    assert (interest.chances >= least - 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_of_interest_every_corner_is_as_likely(kind: Kind) -> None:
    interest = measured(kind, sample(dull()), size=(33, 40))
    corners = np.outer(*(np.minimum(CELL, room - np.arange(0, room, CELL)) for room in interest.room))
    np.testing.assert_allclose(interest.chances[0], corners / corners.sum(), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_of_no_interest_and_spoils_none(kind: Kind) -> None:
    holed, nothing = interesting(kind), sample(np.full((HEIGHT, WIDTH), np.nan))
    frames, targets = holed.frames.copy(), holed.targets.copy()
    frames[0, -1, 60:, :40] = targets[0, :, 60:, :40] = np.nan
    chances = measured(kind, nothing, Chips(frames, holed.ages, targets)).chances
    np.testing.assert_allclose(chances, measured(kind, sample(dull()), holed).chances, rtol=0.02)


def test_only_the_area_counts() -> None:
    area = Window(0, HEIGHT, 0, 112)
    chances = measured("texture", sample(spot()), area=area).chances
    np.testing.assert_allclose(chances, measured("texture", sample(dull()), area=area).chances)


def test_change_is_that_of_the_forecast_bands() -> None:
    still, moving = sample(dull()), sample(dull(), spot())
    frames = np.concatenate([100 + still.frames, still.frames], axis=-1)
    two = Chips(frames, still.ages, moving.targets)
    chances = measure_interest([two], WHOLE, SIZE, "change", bands=(1,)).chances
    np.testing.assert_allclose(chances, measured("change", moving).chances)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 56), st.integers(1, 100), st.integers(0, 99))
def test_a_drawn_chip_lies_in_the_area(y0: int, x0: int, height: int, width: int, seed: int) -> None:
    area = Window(y0, HEIGHT, x0, WIDTH)
    size = (min(height, area.shape[0]), min(width, area.shape[1]))
    interest = measured("texture", sample(spot()), sample(spot()), area=area, size=size)
    random = np.random.default_rng(seed)
    for one, y, x in (interest.draw(random) for _ in range(20)):
        assert one in {0, 1}
        assert 0 <= y <= area.shape[0] - size[0]
        assert 0 <= x <= area.shape[1] - size[1]


def test_draws_are_as_often_as_their_chances() -> None:
    interest = measured("texture", sample(dull()), sample(spot()))
    random = np.random.default_rng(0)
    drawn = Counter((one, y // CELL, x // CELL) for one, y, x in (interest.draw(random) for _ in range(20_000)))
    for corner, chance in np.ndenumerate(interest.chances):
        assert drawn[corner] / 20_000 == pytest.approx(chance, abs=0.012)
