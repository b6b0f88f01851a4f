"""Inboxes full of hostile files, through the real command: each ends where it belongs and harms nothing on its way."""

from __future__ import annotations

import filecmp
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from pipeline.cube import open_cube
from pipeline.ledger import Entry, Ledger, State
from pipeline.store import CubeStore
from tests.faults.case import ASIDE, PRODUCTS, UNSEEN, Spot, write
from tests.faults.corpus import CASES, SCALE, Inbox, Planted, plant
from tests.faults.record import record
from tests.faults.watch import watching, weighing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="watches folders with inotify"),
]

CUBECAST = Path(sys.executable).with_name("cubecast")
LIMIT_MIB = 1024
PATIENCE = 240  # seconds for one ingest


@dataclass(frozen=True, slots=True)
class Run:
    """One ingest of one inbox.

    Attributes:
        summary: what it printed.
        errors: what it said on standard error.
        peak_mib: memory of the command and its living children, each at its own peak.
        entries: what the ledger says afterwards, by name.
    """

    summary: dict[str, Any]
    errors: str
    peak_mib: float
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Story:
    """All inboxes and what became of them.

    Attributes:
        inboxes: by product.
        first: the first ingest of each, while some files were still being written.
        again: the second one.
        later: the third one of those into which somebody was writing, when nobody wrote any more.
        opened: paths that were opened in the inboxes and beyond.
        called: somebody called the server.
    """

    inboxes: dict[str, Inbox]
    first: dict[str, Run]
    again: dict[str, Run]
    later: dict[str, Run]
    opened: frozenset[Path]
    called: bool

    def planted(self) -> list[tuple[str, Planted]]:
        """Every case, and the inbox that it lies in."""
        return [(name, one) for name, inbox in self.inboxes.items() for one in inbox.planted]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("hostile")
    canary = root / "canary"
    canary.mkdir()
    pairs = PRODUCTS["pairs"]
    write(Spot(canary / "scene.tif", pairs, pairs.dn(9999), canary, ""))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        inboxes = {name: plant(name, root / name, canary, url) for name in PRODUCTS}
        with watching([canary, *(inbox.inbox for inbox in inboxes.values())]) as opened:
            with writers(inboxes):
                first, again = ingest_all(inboxes), ingest_all(inboxes)
            later = ingest_all({name: box for name, box in inboxes.items() if box.live})
        return Story(inboxes, first, again, later, frozenset(opened), called(server))


def ingest_all(inboxes: dict[str, Inbox]) -> dict[str, Run]:
    with ThreadPoolExecutor() as pool:
        return dict(zip(inboxes, pool.map(ingest, inboxes.values()), strict=True))


def ingest(inbox: Inbox) -> Run:
    """Runs the real command."""
    command = [str(CUBECAST), "ingest", "--config", str(inbox.config), "--json"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CUBECAST_", "GDAL_"))}
    process = subprocess.Popen(
        command,
        env=environment | {"NO_PROXY": "127.0.0.1"},
        cwd=inbox.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process, weighing(process.pid) as sums:
        output, errors = communicate(process)
    said = errors.decode(errors="replace")
    assert process.returncode == 0, f"ingest of {inbox.name} ends with {process.returncode}: {said[-3000:]}"
    entries = {entry.key.name: entry for entry in Ledger(inbox.workspace / "ledger.sqlite").entries()}
    return Run(json.loads(output), said, max(sums) / 1024, entries)


def communicate(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it prints and says; a process that hangs is killed."""
    try:
        return process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


@contextmanager
def writers(inboxes: dict[str, Inbox]) -> Iterator[None]:
    """Goes on writing the files that somebody is writing, and leaves them whole."""
    stop = Event()
    live = [one for inbox in inboxes.values() for one in inbox.live]
    threads = [Thread(target=one.case.live, args=(one.spot, stop)) for one in live]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def called(server: socket.socket) -> bool:
    server.setblocking(False)
    try:
        server.accept()
    except BlockingIOError:
        return False
    return True


def fault(planted: Planted, entry: Entry | None) -> str | None:
    """What is wrong with what became of a file."""
    case = planted.case
    state, reason = (entry.state.value, entry.reason) if entry else (UNSEEN, "")
    if state in case.states and (reason in case.reasons or not (reason or case.reasons)):
        return None
    said = entry.detail if entry else ""
    return f"{case.name}: {state} {reason}, not {'|'.join(case.states)} {'|'.join(case.reasons)}. {said[:200]}"


def pixel_faults(inbox: Inbox, accepted: Iterable[Planted]) -> Iterator[str]:
    """What is wrong with the pixels of accepted scenes."""
    cube = open_cube(CubeStore(inbox.workspace / "cube"))
    for one in accepted:
        found = np.moveaxis(cube.read([one.slot]).values[0], -1, 0)
        slack = one.case.slack * SCALE + 1e-4
        wrong = ~np.isclose(found, one.expected, rtol=0, atol=slack, equal_nan=True)
        if wrong.any():
            yield f"{one.case.name}: {wrong.sum()} of {wrong.size} pixels are wrong"


def test_the_corpus_has_many_kinds_of_hostile_files() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_the_command_shows_nothing_but_its_progress(story: Story) -> None:
    for runs in (story.first, story.again, story.later):
        for run in runs.values():
            lines = [line for line in run.errors.splitlines() if line and "ingesting scenes" not in line]
            assert not lines


def test_every_file_ends_where_it_belongs(story: Story) -> None:
    found = [fault(one, story.first[name].entries.get(one.known_as)) for name, one in story.planted()]
    wrong = [text for text in found if text]
    record("hostile input", "ingest", len(found), len(wrong))
    assert not wrong, "\n".join(wrong)


def test_accepted_scenes_hold_their_own_pixels(story: Story) -> None:
    wrong = []
    for inbox in story.inboxes.values():
        accepted = [one for one in inbox.planted if "accepted" in one.case.states]
        assert accepted
        wrong += pixel_faults(inbox, accepted)
    assert not wrong, "\n".join(wrong)


def test_every_file_seen_has_one_state(story: Story) -> None:
    for name, inbox in story.inboxes.items():
        seen = [one for one in inbox.planted if UNSEEN not in one.case.states]
        assert sum(story.first[name].summary["seen"].values()) == len(seen) == len(story.first[name].entries)


def test_ingested_again_nothing_changes(story: Story) -> None:
    for name, one in story.planted():
        before, after = (runs[name].entries.get(one.known_as) for runs in (story.first, story.again))
        assert one.case.live or before == after, one.case.name
    for name, run in story.again.items():
        assert run.summary["snapshot"] == story.first[name].summary["snapshot"]


def test_files_enter_once_nobody_writes_them_any_more(story: Story) -> None:
    for name, run in story.later.items():
        live = story.inboxes[name].live
        assert all(run.entries[one.known_as].state is State.ACCEPTED for one in live)
        assert not list(pixel_faults(story.inboxes[name], live))


def test_refused_files_lie_untouched_beside_a_note(story: Story) -> None:
    for name, inbox in story.inboxes.items():
        refused = {key: e for key, e in story.first[name].entries.items() if e.state is State.QUARANTINED and e.sha256}
        notes = {}
        for path in (inbox.workspace / "quarantine").glob("*/*.json"):
            note = json.loads(path.read_text(encoding="utf-8"))
            notes[note["file"]] = note["reason"]
            assert filecmp.cmp(path.with_suffix(""), inbox.inbox / note["file"], shallow=False)
        assert notes == {key: entry.reason for key, entry in refused.items()}


def test_nobody_was_called(story: Story) -> None:
    assert not story.called


def test_only_scenes_of_the_inbox_were_opened(story: Story) -> None:
    inboxes = {inbox.inbox for inbox in story.inboxes.values()}
    seen = {one.spot.path for _, one in story.planted() if UNSEEN not in one.case.states}
    assert {path for path in story.opened if path not in inboxes and path.suffix != ASIDE} <= seen
    assert not list(story.inboxes["pairs"].folder.rglob("pwned"))


def test_memory_stays_below_a_limit(story: Story) -> None:
    peaks = {name: round(run.peak_mib) for name, run in story.first.items()}
    assert max(peaks.values()) < LIMIT_MIB, f"MiB: {peaks}"
