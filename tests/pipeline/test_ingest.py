from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.errors import CubecastError, StoreError
from pipeline.geotiff import open_geotiff
from pipeline.ingest import Report
from pipeline.ledger import State

FILL = 65535
INGEST = """
import json, sys
from pipeline.config import Settings
from pipeline.ingest import ingest
report = ingest(Settings(**json.loads(sys.argv[1])))
print(json.dumps([report.snapshot, [[e.key.name, e.state] for e in report.entries]]))
"""


def _words(report: Report) -> dict[str, tuple[str, str]]:
    return {entry.key.name: (entry.state.value, entry.reason) for entry in report.entries}


def _ledger(product: Any) -> dict[str, str]:
    return {entry.key.name: entry.state.value for entry in product.ledger.entries()}


def _content(product: Any) -> dict[str, Any]:
    """Everything in a cube that must not depend on how it came to be."""
    cube = product.cube()
    arrays = {
        f"{group.name}/{name}": np.asarray(cube.root[f"{group.name}/{name}"][:])
        for group in cube.layout.groups
        for name in ("data", "quality", "acquired", "time")
    }
    rows = {
        (r.scene.tile, r.scene.acquired, r.scene.available_at, r.scene.revision, r.scene.sha256, r.slot): (
            r.valid_fraction
        )
        for r in cube.rows
        if not r.superseded
    }
    return arrays | {"rows": rows}


def _corrupt(path: Path) -> None:
    """Overwrites a block in the middle: header and tags stay as they are."""
    with open_geotiff(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_0_3", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)


# --- once, and in any order -----------------------------------------------------------------------


def test_ingested_twice_is_ingested_once(product: Any) -> None:
    for slot in range(3):
        product.scene(slot)
    _corrupt(product.scene(3))
    first = product.ingest()
    commits = len(list(product.store.history()))
    again = product.ingest()
    assert again.snapshot == first.snapshot
    assert again.entries == ()
    assert len(list(product.store.history())) == commits
    assert again.seen == first.seen == {s: {"accepted": 3, "quarantined": 1}.get(s, 0) for s in State}


def test_an_empty_inbox_makes_no_cube(product: Any) -> None:
    report = product.ingest()
    assert report.snapshot is None
    assert not product.store.exists()


def test_a_missing_inbox_is_an_error(product: Any) -> None:
    product.inbox.rmdir()
    with pytest.raises(CubecastError, match=r"scenes\.folder"):
        product.ingest()


ORDERED = {"scenes": {"pattern": "s_{tile}_{time}*.tif", "revision_tag": "REVISION"}}


@pytest.fixture(scope="module")
def delivered(make_product: Callable[..., Any]) -> Any:
    """Two acquisitions of one slot, two revisions, a repeated file, tiles that overlap, a gap, a corrupt file."""
    product = make_product(**ORDERED)
    holes = product.dn(1)
    holes[0, 10:30] = FILL
    product.scene(0.1, holes, name="s_all_20240601T050030Z.tif")
    product.scene(-0.3, name="s_all_20240601T045830Z.tif")
    product.scene(1, name="s_all_20240601T050500Z_a.tif", tags={"REVISION": "05.09"})
    product.scene(1, product.dn(2), name="s_all_20240601T050500Z_b.tif", tags={"REVISION": "05.10"})
    path = product.scene(2, name="s_all_20240601T051000Z.tif")
    shutil.copy(path, path.with_stem(f"{path.stem}_again"))
    product.scene(3, product.dn(3, (1, 40, 30)), name="s_west_20240601T051500Z.tif")
    corner = product.transform @ Affine.translation(24, 0)
    product.scene(3, product.dn(4, (1, 40, 24)), name="s_east_20240601T051500Z.tif", transform=corner)
    _corrupt(product.scene(5, name="s_all_20240601T052500Z.tif", tags={"REVISION": "9"}))
    product.scene(5, product.dn(5), name="s_all_20240601T052500Z_old.tif")
    product.ingest()
    return product


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.permutations(range(10)), st.sets(st.integers(1, 9), max_size=3))
def test_the_cube_is_the_same_whatever_the_order_of_arrival(
    make_product: Callable[..., Any], delivered: Any, order: list[int], cuts: set[int]
) -> None:
    product = make_product(**ORDERED)
    files = sorted(delivered.inbox.iterdir())
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 10], strict=True):
        for index in order[start:end]:
            shutil.copy2(files[index], product.inbox)
        product.ingest()
    found, expected = _content(product), _content(delivered)
    assert found.pop("rows") == expected.pop("rows")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert product.cube().observed().tolist() == [0, 1, 2, 3, 5]
    assert sum(_ledger(product)[path.name] == "quarantined" for path in files) == 1


def test_several_commits_give_the_same_cube_as_one(
    make_product: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = make_product(), make_product()
    for slot in range(5):
        shutil.copy2(one.scene(slot), many.inbox)
    one.ingest()
    monkeypatch.setattr("pipeline.ingest.BATCH", 2)
    decided: list[tuple[int, int]] = []
    from pipeline.ingest import ingest

    ingest(many.settings, progress=lambda done, of: decided.append((done, of)))
    assert decided == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_equal(_content(many), _content(one))


# --- slots ----------------------------------------------------------------------------------------


def test_a_missing_slot_stays_empty_and_does_not_shift_its_neighbours(product: Any) -> None:
    for slot in (0, 1, 4):
        product.scene(slot)
    product.ingest()
    cube = product.cube()
    assert cube.size == 5
    assert cube.observed().tolist() == [0, 1, 4]
    assert (product.stored(2) == FILL).all()
    assert (product.quality(3) == 1).all()
    np.testing.assert_array_equal(product.stored(4), product.dn(4000))


def test_a_late_scene_lands_in_its_own_slot(product: Any) -> None:
    for slot in (0, 2):
        product.scene(slot)
    product.ingest()
    product.scene(1)
    product.ingest()
    for slot in range(3):
        np.testing.assert_array_equal(product.stored(slot), product.dn(slot * 1000))
    assert product.cube().observed().tolist() == [0, 1, 2]


def test_the_exact_acquisition_time_is_kept_beside_the_slots(product: Any) -> None:
    product.scene(1.37)
    product.ingest()
    cube = product.cube()
    assert cube.observed().tolist() == [1]
    assert cube.rows[0].scene.acquired == product.time(1.37)
    assert cube.read([1]).acquired.tolist() == [product.time(1.37).timestamp()]


def test_acquisitions_within_a_second_of_their_revision_are_one(make_product: Callable[..., Any]) -> None:
    scenes = {"time_tag": "TIME", "time_format": "%Y-%m-%dT%H:%M:%S.%f", "pattern": "*.tif", "revision_tag": "REVISION"}
    product = make_product(scenes=scenes)
    time = "2024-06-01T05:00:03.027"
    product.scene(0, product.dn(1), name="a.tif", tags={"TIME": time, "REVISION": "1"})
    product.ingest()
    product.scene(0, product.dn(2), name="b.tif", tags={"TIME": time, "REVISION": "2"})
    product.ingest()
    assert [row.superseded for row in product.cube().rows] == [True, False]
    np.testing.assert_array_equal(product.stored(0), product.dn(2))


def test_equal_pixels_at_two_times_are_two_scenes(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"firewall": {"zeros_are_values": True}})
    dry = np.zeros((1, 40, 48), np.uint16)
    first, second = product.scene(0, dry), product.scene(1, dry)
    assert first.read_bytes() == second.read_bytes()
    report = product.ingest()
    assert report.count(State.ACCEPTED) == 2
    assert product.cube().observed().tolist() == [0, 1]
    product.scene(1, product.dn(7), name=second.name)
    product.ingest()
    assert product.cube().observed().tolist() == [0, 1]
    assert [row.superseded for row in product.cube().rows] == [False, True, False]


def test_a_commit_names_its_scenes(product: Any) -> None:
    path = product.scene(0)
    product.ingest()
    newest = next(iter(product.store.history()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert newest.message == "ingest 1 scene(s)"
    assert newest.metadata == {"scenes": [f"20240601T0500Z-{sha256[:12]}"]}


# --- versions -------------------------------------------------------------------------------------


@pytest.fixture
def revised(make_product: Callable[..., Any]) -> Any:
    return make_product(scenes={"revision_tag": "REVISION"})


def test_the_higher_revision_wins_and_the_lower_one_stays_known(revised: Any) -> None:
    revised.scene(0, revised.dn(2), name="scene_20240601T050000Z_2.tif", tags={"REVISION": "2"})
    revised.ingest()
    revised.scene(0, revised.dn(1), name="scene_20240601T050000Z_1.tif", tags={"REVISION": "1"})
    assert _words(revised.ingest()) == {"scene_20240601T050000Z_1.tif": ("superseded", "older-revision")}
    revised.scene(0, revised.dn(3), name="scene_20240601T050000Z_3.tif", tags={"REVISION": "3"})
    revised.ingest()
    np.testing.assert_array_equal(revised.stored(0), revised.dn(3))
    rows = [(row.scene.revision, row.superseded) for row in revised.cube().rows]
    assert rows == [("2", True), ("1", True), ("3", False)]
    assert set(_ledger(revised).values()) == {"accepted", "superseded"}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_file_replaced_in_place_is_looked_at_again_and_replaces_its_old_bytes(
    product: Any, order: tuple[int, int]
) -> None:
    for seed in order:
        product.scene(0, product.dn(seed))
        assert product.ingest().count(State.ACCEPTED) == 1
    np.testing.assert_array_equal(product.stored(0), product.dn(order[1]))
    assert sorted(entry.state for entry in product.ledger.entries()) == [State.ACCEPTED, State.SUPERSEDED]
    product.scene(0, product.dn(order[0]))  # and back
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), product.dn(order[0]))
    assert [row.superseded for row in product.cube().rows] == [False, True]


def test_the_same_bytes_under_another_name_change_nothing(product: Any) -> None:
    path = product.scene(0)
    before = product.ingest().snapshot
    shutil.copy(path, path.with_stem(f"{path.stem}_copy"))
    report = product.ingest()
    assert _words(report) == {f"{path.stem}_copy.tif": ("duplicate", "same-bytes")}
    assert report.snapshot == before


def test_a_slot_is_composed_with_a_scene_whose_file_is_gone(make_product: Callable[..., Any]) -> None:
    product, whole = make_product(), make_product()
    for slot in (0.1, 0.2, -0.1):
        dn = product.dn(round(slot * 10) + 5)
        dn[0, 10:20] = FILL if slot < 0.2 else dn[0, 10:20]
        path = product.scene(slot, dn)
        shutil.copy2(path, whole.inbox)
        product.ingest()
        path.unlink()
    whole.ingest()
    expected = _content(whole)
    assert expected.pop("rows") == _content(product).pop("rows")
    for name, values in expected.items():
        np.testing.assert_array_equal(_content(product)[name], values, err_msg=name)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # one lies nowhere: its fault
def test_every_fault_has_its_reason_and_all_that_is_good_enters(product: Any) -> None:
    good = [product.scene(slot) for slot in (0, 1)]
    expected = {path.name: ("accepted", "") for path in good}

    def bad(slot: float, reason: str, dn: np.ndarray | None = None, **options: Any) -> Path:
        path = product.scene(slot, dn, **options)
        expected[path.name] = ("quarantined", reason)
        return path

    _corrupt(bad(2, "unreadable"))
    truncated = bad(3, "unreadable", compress="none")
    with truncated.open("r+b") as file:
        file.truncate(truncated.stat().st_size * 2 // 3)
    bad(4, "unreadable").write_bytes(b"this is no TIFF")
    bad(5, "unreadable").write_bytes(b"")
    bad(6, "wrong-crs", crs="EPSG:32632")
    bad(7, "wrong-crs", crs=None)
    bad(8, "wrong-dtype", product.dn(0).astype(np.uint8), nodata=255)
    bad(9, "off-grid", transform=product.transform @ Affine.translation(0.5, 0))
    bad(-1, "before-origin")
    bad(0, "no-time", name="scene_yesterdayZ.tif")
    future = product.scene(0, name="scene_20990101T000000Z.tif")
    expected[future.name] = ("pending", "from-future")
    bytes_before = {path.name: path.read_bytes() for path in product.inbox.iterdir()}
    report = product.ingest()
    assert _words(report) == expected
    assert sum(report.seen.values()) == len(expected)
    assert product.cube().observed().tolist() == [0, 1]
    assert product.cube().size == 2
    for name, (state, reason) in expected.items():
        if state == "quarantined":
            kept = product.settings.paths.quarantine / reason / name
            note = json.loads(kept.with_name(f"{name}.json").read_text())
            assert kept.read_bytes() == bytes_before[name]
            assert note["sha256"] == hashlib.sha256(bytes_before[name]).hexdigest()
            assert note["file"] == name
            assert note["reason"] == reason
            assert note["detail"]


def test_a_missing_band_is_refused(make_product: Callable[..., Any]) -> None:
    bands = [{"name": name, "dtype": "uint16", "index": index} for index, name in enumerate("ab", 1)]
    product = make_product(bands=bands)
    product.scene(0)
    product.scene(1, product.dn(0)[:1])
    assert sorted(_words(product.ingest()).values()) == [("accepted", ""), ("quarantined", "missing-band")]


def test_where_every_scene_is_refused_no_cube_comes_to_be(product: Any) -> None:
    _corrupt(product.scene(0))
    report = product.ingest()
    assert report.count(State.QUARANTINED) == 1
    assert report.snapshot is None


def test_a_broken_higher_revision_leaves_the_slot_to_the_lower_one(revised: Any) -> None:
    revised.scene(0, revised.dn(1), name="scene_20240601T050000Z_1.tif", tags={"REVISION": "1"})
    _corrupt(revised.scene(0, name="scene_20240601T050000Z_2.tif", tags={"REVISION": "2"}))
    words = _words(revised.ingest())
    assert sorted(words.values()) == [("accepted", ""), ("quarantined", "unreadable")]
    np.testing.assert_array_equal(revised.stored(0), revised.dn(1))


def test_two_refused_files_of_one_name_are_both_kept(product: Any) -> None:
    contents = (b"no TIFF", b"no TIFF either")
    path = product.scene(0)
    for content in contents:
        path.write_bytes(content)
        product.ingest()
    kept = (product.settings.paths.quarantine / "unreadable").glob("*.tif")
    assert sorted(file.read_bytes() for file in kept) == sorted(contents)


def test_a_mended_configuration_gives_refused_scenes_another_chance(make_product: Callable[..., Any]) -> None:
    wrong = make_product(grid={"crs": "EPSG:32632"})
    wrong.scene(0, crs="EPSG:32633")
    assert _words(wrong.ingest()) == {"scene_20240601T050000Z.tif": ("quarantined", "wrong-crs")}
    mended = make_product(root=wrong.settings.workspace.parent)
    assert _words(mended.ingest()) == {"scene_20240601T050000Z.tif": ("accepted", "")}


# --- pixels ---------------------------------------------------------------------------------------


def test_masked_pixels_are_missing_for_readers_but_their_dn_are_kept(make_product: Callable[..., Any]) -> None:
    product = make_product(mask={"values": [1, 2]})
    cloud = np.random.default_rng(0).integers(0, 4, (40, 48))
    product.mask(product.scene(0), cloud)
    product.ingest()
    hidden = np.isin(cloud, (1, 2))
    np.testing.assert_array_equal(product.stored(0), product.dn(0))
    np.testing.assert_array_equal(product.cube().read([0]).validity[0, ..., 0], ~hidden)
    assert product.cube().rows[0].valid_fraction == pytest.approx(1 - hidden.mean())


def test_a_scene_waits_for_its_mask(make_product: Callable[..., Any]) -> None:
    product = make_product(mask={})
    first, second, third = (product.scene(slot) for slot in range(3))
    product.mask(first, np.zeros((40, 48)))
    product.mask(third, np.zeros((40, 48)), crs="EPSG:32632")
    assert _words(product.ingest()) == {
        first.name: ("accepted", ""),
        second.name: ("pending", "no-mask"),
        third.name: ("pending", "bad-mask"),
    }
    for path in (second, third):
        product.mask(path, np.zeros((40, 48)))
    report = product.ingest()
    assert _words(report) == dict.fromkeys((second.name, third.name), ("accepted", ""))
    assert report.seen[State.PENDING] == 0


def test_a_mask_that_breaks_while_it_is_read_holds_up_its_scene_alone(make_product: Callable[..., Any]) -> None:
    product = make_product(mask={})
    first, second = product.scene(0), product.scene(1)
    product.mask(first, np.zeros((40, 48)))
    _corrupt(product.mask(second, np.random.default_rng(0).integers(0, 9, (40, 48))))
    assert _words(product.ingest()) == {first.name: ("accepted", ""), second.name: ("pending", "bad-mask")}


def test_a_scenes_own_nodata_becomes_the_cubes_fill(product: Any) -> None:
    dn = product.dn(0)
    holes = np.random.default_rng(1).random(dn.shape) < 0.2
    product.scene(0, np.where(holes, 40000, dn).astype(np.uint16), nodata=40000)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), np.where(holes, FILL, dn))
    np.testing.assert_array_equal(product.cube().read([0]).validity[0, ..., 0], ~holes[0])


# --- crashes and company --------------------------------------------------------------------------


def test_after_a_crash_between_commit_and_ledger_the_cube_knows(revised: Any) -> None:
    revised.scene(0)
    revised.scene(1, name="scene_20240601T050500Z_1.tif", tags={"REVISION": "1"})
    revised.ingest()
    revised.scene(1, name="scene_20240601T050500Z_2.tif", tags={"REVISION": "2"})
    before = revised.ingest()
    told = _ledger(revised)
    revised.settings.paths.ledger.unlink()
    after = revised.ingest()
    assert after.snapshot == before.snapshot
    assert _ledger(revised) == told | {"scene_20240601T050500Z_1.tif": "superseded"}


def test_where_the_cube_is_gone_the_scenes_enter_again(product: Any) -> None:
    product.scene(0)
    product.ingest()
    shutil.rmtree(product.settings.paths.cube)
    assert product.ingest().count(State.ACCEPTED) == 1
    np.testing.assert_array_equal(product.stored(0), product.dn(0))


def test_what_a_killed_ingest_left_is_swept(product: Any) -> None:
    left = product.settings.workspace / ".staging-killed"
    left.mkdir(parents=True)
    (left / "scene.tif").touch()
    product.scene(0)
    product.ingest()
    assert list(product.settings.workspace.glob(".staging-*")) == []


def test_two_ingests_at_once_lose_nothing_and_repeat_nothing(product: Any) -> None:
    names = {product.scene(slot).name for slot in range(6)}
    arguments = [sys.executable, "-c", INGEST, product.settings.model_dump_json()]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert reports[0][0] == reports[1][0] == product.store.tip()
    assert sorted(name for _, entries in reports for name, state in entries if state == "accepted") == sorted(names)
    assert sorted(row.scene.source for row in product.cube().rows) == sorted(names)
    assert sum("ingest" in commit.message for commit in product.store.history()) == 1


def test_the_inbox_is_only_read(product: Any) -> None:
    product.scene(0)
    _corrupt(product.scene(1))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in product.inbox.iterdir()}
    product.inbox.chmod(0o555)
    product.ingest()
    product.inbox.chmod(0o755)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in product.inbox.iterdir()} == before


def test_a_workspace_that_cannot_be_written_is_said_in_a_sentence(product: Any) -> None:
    product.scene(0)
    product.settings.workspace.touch()  # a file where the folder should be
    with pytest.raises(StoreError, match="workspace can be written"):
        product.ingest()


def test_a_scene_a_little_ahead_of_this_clock_is_no_scene_from_the_future(make_product: Callable[..., Any]) -> None:
    product = make_product(axis={"origin": datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)})
    time = datetime.now(UTC) + timedelta(minutes=2)
    product.scene(0, name=f"scene_{time:%Y%m%dT%H%M%SZ}.tif")
    assert product.ingest().count(State.ACCEPTED) == 1
