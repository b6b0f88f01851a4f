"""Silence for native libraries that write to standard error themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_silence() -> Iterator[None]:
    """Sends what is written to standard error, also by native code, nowhere: TensorFlow greets on import.

    None of its settings stops that. Exceptions pass as ever.
    """
    keep = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)
        os.close(nowhere)
