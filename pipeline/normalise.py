"""Bands on one scale for learning: mean and spread of the training split, and nothing else.

Amounts that are mostly small and now and then large (rain) go through a logarithm first, ``log1p((x - floor) / x0)``:
linear below ``x0`` and logarithmic above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.cube import Cube
from pipeline.errors import NotEnoughFramesError
from pipeline.grid import Window
from pipeline.specs import BandSpec

CONSTANT = 1e-6  # spread of a constant band at most, as a part of its mean
KNEE = (
    0.05  # quantile of the values above the floor that becomes x0: leaves a skewness of 0.9 (5-minute rain), 0.5 of 1.4
)
KNEE_SLOTS, KNEE_STEP = 24, 3  # slots, and every how many pixels, that it is taken from: all of them change no digit
LARGEST = 60.0  # exp(60) is 1e26: the inverse of whatever a network says stays far inside of float32


@dataclass(frozen=True, slots=True)
class Transform:
    """What the values of a band go through before they are standardised.

    Attributes:
        kind: ``none``: nothing; ``log``: ``log1p((x - floor) / x0)``.
        floor: smallest value, in units of the band; lower ones count as this one. Only for ``log``.
        x0: from where on the logarithm bends, in units of the band. Only for ``log``.
        deviation: standard deviation of the values themselves over the training split, in units of the band.
    """

    kind: Literal["none", "log"] = "none"
    floor: float = 0.0
    x0: float = 1.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if not (self.x0 > 0 and self.deviation > 0):
            msg = f"x0 and deviation of a transform are above 0, found {self.x0} and {self.deviation}"
            raise ValueError(msg)

    def apply(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Values of one band, any shape, as they are to be standardised; NaN stays NaN.

        >>> Transform("log", floor=0.0, x0=0.1).apply(np.array([0.0, 0.1, 10.0])).round(2).tolist()
        [0.0, 0.69, 4.62]
        """
        if self.kind == "none":
            return values
        lifted = np.maximum(values - _like(values, self.floor), 0) / _like(values, self.x0)
        return np.log(1 + lifted)  # log1p takes 12 times as long, for digits that x0 makes worthless; expm1 likewise

    def invert(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """The inverse of :meth:`apply`, never below the floor; exact to float32 relative to the value plus ``x0``."""
        if self.kind == "none":
            return values
        lifted = np.clip(values, 0, LARGEST)
        np.exp(lifted, out=lifted)  # in place from here on: new pages cost more than the arithmetic
        lifted -= 1
        lifted *= _like(values, self.x0)
        lifted += _like(values, self.floor)
        return lifted


def _like(values: NDArray[np.floating], number: float) -> np.floating:
    return values.dtype.type(number)


@dataclass(frozen=True, slots=True)
class Statistics:
    """How each band is scaled: its transform, then mean and standard deviation over the training split.

    Attributes:
        mean: one value a band, of the transformed values.
        deviation: one value a band, of the transformed values; never 0.
        snapshot: the cube's snapshot that they come from.
        transforms: one a band; none given: values are standardised as they are.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    snapshot: str
    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        if not self.transforms:
            plain = tuple(Transform(deviation=deviation) for deviation in self.deviation)
            object.__setattr__(self, "transforms", plain)
        if not len(self.mean) == len(self.deviation) == len(self.transforms):
            found = f"{len(self.mean)}, {len(self.deviation)} and {len(self.transforms)}"
            msg = f"mean, deviation and transforms hold one value a band, found {found}"
            raise ValueError(msg)

    @property
    def linear_deviation(self) -> tuple[float, ...]:
        """Standard deviation of each band before its transform, in its units."""
        return tuple(transform.deviation for transform in self.transforms)

    def scale(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Standardised values; the last axis is the band."""
        return ((self._through(values, "apply") - _row(self.mean)) / _row(self.deviation)).astype(np.float32)

    def unscale(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """The inverse of :meth:`scale`."""
        turned = values * _row(self.deviation)
        turned += _row(self.mean)
        return self._through(turned, "invert").astype(np.float32, copy=False)

    def _through(self, values: NDArray[np.floating], way: Literal["apply", "invert"]) -> NDArray[np.floating]:
        if all(transform.kind == "none" for transform in self.transforms):
            return values
        bands = np.moveaxis(values, -1, 0)
        turned = [getattr(transform, way)(band) for transform, band in zip(self.transforms, bands, strict=True)]
        return np.stack(turned, axis=-1) if len(turned) > 1 else turned[0][..., np.newaxis]

    def of_bands(self, indices: tuple[int, ...]) -> Statistics:
        """Only these bands, counted from 0."""
        mean, deviation = (tuple(values[i] for i in indices) for values in (self.mean, self.deviation))
        return Statistics(mean, deviation, self.snapshot, tuple(self.transforms[i] for i in indices))

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "snapshot": self.snapshot,
            "transforms": [asdict(transform) for transform in self.transforms],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Statistics:
        """The inverse of :meth:`to_json`; documents of before there were transforms have none."""
        transforms = tuple(Transform(**one) for one in document.get("transforms", ()))
        return cls(tuple(document["mean"]), tuple(document["deviation"]), document["snapshot"], transforms)


def _row(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def measure(
    cube: Cube, slots: Iterable[int], areas: Iterable[Window], *, bands: Sequence[BandSpec] | None = None
) -> Statistics:
    """Statistics over some slots and areas of a cube.

    Args:
        cube: the data.
        slots: which ones.
        areas: which parts of the grid, apart from each other.
        bands: the bands as the configuration has them now, for their transforms; None: as the cube was made with.

    Raises:
        NotEnoughFramesError: a band has no valid pixel there.
    """
    slots, areas = tuple(slots), tuple(areas)
    bands = cube.layout.bands if bands is None else tuple(bands)
    transforms = _transforms(cube, bands, slots, areas)
    own, transformed = _Sums.of(len(bands)), _Sums.of(len(bands))
    for slot in slots:
        for area in areas:
            values = cube.read([slot], area).values.astype(np.float64)
            own.add(values)
            for band, transform in enumerate(transforms):
                values[..., band] = transform.apply(values[..., band])
            transformed.add(values)
    _check(own.count, cube)
    spreads = own.deviation.tolist()
    measured = (Transform(one.kind, one.floor, one.x0, spread) for one, spread in zip(transforms, spreads, strict=True))
    found = tuple(transformed.mean.tolist()), tuple(transformed.deviation.tolist())
    return Statistics(*found, cube.snapshot, tuple(measured))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Sums over valid pixels, one a band."""

    count: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, bands: int) -> _Sums:
        return cls(np.zeros(bands), np.zeros(bands), np.zeros(bands))

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds ``(time, y, x, band)``."""
        self.count[:] += np.isfinite(values).sum(axis=(0, 1, 2))
        self.total[:] += np.nansum(values, axis=(0, 1, 2))
        self.squares[:] += np.nansum(values**2, axis=(0, 1, 2))

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.total / self.count

    @property
    def deviation(self) -> NDArray[np.float64]:
        """1 where a band is constant: it carries nothing to scale, but the sums leave it about 1e-8 of its mean."""
        spread = np.sqrt(np.maximum(self.squares / self.count - self.mean**2, 0))
        return np.where(spread <= CONSTANT * np.abs(self.mean), 1.0, spread)


def _transforms(
    cube: Cube, bands: Sequence[BandSpec], slots: Sequence[int], areas: Sequence[Window]
) -> tuple[Transform, ...]:
    """The transform of each band; deviations are left open."""
    if all(band.transform == "none" for band in bands):
        return (Transform(),) * len(bands)
    picks = np.linspace(0, len(slots) - 1, min(KNEE_SLOTS, len(slots))).round().astype(int)
    pixels = [
        cube.read([slots[pick]], area).values[0, ::KNEE_STEP, ::KNEE_STEP].reshape(-1, len(bands))
        for pick in picks
        for area in areas
    ]
    seen = np.concatenate(pixels) if pixels else np.empty((0, len(bands)), np.float32)
    return tuple(_transform(band, seen[:, index]) for index, band in enumerate(bands))


def _transform(band: BandSpec, seen: NDArray[np.float32]) -> Transform:
    if band.transform == "none":
        return Transform()
    floor = next((limit for limit in (band.floor, band.valid_min) if limit is not None), 0.0)
    above = seen[seen > floor] - np.float32(floor)
    # Where nothing fell in the whole training split, one step of the DN is as good as anything.
    x0 = float(np.quantile(above, KNEE)) if len(above) else abs(band.scale)
    return Transform("log", floor, x0)


def _check(count: NDArray[np.float64], cube: Cube) -> None:
    empty = [band.name for band, pixels in zip(cube.layout.bands, count, strict=True) if pixels == 0]
    if empty:
        msg = f"every band has valid pixels in the training split, found none in {empty}: check nodata and masks"
        raise NotEnoughFramesError(msg)
