import json

import numpy as np
import pytest

from pipeline.events import Events, EventSums
from pipeline.metrics import Moments
from pipeline.sums import pooled, ratio, valid_in_both


def counts(seed: int, thresholds: tuple[float, ...] = (0.2, 0.6)) -> EventSums:
    forecast, truth = np.random.default_rng(seed).random((2, 3, 8, 9, 2)).astype(np.float32)
    return EventSums.of(forecast, truth, Events(thresholds))


def test_sums_survive_json() -> None:
    one = counts(0)
    again = EventSums.from_json(json.loads(json.dumps(one.to_json())))
    assert again.alike(one)
    np.testing.assert_array_equal((again + one).counts, 2 * one.counts)


def test_one_lead_and_band_adds_up_like_the_whole() -> None:
    first, second = counts(0), counts(1)
    np.testing.assert_array_equal((first + second).at(1, 0).csi, (first.at(1, 0) + second.at(1, 0)).csi)
    assert EventSums.from_json(first.at(1, 0).to_json()).csi.shape == (2,)


def test_only_sums_that_count_what_the_newest_counts_are_pooled() -> None:
    old, first, second = counts(0, (0.9,)), counts(1), counts(2)
    found = pooled([old, first, None, second])
    assert found is not None
    np.testing.assert_array_equal(found.counts, first.counts + second.counts)
    assert pooled([None, None]) is None
    assert isinstance(pooled(iter([Moments.of(*np.ones((2, 1, 2, 2, 1)))])), Moments)


def test_a_ratio_to_nothing_is_nan() -> None:
    np.testing.assert_array_equal(ratio(np.array([1, 2, 3]), np.array([2, 0, np.nan])), [0.5, np.nan, np.nan])


def test_fields_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(lead, y, x, band\)"):
        valid_in_both(np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 2, 1)))
