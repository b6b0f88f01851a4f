"""What held-out truths teach about a network's forecasts: where extrapolation does better, how wide intervals must be.

Both are learned on validation samples, which no weight was trained on, and are part of the model from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline import calibrating, guard
from pipeline.baselines import Persistence
from pipeline.bounds import Bounded
from pipeline.calibration import Calibrated, Calibration
from pipeline.doubt import Doubt
from pipeline.guard import Contest, Guard, Guarded, blended
from pipeline.pairs import Pair, ValidRange, bound_levels
from pipeline.predictor import Predictor
from pipeline.proof import Proof, prove
from pipeline.rungs import OfBands


@dataclass(frozen=True, slots=True)
class Assurance:
    """How the forecasts of a network are mended before they are published.

    Attributes:
        guard: how far each lead is pulled towards extrapolation.
        calibration: how far the bounds of the intervals move; None for a network without quantiles.
        bands: which bands of the context it forecasts, counted from 0.
        valid: lowest and highest possible value of each of them, infinite where there is none.
        matched: how far the mean is given the distribution of the newest frame, 0 to 1.
        proof: coverage and reliability that the truths showed; None: a network without quantiles, or nobody looked.
        doubt: bounds of what fills in where the network says nothing; None for a network without quantiles.
    """

    guard: Guard
    calibration: Calibration | None
    bands: tuple[int, ...]
    valid: tuple[ValidRange, ...]
    matched: float
    proof: Proof | None = None
    doubt: Doubt | None = None

    @classmethod
    def learned(
        cls,
        contests: Sequence[Contest],
        bands: tuple[int, ...],
        valid: tuple[ValidRange, ...],
        *,
        matched: float,
    ) -> Self:
        """From forecasts of the bare network beside the extrapolation's, and the truth that they met.

        Raises:
            NotEnoughFramesError: there is none.
        """
        found = guard.fit(contests)
        intervals = bool(bound_levels(contests[0].model))
        calibration = calibrating.fit(_pairs(contests, found), valid) if intervals else None
        return cls(found, calibration, bands, valid, matched, prove(contests, valid) if intervals else None)

    def of(self, network: Predictor) -> Predictor:
        """``network`` mended, as it in coordinates that move with the flow, where extrapolation is persistence."""
        still = OfBands(Persistence(), self.bands)
        mended = Bounded(Guarded(network, still, self.guard), self.valid)
        return mended if self.calibration is None else Calibrated(mended, self.calibration)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "guard": self.guard.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "bands": list(self.bands),
            "valid": [[str(end) for end in ends] for ends in self.valid],  # JSON knows no infinity
            "matched": self.matched,
            "doubt": None if self.doubt is None else self.doubt.to_json(),
            "validation": None if self.proof is None else self.proof.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Assurance:
        """The inverse of :meth:`to_json`."""
        known, doubt, proof = document["calibration"], document.get("doubt"), document.get("validation")
        valid = tuple((float(low), float(high)) for low, high in document["valid"])
        return cls(
            Guard.from_json(document["guard"]),
            None if known is None else Calibration.from_json(known),
            tuple(document["bands"]),
            valid,
            document["matched"],
            None if proof is None else Proof.from_json(proof),
            None if doubt is None else Doubt.from_json(doubt, valid),
        )


def _pairs(contests: Iterable[Contest], found: Guard) -> Iterable[Pair]:
    return (Pair(blended(one.model, one.baseline, found), one.truth) for one in contests)
