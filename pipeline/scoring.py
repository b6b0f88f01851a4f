"""One published run against the truth that has come: its errors and every other score, beside the references'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import valid_ranges
from pipeline.catalog import PublishedRun
from pipeline.config import Settings
from pipeline.consistency import RevisionSums
from pipeline.coverage import Coverage
from pipeline.cube import Cube
from pipeline.errors import NotEnoughFramesError
from pipeline.evaluation import counted
from pipeline.events import Events
from pipeline.grid import Window
from pipeline.marking import Layers, mark, mark_chances, mark_quantiles
from pipeline.metrics import ErrorSums
from pipeline.pairs import Pair, bound_levels, with_interval
from pipeline.predictor import MEAN, MEDIAN, Context, Forecast, Predictor, Source
from pipeline.rungs import baselines
from pipeline.samples import Sample, read_context
from pipeline.scorebook import FORECAST, Score
from pipeline.scorecard import Card
from pipeline.specs import BandSpec
from pipeline.strata import REGION, RUNG, Canvas, Part, field, windows
from pipeline.usual import usual_at

CLIMATOLOGY = "climatology"  # beside the baselines of pipeline.forecast
PREVIOUS = "previous"  # the rival's name in the scores: a fresh champion's predecessor
MINUTE = timedelta(minutes=1)

Held = tuple[tuple[float | None, ...], float | None]  # coverage a band, and what it is to be


@dataclass(frozen=True, slots=True)
class Case:
    """A run, and what it is scored with.

    Attributes:
        settings: the product.
        cube: where the truth comes from.
        run: what is scored.
        seen: the cube as the run had it.
        before: runs that were issued for earlier init times, newest first.
        rival: another model that answers the run's very inputs, scored beside it; None: none.
    """

    settings: Settings
    cube: Cube
    run: PublishedRun
    seen: Cube
    before: tuple[PublishedRun, ...] = ()
    rival: Predictor | None = None

    @property
    def init(self) -> int:
        """Slot of the init time."""
        return self.cube.layout.axis.slot(self.run.init)

    @property
    def places(self) -> list[int]:
        """Indices in the cube of the run's bands, counted from 0."""
        names = [band.name for band in self.cube.layout.bands]
        return [names.index(name) for name in self.run.bands]

    @property
    def bands(self) -> list[BandSpec]:
        """The run's bands."""
        return [self.cube.layout.bands[at] for at in self.places]


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """A lead that truth has met.

    Attributes:
        minutes: lead time.
        layers: what each predictor says, by name; the published forecast is the last.
        said: the published forecast, of this lead alone.
        source: ``(y, x)``, which rung made its pixels.
        age: same shape, of their newest input, minutes; NaN where none is known.
        truth: ``(1, y, x, band)``, NaN where it is missing or the newest input was.
        common: the same, NaN also where one of the predictors says nothing: what all are scored on.
    """

    minutes: int
    layers: dict[str, Layers]
    said: Forecast
    source: NDArray[np.uint8]
    age: NDArray[np.float32]
    truth: NDArray[np.float32]
    common: NDArray[np.float32]

    @property
    def own(self) -> NDArray[np.float32]:
        """What counts where a network forecast, NaN elsewhere."""
        return with_interval(self.said, self.common)


@dataclass(frozen=True, slots=True)
class Scored:
    """What the truth says of a run: errors, and every other score."""

    scores: tuple[Score, ...]
    cards: tuple[Card, ...]
    parts: tuple[Part, ...] = ()


def score(case: Case, due: dict[int, int]) -> Scored:
    """Scores of the leads (minutes) whose truth lies in the slots ``due``.

    Bands, context and horizon are the run's own, whatever the configuration says by now.
    """
    scores: list[Score] = []
    cards: list[Card] = []
    parts: list[Part] = []
    for met in _met(case, due):
        held = _held(case, met)
        scores += _scores(case, met, held)
        cards += _cards(case, met)
        parts += _parts(case, met, held)
    return Scored(tuple(scores), tuple(cards), tuple(parts))


def predecessors(published: Sequence[PublishedRun], run: PublishedRun) -> tuple[PublishedRun, ...]:
    """Runs for earlier init times, newest first; of several for one init time the one that was made last."""
    newest = {one.init: one for one in sorted(published, key=lambda one: one.order) if one.init < run.init}
    return tuple(newest[init] for init in sorted(newest, reverse=True))


def earlier(case: Case, lead: int, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """What the two runs before said of the same valid time, the newer one first, ``(1, y, x, band)`` each.

    Args:
        case: the run and those before it.
        lead: minutes.
        shape: ``(height, width)`` of the grid; a run from before it was changed is left out.
    """
    ahead = [(one, (case.run.init - one.init) // MINUTE + lead) for one in case.before]
    told = [(one, minutes) for one, minutes in ahead if minutes in one.leads and {*case.run.bands} <= {*one.bands}]
    for one, minutes in told[:2]:
        said = Layers(one.read(minutes), one.quantities).of(MEDIAN, MEAN)
        if said.shape[1:3] == shape:
            yield said[..., [one.bands.index(name) for name in case.run.bands]]


def _met(case: Case, due: dict[int, int]) -> Iterator[Met]:
    context = inputs(case.settings, case.run, case.seen)
    newest = context.validity[0, -1][..., case.places]
    leads = max(due.values()) - case.init
    said = {name: p.predict(context, leads) for name, p in baselines(case.settings, tuple(case.places)).items()}
    other = _rival(case, context, leads)
    for lead, slot in due.items():
        layers = {name: Layers(one.values[0, slot - case.init - 1], one.quantities) for name, one in said.items()}
        layers |= _climatology(case, slot, layers["persistence"])
        source, age = case.run.quality(lead)
        own = _published(case.run, lead, source)
        layers[FORECAST] = Layers(own.values[0, 0], own.quantities)
        truth = case.cube.read([slot]).values[..., case.places]
        common = counted({name: one.answer for name, one in layers.items()}, truth, newest)
        if other is not None:
            layers = {PREVIOUS: _filled(other, slot - case.init - 1, layers["extrapolation"])} | layers
        yield Met(lead, layers, own, source, age, np.where(newest, truth, np.float32(np.nan)), common)


def _rival(case: Case, context: Context, leads: int) -> Forecast | None:
    """What the rival says; None where it forecasts other bands, or cannot answer these inputs."""
    if case.rival is None:
        return None
    try:
        said = case.rival.predict(context, leads)
    except NotEnoughFramesError:
        return None
    return said if said.values.shape[-1] == len(case.bands) and said.values.shape[1] >= leads else None


def _filled(said: Forecast, lead: int, below: Layers) -> Layers:
    """One lead, filled up as the ladder fills a published run, so that the same pixels count with it and without."""
    values = said.values[0, lead]
    return Layers(np.where(np.isfinite(values), values, below.values[:1]), said.quantities)


def inputs(settings: Settings, run: PublishedRun, seen: Cube) -> Context:
    """The very frames that a run saw, one without a value where it saw none; ``seen`` is the cube as the run had it."""
    used = set(run.scenes)
    slots = sorted({row.slot for row in seen.rows if row.scene.id in used and not row.superseded})
    spec = settings.samples.model_copy(update={"context_frames": max(len(slots), 1)})
    return read_context(seen, Sample(seen.layout.axis.slot(run.init), tuple(slots), ()), spec)


def _published(run: PublishedRun, lead: int, made_by: NDArray[np.uint8]) -> Forecast:
    """What a run says; a pixel that was yielded in all bands counts as the network's, whose interval it has."""
    source = made_by[np.newaxis, np.newaxis]
    if {(lead, band) for band in run.bands} <= set(run.yielded):
        source = np.where(source == Source.EXTRAPOLATION, np.uint8(Source.NETWORK), source)
    values = run.read(lead)[np.newaxis, np.newaxis]
    return Forecast(values, source, np.zeros(source.shape, np.float32), run.quantities)


def _climatology(case: Case, slot: int, still: Layers) -> dict[str, Layers]:
    """What was usual, filled up by persistence, so that the same pixels count; empty where the cube is too short."""
    then = replace(case.seen, as_of=case.run.init + case.settings.forecast.delay)
    usual = usual_at(then, slot, case.init, case.places, case.settings.verification.climatology_frames)
    if usual is None:
        return {}
    return {CLIMATOLOGY: Layers(np.where(np.isfinite(usual), usual, still.values), (MEAN,))}


def _scores(case: Case, met: Met, coverage: Held) -> Iterator[Score]:
    """Errors of every predictor where all say something, coverage wherever the network does."""
    held, promised = coverage
    for name, one in met.layers.items():
        made = _of_bands(met.minutes, name, case.run, one.answer.sums(met.common))
        yield from (
            score if name != FORECAST or share is None else replace(score, held=share, promised=promised)
            for score, share in zip(made, held, strict=True)
        )


def _of_bands(lead: int, name: str, run: PublishedRun, sums: ErrorSums) -> Iterator[Score]:
    for index, band in enumerate(run.bands):
        pixels, absolute, squared = (part[0, index].item() for part in (sums.count, sums.absolute, sums.squared))
        covered = None if sums.covered is None else int(sums.covered[0, index])
        given = name == FORECAST and (lead, band) in run.yielded
        yield Score(lead, band, name, int(pixels), absolute, squared, covered, yielded=given)


def _parts(case: Case, met: Met, coverage: Held) -> Iterator[Part]:
    """The same errors by rung and by region."""
    areas = windows(case.settings.verification.regions, case.cube.layout.grid)
    whole, promised = coverage
    held = {name: _held(case, _cut(met, area))[0] for name, area in areas.items()} if promised is not None else {}
    for index, band in enumerate(case.bands):
        canvas = _canvas(met, index)
        for name, facts in canvas.rungs():
            own = name == Source.NETWORK.name.lower() and promised is not None
            share = (whole[index], promised) if own else (None, None)
            yield Part(met.minutes, band.name, RUNG, name, **facts, held=share[0], promised=share[1])
        for name, facts in canvas.regions(areas):
            share = held[name][index] if held else None
            yield Part(met.minutes, band.name, REGION, name, **facts, held=share, promised=promised)


def _canvas(met: Met, index: int) -> Canvas:
    """One band, counted from 0, to be divided."""
    truth, fields = met.common[0, ..., index], {}
    for name, layers in met.layers.items():
        one = layers.band(index).answer
        ends = None if one.interval is None else (one.interval[0][0, ..., 0], one.interval[1][0, ..., 0])
        mean = one.mean[0, ..., 0]
        fields[name] = field(mean, mean if one.median is one.mean else one.median[0, ..., 0], ends, truth)
    return Canvas(np.isfinite(truth), met.source, met.age, fields)


def _cut(met: Met, window: Window) -> Met:
    """What coverage is made from, within a window."""
    rows, columns = window.slices
    said = replace(
        met.said,
        values=met.said.values[:, :, :, rows, columns],
        source=met.said.source[:, :, rows, columns],
        age=met.said.age[:, :, rows, columns],
    )
    return replace(met, said=said, truth=met.truth[:, rows, columns])


def _held(case: Case, met: Met) -> Held:
    """Coverage of a lead by randomised PIT where a network forecast, one a band, and what it is to be.

    None where the run has no interval, or no truth counts.
    """
    if len(bound_levels(met.said)) < 2:
        return (None,) * len(case.bands), None
    found = Coverage.of(Pair(met.said, with_interval(met.said, met.truth)), valid_ranges(case.bands))
    return tuple(None if np.isnan(share) else float(share) for share in found.randomised[0]), found.nominal


def _cards(case: Case, met: Met) -> Iterator[Card]:
    revisions = _revisions(case, met)
    for index, band in enumerate(case.bands):
        truth, own = (field[..., index : index + 1] for field in (met.common, met.own))
        for name, layers in met.layers.items():
            said = layers.band(index)
            card = mark(Card(met.minutes, band.name, name), said, truth, band, case.settings.verification)
            if name == FORECAST:
                card = mark_quantiles(card, said, truth, own)
                card = _mark_chances(card, case.run, truth, own)
                card = card if revisions is None else replace(card, revisions=revisions.at(0, index))
            yield card


def _mark_chances(card: Card, run: PublishedRun, truth: NDArray[np.float32], own: NDArray[np.float32]) -> Card:
    """With the scores of the probabilities that the run says of the card's lead and band, if it does."""
    said = [one for one in run.chances if one.band == card.band]
    if not said:
        return card
    events = Events(tuple(one.threshold for one in said), said[0].below)
    layers = np.stack([run.probability(card.lead_minutes, one.band, one.threshold) for one in said])
    return mark_chances(card, layers, events, truth, own)


def _revisions(case: Case, met: Met) -> RevisionSums | None:
    """The forecast against the runs before it, on the pixels of its errors; None where it is the first."""
    before = list(earlier(case, met.minutes, met.common.shape[1:3]))
    if not before:
        return None
    known = np.where(np.isfinite(met.common), met.layers[FORECAST].of(MEDIAN, MEAN), np.float32(np.nan))
    return RevisionSums.of(known, *before)
