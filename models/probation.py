"""A fresh champion, watched by its predecessor: both answer the same runs, and who does worse over them is told.

Verification asks the predecessor with the very inputs of each run that the new champion made, and notes its errors as
those of :data:`pipeline.scoring.PREVIOUS`, beside the published forecast's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.gate import Entrant, Trial, compare, told
from models.history import History, Step
from models.prediction import Network
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.errors import CubecastError, NotEnoughFramesError
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.rungs import ladder
from pipeline.scorebook import FORECAST, RunScores, Score, book
from pipeline.scoring import PREVIOUS
from pipeline.significance import Evidence, Verdict
from pipeline.times import from_seconds
from pipeline.verify import Rival


class Shelf(Protocol):
    """Where versions are; see :class:`models.registry.Registry`."""

    def load_version(self, settings: Settings, version: str) -> Network:
        """Any version, checked."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is watched by whom.

    Attributes:
        champion: version on probation.
        previous: version that served before.
        since: when it was promoted, UTC.
    """

    champion: str
    previous: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Probation:
    """How a probation stands.

    Attributes:
        watch: who is watched by whom.
        runs: of the champion that both have answered.
        wanted: how many there are to be.
        found: error of the champion relative to its predecessor's; None: no run yet.
        alarm: what to do, where the predecessor does better; empty: nothing.
    """

    watch: Watch
    runs: int
    wanted: int
    found: Evidence | None
    alarm: str = ""

    @property
    def over(self) -> bool:
        """Whether there are runs enough."""
        return self.runs >= self.wanted


def watched(settings: Settings, history: History) -> Watch | None:
    """Who is on probation, by the history: a champion that was promoted over another one, and not rolled back to."""
    last = next((one for one in reversed(history.entries()) if one.step is not Step.KEPT), None)
    if last is None or not settings.models.probation or last.step not in {Step.PROMOTED, Step.FORCED}:
        return None
    return None if last.before is None else Watch(last.version, last.before, last.time)


def rival(settings: Settings, shelf: Shelf, history: History) -> Rival | None:
    """The predecessor, for a verification to ask; None where nobody is on probation, or no longer.

    It is loaded when it is first asked: a verification without a new run of the champion imports no network.
    """
    watch = watched(settings, history)
    if watch is None or len(_shared(settings, watch)) >= settings.models.probation:
        return None
    predecessor = Predecessor(settings, shelf, watch.previous)
    return Rival(_model(settings, watch.champion), predecessor, _model(settings, watch.previous))


def probation(settings: Settings, history: History, config: Path) -> Probation | None:
    """How the probation stands after the newest scores; None where nobody is on probation.

    Args:
        settings: the product.
        history: of its versions.
        config: its configuration, for the command that an alarm names.
    """
    watch = watched(settings, history)
    if watch is None:
        return None
    runs, wanted = _shared(settings, watch), settings.models.probation
    if not runs:
        return Probation(watch, 0, wanted, None)
    found = _compared(settings, runs)
    alarm = _alarm(settings, watch, found, config) if found.verdict is Verdict.HIGHER else ""
    return Probation(watch, len(runs), wanted, found, alarm)


@dataclass(slots=True)
class Predecessor:
    """A version that is asked with what another one saw: as many frames as it needs, and its covariates.

    A verification does not fail for one that cannot be had: it is not scored.
    """

    settings: Settings
    shelf: Shelf
    version: str
    _ladder: Predictor | None = field(default=None, init=False)
    _frames: int = field(default=0, init=False)
    _fault: str = field(default="", init=False)

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`.

        Raises:
            NotEnoughFramesError: it cannot answer, for whatever reason.
        """
        if self._fault:
            raise NotEnoughFramesError(self._fault)
        try:
            asked = self._loaded()
            told = covariates_of(self.settings).attach(self._fitted(context), self._init(context), horizon)
            return asked.predict(told, horizon)
        except CubecastError as error:
            self._fault = f"version {self.version} is asked beside its successor, but does not answer: {error}"
            logging.getLogger("cubecast.probation").warning(self._fault)
            raise NotEnoughFramesError(self._fault) from error

    def _loaded(self) -> Predictor:
        if self._ladder is None:
            network = self.shelf.load_version(self.settings, self.version)
            self._frames = network.card.network.context_frames
            self._ladder = ladder(self.settings, network.champion(self.settings.forecast.tile))
        return self._ladder

    def _fitted(self, context: Context) -> Context:
        """With as many frames as the network sees: the newest, and before them missing ones."""
        absent = self._frames - context.values.shape[1]
        if absent <= 0:
            newest = slice(-absent, None)
            return replace(
                context,
                values=context.values[:, newest],
                validity=context.validity[:, newest],
                times=context.times[:, newest],
                ages=context.ages[:, newest],
            )
        before = ((0, 0), (absent, 0), (0, 0), (0, 0), (0, 0))
        oldest = self.settings.samples.max_age
        return Context(
            np.pad(context.values, before, constant_values=np.nan),
            np.pad(context.validity, before),
            np.pad(context.times, before[:2], mode="edge"),
            np.pad(context.ages, before[:2], constant_values=oldest),
        )

    def _init(self, context: Context) -> int:
        cadence = self.settings.axis.cadence
        newest = from_seconds(int(context.times[0, -1]))
        return self.settings.axis.axis().slot(newest + float(context.ages[0, -1]) * cadence)


Cells = dict[tuple[int, str], tuple[float, float]]
"""Sums of squared errors, the champion's and its predecessor's, by lead in minutes and band."""


def _shared(settings: Settings, watch: Watch) -> list[tuple[int, Cells]]:
    """Slot and errors of the first runs that both have answered, as many as are wanted, one an init time."""
    axis, found = settings.axis.axis(), dict[int, Cells]()
    asked = (_model(settings, watch.champion), _model(settings, watch.previous))
    for run in book(settings.paths.verification, since=watch.since):
        if (run.model, run.rival) == asked and (cells := _cells(run)):
            found[axis.slot(run.init)] = cells
        if len(found) >= settings.models.probation:
            break
    return sorted(found.items())


def _cells(run: RunScores) -> Cells:
    """Of leads and bands where what was published is the champion's own word."""
    ours, theirs = (_of(run, name) for name in (FORECAST, PREVIOUS))
    both = [at for at in ours if at in theirs and not ours[at].yielded and ours[at].pixels == theirs[at].pixels]
    return {at: (ours[at].squared, theirs[at].squared) for at in both if ours[at].pixels}


def _of(run: RunScores, name: str) -> dict[tuple[int, str], Score]:
    return {(one.lead_minutes, one.band): one for one in run.scores if one.predictor == name}


def _compared(settings: Settings, runs: Sequence[tuple[int, Cells]]) -> Evidence:
    leads = tuple(sorted({lead for _, cells in runs for lead, _ in cells}))
    bands = sorted({band for _, cells in runs for _, band in cells})
    ours, theirs = (_squared([cells for _, cells in runs], leads, bands, side) for side in (0, 1))
    champion, previous = Entrant("champion", ours), Entrant(PREVIOUS, theirs)
    slots = np.array([slot for slot, _ in runs], np.int64)
    trial = Trial(slots, settings.samples.horizon, leads, champion, previous, (previous,))
    return compare(champion, previous, trial)


def _squared(runs: Sequence[Cells], leads: Sequence[int], bands: Sequence[str], side: int) -> NDArray[np.float64]:
    """``(run, lead, band)``; 0 for both where one of them is not known, which adds to neither."""
    none = (0.0, 0.0)
    return np.array([[[run.get((lead, band), none)[side] for band in bands] for lead in leads] for run in runs])


def _model(settings: Settings, version: str) -> str:
    return f"{settings.product.name} {version}"


def _alarm(settings: Settings, watch: Watch, found: Evidence, config: Path) -> str:
    return (
        f"{settings.product.name}: the champion, version {watch.champion}, does worse than its predecessor, version "
        f"{watch.previous}: over {found.inits} runs its error is {told(found)}. To go back: "
        f'cubecast models rollback --config {config} --reason "version {watch.champion} does worse"'
    )
