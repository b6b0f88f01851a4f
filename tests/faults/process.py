"""A Python process that a test talks to, and the end of others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.watch import alive

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds for a command, and for the children of a killed one to end


@dataclass(slots=True)
class Helper:
    """A Python process that takes lines.

    Attributes:
        process: the process.
        said: file that its errors go to, and its output where nobody waits for it.
        read: how many lines of it were read.
    """

    process: subprocess.Popen[str]
    said: Path
    read: int = 0

    def tell(self, line: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self, line: object) -> str:
        self.tell(line)
        assert self.process.stdout
        return self.process.stdout.readline()

    def heard(self) -> list[str]:
        """What it said since it was last listened to."""
        said = self.said.read_text(encoding="utf-8").splitlines(keepends=True)
        new = [line for line in said[self.read :] if line.endswith("\n")]
        self.read += len(new)
        return new

    def reads(self) -> int:
        """How often a reader that has ended had read."""
        return int(self.said.read_text(encoding="utf-8").split()[-1])


@contextmanager
def helper(program: str, said: Path, *, answers: bool) -> Iterator[Helper]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    with said.open("w") as file:
        output = subprocess.PIPE if answers else file
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": output, "stderr": file, "text": True}
        with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT, **streams) as process:
            yield Helper(process, said)


def await_end(pids: set[int]) -> None:
    end = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        assert time.monotonic() < end, "children outlive a killed ingest"
        time.sleep(0.002)
