"""Whether a model has lost skill since it was new: a sum of what it is worse by, scene after scene, raises an alarm.

Each scene that comes is the truth of one lead of each of several runs, so a loss shows at once at every lead that it
concerns. Of each lead and band the logarithm of the forecast's error over extrapolation's on the same pixels is held
against its level; and, where there are intervals, what they promise less what they held. A level is what held-out
truths showed (:class:`pipeline.proof.Proof`), which count as 24 scenes, and the mean of the model's first scenes. The
mean over leads and bands goes into a one-sided cumulative sum (Page 1954, Biometrika 41), which grows by what exceeds
an allowance and never falls below 0. It raises at one limit; the alarm is cleared by a second sum, of what lies below
a smaller allowance.

Scenes that follow each other resemble each other, which a cumulative sum takes for a change. So the allowance is half
of the loss that has to be seen, and 1.5 times the spread of the first scenes at least; excesses are cut off, that one
scene alone raises nothing; the level is learned from as many as 96 scenes, and not while the sum is high. With first-
order autoregressions of correlation phi and spread sd (of the logarithm, mean over leads), 1,000 series of 1,000
scenes:

==== ==== ================== =========================== ====================================
phi  sd   raised per 1,000   part of the time raised     errors half as large again: scenes
                                                          until raised, median and 90 %; within 12
==== ==== ================== =========================== ====================================
0.5  0.10 0.00               0.0 %                        6, 9; 98 %
0.8  0.05 0.00               0.0 %                        6, 8; 100 %
0.8  0.10 0.02               0.0 %                        6, 12; 92 %
0.9  0.10 0.12               0.5 %                        6, 14; 88 %
0.95 0.05 0.00               0.0 %                        6, 9; 98 %
0.95 0.10 0.29               2.3 %                        6, 18; 83 %
0.8  0.15 0.68               1.8 %                        7, 18; 80 %
==== ==== ================== =========================== ====================================

A model that is from its first scene on half as bad again as held-out truths showed is told of in 99 of 100 cases within
60 scenes (median 19), one that is a fifth worse in 0 to 14 (phi 0.5 to 0.95, spread 0.1, 200 series each); one that is
a tenth worse for 1,000 scenes raises 0 to 0.35 alarms.

It is a fold over what is known, in the order of valid times: the same scores give the same alarms, whenever and however
often it is done. A new model starts afresh. Of a model that forecasts for long its first scenes and the newest ones
are read: the first make the level, and the fold goes on from what was said before the newest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from math import exp, log
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import durable
from pipeline.alarmscores import COVERAGE, ERROR, Prove, Scored, Series, read
from pipeline.scorestore import Store
from pipeline.times import from_seconds

DEGRADED, RECOVERED = "skill.degraded", "skill.recovered"

LEARNED: Final = 96  # scenes that make a level
WARM: Final = 12  # scenes before which nothing is raised
PRIOR: Final = 24  # scenes that held-out truths count as
CALM: Final = 0.25  # of the limit: over it nothing is learned
SPREADS: Final = 1.5


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alarm is raised and cleared, in units of what is summed.

    Attributes:
        allowance: excess over the level that is no loss.
        limit: sum of what exceeds it that raises.
        cut: largest excess of a scene.
        clear_allowance: as ``allowance``, below which a scene speaks for the model again.
        clear_limit: sum of what lies below it that clears.
    """

    allowance: float
    limit: float
    cut: float
    clear_allowance: float
    clear_limit: float

    @classmethod
    def seeing(cls, loss: float) -> Rule:
        """One that sees a lasting loss in three to twelve scenes."""
        return cls(loss / 2, 3 * loss, 1.75 * loss, loss / 4, 2 * loss)


RULES: Final = {ERROR: Rule.seeing(log(1.5)), COVERAGE: Rule.seeing(0.2)}


@dataclass(frozen=True, slots=True)
class Alarm:
    """Skill that was lost, or came back.

    Attributes:
        kind: :data:`DEGRADED` or :data:`RECOVERED`.
        measure: of what: :data:`ERROR` or :data:`COVERAGE`.
        model: whose, by name and version.
        since: valid time of the first scene that spoke for it.
        at: valid time of the scene that settled it.
        evidence: numbers by name.
        advice: what to do.
    """

    kind: str
    measure: str
    model: str
    since: datetime
    at: datetime
    evidence: Mapping[str, float] = field(hash=False)
    advice: str

    @property
    def name(self) -> str:
        """Tells it from others; its first word is what it measures."""
        return f"{self.measure} {self.at.isoformat()}"

    @property
    def open(self) -> bool:
        """Whether skill is lost."""
        return self.kind == DEGRADED

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"since": self.since.isoformat(), "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Alarm:
        """The inverse of :meth:`to_json`."""
        moments = {name: datetime.fromisoformat(document[name]) for name in ("since", "at")}
        return cls(**{**document, **moments})


@dataclass(frozen=True, slots=True)
class Change:
    """A crossing of a limit.

    Attributes:
        scene: which scene settled it, counted from 0.
        since: the first scene of the sum that crossed.
        open: whether it raises.
        level: mean over cells of what is usual.
        excess: mean excess from ``since`` on.
        sum: what crossed the limit.
    """

    scene: int
    since: int
    open: bool
    level: float
    excess: float
    sum: float


# --- the fold -------------------------------------------------------------------------------------


def changes(series: Series, rule: Rule, start: int = 0, *, raised: bool = False) -> list[Change]:
    """Every crossing, in order; they are in turns raised and cleared.

    Args:
        series: of a model, from its first scenes on.
        rule: when there is one.
        start: first scene that counts; those before it make the level alone.
        raised: whether an alarm stood before it.
    """
    excesses, levels, spreads = _excesses(series, rule)
    found: list[Change] = []
    total, since = 0.0, start
    for scene, excess in enumerate(excesses.tolist()):
        if scene < max(WARM, start) or excess != excess:  # NaN: nothing is known of it
            continue
        cut = min(max(excess, -rule.cut), rule.cut)
        if total <= 0:
            since = scene
        allowance = max(rule.allowance, SPREADS * float(spreads[scene]))
        total = max(0.0, total + (rule.clear_allowance - cut if raised else cut - allowance))
        if total > (rule.clear_limit if raised else rule.limit):
            raised = not raised
            mean = float(np.nanmean(excesses[since : scene + 1]))
            found.append(Change(scene, since, raised, float(levels[scene]), mean, total))
            total = 0.0
    return found


def _excesses(series: Series, rule: Rule) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean excess over the level of each scene, the mean level and the spread by then, ``(scene,)`` each.

    What a scene adds to the level counts from the next one on.
    """
    level = _Level.of(series.known)
    size = len(series.valid)
    excesses, levels, spreads = np.full(size, np.nan), np.full(size, np.nan), np.zeros(size)
    scene = 0
    while scene < size and level.scenes < LEARNED:
        excesses[scene], levels[scene], spreads[scene] = level.excess(series.values[scene]), level.mean, level.spread
        level.learn(series.values[scene], excesses[scene], rule)
        scene += 1
    rest = series.values[scene:]
    if len(rest):
        excesses[scene:], levels[scene:], spreads[scene:] = level.excesses(rest), level.mean, level.spread
    return excesses, levels, spreads


@dataclass(slots=True)
class _Level:
    """What is usual, as far as it is learned; a sum of its own stops it where the scenes become worse."""

    total: NDArray[np.float64]
    count: NDArray[np.float64]
    given: bool
    scenes: int = 0
    squares: float = 0.0
    sums: float = 0.0
    seen: int = 0
    pressure: float = 0.0

    @classmethod
    def of(cls, known: NDArray[np.float64]) -> _Level:
        given = np.isfinite(known)
        return cls(np.where(given, PRIOR * known, 0.0), np.where(given, float(PRIOR), 0.0), bool(given.any()))

    @property
    def cells(self) -> NDArray[np.float64]:
        """``(cell,)``; NaN where nothing is known."""
        return np.divide(self.total, self.count, out=np.full(self.total.shape, np.nan), where=self.count > 0)

    @property
    def mean(self) -> float:
        found = self.cells
        return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan

    @property
    def spread(self) -> float:
        if self.seen < 2:
            return 0.0
        return max(self.squares / self.seen - (self.sums / self.seen) ** 2, 0.0) ** 0.5

    def excess(self, values: NDArray[np.float64]) -> float:
        return float(self.excesses(values[np.newaxis])[0])

    def excesses(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of scenes, ``(scene, cell)``."""
        apart = values - self.cells
        known = np.isfinite(apart)
        count = known.sum(axis=1)
        sums = np.where(known, apart, 0).sum(axis=1)
        return np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)

    def learn(self, values: NDArray[np.float64], excess: float, rule: Rule) -> None:
        """Takes a scene in, unless the last ones are worse than usual."""
        cut = 0.0 if excess != excess else min(max(excess, -rule.cut), rule.cut)
        self.pressure = max(0.0, self.pressure + cut - rule.allowance)
        if (self.given or self.scenes >= WARM) and self.pressure > CALM * rule.limit:
            return
        known = np.isfinite(values)
        if not known.any():
            return
        self.total[known] += values[known]
        self.count[known] += 1
        self.scenes += 1
        if excess == excess:
            self.squares, self.sums, self.seen = self.squares + excess**2, self.sums + excess, self.seen + 1


# --- what is told ---------------------------------------------------------------------------------


def watch(store: Store, path: Path, prove: Prove = lambda _model, _key, _init: None) -> tuple[Alarm, ...]:
    """Writes down what was raised or cleared since the last time; returns what that leaves changed.

    Args:
        store: scores, refreshed.
        path: file of alarms, a line each.
        prove: what a run's manifest says that held-out truths showed of its model, by model, run key and init time.
    """
    said, scored = history(path), read(store, prove)
    new = [] if scored is None else [*_superseded(said, scored), *_unsaid(said, scored)]
    if new:
        lines = [json.dumps(one.to_json(), ensure_ascii=False) for one in (*said, *new)]
        durable.replace_text(path, "\n".join(lines) + "\n")
    last = {one.measure: one for one in new}
    before = {one.measure: one.open for one in said}
    return tuple(one for one in last.values() if one.open != before.get(one.measure, False))


def history(path: Path) -> list[Alarm]:
    """Everything that was raised and cleared, oldest first."""
    if not path.is_file():
        return []
    return [Alarm.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def standing(said: Sequence[Alarm]) -> list[Alarm]:
    """Alarms that are raised and not cleared, one a measure."""
    return [one for one in {one.measure: one for one in said}.values() if one.open]


def _superseded(said: Sequence[Alarm], scored: Scored) -> Iterator[Alarm]:
    """Closes what stands of another model than the newest, of measures that this one has no series of, too.

    At once, because an alarm that stands is told again and asks for a retraining, which would follow upon the cure.
    """
    advice = f"nothing: {scored.model} forecasts now, and its skill is watched afresh"
    for last in standing(said):
        if last.model != scored.model:
            yield Alarm(RECOVERED, last.measure, scored.model, scored.first, scored.first, {}, advice)


def _unsaid(said: Sequence[Alarm], scored: Scored) -> Iterator[Alarm]:
    """What the scores say of the newest model that was not said before, in turns raised and cleared."""
    for measure, series in scored.series.items():
        last = next((one for one in reversed(said) if one.measure == measure), None)
        last = None if last is None or last.model != scored.model else last
        start = int(np.searchsorted(series.valid, scored.start))
        stood = _stood([one for one in said if one.measure == measure], scored)
        crossed = changes(series, RULES[measure], start, raised=stood)
        yield from _since(last, [_alarm(one, measure, scored.model, series) for one in crossed], series)


def _stood(said: Sequence[Alarm], scored: Scored) -> bool:
    """Whether an alarm of the newest model stood at the first scene that counts, by what was said of a measure."""
    before = [one for one in said if one.at < from_seconds(scored.start)]
    return bool(before) and before[-1].open and before[-1].model == scored.model


def _since(last: Alarm | None, found: Sequence[Alarm], series: Series) -> Iterator[Alarm]:
    """Those of the crossings of one measure that tell something new after what was said of it last."""
    raised = last is not None and last.open
    for one in found:
        if (last is None or one.at > last.at) and one.open != raised:
            raised = one.open
            yield one
    now = bool(found) and found[-1].open
    if found and now != raised:  # a late scene has changed what was said
        yield replace(found[-1], at=max(from_seconds(int(series.valid[-1])), found[-1].at))


def _alarm(one: Change, measure: str, model: str, series: Series) -> Alarm:
    kind = DEGRADED if one.open else RECOVERED
    since, at = (from_seconds(int(series.valid[scene])) for scene in (one.since, one.scene))
    evidence = _evidence(one, measure) | {"scenes": one.scene - one.since + 1, "sum": round(one.sum, 3)}
    return Alarm(kind, measure, model, since, at, evidence, _advice(measure, raised=one.open))


def _evidence(one: Change, measure: str) -> dict[str, float]:
    if measure == ERROR:
        usual, now = exp(one.level), exp(one.level + one.excess)
        return {
            "error_ratio": round(now, 4),  # of the forecast's error to extrapolation's
            "usual_error_ratio": round(usual, 4),
            "worse_by": round(now / usual - 1, 4),
        }
    return {"missed": round(one.level + one.excess, 4), "usual_missed": round(one.level, 4)}


def _advice(measure: str, *, raised: bool) -> str:
    if not raised:
        return "nothing: it is as it was when the model was new"
    if measure == ERROR:
        return (
            "look at the newest scenes (cubecast doctor) and at where it is lost (cubecast quality); if the scenes are "
            "as they should be, train anew: cubecast models retrain"
        )
    return (
        "intervals hold fewer truths than they promise, though they follow the scores (forecast.follow): do not rely "
        "on them; if it lasts, train anew, which calibrates them again: cubecast models retrain"
    )
