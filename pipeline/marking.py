"""Every score of one predictor at one lead and band but its errors, by what the configuration asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import valid_ranges
from pipeline.brier import ChanceSums
from pipeline.evaluation import Answer
from pipeline.events import Events, EventSums, below_counts
from pipeline.metrics import Moments
from pipeline.neighbourhood import FractionSums
from pipeline.predictor import MATCHED, MEAN, MEDIAN, level, quantile_name
from pipeline.quantiles import QuantileSums
from pipeline.scorecard import Card
from pipeline.similarity import SimilaritySums
from pipeline.specs import BandSpec, VerificationSpec
from pipeline.spectrum import SpectrumSums


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """What a predictor says for one lead.

    Attributes:
        values: ``(quantity, y, x, band)``, in the units of the bands; NaN where nothing is said.
        quantities: names along the quantity axis.
    """

    values: NDArray[np.float32]
    quantities: tuple[str, ...]

    @property
    def answer(self) -> Answer:
        """What its errors are made from."""
        return Answer.of(self.values[np.newaxis], self.quantities)

    @property
    def levels(self) -> list[float]:
        """Levels of its quantiles, ascending."""
        return sorted(found for found in map(level, self.quantities) if found is not None)

    def of(self, *names: str) -> NDArray[np.float32]:
        """The first of these quantities that is given, else the first one of all, ``(1, y, x, band)``."""
        at = next((self.quantities.index(name) for name in names if name in self.quantities), 0)
        return self.values[at : at + 1]

    def band(self, index: int) -> Layers:
        """One band alone, counted from 0."""
        return Layers(self.values[..., index : index + 1], self.quantities)

    def quantiles(self) -> NDArray[np.float32]:
        """``(1, level, y, x, band)``."""
        return np.stack([self.of(quantile_name(one)) for one in self.levels], axis=1)


def mark(card: Card, said: Layers, truth: NDArray[np.float32], band: BandSpec, wish: VerificationSpec) -> Card:
    """A card with all that any predictor is scored by.

    Args:
        card: of lead, band and predictor.
        said: of this band alone.
        truth: ``(1, y, x, 1)``, NaN where it does not count.
        band: its unit says which events count, its limits how large errors can be.
        wish: what is asked for.
    """
    mean, matched = said.of(MEAN, MEDIAN), said.of(MATCHED, MEAN, MEDIAN)
    card = replace(card, moments=Moments.of(mean, truth).at(0, 0))
    thresholds, span = wish.thresholds.get(band.name), span_of(band, wish)
    if thresholds:
        events = Events(thresholds, below_counts(band.units))
        fractions = FractionSums.of(matched, truth, events, wish.scales).at(0, 0)
        card = replace(card, events=EventSums.of(matched, truth, events).at(0, 0), fractions=fractions)
    if wish.structure:
        card = replace(card, spectrum=SpectrumSums.of(mean, truth).at(0, 0))
    if wish.structure and span is not None:
        card = replace(card, similarity=SimilaritySums.of(mean, truth, span).at(0, 0))
    return card


def mark_quantiles(card: Card, said: Layers, truth: NDArray[np.float32], own: NDArray[np.float32]) -> Card:
    """A card with the scores of quantiles, if there are two or more.

    Args:
        card: of the published forecast.
        said: of this band alone.
        truth: ``(1, y, x, 1)``, NaN where it does not count.
        own: the same where a network forecast, NaN elsewhere.
    """
    if len(said.levels) < 2:
        return card
    whole, network = (QuantileSums.of(said.quantiles(), one, said.levels).at(0, 0) for one in (truth, own))
    return replace(card, quantiles=whole, reliability=network)


def mark_chances(
    card: Card, said: NDArray[np.float32], events: Events, truth: NDArray[np.float32], own: NDArray[np.float32]
) -> Card:
    """A card with the scores of probabilities.

    Args:
        card: of the published forecast.
        said: ``(threshold, y, x)``, the probability of each event, of this band alone.
        events: what they are of.
        truth: ``(1, y, x, 1)``, NaN where it does not count.
        own: the same where a network forecast, NaN elsewhere.
    """
    layers = said[np.newaxis, ..., np.newaxis]
    whole, network = (ChanceSums.of(layers, one, events).at(0, 0) for one in (truth, own))
    return replace(card, chances=whole, trust=network)


def span_of(band: BandSpec, wish: VerificationSpec) -> float | None:
    """From the lowest to the highest value that a band can have; None where the configuration names no such two."""
    low, high = wish.spans.get(band.name) or valid_ranges([band])[0]
    return high - low if np.isfinite(high - low) else None
