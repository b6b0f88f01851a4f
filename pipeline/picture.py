"""One forecast on one page: what it saw, where it looked, what it said, what came, and how far off it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.episode import Episode, Maps, MeanErrors, number
from pipeline.page import GAP, HEADING, MISSING, QUIET, TITLE, Block, Box, Layer, Look, Page, fitting

FRAMES_SHOWN: Final = 4
LEADS_SHOWN: Final = 3  # beside truth and errors; alone, one more
OUTCOMES: Final = 4  # forecast, truth, error, error of persistence; width of the interval if there is one

# Inches.
_PANEL_AREA = 5.0  # square inches
_NARROWEST = 1.9  # holds a title
_LONGEST = 5.0
_NARROWEST_PAGE = 9.0
_MARGIN, _HEADER, _FOOTER, _LINE = 0.35, 1.0, 0.6, 0.16
_CHART = Box(0, 0, 2.7, 2.7)
_CHART_LABELS = 0.65
_BAR = 3.0  # a readable length
_TALL = 1.25  # height / width of a grid above which what came stands beside what was seen, not below

_GOOD, _BAD, _FORECAST = "#1f6f3d", "#a12a1e", "#1b6ca8"
_RAIN = {"dBZ", "mm", "mm/h", "mm h-1", "mm/hr", "kg m-2 s-1"}  # mostly nothing, which grey would show as black
_HEAT = {"K", "degC", "Celsius"}  # infrared: what is cold is cloud, and cloud is white


def write_picture(path: Path, episode: Episode) -> None:
    """Writes the page as a PNG; the same episode gives the same bytes.

    Args:
        path: file to write; its folder exists.
        episode: what to show.
    """
    FigureCanvasAgg(draw(episode)).print_png(path, metadata={"Software": None})


def draw(episode: Episode) -> Figure:
    """The page as a figure.

    Shown are the newest :data:`FRAMES_SHOWN` context frames, the attention for the last lead, the first, middle and
    last lead with truth, errors and the width of the interval, and mean weights and errors by lead. Without truth there
    are only forecasts and widths, without attention no weights, without an interval no widths. Values, weights, errors
    and widths have one colour scale each, on the whole page.
    """
    sheet, looks, errors = _arrange(episode), _Looks.of(episode), episode.mean_errors()
    page = Page.blank(sheet.width, sheet.height)
    _write_header(page, episode, errors)
    _draw_context(page, sheet.context, episode, looks.values)
    if episode.attention is not None:
        _draw_attention(page, sheet.attention, episode, episode.attention[-1], looks.weights)
        _draw_weights_chart(page, sheet.weights_chart, episode, looks.weights)
    if episode.truth is None:
        _draw_forecasts(page, sheet.outcome, episode, looks)
    else:
        _draw_outcome(page, sheet.outcome, episode, errors, looks)
        _draw_errors_chart(page, sheet.errors_chart, episode, errors)
    _write_footer(page, episode)
    return page.figure


# --- where things stand ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where the parts of a page stand."""

    width: float
    height: float
    context: Block
    attention: Block
    outcome: Block
    weights_chart: Box
    errors_chart: Box


def _arrange(episode: Episode) -> _Sheet:
    panel = panel_size(episode.grid_shape)
    context = Block(_MARGIN, _HEADER, 1, max(len(_frames(episode)), 1), panel)
    attention = Block(_MARGIN, context.bottom, 1, context.columns, panel)
    seen = context if episode.attention is None else attention
    if panel[1] > _TALL * panel[0] and episode.truth is not None and len(_leads(episode)) == LEADS_SHOWN:
        left = max(context.right, _MARGIN + 2 * (_CHART_LABELS + _CHART.width)) + 2 * GAP
        outcome = _outcome_block(episode, left, _HEADER, panel)
        charts = _charts_below(seen, outcome)[:: 1 if episode.attention is not None else -1]
    else:
        outcome = _outcome_block(episode, _MARGIN, seen.bottom, panel)
        charts = _charts_beside(context, outcome)
    drawn = [box for box, shown in zip(charts, (episode.attention, episode.truth), strict=True) if shown is not None]
    width = max(_NARROWEST_PAGE, context.right, outcome.right, *(box.right + _MARGIN for box in drawn))
    bottom = max(seen.bottom, outcome.bottom, *(box.bottom + _CHART_LABELS for box in drawn))
    footer = _FOOTER + _LINE * len(_credit(episode, width)[1:])
    return _Sheet(width, bottom + footer, context, attention, outcome, *charts)


def panel_size(shape: tuple[int, int], area: float = _PANEL_AREA) -> tuple[float, float]:
    """Width and height of a panel (inches): the same area for every grid, unless it is very long."""
    ratio = shape[0] / shape[1]
    width = float(np.clip(np.sqrt(area / ratio), _NARROWEST, _LONGEST))
    return width, float(np.clip(width * ratio, 0.6, _LONGEST))


def _outcome_block(episode: Episode, left: float, top: float, panel: tuple[float, float]) -> Block:
    leads, widths = len(_leads(episode)), int(episode.interval is not None)
    if episode.truth is None:
        return Block(left, top, 1 + widths, leads, panel)
    return Block(left, top, leads, OUTCOMES + widths, panel)


def _bars(block: Block, episode: Episode) -> tuple[Box, Box]:
    """Where the keys to an outcome's first look and to its widths stand: one above the other."""
    whole = block.bar()
    if episode.interval is None:
        return whole, whole
    first, last = block.cell(0, 0), block.cell(block.rows - 1, 0)
    height = min(_BAR, (last.bottom - first.top - TITLE) / 2)
    return Box(whole.left, first.top, whole.width, height), Box(whole.left, last.bottom - height, whole.width, height)


def _charts_beside(context: Block, outcome: Block) -> tuple[Box, Box]:
    """Weights beside what was seen, errors beside what came."""
    left = max(context.right, outcome.right) + _CHART_LABELS
    first, second = context.cell(0, 0).top, outcome.cell(0, 0).top
    ends = min(outcome.top - _CHART_LABELS, first + _CHART.height), second + _CHART.height
    return Box(left, first, _CHART.width, ends[0] - first), Box(left, second, _CHART.width, ends[1] - second)


def _charts_below(seen: Block, outcome: Block) -> tuple[Box, Box]:
    """Side by side under what was seen, down to where what came ends."""
    top = seen.bottom + HEADING + TITLE
    height = float(np.clip(outcome.bottom - top - _CHART_LABELS, _CHART.height * 0.7, _CHART.height * 1.4))
    width = (outcome.left - 2 * GAP - _MARGIN) / 2 - _CHART_LABELS - GAP
    left = _MARGIN + _CHART_LABELS
    return Box(left, top, width, height), Box(left + width + _CHART_LABELS + 2 * GAP, top, width, height)


def _frames(episode: Episode) -> tuple[int, ...]:
    return episode.newest_frames(FRAMES_SHOWN)


def _leads(episode: Episode) -> tuple[int, ...]:
    return episode.spread_leads(LEADS_SHOWN if episode.truth is not None else LEADS_SHOWN + 1)


# --- colours --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Looks:
    """One look for values, weights, errors and widths each, on the whole page."""

    values: Look
    weights: Look
    errors: Look
    widths: Look

    @classmethod
    def of(cls, episode: Episode) -> _Looks:
        return cls(_value_look(episode), _weight_look(episode), _error_look(episode), _width_look(episode))


def value_look(units: str, layers: Sequence[Layer]) -> Look:
    """How values of a band are shown, by its units."""
    colours = "viridis" if units in _RAIN else "gray_r" if units in _HEAT else "gray"
    return Look.spanning(colours, layers, (0.5, 99.5))


def width_look(layers: Sequence[Layer]) -> Look:
    """How widths of intervals are shown: from no width at all, so that paler is surer."""
    spanning = Look.spanning("Purples", layers, (0, 99))
    return Look("Purples", 0.0, max(spanning.high, 1e-6), spanning.extend)


def _value_look(episode: Episode) -> Look:
    leads = [lead - 1 for lead in _leads(episode)]
    layers = [*episode.context[list(_frames(episode))], *episode.forecast[leads]]
    if episode.truth is not None:
        layers += [*episode.truth[leads]]
    return value_look(episode.units, layers)


def _weight_look(episode: Episode) -> Look:
    """From no weight at all, so that even attention looks even."""
    layers = [] if episode.attention is None else [episode.attention[-1, list(_frames(episode))]]
    high = Look.spanning("magma", layers, (0, 99.5)).high
    return Look("magma", 0.0, min(high, 1.0), "max" if high < 1 else "neither")


def _error_look(episode: Episode) -> Look:
    leads = () if episode.truth is None else _leads(episode)
    layers = [np.abs(error(lead)) for lead in leads for error in (episode.error, episode.persistence_error)]
    high = Look.spanning("RdBu_r", layers, (0, 98)).high
    return Look("RdBu_r", -high, high, "both")


def _width_look(episode: Episode) -> Look:
    return width_look([] if episode.interval is None else [episode.width(lead) for lead in _leads(episode)])


# --- the parts of the page ------------------------------------------------------------------------


def _write_header(page: Page, episode: Episode, errors: dict[int, MeanErrors]) -> None:
    width = page.width - 2 * _MARGIN
    day = f"{episode.init:%Y-%m-%d}"
    time = day if episode.clock(episode.init) == day else f"{day} {episode.clock(episode.init)}"
    title = f"{episode.product} · {episode.band}: forecast by {episode.model} from {time}"
    page.text(_MARGIN, 0.5, title, fitting(title, 18, 0.9 * width), weight="bold")  # bold letters are wider
    verdict = episode.verdict(errors)
    colour = QUIET if not errors else _GOOD if errors[max(errors)].skill() > 0 else _BAD
    page.text(_MARGIN, 0.86, verdict, fitting(verdict, 14, width), color=colour)


def _draw_context(page: Page, block: Block, episode: Episode, look: Look) -> None:
    frames, present = _frames(episode), episode.newest_frames(len(episode.acquired))
    page.heading(
        block, "What it saw", f"the newest {len(frames)} of {len(present)} frames" if len(present) > len(frames) else ""
    )
    for column, frame in enumerate(frames):
        title = f"{episode.clock(episode.acquired[frame])}, {episode.age(frame)}"
        page.panel(block.cell(0, column), episode.context[frame], look, title)
    if not frames:
        page.note(block.cell(0, 0), "no frame shows anything", "")
    page.bar(block.bar(), look, episode.value_label())


def _draw_attention(page: Page, block: Block, episode: Episode, weights: Maps, look: Look) -> None:
    lead, time = episode.ahead(episode.horizon), episode.clock(episode.init)
    page.heading(
        block, "Where it looked", f"weight of each frame in the forecast for {lead}, moved along the flow to {time}"
    )
    mean = episode.mean_weights()[-1]
    height, width = (side / episode.patch for side in episode.grid_shape)
    for column, frame in enumerate(_frames(episode)):
        title = f"{episode.age(frame)}: mean {mean[frame]:.0%}"
        axes = page.panel(block.cell(0, column), weights[frame], look, title)
        axes.set(xlim=(0, width), ylim=(height, 0))  # the last patches may reach over the grid's edge
    page.bar(block.bar(), look, "weight", format=PercentFormatter(1, 0))


def _draw_outcome(page: Page, block: Block, episode: Episode, errors: dict[int, MeanErrors], looks: _Looks) -> None:
    key = "numbers: mean absolute error; red: too high, blue: too low"
    if episode.interval is not None:
        key += "; purple: width of the 80 % interval"
    page.heading(block, "What it said, what came, how far off it was", key)
    for row, lead in enumerate(_leads(episode)):
        said, *others = (block.cell(row, column) for column in range(OUTCOMES))
        title = f"forecast {episode.ahead(lead)}, {episode.clock(episode.valid_time(lead))}"
        page.panel(said, episode.forecast[lead - 1], looks.values, title)
        if lead in errors:
            _draw_truth(page, others, episode, lead, errors[lead], looks)
        else:
            _draw_no_truth(page, others, episode, lead)
        _draw_width(page, block.cell(row, OUTCOMES), episode, lead, looks.widths)
    errors_bar, widths_bar = _bars(block, episode)
    page.bar(errors_bar, looks.errors, episode.labelled("error"))
    _draw_width_bar(page, widths_bar, episode, looks.widths)


def _draw_width(page: Page, box: Box, episode: Episode, lead: int, look: Look) -> None:
    if episode.interval is not None:
        held = episode.held(lead)
        title = "q10 to q90" if held is None else f"q10 to q90: holds {held:.0%}"
        page.panel(box, episode.width(lead), look, title)


def _draw_width_bar(page: Page, box: Box, episode: Episode, look: Look) -> None:
    if episode.interval is not None:
        page.bar(box, look, episode.labelled("width"))


def _draw_truth(page: Page, boxes: list[Box], episode: Episode, lead: int, errors: MeanErrors, looks: _Looks) -> None:
    came, own, still = boxes
    page.panel(came, episode.truth_at(lead), looks.values, f"truth {episode.clock(episode.valid_time(lead))}")
    page.panel(own, episode.error(lead), looks.errors, f"forecast error: {number(errors.forecast)}")
    page.panel(still, episode.persistence_error(lead), looks.errors, f"persistence error: {number(errors.persistence)}")


def _draw_no_truth(page: Page, boxes: list[Box], episode: Episode, lead: int) -> None:
    titles = f"truth {episode.clock(episode.valid_time(lead))}", "forecast error", "persistence error"
    for box, title in zip(boxes, titles, strict=True):
        page.note(box, "no truth to compare with", title)


def _draw_forecasts(page: Page, block: Block, episode: Episode, looks: _Looks) -> None:
    key = "" if episode.interval is None else "below how wide the interval is that should hold 80 % of what comes"
    page.heading(block, "What it says", key)
    for column, lead in enumerate(_leads(episode)):
        title = f"{episode.ahead(lead)}, {episode.clock(episode.valid_time(lead))}"
        page.panel(block.cell(0, column), episode.forecast[lead - 1], looks.values, title)
        _draw_width(page, block.cell(1, column), episode, lead, looks.widths)
    values_bar, widths_bar = _bars(block, episode)
    page.bar(values_bar, looks.values, episode.value_label())
    _draw_width_bar(page, widths_bar, episode, looks.widths)


def _draw_weights_chart(page: Page, box: Box, episode: Episode, look: Look) -> None:
    """Mean weights, leads down, frames across, in the colours of the maps."""
    frames = list(episode.newest_frames(len(episode.acquired)))
    mean = episode.mean_weights()[:, frames]
    axes = page.chart(box, "Mean weight, by lead and frame")
    leads, columns = _thinned(episode.horizon, 8), _thinned(len(frames), 4)
    if frames:
        axes.imshow(mean, cmap=look.colours, norm=look.norm, aspect="auto")
    axes.set_yticks(leads, [episode.ahead(lead + 1) for lead in leads])
    _label_across(axes, box, columns, [episode.age(frames[column]).removesuffix(" before") for column in columns])
    axes.set_xlabel("age of the frame", size=9)
    if box.height / len(mean) >= 0.14 and box.width / max(len(frames), 1) >= 0.35:  # room for a number in each cell
        _write_cells(axes, mean, look)


def _write_cells(axes: Axes, mean: Maps, look: Look) -> None:
    for (row, column), value in np.ndenumerate(mean):
        colour = "white" if value < look.low + 0.6 * (look.high - look.low) else "black"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", size=7.5, color=colour)


def _draw_errors_chart(page: Page, box: Box, episode: Episode, errors: dict[int, MeanErrors]) -> None:
    axes = page.chart(box, "Mean absolute error, by lead")
    still, own = [one.persistence for one in errors.values()], [one.forecast for one in errors.values()]
    axes.plot(list(errors), still, "--o", color=QUIET, ms=3.5, lw=1.4, label="persistence")
    axes.plot(list(errors), own, "-o", color=_FORECAST, ms=3.5, lw=1.8, label="forecast")
    axes.set(xlim=(0, episode.horizon + 0.5), ylim=(0, None))
    ticks = [lead + 1 for lead in _thinned(episode.horizon, 4)]
    _label_across(axes, box, ticks, [episode.ahead(lead) for lead in ticks])
    axes.set_xlabel("lead time", size=9)
    axes.set_ylabel(episode.labelled("error"), size=9, parse_math=False)
    axes.grid(visible=True, color="#e3e3e3", lw=0.6)
    axes.set_axisbelow(True)
    if errors:
        axes.legend(loc="lower right", fontsize=8.5, frameon=False)


def _label_across(axes: Axes, box: Box, places: list[int], labels: list[str]) -> None:
    """Tick labels that leave each other room."""
    longest = max(labels, key=len, default="")
    axes.set_xticks(places, labels, size=fitting(longest + "  ", 8, box.width / max(len(labels), 1)))


def _thinned(size: int, most: int) -> list[int]:
    """Evenly spaced places of at most ``most`` labels along an axis, the last among them."""
    return list(range(size - 1, -1, -max(1, -(-size // most))))[::-1]


def _write_footer(page: Page, episode: Episode) -> None:
    lines = _credit(episode, page.width)
    baseline = page.height - 0.25 - _LINE * len(lines[1:])
    page.swatch(Box(_MARGIN, baseline - 0.12, 0.3, 0.15), **MISSING)
    page.text(_MARGIN + 0.38, baseline, "no data", 8.5, color=QUIET)
    for index, line in enumerate(lines):
        page.text(_MARGIN + 1.2, baseline + index * _LINE, line, 8.5, color=QUIET)


def _credit(episode: Episode, width: float) -> list[str]:
    letters = int((width - 2 * _MARGIN - 1.2) / 0.071)  # of 8.5 points
    return wrap(f"Data: {episode.attribution}", letters) if episode.attribution else []
