"""A published run on one page: what was seen last, what is forecast, how sure that is and who says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import floor, log10
from pathlib import Path
from textwrap import wrap
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from pipeline.episode import NO_UNITS, Episode, number, span
from pipeline.grid import pixel_size
from pipeline.page import BAR, BAR_LABELS, HEADING, INK, MISSING, QUIET, TITLE, Block, Box, Look, Page, fitting
from pipeline.picture import panel_size, value_look, width_look
from pipeline.predictor import Source
from pipeline.shares import rung_shares, shares_text

LEADS_SHOWN: Final = 4

# Inches.
_MARGIN, _HEADER, _LINE = 0.35, 0.95, 0.17

# Okabe & Ito's colours, which the colour-blind tell apart.
RUNGS: Final = {
    Source.NETWORK: "#0072b2",
    Source.EXTRAPOLATION: "#e69f00",
    Source.PERSISTENCE: "#d55e00",
    Source.CLIMATOLOGY: "#cc79a7",
}
CHANCE_LOOK = Look("Reds", 0.0, 1.0)
RUNG_LOOK = Look(ListedColormap(list(RUNGS.values())), 0.5, len(RUNGS) + 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Likelihood:
    """How likely an event is.

    Attributes:
        event: in words, like "at least 5 mm".
        layers: ``(lead, y, x)``, from 0 to 1; NaN where nothing is known.
    """

    event: str
    layers: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A run to be drawn.

    Attributes:
        episode: what it saw and what it says; truth and attention are not shown.
        sources: ``(lead, y, x)``, the :class:`~pipeline.predictor.Source` of each pixel.
        grid: where it lies.
        created: when it was published.
        snapshot: commit of the cube that it saw.
        useful: minutes ahead to which forecasts like it had been better than persistence; None: not known.
        likelihood: of one event; None where the run has no probabilities.
    """

    episode: Episode
    sources: NDArray[np.uint8]
    grid: GeoBox
    created: datetime
    snapshot: str
    useful: int | None = None
    likelihood: Likelihood | None = None


def write_portrait(path: Path, portrait: Portrait) -> None:
    """Writes the page as a PNG; the same portrait gives the same bytes.

    Args:
        path: file to write; its folder exists.
        portrait: what to show.
    """
    FigureCanvasAgg(draw(portrait)).print_png(path, metadata={"Software": None})


def draw(portrait: Portrait) -> Figure:
    """The page as a figure.

    Shown are the newest frame seen and :data:`LEADS_SHOWN` leads from the first to the last: their values, the widths
    of their intervals and the probability of an event where there are any, and what made each pixel.
    """
    episode, panel = portrait.episode, panel_size(portrait.episode.grid_shape)
    leads, looks = episode.spread_leads(LEADS_SHOWN), Looks.of(episode, episode.spread_leads(LEADS_SHOWN))
    values = Block(_MARGIN, _HEADER, 1, 1 + len(leads), panel)
    left = values.cell(0, 1).left
    widths = Block(left, values.bottom, 1, len(leads), panel)
    likely = Block(left, widths.bottom if episode.interval is not None else values.bottom, 1, len(leads), panel)
    rungs = Block(left, likely.top if portrait.likelihood is None else likely.bottom, 1, len(leads), panel)
    footer = credit(episode, values.right)
    page = Page.blank(values.right, rungs.bottom + 0.35 + _LINE * len(footer))
    write_header(page, portrait)
    _draw_values(page, values, portrait, leads, looks.values)
    if episode.interval is not None:
        _draw_widths(page, widths, episode, leads, looks.widths)
    if portrait.likelihood is not None:
        _draw_likelihood(page, likely, portrait.likelihood, leads)
    _draw_rungs(page, rungs, portrait, leads)
    beside = Box(_MARGIN, values.bottom + HEADING + TITLE, panel[0], rungs.bottom - values.bottom)
    _write_facts(page, beside, portrait)
    write_lines(page, footer, page.height - 0.2 - _LINE * (len(footer) - 1))
    return page.figure


@dataclass(frozen=True, slots=True)
class Looks:
    """One look for values and one for widths."""

    values: Look
    widths: Look

    @classmethod
    def of(cls, episode: Episode, leads: Sequence[int], frames: int = 1) -> Looks:
        """Of some leads (slots, from 1) and the newest frames seen."""
        seen = [episode.context[frame] for frame in episode.newest_frames(frames)]
        said = [episode.forecast[lead - 1] for lead in leads]
        widths = [episode.width(lead) for lead in leads] if episode.interval is not None else []
        return cls(value_look(episode.units, [*seen, *said]), width_look(widths))


def write_header(page: Page, portrait: Portrait) -> None:
    """Whose forecast of what it is."""
    episode, width = portrait.episode, page.width - 2 * _MARGIN
    page.text(_MARGIN, 0.45, episode.product, fitting(episode.product, 17, 0.9 * width), weight="bold")
    line = f"{episode.band}, forecast from {_when(episode.init)} by {episode.model}"
    page.text(_MARGIN, 0.75, line, fitting(line, 12, width), color=QUIET)


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z"


def _draw_values(page: Page, block: Block, portrait: Portrait, leads: Sequence[int], look: Look) -> None:
    episode = portrait.episode
    page.heading(block, "Observed")
    said = Block(block.cell(0, 1).left, block.top, 1, len(leads), block.panel)
    page.heading(said, "Forecast", "the value that is as likely too low as too high" if _median(episode) else "")
    (newest,) = episode.newest_frames(1) or (None,)
    if newest is None:
        page.note(block.cell(0, 0), "no frame shows anything", "")
    else:
        axes = page.panel(block.cell(0, 0), episode.context[newest], look, seen_title(episode, newest))
        draw_scale(axes, portrait.grid)
    for column, lead in enumerate(leads):
        page.panel(said.cell(0, column), episode.forecast[lead - 1], look, lead_title(episode, lead))
    page.bar(said.bar(), look, episode.value_label())


def _median(episode: Episode) -> bool:
    return episode.interval is not None


def seen_title(episode: Episode, frame: int) -> str:
    """When a context frame was acquired."""
    return f"{episode.clock(episode.acquired[frame])}, {episode.age(frame)}"


def lead_title(episode: Episode, lead: int) -> str:
    """When a lead (slots, from 1) is true."""
    return f"{episode.ahead(lead)}, {episode.clock(episode.valid_time(lead))}"


def _draw_widths(page: Page, block: Block, episode: Episode, leads: Sequence[int], look: Look) -> None:
    page.heading(block, "How sure it is", "width of the interval that should hold 80 % of what comes")
    for column, lead in enumerate(leads):
        widths = episode.width(lead)[np.isfinite(episode.width(lead))]
        title = f"median {_with_units(float(np.median(widths)), episode.units)}" if widths.size else "no interval"
        page.panel(block.cell(0, column), episode.width(lead), look, title)
    page.bar(block.bar(), look, episode.labelled("width"))


def _draw_likelihood(page: Page, block: Block, likelihood: Likelihood, leads: Sequence[int]) -> None:
    page.heading(block, "How likely", likelihood.event)
    for column, lead in enumerate(leads):
        layer = likelihood.layers[lead - 1]
        known = layer[np.isfinite(layer)]
        title = f"mean {known.mean():.1%}, at most {known.max():.0%}" if known.size else "nothing is known"
        page.panel(block.cell(0, column), layer, CHANCE_LOOK, title)
    page.bar(block.bar(), CHANCE_LOOK, "probability", format=PercentFormatter(1, 0))


def _with_units(value: float, units: str) -> str:
    return number(value) if units in NO_UNITS else f"{number(value)} {units}"


def _draw_rungs(page: Page, block: Block, portrait: Portrait, leads: Sequence[int]) -> None:
    page.heading(block, "Made by")
    for column, lead in enumerate(leads):
        draw_codes(page, block.cell(0, column), portrait, lead)
    draw_rung_key(page, block, portrait)


def draw_codes(page: Page, box: Box, portrait: Portrait, lead: int) -> None:
    """What made each pixel of a lead (slots, from 1)."""
    sources = portrait.sources[lead - 1]
    codes = np.where(sources == Source.NONE, np.float32(np.nan), sources.astype(np.float32))
    made = {name: share for name, share in rung_shares(sources).items() if name != Source.NONE.name.lower()}
    page.codes(box, codes, RUNG_LOOK, shares_text(made))


def draw_rung_key(page: Page, block: Block, portrait: Portrait) -> None:
    """Beside a block, the colours of the rungs that made any lead of the run."""
    left, top = block.bar().left, block.bar().top
    used = [source for source in RUNGS if (portrait.sources == source).any()]
    for index, source in enumerate(used):
        page.swatch(Box(left, top + 0.25 * index, BAR, BAR), facecolor=RUNGS[source])
        name = source.name.lower()
        page.text(left + BAR + 0.06, top + 0.25 * index + 0.11, name, fitting(name, 9, BAR_LABELS - 0.1), color=INK)


def _write_facts(page: Page, box: Box, portrait: Portrait) -> None:
    """What a caption would say, beside the rows that have nothing to show of what was seen."""
    height, width = portrait.episode.grid_shape
    lines = [
        f"{width} x {height} px of {_length(pixel_size(portrait.grid))}",
        f"centre {_centre(portrait.grid)}",
        f"published {_when(portrait.created)}",
        f"cube {portrait.snapshot}",
        "all times UTC",
        *([] if portrait.useful is None else [f"useful so far to {span(timedelta(minutes=portrait.useful))}"]),
    ]
    size = min(fitting(line, 9.5, box.width) for line in lines)
    for index, line in enumerate(lines):
        page.text(box.left, box.top + index * 0.22, line, size, color=QUIET)
    bottom = box.top + len(lines) * 0.22
    page.swatch(Box(box.left, bottom - 0.08, 0.3, 0.15), **MISSING)
    page.text(box.left + 0.38, bottom + 0.04, "no data, or no interval", 0.85 * size, color=QUIET)


def credit(episode: Episode, width: float) -> list[str]:
    """Whose data they are, in lines of a page that is ``width`` inches wide."""
    letters = int((width - 2 * _MARGIN) / 0.071)  # of 8.5 points
    return wrap(f"Data: {episode.attribution}", letters) if episode.attribution else []


def write_lines(page: Page, lines: Sequence[str], baseline: float) -> None:
    """Small lines, the first at ``baseline``."""
    for index, line in enumerate(lines):
        page.text(_MARGIN, baseline + index * _LINE, line, 8.5, color=QUIET)


# --- places ---------------------------------------------------------------------------------------


def draw_scale(axes: Axes, grid: GeoBox) -> None:
    """A bar of a round length, a quarter of the grid's width at most."""
    size = pixel_size(grid)
    length = _round(size * grid.width / 4)
    x, y = 0.05 * grid.width, 0.95 * grid.height
    edge = [withStroke(linewidth=3.5, foreground="black")]
    axes.plot([x, x + length / size], [y, y], color="white", lw=2, solid_capstyle="butt", path_effects=edge)
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.annotate(
        _length(length), (x, y), (0, 4), textcoords="offset points", color="white", size=8.5, path_effects=outline
    )


def _round(length: float) -> float:
    """1, 2 or 5 of a power of ten, no longer than a length."""
    power = 10.0 ** floor(log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length)


def _length(metres: float) -> str:
    return f"{metres / 1000:.3g} km" if metres >= 999.5 else f"{metres:.3g} m"


def _centre(grid: GeoBox) -> str:
    """Of the grid, in degrees; where it lies off the Earth, in words."""
    assert grid.crs is not None
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    lon, lat = grid.crs.transformer_to_crs(CRS("EPSG:4326"))(x, y)
    if not np.isfinite([lon, lat]).all():
        return "off the Earth"
    lon = (lon + 180) % 360 - 180
    return f"{abs(lat):.1f}° {'N' if lat >= 0 else 'S'} {abs(lon):.1f}° {'E' if lon >= 0 else 'W'}"
