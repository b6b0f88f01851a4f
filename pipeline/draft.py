"""A forecast on its way into files: what is put into a draft lies on the disk; memory does not grow with the grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from pipeline.grid import Window
from pipeline.predictor import Forecast
from pipeline.raster import create_plain, decode, encode, plain
from pipeline.record import Lead, Outlet, RunRecord, lead_tags
from pipeline.sheets import Sheet, quality_sheet, stored_bands, value_sheet
from pipeline.tiling import cut


class Draft:
    """A canvas of plain GeoTIFFs in a folder, two for each lead: values, and where each pixel comes from.

    They hold what the published files will hold, DN by DN; for 10980 x 10980 pixels of 4 bands, 4 quantities and 6
    leads that is 26 GB.
    """

    def __init__(self, folder: Path, run: RunRecord, outlet: Outlet) -> None:
        self.run = run
        self.outlet = outlet
        self.quantities: tuple[str, ...] = ()
        self.folder = folder
        self._bands = stored_bands(outlet.bands, outlet.resolution)
        self._ends: NDArray[np.float32] = np.empty((0, 2), np.float32)

    @property
    def leads(self) -> list[Lead]:
        """Those of what was put into it."""
        return [self.run.lead(number) for number in range(1, len(self._ends) + 1)]

    @property
    def ends(self) -> NDArray[np.float32]:
        """Lowest and highest value of each lead, ``(lead, 2)``; NaN where it has none."""
        return self._ends

    def values(self, lead: int) -> Path:
        """GeoTIFF of what is forecast for a lead, by its index from 0."""
        return self.folder / f"{self.run.lead(lead + 1).name}.tif"

    def quality(self, lead: int) -> Path:
        """GeoTIFF of where the pixels of a lead come from."""
        return self.folder / f"{self.run.lead(lead + 1).name}-quality.tif"

    def put(self, part: Forecast, window: Window, outer: Window) -> None:
        """See :class:`pipeline.tiling.Canvas`."""
        part = cut(part, window.within(outer))
        if not self.quantities:
            self.quantities = part.quantities
            self._ends = np.full((part.values.shape[1], 2), np.nan, np.float32)
        for lead, ends in enumerate(self._ends):
            values = part.values[0, lead]
            ends[0] = np.fmin(ends[0], np.fmin.reduce(values, axis=None))
            ends[1] = np.fmax(ends[1], np.fmax.reduce(values, axis=None))
            sheet = value_sheet(part, lead, self._bands, self.outlet.probabilities)
            self._write(self.values(lead), sheet, window, lead)
            self._write(self.quality(lead), quality_sheet(part, lead, self.run.cadence), window, lead)

    def put_whole(self, said: Forecast) -> None:
        """A forecast that is there as a whole."""
        height, width = said.values.shape[3:5]
        whole = Window(0, height, 0, width)
        self.put(said, whole, whole)

    def paint(self, place: tuple[int, str, int], window: Window, values: NDArray[np.float32]) -> None:
        """See :class:`pipeline.tiling.Canvas`."""
        lead, _, band = place
        with plain(self.values(lead), "r+") as file:
            file.write(encode(values, self._bands[band]), self._layer(place), window=_of_rasterio(window))

    def look(self, place: tuple[int, str, int], window: Window) -> NDArray[np.float32]:
        """See :class:`pipeline.tiling.Canvas`."""
        lead, _, band = place
        with plain(self.values(lead)) as file:
            return decode(file.read(self._layer(place), window=_of_rasterio(window)), self._bands[band])

    def layers(self, lead: int, window: Window) -> NDArray[np.float32]:
        """See :class:`pipeline.tiling.Canvas`."""
        with plain(self.values(lead)) as file:
            read = file.read(window=_of_rasterio(window), masked=True)
            scales = np.array(file.scales, np.float32)[:, np.newaxis, np.newaxis]
        return np.where(np.ma.getmaskarray(read), np.float32(np.nan), read.data * scales)

    def source(self, lead: int, window: Window) -> NDArray[np.uint8]:
        """See :class:`pipeline.tiling.Canvas`."""
        with plain(self.quality(lead)) as file:
            return file.read(1, window=_of_rasterio(window)).astype(np.uint8)

    def _layer(self, place: tuple[int, str, int]) -> int:
        _, quantity, band = place
        return 1 + self.quantities.index(quantity) * len(self._bands) + band

    def _write(self, path: Path, sheet: Sheet, window: Window, lead: int) -> None:
        with self._open(path, sheet, lead) as file:
            file.write(sheet.data, window=_of_rasterio(window))

    @contextmanager
    def _open(self, path: Path, sheet: Sheet, lead: int) -> Iterator[Any]:
        if not path.exists():
            tags = lead_tags(self.run, self.outlet, self.run.lead(lead + 1))
            create_plain(path, sheet.data.dtype, self.outlet.grid, sheet.bands, nodata=sheet.nodata, tags=tags)
        with plain(path, "r+") as file:
            yield file


def _of_rasterio(window: Window) -> RasterWindow:
    return RasterWindow.from_slices(*window.slices)
