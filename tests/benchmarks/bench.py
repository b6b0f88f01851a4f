"""How a benchmark measures and reports: fresh processes in turn, CPU-seconds with all children, peaks, bars."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
RESULTS = Path(__file__).parents[2] / "build" / "bench"
HEAD = f"{'':58}{'median':>10} {'unit':18}{'bar':>10}  {'min':>9}{'max':>10}  n"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must hold.

    >>> Bar(1.25).holds(1.3), Bar(30, at_least=True).holds(31)
    (False, True)
    """

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a report: the median of some measurements, their spread, and what it is held to."""

    name: str
    values: Sequence[float]
    unit: str
    bar: Bar | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        spread = f"{min(self.values):>9.4g}{max(self.values):>10.4g}  {len(self.values)}"
        missed = "" if self.bar is None or self.bar.holds(self.value) else "  missed"
        return f"{self.name:58}{self.value:>10.4g} {self.unit:18}{self.bar or ''!s:>10}  {spread}{missed}"

    def to_json(self) -> dict[str, Any]:
        bar = {"bar": self.bar and self.bar.limit, "at_least": self.bar.at_least if self.bar else None}
        spread = {"repeats": len(self.values), "min": min(self.values), "max": max(self.values)}
        return {"name": self.name, "value": self.value, "unit": self.unit} | bar | spread


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work took.

    Attributes:
        cpu: seconds, user and system, of the process and all its children.
        wall: seconds.
        peak: MiB of memory of the process, what it had imported included.
        children: MiB, the sum of the children's peaks.
    """

    cpu: float
    wall: float
    peak: float
    children: float


def cost(work: Callable[[], object]) -> Cost:
    """Runs a piece of work; only peaks are counted from before, and those only of children."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    cpu, wall = _cpu_seconds(), time.perf_counter()
    work()
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    children = sum(_peak(child.pid) for child in psutil.Process().children(recursive=True))
    return Cost(cpu, wall, _peak(os.getpid()), children)


def lifetime() -> Cost:
    """What this process has taken since it was started."""
    began = psutil.Process().create_time()
    return Cost(_cpu_seconds(), time.time() - began, _peak(os.getpid()), 0.0)


def _cpu_seconds() -> float:
    """Of this process, its dead children and its living ones, which the kernel adds to ours only when they end."""
    ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    alive = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return sum(use.ru_utime + use.ru_stime for use in ended) + sum(times.user + times.system for times in alive)


def _peak(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def in_fresh_process(script: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a script answers to ``--task``: a JSON object, the last line that it prints."""
    done = subprocess.run(
        [sys.executable, script, "--task", json.dumps(task)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(script: str, task: dict[str, Any]) -> Cost:
    """The cost that a script reports of a task."""
    return Cost(**in_fresh_process(script, task))


def answer(value: Cost | dict[str, Any]) -> None:
    """Prints a child's answer."""
    sys.stdout.write(json.dumps(value if isinstance(value, dict) else asdict(value)) + "\n")


def in_turn(calls: dict[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Results of each call, again and again in turn, so that what else the machine does falls on all alike."""
    results: dict[str, list[T]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name, call in calls.items() if repeat % 2 == 0 else reversed(calls.items()):
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {repeat + 1}/{repeats} {name}\n")
            results[name].append(call())
    return results


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients of measurements that were made in turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def report(name: str, figures: Sequence[Figure], folder: Path | None = None) -> Path:
    """Prints the figures and writes them to ``build/bench/NAME.json``."""
    sys.stdout.write("\n".join([f"\n{name}: {machine()}", HEAD, *map(str, figures), ""]))
    path = (folder or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([figure.to_json() for figure in figures], indent=2) + "\n", encoding="utf-8")
    return path


def machine() -> str:
    """What it ran on, and how busy that was."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
