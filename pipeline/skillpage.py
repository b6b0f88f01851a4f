"""The picture of a study of skill: by how much each predictor's error is under extrapolation's, lead by lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from pipeline.page import GAP, INK, LINES, QUIET, Box, Page, fitting
from pipeline.skill import MEASURES, Skill

BASELINES: Final = ("extrapolation", "persistence")  # the first that was scored is what skill is measured against
MARGIN: Final = 0.75
CHART: Final = (5.2, 3.6)
KEY_LINE: Final = 0.2
# Okabe and Ito's colours, told apart by the colour-blind; references are grey and dashed.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: Final = ("--", ":", "-.", (0, (1, 3)))
SHADE: Final = 0.18


def draw(skill: Skill, path: Path) -> Path:
    """Writes a PNG, a row a band and a chart a measure; returns its path.

    Lines are medians over seeds, bands from the lowest seed to the highest.
    """
    rows, (width, height) = len(skill.bands), CHART
    key = KEY_LINE * (-(-len(skill.names) // 3) + 1)
    page = Page.blank(2 * MARGIN + 2 * width + 3 * GAP + MARGIN / 2, 1.2 + rows * (height + 0.9) + key)
    title = f"Skill by lead: {skill.title}"
    page.text(MARGIN, 0.45, title, fitting(title, 14, page.width - 2 * MARGIN), weight="bold")
    reference = _reference(skill)
    quiet = f"1 - error / error of {reference}; lines: median of seeds, shades: range of seeds; study {skill.key}"
    page.text(MARGIN, 0.7, quiet, fitting(quiet, 9.5, page.width - 2 * MARGIN), color=QUIET)
    for band, name in enumerate(skill.bands):
        for column, measure in enumerate(MEASURES):
            box = Box(MARGIN + column * (width + MARGIN), 1.15 + band * (height + 0.9), width, height)
            axes = page.chart(box, f"{measure}, {name}")
            _lines(axes, skill, (measure, reference), band)
    _key(page, skill, page.height - key)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.figure.savefig(path)
    return path


def _reference(skill: Skill) -> str:
    return next((name for name in BASELINES if name in skill.names), skill.names[0])


def _lines(axes: Axes, skill: Skill, what: tuple[str, str], band: int) -> None:
    measure, reference = what
    base = np.median(skill.by_lead(reference, measure, band), axis=0)
    minutes = np.arange(1, len(base) + 1) * skill.specification["cadence_seconds"] / 60
    for name, look in _looks(skill).items():
        skills = 1 - skill.by_lead(name, measure, band) / base
        _band(axes, minutes, skills, look)
    axes.axhline(0, color=LINES, linewidth=0.8, zorder=0)
    axes.set_xlabel("lead time (min)", size=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.6))  # persistence may fall far below


def _band(axes: Axes, minutes: NDArray[np.floating], skills: NDArray[np.float64], look: dict[str, Any]) -> None:
    axes.plot(minutes, np.median(skills, axis=0), **look)
    if len(skills) > 1:
        colour = look["color"]
        axes.fill_between(minutes, skills.min(axis=0), skills.max(axis=0), color=colour, alpha=SHADE, linewidth=0)


def _looks(skill: Skill) -> dict[str, dict[str, Any]]:
    """How each line is drawn: trained ones in colours."""
    looks: dict[str, dict[str, Any]] = {}
    trained = [name for name in skill.names if skill.of(name)[0].seed is not None]
    for index, name in enumerate(trained):
        looks[name] = {"color": COLOURS[index % len(COLOURS)], "linewidth": 2.0 if name == skill.full else 1.3}
        looks[name]["linestyle"] = "-" if index < len(COLOURS) else "--"
    for index, name in enumerate(one for one in skill.names if one not in trained):
        looks[name] = {"color": QUIET, "linewidth": 1.2, "linestyle": DASHES[index % len(DASHES)]}
    return looks


def _key(page: Page, skill: Skill, top: float) -> None:
    """Names of the lines, three a row."""
    width = (page.width - 2 * MARGIN) / 3
    for index, (name, look) in enumerate(_looks(skill).items()):
        left, baseline = MARGIN + index % 3 * width, top + KEY_LINE * (index // 3 + 0.5)
        axes = page.chart(Box(left, baseline - 0.1, 0.4, 0.1), "")
        axes.plot([0, 1], [0, 0], **look)
        axes.set_axis_off()
        page.text(left + 0.5, baseline, name, fitting(name, 9.5, width - 0.6))
