"""Power by wavelength: whether a forecast has as much detail of each size as the truth.

The discrete Fourier transform needs every pixel: where a field has holes they take the mean of what is known, in
forecast and truth alike, so that both lose the same and their ratio stays comparable. No window is applied: where the
edges of a field do not match, the jump adds power to both at all wavelengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from pipeline.sums import Sums, ratio, valid_in_both

MOST_MISSING: Final = 0.5  # of the pixels; with more holes it is their shape that is transformed


@dataclass(frozen=True, slots=True, eq=False)
class SpectrumSums(Sums):
    """Variance of forecast and truth by octave of wavelength; those of one field add up to its variance.

    Attributes:
        wavelengths: pixels; each octave reaches from half of its wavelength to all of it, and the first also holds what
            is shorter.
        forecast: ``(lead, band, octave)``, sum of variances, in the band's unit squared.
        truth: same.
    """

    SAME: ClassVar = ("wavelengths",)

    wavelengths: tuple[int, ...]
    forecast: NDArray[np.float64]
    truth: NDArray[np.float64]

    @classmethod
    def of(cls, forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> Self:
        """Sums of one forecast; zero where more than :data:`MOST_MISSING` is not valid in both.

        Args:
            forecast: ``(lead, y, x, band)``, in the units of the cube; NaN where no data.
            truth: same shape and units.
        """
        valid = valid_in_both(forecast, truth)
        octaves = _octaves(valid.shape[1:3])
        wavelengths = tuple(2 ** (index + 2) for index in range(int(octaves.max()) + 1))
        sums = np.zeros((2, valid.shape[0], valid.shape[3], len(wavelengths)))
        for lead, band in np.ndindex(*sums.shape[1:3]):
            known = valid[lead, ..., band]
            for index, field in enumerate((forecast, truth)):
                filled = _filled(field[lead, ..., band], known)
                if filled is not None:
                    power = _power(filled) / filled.size
                    sums[index, lead, band] = np.bincount(octaves[octaves >= 0], power[octaves >= 0])
        return cls(wavelengths, *sums)

    @property
    def kept(self) -> NDArray[np.float64]:
        """Forecast's variance over the truth's, ``(lead, band, octave)``: under 1 is too smooth; NaN without truth."""
        return ratio(self.forecast, self.truth)


def radial_spectrum(field: NDArray[np.floating]) -> NDArray[np.float64]:
    """Radially averaged power spectral density, by wavenumber from 0 in cycles per longer side.

    As pysteps.utils.spectral.rapsd: means over rings one wavenumber wide of the squared modulus of the transform over
    the number of pixels, up to (of an odd side: with) the Nyquist wavenumber.

    Args:
        field: ``(y, x)``; holes take the mean of the rest.

    Returns:
        ``(wavenumber,)``, in the field's unit squared; NaN where more than :data:`MOST_MISSING` is a hole.
    """
    longer = max(field.shape)
    filled = _filled(field, np.isfinite(field))
    if filled is None:
        return np.full((longer + 1) // 2, np.nan)
    y, x = (fft.fftfreq(side) * side for side in field.shape)
    rings = np.hypot(y[:, np.newaxis], x[: field.shape[1] // 2 + 1]).round().astype(np.int64)
    both = _weights(field.shape)
    total, cells = (np.bincount(rings.ravel(), one.ravel()) for one in (_power(filled), both))
    return (total / np.maximum(cells, 1))[: (longer + 1) // 2]


def _filled(field: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """The field without holes; None where there are too many."""
    if not known.any() or known.mean() < 1 - MOST_MISSING:
        return None
    values = field.astype(np.float64)
    return np.where(known, values, values[known].mean())


def _power(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared modulus over the number of pixels on the half plane of a real transform, the other half added."""
    modulus = np.abs(np.asarray(fft.rfft2(field)))
    return modulus**2 / field.size * _weights(field.shape)


def _weights(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """How many cells of the whole transform each cell of the half plane stands for."""
    columns = np.full(shape[1] // 2 + 1, 2.0)
    columns[0] = 1
    if shape[1] % 2 == 0:
        columns[-1] = 1
    return np.broadcast_to(columns, (shape[0], len(columns)))


def _octaves(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Octave of each cell of the half plane; -1 for the mean."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, np.newaxis], fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1
    octaves = np.maximum(np.ceil(-np.log2(frequency) - 1e-9).astype(np.int64) - 2, 0)
    octaves[0, 0] = -1
    return octaves
