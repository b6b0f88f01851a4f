from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.pyramid import Enlarge, ScaleDetails, pooled, smoothed

Array = NDArray[np.float32]
PATCHES = [1, 2, 3, 4, 8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def field(rng: np.random.Generator, channels: int = 2) -> tuple[Array, Array]:
    known = (rng.random((2, 48, 24, channels)) < 0.8).astype("float32")
    return rng.normal(size=known.shape).astype("float32"), known


def split(array: Any, scales: int) -> Array:
    return np.stack(np.split(np.asarray(array), scales, axis=-1))


def rebuilt(layer: ScaleDetails, values: Array, known: Array) -> Array:
    fine, coarse = layer(values, known)
    sum_of_coarse = split(coarse, layer.coarse_scales).sum(axis=0)
    return split(fine, layer.fine_scales).sum(axis=0) + np.asarray(layer.enlarge(sum_of_coarse))


@pytest.mark.parametrize("patch", PATCHES)
def test_details_sum_to_the_field(rng: np.random.Generator, patch: int) -> None:
    values, known = field(rng)
    np.testing.assert_allclose(rebuilt(ScaleDetails(patch), values, known), values * known, atol=1e-5)


@pytest.mark.parametrize("patch", PATCHES)
def test_a_constant_field_with_holes_is_all_in_the_smoothest_version(rng: np.random.Generator, patch: int) -> None:
    _, known = field(rng)
    layer = ScaleDetails(patch)
    fine, coarse = layer(np.full_like(known, 3), known)
    details = split(coarse, layer.coarse_scales)
    np.testing.assert_allclose(details[-1], 3, atol=1e-5)
    np.testing.assert_allclose(details[:-1], 0, atol=1e-5)
    seen = np.tile(known, layer.fine_scales) > 0
    np.testing.assert_allclose(np.asarray(fine)[seen], 0, atol=1e-5)


def test_what_is_not_known_counts_in_no_average(rng: np.random.Generator) -> None:
    values, known = field(rng)
    spoiled = np.where(known > 0, values, 1e3).astype("float32")
    layer = ScaleDetails(4)
    for clean, dirty in zip(layer(values, known), layer(spoiled, known), strict=True):
        np.testing.assert_array_equal(np.asarray(dirty), np.asarray(clean))


def test_coarser_versions_hold_less_of_a_white_field(rng: np.random.Generator) -> None:
    values = rng.normal(size=(1, 256, 256, 1)).astype("float32")
    layer = ScaleDetails(4)
    details = split(layer(values, np.ones_like(values))[1], layer.coarse_scales)
    deviations = details.std(axis=(1, 2, 3, 4))
    assert (np.diff(deviations) < 0).all()


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_enlargement_is_the_bilinear_one_of_keras(rng: np.random.Generator, factor: int) -> None:
    images = rng.normal(size=(2, 5, 4, 3)).astype("float32")
    expected = keras.layers.UpSampling2D(factor, interpolation="bilinear")(images)
    np.testing.assert_allclose(np.asarray(Enlarge(factor)(images)), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_blocks_that_reach_over_the_edge_are_means_of_what_they_have(rng: np.random.Generator, factor: int) -> None:
    images = rng.normal(size=(2, 7, 5, 3)).astype("float32")
    found = np.asarray(pooled(images, factor))
    assert found.shape == (2, -(-7 // factor), -(-5 // factor), 3)
    for row, column in np.ndindex(found.shape[1:3]):
        block = images[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        np.testing.assert_allclose(found[:, row, column], block.mean(axis=(1, 2)), atol=1e-6)


def test_a_shift_of_whole_patches_shifts_the_details(rng: np.random.Generator) -> None:
    known = (rng.random((1, 192, 8, 1)) < 0.8).astype("float32")
    values, reach = rng.normal(size=known.shape).astype("float32"), 80  # px; more than the smoothest average sees
    layer = ScaleDetails(4)
    whole, moved = layer(values, known), layer(values[:, 8:], known[:, 8:])
    for before, after, unit in zip(whole, moved, (1, 4), strict=True):
        np.testing.assert_allclose(after[:, reach // unit :], before[:, (8 + reach) // unit :], atol=1e-5)


def test_a_field_smoothed_at_ever_wider_distances_is_the_spline_of_each_applied_to_the_one_before() -> None:
    point = np.zeros((1, 33, 33, 1), "float32")
    point[0, 16, 16, 0] = 1
    itself, near, far = (np.asarray(one)[0, :, :, 0] for one in smoothed(point, [1, 4]))
    np.testing.assert_array_equal(itself, point[0, :, :, 0])
    spline = np.array([1, 4, 6, 4, 1]) / 16
    np.testing.assert_allclose(near[14:19, 14:19], np.outer(spline, spline), atol=1e-7)
    away = (np.arange(33) - 16) ** 2
    spread = [float((one.sum(axis=0) * away).sum()) for one in (near, far)]
    assert spread == pytest.approx([1, 1 + 16], rel=1e-5)  # variances add up, that of the spline is 1


@pytest.mark.parametrize("layer", [Enlarge(3, name="a"), ScaleDetails(3, name="a")])
def test_configuration_makes_the_same_layer_again(layer: keras.layers.Layer) -> None:
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
