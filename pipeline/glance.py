"""What a few pixels of a folder of scenes tell: what its masks hold, and whether zeros are values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from pipeline.errors import SceneError
from pipeline.geotiff import open_geotiff
from pipeline.scene import mask_path
from pipeline.specs import INTEGER_TYPES, BandSpec, MaskSpec

MASKS = 8
SCENES = 8
PIXELS = 50_000_000  # of a mask or a block that is read; what is larger is passed over
BLOCKS = 16  # of a scene, spread over it
COMMON = 0.01  # of the pixels of a scene: so many zeros are no accident

T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of the items, first and last among them.

    >>> spread(range(100), 4)
    [0, 33, 66, 99]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def find_masks(folders: Sequence[Path], scenes: Sequence[Path]) -> tuple[MaskSpec | None, list[str]]:
    """Masks in one of some folders, whose names go on where the scenes' names end; and what is to be said of them."""
    for beside in folders:
        stems = {path.stem for path in beside.glob(f"*{scenes[0].suffix}")}
        endings = Counter(stem[len(s.stem) :] for s in scenes for stem in stems if stem.startswith(s.stem))
        if endings:
            spec = MaskSpec.model_validate({"folder": beside, "suffix": endings.most_common(1)[0][0]})
            return _with_values(spec, [path for s in scenes if (path := mask_path(s, spec)).is_file()], len(scenes))
    return None, []


def _with_values(spec: MaskSpec, masks: Sequence[Path], scenes: int) -> tuple[MaskSpec, list[str]]:
    found = sorted(set().union(*(_values(path) for path in spread(masks, MASKS))))
    values = (1,) if 1 in found or not any(found) else tuple(value for value in found if value)
    notes = [f"the masks in {spec.folder.name} hold {found[:9]}: {list(values[:9])} is taken to mean unusable"]
    if len(masks) < scenes:
        notes.append(f"{scenes - len(masks)} of {scenes} scenes have no mask; a scene waits for its mask")
    return spec.model_copy(update={"values": values}), notes


def _values(path: Path) -> set[int]:
    """Values in a mask but for its nodata; none where it cannot be read or is no mask."""
    try:
        with open_geotiff(path) as dataset:
            if dataset.dtypes[0] not in INTEGER_TYPES or dataset.width * dataset.height > PIXELS:
                return set()
            return set(np.unique(dataset.read(1)).tolist()) - {dataset.nodatavals[0]}
    except SceneError:
        return set()


def zeros_are_common(scenes: Sequence[Path], bands: Sequence[BandSpec]) -> bool:
    """Whether at least 1 % of the pixels are 0 in most scenes, in all of the bands where 0 is no nodata."""
    told = [band.index for band in bands if band.forecast and band.resampling != "nearest" and band.nodata != 0]
    if not told:
        return False
    shares = [share for path in spread(scenes, SCENES) if (share := _zeros(path, told)) is not None]
    return len(shares) > 0 and float(np.median(shares)) >= COMMON


def _zeros(path: Path, indices: Sequence[int]) -> float | None:
    """Part of the pixels looked at that are 0 in all bands; None where the scene cannot be read."""
    try:
        with open_geotiff(path) as dataset:
            if dataset.count < max(indices):
                return None
            blocks = [(dataset.read(indices, window=window) == 0).all(axis=0) for window in _blocks(dataset)]
    except SceneError:
        return None
    return float(np.concatenate([block.ravel() for block in blocks]).mean()) if blocks else None


def _blocks(dataset: DatasetReader) -> Iterator[Window]:
    """Some whole blocks, spread over the scene; none where they are too large to be read in passing."""
    height, width = dataset.block_shapes[0]
    if height * width * dataset.count > PIXELS:
        return
    tops, lefts = np.arange(0, dataset.height, height), np.arange(0, dataset.width, width)
    across = spread(lefts.tolist(), int(BLOCKS**0.5))
    for top in spread(tops.tolist(), BLOCKS // len(across)):
        for left in across:
            bottom, right = min(top + height, dataset.height), min(left + width, dataset.width)
            yield Window.from_slices((top, bottom), (left, right))
