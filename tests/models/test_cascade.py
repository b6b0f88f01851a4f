import numpy as np
import pytest
from numpy.typing import NDArray

from models.cascade import fit_cascade

Array = NDArray[np.float32]
PIXELS, SCALES, LEADS, BANDS = 2000, 6, 3, 2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def fields(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Newest values, scales and the weights behind what comes."""
    newest = rng.normal(size=(PIXELS, BANDS)).astype("float32")
    scales = rng.normal(size=(PIXELS, SCALES)).astype("float32") * np.geomspace(0.2, 2, SCALES, dtype="float32")
    return newest, scales, rng.normal(size=(LEADS, SCALES, BANDS)).astype("float32")


def targets(newest: Array, scales: Array, weights: Array) -> Array:
    return newest[:, None] - np.einsum("ps,lsb->plb", scales, weights)


def test_weights_behind_the_targets_are_found_again(rng: np.random.Generator) -> None:
    newest, scales, weights = fields(rng)
    found = fit_cascade(newest, scales, targets(newest, scales, weights))
    assert (found.shape, found.dtype) == ((LEADS, SCALES, BANDS), np.float32)
    np.testing.assert_allclose(found, weights, atol=0.02)  # the ridge pulls the weakest scale by a part in 400


def test_noise_on_the_targets_hardly_moves_the_weights(rng: np.random.Generator) -> None:
    newest, scales, weights = fields(rng)
    met = targets(newest, scales, weights)
    noisy = met + rng.normal(scale=0.5, size=met.shape).astype("float32")
    np.testing.assert_allclose(fit_cascade(newest, scales, noisy), weights, atol=0.25)


def test_no_other_weights_come_nearer_to_the_targets(rng: np.random.Generator) -> None:
    newest, scales, _ = fields(rng)
    met = rng.normal(size=(PIXELS, LEADS, BANDS)).astype("float32") + newest[:, None] / 2
    found = fit_cascade(newest, scales, met)

    def error(weights: Array) -> float:
        return float(((targets(newest, scales, weights) - met) ** 2).mean())

    assert error(found) < error(np.zeros_like(found))
    for _ in range(20):
        assert error(found) < error(found + rng.normal(scale=0.02, size=found.shape).astype("float32"))


def test_pixels_without_a_target_do_not_count(rng: np.random.Generator) -> None:
    newest, scales, weights = fields(rng)
    met = targets(newest, scales, weights)
    holed = met.copy()
    holed[::3, 1, 0] = np.nan
    newest_of_lead, scales_of_lead = np.delete(newest, np.s_[::3], axis=0), np.delete(scales, np.s_[::3], axis=0)
    alone = fit_cascade(newest_of_lead, scales_of_lead, np.delete(met, np.s_[::3], axis=0))
    found = fit_cascade(newest, scales, holed)
    np.testing.assert_allclose(found[1], alone[1], atol=1e-6)
    np.testing.assert_array_equal(found[[0, 2]], fit_cascade(newest, scales, met)[[0, 2]])


@pytest.mark.parametrize("known", [0, SCALES - 1])
def test_a_lead_that_hardly_a_pixel_has_met_takes_the_weights_of_the_lead_before(
    rng: np.random.Generator, known: int
) -> None:
    newest, scales, weights = fields(rng)
    met = targets(newest, scales, weights)
    met[known:, 1:] = np.nan
    found = fit_cascade(newest, scales, met)
    np.testing.assert_array_equal(found[1:], np.stack([found[0]] * 2))


def test_a_first_lead_that_no_pixel_has_met_is_the_newest_field(rng: np.random.Generator) -> None:
    newest, scales, weights = fields(rng)
    met = targets(newest, scales, weights)
    met[:, 0] = np.nan
    found = fit_cascade(newest, scales, met)
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1], weights[1], atol=0.02)


def test_scales_that_are_nothing_or_say_the_same_get_finite_weights(rng: np.random.Generator) -> None:
    newest, scales, weights = fields(rng)
    scales[:, 0] = 0
    scales[:, 2] = scales[:, 1]
    found = fit_cascade(newest, scales, targets(newest, scales, weights))
    assert (found[:, 0] == 0).all()
    np.testing.assert_allclose(found[:, 1], found[:, 2], atol=1e-3)
    np.testing.assert_allclose(found[:, 1] + found[:, 2], weights[:, 1] + weights[:, 2], atol=0.02)
    assert (fit_cascade(newest, 0 * scales, targets(newest, scales, weights)) == 0).all()
