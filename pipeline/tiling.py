"""A predictor over windows of a grid: standardised, tile by tile, put together again on a canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window, tiles
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast, Predictor


@dataclass(frozen=True, slots=True)
class Normalised:
    """A predictor that works on standardised values, for contexts in the units of the bands.

    Covariates are standardised from the start and pass unchanged.

    Attributes:
        inner: the predictor.
        statistics: of all bands of the context.
        forecast_bands: which of them the predictor answers for, counted from 0.
    """

    inner: Predictor
    statistics: Statistics
    forecast_bands: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        scaled = replace(context, values=self.statistics.scale(context.values))
        said = self.inner.predict(scaled, horizon)
        values = self.statistics.of_bands(self.forecast_bands).unscale(said.values)
        return Forecast(values, said.source, said.age, said.quantities)


@dataclass(frozen=True, slots=True)
class Tiled:
    """A predictor run tile by tile, so that memory does not grow with the scene.

    Each tile sees ``halo`` pixels around it, as far as the predictor can look, so the result equals the one made whole.

    Attributes:
        inner: the predictor.
        size: pixels a side, a multiple of ``step``.
        halo: how far an output pixel can see, in pixels.
        step: tiles and their halos start at multiples of this, because the predictor works on patches.
    """

    inner: Predictor
    size: int
    halo: int
    step: int = 1

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        shape = context.grid_shape
        if shape[0] * shape[1] <= self.size**2:  # no more memory than a tile, and no halo
            return self.inner.predict(context, horizon)
        whole = Assembly(shape)
        margin = round_up(self.halo, self.step)
        for window in tiles(shape, round_up(self.size, self.step)):
            outer = window.grown(margin, shape)
            whole.put(self.inner.predict(crop(context, outer), horizon), window, outer)
        return whole.forecast


def round_up(size: int, step: int) -> int:
    """The next multiple of ``step``.

    >>> round_up(13, 4), round_up(12, 4)
    (16, 12)
    """
    return -(-size // step) * step


def crop(context: Context, window: Window) -> Context:
    """A window of a context."""
    rows, columns = window.slices
    return replace(
        context,
        values=context.values[:, :, rows, columns],
        validity=context.validity[:, :, rows, columns],
        covariates=None if context.covariates is None else context.covariates[:, :, rows, columns],
    )


def cut(said: Forecast, window: Window) -> Forecast:
    """A window of a forecast, a view."""
    rows, columns = window.slices
    values = said.values[:, :, :, rows, columns]
    return Forecast(values, said.source[:, :, rows, columns], said.age[:, :, rows, columns], said.quantities)


class Canvas(Protocol):
    """What a forecast of one init time on a whole grid is put on, window by window; in memory or on the disk."""

    def put(self, part: Forecast, window: Window, outer: Window) -> None:
        """The ``window`` of a part that covers ``outer``; all parts have the same leads, quantities and bands."""
        ...

    def paint(self, place: tuple[int, str, int], window: Window, values: NDArray[np.float32]) -> None:
        """Other values, ``(y, x)``, of one lead (index from 0), quantity and band."""
        ...

    def look(self, place: tuple[int, str, int], window: Window) -> NDArray[np.float32]:
        """Values of one lead, quantity and band as they come out: ``(y, x)``, in the unit of the band, or NaN."""
        ...

    def layers(self, lead: int, window: Window) -> NDArray[np.float32]:
        """All that comes out for a lead: ``(layer, y, x)``, NaN where missing."""
        ...

    def source(self, lead: int, window: Window) -> NDArray[np.uint8]:
        """What made each pixel, ``(y, x)``."""
        ...


class Assembly:
    """A canvas in memory, of ``shape``."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._whole: Forecast | None = None

    @property
    def forecast(self) -> Forecast:
        """What has been put so far; NaN elsewhere."""
        if self._whole is None:
            msg = "a forecast is put together from at least one window, found none: put one"
            raise ValueError(msg)
        return self._whole

    def put(self, part: Forecast, window: Window, outer: Window) -> None:
        """See :class:`Canvas`."""
        if self._whole is None:
            self._whole = part if outer.shape == self.shape == window.shape else _blank(part, self.shape)
        if part is self._whole:
            return
        whole, (rows, columns), (y, x) = self._whole, window.slices, window.within(outer).slices
        whole.values[:, :, :, rows, columns] = part.values[:, :, :, y, x]
        whole.source[:, :, rows, columns] = part.source[:, :, y, x]
        whole.age[:, :, rows, columns] = part.age[:, :, y, x]

    def paint(self, place: tuple[int, str, int], window: Window, values: NDArray[np.float32]) -> None:
        """See :class:`Canvas`."""
        lead, quantity, band = place
        self.forecast.of(quantity)[0, lead, *window.slices, band] = values

    def look(self, place: tuple[int, str, int], window: Window) -> NDArray[np.float32]:
        """See :class:`Canvas`; a view."""
        lead, quantity, band = place
        return self.forecast.of(quantity)[0, lead, *window.slices, band]

    def layers(self, lead: int, window: Window) -> NDArray[np.float32]:
        """See :class:`Canvas`."""
        shown = np.moveaxis(self.forecast.values[0, lead, :, *window.slices], -1, 1)
        return shown.reshape(-1, *window.shape)

    def source(self, lead: int, window: Window) -> NDArray[np.uint8]:
        """See :class:`Canvas`; a view."""
        return self.forecast.source[0, lead, *window.slices]


def _blank(like: Forecast, shape: tuple[int, int]) -> Forecast:
    batch, lead, quantity, _, _, band = like.values.shape
    return Forecast(
        np.full((batch, lead, quantity, *shape, band), np.nan, np.float32),
        np.zeros((batch, lead, *shape), np.uint8),
        np.full((batch, lead, *shape), np.nan, np.float32),
        like.quantities,
    )
