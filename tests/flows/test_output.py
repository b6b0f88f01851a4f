"""What children write stays readable and small, and no line goes astray when a file is turned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.output import last_lines, open_output, turn_over


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("flows.output.LARGE", 100)
    return tmp_path / "logs" / "child.log"


def older(log: Path) -> Path:
    return log.with_name("child.log.1")


def write(log: Path, text: str, *, anew: bool = False) -> None:
    with open_output(log, anew=anew) as file:
        file.write(text.encode())


def test_a_restart_writes_on_and_a_first_start_begins_anew(log: Path) -> None:
    write(log, "first\n")
    write(log, "second\n")
    assert log.read_text() == "first\nsecond\n"
    write(log, "third\n", anew=True)
    assert log.read_text() == "third\n"


@pytest.mark.parametrize("anew", [True, False])
def test_a_start_turns_a_large_file(log: Path, *, anew: bool) -> None:
    write(log, "x" * 101)
    write(log, "next\n", anew=anew)
    assert log.read_text() == "next\n"
    assert older(log).read_text() == "x" * 101


def test_who_writes_while_its_file_is_turned_goes_on_at_the_new_beginning(log: Path) -> None:
    with open_output(log, anew=True) as file:
        file.write(b"x" * 101)
        file.flush()
        turn_over(log)
        assert log.read_bytes() == b""
        file.write(b"next\n")
    assert log.read_bytes() == b"next\n"  # and not 101 zeros before it
    assert older(log).read_bytes() == b"x" * 101


def test_a_small_file_and_one_that_is_not_there_are_left_alone(log: Path) -> None:
    turn_over(log)
    write(log, "x" * 100)
    turn_over(log)
    assert log.read_text() == "x" * 100
    assert not older(log).exists()


def test_on_a_full_disk_nothing_is_lost_and_no_half_copy_stays(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:50])
        raise OSError(28, "No space left on device")

    write(log, "x" * 101)
    monkeypatch.setattr(shutil, "copyfile", half)
    turn_over(log)
    assert log.read_text() == "x" * 101
    assert not older(log).exists()


def test_the_last_lines_of_a_file_are_found_without_reading_all_of_it(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, "".join(f"line {number}\n" for number in range(1000)))
    assert last_lines(log, 3) == ["line 997", "line 998", "line 999"]
    monkeypatch.setattr("flows.output.READ", 13)
    assert last_lines(log, 3) == ["998", "line 999"]  # as much as was read


def test_an_empty_file_has_no_last_lines(log: Path) -> None:
    write(log, "")
    assert last_lines(log, 3) == []
