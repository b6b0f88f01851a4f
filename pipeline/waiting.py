"""Which leads of which runs still wait for their truth: by it a verification opens what is due, and nothing else.

Pages of scores are what counts; this can be made again from them and from the manifests, and is where it is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import durable


@dataclass(slots=True)
class Waiting:
    """What is known of runs that were looked at, by the name of their page (``INIT-RUN_KEY``).

    Attributes:
        leads: minutes ahead of all leads of a run.
        open: those that no truth has met.
        lost: runs whose snapshot of the cube is gone: they wait for nothing.
    """

    leads: dict[str, list[int]] = field(default_factory=dict)
    open: dict[str, list[int]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    def of(self, name: str, pages: frozenset[str]) -> list[int] | None:
        """Open leads of a run; None where it has to be looked at.

        Args:
            name: of its page.
            pages: those that are there; a run some of whose leads were scored is not known without its page.
        """
        known = self.open.get(name)
        return known if known is None or name in pages or known == self.leads[name] else None

    def note(self, name: str, leads: Iterable[int], scored: Iterable[int], *, lost: bool = False) -> None:
        """Takes down what was found of a run."""
        met = {*scored}
        self.leads[name] = sorted(leads)
        self.open[name] = [lead for lead in self.leads[name] if lead not in met]
        if lost:
            self.lost.add(name)

    def keep(self, names: Iterable[str]) -> None:
        """Forgets all other runs."""
        kept = {*names}
        for part in (self.leads, self.open):
            for name in part.keys() - kept:
                del part[name]
        self.lost &= kept


def load(path: Path) -> Waiting:
    """What a file says; nothing where there is none, or none that can be read: then every run is looked at once."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Waiting(dict(document["leads"]), dict(document["open"]), set(document["lost"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return Waiting()


def save(path: Path, known: Waiting) -> None:
    """Replaces a file, if it says something else."""
    if known == load(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"leads": known.leads, "open": known.open, "lost": sorted(known.lost)}
    durable.replace_text(path, json.dumps(document) + "\n")
