"""Small charts as SVG text, for a page that has to open without a server, a script or a font of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 36  # room around the plot
TICKS: Final = 5
ROWS: Final = 4  # of labels of upright lines
LETTER: Final = 6.6  # width of a letter of a key
# Okabe and Ito's colours, told apart by the colour-blind.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the key.
        points: pairs (x, y); a ``None`` interrupts the line.
        dashed: for what others are compared with.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Marks:
    """What a chart shows beside its lines.

    Attributes:
        ticks: labels of the x axis, by place.
        upright: labels of upright lines, by place.
        spans: stretches of the x axis that are shaded; those of the three that lie beyond all points do not show.
        percent: whether y is a part of one.
        zero: whether y = 0 is always in sight.
    """

    ticks: Mapping[float, str]
    upright: Sequence[tuple[float, str]] = ()
    spans: Sequence[tuple[float, float]] = ()
    percent: bool = True
    zero: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high

    def at(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + part * (self.end - self.start), 1)


def line_chart(title: str, lines: Sequence[Line], marks: Marks) -> str:
    """Lines over an x axis; an empty text where no line has a point."""
    xs = [x for line in lines for x, y in line.points if y is not None and isfinite(y)]
    ys = [y for line in lines for _, y in line.points if y is not None and isfinite(y)]
    if not ys:
        return ""
    steps = ticks(min([*ys, 0.0] if marks.zero else ys), max([*ys, 0.0] if marks.zero else ys))
    across = _Scale(min(xs), max(xs), LEFT + 8, WIDTH - RIGHT - 8)
    up = _Scale(steps[0], steps[-1], HEIGHT - BOTTOM, TOP)
    upright = [(place, text) for place, text in marks.upright if across.has(place)]
    parts = [
        *(_span(across, span) for span in marks.spans if span[0] <= across.high and span[1] >= across.low),
        *_grid(up, steps, percent=marks.percent),
        *_labels(across, {place: text for place, text in marks.ticks.items() if across.has(place)}),
        *(_upright(across, number, *mark) for number, mark in enumerate(upright)),
        *(_line(line, across, up, number, percent=marks.percent) for number, line in enumerate(lines)),
        *_key([line.name for line in lines], [line.dashed for line in lines]),
    ]
    return _svg(title, parts)


def stacked_bars(title: str, bars: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """A bar each, made of parts that sum to one; empty without bars."""
    if not bars:
        return ""
    wide = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = list(_grid(_Scale(0, 1, HEIGHT - BOTTOM, TOP), [0, 0.25, 0.5, 0.75, 1], percent=True))
    for number, (label, shares) in enumerate(bars.items()):
        left, top = LEFT + wide * (number + 0.15), float(HEIGHT - BOTTOM)
        for index, name in enumerate(names):
            tall = shares.get(name, 0.0) * (HEIGHT - BOTTOM - TOP)
            top -= tall
            if tall:
                hint = f"<title>{escape(label)}: {escape(name)} {shares[name]:.1%}</title>"
                box = f'x="{left:.1f}" y="{top:.1f}" width="{0.7 * wide:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect {box} fill="{_colour(index)}">{hint}</rect>')
        parts.append(f'<text x="{left + 0.35 * wide:.1f}" y="{HEIGHT - BOTTOM + 16}" class="m">{escape(label)}</text>')
    return _svg(title, [*parts, *_key(names, [False] * len(names))])


def ticks(low: float, high: float) -> list[float]:
    """Round values, evenly spaced, the first at ``low`` or below it, the last at ``high`` or above it.

    >>> ticks(0.03, 0.41)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1):
        half = 0.5 * (abs(low) if abs(low) > 1e-6 else 1)
        low, high = low - half, high + half
    raw = (high - low) / TICKS
    power = 10.0 ** floor(log10(raw))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= raw * 0.999)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _svg(title: str, parts: Iterable[str]) -> str:
    label = f'role="img" aria-label="{escape(title)}"'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{"".join(parts)}</svg>'


def _grid(up: _Scale, steps: Sequence[float], *, percent: bool) -> Iterable[str]:
    for step in steps:
        y, kind = up.at(step), "z" if step == 0 else "g"
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="{kind}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4}" class="e">{_number(step, percent=percent)}</text>'


def _labels(across: _Scale, places: Mapping[float, str]) -> Iterable[str]:
    for place, text in places.items():
        yield f'<text x="{across.at(place)}" y="{HEIGHT - BOTTOM + 16}" class="m">{escape(text)}</text>'


def _span(across: _Scale, span: tuple[float, float]) -> str:
    left, right = (across.at(min(max(edge, across.low), across.high)) for edge in span)
    return f'<rect x="{left}" y="{TOP}" width="{max(right - left, 2):.1f}" height="{HEIGHT - TOP - BOTTOM}" class="s"/>'


def _upright(across: _Scale, number: int, place: float, text: str) -> str:
    """Labels of lines that stand close together lie below each other."""
    x = across.at(place)
    hint = f"<title>{escape(text)}</title>"
    line = f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="u">{hint}</line>'
    end = x > WIDTH / 2
    side = f'x="{x - 4 if end else x + 4}" y="{TOP + 11 + number % ROWS * 13}" class="{"ue" if end else "us"}"'
    return f"{line}<text {side}>{escape(text)}</text>"


def _line(line: Line, across: _Scale, up: _Scale, number: int, *, percent: bool) -> str:
    runs: list[list[str]] = [[]]
    dots: list[str] = []
    for x, y in line.points:
        if y is None or not isfinite(y):
            runs.append([])
            continue
        place = across.at(x), up.at(y)
        runs[-1].append(f"{place[0]},{place[1]}")
        hint = f"<title>{escape(line.name)}: {_number(y, percent=percent)}</title>"
        dots.append(f'<circle cx="{place[0]}" cy="{place[1]}" r="2.5" fill="{_colour(number)}">{hint}</circle>')
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    strokes = (f'<polyline points="{" ".join(run)}" stroke="{_colour(number)}"{dash}/>' for run in runs if len(run) > 1)
    return "".join([*strokes, *dots])


def _key(names: Sequence[str], dashed: Sequence[bool]) -> Iterable[str]:
    left = float(LEFT)
    for number, name in enumerate(names):
        dash = ' stroke-dasharray="6 4"' if dashed[number] else ""
        yield f'<polyline points="{left:.0f},14 {left + 20:.0f},14" stroke="{_colour(number)}"{dash} stroke-width="3"/>'
        yield f'<text x="{left + 25:.0f}" y="18">{escape(name)}</text>'
        left += 45 + LETTER * len(name)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _number(value: float, *, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.4g}"
