"""What a model's published runs have shown: where it does worse than its rival, and how far ahead it is of use.

A lead and band is yielded to the rival (extrapolation) where the newest truths show clearly that the model's absolute
error is larger. While it is yielded nothing new is seen of the model there, so after a half-life it is tried again, and
what it then shows joins what was known.

Runs that are issued soon after each other meet the same weather, so their errors are alike and count as fewer: as those
of a first-order autoregression whose correlation is no less than 0.7, and n / (n + 1) where a lead reaches over n runs.
On three real sequences (radar of 5 minutes, infrared of an hour) the differences between the errors of extrapolation
and of the same blurred or mixed with persistence were correlated, from run to run, by 0.3-0.8 at the first lead,
0.7-0.9 at the sixth and 0.8-0.97 at the twelfth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf, log, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.pairs import ValidRange, limits
from pipeline.predictor import MEAN, MEDIAN, POINTS, Context, Forecast, Predictor
from pipeline.scorebook import FORECAST, RunScores, Score
from pipeline.significance import MOST_ALIKE, student

HALF_LIFE: Final = 12.0  # runs
HALF_LIFE_LEADS: Final = 6.0  # a half-life is so many times the lead at least: 8 independent runs of it in the long run
LEAST_INDEPENDENT: Final = 3.0  # runs, under which nothing is yielded
LEAST_ALIKE: Final = 0.7  # correlation of successive runs
DOUBT: Final = 0.0025
"""Probability with which one test yields a lead to its equal. Tests are repeated at every run, and what was yielded
stays so for a while: of 400 simulated runs, 60 times, equals were yielded in 0-0.8 % of cells where successive runs are
correlated 0.5-0.8 (leads of 1 and 3 runs), 0.9 (6) and 0.95 (12), in 2.2-3.2 % where 0.9 (2 and 3) and 0.98 (12)."""

NEWEST: Final = 400  # runs that are looked at: five half-lives of an hour's lead, every five minutes
HORIZON_RUNS: Final = 100  # newest runs whose errors make the useful horizon
LEAST_RUNS: Final = 10  # under which there is none

_MINUTE = timedelta(minutes=1)


# --- yielding -------------------------------------------------------------------------------------


def yielded(
    scored: Iterable[RunScores],
    model: str,
    init: datetime,
    leads: Sequence[int],
    bands: Sequence[str],
    *,
    rival: str = "extrapolation",
) -> NDArray[np.bool_]:
    """Which leads and bands the rival does better at, ``(lead, band)``.

    Args:
        scored: what is known of earlier runs.
        model: name and version of the model that forecasts now.
        init: init time of the forecast; truths of later times are left aside, as they were not known then.
        leads: in minutes, ascending.
        bands: names of the forecast bands.
        rival: name of the baseline in the scores.
    """
    earlier = _earlier(scored, model, init)
    cells = [[_history(earlier, init, lead, band, rival).lost for band in bands] for lead in leads]
    return np.array(cells, np.bool_).reshape(len(leads), len(bands))


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Errors of a model and its rival at one lead and band, run by run, oldest first.

    Attributes:
        ours: ``(run,)``, sums of absolute errors.
        theirs: ``(run,)``, the rival's, on the same pixels.
        ages: ``(run,)``, how many newer runs truth has met at this lead, those among them that were yielded.
        reach: over how many runs the lead reaches.
    """

    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]
    ages: NDArray[np.float64]
    reach: float

    @property
    def half_life(self) -> float:
        """In runs."""
        return max(HALF_LIFE, HALF_LIFE_LEADS * self.reach)

    @property
    def lost(self) -> bool:
        """Whether the model is clearly worse, by what is no older than a half-life.

        The logarithm of the ratio of the weighted errors is above 0 by more than Student's t times its standard error.
        As many runs are independent as at the least likeness: a model that has just become worse looks like one that
        drifts.
        """
        weights = 0.5 ** (np.arange(len(self.ages))[::-1] / self.half_life)
        theirs = float(weights @ self.theirs)
        if not len(weights) or self.ages[-1] > self.half_life or not theirs > 0:
            return False
        ratio = float(weights @ self.ours) / theirs
        pulls = weights * (self.ours - ratio * self.theirs) / theirs
        runs = float(1 / np.sum((weights * self.theirs / theirs) ** 2))
        independent = runs / _inflation(self._least_alike)
        if ratio <= 1 or independent < LEAST_INDEPENDENT:
            return False
        error = sqrt(float(pulls @ pulls) * runs / (runs - 1) * _inflation(self._likeness(pulls, runs)))
        return log(ratio) > student(1 - DOUBT, independent - 1) * error / ratio

    @property
    def _least_alike(self) -> float:
        return max(LEAST_ALIKE, self.reach / (self.reach + 1))

    def _likeness(self, pulls: NDArray[np.float64], runs: float) -> float:
        """Correlation of successive runs, corrected for the shortness of the series (Kendall 1954)."""
        spread, successive = float(pulls @ pulls), np.diff(self.ages) == -1
        found = float((pulls[1:] * pulls[:-1])[successive].sum()) / spread if spread > 0 else 0.0
        return max(self._least_alike, min(found + (1 + 3 * found) / runs, MOST_ALIKE))


def _inflation(likeness: float) -> float:
    """How many runs of an autoregression say as much as an independent one."""
    return (1 + likeness) / (1 - likeness)


def _earlier(scored: Iterable[RunScores], model: str, init: datetime) -> list[RunScores]:
    """Runs of the same model before an init time, oldest first."""
    return sorted((one for one in scored if one.model == model and one.init < init), key=lambda one: one.init)


def _known(
    earlier: Sequence[RunScores], init: datetime, lead: int, band: str
) -> Iterator[tuple[RunScores, dict[str, Score]]]:
    """Runs whose truth at a lead and band was known at ``init``, each with its scores by predictor."""
    for run in earlier:
        if run.init + lead * _MINUTE <= init:
            found = {one.predictor: one for one in run.scores if (one.lead_minutes, one.band) == (lead, band)}
            if FORECAST in found and found[FORECAST].pixels:
                yield run, found


def _history(earlier: Sequence[RunScores], init: datetime, lead: int, band: str, rival: str) -> History:
    known = [(run, found) for run, found in _known(earlier, init, lead, band) if rival in found]
    ages = range(len(known))[::-1]
    seen = [(found, age) for (_, found), age in zip(known, ages, strict=True) if not found[FORECAST].yielded]
    return History(
        np.array([found[FORECAST].absolute for found, _ in seen], np.float64),
        np.array([found[rival].absolute for found, _ in seen], np.float64),
        np.array([age for _, age in seen], np.float64),
        _reach([run.init for run, _ in known], lead),
    )


def _reach(inits: Sequence[datetime], lead: int) -> float:
    """Over how many runs a lead reaches, one at least."""
    gaps = [(later - one) / _MINUTE for one, later in pairwise(inits) if later > one]
    return max(1.0, lead / float(np.median(gaps))) if gaps else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Yielding:
    """A predictor that says what its rival says at some leads and bands.

    There mean and median are the rival's, and the bounds of an interval move along with the median, so that it keeps
    its width, and stay within what is possible. Where the rival or the model knows nothing all stays as it is. A pixel
    carries the rival's source and age where it says what the rival says in every band, else its own source and the
    greater age: a pixel has one source for all bands.

    Attributes:
        inner: the model.
        rival: of the same bands; its ``mean`` is used.
        mask: ``(lead, band)``, where to yield.
        valid: lowest and highest possible value of each band.
    """

    inner: Predictor
    rival: Predictor
    mask: NDArray[np.bool_]
    valid: tuple[ValidRange, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`; the model's answer where the rival lacks frames."""
        said = self.inner.predict(context, horizon)
        try:
            other = self.rival.predict(context, horizon)
        except NotEnoughFramesError:
            return said
        return self._given(said, other)

    def _given(self, said: Forecast, other: Forecast) -> Forecast:
        point, known = other.of(MEAN), np.isfinite(said.values).all(axis=2)
        there = self.mask[: said.values.shape[1], np.newaxis, np.newaxis] & np.isfinite(point) & known
        some, every = there.any(axis=-1), there.all(axis=-1)
        return replace(
            said,
            values=self._values(said, point, there),
            source=np.where(every, other.source, said.source),
            age=np.where(every, other.age, np.where(some, np.fmax(said.age, other.age), said.age)),
        )

    def _values(self, said: Forecast, point: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float32]:
        centre = next((name for name in (MEDIAN, *POINTS) if name in said.quantities), said.quantities[0])
        step, values = point - said.of(centre), said.values.copy()
        low, high = limits(self.valid, values.shape[-1]).T
        for index, name in enumerate(said.quantities):
            told = point if name in POINTS else np.clip(values[:, :, index] + step, low, high)
            np.copyto(values[:, :, index], told, where=there)
        return values


# --- useful horizon -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UsefulHorizon:
    """How far ahead a product's forecasts of one band were better than what costs nothing.

    Attributes:
        minutes: the longest lead at which, as at every shorter one, the published forecast had a smaller absolute error
            than each reference; 0: there is none; None: too few runs have met truth to say.
        runs: how many runs it rests on, the fewest of the leads up to it; of the first lead where there is none.
        against: the references.
        reason: why it ends there.
    """

    minutes: int | None
    runs: int
    against: tuple[str, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"against": list(self.against)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> UsefulHorizon:
        """The inverse of :meth:`to_json`."""
        return cls(**{**document, "against": tuple(document["against"])})


@dataclass(frozen=True, slots=True)
class _Lead:
    """What the newest runs show of one lead: mean ratio of the forecast's error to each reference's."""

    minutes: int
    runs: int
    ratios: dict[str, float]

    @property
    def unbeaten(self) -> str:
        """A reference that the forecast is no better than; empty where it beats all."""
        return next((name for name, ratio in self.ratios.items() if not ratio < 1), "")


def useful_horizon(
    scored: Iterable[RunScores], model: str, init: datetime, leads: Sequence[int], band: str
) -> UsefulHorizon:
    """How far ahead the published forecasts of a model have been useful, by the newest :data:`HORIZON_RUNS` runs.

    Against persistence, and against climatology where enough runs were scored beside it.

    Args:
        scored: what is known of earlier runs.
        model: name and version of the model.
        init: truths of later times are left aside.
        leads: in minutes, ascending.
        band: name of the forecast band.
    """
    earlier = _earlier(scored, model, init)
    good: list[_Lead] = []
    for lead in leads:
        found = _lead(earlier, init, lead, band)
        if found.runs < LEAST_RUNS:
            reason = f"{found.runs} of at least {LEAST_RUNS} runs of {model} have met truth {lead} minutes ahead"
            return _horizon(good, found, reason, known=bool(good))
        if found.unbeaten:
            return _horizon(good, found, f"no better than {found.unbeaten} {lead} minutes ahead")
        good.append(found)
    return _horizon(good, good[-1], "better at every lead")


def _horizon(good: Sequence[_Lead], last: _Lead, reason: str, *, known: bool = True) -> UsefulHorizon:
    minutes = good[-1].minutes if good else 0
    runs = min((one.runs for one in good), default=last.runs)
    names = dict.fromkeys(name for one in (*good, last) for name in one.ratios)
    return UsefulHorizon(minutes if known else None, runs, tuple(names), reason)


def _lead(earlier: Sequence[RunScores], init: datetime, lead: int, band: str) -> _Lead:
    known = [found for _, found in _known(earlier, init, lead, band) if "persistence" in found][-HORIZON_RUNS:]
    both = {name: [one for one in known if name in one] for name in ("persistence", "climatology")}
    enough = {name: runs for name, runs in both.items() if len(runs) >= LEAST_RUNS}
    return _Lead(lead, len(known), {name: _ratio(runs, name) for name, runs in enough.items()})


def _ratio(runs: Sequence[Mapping[str, Score]], reference: str) -> float:
    """Of errors, every pixel counting alike; where there are none, no better."""
    ours, theirs = (sum(one[name].absolute for one in runs) for name in (FORECAST, reference))
    return ours / theirs if theirs > 0 else inf
