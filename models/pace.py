"""How long a training may go on and how fast it goes: signals and limits, budgets, throughput."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, Self

from pipeline.specs import TrainingSpec

SMOOTHING = 0.9  # part of the smoothed throughput that is the steps before


class Stop:
    """Hears SIGINT and SIGTERM while it is entered, in the main thread; a second one acts as if nobody listened."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, limit: timedelta | None = None) -> None:
        self._deadline = None if limit is None else time.monotonic() + limit.total_seconds()
        self._heard = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._hear) for one in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._heard:
            self.__exit__()
            signal.raise_signal(number)
        self._heard = signal.Signals(number).name

    @property
    def reason(self) -> str:
        """Why to stop; empty where there is no reason."""
        if not self._heard and self._deadline is not None and time.monotonic() >= self._deadline:
            return "its time limit"
        return self._heard


@dataclass(slots=True)
class Clock:
    """Wall and processor time of a training, over all the calls that it took.

    Attributes:
        wall_before: seconds of earlier calls.
        cpu_before: processor seconds of earlier calls.
    """

    wall_before: float = 0.0
    cpu_before: float = 0.0
    _wall: float = field(default_factory=time.monotonic)
    _cpu: float = field(default_factory=time.process_time)

    @property
    def wall(self) -> float:
        """Seconds."""
        return self.wall_before + time.monotonic() - self._wall

    @property
    def cpu(self) -> float:
        """Processor seconds, of all cores."""
        return self.cpu_before + time.process_time() - self._cpu

    def over(self, spec: TrainingSpec) -> bool:
        """Whether a budget is spent."""
        cpu = spec.cpu_budget
        return self.wall > spec.budget.total_seconds() or (cpu is not None and self.cpu > cpu.total_seconds())


@dataclass(slots=True)
class Pace:
    """Throughput of one call, from :meth:`start` on. Its first step, which compiles the network, does not count.

    Attributes:
        rate: chips a second of wall time, smoothed; 0 before the second step.
    """

    rate: float = 0.0
    _last: float = 0.0
    _compiled: bool = False
    _seconds: float = 0.0
    _chips: int = 0

    def start(self) -> None:
        """An epoch begins."""
        self._last, self._seconds, self._chips = time.monotonic(), 0.0, 0

    def step(self, chips: int) -> None:
        """A step was made, with so many chips."""
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        if not self._compiled:
            self._compiled = True
            return
        self._seconds, self._chips = self._seconds + seconds, self._chips + chips
        newest = chips / seconds
        self.rate = SMOOTHING * self.rate + (1 - SMOOTHING) * newest if self.rate else newest

    @property
    def mean(self) -> float:
        """Chips a second over the running epoch; 0 where none of its steps counts."""
        return self._chips / self._seconds if self._chips else 0.0
