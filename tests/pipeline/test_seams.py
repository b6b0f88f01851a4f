from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.pieces import Piece, plan
from pipeline.predictor import Forecast
from pipeline.seams import Certificate, Witness, across, certify, step
from pipeline.tiling import Assembly, cut

SHAPE = (200, 260)
PIECES = plan(SHAPE, 96, 8)
LEADS = 2


def forecast(seed: int = 0) -> Forecast:
    """Soft fields in two quantities."""
    noise = np.random.default_rng(seed).normal(size=(LEADS * 2, *SHAPE))
    fields = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in noise]).astype(np.float32)
    return of(fields.reshape(1, LEADS, 2, *SHAPE, 1))


def of(values: NDArray[np.float32]) -> Forecast:
    shape = (1, LEADS, *SHAPE)
    return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), ("mean", "q50"))


def broken(said: Forecast, piece: Piece, shift: float) -> Forecast:
    """One piece lies higher than the others."""
    values = said.values.copy()
    values[:, :, :, *piece.window.slices] += np.float32(shift)
    return of(values)


def certified(
    said: Forecast, pieces: list[Piece] = PIECES, again: Callable[[Window], Forecast] | None = None
) -> Certificate:
    """As if ``said`` had been put together from pieces; made in one go it is itself, unless another one is given."""
    canvas, windows = Assembly(SHAPE), [piece.window for piece in pieces]
    witness = Witness(windows)
    for piece in pieces:
        for one in (canvas, witness):
            one.put(cut(said, piece.outer), piece.window, piece.outer)
    return certify(canvas, windows, LEADS, witness, again or (lambda window: cut(said, window)))


def layers(said: Forecast) -> Callable[[int, Window], NDArray[np.float32]]:
    canvas = Assembly(SHAPE)
    whole = Window(0, SHAPE[0], 0, SHAPE[1])
    canvas.put(said, whole, whole)
    return canvas.layers


def test_a_forecast_without_seams_is_certified() -> None:
    found = certified(forecast())
    assert found.difference == 0
    assert 0.9 < found.step < 1.05
    assert found.checks() == {"pieces": 9, "seam_difference": 0.0, "seamless": True, "seam_step": found.step}


@pytest.mark.parametrize("shift", [0.01, -0.3])
def test_a_piece_that_lies_higher_than_its_neighbours_is_seen(shift: float) -> None:
    said = forecast()
    found = certified(broken(said, PIECES[4], shift), again=lambda window: cut(said, window))
    assert found.difference > 1e-3
    assert found.checks()["seamless"] is False


def test_steps_along_the_lines_are_seen_without_making_anything_again() -> None:
    """A blend that leaves a tenth of the spread between pieces, in one quantity and at one lead."""
    said, windows = forecast(), [piece.window for piece in PIECES]
    lifted = broken(said, PIECES[4], 0.1 * float(said.values.std()))
    assert step(layers(said), windows, LEADS) < 1.05 < step(layers(lifted), windows, LEADS)


def test_a_step_that_windows_of_the_witness_do_not_meet_is_refused_all_the_same() -> None:
    said = forecast()
    lifted = said.values.copy()
    lifted[..., 96:, 150:190, :] += np.float32(2 * said.values.std())  # between the corners that are made again
    kept = {window: cut(of(lifted), window) for window in across([piece.window for piece in PIECES])}
    found = certified(of(lifted), again=lambda window: kept.get(window, cut(said, window)))
    assert found.difference == 0
    assert found.step > 1.05 * found.natural
    assert found.checks()["seamless"] is False


def test_an_edge_of_the_scene_that_lies_on_a_line_is_no_seam() -> None:
    said = forecast()
    coast = said.values.copy()
    coast[:, :, :, 96:] += np.float32(5 * said.values.std())
    found = certified(of(coast))
    assert found.step > 2
    assert found.natural == pytest.approx(found.step)
    assert found.checks() == {
        "pieces": 9,
        "seam_difference": 0.0,
        "seamless": True,
        "seam_step": found.step,
        "seam_step_natural": found.natural,
    }


def test_what_is_known_only_in_pieces_is_a_difference() -> None:
    said = forecast()
    holed = of(said.values.copy())
    holed.values[0, 0, 0, 96, 96] = np.nan
    assert certified(holed, again=lambda window: cut(said, window)).difference == np.inf


def test_one_piece_has_no_seams_and_constant_fields_no_steps() -> None:
    said = forecast()
    assert certified(said, plan(SHAPE, 512, 8)).checks() == {"pieces": 1}
    flat = of(np.full_like(said.values, 3))
    assert certified(flat).checks() == {"pieces": 9, "seam_difference": 0.0, "seamless": True}


def test_steps_are_those_of_every_line_and_lead_together() -> None:
    """Against the definition, over whole rows and columns."""
    said = forecast(3)
    over, beside = [], []
    values = said.values[0, :, 0, :, :, 0]
    for axis, lines in ((1, (96, 192)), (2, (96, 192))):
        change = np.abs(np.diff(np.moveaxis(values, axis, 0), axis=0))
        for line in lines:
            over.append(change[line - 1].ravel())
            near = (line + sign * far for far in (2, 3, 4, 5) for sign in (-1, 1))
            beside += [change[one - 1].ravel() for one in near if one <= len(change)]
    expected = np.concatenate(over).mean() / np.concatenate(beside).mean()
    alone = Forecast(said.values[:, :, :1], said.source, said.age)
    assert step(layers(alone), [piece.window for piece in PIECES], LEADS) == pytest.approx(expected, rel=1e-5)


def test_windows_that_are_made_again_lie_across_lines() -> None:
    for windows in ([one.window for one in PIECES], [Window(0, 50, 0, 90), Window(0, 50, 90, 200)]):
        for found in across(windows):
            assert sum(one.intersection(found) is not None for one in windows) in {2, 4}
