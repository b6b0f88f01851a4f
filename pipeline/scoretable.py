"""Scores of published forecasts for people and programs: by lead, band and predictor, pooled over runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from pipeline.marking import span_of
from pipeline.metrics import psnr, skill
from pipeline.scorebook import FORECAST, RunScores, Score
from pipeline.scorecard import Card
from pipeline.specs import BandSpec, VerificationSpec

Number = float | None  # None where it is not known


@dataclass(frozen=True, slots=True)
class EventRow:
    """Scores of one event.

    Attributes:
        threshold: in the unit of the band.
        below: whether the event lies below it.
        csi: critical success index, 0 to 1.
        pod: probability of detection, 0 to 1.
        far: false alarm ratio, 0 at best.
        fss: fractions skill score, 0 to 1, by the side of the neighbourhood in pixels.
    """

    threshold: float
    below: bool
    csi: Number
    pod: Number
    far: Number
    fss: dict[int, Number]


@dataclass(frozen=True, slots=True)
class BinRow:
    """Reliability of the probabilities in one bin, over the pixels that a network forecast.

    Attributes:
        pixels: how many have a probability in the bin.
        said: their mean probability.
        came: how often the event came.
    """

    pixels: int
    said: Number
    came: Number


@dataclass(frozen=True, slots=True)
class ChanceRow:
    """Scores of the probabilities of one event.

    Attributes:
        threshold: in the unit of the band.
        below: whether the event lies below it.
        brier: Brier score, 0 at best.
        skill: against the frequency of the event said everywhere, 1 at best.
        frequency: how often the event came.
        reliability: by bin, from the lowest probabilities to the highest.
    """

    threshold: float
    below: bool
    brier: Number
    skill: Number
    frequency: Number
    reliability: tuple[BinRow, ...]


@dataclass(frozen=True, slots=True)
class LevelRow:
    """Reliability of one quantile: its level lies between the parts of the truth below it, and below it or at it."""

    level: float
    below: Number
    upto: Number


@dataclass(frozen=True, slots=True)
class SkillRow:
    """``1 - error / reference's error`` over the runs that both have met, by the error."""

    mae: Number
    rmse: Number
    crps: Number


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Scores of one predictor at one lead and band; docs/scores.md defines each.

    Attributes:
        lead_minutes: lead time.
        band: its name.
        unit: its unit.
        predictor: whose.
        runs: how many are pooled.
        mae: mean absolute error, of the median where there is one, in the unit.
        rmse: root mean squared error of the mean, in the unit.
        bias: mean of forecast minus truth, in the unit.
        correlation: -1 to 1.
        psnr: dB.
        ssim: structural similarity, 1 at best.
        crps: in the unit.
        revision: mean absolute difference to the run before, in the unit.
        jumpiness: revision over the mean absolute error of the same runs.
        flip_flop: mean flip-flop index of three successive runs, in the unit.
        skill: against each reference.
        events: by threshold.
        reliability: by level.
        spectrum: part of the truth's variance that the forecast has, by the longest wavelength of an octave, pixels.
        chances: of probabilities, by threshold.
    """

    lead_minutes: int
    band: str
    unit: str
    predictor: str
    runs: int
    mae: Number
    rmse: Number
    bias: Number
    correlation: Number
    psnr: Number
    ssim: Number
    crps: Number
    revision: Number
    jumpiness: Number
    flip_flop: Number
    skill: dict[str, SkillRow]
    events: tuple[EventRow, ...]
    reliability: tuple[LevelRow, ...]
    spectrum: dict[int, Number]
    chances: tuple[ChanceRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run has of one predictor at one lead and band."""

    score: Score
    card: Card


Runs = Sequence[Mapping[str, Entry]]  # by predictor


def score_rows(
    scored: Iterable[tuple[RunScores, Sequence[Card]]], bands: Iterable[BandSpec], wish: VerificationSpec
) -> list[ScoreRow]:
    """Scores by lead, band and predictor, every pixel counting alike over runs.

    Args:
        scored: errors and cards of each run, oldest first. Where runs were scored at other thresholds, scales or
            levels than the newest, these scores are of those that were scored alike.
        bands: the forecast bands; others are left out.
        wish: how large values can be.
    """
    known = {band.name: band for band in bands}
    grouped = _grouped(scored)
    return [
        _row(known[band], name, runs, wish)
        for (_, band), runs in sorted(grouped.items())
        if band in known
        for name in dict.fromkeys(name for run in runs for name in run)
    ]


def _grouped(scored: Iterable[tuple[RunScores, Sequence[Card]]]) -> dict[tuple[int, str], list[dict[str, Entry]]]:
    """Runs by lead and band."""
    grouped: dict[tuple[int, str], list[dict[str, Entry]]] = {}
    for run, made in scored:
        cards = {(card.lead_minutes, card.band, card.predictor): card for card in made}
        found: dict[tuple[int, str], dict[str, Entry]] = {}
        for score in run.scores:
            place = (score.lead_minutes, score.band)
            card = cards.get((*place, score.predictor), Card(*place, score.predictor))
            found.setdefault(place, {})[score.predictor] = Entry(score, card)
        for place, entries in found.items():
            grouped.setdefault(place, []).append(entries)
    return grouped


def _row(band: BandSpec, name: str, runs: Runs, wish: VerificationSpec) -> ScoreRow:
    entries = [run[name] for run in runs if name in run]
    card = Card.pooled([entry.card for entry in entries])
    rmse, span = _rmse(entries), span_of(band, wish)
    revision = card.revisions and card.revisions.revision
    revised = [entry for entry in entries if entry.card.revisions is not None]
    references = [other for run in runs for other in run if other not in (name, FORECAST)]
    return ScoreRow(
        lead_minutes=card.lead_minutes,
        band=band.name,
        unit=band.units,
        predictor=name,
        runs=len(entries),
        mae=_number(_mae(entries)),
        rmse=_number(rmse),
        bias=_number(card.moments and card.moments.bias),
        correlation=_number(card.moments and card.moments.correlation),
        psnr=None if span is None else _number(psnr(np.array(rmse), span)),
        ssim=_number(card.similarity and card.similarity.ssim),
        crps=_number(card.quantiles and card.quantiles.crps),
        revision=_number(revision),
        jumpiness=None if revision is None else _number(revision / (_mae(revised) or np.nan)),
        flip_flop=_number(card.revisions and card.revisions.flip_flop),
        skill={other: _skill(name, other, runs) for other in dict.fromkeys(references)},
        events=tuple(_events(card)),
        reliability=tuple(_levels(card)),
        spectrum=_spectrum(card),
        chances=tuple(_chances(card)),
    )


def _skill(name: str, reference: str, runs: Runs) -> SkillRow:
    both = [run for run in runs if name in run and reference in run]
    ours, theirs = ([run[one] for run in both] for one in (name, reference))
    crps = Card.pooled([entry.card for entry in ours]).quantiles if ours else None
    pairs = [(_mae(ours), _mae(theirs)), (_rmse(ours), _rmse(theirs))]
    mae, rmse = (_number(skill(np.array(error), np.array(other))) for error, other in pairs)
    # A reference says one value, whose CRPS is its absolute error (Gneiting and Raftery 2007).
    return SkillRow(mae, rmse, None if crps is None else _number(skill(crps.crps, np.array(_mae(theirs)))))


def _events(card: Card) -> Iterator[EventRow]:
    if card.events is None:
        return
    fractions = card.fractions if card.fractions and card.fractions.thresholds == card.events.thresholds else None
    scores = zip(card.events.csi, card.events.pod, card.events.far, strict=True)
    for index, (threshold, each) in enumerate(zip(card.events.thresholds, scores, strict=True)):
        fss = {} if fractions is None else dict(zip(fractions.scales, map(_number, fractions.fss[index]), strict=True))
        csi, pod, far = map(_number, each)
        yield EventRow(threshold, card.events.below[0], csi, pod, far, fss)


def _chances(card: Card) -> Iterator[ChanceRow]:
    if card.chances is None or card.trust is None:
        return
    whole, own = card.chances, card.trust
    for index, threshold in enumerate(whole.thresholds):
        numbers = (_number(part[index]) for part in (whole.brier, whole.skill, whole.frequency))
        pixels, pairs = own.pixels[index], own.reliability[index]
        bins = (BinRow(int(n), _number(s), _number(c)) for n, (s, c) in zip(pixels, pairs, strict=True))
        yield ChanceRow(threshold, whole.below[0], *numbers, reliability=tuple(bins))


def _levels(card: Card) -> Iterator[LevelRow]:
    if card.reliability is not None:
        for level, (below, upto) in zip(card.reliability.levels, card.reliability.reliability, strict=True):
            yield LevelRow(level, _number(below), _number(upto))


def _spectrum(card: Card) -> dict[int, Number]:
    if card.spectrum is None:
        return {}
    return dict(zip(card.spectrum.wavelengths, map(_number, card.spectrum.kept), strict=True))


def _mae(entries: Sequence[Entry]) -> float:
    return _mean([(entry.score.absolute, entry.score.pixels) for entry in entries])


def _rmse(entries: Sequence[Entry]) -> float:
    return sqrt(_mean([(entry.score.squared, entry.score.pixels) for entry in entries]))


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    pixels = sum(count for _, count in parts)
    return sum(total for total, _ in parts) / pixels if pixels else float("nan")


def _number(value: object) -> Number:
    """A plain number; None for what is not known or not finite, which JSON has no word for."""
    found = float("nan") if value is None else float(np.asarray(value))
    return found if isfinite(found) else None
