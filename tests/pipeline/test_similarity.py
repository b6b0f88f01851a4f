import numpy as np
import pytest

from pipeline.similarity import SIDE, SimilaritySums
from tests.pipeline.twofields import fields, plane

SPAN = 10.0


def test_equal_fields_are_wholly_similar_and_blurred_or_shifted_ones_less() -> None:
    forecast, truth = fields()
    np.testing.assert_allclose(SimilaritySums.of(truth, truth, SPAN).ssim, 1)
    assert SimilaritySums.of(forecast, truth, SPAN).ssim.item() < 0.9
    assert SimilaritySums.of(np.roll(truth, 4, axis=1), truth, SPAN).ssim.item() < 0.5


def test_only_windows_without_a_hole_count() -> None:
    forecast, truth = fields()
    holed = truth.copy()
    holed[0, :, :20] = np.nan
    found = SimilaritySums.of(forecast, holed, SPAN)
    right = SimilaritySums.of(forecast[:, :, 20:], truth[:, :, 20:], SPAN)
    assert found.windows.item() == right.windows.item() == (40 - SIDE + 1) * (28 - SIDE + 1)
    np.testing.assert_allclose(found.ssim, right.ssim)


def test_without_a_whole_window_there_is_no_similarity() -> None:
    forecast, truth = fields()
    for known in (truth * np.float32(np.nan), np.where(np.indices(truth.shape)[1] % 8 == 0, np.float32(np.nan), truth)):
        assert np.isnan(SimilaritySums.of(forecast, known, SPAN).ssim).all()
    assert np.isnan(SimilaritySums.of(forecast[:, :10], truth[:, :10], SPAN).ssim).all()


def test_constant_fields_are_compared_by_their_level() -> None:
    flat = np.full((1, 20, 20, 1), 5, np.float32)
    np.testing.assert_allclose(SimilaritySums.of(flat, flat, SPAN).ssim, 1)
    assert 0 < SimilaritySums.of(flat, flat + 3, SPAN).ssim.item() < 1


def test_windows_of_init_times_count_alike() -> None:
    forecast, truth = fields()
    one, other = SimilaritySums.of(forecast, truth, SPAN), SimilaritySums.of(truth[:, :20], truth[:, :20], SPAN)
    total = one.windows + other.windows
    np.testing.assert_allclose((one + other).ssim, (one.ssim * one.windows + other.windows) / total)


# scikit-image 0.26.0, structural_similarity(truth, forecast, data_range=10, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False): the settings that its documentation gives for Wang et al. (2004)
SKIMAGE = 0.8338699361929339


def test_similarity_is_that_of_scikit_image() -> None:
    np.testing.assert_allclose(SimilaritySums.of(*fields(), SPAN).ssim, SKIMAGE, rtol=0, atol=1e-6)


def test_similarity_is_that_of_the_installed_scikit_image() -> None:
    peer = pytest.importorskip("skimage.metrics")
    forecast, truth = fields()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": SPAN}
    theirs = peer.structural_similarity(plane(truth), plane(forecast), **options)
    np.testing.assert_allclose(SimilaritySums.of(forecast, truth, SPAN).ssim, theirs, rtol=0, atol=1e-6)
