"""A published run as a film: the newest frames that it saw, then its leads, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgba_array
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree

from pipeline.episode import Episode
from pipeline.page import BAR_LABELS, GAP, HEADING, INK, LINES, MISSING, QUIET, TITLE, Block, Box, Layer, Page
from pipeline.portrait import (
    RUNGS,
    Looks,
    Portrait,
    credit,
    draw_codes,
    draw_rung_key,
    draw_scale,
    lead_title,
    seen_title,
    write_header,
    write_lines,
)

PAST_SHOWN: Final = 4

# Milliseconds that a frame stays.
_STAY, _STAY_NEWEST, _STAY_LAST = 500, 1000, 2000

# Inches.
_AREA = 24.0  # square inches of the large panel
_NARROWEST, _LONGEST = 3.6, 7.5
_MARGIN, _HEADER, _STRIP, _LINE = 0.35, 0.75, 0.75, 0.17

_FORECAST = "#1b6ca8"


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What one frame shows; ``lead`` in slots from 1, 0 for what was seen."""

    time: datetime
    title: str
    layer: Layer
    lead: int = 0


@dataclass(frozen=True, slots=True)
class _Set:
    """Where the parts of every frame stand: a large panel, two small ones beside it, a line of times below."""

    main: Block
    width: Block
    rungs: Block
    strip: Box
    size: tuple[float, float]


def write_film(path: Path, portrait: Portrait) -> None:
    """Writes an animated GIF that begins again when it is over; the same portrait gives the same bytes.

    Args:
        path: file to write; its folder exists.
        portrait: what to show; the newest :data:`PAST_SHOWN` frames that it saw, and every lead.
    """
    # One palette for all, without dithering: what does not change stands still.
    palette = _palette(portrait)
    frames = [_indexed(_rendered(figure), palette) for figure in draw(portrait)]
    stay = [_STAY] * len(frames)
    stay[len(frames) - portrait.episode.horizon - 1], stay[-1] = _STAY_NEWEST, _STAY_LAST
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=stay, loop=0)


def draw(portrait: Portrait) -> Iterator[Figure]:
    """The frames as figures of one size."""
    episode = portrait.episode
    scenes, place = _scenes(episode), _arrange(episode)
    looks = Looks.of(episode, range(1, episode.horizon + 1), PAST_SHOWN)
    for number, scene in enumerate(scenes):
        page = Page.blank(*place.size)
        write_header(page, portrait)
        _draw_main(page, place.main, portrait, scene, looks)
        _draw_beside(page, place, portrait, scene, looks)
        _draw_strip(page, place.strip, episode, scenes, number)
        lines = credit(episode, page.width)
        write_lines(page, lines, page.height - 0.15 - _LINE * (len(lines) - 1))
        yield page.figure


def _rendered(figure: Figure) -> NDArray[np.uint8]:
    """``(y, x, 3)``, red, green and blue."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _indexed(page: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Each pixel the nearest colour of the palette; Pillow's own search takes an off-white for white."""
    packed, places = np.unique(page.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    nearest = KDTree(palette.astype(float)).query(colours)[1].astype(np.uint8)
    image = Image.fromarray(np.take(nearest, places).reshape(page.shape[:2]), "P")
    image.putpalette(palette.ravel().tolist())
    return image


def _palette(portrait: Portrait) -> NDArray[np.uint8]:
    """The colours that frames have: of values, widths, rungs and hatching; greys for text."""
    looks = Looks.of(portrait.episode, [1])
    maps = (colormaps.get_cmap(name)(np.linspace(0, 1, size)) for name, size in _colours(looks))
    single = [*RUNGS.values(), _FORECAST, MISSING["facecolor"], MISSING["edgecolor"]]
    return (255 * np.concatenate([*maps, to_rgba_array(single)])[:, :3]).round().astype(np.uint8)


def _colours(looks: Looks) -> list[tuple[str | Colormap, int]]:
    return [(looks.values.colours, 128), (looks.widths.colours, 64), ("gray", 48)]


def _scenes(episode: Episode) -> list[_Scene]:
    seen = [
        _Scene(episode.acquired[frame], seen_title(episode, frame), episode.context[frame])
        for frame in episode.newest_frames(PAST_SHOWN)
    ]
    said = [
        _Scene(episode.valid_time(lead), lead_title(episode, lead), episode.forecast[lead - 1], lead)
        for lead in range(1, episode.horizon + 1)
    ]
    return [*seen, *said]


def _arrange(episode: Episode) -> _Set:
    ratio = episode.grid_shape[0] / episode.grid_shape[1]
    width = float(np.clip(np.sqrt(_AREA / ratio), _NARROWEST, _LONGEST))
    height = float(np.clip(width * ratio, 2.0, _LONGEST))
    main = Block(_MARGIN, _HEADER, 1, 1, (width, height))
    small = (height - HEADING - TITLE) / 2
    beside = (small / ratio, small)
    upper = Block(main.right + GAP, _HEADER, 1, 1, beside)
    lower = Block(upper.left, upper.bottom, 1, 1, beside)
    place = (upper, lower) if episode.interval is not None else (upper, upper)
    strip = Box(_MARGIN + 0.2, main.bottom + 0.15, upper.cell(0, 0).right + BAR_LABELS - _MARGIN - 0.4, _STRIP - 0.45)
    bottom = main.bottom + _STRIP + 0.1 + _LINE * len(credit(episode, upper.right))
    return _Set(main, *place, strip, (upper.right, bottom))


def _draw_main(page: Page, block: Block, portrait: Portrait, scene: _Scene, looks: Looks) -> None:
    page.text(block.left, block.top + 0.4, "Forecast" if scene.lead else "Observed", 12, weight="bold")
    axes = page.panel(block.cell(0, 0), scene.layer, looks.values, scene.title)
    draw_scale(axes, portrait.grid)
    page.bar(block.bar(), looks.values, portrait.episode.value_label())


def _draw_beside(page: Page, place: _Set, portrait: Portrait, scene: _Scene, looks: Looks) -> None:
    episode = portrait.episode
    if episode.interval is not None:
        page.heading(place.width, "How sure", "80 % interval")
        box = place.width.cell(0, 0)
        if scene.lead:
            page.panel(box, episode.width(scene.lead), looks.widths, "")
        else:
            page.note(box, "observed", "")
        page.bar(place.width.bar(), looks.widths, episode.labelled("width"))
    page.heading(place.rungs, "Made by")
    box = place.rungs.cell(0, 0)
    if scene.lead:
        draw_codes(page, box, portrait, scene.lead)
    else:
        page.note(box, "observed", "")
    draw_rung_key(page, place.rungs, portrait)


def _draw_strip(page: Page, box: Box, episode: Episode, scenes: list[_Scene], number: int) -> None:
    """A line of times: what was seen is grey, what is forecast is blue, what is shown is large."""
    first, last = scenes[0].time, scenes[-1].time
    axes = page.chart(box, "")
    axes.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[])
    axes.spines[["left", "right", "top", "bottom"]].set_visible(False)
    axes.axhline(0, color=LINES, lw=1, zorder=0)
    places = [(scene.time - first) / max(last - first, episode.cadence) for scene in scenes]
    for index, (place, scene) in enumerate(zip(places, scenes, strict=True)):
        colour = _FORECAST if scene.lead else QUIET
        axes.plot([place], [0], "o", ms=9 if index == number else 4, color=colour, clip_on=False)
    seen = len(scenes) - episode.horizon
    shown = sorted({0, max(seen - 1, 0), len(scenes) - 1})
    axes.set_xticks([places[index] for index in shown], [episode.clock(scenes[index].time) for index in shown])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
