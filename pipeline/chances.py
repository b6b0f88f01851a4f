"""Probabilities of events, such as "at least 5 mm/h", from the quantiles of a forecast.

The law of a pixel goes through all of its quantiles. Between two neighbours the probit of the level (its normal score)
is linear in the value; the two outermost stretches are carried on as tails. With ``q10``, ``q50`` and ``q90`` that is
the two-piece normal law that meets all three. What the tails put beyond the possible values lies at their ends.

Quantiles at one value are a mass there, as most of a rain forecast is at zero: an event whose threshold is that value
happens with it, one whose threshold lies above it does not. Where the outermost two are one value, there is no tail
beyond: over a ``q90`` that is ``q50``, and so wherever all quantiles are one value, the probability is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import valid_ranges
from pipeline.events import below_counts
from pipeline.pairs import ValidRange
from pipeline.predictor import level, quantile_name
from pipeline.specs import INTEGER_TYPES, BandSpec

PROBABILITY: Final = "probability"  # the quantity of such a band
FINEST: Final = 10_000  # steps from 0 to 1, where the type of the file has room for them


@dataclass(frozen=True, slots=True)
class Chance:
    """An event whose probability is forecast.

    Attributes:
        band: name of its band.
        threshold: in the band's unit.
        below: whether the event is a value under the threshold, not one at or over it.
        unit: the band's.
    """

    band: str
    threshold: float
    below: bool
    unit: str = "1"

    @property
    def sign(self) -> str:
        """How its values stand to the threshold."""
        return "<" if self.below else ">="

    @property
    def number(self) -> str:
        """The threshold, written as shortly as it can be without being another one.

        >>> Chance("rain", 5.0, below=False).number, Chance("rain", 0.1, below=False).number
        ('5', '0.1')
        """
        return repr(float(self.threshold)).removesuffix(".0")

    @property
    def words(self) -> str:
        """The event as a person says it.

        >>> Chance("rain", 5.0, below=False, unit="mm").words, Chance("ndvi", 0.2, below=False).words
        ('at least 5 mm', 'at least 0.2')
        """
        unit = "" if self.unit in ("", "1") else f" {self.unit}"
        return f"{'under' if self.below else 'at least'} {self.number}{unit}"

    def name(self, *, alone: bool) -> str:
        """What its band in a file is called: a word that any program can take, without points and signs.

        >>> Chance("rain", 0.5, below=False).name(alone=True), Chance("top", -33.0, below=True).name(alone=False)
        ('p_ge_0p5', 'top_p_lt_m33')
        """
        value = self.number.replace("+", "").replace("-", "m").replace(".", "p")
        own = f"p_{'lt' if self.below else 'ge'}_{value}"
        return own if alone else f"{self.band}_{own}"


def chances(
    bands: Sequence[BandSpec], thresholds: Mapping[str, Sequence[float]], quantities: Sequence[str]
) -> tuple[Chance, ...]:
    """The events whose probabilities a forecast says: by band, then by threshold.

    Args:
        bands: of the forecast.
        thresholds: that are asked for, by the name of a band.
        quantities: of the forecast; with fewer than two quantiles it has no probabilities.
    """
    if len(_levels(quantities)) < 2:
        return ()
    return tuple(
        Chance(band.name, threshold, below_counts(band.units), band.units)
        for band in bands
        for threshold in thresholds.get(band.name, ())
    )


def probabilities(
    values: NDArray[np.float32],
    quantities: Sequence[str],
    bands: Sequence[BandSpec],
    thresholds: Mapping[str, Sequence[float]],
) -> Iterator[NDArray[np.float32]]:
    """Probability of each of the :func:`chances`, ``(y, x)``, from 0 to 1; NaN where a quantile is unknown.

    Args:
        values: ``(quantity, y, x, band)``, in the units of the bands.
        quantities: names along the quantity axis.
        bands: along the band axis.
        thresholds: that are asked for, by the name of a band.
    """
    asked, levels = chances(bands, thresholds, quantities), _levels(quantities)
    places = [list(quantities).index(quantile_name(one)) for one in levels]
    for index, (band, valid) in enumerate(zip(bands, valid_ranges(bands), strict=True)):
        own = [one for one in asked if one.band == band.name]
        if own:
            over = exceedance(values[places, :, :, index], levels, [one.threshold for one in own], valid)
            yield from (np.float32(1) - one if below_counts(band.units) else one for one in over)


def exceedance(
    quantiles: NDArray[np.float32],
    levels: Sequence[float],
    thresholds: Sequence[float],
    valid: ValidRange = (-np.inf, np.inf),
) -> NDArray[np.float32]:
    """Probability that a value is at or over each threshold; never more at a higher one.

    Args:
        quantiles: ``(level, ...)``; one below the one before it counts as equal to it.
        levels: two or more, rising, each between 0 and 1.
        thresholds: rising, in the unit of the quantiles, rounded to float32 as these are.
        valid: lowest and highest possible value.

    Returns:
        ``(threshold, ...)``; NaN where a quantile is.
    """
    from scipy.special import ndtr  # half a second, for those alone who ask for probabilities

    rising = np.maximum.accumulate(quantiles, axis=0) + np.float32(0)  # -0 becomes 0: a stretch has no negative width
    scores = [NormalDist().inv_cdf(one) for one in levels]
    low, high = (np.float32(end) for end in valid)
    over = np.empty((len(thresholds), *quantiles.shape[1:]), np.float32)
    for index, threshold in enumerate(map(np.float32, thresholds)):
        within = low < threshold <= high
        over[index] = ndtr(-_score(rising, scores, threshold)) if within else threshold <= low
    np.minimum.accumulate(over, axis=0, out=over)  # ndtr rounds
    over[:, np.isnan(rising[-1])] = np.nan
    return over


def stored(like: BandSpec) -> BandSpec:
    """How probabilities are stored in a file whose other bands are stored like this one: in its type, with its fill.

    Integers count steps of 1/10000, or as many as the type has room for beside the fill: 254 in 8 bits. DN 0 is a
    probability of 0 wherever the fill leaves it room.
    """
    plain = BandSpec(name=PROBABILITY, dtype=like.dtype, nodata=like.fill)
    if like.dtype not in INTEGER_TYPES:
        return plain
    info, fill = np.iinfo(like.dtype), int(like.fill)
    low, high = max((int(info.min), fill - 1), (fill + 1, int(info.max)), key=lambda side: side[1] - side[0])
    steps = min(FINEST, high - low)
    first = min(max(0, low), high - steps)
    return plain.model_copy(update={"scale": 1 / steps, "offset": -first / steps})


def _levels(quantities: Sequence[str]) -> list[float]:
    """Levels of the quantiles among these, ascending."""
    return sorted(found for found in map(level, quantities) if found is not None)


def _score(rising: NDArray[np.float32], scores: Sequence[float], threshold: np.float32) -> NDArray[np.float32]:
    """Normal score of the probability that a value lies under the threshold.

    A sum of what each stretch between two quantiles adds, as far as the threshold has come along it: between 0 and 1,
    beyond them on the outermost ones. A stretch without a width is behind the threshold once that is above it.
    """
    total = np.full(rising.shape[1:], scores[0], np.float32)
    last = len(scores) - 2
    for index in range(last + 1):
        least, most = (-np.inf if index == 0 else 0, np.inf if index == last else 1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            way = (threshold - rising[index]) / (rising[index + 1] - rising[index])
        way[np.isnan(way)] = least  # at a mass
        np.clip(way, least, most, out=way)
        total += np.float32(scores[index + 1] - scores[index]) * way
    return total
