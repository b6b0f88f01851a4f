"""Whether a trained network serves a product as it is configured now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.errors import ModelError
from pipeline.rungs import forecast_bands
from pipeline.specs import CovariateSpec

if TYPE_CHECKING:
    from models.prediction import Card

LAYERS = 3  # raised when the networks' layers change so that older weights mean nothing any more


def check_fit(card: Card, settings: Settings, what: str) -> None:
    """Compares what a network was trained for with what is asked of it.

    Args:
        card: what its weights mean.
        settings: of the product.
        what: name of the network, for the error.

    Raises:
        ModelError: they differ.
    """
    if card.version != LAYERS:
        raise ModelError(f"{what} was trained by an older cubecast, whose layers were others: train again")
    _check_bands(card, settings, what)
    _check_frames(card, settings, what)
    _check_covariates(card, settings, what)


def _check_bands(card: Card, settings: Settings, what: str) -> None:
    bands = tuple(band.name for band in settings.bands)
    if card.bands != bands:
        msg = f"a model serves the bands it was trained on: {what} knows {card.bands}, configured {bands}. Train again."
        raise ModelError(msg)
    known, asked = card.network.bands_out, forecast_bands(settings)
    if known != asked:
        said, wanted = ([bands[index] for index in which] for which in (known, asked))
        raise ModelError(f"{what} forecasts the bands {said}, configured are {wanted}: train again")


def _check_frames(card: Card, settings: Settings, what: str) -> None:
    known, asked = card.network, settings.samples
    if card.seasonal is not None:
        _check_cadence(card, settings, what)
        return
    if known.horizon < asked.horizon or known.context_frames != asked.context_frames:
        msg = (
            f"{what} sees {known.context_frames} frames and forecasts {known.horizon} slots ahead; "
            f"samples.context_frames is {asked.context_frames}, samples.horizon {asked.horizon}. Train again."
        )
        raise ModelError(msg)


def _check_cadence(card: Card, settings: Settings, what: str) -> None:
    """A seasonal network forecasts any time from any past; its slots are as long as those that it learned from."""
    known = None if card.seasonal is None else card.seasonal.cadence
    if known != settings.axis.cadence:
        msg = f"{what} was trained at a cadence of {known}, axis.cadence is {settings.axis.cadence}: train again"
        raise ModelError(msg)
    proved = None if card.assurance is None else card.assurance.guard.horizon
    if proved is not None and proved < settings.samples.horizon:
        msg = f"{what} was proved {proved} slots ahead, samples.horizon is {settings.samples.horizon}: train again"
        raise ModelError(msg)


def _check_covariates(card: Card, settings: Settings, what: str) -> None:
    if card.digest != covariates_of(settings).digest:
        msg = (
            f"a model is told what it was trained with: {what} knows {_said(card.covariates)}, [covariates] has "
            f"{_said(settings.covariates)}, or a static layer's file has changed. Put them back, train again, or let "
            "the alias 'champion' point to a version that fits"
        )
        raise ModelError(msg)
    if card.network.covariates and card.network.horizon != settings.samples.horizon:
        msg = (
            f"a model with covariates is told them for each of its leads: {what} has {card.network.horizon}, "
            f"samples.horizon is {settings.samples.horizon}. Train again."
        )
        raise ModelError(msg)


def _said(spec: CovariateSpec) -> str:
    """What a specification asks for, in its own words."""
    names = [name for name in ("time_of_day", "time_of_year", "solar_zenith") if getattr(spec, name)]
    return ", ".join([*names, *(path.name for path in spec.static)]) or "none"
