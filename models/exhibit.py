"""One forecast shown: its attention maps as GeoTIFFs, and a picture of context, attention, forecast and truth."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from models.explain import AttentionMaps, attention_maps, write_attention
from models.prediction import Network
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.episode import Episode
from pipeline.forecast import forecast_bands, ladder, look
from pipeline.picture import write_picture
from pipeline.predictor import Context
from pipeline.samples import Sample, read_context, read_targets
from pipeline.times import from_seconds, minutes


def write_exhibits(settings: Settings, network: Network, cube: Cube, situation: Sample, folder: Path) -> list[Path]:
    """Writes the picture, and the attention maps of the first and the last lead; returns the files."""
    context = read_context(cube, situation, settings.samples)
    maps = attention_maps(network.bare, network.card, context, settings.forecast.tile)
    layout = cube.layout
    init = layout.axis.valid_time(situation.init)
    paths: list[Path] = []
    for lead in sorted({1, settings.samples.horizon}):
        path = folder / f"attention-{minutes(lead * layout.axis.cadence):04d}m.tif"
        write_attention(path, maps, layout.grid, lead, init, layout.axis.cadence)
        paths.append(path)
    picture = folder / "forecast.png"
    write_picture(picture, _episode(settings, network, cube, situation, (context, maps)))
    return [*paths, picture]


def draw_forecast(settings: Settings, network: Network, init: datetime, path: Path) -> Path:
    """Writes a picture of the network's forecast for ``init``, with whatever truth has come; returns its path.

    Raises:
        NotEnoughFramesError: nothing to start from.
    """
    cube = open_cube(store_of(settings))
    then = look(settings, cube, init)
    context = read_context(then.cube, then.sample, settings.samples)
    maps = attention_maps(network.bare, network.card, context, settings.forecast.tile)
    write_picture(path, _episode(settings, network, cube, then.sample, (context, maps)))
    return path


def _episode(
    settings: Settings, network: Network, cube: Cube, situation: Sample, seen: tuple[Context, AttentionMaps]
) -> Episode:
    """The first forecast band's story."""
    context, maps = seen
    band = forecast_bands(settings)[0]
    predictor = ladder(settings, network.champion(settings.forecast.tile))
    said = predictor.predict(context, settings.samples.horizon)
    observed = maps.observed
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
        forecast=said.values[0, :, 0, :, :, 0],
        truth=read_targets(cube, situation).values[..., band],
        attention=maps.weights[:, observed],
        patch=maps.patch,
    )
