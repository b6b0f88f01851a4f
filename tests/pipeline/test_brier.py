import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.brier import BINS, ChanceSums
from pipeline.events import Events
from tests.pipeline.twofields import fields, holes, plane, quantiles

EVENTS = Events((5.0, 5.5))


def flat(*pixels: float) -> NDArray[np.float32]:
    """One lead, one band, the pixels in a row."""
    return np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def at(threshold: float, said: tuple[float, ...], truth: tuple[float, ...], *, below: bool = False) -> ChanceSums:
    return ChanceSums.of(flat(*said)[:, np.newaxis], flat(*truth), Events((threshold,), below))


def chances() -> NDArray[np.float32]:
    """Share of ten quantiles that are the event, ``(1, threshold, 40, 48, 1)``."""
    return EVENTS.met(quantiles()).mean(axis=2, dtype=np.float32).swapaxes(0, 1)


def test_the_score_is_the_mean_squared_difference_of_probability_and_event() -> None:
    found = at(5, (0.75, 0.75, 0, 1), (5, 4.9, 6, 5))
    assert found.brier.item() == pytest.approx((0.25**2 + 0.75**2 + 1 + 0) / 4)
    assert found.frequency.item() == 0.75
    assert found.skill.item() == pytest.approx(1 - found.brier.item() / (0.75 * 0.25))


def test_an_event_below_a_threshold_is_a_value_under_it() -> None:
    assert at(220, (1, 1), (219, 220), below=True).came.sum() == 1


def test_each_bin_has_its_lower_end_and_the_last_one_both() -> None:
    ends = tuple(float(one) for one in np.arange(11, dtype=np.float32) / np.float32(10))
    assert at(1, ends, (1,) * 11).pixels.ravel().tolist() == [1] * 9 + [2]
    stored = tuple((np.arange(11) * 1000 * 1e-4).astype(np.float32).tolist())  # as a file gives them back
    assert at(1, stored, (1,) * 11).pixels.ravel().tolist() == [1] * 9 + [2]


def test_a_bin_says_what_was_said_and_how_often_it_came() -> None:
    found = at(1, (0.31, 0.33, 0.35, 0.39, 0.9), (1, 0, 0, 0, 1)).reliability[0, 0, 0]
    np.testing.assert_allclose(found[[3, 9]], [[0.345, 0.25], [0.9, 1]], rtol=1e-6)
    assert np.isnan(np.delete(found, [3, 9], axis=0)).all()


def test_probabilities_that_are_right_are_reliable_in_every_bin() -> None:
    rng = np.random.default_rng(0)
    said = rng.random(200_000).astype(np.float32)
    found = at(1, tuple(said), tuple(np.float32(rng.random(said.size) < said))).reliability[0, 0, 0]
    np.testing.assert_allclose(found[:, 1], found[:, 0], atol=0.015)


def test_pixels_whose_truth_or_probability_is_unknown_do_not_count() -> None:
    found = at(1, (0.5, np.nan, 0.5, np.nan), (np.nan, 2, 2, np.nan))
    assert (found.pixels.sum(), found.came.sum(), found.brier.item()) == (1, 1, 0.25)
    assert np.isnan(at(1, (np.nan,), (1,)).brier).all()


def test_an_event_that_never_comes_leaves_nothing_to_be_skilled_in() -> None:
    assert np.isnan(at(9, (0.1, 0.2), (1, 2)).skill).all()


def test_sums_of_init_times_pool_their_pixels_and_stand_by_lead_band_and_threshold() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.random((3, 8, 9, 2)).astype(np.float32), rng.random((3, 2, 8, 9, 2)).astype(np.float32)
    events = Events((0.2, 0.6))
    whole = ChanceSums.of(said, truth, events)
    halves = [ChanceSums.of(said[:, :, rows], truth[:, rows], events) for rows in (slice(4), slice(4, 8))]
    assert whole.pixels.shape == (3, 2, 2, BINS)
    np.testing.assert_allclose((halves[0] + halves[1]).brier, whole.brier)
    one = ChanceSums.of(said[1:2, 1:, ..., 1:], truth[1:2, ..., 1:], Events((0.6,)))
    np.testing.assert_allclose(one.brier.item(), whole.brier[1, 1, 1])
    assert ChanceSums.from_json(whole.at(1, 1).to_json()) == whole.at(1, 1)


def test_probabilities_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(lead, threshold, y, x, band\) = \(1, 2, 1, 3, 1\)"):
        ChanceSums.of(np.zeros((1, 1, 1, 3, 1)), flat(1, 2, 3), EVENTS)


# scores 2.7.0, brier_score(probability, event), at each threshold
SCORES_BRIER = [0.16811458531285967, 0.12658333514692893]


def test_the_brier_score_is_that_of_scores() -> None:
    found = ChanceSums.of(chances(), fields()[1], EVENTS).brier[0, 0]
    np.testing.assert_allclose(found, SCORES_BRIER, rtol=0, atol=1e-6)


def test_the_brier_score_with_holes_is_that_of_the_installed_scores() -> None:
    probability = pytest.importorskip("scores.probability")
    from xarray import DataArray

    truth = np.where(holes(), np.float32(np.nan), fields()[1])
    found = ChanceSums.of(chances(), truth, EVENTS).brier[0, 0]
    for index, threshold in enumerate(EVENTS.thresholds):
        came = np.where(np.isnan(plane(truth)), np.nan, plane(truth) >= threshold)
        said = chances()[0, index, ..., 0].astype(np.float64)
        theirs = float(probability.brier_score(DataArray(said), DataArray(came)))
        assert found[index] == pytest.approx(theirs, abs=1e-6)
