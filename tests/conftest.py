"""Where the real sequences and the published schemas lie: a folder ``shared`` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


def _folder(name: str) -> Path:
    folder = SHARED / name
    if folder.is_dir():
        return folder
    text = f"shared/{name} stands beside the checkout, but {folder} is missing"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _folder("data")


@pytest.fixture(scope="session")
def shared_schemas() -> Path:
    return _folder("schemas")
