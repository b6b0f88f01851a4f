from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.matching import Matched, matched
from pipeline.predictor import Context, Forecast

Field = NDArray[np.float32]
NOTHING = Context(
    np.zeros((1, 1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1, 1), bool), np.zeros((1, 1), int), np.zeros((1, 1), "f4")
)


def fields(seed: int = 0, side: int = 40) -> tuple[Field, Field]:
    """A mean and a reference that have nothing in common."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(side, side)).astype(np.float32), rng.gamma(1, 5, (side, side)).astype(np.float32)


@dataclass(frozen=True)
class Fixed:
    """Says the same, whatever it sees; None: it lacks frames."""

    said: Forecast | None

    def predict(self, context: Context, horizon: int) -> Forecast:
        if self.said is None:
            raise NotEnoughFramesError
        return self.said


def forecast(values: Field, quantities: tuple[str, ...] = ("mean",)) -> Forecast:
    batch, lead, _, y, x, _ = values.shape
    shape = (batch, lead, y, x)
    return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), quantities)


def test_the_values_are_the_references_in_the_order_of_the_mean() -> None:
    mean, reference = fields()
    field = matched(mean, reference)
    np.testing.assert_array_equal(np.sort(field, axis=None), np.sort(reference, axis=None))
    assert (np.diff(field.ravel()[mean.argsort(axis=None)]) >= 0).all()


def test_a_field_matched_to_itself_or_to_what_only_rescales_it_is_that() -> None:
    mean, _ = fields()
    np.testing.assert_array_equal(matched(mean, mean), mean)
    np.testing.assert_array_equal(matched(mean, np.exp(mean)), np.exp(mean))
    np.testing.assert_array_equal(matched(mean, np.exp(mean)[::-1]), np.exp(mean))


def test_only_the_order_of_the_mean_matters() -> None:
    mean, reference = fields()
    np.testing.assert_array_equal(matched(mean, reference), matched(3 * mean - 7, reference))


@pytest.mark.parametrize("partly", [0.0, 0.3, 1.0])
def test_partly_is_that_part_of_the_way(partly: float) -> None:
    mean, reference = fields()
    field, full = matched(mean, reference, partly=partly), matched(mean, reference)
    np.testing.assert_allclose(field, mean + partly * (full - mean), atol=1e-5)


def test_where_one_is_unknown_the_mean_stays() -> None:
    mean, reference = fields()
    mean[:5], reference[-5:] = np.nan, np.nan
    field = matched(mean, reference)
    np.testing.assert_array_equal(field[-5:], mean[-5:])
    assert np.isnan(field[:5]).all()
    np.testing.assert_array_equal(np.sort(field[5:-5], axis=None), np.sort(reference[5:-5], axis=None))
    nothing = np.full_like(mean, np.nan)
    np.testing.assert_array_equal(matched(mean, nothing), mean)


def test_pixels_of_one_mean_get_the_more_the_nearer_they_lie_to_more() -> None:
    mean = np.zeros((41, 41), np.float32)
    mean[20, 20] = 9
    reference = np.zeros_like(mean)
    reference[:1, :25] = np.arange(25, 0, -1)
    rows, columns = np.nonzero(matched(mean, reference))
    assert len(rows) == 25
    assert np.hypot(rows - 20, columns - 20).max() < 4


def test_pixels_alike_in_all_rank_by_their_place() -> None:
    flat, (_, reference) = np.full((40, 40), 3, np.float32), fields()
    field = matched(flat, reference)
    assert (np.diff(field.ravel()) >= 0).all()


def test_negative_values_and_zeros_of_either_sign_rank_as_numbers() -> None:
    mean = np.array([[0.0, -0.0, -1.0, 2.0, -3.0]], np.float32)
    np.testing.assert_array_equal(matched(mean, np.arange(5, dtype=np.float32)[None])[0, 2:], [1, 4, 0])


def test_a_predictor_gains_the_matched_field_by_item_lead_and_band() -> None:
    rng = np.random.default_rng(0)
    said = forecast(rng.normal(size=(2, 3, 2, 9, 8, 2)).astype(np.float32), ("mean", "q50"))
    reference = forecast(rng.normal(size=(2, 3, 1, 9, 8, 2)).astype(np.float32))
    found = Matched(Fixed(said), Fixed(reference), partly=0.5).predict(NOTHING, 3)
    assert found.quantities == ("mean", "q50", "matched")
    np.testing.assert_array_equal(found.values[:, :, :2], said.values)
    place = (1, 2, ..., 1)
    expected = matched(said.of("mean")[place], reference.of("mean")[place], partly=0.5)
    np.testing.assert_array_equal(found.of("matched")[place], expected)
    np.testing.assert_array_equal(found.source, said.source)


def test_without_a_reference_the_matched_field_is_the_mean() -> None:
    said = forecast(np.random.default_rng(0).normal(size=(1, 2, 1, 5, 5, 1)).astype(np.float32))
    found = Matched(Fixed(said), Fixed(None)).predict(NOTHING, 2)
    np.testing.assert_array_equal(found.of("matched"), said.of("mean"))
    unknown = Fixed(replace(said, values=np.full_like(said.values, np.nan)))
    np.testing.assert_array_equal(Matched(Fixed(said), unknown).predict(NOTHING, 2).of("matched"), said.of("mean"))


def test_misuse_is_refused() -> None:
    mean, reference = fields()
    with pytest.raises(ValueError, match=r"\(y, x\)"):
        matched(mean, reference[:-1])
    with pytest.raises(ValueError, match="partly"):
        matched(mean, reference, partly=1.5)
