"""What stands before and after the training on chips: the first weights, and what held-out truths teach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from models.assurance import Assurance
from models.material import Basis, Material
from models.networks import Kind, build
from models.optimisation import Arrays
from models.pixels import begin_with, draw_pixels, learn_head
from models.prediction import Network
from models.registry import Registry
from models.seeds import seeded
from pipeline.baselines import Persistence, extrapolation
from pipeline.bounds import valid_ranges
from pipeline.chips import ChipReader, Chips, chip_size
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.doubt import Doubt
from pipeline.errors import ModelError
from pipeline.grid import Window
from pipeline.guard import Contest
from pipeline.predictor import Context
from pipeline.record import ModelRef
from pipeline.rungs import OfBands, Untold, forecast_bands
from pipeline.samples import Sample, SplitMode, read_context, read_targets, thin
from pipeline.together import JointReader

WINDOWS = 64  # of the training part that single pixels are drawn from
WINDOW = 256  # px
WATCHING = 200_000  # single pixels of validation
HELD_OUT_PIXELS = 4_000_000  # of validation that intervals are fitted to, in all its init times
HELD_OUT_INITS = (4, 12)  # at least and at most
MATCHED = 1.0


def begin(settings: Settings, material: Material, kept: Path, registry: Registry) -> Arrays | None:
    """First weights: the champion's, or those of a head that has learned from single pixels; None: the seed's.

    Args:
        settings: the product.
        material: what it learns from.
        kept: file that the weights are kept in, so that a training that is resumed begins with the same ones.
        registry: where the champion is.

    Raises:
        ModelError: a champion is asked for, and there is none, or its network is another, or it has learned from what
            is to judge this one.
        NotEnoughFramesError: no pixel is known in context and targets.
    """
    if material.card.network.kind == Kind.PIXEL_LSTM:
        return None
    try:
        with kept.open("rb") as file, np.load(file) as arrays:  # by name numpy leaves a broken file open
            return tuple(arrays[name] for name in arrays.files)
    except (OSError, ValueError, EOFError, BadZipFile):
        pass
    warm = settings.training.warm_start == "champion"
    weights = _of_champion(settings, material, registry) if warm else _of_pixels(settings, material)
    partial = kept.with_suffix(".partial.npz")
    np.savez(partial, *weights)
    partial.replace(kept)
    return weights


def _of_champion(settings: Settings, material: Material, registry: Registry) -> Arrays:
    champion = registry.load_champion(settings)
    if champion is None:
        msg = "a warm start begins with the champion's weights, there is no champion: set training.warm_start = 'none'"
        raise ModelError(msg)
    own, found = material.card, champion.card
    if (own.network, round(own.pixel, 1)) != (found.network, round(found.pixel, 1)):
        msg = (
            "a warm start begins with the weights of a network of the same shape and pixel size; the champion, version "
            f"{champion.ref.version}, is a {found.network.kind} with pixels of {found.pixel:.4g} m, the configuration "
            f"asks for a {own.network.kind} with pixels of {own.pixel:.4g} m: set training.warm_start = 'none'"
        )
        raise ModelError(msg)
    met = "" if found.seen is None else found.seen.meets(material.split, material.cube.layout.axis)
    if met:
        msg = (
            "a training is judged by what its network has not learned from; the champion, version "
            f"{champion.ref.version}, has seen a part of {met} (the validation stripe or the fractions have changed "
            "since): set training.warm_start = 'none'"
        )
        raise ModelError(msg)
    return tuple(np.asarray(one) for one in champion.model.get_weights())


def _of_pixels(settings: Settings, material: Material) -> Arrays:
    network, spec = material.card.network, settings.training
    statistics = material.card.statistics.of_bands(network.bands_out)
    training = draw_pixels(network, _windows(material.training, network.patch), spec.pixels // WINDOWS, spec.seed)
    each = max(1, WATCHING // len(material.validation))
    validation = draw_pixels(network, material.validation, each, seed=0)
    head = learn_head(network, training, validation, seed=spec.seed, statistics=statistics)
    model = seeded(spec.seed, lambda: build(network))
    begin_with(model, head)
    return tuple(np.asarray(one) for one in model.get_weights())


def _windows(reader: ChipReader | JointReader, patch: int) -> Iterator[Chips]:
    """Large chips, one at a time, of every product that is learned from."""
    readers = reader.readers if isinstance(reader, JointReader) else (reader,)
    wide = [
        replace(one, size=chip_size(one.area, WINDOW, patch), batch=1, augment=False, interest=None) for one in readers
    ]
    return (wide[number % len(wide)].read(number // len(wide)) for number in range(WINDOWS))


def assured(settings: Settings, material: Basis, model: Any) -> Network:
    """A trained network with what the validation samples, which it has not learned from, show of its forecasts.

    Raises:
        NotEnoughFramesError: there is no validation sample.
    """
    bare = in_training(settings, material, model)
    bands = forecast_bands(settings)
    valid = valid_ranges([settings.bands[index] for index in bands])
    learned = Assurance.learned(contests(settings, material, bare), bands, valid, matched=MATCHED)
    if learned.calibration is not None:
        doubt = Doubt.learned(_rests(settings, material), learned.calibration.levels, valid)
        learned = replace(learned, doubt=doubt)
    return replace(bare, card=replace(material.card, assurance=learned))


def in_training(settings: Settings, material: Basis, model: Any) -> Network:
    """A network that has no version yet."""
    return Network(model, material.card, ModelRef(settings.product.name, "in training", "network"))


def contests(settings: Settings, material: Basis, network: Network) -> list[Contest]:
    """Network and extrapolation beside what came true, over validation samples."""
    return [_contest(settings, material, network, one) for one in _held_out(material)]


def _held_out(material: Basis) -> Iterable[Sample]:
    area = material.split.validation_area
    fitting = HELD_OUT_PIXELS // (area.shape[0] * area.shape[1])
    return thin(material.split.validation, min(max(fitting, HELD_OUT_INITS[0]), HELD_OUT_INITS[1]))


def _rests(settings: Settings, material: Basis) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Newest values and what came of them, of validation samples."""
    still = OfBands(Persistence(), forecast_bands(settings))
    for one in _held_out(material):
        context, truth = _met(settings, material, one)
        yield still.predict(context, 1).values[0, 0, 0], truth


def _met(settings: Settings, material: Basis, one: Sample) -> tuple[Context, NDArray[np.float32]]:
    """Context and truth of the forecast bands, of what validation may read of the grid."""
    area, bands = _area(material), list(forecast_bands(settings))
    context = read_context(material.cube, one, settings.samples, area=area)
    return context, read_targets(material.cube, one, area, horizon=settings.samples.horizon).values[..., bands]


def _area(material: Basis) -> Window | None:
    return material.split.validation_area if material.split.mode is SplitMode.BLOCKS else None


def _contest(settings: Settings, material: Basis, network: Network, one: Sample) -> Contest:
    """Network and extrapolation for an init time, over what validation may read of the grid."""
    horizon, bands = settings.samples.horizon, forecast_bands(settings)
    context, truth = _met(settings, material, one)
    told = covariates_of(settings).attach(context, one.init, horizon, area=_area(material))
    said = network.champion(settings.forecast.tile).predictor.predict(told, horizon)
    still = Untold(OfBands(extrapolation(settings.motion), bands)).predict(context, horizon)
    return Contest(said, still, truth)
