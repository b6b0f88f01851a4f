from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.checkpoint import KEPT, PATTERN, Checkpoints, State
from pipeline.errors import ModelError

FINGERPRINT = {"training.filters": 4, "training.learning_rate": 0.1, "network.bands_out": [0, 1]}


def state(steps: int = 7, **changed: Any) -> State:
    random = np.random.default_rng(steps)
    arrays = {
        "weights": (random.normal(size=(3, 2)).astype(np.float32), np.float32(np.nan) * np.ones(2, np.float32)),
        "optimizer": (np.array(steps, np.int64),),
        "average": (),
    }
    history = ({"loss": 0.1 + 0.2, "val_skill": float("-inf")},)
    values: dict[str, Any] = {
        "numbers": {"steps": steps},
        "losses": (1 / 3,),
        "history": history,
        "wall": 1.5,
        "cpu": 2,
    }
    return State(FINGERPRINT, arrays, **values | changed)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN))


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(state(step))
    return checkpoints


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    before, after = state(finished=True), saved(tmp_path, 1)
    after.save(before)
    found = after.newest()
    assert found is not None
    assert found.arrays.keys() == before.arrays.keys()
    for name, group in before.arrays.items():
        assert [(one.dtype, one.shape, one.tobytes()) for one in found.arrays[name]] == [
            (one.dtype, one.shape, one.tobytes()) for one in group
        ]
    for name in ("fingerprint", "numbers", "losses", "history", "wall", "cpu", "finished"):
        assert getattr(found, name) == getattr(before, name)


def test_the_newest_two_are_kept_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "made" / "first", 5, 3, 4, 1)
    found = checkpoints.newest()
    assert found is not None
    assert found.numbers["steps"] == 1
    assert len(files(checkpoints.folder)) == KEPT == len(list(checkpoints.folder.iterdir()))


def test_where_nothing_was_kept_there_is_nothing(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").newest() is None
    assert Checkpoints(tmp_path / "none").resume(FINGERPRINT) is None


@pytest.mark.parametrize("place", [0, 40, 200, -1])
def test_a_broken_one_gives_way_to_the_one_before_for_good(tmp_path: Path, place: int) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = files(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    data[place] ^= 1
    newest.write_bytes(data)
    found = checkpoints.newest()
    assert found is not None
    assert found.numbers["steps"] == 1
    checkpoints.save(state(3))
    assert [State.from_bytes(path.read_bytes()).numbers["steps"] for path in files(tmp_path)] == [1, 3]


@pytest.mark.parametrize("length", [0, 10, 32, 500])
def test_half_a_file_is_a_broken_one(tmp_path: Path, length: int) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:length])
    found = checkpoints.newest()
    assert found is not None
    assert found.numbers["steps"] == 1


def test_what_a_crash_left_aside_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / ".checkpoint").write_bytes(b"half" * 10_000)
    found = checkpoints.newest()
    assert found is not None
    assert found.numbers["steps"] == 1
    checkpoints.save(state(2))
    assert len(list(tmp_path.iterdir())) == KEPT


def test_a_state_of_other_settings_is_refused_by_what_differs(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    assert checkpoints.resume(dict(FINGERPRINT)) is not None
    with pytest.raises(ModelError, match=r"training\.filters = 4 instead of 8: put them back") as refused:
        checkpoints.resume(FINGERPRINT | {"training.filters": 8})
    assert "learning_rate" not in str(refused.value)
    with pytest.raises(ModelError, match=r"training\.new = None instead of 1"):
        checkpoints.resume(FINGERPRINT | {"training.new": 1})
