"""The gate on made-up errors: how many equals it promotes, and how many that are better, at the sample it asks for.

    python -m tests.benchmarks.simulate_gate            # 1,000 of each, in some minutes
    python -m tests.benchmarks.simulate_gate --count 50 # a glance

Errors are made as those of real sequences are (``pipeline/merit.py``): the differences between the errors of two
forecasts are correlated from run to run, the more the longer the lead, and from lead to lead; both forecasts share the
weather, whose errors vary far more than their difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.gate import Entrant, Ruling, Trial, judge
from pipeline.specs import ModelSpec

RESULTS = Path(__file__).parents[2] / "build" / "bench" / "gate.json"
PILOT = 16  # blocks of the trial that is asked for the sample size


@dataclass(frozen=True, slots=True)
class World:
    """How errors go.

    Attributes:
        name: of it.
        horizon: leads.
        alike: correlation of successive differences at the first, middle and last lead.
        apart: standard deviation, over init times, of the logarithm of the ratio of two squared errors at a lead.
        along: correlation of that ratio from lead to lead.
        weather: standard deviation of the logarithm of squared errors that both forecasts share.
    """

    name: str
    horizon: int = 12
    alike: tuple[float, float, float] = (0.5, 0.8, 0.9)
    apart: float = 0.15
    along: float = 0.8
    weather: float = 0.5

    @property
    def correlations(self) -> NDArray[np.float64]:
        """Of successive runs, by lead."""
        return np.interp(np.linspace(0, 1, self.horizon), [0, 0.5, 1], self.alike)


WORLDS = (
    World("middling"),
    World("short memory", alike=(0.3, 0.7, 0.8)),
    World("long memory", alike=(0.8, 0.9, 0.97)),
    World("far apart", apart=0.3),
    World("six leads", horizon=6),
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of many trials.

    Attributes:
        world: how errors went.
        asked: init times that the gate asks for, first quartile, median and third quartile over pilots.
        inits: init times of the trials, the median in whole blocks.
        count: trials of each kind.
        equals: part of the challengers promoted that are equal to the champion.
        better: part promoted of those whose error is 5 % smaller.
        stopped: part of the equals that a lead stops.
        at_least: part of the equals promoted at the smallest sample that the gate rules on, 8 blocks.
    """

    world: str
    asked: tuple[int, int, int]
    inits: int
    count: int
    equals: float
    better: float
    stopped: float
    at_least: float


def trial(world: World, inits: int, seed: int, *, gain: float = 0.0) -> Trial:
    """A made-up challenger whose root mean squared error is smaller by ``gain`` than the champion's, on average."""
    random = np.random.default_rng(seed)
    weather = 4 * np.exp(world.weather * _series(random, inits, np.full(world.horizon, 0.95), 0.9))
    errors = weather * np.linspace(1, 5, world.horizon)
    ratio = world.apart * _series(random, inits, world.correlations, world.along) - world.apart**2 / 2
    challenger = errors * np.exp(ratio) * (1 - gain) ** 2
    still = errors * 2
    return Trial(
        np.arange(inits, dtype=np.int64),
        world.horizon,
        tuple(range(5, 5 * world.horizon + 1, 5)),
        Entrant("challenger", challenger[..., np.newaxis], 1.0),
        Entrant("champion", errors[..., np.newaxis], 1.0),
        (Entrant("persistence", still[..., np.newaxis]),),
    )


def _series(random: np.random.Generator, inits: int, alike: NDArray[np.float64], along: float) -> NDArray[np.float64]:
    """Unit normal autoregressions ``(init, lead)``, whose neighbouring leads resemble each other."""
    leads = np.arange(len(alike))
    root = np.linalg.cholesky(along ** np.abs(leads[:, None] - leads))
    noise = random.standard_normal((inits, len(alike))) @ root.T
    values = np.empty_like(noise)
    values[0] = noise[0]
    for at in range(1, inits):
        values[at] = alike * values[at - 1] + np.sqrt(1 - alike**2) * noise[at]
    return values


def asked(world: World, spec: ModelSpec, pilots: int) -> tuple[int, int, int]:
    """Sample sizes that the gate asks for after short trials of equals: quartiles."""
    found = [judge(trial(world, PILOT * world.horizon, -seed % 2**32), spec).wanted for seed in range(1, pilots + 1)]
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    return int(low), int(middle), int(high)


def rulings(world: World, inits: int, seeds: Iterable[int], gain: float) -> list[Ruling]:
    """What the gate says of many challengers."""
    spec = ModelSpec()
    return [judge(trial(world, inits, seed, gain=gain), spec) for seed in seeds]


def promoted(said: Sequence[Ruling]) -> float:
    """Part of them that is promoted."""
    return sum(one.promotes for one in said) / len(said)


def simulate(world: World, count: int, pilots: int = 100) -> Tried:
    """Equals and betters at the sample size that the gate asks for."""
    wishes = asked(world, ModelSpec(), pilots)
    inits = -(-wishes[1] // world.horizon) * world.horizon
    equals = rulings(world, inits, range(count), 0.0)
    better = rulings(world, inits, range(count, 2 * count), 0.05)
    fewest = rulings(world, 8 * world.horizon, range(2 * count, 3 * count), 0.0)
    stopped = sum(not one.met for said in equals for one in said.conditions if one.name == "leads") / count
    return Tried(world.name, wishes, inits, count, promoted(equals), promoted(better), stopped, promoted(fewest))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints and keeps what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--worlds", nargs="*", default=[world.name for world in WORLDS])
    asking = parser.parse_args(arguments)
    done = []
    for world in WORLDS:
        if world.name not in asking.worlds:
            continue
        found = simulate(world, asking.count)
        done.append(asdict(found) | {"world": asdict(world)})
        print(json.dumps(asdict(found)))  # noqa: T201 - a benchmark's report
        sys.stdout.flush()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
