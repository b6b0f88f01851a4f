import numpy as np
import pytest

from pipeline.predictor import MATCHED, MEAN, MEDIAN, Forecast, level, quantile_name


def forecast(*quantities: str) -> Forecast:
    """The n-th quantity has the value n everywhere."""
    values = np.empty((2, 3, len(quantities), 4, 5, 1), np.float32)
    values[:] = np.arange(len(quantities))[:, None, None, None]
    flat = np.zeros((2, 3, 4, 5))
    return Forecast(values, flat.astype(np.uint8), flat.astype(np.float32), quantities)


@pytest.mark.parametrize("percent", [1, 2.5, 5, 7, 10, 25, 29, 50, 90, 97.5, 99])
def test_a_quantiles_name_tells_its_level(percent: float) -> None:
    name = quantile_name(percent / 100)
    assert name == f"q{percent:g}"
    assert level(name) == pytest.approx(percent / 100)


def test_the_median_is_the_quantile_of_one_half() -> None:
    assert quantile_name(0.5) == MEDIAN


@pytest.mark.parametrize("name", [MEAN, MATCHED, "q", "q0", "q100", "q-5", "quality", "q10_error"])
def test_what_is_no_quantile_has_no_level(name: str) -> None:
    assert level(name) is None


@pytest.mark.parametrize("impossible", [0.0, 1.0, 10.0, -0.1])
def test_a_level_that_is_no_probability_is_refused(impossible: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile_name(impossible)


def test_a_quantity_is_found_by_its_name() -> None:
    found = forecast("mean", "q10", "q90").of("q90")
    assert found.shape == (2, 3, 4, 5, 1)
    assert (found == 2).all()


def test_a_quantity_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="has mean, q10, asked for matched"):
        forecast("mean", "q10").of("matched")
