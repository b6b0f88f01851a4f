import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.losses import (
    MaskedHuber,
    MaskedLoss,
    MaskedMeanAbsoluteError,
    MaskedMeanSquaredError,
    MeanAndQuantiles,
    loss_of,
)
from pipeline.normalise import Statistics, Transform

Array = NDArray[np.float32]
LOSSES = [MaskedMeanSquaredError(), MaskedMeanAbsoluteError(), MaskedHuber(0.5), MeanAndQuantiles(())]
KERAS_LOSSES = [
    keras.losses.MeanSquaredError(),
    keras.losses.MeanAbsoluteError(),
    keras.losses.Huber(0.5),
    keras.losses.MeanSquaredError(),
]
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


def trained_by_one_step(
    loss: MaskedLoss, truth: Array, values: Array, outputs: int = 1
) -> tuple[list[Array], list[Array]]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(values.shape[1:]), keras.layers.Dense(outputs)])
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


# --- a mean and quantiles -------------------------------------------------------------------------

LEVELS = (0.1, 0.5, 0.9)
RAIN = Transform("log", floor=0.5, x0=0.1, deviation=2.0)
MIXED = Statistics((1.2, 0.4), (0.8, 0.3), "snapshot", (RAIN, Transform(deviation=0.3)))


def mixed(rng: np.random.Generator) -> tuple[Array, Array]:
    """Truths of two bands with holes, and a mean and three quantiles of both."""
    truth = rng.normal(size=(2, 3, 4, 5, 2)).astype("float32")
    said = rng.normal(size=(2, 3, 4, 5, 8)).astype("float32")
    truth[0, 1] = np.nan
    truth[1, :, 2, :, 1] = np.nan
    return truth, said


def pinball(truth: Array, said: Array, level: float) -> Array:
    short = truth - said
    return np.where(short > 0, level * short, (level - 1) * short)


def test_the_loss_is_the_squared_error_of_the_mean_and_the_pinball_loss_of_each_quantile() -> None:
    truth, said = mixed(np.random.default_rng(0))
    mean, *quantiles = np.split(said, 4, axis=-1)
    losses = (mean - truth) ** 2
    for level, weight, one in zip(LEVELS, (0.5, 1, 0.5), quantiles, strict=True):
        losses += weight * pinball(truth, one, level)
    assert float(MeanAndQuantiles(LEVELS)(truth, said)) == pytest.approx(float(np.nanmean(losses)), rel=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_of_all_constants_the_quantile_costs_least(level: float) -> None:
    truth = np.random.default_rng(1).gamma(0.5, size=(1, 1, 1, 500, 1)).astype("float32")
    candidates = np.quantile(truth, np.linspace(0.02, 0.98, 49))
    said = [np.concatenate([0 * truth, 0 * truth + np.float32(one)], axis=-1) for one in candidates]
    costs = [float(MeanAndQuantiles((level,))(truth, one)) for one in said]
    assert candidates[int(np.argmin(costs))] == pytest.approx(float(np.quantile(truth, level)), abs=1e-6)


def test_the_mean_of_a_band_on_a_logarithmic_scale_is_judged_by_the_values_behind_it() -> None:
    """As the statistics themselves turn them back, in standard deviations of the values."""
    truth, said = mixed(np.random.default_rng(2))
    truth[..., 0] = np.abs(truth[..., 0]) - 1.5  # the logarithm of nothing is the floor, about -1.5 here
    said[..., 0] = np.abs(said[..., 0]) - 1.5
    loss = loss_of((), MIXED)
    behind = [MIXED.unscale(one) / np.array(MIXED.linear_deviation) for one in (said[..., :2], truth)]
    expected = float(np.nanmean((behind[0] - behind[1]) ** 2))
    assert float(loss(truth, said[..., :2])) == pytest.approx(expected, rel=1e-4)
    assert float(MeanAndQuantiles(())(truth, said[..., :2])) != pytest.approx(expected, rel=0.1)


def test_quantiles_are_judged_on_the_scale_that_they_are_learned_on() -> None:
    truth, said = mixed(np.random.default_rng(3))
    parts = [float(loss(truth, said)) for loss in (loss_of(LEVELS, MIXED), MeanAndQuantiles(LEVELS))]
    means = [float(loss(truth, said[..., :2])) for loss in (loss_of((), MIXED), MeanAndQuantiles(()))]
    assert parts[0] - means[0] == pytest.approx(parts[1] - means[1], rel=1e-4)


def test_statistics_without_a_logarithm_change_no_loss() -> None:
    truth, said = mixed(np.random.default_rng(4))
    plain = Statistics((3.0, 1.0), (2.0, 5.0), "snapshot")
    assert float(loss_of(LEVELS, plain)(truth, said)) == float(MeanAndQuantiles(LEVELS)(truth, said))


def test_a_mean_of_a_logarithm_far_off_leaves_the_gradients_finite() -> None:
    truth, said = mixed(np.random.default_rng(5))
    for strength in (1, 100, 1e4):
        before, after = trained_by_one_step(loss_of((), MIXED), truth, strength * said[..., :2], outputs=2)
        assert all(np.isfinite(weight).all() for weight in after)
        assert any((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("loss", [MeanAndQuantiles(LEVELS, (1, 2, 3)), loss_of(LEVELS, MIXED)])
def test_configuration_makes_the_same_loss_of_quantiles_again(loss: MeanAndQuantiles) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert twin.get_config() == loss.get_config()
    truth, said = mixed(np.random.default_rng(6))
    assert float(twin(truth, said)) == float(loss(truth, said))
