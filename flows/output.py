"""The files that children write their output to: opened, turned before they grow too large, and read from the end."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

LARGE: Final = 20 << 20  # bytes, as flows.logs
READ: Final = 65_536  # bytes that hold the last lines


def open_output(log: Path, *, anew: bool) -> IO[bytes]:
    """Opens a file for a child's output; one that is :data:`LARGE` becomes ``.1`` first.

    Every write goes to the end of the file, wherever that is by then: :func:`turn_over` may shorten it meanwhile.

    Args:
        log: the file; its folder is made.
        anew: what an earlier child left is dropped.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if _is_large(log):
        log.replace(_older(log))
    if anew:
        log.write_bytes(b"")
    return log.open("ab")


def turn_over(log: Path) -> None:
    """Copies a :data:`LARGE` file to ``.1`` and empties it, while a child writes to it.

    What the child writes between the two is lost. A file that cannot be copied, as the disk is full, stays as it is.
    """
    if not _is_large(log):
        return
    try:
        shutil.copyfile(log, _older(log))
    except OSError:
        with suppress(OSError):
            _older(log).unlink()  # half a copy, and the disk needs the room
    else:
        os.truncate(log, 0)


def last_lines(log: Path, number: int) -> list[str]:
    """The last lines of a file, fewer where they are longer than :data:`READ` together."""
    with log.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - READ)
        file.seek(start)
        return file.read(READ).decode(errors="replace").splitlines()[-number:]


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _is_large(log: Path) -> bool:
    return log.exists() and log.stat().st_size > LARGE
