"""Keeps what the fault tests counted, in ``build/faults.json``, for the page of results."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.durable import locked, replace_text

RESULTS = Path(__file__).parents[2] / "build" / "faults.json"
FULL = os.environ.get("CUBECAST_FAULTS") == "full"  # all tries instead of a few


def tries(full: int, few: int) -> int:
    """How often a fault is tried in this run."""
    return full if FULL else few


def record(fault: str, phase: str, tries: int, failures: int, note: str = "") -> None:
    """Puts a count in the place of an earlier one for the same fault and phase; tests at once lose none."""
    RESULTS.parent.mkdir(exist_ok=True)
    row = {"fault": fault, "phase": phase, "tries": tries, "failures": failures, "note": note}
    with locked(RESULTS.with_suffix(".lock")):
        rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
        others = [other for other in rows if (other["fault"], other["phase"]) != (fault, phase)]
        ordered = sorted([*others, row], key=lambda each: (each["fault"], each["phase"]))
        replace_text(RESULTS, json.dumps(ordered, indent=1) + "\n")
