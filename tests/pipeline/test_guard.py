import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.guard import Contest, Guard, Guarded, blended, fit, updated
from pipeline.predictor import Context, Forecast

QUANTITIES = ("mean", "q10", "q50", "q90")
NOTHING = Context(
    np.zeros((1, 1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1, 1), bool), np.zeros((1, 1), int), np.zeros((1, 1), "f4")
)


@dataclass(frozen=True)
class Fixed:
    """Says the same, whatever it sees; None: it lacks frames."""

    said: Forecast | None

    def predict(self, context: Context, horizon: int) -> Forecast:
        if self.said is None:
            raise NotEnoughFramesError
        return self.said


def forecast(layers: list[NDArray[np.floating]], quantities: tuple[str, ...] = ("mean",)) -> Forecast:
    """Of layers ``(lead, y, x, band)``."""
    values = np.stack(layers, axis=1)[None].astype(np.float32)
    shape = (1, values.shape[1], *values.shape[3:5])
    return Forecast(values, np.ones(shape, np.uint8), np.zeros(shape, np.float32), quantities)


def contest(seed: int, model: tuple[float, ...] = (1.0,), baseline: tuple[float, ...] = (1.0,)) -> Contest:
    """Errors independent of each other, with these standard deviations by lead; an interval of 2 around the median."""
    rng = np.random.default_rng(seed)
    shape = (len(model), 60, 60, 1)
    truth = rng.normal(size=shape).astype(np.float32)
    near, far = (truth + rng.normal(size=shape) * np.reshape(spread, (-1, 1, 1, 1)) for spread in (model, baseline))
    said = forecast([near, near - 1, near, near + 1], QUANTITIES)
    return Contest(said, forecast([far]), truth)


def error(said: NDArray[np.float32], truth: NDArray[np.float32], power: int) -> float:
    return float((np.abs(said[0] - truth).astype(np.float64) ** power).mean())


def test_many_init_times_give_the_weight_that_is_best() -> None:
    guard = fit(contest(seed, (1.0, 2.0), (2.0, 1.0)) for seed in range(100))
    back = 0.0283  # from there the squared error is half a per cent over the least
    np.testing.assert_allclose(guard.weight("mean")[:, 0], [0.8 + back, 0.2 + back], atol=0.02)
    np.testing.assert_allclose(guard.weight("q50")[:, 0], [0.8, 0.2], atol=0.05)


@pytest.mark.parametrize(("quantity", "power"), [("mean", 2), ("q50", 1)])
def test_a_blend_beats_model_and_baseline_where_both_know_something(quantity: str, power: int) -> None:
    guard, new = fit(contest(seed) for seed in range(10)), contest(99)
    best = error(blended(new.model, new.baseline, guard).of(quantity), new.truth, power)
    assert best < error(new.model.of(quantity), new.truth, power)
    assert best < error(new.baseline.of("mean"), new.truth, power)


def test_no_evidence_gives_the_baseline_more_than_it_has_earned() -> None:
    weights = [fit(contest(seed) for seed in range(count)).weight("mean")[0, 0] for count in (1, 3, 10, 40)]
    assert weights == sorted(weights, reverse=True)
    np.testing.assert_allclose(weights, [1 - 0.4646 * count / (count + 2) for count in (1, 3, 10, 40)], atol=0.02)


def test_a_baseline_that_adds_nothing_gets_no_weight() -> None:
    given = contest(0)
    worse = replace(given, baseline=forecast([2 * given.model.of("mean")[0] - given.truth]))
    for quantity in ("mean", "q50"):
        assert fit([worse]).weight(quantity) == 1


@pytest.mark.parametrize(("kept", "strewn", "weight"), [(0.99, 0.15, 0.0), (0.9, 0.3, 0.77)])
def test_a_slight_gain_earns_the_baseline_nothing(kept: float, strewn: float, weight: float) -> None:
    """Baselines that err as the model does, nearly: a blend gains 0.4 % with the first, the second is 10 % better."""
    rng = np.random.default_rng(1)
    one = contest(0)
    errors = one.model.of("mean")[0] - one.truth
    layer = one.truth + kept * errors + rng.normal(scale=strewn, size=errors.shape)
    guard = fit([replace(one, baseline=forecast([layer]))] * 100)
    assert 1 - guard.weight("mean")[0, 0] == pytest.approx(weight, abs=0.05)


def test_weights_lie_between_none_and_all() -> None:
    given = contest(0)
    perfect = replace(given, baseline=forecast([given.truth]))
    halfway = replace(given, baseline=forecast([(given.model.of("mean")[0] + given.truth) / 2]))
    for one in (perfect, halfway):
        for quantity in ("mean", "q50"):
            np.testing.assert_allclose(fit([one] * 50).weight(quantity), 2 / 52, atol=0.003)


def test_what_nobody_could_see_counts_for_nothing() -> None:
    given = contest(0, (1.0, 1.0), (1.0, 1.0))
    truth = given.truth.copy()
    truth[1] = np.nan
    guard = fit([replace(given, truth=truth)])
    np.testing.assert_array_equal(guard.inits, [[1], [0]])
    for quantity in ("mean", "q50"):
        assert guard.weight(quantity)[1] == 1
    holes = truth.copy()
    holes[0, :30] = np.nan
    assert fit([replace(given, truth=holes)]).count[0, 0] == 30 * 60


def test_quantiles_move_along_with_the_median_and_the_mean_on_its_own() -> None:
    guard, new = fit(contest(seed) for seed in range(10)), contest(99)
    said = blended(new.model, new.baseline, guard)
    moved = said.values - new.model.values
    np.testing.assert_allclose(moved[:, :, 1], moved[:, :, 2], atol=1e-6)
    np.testing.assert_allclose(moved[:, :, 3], moved[:, :, 2], atol=1e-6)
    apart = replace(guard, cross=np.zeros_like(guard.cross))
    np.testing.assert_array_equal(blended(new.model, new.baseline, apart).of("mean"), new.model.of("mean"))


def test_where_the_baseline_knows_nothing_the_model_stands_alone() -> None:
    guard, new = fit(contest(seed) for seed in range(10)), contest(99)
    values = new.baseline.values.copy()
    values[..., :20, :] = np.nan
    said = Guarded(Fixed(new.model), Fixed(replace(new.baseline, values=values)), guard).predict(NOTHING, 1)
    np.testing.assert_array_equal(said.values[..., :20, :], new.model.values[..., :20, :])
    assert (said.values[..., 20:, :] != new.model.values[..., 20:, :]).any()
    assert Guarded(Fixed(new.model), Fixed(None), guard).predict(NOTHING, 1) is new.model


def test_what_the_model_leaves_unknown_stays_unknown() -> None:
    guard, new = fit(contest(seed) for seed in range(10)), contest(99)
    values = new.model.values.copy()
    values[..., :20, :] = np.nan
    said = blended(replace(new.model, values=values), new.baseline, guard)
    np.testing.assert_array_equal(np.isnan(said.values), np.isnan(values))


def test_a_model_without_a_median_is_guarded_too() -> None:
    given = [contest(seed) for seed in range(5)]
    alone = [replace(one, model=forecast([one.model.of("mean")[0]])) for one in given]
    guard = fit(alone)
    np.testing.assert_array_equal(guard.weight("mean"), fit(given).weight("mean"))
    assert guard.weight("q50") == 1
    assert blended(alone[0].model, alone[0].baseline, guard).quantities == ("mean",)


def test_newer_truths_turn_the_weight_and_more_so_with_a_shorter_half_life() -> None:
    guard = fit(contest(seed, (1.0,), (2.0,)) for seed in range(10))
    newer = [contest(seed, (2.0,), (1.0,)) for seed in range(20, 26)]
    weights = [guard.weight("mean"), *(updated(guard, newer, half_life=life).weight("mean") for life in (50, 12, 6))]
    assert [float(weight[0, 0]) for weight in weights] == sorted((float(w[0, 0]) for w in weights), reverse=True)


def test_evidence_of_init_times_adds_up_in_any_order() -> None:
    one, other = (Guard.of(contest(seed)) for seed in (0, 1))
    for quantity in ("mean", "q50"):
        np.testing.assert_allclose((one + other).weight(quantity), (other + one).weight(quantity))


def test_json_keeps_everything() -> None:
    guard = fit(contest(seed, (1.0, 2.0), (1.0, 1.0)) for seed in range(3))
    again = Guard.from_json(json.loads(json.dumps(guard.to_json(), allow_nan=False)))
    assert again.to_json() == guard.to_json()
    for quantity in ("mean", "q50"):
        np.testing.assert_array_equal(again.weight(quantity), guard.weight(quantity))


def test_misuse_is_refused() -> None:
    with pytest.raises(NotEnoughFramesError, match="at least one init time"):
        fit([])
    guard, longer = fit([contest(0)]), contest(1, (1.0, 1.0), (1.0, 1.0))
    with pytest.raises(ModelError, match="fit it again"):
        Guarded(Fixed(longer.model), Fixed(longer.baseline), guard).predict(NOTHING, 2)
    with pytest.raises(ValueError, match="follow the median"):
        guard.weight("q90")
