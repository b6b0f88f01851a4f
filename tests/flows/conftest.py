"""A small product of made-up scenes, and one Prefect server for all tests that run flows in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.inspect import inspect, write
from pipeline.synthetic import SyntheticSpec
from pipeline.synthetic_scenes import Faults, write_scenes


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from prefect.settings import (
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    ours = {
        PREFECT_HOME: home,
        PREFECT_LOCAL_STORAGE_PATH: home / "storage",
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with temporary_settings(ours), prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Configuration of 24 scenes of 96 x 96 px, not ingested."""
    scenes = write_scenes(tmp_path / "small", SyntheticSpec(height=96, width=96, frames=24), Faults.none()).folder
    path = tmp_path / "product.toml"
    write(inspect(scenes), path)
    return path


@pytest.fixture
def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
