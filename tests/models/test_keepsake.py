from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from models.keepsake import DamagedError, Files, Keepsake, Version, sha256

FIRST = Files(Version("tiny", "1", "run a"), b'{"bands": []}', b"weights of the first")
SECOND = Files(Version("tiny", "2", "run b"), b'{"bands": [1]}', b"weights of the second")

KEEPING = """
import sys
from pathlib import Path
from models.keepsake import Files, Keepsake, Version

print("begun", flush=True)
for number in range(10**6):
    Keepsake(Path(sys.argv[1])).keep(Files(Version("tiny", str(number), "run"), b"{}" * number, b"w" * 1000 * number))
"""


@pytest.fixture
def keepsake(tmp_path: Path) -> Keepsake:
    return Keepsake(tmp_path / "work" / "champion")


def model_file(keepsake: Keepsake) -> Path:
    (found,) = keepsake.folder.glob("*/model.keras")
    return found


def test_what_is_kept_is_found_again_with_its_hashes(keepsake: Keepsake) -> None:
    assert keepsake.read() is None
    keepsake.keep(FIRST)
    found = keepsake.read()
    assert found is not None
    assert (found.card, found.model) == (FIRST.card, FIRST.model)
    assert found.version == replace(FIRST.version, hashes=FIRST.hashes)
    assert found.kept is not None


def test_the_next_champion_takes_the_place_of_the_last_one(keepsake: Keepsake) -> None:
    for files in (FIRST, SECOND):
        keepsake.keep(files)
    found = keepsake.read()
    assert found is not None
    assert (found.version.number, found.model) == ("2", SECOND.model)
    names = sorted(path.name.partition("-")[0] for path in keepsake.folder.iterdir())
    assert names == [".lock", "2", "kept.json"]


@pytest.mark.parametrize("name", ["model.keras", "card.json"])
def test_a_flipped_bit_is_found(keepsake: Keepsake, name: str) -> None:
    keepsake.keep(FIRST)
    (path,) = keepsake.folder.glob(f"*/{name}")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"{name} of tiny version 1 that is kept has the hash [0-9a-f]+, noted is"):
        keepsake.read()


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"sha256": {}}', "\xff"])
def test_a_note_that_cannot_be_understood_is_damage(keepsake: Keepsake, note: str) -> None:
    keepsake.keep(FIRST)
    (keepsake.folder / "kept.json").write_bytes(note.encode("latin-1"))
    with pytest.raises(DamagedError, match="cannot be read"):
        keepsake.read()


def test_a_file_that_is_gone_is_damage(keepsake: Keepsake) -> None:
    keepsake.keep(FIRST)
    model_file(keepsake).unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        keepsake.read()


def test_keeping_again_mends_what_is_damaged(keepsake: Keepsake) -> None:
    keepsake.keep(FIRST)
    model_file(keepsake).write_bytes(b"nothing")
    keepsake.keep(FIRST)
    found = keepsake.read()
    assert found is not None
    assert found.model == FIRST.model


def test_one_that_was_retired_counts_no_more_but_is_not_lost(keepsake: Keepsake) -> None:
    keepsake.retire()
    keepsake.keep(FIRST)
    keepsake.retire()
    assert keepsake.read() is None
    assert model_file(keepsake).read_bytes() == FIRST.model
    keepsake.keep(SECOND)
    assert model_file(keepsake).read_bytes() == SECOND.model


def test_a_keeper_that_is_killed_at_any_moment_leaves_one_whole(keepsake: Keepsake) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPING, str(keepsake.folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout
        process.stdout.readline()
        while (found := keepsake.read()) is None or int(found.version.number) < 40:
            pass  # a reader beside a writer never finds half of one
        process.kill()
    found = keepsake.read()
    assert found is not None
    assert len(found.model) == 1000 * int(found.version.number)
    keepsake.keep(FIRST)
    assert len([path for path in keepsake.folder.iterdir() if path.is_dir()]) == 1


def test_two_that_keep_at_once_leave_one_whole(keepsake: Keepsake) -> None:
    def work(files: Files) -> None:
        for _ in range(20):
            keepsake.keep(files)

    threads = [Thread(target=work, args=(files,)) for files in (FIRST, SECOND)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = keepsake.read()
    assert found is not None
    assert found.model in {FIRST.model, SECOND.model}


def test_a_full_disk_leaves_what_was_kept_and_nothing_else(keepsake: Keepsake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, f"no space for {folder.name}")

    keepsake.keep(FIRST)
    before = sorted(path.name for path in keepsake.folder.iterdir())
    monkeypatch.setattr("models.keepsake.sync_tree", full)
    with pytest.raises(OSError, match="no space"):
        keepsake.keep(SECOND)
    assert sorted(path.name for path in keepsake.folder.iterdir()) == before
    found = keepsake.read()
    assert found is not None
    assert found.version.number == "1"


def test_versions_are_the_same_by_their_run_and_by_what_hashes_both_note() -> None:
    one = Version("tiny", "1", "run a", {"model.keras": "aa"})
    assert one.is_same(Version("tiny", "1", "run a"))
    assert one.is_same(Version("tiny", "1", "run a", {"model.keras": "aa", "card.json": "bb"}))
    assert not one.is_same(Version("tiny", "1", "run a", {"model.keras": "ab"}))
    assert not one.is_same(Version("tiny", "1", "run of another server"))
    assert not one.is_same(Version("tiny", "2", "run a"))


def test_files_are_checked_against_what_was_noted_and_nothing_else() -> None:
    noted = replace(FIRST, version=replace(FIRST.version, hashes={"model.keras": sha256(FIRST.model)}))
    assert FIRST.checked("in MLflow") is FIRST
    assert noted.checked("in MLflow") is noted
    with pytest.raises(DamagedError, match=r"model\.keras of tiny version 1 in MLflow"):
        replace(noted, model=b"others").checked("in MLflow")


def test_the_note_says_what_is_kept(keepsake: Keepsake) -> None:
    keepsake.keep(FIRST)
    note = json.loads((keepsake.folder / "kept.json").read_text())
    assert (note["name"], note["version"], note["run"]) == ("tiny", "1", "run a")
    assert note["sha256"] == {"card.json": sha256(FIRST.card), "model.keras": sha256(FIRST.model)}
