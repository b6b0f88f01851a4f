import numpy as np
import pytest

from pipeline.events import Events
from pipeline.neighbourhood import FractionSums
from tests.pipeline.twofields import fields, holes, plane

SCALES = (1, 5, 17)
EVENTS = Events((5.0, 5.5))


def test_a_displaced_event_is_wrong_at_its_pixel_and_right_in_its_neighbourhood() -> None:
    truth, forecast = np.zeros((2, 1, 41, 41, 1), np.float32)
    truth[0, 20, 20], forecast[0, 20, 23] = 1, 1
    fss = FractionSums.of(forecast, truth, Events((1.0,)), (1, 3, 9, 31)).fss[0, 0, 0]
    assert fss[0] == fss[1] == 0
    assert 0 < fss[2] < fss[3] < 1
    np.testing.assert_allclose(fss[2], 1 - 3 / 9)  # squares of 9 pixels share 6 of their 9 columns


def test_a_perfect_forecast_scores_one_and_an_event_that_never_was_nothing() -> None:
    _, truth = fields()
    assert (FractionSums.of(truth, truth, EVENTS, SCALES).fss == 1).all()
    assert np.isnan(FractionSums.of(truth, truth, Events((99.0,)), SCALES).fss).all()
    assert np.isnan(FractionSums.of(truth, truth * np.float32(np.nan), EVENTS, SCALES).fss).all()


def test_pixels_unknown_in_either_hold_no_event_in_both() -> None:
    forecast, truth = fields()
    missing = holes()
    sums = [
        FractionSums.of(np.where(missing, np.nan, forecast), truth, EVENTS, SCALES),
        FractionSums.of(forecast, np.where(missing, np.nan, truth), EVENTS, SCALES),
        FractionSums.of(np.where(missing, 0, forecast), np.where(missing, 0, truth), EVENTS, SCALES),
    ]
    for one in sums[:2]:
        np.testing.assert_array_equal(one.fss, sums[2].fss)


def test_sums_of_init_times_pool_before_they_are_divided() -> None:
    forecast, truth = fields()
    one, other = (FractionSums.of(a, b, EVENTS, SCALES) for a, b in ((forecast, truth), (truth, truth)))
    np.testing.assert_allclose((one + other).fss, 1 - one.difference / (one.reference + other.reference))


def test_an_even_neighbourhood_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of pixels"):
        FractionSums.of(*fields(), EVENTS, (4,))


# pysteps 1.21.5, spatialscores.fss(forecast, truth, threshold, scale); the last line with holes, at 5.0
PYSTEPS = [
    (0.8136645962732919, 0.9476187632011902, 0.9882243566787335),
    (0.6158833063209076, 0.8165653122246457, 0.9285191333300621),
]
PYSTEPS_HOLES = (0.8177777777777777, 0.9454278972164838, 0.9877165095400132)


def test_scores_are_those_of_pysteps() -> None:
    forecast, truth = fields()
    np.testing.assert_allclose(FractionSums.of(forecast, truth, EVENTS, SCALES).fss[0, 0], PYSTEPS, rtol=0, atol=1e-6)
    known = np.where(holes(), np.float32(np.nan), truth)
    found = FractionSums.of(forecast, known, EVENTS, SCALES).fss[0, 0, 0]
    np.testing.assert_allclose(found, PYSTEPS_HOLES, rtol=0, atol=1e-6)


def test_scores_are_those_of_the_installed_pysteps() -> None:
    peer = pytest.importorskip("pysteps.verification.spatialscores")
    forecast, truth = fields()
    found = FractionSums.of(forecast, truth, EVENTS, SCALES).fss[0, 0]
    theirs = [[peer.fss(plane(forecast), plane(truth), t, scale) for scale in SCALES] for t in EVENTS.thresholds]
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-6)
