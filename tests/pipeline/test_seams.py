from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.pieces import Piece, plan
from pipeline.predictor import Forecast
from pipeline.seams import across, certify, step
from pipeline.tiling import cut

SHAPE = (200, 260)
PIECES = plan(SHAPE, 96, 8)


def forecast(seed: int = 0, leads: int = 2) -> Forecast:
    """Soft fields in two quantities."""
    noise = np.random.default_rng(seed).normal(size=(leads * 2, *SHAPE))
    fields = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in noise]).astype(np.float32)
    values = fields.reshape(1, leads, 2, *SHAPE, 1)
    shape = (1, leads, *SHAPE)
    return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), ("mean", "q50"))


def broken(said: Forecast, piece: Piece, shift: float) -> Forecast:
    """One piece lies higher than the others."""
    values: NDArray[np.float32] = said.values.copy()
    values[:, :, :, *piece.window.slices] += np.float32(shift)
    return Forecast(values, said.source, said.age, said.quantities)


def test_a_forecast_without_seams_is_certified() -> None:
    said = forecast()
    found = certify(said, PIECES, lambda window: cut(said, window))
    assert found.difference == 0
    assert 0.9 < found.step < 1.05
    assert found.checks() == {"pieces": 9, "seam_difference": 0.0, "seamless": True, "seam_step": found.step}


@pytest.mark.parametrize("shift", [0.01, -0.3])
def test_a_piece_that_lies_higher_than_its_neighbours_is_seen(shift: float) -> None:
    said = forecast()
    found = certify(broken(said, PIECES[4], shift), PIECES, lambda window: cut(said, window))
    assert found.difference > 1e-3
    assert found.checks()["seamless"] is False


def test_steps_along_the_lines_are_seen_without_making_anything_again() -> None:
    """A blend that leaves a tenth of the spread between pieces, in one quantity and at one lead."""
    said, windows = forecast(), [piece.window for piece in PIECES]
    lifted = broken(said, PIECES[4], 0.1 * float(said.values.std()))
    assert step(said, windows) < 1.05 < step(lifted, windows)


def test_what_is_known_only_in_pieces_is_a_difference() -> None:
    said = forecast()
    holed = Forecast(said.values.copy(), said.source, said.age, said.quantities)
    holed.values[0, 0, 0, 96, 96] = np.nan
    assert certify(holed, PIECES, lambda window: cut(said, window)).difference == np.inf


def test_one_piece_has_no_seams_and_constant_fields_no_steps() -> None:
    said = forecast()
    whole = plan(SHAPE, 512, 8)
    assert certify(said, whole, lambda window: cut(said, window)).checks() == {"pieces": 1}
    flat = Forecast(np.full_like(said.values, 3), said.source, said.age, said.quantities)
    found = certify(flat, PIECES, lambda window: cut(flat, window))
    assert found.checks() == {"pieces": 9, "seam_difference": 0.0, "seamless": True}


def test_windows_that_are_made_again_lie_across_lines() -> None:
    for windows in ([one.window for one in PIECES], [Window(0, 50, 0, 90), Window(0, 50, 90, 200)]):
        for found in across(windows):
            assert sum(one.intersection(found) is not None for one in windows) in {2, 4}
