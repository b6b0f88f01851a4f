"""Which rungs of the ladder made how much of a forecast, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.predictor import Source


def rung_shares(sources: NDArray[np.uint8]) -> dict[str, float]:
    """Part of the pixels that each rung made, as :class:`~pipeline.predictor.Source` names them, the greatest first.

    >>> rung_shares(np.array([[3, 1, 1, 1]], np.uint8))
    {'network': 0.75, 'persistence': 0.25}
    """
    counts = np.bincount(sources.ravel(), minlength=len(Source))
    order = sorted((source for source in Source if counts[source]), key=lambda source: -counts[source])
    return {source.name.lower(): float(counts[source] / sources.size) for source in order}


def shares_text(shares: Mapping[str, float]) -> str:
    """Shares in words; nobody made what is left empty.

    >>> shares_text({"network": 0.98, "none": 0.0196, "persistence": 0.0004})
    'network 98 %, empty 2 %, persistence <1 %'
    """
    return ", ".join(f"{'empty' if name == 'none' else name} {_percent(share)}" for name, share in shares.items())


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
