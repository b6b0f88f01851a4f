"""Scores of withdrawn runs: laid aside, so that they count nowhere, and put back with the run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline import durable
from pipeline.scorestore import Store, day_of, names

FOLDER: Final = "withdrawn"


def settle(store: Store, withdrawn: Iterable[str], published: Iterable[str]) -> None:
    """Lays pages aside and puts pages back; what a killed one left, the next one does. Whoever calls keeps others out.

    Args:
        store: of the product's scores; days that lose or get a page are made anew at its next refresh.
        withdrawn: names of the pages of runs that were taken back.
        published: names of the pages of runs that readers see.
    """
    folder, aside = store.folder, store.folder / FOLDER
    leave = names(folder) & frozenset(withdrawn)
    back = names(aside) & frozenset(published)
    if leave or back:
        durable.make_folders(aside)
    for name in sorted(leave):
        _move(store, name, folder, aside)
    for name in sorted(back):
        _move(store, name, aside, folder)


def _move(store: Store, name: str, source: Path, target: Path) -> None:
    store.path(day_of(name)).unlink(missing_ok=True)  # it is made anew where it is missing, not where a page has gone
    (source / f"{name}.json").replace(target / f"{name}.json")
    os.utime(target / f"{name}.json")  # news for whoever goes by the times of files
