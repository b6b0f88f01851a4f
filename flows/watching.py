"""Who watches a flow that runs in this process: progress goes to the watcher instead of the run's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.experiment import Watcher

Progress = Callable[[int, int], None]

progress_watcher: ContextVar[Progress | None] = ContextVar("progress_watcher", default=None)
training_watcher: ContextVar[Watcher | None] = ContextVar("training_watcher", default=None)


@contextmanager
def watched(*, progress: Progress | None = None, training: Watcher | None = None) -> Iterator[None]:
    """Flows called inside tell these how they go on."""
    tokens = progress_watcher.set(progress), training_watcher.set(training)
    try:
        yield
    finally:
        progress_watcher.reset(tokens[0])
        training_watcher.reset(tokens[1])
