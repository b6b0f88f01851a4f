import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.losses import MaskedHuber, MaskedLoss, MaskedMeanAbsoluteError, MaskedMeanSquaredError

Array = NDArray[np.float32]
LOSSES = [MaskedMeanSquaredError(), MaskedMeanAbsoluteError(), MaskedHuber(0.5)]
KERAS_LOSSES = [keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError(), keras.losses.Huber(0.5)]
PAIRS = list(zip(LOSSES, KERAS_LOSSES, strict=True))


@pytest.fixture
def pair() -> Array:
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 2, 3, 4, 5, 1)).astype("float32")


def holed(truth: Array) -> Array:
    truth = truth.copy()
    truth[0, 0] = np.nan
    truth[1, :, 2, 1:3] = np.nan
    return truth


@pytest.mark.parametrize(("loss", "theirs"), PAIRS)
def test_loss_without_holes_is_that_of_keras(pair: Array, loss: MaskedLoss, theirs: keras.losses.Loss) -> None:
    assert float(loss(*pair)) == pytest.approx(float(theirs(*pair)), rel=1e-5)


@pytest.mark.parametrize(("loss", "theirs"), PAIRS)
def test_pixels_without_truth_do_not_count(pair: Array, loss: MaskedLoss, theirs: keras.losses.Loss) -> None:
    truth = holed(pair[0])
    valid = np.isfinite(truth)
    expected = float(theirs(truth[valid][:, None], pair[1][valid][:, None]))
    assert float(loss(truth, pair[1])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_forecast_where_there_is_no_truth_changes_nothing(pair: Array, loss: MaskedLoss) -> None:
    truth = holed(pair[0])
    elsewhere = np.where(np.isfinite(truth), pair[1], 1e6).astype("float32")
    assert float(loss(truth, elsewhere)) == float(loss(truth, pair[1]))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_truth_at_all_costs_nothing(pair: Array, loss: MaskedLoss) -> None:
    assert float(loss(np.full_like(pair[0], np.nan), pair[1])) == 0


def trained_by_one_step(loss: MaskedLoss, truth: Array, values: Array) -> tuple[list[Array], list[Array]]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(values.shape[1:]), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
    before = model.get_weights()
    model.train_on_batch(values, truth)
    return before, model.get_weights()


@pytest.mark.parametrize("loss", LOSSES)
def test_holes_in_the_truth_leave_the_gradients_finite(pair: Array, loss: MaskedLoss) -> None:
    before, after = trained_by_one_step(loss, holed(pair[0]), pair[1])
    assert all(np.isfinite(weight).all() for weight in after)
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_truth_moves_no_weight(pair: Array, loss: MaskedLoss) -> None:
    before, after = trained_by_one_step(loss, np.full_like(pair[0], np.nan), pair[1])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("loss", LOSSES)
def test_configuration_makes_the_same_loss_again(loss: MaskedLoss) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(twin) is type(loss)
    assert twin.get_config() == loss.get_config()


@pytest.mark.parametrize("loss", LOSSES)
def test_totals_of_unequal_parts_add_up_and_give_the_mean(pair: Array, loss: MaskedLoss) -> None:
    truth, forecast = holed(pair[0]), pair[1]
    parts = [float(loss.total(truth[item], forecast[item])) for item in (0, 1)]
    counts = [int(np.isfinite(truth[item]).sum()) for item in (0, 1)]
    assert counts[0] != counts[1]
    assert sum(parts) == pytest.approx(float(loss.total(truth, forecast)), rel=1e-5)
    assert sum(parts) / sum(counts) == pytest.approx(float(loss(truth, forecast)), rel=1e-5)
