"""Variants of the made-up sky's product, and what a training would learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.material import Material, plan, prepare
from pipeline.config import Settings
from pipeline.cube import open_cube
from pipeline.store import CubeStore


def prepared(settings: Settings, progress: Callable[[int, int], None] | None = None) -> Material:
    return prepare(settings, plan(settings, open_cube(CubeStore(settings.paths.cube))), progress=progress)


def changed(settings: Settings, root: Path, **sections: Any) -> Settings:
    """The same cube with other settings."""
    document: dict[str, Any] = settings.model_dump() | {"workspace": root / "work"} | sections
    made = Settings(**document)
    made.workspace.mkdir()
    made.paths.cube.symlink_to(settings.paths.cube)
    return made


def again(settings: Settings, **sections: Any) -> Settings:
    """The same workspace with other settings."""
    document: dict[str, Any] = settings.model_dump() | sections
    return Settings(**document)
