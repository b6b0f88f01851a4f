from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.devices import engine
from models.losses import MaskedMeanSquaredError
from models.optimisation import Average, LossScale, Optimisation, learning_rate, make_optimizer, update_count
from models.seeds import deterministic
from pipeline.errors import ModelError
from pipeline.specs import TrainingSpec

Array = NDArray[np.float32]
SPEC = TrainingSpec(batch=4, steps_per_epoch=10, epochs=4, learning_rate=0.1, clip=0.5)


def changed(**values: Any) -> TrainingSpec:
    return SPEC.model_copy(update=values)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = np.array([learning_rate(SPEC, update) for update in range(update_count(SPEC) + 5)])
    peak = int(rates.argmax())
    assert rates[peak] == pytest.approx(SPEC.learning_rate)
    assert 0 < peak < len(rates) / 10
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert 0 < rates[-1] < 0.05 * SPEC.learning_rate


def test_the_schedule_counts_updates_not_steps() -> None:
    twice = changed(accumulate=2, steps_per_epoch=20)
    assert [learning_rate(twice, one) for one in range(40)] == [learning_rate(SPEC, one) for one in range(40)]


def test_a_training_of_one_step_has_a_learning_rate() -> None:
    assert learning_rate(changed(epochs=1, steps_per_epoch=1, accumulate=8), 0) > 0


def test_a_loss_scale_halves_at_once_and_doubles_after_a_long_time() -> None:
    scale = LossScale(1024.0)
    assert scale.after(finite=False) == LossScale(512.0)
    for _ in range(LossScale.PERIOD - 1):
        scale = scale.after(finite=True)
        assert scale.value == 1024
    assert scale.after(finite=True) == LossScale(2048.0)


def test_a_loss_scale_that_never_fits_is_an_error() -> None:
    scale = LossScale(LossScale.LEAST * 2).after(finite=False)
    with pytest.raises(ModelError, match=r"gradients in float16 stay finite.*mixed_bfloat16"):
        scale.after(finite=False)


def test_only_float16_is_scaled() -> None:
    assert LossScale.of("mixed_float16") == LossScale(LossScale.FIRST)
    assert LossScale.of("mixed_bfloat16") is LossScale.of("float32") is None


def test_an_average_forgets_where_it_began_and_then_moves_slowly() -> None:
    average, at = Average(0.99), (np.full(3, 100, np.float32),)
    steady = (np.ones(3, np.float32),)
    for update in range(60):
        at = average.follow(at, steady, update)
    np.testing.assert_allclose(at[0], 1, rtol=1e-3)
    assert at[0].dtype == np.float32
    later = average.follow(at, (np.full(3, 2, np.float32),), 10_000)
    np.testing.assert_allclose(later[0], 0.99 * at[0] + 0.02, rtol=1e-6)


# --- steps ----------------------------------------------------------------------------------------


def small(spec: TrainingSpec) -> Optimisation:
    """Two dense layers in the precision of the training."""

    def make() -> Any:
        frames = keras.Input((3,), name="frames")
        hidden = keras.layers.Dense(4, activation="tanh", dtype=spec.precision)(frames)
        return keras.Model({"frames": frames}, keras.layers.Dense(2, dtype="float32")(hidden))

    deterministic(spec.seed)
    device = engine(make, make_optimizer, MaskedMeanSquaredError(), devices=1, batch=spec.batch)
    return Optimisation(device, spec)


def batches(count: int) -> list[tuple[Array, Array]]:
    """Batches of eight whose first half has far fewer valid values than the second."""
    random = np.random.default_rng(0)
    made = [(random.normal(size=(8, 3)).astype("f4"), random.normal(size=(8, 2)).astype("f4")) for _ in range(count)]
    for _, targets in made:
        targets[:3] = np.nan
    return made


def taught(optimisation: Optimisation, lessons: list[tuple[Array, Array]]) -> Optimisation:
    for frames, targets in lessons:
        optimisation.step({"frames": frames}, targets)
    return optimisation


def halves(lessons: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    return [(frames[part], targets[part]) for frames, targets in lessons for part in (slice(4), slice(4, 8))]


@pytest.mark.parametrize("average", [0, 0.9])
def test_two_halves_of_a_batch_are_a_whole_one_whatever_is_missing_in_them(average: float) -> None:
    whole = taught(small(changed(average=average)), batches(6))
    shared = taught(small(changed(average=average, accumulate=2, steps_per_epoch=20)), halves(batches(6)))
    for one, other in zip(whole.weights, shared.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=1e-6)
    assert shared.rate == whole.rate


def test_weights_stay_where_they_are_until_enough_was_gathered() -> None:
    optimisation = small(changed(accumulate=3))
    before = optimisation.weights
    taught(optimisation, batches(2))
    assert all(np.array_equal(one, other) for one, other in zip(before, optimisation.weights, strict=True))
    taught(optimisation, batches(1))
    assert not all(np.array_equal(one, other) for one, other in zip(before, optimisation.weights, strict=True))


@pytest.mark.parametrize(
    ("precision", "at"), [("float32", 3), ("float32", 4), ("mixed_bfloat16", 3), ("mixed_float16", 3)]
)
def test_what_is_taken_out_and_put_into_another_goes_on_bit_by_bit(precision: str, at: int) -> None:
    spec = changed(precision=precision, average=0.9, accumulate=2)
    whole = taught(small(spec), batches(8))
    first = taught(small(spec), batches(8)[:at])
    second = small(spec.model_copy(update={"seed": 5}))
    second.restore(first.arrays(), first.numbers())
    taught(second, batches(8)[at:])
    assert second.numbers() == whole.numbers()
    for name, group in whole.arrays().items():
        assert [one.tobytes() for one in second.arrays()[name]] == [one.tobytes() for one in group], name


def test_clipping_goes_by_the_norm_of_all_gradients_together() -> None:
    """AdamW divides by the size of its gradients: what differs shows in its momentum."""
    frames, targets = batches(1)[0]
    found = {clip: taught(small(changed(clip=clip)), [(frames, 1e3 * targets)]) for clip in (0.5, 1.0)}
    first, second = ([np.abs(one).max() for one in each.arrays()["optimizer"][2:]] for each in found.values())
    ratios = np.array(second) / np.array(first)
    assert set(np.round(ratios, 3)) == {2, 4}  # momentum, and its square


def test_a_step_that_leaves_the_range_of_float16_is_skipped_and_the_next_one_is_scaled_less() -> None:
    optimisation = small(changed(precision="mixed_float16"))
    before = optimisation.weights
    frames, targets = batches(1)[0]
    loss = optimisation.step({"frames": frames}, 1e5 * targets)
    assert np.isfinite(loss)
    assert optimisation.numbers()["scale"] == LossScale.FIRST / 2
    assert all(np.array_equal(one, other) for one, other in zip(before, optimisation.weights, strict=True))
    for _ in range(20):
        optimisation.step({"frames": frames}, 1e5 * targets)
    assert all(np.isfinite(one).all() for one in optimisation.weights)
    assert not np.array_equal(before[0], optimisation.weights[0])


def test_a_batch_without_truth_is_no_step_into_the_unknown() -> None:
    optimisation = small(SPEC)
    frames, targets = batches(1)[0]
    assert optimisation.step({"frames": frames}, np.full_like(targets, np.nan)) == 0
    assert all(np.isfinite(one).all() for one in optimisation.weights)
