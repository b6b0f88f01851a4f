from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.cascade import fit_cascade
from models.heads import PixelScales
from models.losses import loss_of
from models.networks import Kind, NetworkSpec, build
from models.pixels import RARE, Pixels, _usual, begin_with, draw_pixels, learn_head
from models.prediction import network_inputs
from models.validation import newest
from pipeline.chips import Chips
from pipeline.errors import NotEnoughFramesError

SPEC = NetworkSpec(2, 2, 2, (1,), patch=4, filters=3, attention_units=2, head_units=8, levels=(0.1, 0.5, 0.9))
CASCADE = replace(SPEC, kind=Kind.CASCADE)
HEAD = replace(SPEC, kind=Kind.HEAD)
SCALES = PixelScales(1, SPEC.patch).scales
Weights = dict[str, NDArray[np.float32]]


def fading(seed: int = 0, size: tuple[int, int] = (22, 30), strength: float = 0.5) -> Chips:
    """Half of what is there is left at the first lead, a quarter at the second, which is not always known."""
    random = np.random.default_rng(seed)
    frames = random.normal(size=(2, 2, *size, 2)).astype(np.float32)
    frames[:, :, 3:8, 5:11] = np.nan
    left = frames[:, -1, ..., 1:]
    targets = np.stack([strength * left, strength**2 * left], axis=1).astype(np.float32)
    targets[0, 1, 10:] = np.nan
    return Chips(frames, np.array([[1, 0]] * 2, np.float32), targets)


@pytest.fixture(scope="module")
def pixels() -> tuple[Pixels, Pixels]:
    return tuple(draw_pixels(SPEC, [fading(seed), fading(seed + 1)], 600, seed) for seed in (0, 7))


@pytest.fixture(scope="module")
def learned(pixels: tuple[Pixels, Pixels]) -> Weights:
    return learn_head(HEAD, *pixels, seed=3, epochs=3)


def test_what_is_drawn_are_pixels_of_the_chips_each_with_its_own_targets() -> None:
    chips = fading()
    drawn = draw_pixels(SPEC, [chips], 10_000, seed=0)
    assert drawn.seen.shape[1] == PixelScales(1, SPEC.patch).channels
    whole = newest(chips, (1,))[:, 0, ..., 0]
    assert len(drawn.seen) == np.isfinite(whole).sum()  # no more than there are, each once
    np.testing.assert_array_equal(np.sort(drawn.seen[:, 0]), np.sort(whole[np.isfinite(whole)]))
    np.testing.assert_array_equal(drawn.targets[:, 0, 0], drawn.seen[:, 0] / 2)
    second = drawn.targets[:, 1, 0]
    assert 0 < np.isnan(second).sum() < len(second)
    np.testing.assert_array_equal(second[np.isfinite(second)], drawn.seen[np.isfinite(second), 0] / 4)


def test_as_many_are_drawn_from_each_batch_and_one_seed_draws_alike() -> None:
    chips = [fading(0), fading(1), fading(2, size=(8, 12))]
    first, again, other = (draw_pixels(SPEC, chips, 60, seed) for seed in (0, 0, 1))
    assert first.seen.shape[0] == first.targets.shape[0] == 180
    assert len(np.unique(first.seen[:, 0])) == 180
    np.testing.assert_array_equal(again.seen, first.seen)
    assert (other.seen != first.seen).any()


def test_a_pixel_that_nobody_knows_now_or_later_is_not_drawn() -> None:
    chips = fading()
    late = replace(chips, targets=np.where(np.arange(30)[:, None] < 4, chips.targets, np.float32(np.nan)))
    drawn = draw_pixels(SPEC, [late], 10_000, seed=0)
    assert len(drawn.seen) == np.isfinite(newest(chips, (1,))[:, 0, :, :4]).sum()
    with pytest.raises(NotEnoughFramesError, match="found none: check nodata and masks"):
        draw_pixels(SPEC, [replace(chips, targets=np.full_like(chips.targets, np.nan))], 10, seed=0)


def test_a_cascade_is_fitted_and_nothing_else(pixels: tuple[Pixels, Pixels]) -> None:
    training, _ = pixels
    found = learn_head(CASCADE, *pixels, seed=0)
    scales = training.seen[:, 1 : 1 + SCALES]
    assert found.keys() == {"cascade"}
    np.testing.assert_array_equal(found["cascade"], fit_cascade(training.seen[:, :1], scales, training.targets))


def said(weights: Weights, chips: Chips, spec: NetworkSpec = HEAD) -> NDArray[np.float32]:
    """``(batch, lead, y, x, quantity)``."""
    model: Any = build(spec)
    begin_with(model, weights)
    forecast = np.asarray(model(network_inputs(chips.frames, chips.ages, spec.patch))["forecast"])
    return forecast[:, :, : chips.frames.shape[2], : chips.frames.shape[3]]


def test_a_head_learns_what_comes_and_how_sure_it_is(learned: Weights, pixels: tuple[Pixels, Pixels]) -> None:
    chips = fading(11)
    known = np.isfinite(chips.targets[..., 0])
    errors = [
        np.square(one - chips.targets)[known].mean() for one in (newest(chips, (1,)), said(learned, chips)[..., :1])
    ]
    assert errors[1] < 0.02 * errors[0]
    low, high = said(learned, chips)[..., 1], said(learned, chips)[..., 3]
    inside = (chips.targets[..., 0] >= low) & (chips.targets[..., 0] <= high)
    assert inside[known].mean() > 0.5
    training, _ = pixels
    scale = np.sqrt((training.seen[:, :-1] ** 2).mean(axis=0))  # the last channel is the age, which never varied
    np.testing.assert_allclose(learned["usual"][:-1], scale, rtol=1e-4)


def test_ages_that_nothing_was_learned_of_say_nothing(learned: Weights) -> None:
    chips = fading(20)
    late = replace(chips, frames=chips.frames.copy())
    late.frames[:, -1, 10:14, 20:26] = np.nan  # here the frame before is the newest, as it never was in training
    age = np.where(np.arange(len(learned["of_pixels/kernel"])) == len(learned["usual"]) - 1, -1, 1)[:, None]
    turned = learned | {"of_pixels/kernel": (age * learned["of_pixels/kernel"]).astype(np.float32)}
    np.testing.assert_allclose(said(learned, late), said(turned, late), atol=1e-5)


def test_a_rare_flag_is_no_enormous_one_and_one_that_never_was_says_nothing() -> None:
    seen = np.zeros((10_000, 5), np.float32)
    seen[:, 0], seen[:, 1], seen[:, 2] = 2, 0.01, 1
    seen[0, 3] = 1
    usual = _usual(seen, flags=3)
    np.testing.assert_allclose(usual[:4], [2, 0.01, 1, RARE], rtol=1e-4)
    assert 1 / usual[4] < 1e-6


def test_the_cascade_stays_as_it_was_fitted_and_one_seed_learns_alike(
    learned: Weights, pixels: tuple[Pixels, Pixels]
) -> None:
    np.testing.assert_array_equal(learned["cascade"], learn_head(CASCADE, *pixels, seed=3)["cascade"])
    again = learn_head(HEAD, *pixels, seed=3, epochs=3)
    for name, weight in learned.items():
        np.testing.assert_array_equal(again[name], weight)


def test_the_epoch_that_is_best_on_the_validation_pixels_is_kept(pixels: tuple[Pixels, Pixels]) -> None:
    """Where truths are the other way round than in training, every epoch makes it worse: the first one is kept."""
    training, validation = pixels
    shifted = Pixels(training.seen, training.targets + 1)
    contrary = Pixels(validation.seen, validation.targets - 1)

    def moved(watching: Pixels) -> float:
        return float(np.abs(learn_head(HEAD, shifted, watching, seed=0, epochs=6)["offsets"]).max())

    assert moved(contrary) < 0.5 * moved(Pixels(validation.seen, validation.targets + 1))


@pytest.mark.parametrize("kind", [Kind.ATTENTION, Kind.CONVLSTM])
def test_a_network_that_begins_with_a_head_says_what_the_head_alone_says(learned: Weights, kind: str) -> None:
    """Nobody listens to its branch yet, whose weights stay as they were."""
    chips, spec = fading(12), replace(SPEC, kind=kind)
    np.testing.assert_array_equal(said(learned, chips, spec), said(learned, chips))
    keras.utils.set_random_seed(0)
    model: Any = build(spec)
    before = {weight.path: np.asarray(weight).copy() for weight in model.weights}
    begin_with(model, learned)
    changed = {weight.path for weight in model.weights if (np.asarray(weight) != before[weight.path]).any()}
    assert changed
    assert all(path.startswith("head/") and "of_features" not in path for path in changed)


def test_pixels_are_judged_on_the_scale_of_the_chips(learned: Weights, pixels: tuple[Pixels, Pixels]) -> None:
    """The loss that a head learns from is that of the network: same axes, same order of quantities."""
    training, _ = pixels
    chips = fading()
    loss = loss_of(SPEC.levels)
    whole = float(loss(chips.targets, said(learned, chips)))
    untrained = float(loss(chips.targets, said({}, chips)))
    assert whole < 0.5 * untrained
    assert training.targets.shape[1:] == (SPEC.horizon, 1)
