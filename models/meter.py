"""What a training takes of its machine, sampled in the background under MLflow's names for system metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread

import psutil

from models.journal import Journal
from pipeline.errors import CubecastError

EVERY = 10.0  # seconds
SETTLE = 0.1  # seconds over which the first sample measures the processors
CPU = "system/cpu_utilization_percentage"
MEGABYTE = 1e6


def sample(process: psutil.Process, folder: Path) -> dict[str, float]:
    """The machine and a process now.

    Processors are means since the last call: the machine's in percent of all cores, the process's in percent of one.

    Args:
        process: the training's.
        folder: lies on the disk whose space is of interest.
    """
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    return {
        CPU: psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/disk_usage_percentage": disk.percent,
        "system/disk_available_megabytes": disk.free / MEGABYTE,
        "system/process_cpu_utilization_percentage": process.cpu_percent(),
        "system/process_memory_usage_megabytes": process.memory_info().rss / MEGABYTE,
    }


@contextmanager
def sampled(journal: Journal, *, every: float = EVERY, told: Callable[[], None] | None = None) -> Iterator[None]:
    """Samples at once, then regularly as long as the block runs.

    Args:
        journal: gets the samples; their step is their number, which goes on where an earlier process ended.
        every: seconds from one to the next.
        told: called after each.
    """
    stop = Event()
    thread = Thread(target=_sample, args=(stop, journal, every, told), name="meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _sample(stop: Event, journal: Journal, every: float, told: Callable[[], None] | None) -> None:
    process = psutil.Process()
    psutil.cpu_percent()
    process.cpu_percent()  # both begin to count
    stop.wait(SETTLE)
    for number in count(journal.next_step(CPU)):
        try:
            journal.metrics(sample(process, journal.folder), number)
        except (CubecastError, OSError, psutil.Error):
            return  # a disk that is full stops the training at its own next entry, with a sentence
        if told is not None:
            told()
        if stop.wait(every):
            return
