from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.losses import loss_of
from models.networks import Kind, NetworkSpec, build
from models.optimisation import Arrays
from models.validation import Judge, newest, skill
from pipeline.chips import Chips
from pipeline.errors import NotEnoughFramesError
from pipeline.normalise import Statistics, Transform

SPEC = NetworkSpec(3, 2, 2, (1,), kind=Kind.HEAD, head_units=3)
CASCADE = replace(SPEC, kind=Kind.CASCADE)
RAIN = Statistics((1.2,), (0.8,), "snapshot", (Transform("log", floor=0.0, x0=0.1, deviation=2.0),))


def holed(seed: int = 3) -> Chips:
    """Three frames of two bands, two leads of the second one; holes in all of them."""
    random = np.random.default_rng(seed)
    frames = random.normal(size=(2, 3, 8, 12, 2)).astype(np.float32)
    frames[random.random(frames.shape) < 0.5] = np.nan
    targets = random.normal(size=(2, 2, 8, 12, 1)).astype(np.float32)
    targets[random.random(targets.shape) < 0.3] = np.nan
    return Chips(frames, np.zeros((2, 3), np.float32), targets)


def known(chips: Chips) -> NDArray[np.bool_]:
    return np.isfinite(chips.targets) & np.isfinite(newest(chips, (1,)))


def weights(spec: NetworkSpec, strength: float = 0.0) -> Arrays:
    """Of a network whose cascade takes a part of every scale away."""
    keras.utils.set_random_seed(1)
    model: Any = build(spec)
    cascade = model.get_layer("head").cascade
    cascade.assign(np.broadcast_to(np.tile([strength, 0], cascade.shape[1] // 2)[None, :, None], cascade.shape))
    return tuple(model.get_weights())


def test_the_newest_value_of_each_pixel_is_repeated_for_every_lead() -> None:
    chips = holed()
    found = newest(chips, (1,))
    assert found.shape == chips.targets.shape
    for item, y, x in np.ndindex(2, 8, 12):
        seen = chips.frames[item, :, y, x, 1]
        expected = seen[np.isfinite(seen)][-1:] if np.isfinite(seen).any() else [np.nan]
        for lead in range(2):
            np.testing.assert_array_equal(found[item, lead, y, x], expected)


def test_the_reference_is_the_extrapolation_where_target_and_newest_value_are_known() -> None:
    chips = holed()
    counts = known(chips)
    assert 0 < counts.sum() < np.isfinite(chips.targets).sum()
    judge = Judge.over([chips, holed(4)], SPEC, loss_of(SPEC.levels))
    errors = [(newest(one, (1,)) - one.targets)[known(one)] for one in judge.chips]
    assert judge.reference == pytest.approx(float((np.concatenate(errors).astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("spec", [SPEC, CASCADE], ids=[SPEC.kind, CASCADE.kind])
def test_an_untrained_network_is_as_good_as_the_reference(spec: NetworkSpec) -> None:
    judge = Judge.over([holed()], spec, loss_of(spec.quantile_levels))
    verdict = judge.measure(weights(spec))
    assert verdict.squared == pytest.approx(judge.reference, rel=1e-6)
    assert verdict.loss >= verdict.squared * (1 - 1e-6)  # the quantiles cost something, the mean costs its square


def test_a_cascade_is_measured_by_its_mean_alone_and_over_all_chips_alike() -> None:
    chips = [holed(), holed(4)]
    judge = Judge.over(chips, CASCADE, loss_of(()))
    found = judge.measure(weights(CASCADE, 0.5))
    errors = [(0.5 * newest(one, (1,)) - one.targets)[known(one)] for one in chips]
    expected = float((np.concatenate(errors).astype(np.float64) ** 2).mean())
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.squared == pytest.approx(expected, rel=1e-5)
    assert 0 < skill(found.squared, judge.reference) < 1


def test_targets_where_no_newest_value_is_known_count_for_nobody() -> None:
    chips = holed()
    spoiled = replace(chips, targets=np.where(known(chips), chips.targets, np.float32(1e3)))
    spoiled.targets[~np.isfinite(newest(chips, (1,)))] = 1e3
    clean = replace(chips, targets=np.where(np.isfinite(newest(chips, (1,))), spoiled.targets, np.float32(np.nan)))
    judges = [Judge.over([one], SPEC, loss_of(SPEC.levels)) for one in (spoiled, clean)]
    assert judges[0].reference == judges[1].reference
    assert judges[0].measure(weights(SPEC, 0.2)) == judges[1].measure(weights(SPEC, 0.2))


def test_errors_of_a_band_on_a_logarithmic_scale_are_those_of_its_values() -> None:
    random = np.random.default_rng(0)
    rain = random.gamma(0.3, size=(1, 3, 8, 8, 1)).astype(np.float32)
    coming = random.gamma(0.3, size=(1, 2, 8, 8, 1)).astype(np.float32)
    chips = Chips(RAIN.scale(rain), np.zeros((1, 3), np.float32), RAIN.scale(coming))
    spec = replace(CASCADE, bands_in=1, bands_out=(0,))
    judge = Judge.over([chips], spec, loss_of((), RAIN))
    expected = float(((rain[:, -1:] - coming) ** 2).mean()) / RAIN.linear_deviation[0] ** 2
    assert judge.reference == pytest.approx(expected, rel=1e-4)
    assert judge.measure(weights(spec)).squared == pytest.approx(expected, rel=1e-4)


def test_the_best_weights_are_kept_whatever_is_measured_after_them() -> None:
    judge = Judge.over([holed()], CASCADE, loss_of(()))
    candidates = {strength: weights(CASCADE, strength) for strength in (0.0, 0.8, -1.0, 0.1)}
    verdicts = {strength: judge.measure(one) for strength, one in candidates.items()}
    best = min(verdicts, key=lambda strength: verdicts[strength].loss)
    assert best == 0.8
    assert judge.least == verdicts[best].loss
    for kept, expected in zip(judge.best, candidates[best], strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_chips_without_a_pixel_to_score_are_an_error() -> None:
    chips = holed()
    blind = replace(chips, targets=np.full_like(chips.targets, np.nan))
    with pytest.raises(NotEnoughFramesError, match="none in 2 batches: check nodata and masks"):
        Judge.over([blind, blind], SPEC, loss_of(SPEC.levels))


def test_skill_is_the_part_of_the_reference_that_is_gone() -> None:
    assert (skill(0, 2), skill(1, 2), skill(2, 2)) == (1, 0.5, 0)
    assert np.isnan(skill(0, 0))
