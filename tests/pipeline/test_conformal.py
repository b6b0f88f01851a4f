import numpy as np
import pytest

from pipeline.conformal import NODES, Misses, nodes

NO_FLOOR = np.inf


def counted(beyond: list[float], height: list[float] | None = None, *, upper: bool = True, miss: float = 0.1) -> Misses:
    errors = np.array(beyond, float)
    heights = np.full(len(errors), NO_FLOOR) if height is None else np.array(height, float)
    return Misses.over(nodes(errors, miss)).seeing(errors, heights, upper=upper, weight=1.0)


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("pixels", [9, 19, 40])
def test_without_a_floor_the_move_is_the_order_statistic_of_split_conformal_prediction(
    upper: bool, pixels: int
) -> None:
    errors = np.random.default_rng(pixels).normal(size=pixels)
    rank = int(np.ceil(0.9 * (pixels + 1) - 1e-9))
    assert counted(errors.tolist(), upper=upper).move(0.1, upper=upper) == np.sort(errors)[rank - 1]


def test_too_few_pixels_move_a_bound_beyond_all_errors() -> None:
    assert counted([1, 2, 3]).move(0.1, upper=True) > 3


def test_nothing_seen_moves_nothing() -> None:
    assert Misses.over(nodes(np.array([]), 0.1)).move(0.1, upper=True) == 0


def test_counts_are_those_of_the_moved_bound() -> None:
    rng = np.random.default_rng(0)
    bound, truth = np.maximum(rng.normal(size=(2, 500)), 0)
    for upper in (True, False):
        found = counted((truth - bound if upper else bound - truth).tolist(), bound.tolist(), upper=upper)
        for node, move in enumerate(found.moves):
            moved = bound + move if upper else bound - move
            off = moved > 1e-12
            assert found.missed[node] == np.count_nonzero(
                off & ((truth > moved + 1e-12) if upper else (truth < moved - 1e-12))
            )
            assert found.floored[node] == np.count_nonzero(~off)
            assert found.dry[node] == np.count_nonzero(~off & (truth == 0))


def test_a_weighted_pixel_counts_as_so_many() -> None:
    errors = np.random.default_rng(0).normal(size=200)
    once = Misses.over(nodes(errors, 0.1)).seeing(errors, np.full(200, NO_FLOOR), upper=True, weight=3.0)
    thrice = Misses.over(once.moves).seeing(np.tile(errors, 3), np.full(600, NO_FLOOR), upper=True, weight=1.0)
    np.testing.assert_allclose(once.missed, thrice.missed)
    assert once.move(0.1, upper=True) == thrice.move(0.1, upper=True)
    np.testing.assert_allclose(once.aged(0.5).missed, once.missed / 2)


def test_nodes_ascend_and_hold_zero_and_room_beyond_all_errors() -> None:
    for errors in (np.random.default_rng(0).normal(3, 1, 1000), np.zeros(50), np.array([5.0])):
        found = nodes(errors, 0.1)
        assert found.shape == (NODES,)
        assert (np.diff(found) >= 0).all()
        assert 0 in found
        assert found[-1] >= errors.max()


def test_other_nodes_keep_the_counts_nearly() -> None:
    errors = np.random.default_rng(0).normal(size=5000)
    found = counted(errors.tolist())
    shifted = found.at(nodes(errors + 0.01, 0.1))
    np.testing.assert_allclose(shifted.move(0.1, upper=True), found.move(0.1, upper=True), atol=0.05)
    assert not found.is_coarse(0.1, upper=True)
    far = Misses.over(found.moves).seeing(8 * errors, np.full(5000, NO_FLOOR), upper=True, weight=1.0)
    assert far.is_coarse(0.1, upper=True)
