"""Prefect's server is Prefect's own, but its SQLite does not wait a minute for a lock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_server import PATIENCE, shorten_patience


def test_its_sqlite_gives_up_a_lock_after_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy import text

    monkeypatch.setattr(AioSqliteConfiguration, "setup_sqlite", AioSqliteConfiguration.setup_sqlite)  # put back later
    shorten_patience()

    async def ask(pragma: str) -> object:
        engine = await AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}").engine()
        async with engine.connect() as connection:
            return (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one()

    assert asyncio.run(ask("busy_timeout")) == 1000 * PATIENCE
    assert asyncio.run(ask("journal_mode")) == "wal"  # what Prefect sets itself


def test_its_command_line_is_prefects() -> None:
    command = (sys.executable, "-m", "flows.prefect_server", "server", "start", "--help")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "--port" in done.stdout
