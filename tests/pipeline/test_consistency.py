import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.consistency import RevisionSums, flip_flop
from tests.pipeline.twofields import fields, holes, plane


def flat(*pixels: float) -> NDArray[np.float32]:
    """One lead, one band, the pixels in a row."""
    return np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def test_a_revision_is_the_difference_of_two_runs_wherever_both_say_something() -> None:
    found = RevisionSums.of(flat(3, 5, np.nan, 1), flat(1, 6, 2, np.nan))
    assert (found.count.item(), found.revision.item()) == (2, 1.5)
    assert np.isnan(found.flip_flop).all()


def test_a_steady_revision_is_no_flip_flop_and_a_return_is_one() -> None:
    steady, back = flat(1, 1), flat(1, 1)
    assert RevisionSums.of(flat(3, 3), flat(2, 2), steady).flip_flop.item() == 0
    assert RevisionSums.of(flat(1, 1), flat(3, 3), back).flip_flop.item() == 2


def test_runs_that_say_nothing_together_have_no_revision() -> None:
    found = RevisionSums.of(flat(np.nan, 1), flat(1, np.nan), flat(1, 1))
    assert np.isnan([found.revision.item(), found.flip_flop.item()]).all()


def test_revisions_of_init_times_pool_their_pixels() -> None:
    one, other = RevisionSums.of(flat(1), flat(3)), RevisionSums.of(flat(1, 1, 1), flat(1, 1, 1))
    assert (one + other).revision.item() == 0.5


def test_two_runs_cannot_turn_back() -> None:
    with pytest.raises(ValueError, match="from the third on"):
        flip_flop(np.zeros((2, 4)))


def series(runs: int) -> NDArray[np.float64]:
    forecast, truth = (plane(field) for field in fields())
    return np.stack([truth[::-1], forecast, truth, forecast[:, ::-1]])[:runs]


# scores 2.7.0, flip_flop_index over the runs, mean over pixels
SCORES = {3: 0.10969916358590126, 4: 0.21605999544262885}


@pytest.mark.parametrize("runs", [3, 4])
def test_flip_flops_are_those_of_scores(runs: int) -> None:
    np.testing.assert_allclose(flip_flop(series(runs)).mean(), SCORES[runs], rtol=0, atol=1e-6)


def test_flip_flops_with_holes_are_those_of_the_installed_scores() -> None:
    peer = pytest.importorskip("scores.continuous")
    from xarray import DataArray

    values = series(4)
    values[1][holes()[0, ..., 0]] = np.nan
    theirs = peer.flip_flop_index(DataArray(values, dims=("run", "y", "x")), "run")
    np.testing.assert_allclose(flip_flop(values), theirs, rtol=0, atol=1e-6)
