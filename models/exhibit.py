"""One forecast shown: its attention maps as GeoTIFFs, and a picture of context, attention, forecast and truth."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from models.explain import AttentionMaps, attention_maps, write_attention
from models.prediction import Network
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.episode import Episode
from pipeline.evaluation import Answer
from pipeline.forecast import look
from pipeline.picture import write_picture
from pipeline.predictor import Context
from pipeline.rungs import forecast_bands, ladder
from pipeline.samples import Sample, read_context, read_targets
from pipeline.times import from_seconds, minutes


def write_exhibits(settings: Settings, network: Network, cube: Cube, situation: Sample, folder: Path) -> list[Path]:
    """Writes the picture, and the attention maps of the first and the last lead if there are any; returns the files."""
    context = _seen(settings, cube, situation)
    maps = _maps(settings, network, context)
    paths = [] if maps is None else _write_maps(settings, maps, cube, situation, folder)
    picture = folder / "forecast.png"
    write_picture(picture, _episode(settings, network, cube, situation, (context, maps)))
    return [*paths, picture]


def _write_maps(settings: Settings, maps: AttentionMaps, cube: Cube, situation: Sample, folder: Path) -> list[Path]:
    layout = cube.layout
    init = layout.axis.valid_time(situation.init)
    paths: list[Path] = []
    for lead in sorted({1, settings.samples.horizon}):
        path = folder / f"attention-{minutes(lead * layout.axis.cadence):04d}m.tif"
        write_attention(path, maps, layout.grid, lead, init, layout.axis.cadence)
        paths.append(path)
    return paths


def draw_forecast(settings: Settings, network: Network, init: datetime, path: Path) -> Path:
    """Writes a picture of the network's forecast for ``init``, with whatever truth has come; returns its path.

    Raises:
        ConfigError: a static covariate cannot be read.
        NotEnoughFramesError: nothing to start from.
    """
    cube = open_cube(store_of(settings))
    then = look(settings, cube, init)
    context = _seen(settings, then.cube, then.sample)
    maps = _maps(settings, network, context)
    write_picture(path, _episode(settings, network, cube, then.sample, (context, maps)))
    return path


def _seen(settings: Settings, cube: Cube, situation: Sample) -> Context:
    """All that the network is told."""
    context = read_context(cube, situation, settings.samples)
    return covariates_of(settings).attach(context, situation.init, settings.samples.horizon)


def _maps(settings: Settings, network: Network, context: Context) -> AttentionMaps | None:
    """None for a network that attends to nothing."""
    if not network.card.network.attends:
        return None
    return attention_maps(network.bare, network.card, context, settings.forecast.tile)


def _episode(
    settings: Settings, network: Network, cube: Cube, situation: Sample, seen: tuple[Context, AttentionMaps | None]
) -> Episode:
    """The first forecast band's story."""
    context, maps = seen
    band = forecast_bands(settings)[0]
    predictor = ladder(settings, network.champion(settings.forecast.tile))
    said = predictor.predict(context, settings.samples.horizon)
    answer = Answer.of(said.values[0, ..., :1], said.quantities)
    observed = context.validity[0].any(axis=(1, 2, 3))
    return Episode(
        product=settings.product.title or settings.product.name,
        band=settings.bands[band].name,
        units=settings.bands[band].units,
        model=f"{network.ref.name} {network.ref.version}",
        attribution=settings.product.attribution,
        init=cube.layout.axis.valid_time(situation.init),
        cadence=cube.layout.axis.cadence,
        acquired=tuple(from_seconds(time) for time in context.times[0, observed]),
        context=context.values[0, observed][..., band],
        forecast=answer.median[..., 0],
        truth=read_targets(cube, situation).values[..., band],
        attention=None if maps is None else maps.weights[:, observed],
        patch=network.card.network.patch,
        interval=None if answer.interval is None else np.stack(answer.interval)[..., 0],
    )
