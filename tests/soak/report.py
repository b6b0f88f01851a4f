"""What a soak claims, counted: from the story and from what became of it, without a server."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.soak.observation import Observed, Published, Scored, Usage
from tests.soak.oracle import Lead, Oracle

ON_TIME = timedelta(minutes=5)
"""From the arrival of a scene to its forecast, by the clock of the wall: one cadence, when the next scene comes."""
DETECTED = 12
"""Steps from the drift to the alarm, at most: an hour of scenes."""
WARM_UP = 1 / 4
"""Part of a process's life that is left out, while it fills its caches."""
LEAST = 9
"""Usages of one process from which on its growth can be told."""
MEMORY_PART, MEMORY = 0.10, 24.0
"""Growth that is none: a part of what it held, and MiB."""
FILES = 16
"""Open files more that are no growth: the connections of the runs of one moment."""
SHOWN = 8
NETWORKS = ("extrapolation", "climatology", "persistence")
FORECAST, RIVAL = "forecast", "extrapolation"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim and its count.

    Attributes:
        name: what is claimed.
        wanted: how many.
        found: how many of these.
        faults: what is missing or too much.
    """

    name: str
    wanted: int
    found: int
    faults: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it is true."""
        return not self.faults and self.found == self.wanted


@dataclass(frozen=True, slots=True)
class Report:
    """Claims, and figures that claim nothing."""

    claims: tuple[Claim, ...]
    figures: dict[str, str]
    usage: tuple[Usage, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every claim is true."""
        return all(claim.holds for claim in self.claims)

    def lines(self) -> Iterator[str]:
        """The table, as a person reads it."""
        width = max(len(one) for one in (*(claim.name for claim in self.claims), *self.figures))
        yield f"{'claim':<{width}}  wanted   found"
        for claim in self.claims:
            word = "" if claim.holds else "  FAILS"
            yield f"{claim.name:<{width}}  {claim.wanted:>6}  {claim.found:>6}{word}"
            yield from (f"    {fault}" for fault in claim.faults[:SHOWN])
            if len(claim.faults) > SHOWN:
                yield f"    and {len(claim.faults) - SHOWN} more"
        yield from (f"{name:<{width}}  {value}" for name, value in self.figures.items())

    def write(self, path: Path) -> None:
        """The same as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        claims = [asdict(claim) | {"holds": claim.holds} for claim in self.claims]
        usage = [asdict(one) for one in self.usage]
        document = {"holds": self.holds, "claims": claims, "figures": self.figures, "usage": usage}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def judge(oracle: Oracle, seen: Observed) -> Report:
    """Every claim of the soak; those about drift only where the sky drifts."""
    drift = drifted(oracle, seen) if oracle.told.form.drift is not None else []
    lasting = [
        grown("memory does not grow", seen, memory_growth),
        grown("open files do not grow", seen, files_growth),
    ]
    if oracle.told.form.steps < LEAST:
        lasting = []
    claims = [
        forecast_all(oracle, seen),
        forecast_on_time(oracle, seen),
        scored_all(oracle, seen),
        scored_once(seen),
        refused_named(oracle, seen),
        duplicates_known(oracle, seen),
        files_decided(oracle, seen),
        *drift,
        *lasting,
        Claim("no run is stuck", 0, len(seen.stuck), seen.stuck),
        Claim("nothing is left in staging", 0, len(seen.leftovers), seen.leftovers),
    ]
    return Report(tuple(claims), figures(oracle, seen), seen.usage)


# --- forecasts and scores -------------------------------------------------------------------------


def forecast_all(oracle: Oracle, seen: Observed) -> Claim:
    """Every slot whose scene came has a forecast."""
    wanted = oracle.forecasts_by(oracle.told.form.steps)
    missing = sorted(wanted - {run.init for run in seen.published})
    return Claim("slots with a forecast", len(wanted), len(wanted) - len(missing), tuple(map(_slot(oracle), missing)))


def forecast_on_time(oracle: Oracle, seen: Observed) -> Claim:
    """The first forecast of each slot comes within :data:`ON_TIME` of the scene."""
    first: dict[int, Published] = {}
    for run in sorted(seen.published, key=lambda run: run.created):
        first.setdefault(run.init, run)
    waits = {slot: first[slot].created - seen.dropped[step] for slot, step in _came_in(oracle, seen) if slot in first}
    late = {slot: wait for slot, wait in waits.items() if wait > ON_TIME}
    wanted = len(oracle.forecasts_by(oracle.told.form.steps))
    told = [f"{_slot(oracle)(slot)}: {wait.total_seconds():.0f} s" for slot, wait in sorted(late.items())]
    return Claim(f"of these, within {ON_TIME.seconds} s of the scene", wanted, len(waits) - len(late), tuple(told))


def _came_in(oracle: Oracle, seen: Observed) -> Iterator[tuple[int, int]]:
    """Slots and the steps in which their scenes came, as far as the replay got."""
    return ((slot, step) for slot, step in sorted(oracle.came.items()) if step in seen.dropped)


def scored_all(oracle: Oracle, seen: Observed) -> Claim:
    """Every lead whose truth came is scored, in every run that has it."""
    scored = {(one.key, one.lead) for one in seen.scored if one.predictor == FORECAST}
    wanted = {(run.key, lead) for run in seen.published for lead in _leads(run) if lead.valid in oracle.came}
    asked = oracle.scores_by(oracle.told.form.steps)
    unasked = asked - {lead for _, lead in wanted}  # of slots without any forecast
    missing = sorted({lead for _, lead in wanted - scored} | unasked)
    told = tuple(f"{_slot(oracle)(lead.init)}, {lead.ahead} slot(s) ahead" for lead in missing)
    total = len(wanted) + len(unasked)
    return Claim("leads whose truth came, scored", total, len(wanted & scored), told)


def _leads(run: Published) -> list[Lead]:
    return [Lead(run.init, ahead) for ahead in range(1, run.horizon + 1)]


def scored_once(seen: Observed) -> Claim:
    """No lead of a run has two scores of one predictor."""
    counts = Counter((one.key, one.lead, one.band, one.predictor) for one in seen.scored)
    twice = [f"{key} {lead.ahead} ahead, {predictor}" for (key, lead, _, predictor), n in counts.items() if n > 1]
    return Claim("scores given twice", 0, len(twice), tuple(twice))


# --- files ----------------------------------------------------------------------------------------


def refused_named(oracle: Oracle, seen: Observed) -> Claim:
    """The ledger names every broken file as quarantined, and no other one."""
    named = {name for name, states in seen.ledger.items() if "quarantined" in states}
    wrong = [f"{name} is not named" for name in sorted(oracle.refused - named)]
    wrong += [f"{name} was good" for name in sorted(named - oracle.refused)]
    return Claim("broken files named in the ledger", len(oracle.refused), len(named & oracle.refused), tuple(wrong))


def duplicates_known(oracle: Oracle, seen: Observed) -> Claim:
    """Of two copies the ledger calls one the duplicate."""
    pairs = oracle.duplicates()
    told = {
        copy: Counter(state for name in (copy, first) for state in seen.ledger.get(name, ()))
        for copy, first in pairs.items()
    }
    wrong = [f"{copy}: {dict(states)}" for copy, states in told.items() if states != {"accepted": 1, "duplicate": 1}]
    return Claim("copies known as duplicates", len(pairs), len(pairs) - len(wrong), tuple(wrong))


def files_decided(oracle: Oracle, seen: Observed) -> Claim:
    """Every file that came is decided."""
    wanted = oracle.files_by(oracle.told.form.steps)
    undecided = sorted(name for name in wanted if "pending" in seen.ledger.get(name, ("pending",)))
    return Claim("files decided", len(wanted), len(wanted) - len(undecided), tuple(undecided))


# --- drift ----------------------------------------------------------------------------------------


def drifted(oracle: Oracle, seen: Observed) -> list[Claim]:
    """The drift is detected, another model goes live, and skill recovers."""
    return [detected(oracle, seen), promoted(oracle, seen), recovered(oracle, seen)]


def detected(oracle: Oracle, seen: Observed) -> Claim:
    """An alarm of errors is raised within :data:`DETECTED` steps of the drift, and none before it."""
    drift = _drift(oracle)
    raised = [one.step for one in seen.told if (one.kind, one.measure) == ("skill.degraded", "error")]
    false = [f"alarm in step {step}, before the drift in step {drift}" for step in raised if step < drift]
    delay = min((step - drift for step in raised if step >= drift), default=None)
    slow = [] if delay is not None and delay <= DETECTED else [f"after {delay} steps" if delay else "never"]
    return Claim(f"drifts detected within {DETECTED} steps", 1, 1 - len(slow), (*false, *slow))


def promoted(oracle: Oracle, seen: Observed) -> Claim:
    """After the drift another model version makes the forecasts."""
    after = _after_promotion(oracle, seen)
    return Claim("challengers promoted after the drift", 1, bool(after), () if after else ("none went live",))


def recovered(oracle: Oracle, seen: Observed) -> Claim:
    """The skill of the new champion is better than the old one's after the drift, and positive."""
    new = {run.key for run in _after_promotion(oracle, seen)}
    drift = oracle.told.slot(_drift(oracle))
    old = {run.key for run in _by_networks(seen) if run.init >= drift} - new
    before, after = skill(seen.scored, old), skill(seen.scored, new)
    if after is None or before is None:
        return Claim("skill recovers", 1, 0, ("there is nothing to compare",))
    wrong = () if after > max(before, 0.0) else (f"{before:+.2f} under the drift, {after:+.2f} afterwards",)
    return Claim("skill recovers", 1, 1 - len(wrong), wrong)


def skill(scores: Iterable[Scored], keys: set[str]) -> float | None:
    """Skill of the published forecasts against extrapolation over some runs, every pixel counting alike."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in scores:
        if one.key in keys and one.predictor in (FORECAST, RIVAL):
            sums[one.predictor][0] += one.absolute
            sums[one.predictor][1] += one.pixels
    if set(sums) != {FORECAST, RIVAL} or not sums[RIVAL][0]:
        return None
    error = {name: absolute / pixels for name, (absolute, pixels) in sums.items()}
    return 1 - error[FORECAST] / error[RIVAL]


def _after_promotion(oracle: Oracle, seen: Observed) -> list[Published]:
    """Runs after the drift by another network than the one before it."""
    drift = oracle.told.slot(_drift(oracle))
    before = {run.model for run in _by_networks(seen) if run.init < drift}
    return [run for run in _by_networks(seen) if run.init >= drift and run.model not in before]


def _by_networks(seen: Observed) -> list[Published]:
    return [run for run in seen.published if not run.model.startswith(NETWORKS)]


def _drift(oracle: Oracle) -> int:
    assert oracle.told.form.drift is not None
    return oracle.told.form.drift


# --- processes ------------------------------------------------------------------------------------


def grown(name: str, seen: Observed, growth: Callable[[Sequence[Usage]], str]) -> Claim:
    """No long-lived process holds more and more; judged is, of each role, the process that was seen most often."""
    lives = {role: life for role, life in _lives(seen.usage).items() if len(life) >= LEAST}
    grew = {role: text for role, life in lives.items() if (text := growth(life))}
    told = tuple(f"{role}: {text}" for role, text in sorted(grew.items()))
    return Claim(f"processes whose {name}", len(lives), len(lives) - len(grew), told)


def memory_growth(life: Sequence[Usage]) -> str:
    """How much memory it grew by; empty where that is none.

    Its largest leap is left out: what leaks, leaks again and again. A worker leaps by 38 MiB when it first tells of a
    run that died, since it loads the flows for it, and by .1 MiB at each further one.
    """
    held = [one.memory for one in life]
    first, last = _ends(held)
    warm = held[int(len(held) * WARM_UP) :]
    leap = max((after - before for before, after in pairwise(warm)), default=0.0)
    grown_by = last - first - max(leap, 0.0)
    return f"{first:.0f} to {last:.0f} MiB" if grown_by > max(MEMORY, MEMORY_PART * first) else ""


def files_growth(life: Sequence[Usage]) -> str:
    """How many more files it has open; empty where that is none."""
    first, last = _ends([float(one.files) for one in life])
    return f"{first:.0f} to {last:.0f} open files" if last - first > FILES else ""


def _lives(usage: Iterable[Usage]) -> dict[str, list[Usage]]:
    """Of each role the usages of its longest-lived process, by step."""
    by_process: dict[tuple[str, int], list[Usage]] = defaultdict(list)
    for one in usage:
        by_process[one.role, one.pid].append(one)
    longest: dict[str, list[Usage]] = {}
    for (role, _), life in by_process.items():
        longest[role] = max(longest.get(role, []), life, key=len)
    return longest


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last third, without the warm-up."""
    warm = values[int(len(values) * WARM_UP) :]
    third = max(len(warm) // 3, 1)
    return median(warm[:third]), median(warm[-third:])


# --- figures --------------------------------------------------------------------------------------


def figures(oracle: Oracle, seen: Observed) -> dict[str, str]:
    """What is worth knowing and claims nothing."""
    waits = sorted(_waits(oracle, seen))
    models = Counter(run.model for run in seen.published)
    inits = Counter(run.init for run in seen.published)
    found = {
        "runs, by model": ", ".join(f"{count} {model}" for model, count in models.most_common()),
        "slots with more than one run": str(sum(count > 1 for count in inits.values())),
        "steps with a program's fault": ", ".join(f"{at} {one}" for at, one in sorted(oracle.told.troubles.items())),
        "alarms": ", ".join(f"{one.step} {one.kind} ({one.measure})" for one in seen.told),
    }
    if waits:
        found["from scene to forecast (s)"] = f"median {median(waits):.0f}, longest {waits[-1]:.0f}"
    for role, life in sorted(_lives(seen.usage).items()):
        first, last = _ends([one.memory for one in life])
        files = _ends([float(one.files) for one in life])
        found[f"{role}, {len(life)} looks"] = f"{first:.0f} -> {last:.0f} MiB, {files[0]:.0f} -> {files[1]:.0f} files"
    return found | _skills(oracle, seen)


def _skills(oracle: Oracle, seen: Observed) -> dict[str, str]:
    """Against extrapolation, by model and whether before or after the drift."""
    if oracle.told.form.drift is None:
        return {}
    drift, groups = oracle.told.slot(_drift(oracle)), defaultdict(set)
    for run in _by_networks(seen):
        groups[f"skill of {run.model}, {'after' if run.init >= drift else 'before'} the drift"].add(run.key)
    told = {name: skill(seen.scored, keys) for name, keys in sorted(groups.items())}
    return {name: f"{value:+.3f}" for name, value in told.items() if value is not None}


def _waits(oracle: Oracle, seen: Observed) -> Iterator[float]:
    for slot, step in _came_in(oracle, seen):
        made = [run.created for run in seen.published if run.init == slot]
        if made:
            yield (min(made) - seen.dropped[step]).total_seconds()


def _slot(oracle: Oracle) -> Callable[[int], str]:
    return lambda slot: f"step {oracle.told.step(slot)} ({oracle.told.time(slot):%H:%M}Z)"
