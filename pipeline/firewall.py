"""What only a whole scene shows, or a scene among others: no values, lost blocks, repeated frames, shifted levels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from math import ceil, isnan, nan, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SceneError
from pipeline.grid import Window
from pipeline.quality import dn_range
from pipeline.specs import BandSpec, FirewallSpec
from pipeline.survey import CELL, Survey, cell_edges, lattice_step, zeros_are_values

TELLING = 100  # px of the lattice: fewer have no levels, and fewer that differ from the rest no fingerprint
OUTSIDE = 0.9  # of a scene out of range: no weather does that, a wrong unit does
STRAIGHT = 2  # px of 0 by nature, at most, in a cell at the side of a lost block
EXCEPTIONS = 0.1  # of the cells at a side of a lost block, which nature may have made uneven
ELSEWHERE = 0.5  # zeros outside of lost blocks for each one inside, at most
STAIRS = 4  # rectangles of one lost area, at most; a file cut short in tiles loses two
LINE = 32  # px; fewer in a row may have one value by chance
COMMON = 0.01  # of a scene; a value as common as that fills rows by nature (sea, saturated cloud)
REFERENCES, REFERENCES_NEEDED, LATEST = 10, 5, 3
SIGMAS, PART_OF_SPREAD, EVENNESS, KEPT_SPREAD = 6.0, 0.15, 0.25, 0.2
NO_LEVELS = (nan, nan, nan)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the firewall says of a scene that stands alone.

    Attributes:
        refusal: why it must not enter the cube, or None.
        lost: windows of the grid where its pixels are lost.
        fingerprint: below 2^63, equal for scenes of equal values; 0: it shows too little to tell it from others.
        levels: 1st, 50th and 99th percentile of the leading band's usable DN; NaN where too few are usable.
    """

    refusal: SceneError | None
    lost: tuple[Window, ...]
    fingerprint: int
    levels: tuple[float, float, float]


def verdict(survey: Survey, bands: Sequence[BandSpec], spec: FirewallSpec) -> Verdict:
    """What the firewall says of a scene, by its rules in ``spec``; ``survey`` is that of all its windows."""
    sample = np.sort(survey.sample)
    lost = () if spec.lost == "off" else (*_lost_blocks(survey), *_lost_lines(survey, sample, bands, spec))
    return Verdict(_refusal(survey, bands, spec, lost), lost, _telling(survey, sample), _levels(sample))


def _refusal(
    survey: Survey, bands: Sequence[BandSpec], spec: FirewallSpec, lost: Sequence[Window]
) -> SceneError | None:
    present = survey.pixels - survey.missing
    if not present:
        text = "a scene has values, but all of its pixels are nodata"
        return SceneError("all-nodata", text) if spec.all_nodata == "quarantine" else None
    if spec.all_zero == "quarantine" and 0 < survey.lit == survey.zero:
        text = "a scene has values, but all bands are 0 wherever it has data"
        return SceneError("all-zero", f"{text}. Where 0 is a measurement, set scenes.firewall.zeros_are_values")
    if spec.out_of_range == "quarantine" and survey.out_of_range > OUTSIDE * present:
        return SceneError("out-of-range", _range_detail(survey, bands, present))
    if spec.lost == "quarantine" and lost:
        return SceneError("lost-block", f"no block or line of a scene is lost, but these windows are: {lost[:3]}")
    return None


def _range_detail(survey: Survey, bands: Sequence[BandSpec], present: int) -> str:
    limited = [band for band in bands if dn_range(band) != (None, None)]
    limits = ", ".join(f"{band.name} {band.valid_min} to {band.valid_max} {band.units}" for band in limited)
    share = survey.out_of_range / present
    return f"values lie in range ({limits}), but {share:.0%} do not: check unit, scale and offset of the bands"


def _telling(survey: Survey, sample: NDArray) -> int:
    _, counts = np.unique(sample, return_counts=True)
    if sample.size - counts.max(initial=0) < TELLING:
        return 0
    return survey.fingerprint >> 1 or 1  # a column of signed 64 bit holds it


def _levels(sample: NDArray) -> tuple[float, float, float]:
    if sample.size < TELLING:
        return NO_LEVELS
    low, middle, high = np.percentile(sample, (1, 50, 99)).tolist()
    return low, middle, high


def _lost_blocks(survey: Survey) -> list[Window]:
    """Straight-sided areas of zeros in a scene that hardly has zeros elsewhere, or shapes of nature would count."""
    if survey.zeros is None or survey.zero == survey.lit:
        return []
    blocks = list(_blocks(survey.zeros, survey.place))
    inside = sum(height * width for height, width in (block.shape for block in blocks))
    return blocks if survey.zero - inside <= min(COMMON * survey.lit, ELSEWHERE * inside) else []


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Cells of a scene.

    Attributes:
        zeros: ``(row, column)``, how many pixels are 0.
        areas: number of the area of whole zeros that a cell belongs to; one cell more on each side, of no area.
        rows: where rows of cells begin and end in the grid.
        columns: where columns do.
    """

    zeros: NDArray[np.uint16]
    areas: NDArray[np.int32]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def turned(self) -> _Cells:
        """Rows as columns and columns as rows."""
        return _Cells(self.zeros.T, self.areas.T, self.columns, self.rows)


def _blocks(zeros: NDArray[np.uint16], place: Window) -> Iterator[Window]:
    """Areas of zeros made of a few rectangles whose sides are straight to the pixel."""
    rows, columns = cell_edges(place)
    full = zeros == np.outer(np.diff(rows), np.diff(columns))
    count, areas, stats, _ = cv2.connectedComponentsWithStats(full.view(np.uint8), connectivity=4)
    cells = _Cells(zeros, np.pad(areas.astype(np.int32), 1), rows, columns)
    for label in range(1, count):
        x, y, width, height, size = (int(number) for number in stats[label])
        if min(width, height) < 2 or size < 4:
            continue
        box = Window(y, y + height, x, x + width)
        found = [_exact(cells, part) for part in _stairs(areas[box.slices] == label, box)]
        if None not in found:
            yield from (window for window in found if window is not None)


def _stairs(area: NDArray[np.bool_], box: Window) -> list[Window]:
    """The rectangles of cells that ``area`` is made of, one below the other; none where it is of another form."""
    runs = []
    for row in area:
        inside = np.flatnonzero(row)
        if inside[-1] - inside[0] + 1 != inside.size:
            return []
        runs.append((int(inside[0]), int(inside[-1]) + 1))
    parts, y = [], box.y0
    for (x0, x1), same in groupby(runs):
        height = len(list(same))
        parts.append(Window(y, y + height, box.x0 + x0, box.x0 + x1))
        y += height
    return parts if len(parts) <= STAIRS else []


def _exact(cells: _Cells, part: Window) -> Window | None:
    """The block whose whole cells ``part`` are, to the pixel: zeros in the cells around tell how far it reaches.

    Returns:
        Its window in the grid; None where a side is not straight.
    """
    own = int(cells.areas[part.y0 + 1, part.x0 + 1])
    turned = cells.turned()
    top, bottom = (_reach(cells, row, (part.x0, part.x1), own) for row in (part.y0 - 1, part.y1))
    left, right = (_reach(turned, column, (part.y0, part.y1), own) for column in (part.x0 - 1, part.x1))
    if min(top, bottom, left, right) < 0:
        return None
    (y0, y1), (x0, x1) = cells.rows[[part.y0, part.y1]].tolist(), cells.columns[[part.x0, part.x1]].tolist()
    return Window(y0 - top, y1 + bottom, x0 - left, x1 + right)


def _reach(cells: _Cells, row: int, span: tuple[int, int], own: int) -> int:
    """By how many px area ``own`` reaches into a row of cells along its side; -1 where not by the same in all."""
    if not 0 <= row < len(cells.zeros):
        return 0
    start, end = span
    others = cells.areas[row + 1, start : end + 2] != own
    beside = others[:-2] & others[1:-1] & others[2:]  # a cell in the inner corner of a stair has zeros of two sides
    zeros, lengths = cells.zeros[row, start:end][beside], np.diff(cells.columns[start : end + 1])[beside]
    reach = int((zeros // lengths).min(initial=CELL))
    straight = zeros - reach * lengths <= STRAIGHT
    return 0 if not zeros.size else reach if straight.mean() >= 1 - EXCEPTIONS else -1


def _lost_lines(survey: Survey, sample: NDArray, bands: Sequence[BandSpec], spec: FirewallSpec) -> Iterator[Window]:
    """Rows of one value between rows of several, where the scene hardly has this value elsewhere."""
    place, rows = survey.place, survey.rows
    wide = rows.valid >= LINE
    flat, lively = wide & (rows.least == rows.most), wide & (rows.least < rows.most)
    for start, end in _runs(flat):
        if not lively[max(start - 1, 0) : end + 1].any():
            continue
        for value, same in groupby(range(start, end), key=lambda row: rows.least[row]):
            lines = list(same)
            window = Window(place.y0 + lines[0], place.y0 + lines[-1] + 1, place.x0, place.x1)
            natural = value == 0 and zeros_are_values(bands, spec)
            if not natural and _rare(value, sample, window, place):
                yield window


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where stretches of True begin and end."""
    steps = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


def _rare(value: float, sample: NDArray, window: Window, place: Window) -> bool:
    """Whether a value hardly occurs in the scene outside a window of full rows, as far as the lattice tells."""
    step = lattice_step(place.shape)
    inside = len(range(-(-window.y0 // step), -(-window.y1 // step))) * ceil(place.shape[1] / step)
    return sample.size >= TELLING and int(np.count_nonzero(sample == value)) - inside <= COMMON * sample.size


@dataclass(frozen=True, slots=True)
class Impression:
    """What one scene is compared with others by.

    Attributes:
        acquired: when it was taken, UTC.
        tile: the tile that it shows; scenes of different tiles are not compared.
        fingerprint: as in :class:`Verdict`.
        levels: as in :class:`Verdict`.
    """

    acquired: datetime
    tile: str
    fingerprint: int
    levels: tuple[float, float, float]


def repeats(scenes: Sequence[Impression]) -> set[int]:
    """Indices of the scenes whose values are those of a scene of the same tile that was taken earlier.

    The order of ``scenes`` does not matter.
    """
    first: dict[tuple[str, int], datetime] = {}
    for scene in scenes:
        key = scene.tile, scene.fingerprint
        first[key] = min(first.get(key, scene.acquired), scene.acquired)
    return {
        index
        for index, scene in enumerate(scenes)
        if scene.fingerprint and scene.acquired > first[scene.tile, scene.fingerprint]
    }


def level_steps(
    scenes: Sequence[Impression], *, since: datetime | None = None, known: Collection[int] = ()
) -> set[int]:
    """Indices of the scenes all of whose levels are shifted alike against the scenes of the tile before them.

    A scene is compared with the up to 10, at least 5, scenes before it that are not shifted themselves: a lasting shift
    stays one. The order of ``scenes`` does not matter.

    Args:
        scenes: scenes of any tiles.
        since: scenes that were taken earlier are not judged again; give the time of the oldest one that is new.
        known: indices of the shifted ones among those.

    Returns:
        The shifted ones, those of ``known`` included.
    """
    tiles: defaultdict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(scenes)), key=lambda index: (scenes[index].acquired, scenes[index].levels)):
        if not isnan(scenes[index].levels[1]):
            tiles[scenes[index].tile].append(index)
    old = {index for index, scene in enumerate(scenes) if since is not None and scene.acquired < since}
    return {index for series in tiles.values() for index in _shifted(scenes, series, old, known)}


def _shifted(scenes: Sequence[Impression], series: Sequence[int], old: set[int], known: Collection[int]) -> list[int]:
    shifted: list[int] = []
    references: list[Impression] = []
    for previous, index in zip([series[0], *series], series, strict=False):
        pause = scenes[index].acquired - scenes[previous].acquired
        if index in known if index in old else _is_shifted(scenes[index], references[-REFERENCES:], pause):
            shifted.append(index)
        else:
            references.append(scenes[index])
    return shifted


def _is_shifted(scene: Impression, references: Sequence[Impression], pause: timedelta) -> bool:
    """Against all references and against the latest, or seasons would count; ``pause``: since the scene before."""
    if len(references) < REFERENCES_NEEDED:
        return False
    past = np.array([reference.levels for reference in references])
    usual_pause = np.median(np.diff([reference.acquired.timestamp() for reference in references]))
    patience = sqrt(max(1.0, pause.total_seconds() / max(1.0, float(usual_pause))))  # as a random walk spreads
    sigma = 1.4826 * np.median(np.abs(np.diff(past[:, 1])))  # of normal noise; a trend widens it
    return all(
        _steps_out(scene.levels, past[-count:], SIGMAS * patience * float(sigma)) for count in (LATEST, len(past))
    )


def _steps_out(levels: tuple[float, float, float], past: NDArray[np.float64], least: float) -> bool:
    usual = np.median(past, axis=0)
    shifts = levels - usual
    shift, spread = abs(shifts[1]), usual[2] - usual[0]
    even = np.ptp(shifts) <= EVENNESS * shift
    kept = abs(levels[2] - levels[0] - spread) <= KEPT_SPREAD * spread
    return bool(even and kept and shift > max(least, PART_OF_SPREAD * spread))
