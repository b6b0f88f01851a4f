"""Which blocks the directory of a TIFF places: a file without a place for each is not finished, or left some out."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from pipeline.errors import SceneError

MOST_BLOCKS = 1 << 24
STRIP_OFFSETS, ROWS_PER_STRIP, TILE_OFFSETS = 273, 278, 324  # TIFF tags
UNSIGNED = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # types of TIFF tags


def hollow(dataset: DatasetReader, *, interleaved: bool) -> list[bool]:
    """Of each band, whether a block has no place in the file, as in one that a GDAL writer has not finished.

    GDAL knows the places too, but not those of a strip that it hands out row by row.

    Args:
        dataset: the file.
        interleaved: one block holds all bands.

    Raises:
        SceneError: ``unreadable``, the directory is broken.
    """
    tags = _layout(Path(dataset.name))
    places = tags.get(TILE_OFFSETS, tags.get(STRIP_OFFSETS, np.zeros(0, np.uint64)))
    rows, columns = dataset.block_shapes[0]
    if TILE_OFFSETS not in tags:
        rows, columns = min(int(tags.get(ROWS_PER_STRIP, [dataset.height])[0]), dataset.height), dataset.width
    blocks = ceil(dataset.height / max(rows, 1)) * ceil(dataset.width / columns)
    if interleaved or dataset.count == 1:
        return [places.size < blocks or not places.all()] * dataset.count
    parts = [places[blocks * band : blocks * (band + 1)] for band in range(dataset.count)]
    return [part.size < blocks or not part.all() for part in parts]


def _layout(path: Path) -> dict[int, NDArray[np.unsignedinteger]]:
    """Where the blocks of a file lie: the tags of its first directory that tell it (TIFF 6.0, section 2; BigTIFF).

    Raises:
        SceneError: ``unreadable``.
    """
    try:
        with path.open("rb") as file:
            return _layout_tags(file)
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise SceneError("unreadable", f"the directory of {path.name} is broken: {error}") from None


def _layout_tags(file: BinaryIO) -> dict[int, NDArray[np.unsignedinteger]]:
    head = file.read(16)
    order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    pointer, counter = (f"{order}u8", f"{order}u8") if big else (f"{order}u4", f"{order}u2")
    file.seek(int(np.frombuffer(head[8:16] if big else head[4:8], pointer)[0]))
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", pointer), ("at", pointer)])
    entries = _integers(file, 1, np.dtype(counter))[0]
    start, table = file.tell(), _integers(file, int(entries), entry)
    tags = {}
    for row, (tag, kind, count, at) in enumerate(table.tolist()):
        if tag in (TILE_OFFSETS, STRIP_OFFSETS, ROWS_PER_STRIP):
            dtype = np.dtype(f"{order}{UNSIGNED[kind]}")
            inside = count * dtype.itemsize <= entry["at"].itemsize  # few values stand in the entry itself
            file.seek(start + (row + 1) * entry.itemsize - entry["at"].itemsize if inside else at)
            tags[tag] = _integers(file, count, dtype)
    return tags


def _integers(file: BinaryIO, count: int, dtype: np.dtype) -> NDArray:
    """What there is of ``count`` numbers, and never more than a file of this world needs."""
    data = file.read(min(count, MOST_BLOCKS) * dtype.itemsize)
    return np.frombuffer(data, dtype, len(data) // dtype.itemsize)
