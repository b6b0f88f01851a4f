"""Slots written into the cube: each mosaic in windows of whole chunks, and what the firewall sees in what arrives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import ceil, lcm
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import cube as cubes
from pipeline.compose import Pixels, compose, not_shown, scene_pixels
from pipeline.errors import SceneError
from pipeline.firewall import Survey
from pipeline.grid import Window, tiles
from pipeline.mosaic import Arrival, Mosaic, Part, Version
from pipeline.quality import HIDING, Quality, flags
from pipeline.reader import readers
from pipeline.scene import Contract, blaming_mask, mask_path, mask_request, request
from pipeline.schema import NO_LAYER, QUALITY_CHUNK, BandGroup, Layout
from pipeline.solar import night
from pipeline.specs import SceneSpec
from pipeline.store import Transaction
from pipeline.workers import write_all

WINDOW_BYTES = 8 << 20  # of the DN of a window: the second core has work, and memory does not grow with the scene


@dataclass(frozen=True, slots=True)
class Rules:
    """How scenes become slots.

    Attributes:
        layout: of the cube.
        scenes: how files are read, and the rules of the firewall.
        scheduler: address of a dask scheduler; empty: threads.
    """

    layout: Layout
    scenes: SceneSpec
    scheduler: str = ""

    @property
    def contract(self) -> Contract:
        """What a scene must be."""
        return Contract(self.layout.bands, self.layout.grid, self.scenes.off_grid)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of writing mosaics.

    Attributes:
        surveys: what the firewall saw of each scene that arrived.
        good: usable pixels of each scene that arrived, summed over band groups.
        broken: faults; where there is one, nothing of the work may be committed.
    """

    surveys: dict[Version, Survey]
    good: dict[Version, int]
    broken: dict[Version, SceneError]

    @classmethod
    def of(cls, pieces: Iterable[Outcome]) -> Outcome:
        """What came of all of them."""
        surveys: dict[Version, Survey] = {}
        good: dict[Version, int] = defaultdict(int)
        broken: dict[Version, SceneError] = {}
        for piece in pieces:
            broken |= piece.broken
            for version, survey in piece.surveys.items():
                surveys[version] = surveys[version].merged(survey) if version in surveys else survey
            for version, count in piece.good.items():
                good[version] += count
        return cls(surveys, dict(good), broken)


def write(transaction: Transaction, mosaics: Sequence[Mosaic], rules: Rules) -> Outcome:
    """Writes mosaics into the uncommitted cube."""
    if not mosaics:
        return Outcome({}, {}, {})
    root, layout = transaction.group, rules.layout
    cubes.grow(root, layout, max(mosaic.slot for mosaic in mosaics) + 1)
    newest = max((part.row.layer for mosaic in mosaics for part in mosaic.parts), default=NO_LAYER)
    cubes.grow_layers(root, layout, newest + 1)
    calls = [partial(_write_window, mosaic, window, rules) for mosaic in mosaics for window in _windows(mosaic, layout)]
    outcome = Outcome.of(write_all(transaction, calls, rules.scheduler))
    for mosaic in mosaics:
        first = mosaic.shown[0].row.scene.acquired if mosaic.shown else None
        cubes.write_acquired(transaction.group, layout, mosaic.slot, first)
    return outcome


def _windows(mosaic: Mosaic, layout: Layout) -> Iterator[Window]:
    """Windows of whole chunks, and where grids allow of whole blocks of the file, that cover what is to be written."""
    blocks = [part.arrival.fit.block for part in mosaic.parts if part.arrival]
    pixel = sum(group.dtype.itemsize * len(group.bands) for group in layout.groups)
    shape = layout.grid.shape
    rows, columns = window_step(blocks[0] if blocks else (1, 1), (shape[0], shape[1]), QUALITY_CHUNK, pixel)
    height, width = layout.grid.shape
    for strip in tiles((height, 1), rows):
        for column in range(0, width, columns):
            window = Window(strip.y0, strip.y1, column, min(column + columns, width))
            if any(area.intersection(window) for area in mosaic.area):
                yield window


def window_step(block: tuple[int, int], shape: tuple[int, int], chunk: int, pixel: int) -> tuple[int, int]:
    """Rows and columns of a window; ``pixel`` is the size of one in bytes.

    >>> window_step((256, 256), (10980, 10980), 512, 8)
    (512, 2048)
    >>> window_step((1, 10980), (10980, 10980), 512, 8)
    (512, 10980)
    """
    area = max(1, WINDOW_BYTES // pixel)
    rows = _whole(block[0], chunk)
    columns = shape[1] if block[1] >= shape[1] else _whole(block[1], chunk)
    columns = min(columns * max(1, area // (rows * columns)), ceil(shape[1] / chunk) * chunk)
    rows = min(rows * max(1, area // (rows * columns)), ceil(shape[0] / chunk) * chunk)
    return rows, columns


def _whole(block: int, chunk: int) -> int:
    """Pixels that are whole blocks and whole chunks, or where that is too many, whole chunks that hold a block."""
    both = lcm(block, chunk)
    return both if both <= 4 * chunk else ceil(block / chunk) * chunk


def _write_window(mosaic: Mosaic, window: Window, rules: Rules, root: zarr.Group) -> Outcome:
    pieces = []
    for group in rules.layout.groups:
        try:
            pieces.append(_write_group(mosaic, window, group, rules, root))
        except BrokenArrivalError as fault:
            return Outcome({}, {}, {fault.version: fault.reason})
    return Outcome.of(pieces)


def _write_group(mosaic: Mosaic, window: Window, group: BandGroup, rules: Rules, root: zarr.Group) -> Outcome:
    with ExitStack() as stack:
        # A lone scene is written straight out of its reader's memory; of several the readers would pile up.
        held = stack if len(mosaic.parts) == 1 and rules.scenes.mask is None else None
        found = [(part, _pixels(part, group, window, rules, root, held)) for part in mosaic.parts]
        there = [(part, pixels) for part, pixels in found if pixels is not None]
        _put(mosaic.slot, window, there, group, root)
        return _seen([(part, pixels) for part, pixels in there if part.arrival], group, rules)


def _put(slot: int, window: Window, there: Sequence[tuple[Part, Pixels]], group: BandGroup, root: zarr.Group) -> None:
    """Writes a window of a slot, and of the layers of its scenes."""
    shown = [pixels.flagged(part.row.flags) for part, pixels in there if part.row.standing]
    canvas = compose(group, window, shown)
    cubes.write_pixels(root, group.name, slot, canvas)
    for part, pixels in there:
        if part.row.layer != NO_LAYER:
            cubes.write_pixels(root, f"layers/{group.name}", part.row.layer, not_shown(pixels, canvas, group))


def _seen(arrived: Sequence[tuple[Part, Pixels]], group: BandGroup, rules: Rules) -> Outcome:
    """What is to be known of scenes that arrived."""
    surveys = {
        part.row.scene.version: Survey.of(
            pixels.data,
            pixels.quality,
            group.bands,
            window=pixels.window,
            place=part.row.place,
            spec=rules.scenes.firewall,
        )
        for part, pixels in arrived
        if group == rules.layout.leading
    }
    good = {
        part.row.scene.version: int(np.count_nonzero((pixels.quality & np.uint8(HIDING)) == 0))
        for part, pixels in arrived
    }
    return Outcome(surveys, good, {})


def _pixels(
    part: Part, group: BandGroup, window: Window, rules: Rules, root: zarr.Group, held: ExitStack | None
) -> Pixels | None:
    if part.arrival is None:
        return scene_pixels(root, group, part.row, window)
    common = part.row.place.intersection(window)
    if common is None:
        return None
    try:
        return _arriving(part.arrival, group, common, rules, held)
    except SceneError as fault:
        raise BrokenArrivalError(part.row.scene.version, in_its_name(fault, part.arrival)) from None


def in_its_name(fault: SceneError, arrival: Arrival) -> SceneError:
    """The fault as the user knows the file: the name of our copy is nobody's business."""
    return SceneError(fault.reason, fault.detail.replace(arrival.path.name, arrival.key.name))


class BrokenArrivalError(Exception):
    """A scene turns out to be unreadable while it is written."""

    def __init__(self, version: Version, reason: SceneError) -> None:
        super().__init__(str(reason))
        self.version = version
        self.reason = reason


def _arriving(arrival: Arrival, group: BandGroup, window: Window, rules: Rules, held: ExitStack | None) -> Pixels:
    """Pixels of a file that arrives, with everything that the firewall says of them; a view as long as ``held``."""
    reading = readers().reading(request(arrival.path, arrival.fit, [band.name for band in group.bands], window))
    if held is None:
        with reading as view:
            data = view.copy()
    else:
        data = held.enter_context(reading)
    masked, dark = _masked(arrival, window, rules), _dark(arrival, group, window, rules)
    quality = flags(data, group.bands, masked, night=dark, firewall=rules.scenes.firewall)
    for lost in arrival.lost:
        common = lost.intersection(window)
        if common is not None:
            quality[common.within(window).slices] |= np.uint8(Quality.LOST)
    return Pixels(window, data, quality)


def _dark(arrival: Arrival, group: BandGroup, window: Window, rules: Rules) -> NDArray[np.bool_] | None:
    if rules.scenes.firewall.night == "off" or not any(band.visible for band in group.bands):
        return None
    return night(arrival.scene.acquired, rules.layout.grid, window)


def _masked(arrival: Arrival, window: Window, rules: Rules) -> NDArray[np.bool_] | None:
    if arrival.mask is None or rules.scenes.mask is None:
        return None
    path, fit = arrival.mask
    name = mask_path(Path(arrival.scene.source), rules.scenes.mask).name
    with blaming_mask(name), readers().reading(mask_request(path, fit, window)) as view:
        return np.isin(view[0], rules.scenes.mask.values)
