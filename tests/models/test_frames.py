import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.frames import CovariatePatches, NewestValid, PatchMask, fold, unfold

Array = NDArray[np.float32]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def newest_valid(frames: Array, validity: Array, ages: Array, bands: tuple[int, ...] = (0,)) -> tuple[Array, Array]:
    values, known, _ = NewestValid(bands)(frames, validity, ages)
    return np.asarray(values), np.asarray(known)


def series(values: list[float], valid: list[int], ages: list[float]) -> tuple[list[float], list[float]]:
    def shaped(numbers: list[float] | list[int]) -> Array:
        return np.array(numbers, "float32").reshape(1, -1, 1, 1, 1)

    frames = shaped(values) * shaped(valid)
    found, known = newest_valid(frames, shaped(valid), np.array([ages], "float32"))
    return found.ravel().tolist(), known.ravel().tolist()


def test_unfold_undoes_fold(rng: np.random.Generator) -> None:
    sequence = rng.normal(size=(2, 3, 4, 5, 6)).astype("float32")
    np.testing.assert_array_equal(np.asarray(unfold(fold(sequence), 3)), sequence)


@pytest.mark.parametrize(
    ("valid", "newest_and_rate", "known"),
    [
        ([1, 1, 1], [7, 4], [1, 1]),
        ([1, 1, 0], [3, 1], [1, 1]),
        ([1, 0, 1], [7, 2], [1, 1]),
        ([0, 1, 0], [3, 0], [1, 0]),
        ([0, 0, 0], [0, 0], [0, 0]),
    ],
)
def test_newest_valid_value_and_its_rate_a_slot_skip_what_is_missing(
    valid: list[int], newest_and_rate: list[float], known: list[int]
) -> None:
    assert series([1, 3, 7], valid, ages=[3, 1, 0]) == (newest_and_rate, known)


def test_two_acquisitions_of_nearly_one_time_do_not_blow_up_the_rate() -> None:
    assert series([1, 2], [1, 1], ages=[0.01, 0])[0] == [2, 2]


@pytest.mark.parametrize(("valid", "age"), [([1, 1, 1], 0), ([1, 1, 0], 1), ([1, 0, 0], 3), ([0, 0, 0], 0)], ids=str)
def test_the_age_of_the_newest_value_is_that_of_its_frame_and_0_where_there_is_none(valid: list[int], age: int) -> None:
    validity = np.array(valid, "float32").reshape(1, -1, 1, 1, 1)
    ages = np.array([[3, 1, -0.2]], "float32")  # the scene of the init slot was acquired a little after the slot's time
    found = NewestValid((0,))(2 * validity, validity, ages)[2]
    assert np.asarray(found).ravel().tolist() == [age]


def test_each_band_of_a_pixel_has_an_age_of_its_own() -> None:
    validity = np.ones((1, 2, 1, 2, 2), "float32")
    validity[0, 1, 0, 1, 0] = 0
    found = NewestValid((0, 1))(validity, validity, np.array([[4, 1]], "float32"))[2]
    assert np.asarray(found).tolist() == [[[[1, 1], [4, 1]]]]


def test_bands_are_chosen_in_the_order_asked(rng: np.random.Generator) -> None:
    frames = rng.normal(size=(2, 3, 4, 4, 3)).astype("float32")
    ages = np.tile(np.array([2, 1, 0], "float32"), (2, 1))
    values, _ = newest_valid(frames, np.ones_like(frames), ages, bands=(2, 0))
    np.testing.assert_array_equal(values[..., :2], frames[:, -1][..., [2, 0]])
    np.testing.assert_allclose(values[..., 2:], (frames[:, -1] - frames[:, -2])[..., [2, 0]], atol=1e-6)


def test_a_patch_is_usable_as_soon_as_one_pixel_of_one_band_is() -> None:
    validity = np.zeros((1, 2, 4, 8, 2), "float32")
    validity[0, 1, 3, 5, 1] = 1
    mask = np.asarray(PatchMask(4)(validity))
    assert mask.tolist() == [[[[0, 0]], [[0, 1]]]]


def test_covariates_are_means_over_patches_of_the_frames_and_then_of_the_leads(rng: np.random.Generator) -> None:
    told = rng.normal(size=(2, 5, 4, 8, 3)).astype("float32")
    of_frames, of_leads = (np.asarray(part) for part in CovariatePatches(2, 4)(told))
    means = told.reshape(2, 5, 1, 4, 2, 4, 3).mean(axis=(3, 5))
    np.testing.assert_allclose(of_frames, means[:, :2], atol=1e-6)
    np.testing.assert_allclose(of_leads, means[:, 2:], atol=1e-6)


@pytest.mark.parametrize(
    "layer", [NewestValid((1, 0), name="a"), PatchMask(4, name="a"), CovariatePatches(2, 4, name="a")]
)
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
