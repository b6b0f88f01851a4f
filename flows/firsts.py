"""What a person waits for who has started everything: the first forecast of each product, told once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

EVERY: Final = 2.0  # seconds between two looks


class FirstForecasts:
    """Tells of each product's first forecast from now on.

    Args:
        latest: the file that names the newest forecast, by product; None: forecasts go where nobody looks.
    """

    def __init__(self, latest: Mapping[str, Path | None]) -> None:
        self._before = {name: (file, _read(file)) for name, file in latest.items() if file is not None}
        self._looked = time.monotonic()

    def look(self, say: Callable[[str], None]) -> None:
        """Tells what is new; nothing where the last look was a moment ago."""
        if not self._before or time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        for name, (file, before) in list(self._before.items()):
            if (now := _read(file)) and now != before:
                del self._before[name]
                say(f"First forecast of {name}, from what was known at {_words(now)}")
                say(f"  {file.parent / now['path']}")


def _words(newest: dict[str, str]) -> str:
    return f"{newest['init'][:16].replace('T', ' ')} UTC"


def _read(file: Path) -> dict[str, str]:
    """What the file says; nothing where it is missing."""
    try:
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
