"""Ingests whenever the inbox changes, until somebody wants an end, or for some time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows import verbs

if TYPE_CHECKING:
    from pipeline.errors import ServiceError

ENDING = b"ending after the scenes at hand; once more to end at once\n"


class _Ended(Exception):  # noqa: N818 - no error: somebody wants an end
    """An ingest was left between two batches."""


class _End:
    """Whether somebody wants an end; the second time it comes at once."""

    def __init__(self) -> None:
        self.wanted = False

    def note(self, *_: object) -> None:
        """Takes Ctrl-C and SIGTERM as a wish to end."""
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        os.write(2, ENDING)  # a print could be in the middle of another one

    def check(self, _done: int, _total: int) -> None:
        """Called between two batches, when everything is on the disk."""
        if self.wanted:
            raise _Ended


def tend(
    config: Path, every: float, *, done: Callable[[verbs.Ingested], None], failed: Callable[[ServiceError], None]
) -> None:
    """Ingests at the start and whenever the inbox changes, until Ctrl-C or SIGTERM.

    Args:
        config: TOML file of the product.
        every: seconds between two looks at the inbox.
        done: told of each ingest that found something new.
        failed: told when a server did not answer; it is tried again.

    Raises:
        CubecastError: a fault that a person has to mend.
    """
    from pipeline.config import load
    from pipeline.errors import ServiceError
    from pipeline.inbox import open_inbox, watch

    inbox, last = open_inbox(load(config).scenes), ()
    with _listening() as end:
        for _ in watch(inbox, every, lambda: end.wanted, failed=failed):
            try:
                found = verbs.ingest(config, progress=end.check)
            except ServiceError as error:
                failed(error)
                continue
            except _Ended:
                return
            if _is_news(found, last):
                done(found)
            last = found.refused


def changes(config: Path, span: timedelta, *, every: float, failed: Callable[[ServiceError], None]) -> Iterator[None]:
    """Yields at once, and then whenever the inbox changes, for some time; each time somebody should ingest.

    Args:
        config: TOML file of the product.
        span: for how long; none: once.
        every: seconds between two looks at the inbox.
        failed: told when a server did not answer; it is tried again.

    Raises:
        CubecastError: a fault that a person has to mend.
    """
    from pipeline.config import load
    from pipeline.inbox import open_inbox, watch

    if not span:
        yield
        return
    end = time.monotonic() + span.total_seconds()
    yield from watch(open_inbox(load(config).scenes), every, lambda: time.monotonic() >= end, failed=failed)


def _is_news(found: verbs.Ingested, last: tuple[verbs.Refused, ...]) -> bool:
    """Files that wait for something else are looked at again and again, and told once."""
    return any(count for state, count in found.states.items() if state != "pending") or found.refused != last


@contextmanager
def _listening() -> Iterator[_End]:
    end = _End()
    before = {number: signal.signal(number, end.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
