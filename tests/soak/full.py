"""``make soak``: six hours of scenes; the table on the screen and in build/soak.json, all else in build/soak."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from tests.soak.driver import soak
from tests.soak.scenario import FULL, SHORT, scenario

STORY = 3
"""In it no scene is missing in the hour after the drift, which is what the alarm has to see it."""


def main() -> int:
    """Exit code 1 where a claim does not hold."""
    asks = argparse.ArgumentParser(description=__doc__)
    asks.add_argument("--short", action="store_true", help="the half hour that CI replays")
    asks.add_argument("--seed", type=int, default=STORY, help="another story")
    asks.add_argument("--folder", type=Path, default=Path("build"), help="where the files go")
    asked = asks.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped on the way out
    folder = asked.folder.resolve()
    shutil.rmtree(folder / "soak", ignore_errors=True)
    report = soak(scenario(SHORT if asked.short else FULL, asked.seed), folder / "soak")
    report.write(folder / "soak.json")
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
