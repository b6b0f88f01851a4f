"""What a killed `cubecast up` left behind is ended by the next one, and nobody else is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flows import stack
from flows.groups import Leader, end_remains, exists, leader, owner_at_work, send, write_note
from flows.stack import find_place
from pipeline.config import load

OWNER = """
import os, sys, time
from pathlib import Path
from flows.children import Children, Service
folder, program = Path(sys.argv[1]), sys.argv[2]
children = Children(folder / "logs" / "children.json")
service = Service("server", (sys.executable, "-c", program), dict(os.environ), folder, folder / "logs" / "server.log")
children.start(service)
print("started", flush=True)
time.sleep(600)
"""
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def alone() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own and is no child of a `cubecast up`."""
    with subprocess.Popen((sys.executable, "-c", SLEEP), start_new_session=True, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@dataclass(slots=True)
class Orphanage:
    """Programs that outlive who started them, for as long as a test runs.

    Attributes:
        groups: of all of them.
    """

    groups: list[int]

    def take(self, folder: Path, program: str) -> tuple[subprocess.Popen[bytes], int]:
        """Who started a program, and the group of that program once it is at work."""
        owner, group = born(folder, program)
        self.groups.append(group)
        return owner, group


@pytest.fixture
def orphanage() -> Iterator[Orphanage]:
    house = Orphanage([])
    yield house
    for group in house.groups:
        send(group, signal.SIGKILL)


def note(folder: Path) -> Path:
    return folder / "logs" / "children.json"


def born(folder: Path, program: str) -> tuple[subprocess.Popen[bytes], int]:
    """Who started a program, and the group of that program once it is at work."""
    command = (sys.executable, "-c", OWNER, folder, program)
    owner = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert owner.stdout is not None
    with owner.stdout:
        assert owner.stdout.readline() == b"started\n"
    log = folder / "logs" / "server.log"
    deadline = time.monotonic() + 60
    while not (text := log.read_text(encoding="utf-8")).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return owner, int(text)


def kill(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    owner.wait()


def vanishes(group: int) -> bool:
    deadline = time.monotonic() + 30  # an orphan's new parent buries it when it finds the time
    while exists(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not exists(group)


@pytest.mark.parametrize("program", [SLEEP, STUBBORN])
def test_what_a_killed_owner_left_is_ended_and_said_to_be(
    tmp_path: Path, program: str, orphanage: Orphanage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.groups.LAST_BREATH", 1.0)
    owner, group = orphanage.take(tmp_path, program)
    kill(owner)
    assert exists(group)  # it outlives its parent
    said: list[str] = []
    end_remains(note(tmp_path), said.append)
    assert vanishes(group)
    assert said == [f"Ending what an earlier cubecast up, which was killed, left running: server ({group})"]
    end_remains(note(tmp_path), said.append)
    assert len(said) == 1


def test_the_children_of_an_owner_that_lives_are_its_own(tmp_path: Path, orphanage: Orphanage) -> None:
    owner, group = orphanage.take(tmp_path, SLEEP)
    try:
        end_remains(note(tmp_path), pytest.fail)
        assert exists(group)
        other = owner_at_work(note(tmp_path))
        assert other is not None
        assert other.pid == owner.pid
    finally:
        kill(owner)
    assert owner_at_work(note(tmp_path)) is None


def test_who_has_only_the_number_of_a_dead_child_is_left_alone(
    tmp_path: Path, alone: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    me = leader("server", alone.pid)
    assert me is not None
    monkeypatch.setattr("flows.groups.os.getpid", lambda: 2**22 + 1)  # no owner
    write_note(note(tmp_path), [replace(me, born=me.born - 60)])
    end_remains(note(tmp_path), pytest.fail)
    assert alone.poll() is None


def test_a_number_that_nobody_has_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.groups.os.getpid", lambda: 2**22 + 1)
    write_note(note(tmp_path), [Leader("server", 2**22 + 2, 0.0)])
    end_remains(note(tmp_path), pytest.fail)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"owner": null}', '{"owner": {"pid": 1}, "leaders": []}'])
def test_what_is_no_note_ends_nobody(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "children.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    end_remains(path, pytest.fail)


def test_a_note_that_cannot_be_written_ends_no_service(tmp_path: Path, alone: subprocess.Popen[bytes]) -> None:
    me = leader("server", alone.pid)
    assert me is not None
    (tmp_path / "logs").write_text("a file in the place of the folder", encoding="utf-8")
    write_note(note(tmp_path), [me])


LISTEN = """
import os, socket, time
server = socket.socket()
server.bind(("127.0.0.1", {port}))
server.listen()
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_the_next_up_frees_the_ports_of_a_killed_one(
    product: Path, free_ports: tuple[int, int], orphanage: Orphanage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):  # noqa: N818 - no error: everything is as wanted
        pass

    def reached(*_: object) -> None:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", free_ports[0])) != 0
        raise Reached

    monkeypatch.setenv("CUBECAST_SERVICES__PREFECT_PORT", str(free_ports[0]))
    monkeypatch.setenv("CUBECAST_SERVICES__MLFLOW_PORT", str(free_ports[1]))
    workspace = load(product).paths.root
    workspace.mkdir(parents=True, exist_ok=True)
    assert find_place([product]).note == note(workspace)
    owner, group = orphanage.take(workspace, LISTEN.format(port=free_ports[0]))
    kill(owner)
    monkeypatch.setattr(stack, "_start_servers", reached)
    said: list[str] = []
    with pytest.raises(Reached):
        stack.up([product], say=said.append)
    assert f"server ({group})" in said[0]
    assert vanishes(group)
