"""Whether a challenger takes the champion's place: what both met at the same held-out init times decides.

Two errors are compared by the paired block bootstrap of :mod:`pipeline.significance`. The score of a forecast is its
root mean squared error (what networks are trained for) at each lead and band, divided by what both forecasts have
there on average, so that no band and no lead counts more because its numbers are larger, and then averaged.

A challenger is promoted if its interval lies wholly on the better side. The interval is one of nominally 98 %: with few
blocks of errors that resemble each other for long, those of nominally 95 % let 5-6.5 % of 200 simulated equals pass,
these 1-3.5 % of 400. At the single leads the question is the other way round, whether it is shown to be worse, and it
is asked once a lead: the levels of these intervals are such that of the challengers that are equal at all leads, one in
twenty is stopped by any of them (Bonferroni: a one-sided probability of 0.05 / leads at each).
``tests/benchmarks/simulate_gate.py`` tries all of it on made-up errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import ceil, isfinite, log, log1p, nan, sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.significance import LEAST_BLOCKS, Evidence, Resampling, Verdict, relative_score, student
from pipeline.specs import ModelSpec

LEVEL: Final = 0.98
HARM: Final = 0.05
"""Probability with which a challenger that is equal at all leads is found worse at one of them."""
POWER: Final = 0.95
"""Probability with which a challenger that is better by ``models.gain`` is to be found so. What the sample size is
reckoned from is itself uncertain: so more than the four in five that are wanted."""
MOST_BLOCKS: Final = 10_000
RESAMPLES: Final = 2000


class Decision(StrEnum):
    """What becomes of a challenger."""

    PROMOTE = "promote"
    KEEP = "keep as challenger"
    INSUFFICIENT = "insufficient evidence"


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """What one forecaster met.

    Attributes:
        name: what people call it.
        squared: ``(init, lead, band)``, sums of squared errors over the pixels that count for all entrants.
        cost: processor seconds of one forecast; NaN: not measured.
    """

    name: str
    squared: NDArray[np.float64]
    cost: float = nan


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What is known of a challenger and its rivals, all from the same init times.

    Attributes:
        slots: ``(init,)``, when each forecast was issued, ascending.
        block: slots of a block of the bootstrap, the horizon at least.
        leads: lead times, minutes.
        challenger: who wants to serve.
        champion: who serves; None: nobody does.
        baselines: persistence and the like, one at least.
        coverage: ``(lead, band)``, part of the truths in the challenger's intervals; None where it gives none.
        promised: part that they promise to hold.
        fault: what was wrong with a forecast that was made and published aside; empty: nothing.
    """

    slots: NDArray[np.int64]
    block: int
    leads: tuple[int, ...]
    challenger: Entrant
    champion: Entrant | None
    baselines: tuple[Entrant, ...]
    coverage: NDArray[np.float64] | None = None
    promised: float = nan
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a challenger has to be.

    Attributes:
        name: of the condition.
        met: whether it is.
        reason: why, in words.
    """

    name: str
    met: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the gate says.

    Attributes:
        decision: what becomes of the challenger.
        rival: whom it was held against.
        conditions: all of them, met or not.
        overall: its error relative to the rival's, over all leads.
        leads: the same at each lead, with the wider intervals of many questions.
        minutes: lead times of these.
        baseline: name of the best baseline.
        against_baseline: its error relative to that one's, over all leads.
        wanted: init times, spaced as these are, that it would take to find out a gain of ``models.gain``; 0: unknown.
    """

    decision: Decision
    rival: str
    conditions: tuple[Condition, ...]
    overall: Evidence
    leads: tuple[Evidence, ...]
    minutes: tuple[int, ...]
    baseline: str
    against_baseline: Evidence
    wanted: int

    @property
    def promotes(self) -> bool:
        """Whether every condition is met."""
        return self.decision is Decision.PROMOTE

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not promoted; where it is, why it is."""
        return tuple(one.reason for one in self.conditions if one.met is self.promotes)

    @property
    def text(self) -> str:
        """Decision and reasons in one line."""
        return f"{self.decision.value}: {'; '.join(self.reasons)}"

    def to_json(self) -> dict[str, Any]:
        """JSON form; numbers that are none are null."""
        return _plain(asdict(self) | {"decision": self.decision.value, "text": self.text})


def judge(trial: Trial, spec: ModelSpec) -> Ruling:
    """Holds a challenger against the champion, or, where nobody serves, against the best baseline.

    Args:
        trial: what all of them met.
        spec: what is asked of a champion.
    """
    best = min(trial.baselines, key=lambda one: _score(one, trial))
    rival = trial.champion or best
    overall = compare(trial.challenger, rival, trial)
    lower = compare(trial.challenger, best, trial)
    count, called = len(trial.leads), "the champion" if trial.champion else best.name
    leads = tuple(compare(trial.challenger, rival, trial, lead=one, level=1 - 2 * HARM / count) for one in range(count))
    wanted = sample_size(overall, trial.slots, trial.block, spec.gain)
    conditions = (
        _enough(overall, wanted, spec),
        _better(overall, called),
        *([] if trial.champion is None else [_no_worse(lower, best.name)]),
        _nowhere_worse(leads, trial.leads, called),
        _calibrated(trial, spec),
        _affordable(trial, spec),
        _publishable(trial),
    )
    return Ruling(_decision(conditions), called, conditions, overall, leads, trial.leads, best.name, lower, wanted)


def compare(ours: Entrant, theirs: Entrant, trial: Trial, *, lead: int | None = None, level: float = LEVEL) -> Evidence:
    """Error of one entrant relative to another's, minus 1: -0.1 is an error that is 10 % smaller.

    Args:
        ours: the one.
        theirs: the other.
        trial: when they met what they met.
        lead: index of the only lead that counts; None: all do.
        level: nominal coverage of the interval.
    """
    at = slice(None) if lead is None else slice(lead, lead + 1)
    pairs = np.stack([ours.squared[:, at], theirs.squared[:, at]], axis=1).reshape(len(trial.slots), 2, -1)
    usual = pairs.mean(axis=(0, 1))
    known = usual > 0  # where neither has any error, there is nothing to compare
    if not known.any():
        return Evidence(nan, nan, nan, level, len(trial.slots), 0)

    def scores(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(means / usual[known]).mean(axis=-1)

    how = Resampling(level, RESAMPLES)
    return relative_score(pairs[..., known], scores, trial.slots, trial.block, how)


def sample_size(found: Evidence, slots: Sequence[int] | NDArray[np.int64], block: int, gain: float) -> int:
    """Init times, spaced as these are, at which a gain would be shown with a probability of :data:`POWER`.

    From the width of the interval that was found: its standard error shrinks with the root of the number of blocks.

    Args:
        found: of the comparison.
        slots: when the forecasts were issued.
        block: slots of a block.
        gain: part by which an error is smaller.

    Returns:
        Their number; 0 where the interval says nothing.
    """
    least = ceil(LEAST_BLOCKS * block / _spacing(slots))
    if found.blocks < 2 or not all(map(isfinite, (found.low, found.high))) or found.low <= -1:
        return least
    tail = 0.5 + found.level / 2
    error = (log1p(found.high) - log1p(found.low)) / 2 / student(tail, found.blocks - 1)
    power = NormalDist().inv_cdf(POWER)
    for blocks in range(LEAST_BLOCKS, MOST_BLOCKS):
        shown = (student(tail, blocks - 1) + power) * error * sqrt(found.blocks / blocks)
        if shown <= -log(1 - gain):
            return max(least, ceil(blocks * found.inits / found.blocks))
    return 0


def _spacing(slots: Sequence[int] | NDArray[np.int64]) -> float:
    return float(np.median(np.diff(slots))) if len(slots) > 1 else 1.0


def _score(one: Entrant, trial: Trial) -> float:
    """Of all entrants on the same scale, to find the best of several."""
    usual = np.mean([each.squared.mean(axis=0) for each in trial.baselines], axis=0)
    known = usual > 0
    return float(np.sqrt(one.squared.mean(axis=0)[known] / usual[known]).mean()) if known.any() else 0.0


def _decision(conditions: Sequence[Condition]) -> Decision:
    if all(one.met for one in conditions):
        return Decision.PROMOTE
    return Decision.KEEP if conditions[0].met else Decision.INSUFFICIENT


def _enough(found: Evidence, wanted: int, spec: ModelSpec) -> Condition:
    asked = f"about {wanted} of them would show a gain of {spec.gain:.0%}" if wanted else "no number would show a gain"
    said = f"{found.inits} init times fill {found.blocks} independent blocks as long as the horizon"
    if found.sufficient:
        return Condition("evidence", met=True, reason=f"{said}; {asked}")
    rule = f"{said}, under {LEAST_BLOCKS} nothing is concluded"
    return Condition(
        "evidence", met=False, reason=f"{rule}; {asked}: ingest more scenes or raise samples.test_fraction"
    )


def _better(found: Evidence, rival: str) -> Condition:
    met = found.verdict is Verdict.LOWER
    said = f"over all leads its error, held against that of {rival}, is {told(found)}"
    return Condition("better", met=met, reason=said if met else f"{said}, which does not show that it is better")


def _no_worse(found: Evidence, baseline: str) -> Condition:
    met = isfinite(found.estimate) and found.estimate < 0 and found.verdict is not Verdict.HIGHER
    said = f"its error, held against that of the best baseline, {baseline}, is {told(found)}"
    return Condition("baseline", met=met, reason=said)


def _nowhere_worse(found: Sequence[Evidence], minutes: Sequence[int], rival: str) -> Condition:
    pairs = list(zip(minutes, found, strict=True))
    worse = [f"{lead} min ({_interval(one)})" for lead, one in pairs if one.verdict is Verdict.HIGHER]
    if worse:
        return Condition("leads", met=False, reason=f"it is worse than {rival} at {', '.join(worse)}")
    return Condition("leads", met=True, reason=f"at none of {len(pairs)} leads it is shown to be worse than {rival}")


def _calibrated(trial: Trial, spec: ModelSpec) -> Condition:
    """All leads and bands together within the tolerance, and each lead within twice of it, as fewer truths tell it."""
    if trial.coverage is None:
        return Condition("intervals", met=True, reason="it gives no intervals: none can be wrong")
    if not np.isfinite(trial.coverage).any():
        return Condition("intervals", met=False, reason="no truth of the test part tells what its intervals hold")
    held, within = np.nanmean(trial.coverage), spec.coverage_within
    leads = np.nanmean(trial.coverage, axis=1)
    worst = int(np.nanargmax(np.abs(leads - trial.promised)))
    met = abs(held - trial.promised) <= within and abs(leads[worst] - trial.promised) <= 2 * within
    said = f"its intervals hold {held:.0%} of the truths, {leads[worst]:.0%} at {trial.leads[worst]} min"
    rule = f"they promise {trial.promised:.0%}, give or take {within:.0%} (twice that at a single lead)"
    return Condition("intervals", met=bool(met), reason=f"{said}; {rule}")


def _affordable(trial: Trial, spec: ModelSpec) -> Condition:
    own, rival = trial.challenger.cost, nan if trial.champion is None else trial.champion.cost
    most = min(_limits(rival, spec), default=nan)
    if not isfinite(own):
        return Condition("cost", met=False, reason="what a forecast costs was not measured")
    if not isfinite(most):
        return Condition("cost", met=True, reason=f"a forecast takes {own:.2g} CPU-seconds, and nothing limits that")
    said = f"a forecast takes {own:.2g} CPU-seconds, at most {most:.2g} may be (models.cost_ratio, models.cost_limit)"
    return Condition("cost", met=own <= most, reason=said)


def _limits(rival: float, spec: ModelSpec) -> Iterator[float]:
    if isfinite(rival):
        yield spec.cost_ratio * rival
    if spec.cost_limit is not None:
        yield spec.cost_limit.total_seconds()


def _publishable(trial: Trial) -> Condition:
    if trial.fault:
        return Condition("smoke", met=False, reason=f"a forecast that was tried fails: {trial.fault}")
    return Condition("smoke", met=True, reason="a forecast that was tried passes the product's checks")


def told(found: Evidence) -> str:
    """An error relative to another one, in words; without an interval where the evidence is too little for one.

    >>> told(Evidence(0.081, 0.02, 0.14, 0.98, 60, 10))
    '8.1 % larger (98 % interval +2.0 to +14.0 %)'
    """
    return f"{_apart(found.estimate)} ({_interval(found)})" if found.sufficient else _apart(found.estimate)


def _apart(part: float) -> str:
    """How an error relates to another one.

    >>> _apart(-0.0512), _apart(0.2), _apart(float("nan"))
    ('5.1 % smaller', '20.0 % larger', 'not to be told apart')
    """
    if not isfinite(part):
        return "not to be told apart"
    return f"{abs(part) * 100:.1f} % {'smaller' if part < 0 else 'larger'}"


def _interval(found: Evidence) -> str:
    return f"{100 * found.level:.3g} % interval {100 * found.low:+.1f} to {100 * found.high:+.1f} %"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
