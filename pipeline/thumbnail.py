"""A forecast run at a glance: three leads side by side, in a picture so small that a database can keep it."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.catalog import PublishedRun
from pipeline.raster import read_small

SIDE: Final = 128  # px of a panel
GAP: Final = 4  # px
ENDS: Final = (1, 99)  # percentiles that get the ends of the colours
COLOURS: Final = 32  # more cannot be told apart, and make the file larger
MISSING, PAPER = COLOURS, COLOURS + 1  # places in the palette
MISSING_COLOUR, PAPER_COLOUR = (240, 228, 198), (255, 255, 255)
BEST: Final = ("q50", "mean")


def panels(run: PublishedRun) -> tuple[int, ...]:
    """Leads that are shown (minutes): the first, the middle and the last."""
    leads = sorted(run.leads)
    return tuple(dict.fromkeys((leads[0], leads[(len(leads) - 1) // 2], leads[-1])))


def thumbnail(run: PublishedRun) -> bytes:
    """The first band's median, or mean, at the leads of :func:`panels`, as a PNG; one colour scale for all.

    Args:
        run: on this machine.
    """
    name = next((name for name in BEST if name in run.quantities), run.quantities[0])
    place = run.quantities.index(name) * len(run.bands)
    layers = [_enlarged(read_small(run.leads[lead], place, SIDE)) for lead in panels(run)]
    codes = [_codes(layer, _ends(layers)) for layer in layers]
    gap = np.full((codes[0].shape[0], GAP), PAPER, np.uint8)
    row = np.hstack([part for code in codes for part in (code, gap)][:-1])
    return _png(row)


def _enlarged(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    times = max(1, SIDE // max(layer.shape))
    return layer.repeat(times, axis=0).repeat(times, axis=1)


def _ends(layers: list[NDArray[np.float32]]) -> tuple[float, float]:
    known = np.concatenate([layer[np.isfinite(layer)] for layer in layers])
    if not known.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(known, ENDS))
    return low, high if high > low else low + 1.0


def _codes(layer: NDArray[np.float32], ends: tuple[float, float]) -> NDArray[np.uint8]:
    """Places in the palette."""
    low, high = ends
    with np.errstate(invalid="ignore"):
        places = np.clip((layer - low) / (high - low), 0, 1) * (COLOURS - 1)
    return np.where(np.isfinite(layer), np.nan_to_num(places).round(), MISSING).astype(np.uint8)


def _png(codes: NDArray[np.uint8]) -> bytes:
    colours = (mpl.colormaps["viridis"](np.linspace(0, 1, COLOURS))[:, :3] * 255).round().astype(np.uint8)
    image = Image.fromarray(codes, mode="P")
    image.putpalette(bytes([*colours.ravel().tolist(), *MISSING_COLOUR, *PAPER_COLOUR]))
    file = BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
