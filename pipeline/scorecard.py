"""What is known of a lead of a run beyond its errors, as sums that add up over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pipeline.brier import ChanceSums
from pipeline.consistency import RevisionSums
from pipeline.events import EventSums
from pipeline.metrics import Moments
from pipeline.neighbourhood import FractionSums
from pipeline.quantiles import QuantileSums
from pipeline.similarity import SimilaritySums
from pipeline.spectrum import SpectrumSums
from pipeline.sums import Sums, pooled

PARTS: Final[dict[str, type[Sums]]] = {
    "moments": Moments,
    "events": EventSums,
    "fractions": FractionSums,
    "similarity": SimilaritySums,
    "spectrum": SpectrumSums,
    "quantiles": QuantileSums,
    "reliability": QuantileSums,
    "chances": ChanceSums,
    "trust": ChanceSums,
    "revisions": RevisionSums,
}


@dataclass(frozen=True, slots=True)
class Card:
    """Sums of one predictor at one lead and band; None where the score was not asked for or cannot be made.

    Attributes:
        lead_minutes: lead time.
        band: name.
        predictor: as in :class:`pipeline.scorebook.Score`.
        moments: of the mean, over the pixels that count for the errors, as all that follow.
        events: of the matched field, or the mean.
        fractions: same.
        similarity: of the mean.
        spectrum: of the mean.
        quantiles: of all pixels that count, so that their CRPS stands beside the errors.
        reliability: of those that a network forecast: others have no interval.
        chances: of all pixels that count.
        trust: of those that a network forecast: others have probabilities of 0 and 1 alone.
        revisions: of the median, or the mean, against the runs before.
    """

    lead_minutes: int
    band: str
    predictor: str
    moments: Moments | None = None
    events: EventSums | None = None
    fractions: FractionSums | None = None
    similarity: SimilaritySums | None = None
    spectrum: SpectrumSums | None = None
    quantiles: QuantileSums | None = None
    reliability: QuantileSums | None = None
    chances: ChanceSums | None = None
    trust: ChanceSums | None = None
    revisions: RevisionSums | None = None

    @classmethod
    def pooled(cls, cards: Sequence[Card]) -> Self:
        """Several runs as one, the newest last: of each part those that count what the newest of them counts."""
        parts: dict[str, Any] = {name: pooled(getattr(card, name) for card in cards) for name in PARTS}
        last = cards[-1]
        return cls(last.lead_minutes, last.band, last.predictor, **parts)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        known = {name: part.to_json() for name in PARTS if (part := getattr(self, name)) is not None}
        return {"lead_minutes": self.lead_minutes, "band": self.band, "predictor": self.predictor} | known

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        parts: dict[str, Any] = {name: PARTS[name].from_json(document[name]) for name in PARTS if name in document}
        return cls(document["lead_minutes"], document["band"], document["predictor"], **parts)
