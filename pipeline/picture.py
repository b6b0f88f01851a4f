"""One forecast on one page: what it saw, where it looked, what it said, what came, and how far off it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.episode import Episode, Maps, MeanErrors

DPI: Final = 110
FRAMES_SHOWN: Final = 4
LEADS_SHOWN: Final = 3

# Lengths in inches.
_PANEL_AREA = 5.5
_NARROWEST = 1.9  # holds a title
_GAP, _TITLE, _HEADING, _MARGIN = 0.14, 0.27, 0.42, 0.35
_HEADER, _FOOTER = 1.0, 0.5
_BAR, _BAR_LABELS = 0.13, 0.8
_CHART = 2.7

_INK, _QUIET = "#1a1a1a", "#5c5c5c"
_GOOD, _BAD = "#1f6f3d", "#a12a1e"
_MISSING = {"facecolor": "#efe6d2", "edgecolor": "#c9b68d", "hatch": "/////", "linewidth": 0}
_LOUD = {"dBZ", "mm/h", "mm h-1", "mm", "mm/h-1"}  # rain on black reads poorly in grey
_COLD = {"K", "degC", "Celsius"}  # infrared: what is cold is cloud, and cloud is white


# --- the page -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Box:
    """A rectangle on the page, inches from its top left corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of equal panels with a colour bar beside each or all, from its top left corner."""

    left: float
    top: float
    columns: int
    panel: tuple[float, float]

    def cell(self, row: int, column: int) -> _Box:
        width, height = self.panel
        return _Box(self.left + column * (width + _GAP), self.row_top(row), width, height)

    def row_top(self, row: int) -> float:
        return self.top + row * (self.panel[1] + _TITLE) + _TITLE

    def bar(self, first: int, last: int) -> _Box:
        top, bottom = self.row_top(first), self.row_top(last) + self.panel[1]
        inset = 0.08 * (bottom - top)
        return _Box(self.left + self.columns * (self.panel[0] + _GAP), top + inset, _BAR, bottom - top - 2 * inset)

    @property
    def width(self) -> float:
        return self.columns * (self.panel[0] + _GAP) + _BAR + _BAR_LABELS
