"""``cubecast demo``, as ``make demo`` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    command = [str(Path(sys.executable).with_name("cubecast")), "demo", "--folder", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, check=False, timeout=1400)


def test_the_demo_ends_well_and_beats_persistence_at_every_lead(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = finished
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if "min │" in line]
    assert len(rows) == 6
    assert all(line.split("│")[6].strip().startswith("-") for line in rows), done.stdout


def test_the_faulty_scenes_are_in_quarantine_and_the_others_in_the_cube(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from pipeline.ledger import Ledger, State

    folder, _ = finished
    counts = Ledger(folder / "product" / "ledger.sqlite").counts()
    assert counts[State.QUARANTINED] == 2
    assert counts[State.DUPLICATE] == 1
    assert counts[State.ACCEPTED] == 69  # 72 slots: one corrupt, one half-written, one missing


def test_it_leaves_forecasts_a_picture_and_the_commands_for_the_pages(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished
    files = sorted((folder / "product" / "forecasts").rglob("lead-*m.tif"))
    assert len(files) == 4 * 6
    with rasterio.open(files[0]) as forecast:
        assert forecast.tags()["product"] == "demo"
    assert (folder / "forecast.png").stat().st_size > 100_000
    assert "mlflow ui" in done.stdout
    assert "prefect server start" in done.stdout


def test_no_process_stays_behind(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    left = [entry.parent.name for entry in Path("/proc").glob("[0-9]*/environ") if str(folder) in _environment(entry)]
    assert left == []


def _environment(entry: Path) -> str:
    try:
        return entry.read_bytes().decode(errors="replace") if int(entry.parent.name) != os.getpid() else ""
    except OSError:
        return ""
