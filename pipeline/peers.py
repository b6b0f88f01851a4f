"""What others forecast from the same frames: pysteps' Lucas-Kanade extrapolation and S-PROG, as Predictors.

pysteps (Pulkkinen et al. 2019, Geosci. Model Dev. 12) is an extra, ``study``; nothing here imports it before a forecast
is asked for. Rain is handed over as its authors do, as 10 log10 of mm/h with what is dry a little under the threshold;
other fields go as they are. Those that are neither rain nor reflectivity have no S-PROG, which needs a threshold.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from io import StringIO
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import Context, Forecast, Source
from pipeline.specs import BandSpec

EXTRA: Final = "pysteps"
DRIEST_RATE: Final = 0.1  # mm/h, pysteps' own threshold of rain
DRY_STEP: Final = 5.0  # dB under the threshold that a dry pixel counts, as in pysteps' transformation.dB_transform
REFLECTIVITY_STEP: Final = 0.5  # dBZ above the floor where an echo begins; with 10 the error of S-PROG was 8 % larger
LEVELS: Final = 6  # of S-PROG's cascade, pysteps' default
FRAMES: Final = 3  # S-PROG's autoregression is of second order
RATES: Final = {"mm/h", "mm h-1", "mm hr-1", "mm/hr"}
HOUR: Final = timedelta(hours=1)


class Method(StrEnum):
    """Which of them."""

    LUCAS_KANADE = "pysteps LK"
    S_PROG = "pysteps S-PROG"


@dataclass(frozen=True, slots=True)
class Field:
    """How one band is handed to pysteps.

    Attributes:
        rate: factor from the band's unit to mm/h, of which the logarithm is taken; None: the band goes as it is.
        threshold: of what counts as rain or echo, in the units handed over (dB, or those of the band); None: a field
            without a dry value.
        floor: of the band, in its own unit; None: it has none.
    """

    rate: float | None
    threshold: float | None
    floor: float | None

    @classmethod
    def of(cls, band: BandSpec) -> Self:
        """What the band's unit says.

        >>> Field.of(BandSpec(name="rain", dtype="uint16", units="mm", period=timedelta(minutes=5)))
        Field(rate=12.0, threshold=-10.0, floor=0.0)
        """
        factor = _rate(band)
        if factor is not None:
            return cls(factor, float(10 * np.log10(DRIEST_RATE)), 0.0)
        if band.units == "dBZ":
            floor = 0.0 if band.floor is None else band.floor
            return cls(None, floor + REFLECTIVITY_STEP, band.floor)
        return cls(None, None, band.floor)

    @property
    def dry(self) -> float:
        """What a pixel without rain or echo has, in the units handed over."""
        if self.rate is not None and self.threshold is not None:
            return self.threshold - DRY_STEP
        return 0.0 if self.floor is None else self.floor

    def apply(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """The band's values as pysteps takes them; NaN stays."""
        raw = np.asarray(values, np.float64)
        if self.rate is not None and self.threshold is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                raw = 10 * np.log10(np.maximum(raw * self.rate, 0))
            raw = np.where(raw < self.threshold, self.dry, raw)
        return np.where(np.isnan(values), np.nan, raw)

    def invert(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Back in the band's units; what is under the threshold of a rain rate is dry."""
        if self.rate is None or self.threshold is None:
            return np.asarray(values, np.float32)
        rain = np.where(values < self.threshold, 0.0, 10 ** (values / 10) / self.rate)
        return np.where(np.isnan(values), np.nan, rain).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Peer:
    """pysteps on the newest evenly spaced frames; NaN where the flow comes from outside the frame.

    Attributes:
        method: extrapolation along the flow, or S-PROG.
        fields: how each forecast band is handed over.
        bands: which bands of the context they are, counted from 0.
    """

    method: Method
    fields: tuple[Field, ...]
    bands: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :meth:`pipeline.predictor.Predictor.predict`.

        Raises:
            ModuleNotFoundError: pysteps is not installed.
        """
        said = [self._item(context, item, horizon) for item in range(len(context.values))]
        values = np.stack(said)[:, :, None]
        known = np.isfinite(values).any(axis=(2, 5))
        newest = np.min(context.ages, axis=1)[:, None, None, None]
        return Forecast(
            values,
            np.where(known, np.uint8(Source.EXTRAPOLATION), np.uint8(Source.NONE)),
            np.where(known, newest, np.nan).astype(np.float32),
        )

    def _item(self, context: Context, item: int, horizon: int) -> NDArray[np.float32]:
        """``(lead, y, x, band)``."""
        layers: list[NDArray[np.float32]] = []
        for field, band in zip(self.fields, self.bands, strict=True):
            values = np.where(context.validity[item, ..., band], context.values[item, ..., band], np.nan)
            frames, gap = even_frames(values, context.ages[item])
            if len(frames) < (FRAMES if self.method is Method.S_PROG else 2):
                msg = f"{self.method} needs evenly spaced frames, the context has {len(frames)}: raise context_frames"
                raise NotEnoughFramesError(msg)
            since = float(np.min(context.ages[item]))  # the newest frame may be older than the init time
            layers.append(self._band(field, frames, gap, [since + lead for lead in range(1, horizon + 1)]))
        return np.stack(layers, axis=-1)

    def _band(
        self, field: Field, frames: NDArray[np.floating], gap: float, ahead: Sequence[float]
    ) -> NDArray[np.float32]:
        """``(lead, y, x)``, as many slots ``ahead`` of the newest frame."""
        given, newest = field.apply(frames), np.asarray(frames[-1], np.float64)
        with _quietly():
            velocity = _flow(given)
            if self.method is Method.S_PROG:
                dry = np.where(np.isnan(given), field.dry, given)  # left unknown, Dutch radar was 4 % worse
                return field.invert(_s_prog(dry[-FRAMES:], velocity, field, _steps(ahead, gap)))
            return np.asarray(_moved(newest, velocity, _steps(ahead, gap)), np.float32)


def peers(bands: tuple[BandSpec, ...], forecast: tuple[int, ...]) -> dict[str, Peer]:
    """Those that can forecast these bands, by name; none where pysteps is not installed.

    Args:
        bands: of the product.
        forecast: which of them are forecast, counted from 0.
    """
    if not installed():
        return {}
    fields = tuple(Field.of(bands[index]) for index in forecast)
    able = [Method.LUCAS_KANADE]
    able += [Method.S_PROG] if all(field.threshold is not None for field in fields) else []
    return {method.value: Peer(method, fields, forecast) for method in able}


def installed() -> bool:
    """Whether pysteps is there."""
    return importlib.util.find_spec(EXTRA) is not None


def even_frames(values: NDArray[np.floating], ages: NDArray[np.floating]) -> tuple[NDArray[np.floating], float]:
    """The newest frames that follow each other at one distance, oldest first, and that distance in slots.

    Args:
        values: ``(frame, y, x)``; frames without any value are left out.
        ages: ``(frame,)``, in slots.
    """
    filled = [i for i in np.argsort(ages, kind="stable").tolist() if np.isfinite(values[i]).any()]
    if len(filled) < 2:
        return values[filled], 1.0
    gap = float(ages[filled[1]] - ages[filled[0]])
    steps = np.abs(np.diff(ages[filled]) - gap) < 0.25  # acquisitions wander by seconds within their slots
    even = 2 + int(np.argmin([*steps[1:], False]))
    return values[filled[:even][::-1]], gap


def _rate(band: BandSpec) -> float | None:
    if band.units in RATES:
        return 1.0
    return HOUR / band.period if band.units == "mm" and band.period is not None else None


def _flow(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(2, y, x)``, pixels a gap between two frames."""
    from pysteps.motion.lucaskanade import dense_lucaskanade  # pyright: ignore[reportMissingImports]

    return dense_lucaskanade(np.ma.masked_invalid(given))


def _steps(ahead: Sequence[float], gap: float) -> int | list[float]:
    """Times ahead as pysteps takes them: how many steps, where leads are steps of its frames, or a list."""
    steps = [round(lead / gap, 6) for lead in ahead]
    return len(steps) if steps == list(range(1, len(steps) + 1)) else steps


def _moved(newest: NDArray[np.float64], velocity: NDArray[np.float64], steps: int | list[float]) -> NDArray[Any]:
    from pysteps.nowcasts.extrapolation import forecast  # pyright: ignore[reportMissingImports]

    return forecast(newest, velocity, steps, extrap_kwargs={"allow_nonfinite_values": True})


def _s_prog(
    given: NDArray[np.float64], velocity: NDArray[np.float64], field: Field, steps: int | list[float]
) -> NDArray[Any]:
    """``(lead, y, x)`` in the units handed over."""
    from pysteps.nowcasts.sprog import forecast  # pyright: ignore[reportMissingImports]

    return forecast(given, velocity, steps, precip_thr=field.threshold, n_cascade_levels=LEVELS)


class _quietly(redirect_stdout[StringIO]):  # noqa: N801 - used as a function is
    """pysteps says on standard output what it does."""

    def __init__(self) -> None:
        os.environ.setdefault("PYSTEPS_SILENT_IMPORT", "1")
        super().__init__(StringIO())
