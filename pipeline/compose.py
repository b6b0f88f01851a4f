"""Pixels of the scenes of a slot: as the cube keeps them, and how they are laid over each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.grid import Window, tiles
from pipeline.quality import OF_THE_SCENE, Quality, unusable
from pipeline.scenetable import SceneRow
from pipeline.schema import AS_IN_SLOT, CHUNK, NO_LAYER, BandGroup

OF_THE_PIXEL = np.uint8(~OF_THE_SCENE & 0xFF)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Some pixels of a band group.

    Attributes:
        window: where they lie in the cube's grid.
        data: ``(band, y, x)``, DN.
        quality: ``(y, x)``.
    """

    window: Window
    data: NDArray
    quality: NDArray[np.uint8]

    @classmethod
    def absent(cls, group: BandGroup, window: Window) -> Pixels:
        """Pixels of which nothing is known."""
        data = np.full((len(group.bands), *window.shape), group.bands[0].fill, group.dtype)
        return cls(window, data, np.full(window.shape, Quality.MISSING, np.uint8))

    def cut(self, window: Window) -> Pixels:
        """Those of them inside ``window``, which lies in their own."""
        rows, columns = window.within(self.window).slices
        return Pixels(window, self.data[:, rows, columns], self.quality[rows, columns])

    def flagged(self, flags: int) -> Pixels:
        """The same, with bits that all pixels of a scene share, except where it has none."""
        if not flags:
            return self
        there = (self.quality & np.uint8(Quality.MISSING)) == 0
        return Pixels(self.window, self.data, np.where(there, self.quality | np.uint8(flags), self.quality))

    def equals(self, other: Pixels) -> bool:
        """Whether both hold the same of a scene, bits that it shares with none of its pixels apart."""
        same = np.array_equal(self.quality & OF_THE_PIXEL, other.quality & OF_THE_PIXEL)
        return same and self.data.tobytes() == other.data.tobytes()  # bytes: a NaN equals no NaN


def slot_pixels(root: zarr.Group, group: BandGroup, slot: int, window: Window) -> Pixels:
    """What a slot shows in a window of the grid."""
    return _read(cast("zarr.Group", root[group.name]), slot, window)


def slots_pixels(root: zarr.Group, group: BandGroup, slots: range, window: Window) -> list[Pixels]:
    """What each of some consecutive slots shows in a window of the grid; one request reads them all."""
    arrays, (rows, columns) = cast("zarr.Group", root[group.name]), window.slices
    data = cast("NDArray", cast("zarr.Array", arrays["data"])[slots.start : slots.stop, :, rows, columns])
    quality = cast("NDArray", cast("zarr.Array", arrays["quality"])[slots.start : slots.stop, rows, columns])
    return [Pixels(window, data[index], quality[index]) for index in range(len(slots))]


def scene_pixels(root: zarr.Group, group: BandGroup, row: SceneRow, window: Window) -> Pixels | None:
    """A scene's own pixels inside a window of the grid, without bits ``OF_THE_SCENE``; None where it has none there.

    They come from its layer, and where that has none, from the slot, which shows them.
    """
    common = row.place.intersection(window)
    if common is None:
        return None
    shown = slot_pixels(root, group, row.slot, common)
    if row.layer != NO_LAYER:
        kept = _read(cast("zarr.Group", root[f"layers/{group.name}"]), row.layer, common)
        own = kept.quality != AS_IN_SLOT
        if own.any():
            data = np.where(own, kept.data, shown.data)
            shown = Pixels(common, data, np.where(own, kept.quality, shown.quality))
    return Pixels(common, shown.data, shown.quality & OF_THE_PIXEL)


def _read(arrays: zarr.Group, index: int, window: Window) -> Pixels:
    rows, columns = window.slices
    data = cast("zarr.Array", arrays["data"])[index, :, rows, columns]
    quality = cast("zarr.Array", arrays["quality"])[index, rows, columns]
    return Pixels(window, cast("NDArray", data), cast("NDArray", quality))


def compose(group: BandGroup, window: Window, parts: Sequence[Pixels]) -> Pixels:
    """Lays scenes under each other, best first: a worse one shows where the better ones miss or are unusable."""
    if len(parts) == 1 and parts[0].window == window:
        return parts[0]
    canvas = Pixels.absent(group, window)
    for part in parts:
        present = canvas.cut(part.window)
        gap = (present.quality & np.uint8(Quality.MISSING)) > 0
        shows = gap | (unusable(present.quality) & ~unusable(part.quality))
        present.quality[...] = np.where(shows, part.quality, present.quality)  # a cut is a view of the canvas
        present.data[...] = np.where(shows, part.data, present.data)
    return canvas


def not_shown(part: Pixels, canvas: Pixels, group: BandGroup) -> Pixels:
    """What a scene's layer keeps in the window of ``canvas``: its chunks that the slot does not show as they are."""
    kept = Pixels.absent(group, canvas.window)
    kept.quality[...] = AS_IN_SLOT
    for chunk in _chunks(part.window):
        own = part.cut(chunk)
        if not own.equals(canvas.cut(chunk)):
            place = kept.cut(chunk)
            place.data[...], place.quality[...] = own.data, own.quality & OF_THE_PIXEL
    return kept


def _chunks(window: Window) -> Iterator[Window]:
    """Windows inside ``window`` that lie in one chunk of the cube each."""
    y, x = window.y0 // CHUNK * CHUNK, window.x0 // CHUNK * CHUNK
    for tile in tiles((window.y1 - y, window.x1 - x), CHUNK):
        part = Window(tile.y0 + y, tile.y1 + y, tile.x0 + x, tile.x1 + x).intersection(window)
        if part is not None:
            yield part
