import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.encoders import FramePatches, StackedConvLSTM

Array = NDArray[np.float32]


@pytest.fixture
def rng() -> np.random.Generator:
    keras.utils.set_random_seed(4)
    return np.random.default_rng(4)


def patches(layer: FramePatches, frames: Array, told: Array | None = None) -> Array:
    ages = np.tile(np.arange(frames.shape[1])[::-1], (len(frames), 1)).astype("float32")
    given = (frames, np.ones_like(frames), ages)
    return np.asarray(layer(*given) if told is None else layer(*given, told))


def test_each_frame_is_seen_on_its_own(rng: np.random.Generator) -> None:
    layer, frames = FramePatches(5, 4), rng.normal(size=(2, 3, 16, 8, 2)).astype("float32")
    changed = frames.copy()
    changed[:, 1] += 1
    before, after = patches(layer, frames), patches(layer, changed)
    assert before.shape == (2, 3, 4, 2, 5)
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
    assert np.abs(after[:, 1] - before[:, 1]).max() > 1e-3


def test_the_age_of_a_frame_is_seen(rng: np.random.Generator) -> None:
    frames = np.repeat(rng.normal(size=(1, 1, 8, 8, 1)).astype("float32"), 2, axis=1)
    found = patches(FramePatches(5, 4), frames)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_what_is_told_of_a_patch_is_seen_there(rng: np.random.Generator) -> None:
    layer = FramePatches(5, 2, kernel_size=1, covariates=3)
    frames, told = np.zeros((1, 2, 4, 4, 1), "float32"), np.zeros((1, 2, 2, 2, 3), "float32")
    before = patches(layer, frames, told)
    told[0, 1, 0, 1] = 1
    moved = np.abs(patches(layer, frames, told) - before).max(axis=-1) > 1e-6
    assert np.argwhere(moved).tolist() == [[0, 1, 0, 1]]


def test_stacked_states_are_normalised_at_each_pixel(rng: np.random.Generator) -> None:
    states = np.asarray(StackedConvLSTM(16)(rng.normal(size=(2, 3, 5, 4, 6)).astype("float32")))
    assert states.shape == (2, 3, 5, 4, 16)
    np.testing.assert_allclose(states.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(states.std(axis=-1), 1, atol=0.2)


def test_stacked_states_see_no_later_frame_and_no_other_sample(rng: np.random.Generator) -> None:
    layer, frames = StackedConvLSTM(4), rng.normal(size=(2, 3, 5, 4, 6)).astype("float32")
    changed = frames.copy()
    changed[1, 1] *= -1
    before, after = np.asarray(layer(frames)), np.asarray(layer(changed))
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    np.testing.assert_allclose(after[1, 0], before[1, 0], atol=1e-6)
    assert np.abs(after[1, 1:] - before[1, 1:]).max() > 1e-3


def test_depth_is_how_far_frames_of_one_time_see() -> None:
    one_pixel = np.zeros((1, 1, 9, 9, 2), "float32")
    for depth, reach in ((1, 1), (3, 3)):
        layer, changed = StackedConvLSTM(4, depth), one_pixel.copy()
        changed[0, 0, 4, 4, 0] = 5
        moved = np.abs(np.asarray(layer(changed)) - np.asarray(layer(one_pixel))).max(axis=(0, 1, 4)) > 0
        assert np.flatnonzero(moved.any(axis=0)).tolist() == list(range(4 - reach, 5 + reach))


@pytest.mark.parametrize("layer", [FramePatches(5, 2, 1, 3, name="a"), StackedConvLSTM(5, 3, 1, name="a")])
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
