import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.spectrum import SpectrumSums, radial_spectrum
from tests.pipeline.twofields import fields, plane


def wave(pixels: float, shape: tuple[int, int] = (64, 64)) -> NDArray[np.float32]:
    """A wave along x, of variance one half."""
    line = np.sin(2 * np.pi * np.arange(shape[1]) / pixels + 0.3)
    return np.broadcast_to(line, shape)[np.newaxis, ..., np.newaxis].astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 48), (31, 41), (31, 48), (40, 33)])
def test_the_octaves_add_up_to_the_variance(shape: tuple[int, int]) -> None:
    field = np.random.default_rng(0).normal(size=(1, *shape, 1)).astype(np.float32)
    found = SpectrumSums.of(field, field)
    np.testing.assert_allclose(found.truth.sum(), field.astype(np.float64).var())
    np.testing.assert_allclose(found.kept, 1)


@pytest.mark.parametrize(("pixels", "octave"), [(2, 4), (4, 4), (5, 8), (8, 8), (16, 16), (32, 32), (64, 64)])
def test_a_wave_lies_in_the_octave_that_ends_at_or_after_its_length(pixels: int, octave: int) -> None:
    field = wave(pixels, (64, 64) if 64 % pixels == 0 else (60, 60))
    found = SpectrumSums.of(field, field)
    assert found.wavelengths[int(found.truth[0, 0].argmax())] == octave
    assert found.truth.max() / found.truth.sum() > 1 - 1e-6


def test_a_blurred_forecast_keeps_less_the_shorter_the_wave() -> None:
    _, truth = fields()
    blurred = cv2.GaussianBlur(truth[0, ..., 0], (0, 0), 1.5)[np.newaxis, ..., np.newaxis]
    kept = SpectrumSums.of(blurred, truth).kept[0, 0]
    assert (np.diff(kept[:4]) > 0).all()
    assert kept[0] < 0.1


def test_holes_take_the_mean_of_the_rest_in_both_fields() -> None:
    forecast, truth = fields()
    holed = truth.copy()
    holed[0, 5:15, 5:20] = np.nan
    known = np.isfinite(holed)
    filled = [np.where(known, field, field[known].mean(dtype=np.float64)) for field in (forecast, truth)]
    found, whole = SpectrumSums.of(forecast, holed), SpectrumSums.of(filled[0], filled[1])
    np.testing.assert_allclose(found.forecast, whole.forecast)
    np.testing.assert_allclose(found.truth, whole.truth)
    assert np.isfinite(radial_spectrum(plane(holed))).all()


def test_mostly_holes_or_no_variance_have_no_spectrum() -> None:
    forecast, truth = fields()
    holed = truth.copy()
    holed[0, :21] = np.nan
    assert np.isnan(SpectrumSums.of(forecast, holed).kept).all()
    assert np.isnan(radial_spectrum(plane(holed))).all()
    assert np.isnan(radial_spectrum(np.full((8, 8), np.nan))).all()
    assert np.isnan(SpectrumSums.of(forecast, np.zeros_like(truth)).kept).all()


# pysteps 1.21.5, spectral.rapsd(truth, numpy.fft) at these wavenumbers, and of its first 31 rows and 41 columns
PYSTEPS = [47845.97882735713, 3.564004040972618, 9.30187943663824, 1.6509371744768624, 0.14589409145614396]
PYSTEPS_ODD = [31891.3609313385, 6.591151636389784, 7.925600742930545, 1.1064097500020624, 0.11548710814504581]
NUMBERS = [0, 1, 2, 5, 12]


def test_the_radial_spectrum_is_that_of_pysteps() -> None:
    truth = plane(fields()[1])
    assert [len(radial_spectrum(truth)), len(radial_spectrum(truth[:31, :41]))] == [24, 21]
    np.testing.assert_allclose(radial_spectrum(truth)[NUMBERS], PYSTEPS, rtol=1e-9)
    np.testing.assert_allclose(radial_spectrum(truth[:31, :41])[NUMBERS], PYSTEPS_ODD, rtol=1e-9)


def test_the_radial_spectrum_is_that_of_the_installed_pysteps() -> None:
    peer = pytest.importorskip("pysteps.utils.spectral")
    for shape in ((40, 48), (31, 41), (40, 31), (33, 48)):
        truth = plane(fields()[1])[: shape[0], : shape[1]]
        np.testing.assert_allclose(radial_spectrum(truth), peer.rapsd(truth, np.fft), rtol=1e-6)
