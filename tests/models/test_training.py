from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow
from numpy.typing import NDArray

from models.networks import NetworkSpec
from models.prediction import network_inputs
from models.training import PATIENCE, Fitted, Progress, _skill, fit, newest, squared_error
from pipeline.chips import ChipReader, Chips
from pipeline.config import TrainingSpec
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.grid import Window

NETWORK = NetworkSpec(2, 1, 1, (0,), patch=4, filters=4, attention_units=2)
SPEC = TrainingSpec(chip=16, batch=2, steps_per_epoch=1, epochs=12, learning_rate=0.02)


@dataclass
class Notes:
    """Keeps what a training says."""

    told: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def parameters(self, values: Mapping[str, Any]) -> None:
        raise AssertionError(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((step, values))

    def artifact(self, path: Path, folder: str) -> None:
        raise AssertionError(path, folder)


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Tracing a network takes 4 CPU-s, a step without it 0.2."""
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


def toy(factor: float, seed: int = 0) -> Chips:
    """What comes is the newest frame, ``factor`` times as strong."""
    frames = np.random.default_rng(seed).normal(size=(1, 2, 32, 32, 1)).astype(np.float32)
    return Chips(frames, np.array([[1, 0]], np.float32), np.float32(factor) * frames[:, -1:])


def train(spec: TrainingSpec, watching: Chips | None = None, **options: Any) -> Fitted:
    reader = ChipReader((toy(0.5),), Window(0, 32, 0, 32), (16, 16), spec.batch, spec.seed)
    validation = [reader.read(99)] if watching is None else [watching]
    return fit(NETWORK, spec, reader, validation, options.pop("notes", Notes()), **options)


def changed(**values: Any) -> TrainingSpec:
    return SPEC.model_copy(update=values)


def weights(fitted: Fitted) -> list[NDArray[np.float32]]:
    return fitted.model.get_weights()


@pytest.mark.slow
def test_an_easy_lesson_is_learned_and_the_same_seed_learns_it_alike() -> None:
    """On one machine: equal sums in equal order, by as many threads."""
    first, again = (train(changed(steps_per_epoch=12, epochs=4)) for _ in range(2))
    losses = [epoch["loss"] for epoch in first.history]
    assert losses[-1] < 0.5 * losses[0]
    assert first.best["val_skill"] > 0.7
    assert first.history == again.history
    assert all(np.array_equal(one, two) for one, two in zip(weights(first), weights(again), strict=True))


@pytest.mark.usefixtures("eagerly")
def test_patience_ends_a_training_that_gets_worse_and_its_best_weights_are_kept() -> None:
    watching, notes = toy(1.5), Notes()
    fitted = train(SPEC, watching, notes=notes)
    errors = [epoch["val_loss"] for epoch in fitted.history]
    assert errors == sorted(errors)
    assert len(errors) == 1 + PATIENCE
    assert fitted.best == fitted.history[0]
    inputs = network_inputs(watching.frames, watching.ages, NETWORK.patch)
    kept = squared_error([watching], (0,), lambda _: np.asarray(fitted.model(inputs)["forecast"]))
    assert kept == pytest.approx(errors[0], rel=1e-6)
    assert notes.told == list(enumerate(fitted.history))


@pytest.mark.usefixtures("eagerly")
def test_a_training_without_time_left_stops_at_once_with_a_result() -> None:
    told: list[Progress] = []
    fitted = train(changed(budget=timedelta(microseconds=1), steps_per_epoch=50), progress=told.append)
    assert [(one.epoch, one.epochs, one.step, one.steps) for one in told] == [(1, 12, 1, 50)]
    assert len(fitted.history) == 1
    assert told[0].loss == pytest.approx(fitted.history[0]["loss"])


@pytest.mark.usefixtures("eagerly")
def test_a_training_of_a_single_step_is_a_training_and_its_seed_matters() -> None:
    one, other = train(changed(epochs=1)), train(changed(epochs=1, seed=1))
    assert len(one.history) == len(other.history) == 1
    assert one.history != other.history


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_diverges_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"epoch \d.*lower training\.learning_rate"):
        train(changed(learning_rate=1e30, steps_per_epoch=3))


@pytest.mark.usefixtures("eagerly")
def test_validation_without_a_pixel_to_score_is_an_error() -> None:
    blind = replace(toy(1), targets=np.full_like(toy(1).targets, np.nan))
    with pytest.raises(NotEnoughFramesError, match="none in 1 batches: check nodata and masks"):
        train(SPEC, blind)


# --- what is measured -----------------------------------------------------------------------------


def holed() -> Chips:
    """Three frames of two bands, two leads of the second one; holes in all of them."""
    random = np.random.default_rng(3)
    frames = random.normal(size=(2, 3, 8, 9, 2)).astype(np.float32)
    frames[random.random(frames.shape) < 0.5] = np.nan
    targets = random.normal(size=(2, 2, 8, 9, 1)).astype(np.float32)
    targets[random.random(targets.shape) < 0.3] = np.nan
    return Chips(frames, np.zeros((2, 3), np.float32), targets)


def test_the_newest_value_of_each_pixel_is_repeated_for_every_lead() -> None:
    chips = holed()
    found = newest(chips, (1,))
    assert found.shape == chips.targets.shape
    for item, y, x in np.ndindex(2, 8, 9):
        seen = chips.frames[item, :, y, x, 1]
        expected = seen[np.isfinite(seen)][-1:] if np.isfinite(seen).any() else [np.nan]
        for lead in range(2):
            np.testing.assert_array_equal(found[item, lead, y, x], expected)


def test_an_error_is_the_mean_over_pixels_whose_target_and_newest_value_are_known() -> None:
    chips = holed()
    known = np.isfinite(chips.targets) & np.isfinite(newest(chips, (1,)))
    assert 0 < known.sum() < np.isfinite(chips.targets).sum()
    found = squared_error([chips, chips], (1,), lambda one: np.zeros_like(one.targets))
    assert found == pytest.approx(float((chips.targets[known].astype(np.float64) ** 2).mean()))


def test_what_is_right_has_no_error_and_is_not_asked_for_what_nobody_can_know() -> None:
    chips = holed()
    unseen = np.isnan(newest(chips, (1,)))
    assert squared_error([chips], (1,), lambda one: np.where(unseen, np.float32(1e6), one.targets)) == 0


def test_saying_nothing_is_no_way_to_make_no_error() -> None:
    chips = holed()
    assert np.isnan(squared_error([chips], (1,), lambda one: np.full_like(one.targets, np.nan)))


def test_skill_is_the_part_of_the_reference_that_is_gone() -> None:
    assert (_skill(0, 2), _skill(1, 2), _skill(2, 2)) == (1, 0.5, 0)
    assert np.isnan(_skill(0, 0))
