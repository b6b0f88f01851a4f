"""A page measured in inches: panels of pixels, colour bars, charts and text that stay where they are put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Literal, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

Layer = NDArray[np.floating]

DPI: Final = 110
INK: Final = "#1a1a1a"
QUIET: Final = "#5c5c5c"
LINES: Final = "#9a9a9a"
# In no colour scale, and hatched: missing pixels are told apart in print and without colours as well.
MISSING: Final[dict[str, Any]] = {"facecolor": "#f0e4c6", "edgecolor": "#c4ae7c", "hatch": "/////", "linewidth": 0}

# Inches.
GAP: Final = 0.14
TITLE: Final = 0.3
HEADING: Final = 0.48
BAR: Final = 0.13
BAR_LABELS: Final = 0.85

_LETTER = 0.6  # width of a letter of DejaVu Sans, parts of its size: above the average of running text


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, from the page's top left corner (inches)."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Block:
    """A heading over rows of equal panels with titles, and a colour bar beside them.

    Attributes:
        left: of the first panel (inches).
        top: of the heading (inches).
        rows: of panels.
        columns: of panels.
        panel: width and height of a panel (inches).
    """

    left: float
    top: float
    rows: int
    columns: int
    panel: tuple[float, float]

    @property
    def right(self) -> float:
        """Where the colour bar's labels end."""
        return self.bar().right + BAR_LABELS

    @property
    def bottom(self) -> float:
        """Where the last row ends."""
        return self.top + HEADING + self.rows * (TITLE + self.panel[1])

    def cell(self, row: int, column: int) -> Box:
        """Where a panel stands."""
        width, height = self.panel
        top = self.top + HEADING + row * (TITLE + height) + TITLE
        return Box(self.left + column * (width + GAP), top, width, height)

    def bar(self) -> Box:
        """Where the colour bar stands: beside the first row, and the others up to a readable length."""
        first, last = self.cell(0, self.columns), self.cell(self.rows - 1, self.columns)
        return Box(first.left, first.top, BAR, min(last.bottom - first.top, max(first.height, 3.0)))


@dataclass(frozen=True, slots=True)
class Look:
    """How values become colours.

    Attributes:
        colours: the colour map, or its name.
        low: value of its first colour.
        high: value of its last colour.
        extend: on which sides values go beyond.
    """

    colours: str | Colormap
    low: float
    high: float
    extend: Literal["neither", "min", "max", "both"] = "neither"

    @classmethod
    def spanning(cls, colours: str, layers: Sequence[Layer], percent: tuple[float, float]) -> Self:
        """From one percentile of all known values to another; of a sample where they are many."""
        values = _sampled(layers)
        if not values.size:
            return cls(colours, 0.0, 1.0)
        low, high = (float(value) for value in np.percentile(values, percent))
        beyond = bool(values.min() < low), bool(values.max() > high)
        sides: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]] = {
            (False, False): "neither",
            (True, False): "min",
            (False, True): "max",
            (True, True): "both",
        }
        return cls(colours, low, high if high > low else low + 1, sides[beyond])

    @property
    def norm(self) -> Normalize:
        """As Matplotlib takes it."""
        return Normalize(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Page:
    """A white figure on which everything has a place in inches.

    Attributes:
        figure: what is drawn on.
        width: of the page.
        height: of the page.
    """

    figure: Figure
    width: float
    height: float

    @classmethod
    def blank(cls, width: float, height: float) -> Self:
        """Nothing on it yet."""
        return cls(Figure((width, height), DPI, facecolor="white"), width, height)

    def text(self, left: float, baseline: float, text: str, size: float, **look: Any) -> None:
        """A line of text; a dollar sign in it is a dollar sign."""
        look = {"color": INK, **look}
        self.figure.text(left / self.width, 1 - baseline / self.height, text, size=size, parse_math=False, **look)

    def heading(self, block: Block, bold: str, quiet: str = "") -> None:
        """What a block shows, and how to read it."""
        self.text(block.left, block.top + 0.4, bold, 12, weight="bold")
        left = block.left + 0.1 * len(bold) + 0.2
        size = fitting(quiet, 9.5, self.width - left - BAR)
        self.text(left, block.top + 0.4, quiet, size, color=QUIET)

    def panel(self, box: Box, layer: Layer, look: Look, title: str) -> Axes:
        """``(y, x)`` values in colours, their first pixel top left; hatched where they are NaN."""
        shown, side = shrunk(layer, ceil(box.width * DPI))
        axes = self._pixels(box, shown, side, look, title)
        axes.images[0].set_interpolation("nearest" if shown.shape[1] < box.width * DPI else "antialiased")
        axes.set(xlim=(0, layer.shape[1]), ylim=(layer.shape[0], 0))
        return axes

    def codes(self, box: Box, layer: Layer, look: Look, title: str) -> Axes:
        """As :meth:`panel`, for codes, which have no mean: of many pixels some are shown."""
        side = max(1, layer.shape[1] // ceil(2 * box.width * DPI))
        axes = self._pixels(box, layer[::side, ::side], side, look, title)
        axes.set(xlim=(0, layer.shape[1]), ylim=(layer.shape[0], 0))
        return axes

    def note(self, box: Box, text: str, title: str) -> None:
        """An empty panel that says why."""
        axes = self._frame(box, title)
        axes.set_facecolor("#f4f4f4")
        axes.text(0.5, 0.5, text, ha="center", va="center", color=QUIET, size=9.5, transform=axes.transAxes)

    def bar(self, box: Box, look: Look, label: str, **options: Any) -> None:
        """The key to a look."""
        axes = self._axes(box)
        mappable = ScalarMappable(look.norm, look.colours)
        bar = self.figure.colorbar(mappable, cax=axes, extend=look.extend, extendfrac=0.04, **options)
        bar.outline.set(linewidth=0.4)
        bar.set_label(label, size=fitting(label, 9, box.height), color=INK, parse_math=False)
        axes.tick_params(labelsize=8, width=0.5, length=2.5)

    def chart(self, box: Box, title: str) -> Axes:
        """Axes for a chart."""
        axes = self._axes(box)
        axes.tick_params(labelsize=8, width=0.5, length=2.5)
        self._title(box, title)
        return axes

    def swatch(self, box: Box, **look: Any) -> None:
        """A rectangle."""
        corner = box.left / self.width, 1 - box.bottom / self.height
        size = box.width / self.width, box.height / self.height
        self.figure.add_artist(Rectangle(corner, *size, transform=self.figure.transFigure, **look))

    def _pixels(self, box: Box, shown: Layer, side: int, look: Look, title: str) -> Axes:
        axes = self._frame(box, title)
        axes.patch.set(**MISSING)
        extent = (0, shown.shape[1] * side, shown.shape[0] * side, 0)
        pixels = np.ma.masked_invalid(shown)
        axes.imshow(pixels, cmap=look.colours, norm=look.norm, extent=extent, interpolation="nearest")
        return axes

    def _frame(self, box: Box, title: str) -> Axes:
        axes = self._axes(box)
        axes.set(xticks=[], yticks=[])
        self._title(box, title)
        return axes

    def _axes(self, box: Box) -> Axes:
        place = (box.left / self.width, 1 - box.bottom / self.height, box.width / self.width, box.height / self.height)
        axes = self.figure.add_axes(place)
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=LINES)
        return axes

    def _title(self, box: Box, title: str) -> None:
        self.text(box.left, box.top - 0.07, title, fitting(title, 9.5, box.width))


def fitting(text: str, size: float, width: float) -> float:
    """The font size, up to ``size`` points, at which a line is no wider than ``width`` inches.

    >>> fitting("x" * 100, 12, 5.0)
    6.0
    """
    return min(size, width * 72 / (_LETTER * max(len(text), 1)))


def shrunk(layer: Layer, width: int) -> tuple[Layer, int]:
    """Means over the valid pixels of square blocks, and the blocks' side; blocks more than half missing are missing.

    Args:
        layer: ``(y, x)``, NaN where missing.
        width: blocks a row at least, if the layer has as many pixels.
    """
    side = max(1, layer.shape[1] // width)
    if side == 1:
        return layer, 1
    padded = np.pad(layer, [(0, -length % side) for length in layer.shape], constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
    known = np.isfinite(blocks)
    count, total = known.sum(axis=(1, 3)), np.where(known, blocks, 0).sum(axis=(1, 3))
    return np.where(2 * count >= side**2, total / np.maximum(count, 1), np.nan), side


def _sampled(layers: Sequence[Layer]) -> Layer:
    known = [layer[np.isfinite(layer)] for layer in layers]
    return np.concatenate([part[:: max(1, part.size // 50_000)] for part in known]) if known else np.empty(0)
