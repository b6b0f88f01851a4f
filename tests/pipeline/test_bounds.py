from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pipeline.bounds import Bounded, valid_ranges
from pipeline.predictor import Context, Forecast
from pipeline.specs import BandSpec

CONTEXT = Context(
    np.zeros((1, 1, 4, 5, 2), np.float32), np.ones((1, 1, 4, 5, 2), bool), np.zeros((1, 1), int), np.zeros((1, 1))
)


@dataclass(frozen=True, slots=True)
class Wild:
    """Says anything, far from zero."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        batch, _, y, x, bands = context.values.shape
        values = np.random.default_rng(2).normal(scale=10, size=(batch, horizon, 3, y, x, bands)).astype(np.float32)
        values[0, 0, :, 1, 2] = np.nan
        shape = (batch, horizon, y, x)
        return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), ("mean", "q10", "q50"))


def band(**facts: Any) -> BandSpec:
    return BandSpec.model_validate({"name": "one", "dtype": "float32", **facts})


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, (-np.inf, np.inf)),
        ({"valid_min": -1, "valid_max": 1}, (-1, 1)),
        ({"floor": 0, "valid_min": -5}, (0, np.inf)),
        ({"floor": -32, "valid_min": -5}, (-5, np.inf)),
        ({"transform": "log"}, (0, np.inf)),
        ({"transform": "log", "valid_min": 2}, (2, np.inf)),
    ],
    ids=str,
)
def test_a_band_reaches_from_its_floor_to_its_largest_valid_value(
    facts: dict[str, Any], expected: tuple[float, float]
) -> None:
    assert valid_ranges([band(**facts), band()]) == (expected, (-np.inf, np.inf))


def test_nothing_impossible_is_said_of_any_band_and_what_is_possible_stays() -> None:
    valid = ((0.0, 5.0), (-np.inf, 1.0))
    said, bounded = Wild().predict(CONTEXT, 3), Bounded(Wild(), valid).predict(CONTEXT, 3)
    assert (bounded.quantities, bounded.values.dtype) == (said.quantities, np.float32)
    for index, (low, high) in enumerate(valid):
        before, after = said.values[..., index], bounded.values[..., index]
        possible = (before >= low) & (before <= high)
        assert 0 < possible.sum() < possible.size
        np.testing.assert_array_equal(after[possible], before[possible])
        assert set(np.unique(after[~possible & np.isfinite(before)])) == {
            one for one in (low, high) if np.isfinite(one)
        }
    np.testing.assert_array_equal(np.isnan(bounded.values), np.isnan(said.values))
    np.testing.assert_array_equal(bounded.source, said.source)


def test_a_predictor_of_other_bands_than_its_ranges_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 2 bands has a valid range"):
        Bounded(Wild(), ((0.0, 5.0),)).predict(CONTEXT, 1)
