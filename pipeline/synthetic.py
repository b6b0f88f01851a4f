"""A made-up sky with a known truth: moving clouds over standing ground.

The clouds are a cascade as in STEPS (Bowler et al. 2006, doi:10.1256/qj.04.100): noise in octaves, each carried by the
flow and renewed at its own pace, so that small clouds are forgotten before large ones, and each growing or decaying for
a while. Around it the sun rises and sets, the ground stands still, and the sensor fails here and there. In the last
third of a sequence the wind blows from where it never blew before, so that a test on it is honest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from pipeline.times import TimeAxis

_OCTAVES_PX = (96.0, 48.0, 24.0, 12.0, 6.0, 3.0)  # wavelengths; 3 px is the finest that interpolation carries
_MARGIN_PX = 40  # the sky is periodic; a cloud that leaves the grid comes back changed, not at once
_SPIN_UP = 12  # slots before the first one, so that the flow has drawn the clouds into filaments
_SWIRL_WAVES = ((1, 0), (0, 1), (1, 1), (2, -1))  # whole waves per sky along x, y: so the flow is periodic as well
# Chosen by eye, so that the frames look like Meteosat's.
_SKY_SLOPE = 0.55  # amplitude of the cloud field grows with the wavelength to this power
_LUMPS = (0.0, 0.0, 0.4, 0.4, 0.4, 0.2)  # how each octave lumps the cloud tops (log of optical depth)
_DEPTH, _DEPTH_RISE = 6.0, 1.1  # optical depth = 6 (exp(1.1 excess) - 1)

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """Everything that decides a made-up sequence; the same spec gives the same bytes."""

    height: int = 192
    """Rows (px)."""
    width: int = 192
    """Columns (px)."""
    frames: int = 60
    """Slots of the sequence."""
    cadence: timedelta = timedelta(minutes=5)
    """From slot to slot; whole minutes."""
    start: datetime = datetime(2024, 6, 1, 5, 0, tzinfo=UTC)
    """Time of slot 0, UTC; whole minutes."""
    seed: int = 0
    """Seed of all chance."""
    crs: str = "EPSG:32633"
    """CRS of the grid, in metres."""
    pixel_size: float = 1000.0
    """Side of a pixel (CRS units)."""
    cover: float = 0.5
    """Part of the sky that is cloudy, on average."""
    speed: float = 3.0
    """Mean motion of the clouds (px per slot); a third more in the last third."""
    heading: float = 20.0
    """Where the mean motion points at slot 0 (degrees clockwise from east)."""
    turning: float = 30.0
    """How far it turns, evenly, from the first slot to the last (degrees)."""
    veer: float = 75.0
    """How far it turns on top, within an eighth of the sequence from the start of its last third (degrees)."""
    swirl: float = 1.0
    """Root mean square of the motion's departure from its mean (px per slot)."""
    lifetime: float = 0.6
    """How long a cloud is remembered along the motion (slots for each pixel of its size)."""
    growth: float = 0.3
    """How long it goes on growing or decaying (part of its lifetime)."""
    sunrise: float = 3.0
    """When the sun rises (hours after midnight UTC)."""
    sunset: float = 19.0
    """When it sets (hours after midnight UTC)."""
    night: float = 0.05
    """Brightness of the night, as a part of noon's."""
    gaps: float = 0.4
    """Sensor gaps (missing lines or patches) a scene, on average."""
    noise: float = 0.003
    """Standard deviation of the sensor's noise (reflectance)."""

    def __post_init__(self) -> None:
        """Refuses what cannot be synthesised.

        Raises:
            ValueError: a field breaks its rule.
        """
        if min(self.height, self.width) < 16 or self.frames < 3:
            msg = f"a sequence has 3 frames of 16 x 16 px or more, found {self.frames} of {self.height} x {self.width}"
            raise ValueError(msg)
        if self.start.second or self.start.microsecond or self.cadence % timedelta(minutes=1):
            msg = f"start and cadence are whole minutes, as the file names, found {self.start} and {self.cadence}"
            raise ValueError(msg)
        if not 0 < self.cover < 1:
            msg = f"cover lies between 0 and 1, found {self.cover}"
            raise ValueError(msg)

    @property
    def grid(self) -> GeoBox:
        """North-up grid, its corner on a whole kilometre east and north of the CRS's origin."""
        corner = Affine(self.pixel_size, 0, 372_000, 0, -self.pixel_size, 5_262_000)
        return GeoBox((self.height, self.width), corner, CRS(self.crs))

    @property
    def axis(self) -> TimeAxis:
        """Slot 0 is the first frame."""
        return TimeAxis(self.start, self.cadence)

    @property
    def times(self) -> tuple[datetime, ...]:
        """When each frame is true."""
        return tuple(self.axis.valid_time(slot) for slot in range(self.frames))


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticFrame:
    """One frame as the sensor saw it.

    Attributes:
        slot: which one of the sequence.
        values: ``(y, x)``, float32, reflectance from 0 to 1; also where the sensor has a gap.
        validity: ``(y, x)``, bool; False where the sensor has a gap.
    """

    slot: int
    values: Field
    validity: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticSequence:
    """Frames and the truth behind them.

    Attributes:
        values: ``(time, y, x)``, float32, reflectance from 0 to 1; also where the sensor has a gap.
        validity: ``(time, y, x)``, bool; False where the sensor has a gap.
        flow: ``(time, y, x, 2)``, float32, motion (dx, dy) of the clouds from slot ``t`` to ``t + 1`` in px: what is at
            pixel ``p`` in slot ``t + 1`` was at ``p - flow[t, p]`` in slot ``t``.
        cloud: ``(time, y, x)``, float32, cloud albedo from 0 to 1; 0 where the sky is clear.
        ground: ``(y, x)``, float32, albedo of the ground.
        brightness: ``(time,)``, float32, light of the sun, 1 at noon.
    """

    values: Field
    validity: NDArray[np.bool_]
    flow: Field
    cloud: Field
    ground: Field
    brightness: Field


def synthesise(spec: SyntheticSpec) -> SyntheticSequence:
    """The sequence of ``spec``."""
    ground, brightness, wind = _ground(spec), _brightness(spec), _Wind.of(spec)
    cloud = np.stack(list(_clouds(spec, wind)))
    light = brightness[:, None, None] * (ground + cloud * (1 - ground))
    values = np.clip(light + _rng(spec, "noise").normal(0, spec.noise, light.shape), 0, 1).astype(np.float32)
    flow = np.stack([wind.at(slot)[_visible(spec)] for slot in range(spec.frames)])
    return SyntheticSequence(values, np.stack(list(_validity(spec))), flow, cloud, ground, brightness)


def stream(spec: SyntheticSpec) -> Iterator[SyntheticFrame]:
    """The frames of :func:`synthesise`, to the bit, one after the other: for a sequence without an end in sight."""
    ground, brightness, noise = _ground(spec), _brightness(spec), _rng(spec, "noise")
    skies = zip(_clouds(spec, _Wind.of(spec)), _validity(spec), strict=True)
    for slot, (cloud, validity) in enumerate(skies):
        light = brightness[slot] * (ground + cloud * (1 - ground))
        values = np.clip(light + noise.normal(0, spec.noise, light.shape), 0, 1).astype(np.float32)
        yield SyntheticFrame(slot, values, validity)


def carry(field: Field, flow: Field) -> Field:
    """A field one slot later, moved by ``flow`` and not changed otherwise; it re-enters on the opposite side.

    Args:
        field: ``(y, x)``.
        flow: ``(y, x, 2)``, dx and dy in px per slot, at the pixels where things arrive.
    """
    y, x = np.indices(field.shape, dtype=np.float32)
    moved = cv2.remap(field, x - flow[..., 0], y - flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    return np.asarray(moved, np.float32)


# --- the sky --------------------------------------------------------------------------------------


def _rng(spec: SyntheticSpec, part: str) -> np.random.Generator:
    """An own stream of chance for each part: a changed gap rate leaves the clouds alone."""
    return np.random.default_rng([spec.seed, *part.encode()])


def _sky_shape(spec: SyntheticSpec) -> tuple[int, int]:
    return spec.height + 2 * _MARGIN_PX, spec.width + 2 * _MARGIN_PX


def _visible(spec: SyntheticSpec) -> tuple[slice, slice]:
    return slice(_MARGIN_PX, _MARGIN_PX + spec.height), slice(_MARGIN_PX, _MARGIN_PX + spec.width)


def _octave_filters(shape: tuple[int, int]) -> Field:
    """``(octave, ky, kx)`` factors that turn the spectrum of white noise into octaves of unit variance."""
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    wave_number = np.maximum(np.hypot(ky, kx), 1e-9)
    octaves = np.log2(wave_number * np.array(_OCTAVES_PX)[:, None, None])
    factors = np.exp(-0.5 * (octaves / 0.5) ** 2)
    factors /= np.sqrt(np.mean(factors**2, axis=(1, 2), keepdims=True))
    return factors[..., : shape[1] // 2 + 1].astype(np.float32)


def _octave_noise(rng: np.random.Generator, shape: tuple[int, int], filters: Field) -> Field:
    """``(octave, y, x)`` noise of unit variance, periodic."""
    spectrum = np.fft.rfft2(rng.standard_normal(shape, np.float32))
    return np.fft.irfft2(spectrum * filters, shape, axes=(-2, -1)).astype(np.float32)


def _octave_weights(slope: float) -> Field:
    """Amplitude of each octave for a spectrum where it grows with the wavelength to the power ``slope``; variance 1."""
    weights = np.array(_OCTAVES_PX) ** slope
    return (weights / np.linalg.norm(weights)).astype(np.float32)


def _clouds(spec: SyntheticSpec, wind: _Wind) -> Iterator[Field]:
    """``(y, x)`` cloud albedo over the visible grid, slot by slot."""
    rng, shape = _rng(spec, "sky"), _sky_shape(spec)
    filters, memory = _octave_filters(shape), _Memory.of(spec)
    state = memory.start(_octave_noise(rng, shape, filters), _octave_noise(rng, shape, filters))
    for slot in range(-_SPIN_UP, spec.frames):
        if slot >= 0:
            yield _albedo(state.octaves[:, *_visible(spec)], spec.cover)
        state = memory.step(state.carried(wind.at(slot)), _octave_noise(rng, shape, filters))


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The sky in one slot and what it is about to become; both ``(octave, y, x)`` of unit variance."""

    octaves: Field
    tendency: Field

    def carried(self, motion: Field) -> _State:
        """This state moved by ``(y, x, 2)`` px."""
        return _State(*(np.stack([carry(octave, motion) for octave in part]) for part in (self.octaves, self.tendency)))


@dataclass(frozen=True, slots=True, eq=False)
class _Memory:
    """What each octave keeps from slot to slot, following the motion; all ``(octave, 1, 1)``.

    An autoregression of second order written as two of first order, octaves driven by tendencies. The gain makes the
    variance stay 1: gain^2 = (1 - m^2) (1 - m r) / (1 + m r), with m and r what octaves and tendencies keep.
    """

    octaves: Field
    tendency: Field

    @classmethod
    def of(cls, spec: SyntheticSpec) -> _Memory:
        slots = spec.lifetime * np.array(_OCTAVES_PX, np.float32)[:, None, None]
        return cls(np.exp(-1 / slots), np.exp(-1 / (spec.growth * slots)))

    @property
    def _both(self) -> Field:
        return self.octaves * self.tendency

    @property
    def _gain(self) -> Field:
        return np.sqrt((1 - self.octaves**2) * (1 - self._both) / (1 + self._both))

    def start(self, octaves: Field, noise: Field) -> _State:
        """A state as old as any other: octaves and tendencies are correlated as they will stay."""
        correlation = self._gain * self.tendency / (1 - self._both)
        return _State(octaves, correlation * octaves + np.sqrt(1 - correlation**2) * noise)

    def step(self, state: _State, noise: Field) -> _State:
        """The state one slot later, from noise of unit variance."""
        octaves = np.add(self.octaves * state.octaves, self._gain * state.tendency, dtype=np.float32)
        tendency = self.tendency * state.tendency + np.sqrt(1 - self.tendency**2) * noise
        return _State(octaves, tendency)


def _albedo(octaves: Field, cover: float) -> Field:
    """``(y, x)`` cloud albedo: clear below a threshold, depth growing exponentially above it, with lumps in the tops.

    Two-stream albedo of a cloud that absorbs nothing: (1 - g) depth / (2 + (1 - g) depth) (Bohren 1987,
    doi:10.1119/1.15109), with an asymmetry g of 0.85, that of water droplets in visible light.
    """
    excess = np.maximum(np.tensordot(_octave_weights(_SKY_SLOPE), octaves, 1) - NormalDist().inv_cdf(1 - cover), 0)
    lumps = np.exp(np.tensordot(np.array(_LUMPS, np.float32), octaves, 1))
    scattered = (1 - 0.85) * _DEPTH * np.expm1(_DEPTH_RISE * excess) * lumps
    return (scattered / (2 + scattered)).astype(np.float32)


# --- motion, ground, light, sensor ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Wind:
    """Motion over the whole sky: a mean that turns, and vortices that drift."""

    spec: SyntheticSpec
    phases: NDArray[np.float64]
    """Of each swirl wave in slot 0 (radians)."""
    drifts: NDArray[np.float64]
    """Of their phases (radians per slot)."""

    @classmethod
    def of(cls, spec: SyntheticSpec) -> _Wind:
        rng = _rng(spec, "wind")
        waves = len(_SWIRL_WAVES)
        return cls(spec, rng.uniform(0, 2 * np.pi, waves), rng.normal(0, 0.04, waves))

    def at(self, slot: int) -> Field:
        """``(y, x, 2)`` dx and dy from this slot to the next, in px."""
        return self._mean(slot) + self._swirl(slot)

    def _mean(self, slot: int) -> Field:
        part = slot / self.spec.frames
        front = min(max((part - 2 / 3) * 8, 0), 1)
        angle = np.radians(self.spec.heading + self.spec.turning * part + self.spec.veer * front)
        speed = self.spec.speed * (1 + front / 3)
        return np.array([speed * np.cos(angle), speed * np.sin(angle)], np.float32)

    def _swirl(self, slot: int) -> Field:
        """The curl of a few waves: it diverges nowhere, so clouds are neither squeezed nor spread."""
        shape = _sky_shape(self.spec)
        y, x = np.indices(shape, np.float32)
        flow = np.zeros((*shape, 2), np.float32)
        for (along_x, along_y), phase in zip(_SWIRL_WAVES, self.phases + slot * self.drifts, strict=True):
            kx, ky = 2 * np.pi * along_x / shape[1], 2 * np.pi * along_y / shape[0]
            crest = np.cos(kx * x + ky * y + phase)
            flow += crest[..., None] * np.array([ky, -kx], np.float32) / np.float32(np.hypot(kx, ky))
        return flow * np.float32(self.spec.swirl * np.sqrt(2 / len(_SWIRL_WAVES)))


def _ground(spec: SyntheticSpec) -> Field:
    """``(y, x)`` albedo of the ground: dark water with a sharp coast, dark ridges of forest, bright fields."""
    rng, shape = _rng(spec, "ground"), _sky_shape(spec)
    filters, weights, visible = _octave_filters(shape), _octave_weights(0.8), _visible(spec)
    relief, ridges, farms = (np.tensordot(weights, _octave_noise(rng, shape, filters), 1)[visible] for _ in range(3))
    land = 0.15 - 0.07 * np.exp(-((ridges / 0.25) ** 2)) + 0.05 * np.tanh(farms) + 0.02 * np.tanh(relief)
    return np.where(relief < -0.6, 0.04, land).astype(np.float32)


def _brightness(spec: SyntheticSpec) -> Field:
    """``(time,)`` light of the sun: half a sine from sunrise to sunset, never under the night's."""
    hours = np.array([time.hour + time.minute / 60 for time in spec.times])
    height = np.sin(np.pi * (hours - spec.sunrise) / (spec.sunset - spec.sunrise))
    day = (hours > spec.sunrise) & (hours < spec.sunset)
    return (spec.night + (1 - spec.night) * np.where(day, height, 0)).astype(np.float32)


def _validity(spec: SyntheticSpec) -> Iterator[NDArray[np.bool_]]:
    """``(y, x)``, False in missing lines and patches, slot by slot."""
    rng = _rng(spec, "gaps")
    for count in rng.poisson(spec.gaps, spec.frames):
        frame = np.ones((spec.height, spec.width), np.bool_)
        for _ in range(count):
            frame[_gap(rng, spec)] = False
        yield frame


def _gap(rng: np.random.Generator, spec: SyntheticSpec) -> tuple[slice, slice]:
    y, x = rng.integers(spec.height), rng.integers(spec.width)
    if rng.random() < 0.5:
        return slice(y, y + rng.integers(1, 6)), slice(None)
    return slice(y, y + rng.integers(6, spec.height // 4 + 4)), slice(x, x + rng.integers(6, spec.width // 4 + 4))
