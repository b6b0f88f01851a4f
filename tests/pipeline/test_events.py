import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.events import Events, EventSums, below_counts, csi
from tests.pipeline.twofields import fields, holes, plane

THRESHOLDS = (5.0, 5.5)


def flat(*pixels: float) -> NDArray[np.float32]:
    """One lead, one band, the pixels in a row."""
    return np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def at(threshold: float, forecast: NDArray[np.float32], truth: NDArray[np.float32]) -> EventSums:
    return EventSums.of(forecast, truth, Events((threshold,)))


def test_hits_false_alarms_and_misses_are_counted() -> None:
    found = at(5, flat(5, 5, 0, 0, 5), flat(5, 0, 5, 0, 5))
    assert found.counts.tolist() == [[[[2, 1, 1]]]]
    assert (found.csi.item(), found.pod.item(), found.far.item()) == (2 / 4, 2 / 3, 1 / 3)


def test_an_event_below_a_threshold_is_a_value_under_it() -> None:
    found = EventSums.of(flat(219, 220, 230), flat(219, 219, 230), Events((220.0,), below=True))
    assert found.counts.tolist() == [[[[1, 0, 1]]]]
    assert below_counts("K")
    assert not below_counts("dBZ")


def test_pixels_unknown_in_either_do_not_count() -> None:
    assert at(1, flat(1, np.nan, 7, np.nan), flat(3, 5, np.nan, np.nan)).counts.tolist() == [[[[1, 0, 0]]]]


def test_scores_of_an_event_that_neither_came_nor_was_forecast_are_nan() -> None:
    for found in (at(9, flat(1, 2), flat(2, 1)), at(1, flat(np.nan, np.nan), flat(1, 2))):
        assert np.isnan([found.csi.item(), found.pod.item(), found.far.item()]).all()


def test_swapping_forecast_and_truth_keeps_csi_and_turns_detection_into_alarms() -> None:
    forecast, truth = fields()
    there, back = at(5, forecast, truth), at(5, truth, forecast)
    np.testing.assert_array_equal(there.csi, back.csi)
    np.testing.assert_allclose(there.pod, 1 - back.far)


def test_counts_of_init_times_add_up_and_stand_by_lead_band_and_threshold() -> None:
    rng = np.random.default_rng(0)
    forecast, truth = rng.random((2, 3, 8, 9, 2)).astype(np.float32)
    whole = EventSums.of(forecast, truth, Events((0.2, 0.6)))
    halves = [EventSums.of(forecast[:, rows], truth[:, rows], Events((0.2, 0.6))) for rows in (slice(4), slice(4, 8))]
    assert whole.counts.shape == (3, 2, 2, 3)
    np.testing.assert_array_equal((halves[0] + halves[1]).counts, whole.counts)
    one = EventSums.of(forecast[1:2, ..., 1:], truth[1:2, ..., 1:], Events((0.6,)))
    np.testing.assert_array_equal(one.csi[0, 0, 0], whole.csi[1, 1, 1])


def test_counts_at_different_thresholds_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="add up where they count the same"):
        at(5, *fields()) + at(6, *fields())


def test_the_csi_of_a_perfect_forecast_is_one() -> None:
    _, truth = fields()
    assert at(5, truth, truth).csi.item() == 1
    assert csi(np.array([2, 1, 1])) == 0.5


# pysteps 1.21.5, det_cat_fct(forecast, truth, threshold, ["CSI", "POD", "FAR"])
PYSTEPS = [
    (0.6858638743455497, 0.8460710441334769, 0.21635094715852443),
    (0.4449648711943794, 0.5234159779614325, 0.25196850393700787),
]


def test_scores_are_those_of_pysteps() -> None:
    found = EventSums.of(*fields(), Events(THRESHOLDS))
    scores = np.stack([found.csi, found.pod, found.far], axis=-1)[0, 0]
    np.testing.assert_allclose(scores, PYSTEPS, rtol=0, atol=1e-6)


def test_scores_with_holes_are_those_of_the_installed_pysteps() -> None:
    peer = pytest.importorskip("pysteps.verification.detcatscores")
    # Both get the holes: pysteps counts a forecast event whose truth is unknown as a false alarm.
    forecast, truth = (np.where(holes(), np.float32(np.nan), field) for field in fields())
    found = EventSums.of(forecast, truth, Events(THRESHOLDS))
    for index, threshold in enumerate(THRESHOLDS):
        theirs = peer.det_cat_fct(plane(forecast), plane(truth), threshold, scores=["CSI", "POD", "FAR"])
        ours = [score[0, 0, index] for score in (found.csi, found.pod, found.far)]
        np.testing.assert_allclose(ours, [theirs["CSI"], theirs["POD"], theirs["FAR"]], rtol=0, atol=1e-6)
