from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zarr

from pipeline.audit import Audit, verify
from pipeline.cube import open_cube
from pipeline.errors import StoreError
from pipeline.schema import NUMBERS, UNKNOWN_TIME
from pipeline.store import CubeStore

OLD = sorted((Path(__file__).parents[1] / "golden").glob("cube-1-*.zip"))
AT_ONCE = {"settle": timedelta(0)}
WIDE = {"width": 1024, "height": 40}
TILES = {"pattern": "{tile}_scene_{time}*.tif", "revision_tag": "BASELINE", "available_tag": "AVAILABLE"} | AT_ONCE
OLDER = {"BASELINE": "1", "AVAILABLE": "2024-06-01T06:00Z"}
NEWER = {"BASELINE": "2", "AVAILABLE": "2024-06-01T07:00Z"}

Copies = Callable[[], Any]


def audit(product: Any) -> Audit:
    return verify(product.cube())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def chunk_files(product: Any) -> set[Path]:
    return set((product.settings.paths.cube / "chunks").iterdir())


def new_files(product: Any, act: Callable[[], object]) -> list[Path]:
    """Chunk files that ``act`` adds, largest first: those are the pixels'."""
    before = chunk_files(product) if product.settings.paths.cube.exists() else set()
    act()
    return sorted(chunk_files(product) - before, key=lambda path: -path.stat().st_size)


def edit(product: Any, change: Callable[[Any], object]) -> None:
    """Changes a cube past all its rules, with the right checksums."""
    with product.store.writer() as transaction:
        change(transaction.group)
        transaction.commit("edit", {})


def ids(product: Any, *names: str) -> tuple[str, ...]:
    return tuple(row.scene.id for row in product.cube().rows if row.scene.source in names)


@pytest.fixture(scope="module")
def copies(make_product: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Copies of a product with scenes in slots 0 and 1."""
    original = make_product(scenes=AT_ONCE)
    original.scene(0, name="scene_20240601T050000Z_first.tif")
    original.scene(1, name="scene_20240601T050500Z_second.tif")
    original.ingest()

    def copy() -> Any:
        root = tmp_path_factory.mktemp("copy")
        shutil.copytree(original.settings.workspace.parent, root, dirs_exist_ok=True)
        return make_product(scenes=AT_ONCE, root=root)

    return copy


@pytest.fixture
def product(copies: Copies) -> Any:
    return copies()


def test_a_cube_as_it_was_written_is_whole(product: Any) -> None:
    found = audit(product)
    assert (found.snapshot, found.slots, found.scenes, found.damaged) == (product.store.tip(), 2, 2, ())
    assert found.size == 2 * 40 * 48 * (2 + 1)


def test_a_flipped_bit_is_found_in_every_file_that_anything_is_read_from(product: Any) -> None:
    noticed = 0
    for path in sorted(chunk_files(product)):
        flip(path)
        assert _finds_fault(product) == _cannot_be_read(product.store), path
        noticed += _cannot_be_read(product.store)
        flip(path)
    assert noticed >= 10
    assert not audit(product).damaged


def _cannot_be_read(store: CubeStore) -> bool:
    try:
        for _, array in store.group().members(max_depth=None):
            if isinstance(array, zarr.Array):
                _ = array[...]
    except ValueError:
        return True
    return False


def _finds_fault(product: Any) -> bool:
    try:
        return bool(audit(product).damaged)
    except StoreError:  # without the scenes table no cube opens
        return True


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:50])])
def test_damaged_pixels_name_slot_time_scene_and_array(make_product: Callable[..., Any], harm: Any) -> None:
    product = make_product(scenes=AT_ONCE)
    product.scene(0)
    product.ingest()
    product.scene(2, name="scene_20240601T051000Z_here.tif")
    harm(new_files(product, product.ingest)[0])
    found = audit(product)
    (damage,) = found.damaged
    assert (damage.slot, damage.time) == (2, product.time(2))
    assert damage.scenes == ids(product, "scene_20240601T051000Z_here.tif")
    assert damage.what == "1 chunk(s) of uint16/data"
    assert damage.reason
    assert found.damaged_slots == (2,)
    assert found.slots == 2  # the other one was read all the same


def test_in_a_mosaic_only_the_scenes_of_the_damaged_chunk_are_named(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes=TILES, grid=WIDE)
    west, east = (f"{side}_scene_20240601T050000Z.tif" for side in ("west", "east"))
    product.scene(0, product.dn(1, (1, 40, 500)), name=west)
    shift = product.transform @ product.transform.translation(512, 0)
    product.scene(0, product.dn(2, (1, 40, 512)), name=east, transform=shift)
    named = []
    for path in new_files(product, product.ingest)[:4]:  # two chunks each
        flip(path)
        named += [damage.scenes for damage in audit(product).damaged]
        flip(path)
    assert sorted(named) == sorted(2 * [ids(product, west), ids(product, east)])


def test_a_damaged_layer_names_the_older_version_whose_pixels_it_keeps(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes=TILES)
    product.scene(0, product.dn(1), name="t_scene_20240601T050000Z_old.tif", tags=OLDER)
    product.ingest()
    product.scene(0, product.dn(2), name="t_scene_20240601T050000Z_new.tif", tags=NEWER)
    for path in new_files(product, product.ingest)[:2]:  # the slot's new chunk, and that of the layer
        flip(path)
        found = {damage.what: damage.scenes for damage in audit(product).damaged}
        flip(path)
        if "1 chunk(s) of layers/uint16/data" in found:
            break
    assert found == {"1 chunk(s) of layers/uint16/data": ids(product, "t_scene_20240601T050000Z_old.tif")}


def test_other_pixels_than_those_written_are_found_however_right_their_checksum(product: Any) -> None:
    def change(root: Any) -> None:
        root["uint16/data"][1, 0, 7, 7] += 1

    edit(product, change)
    (damage,) = audit(product).damaged
    assert (damage.slot, damage.scenes) == (1, ids(product, "scene_20240601T050500Z_second.tif"))
    assert "fingerprint" in damage.reason


def test_pixels_without_a_scene_are_found(product: Any) -> None:
    def change(root: Any) -> None:
        root["scenes/numbers"][1, NUMBERS.index("withdrawn")] = 1
        root["uint16/acquired"][1] = UNKNOWN_TIME

    edit(product, change)
    (damage,) = audit(product).damaged
    assert (damage.slot, damage.what) == (1, "slot")
    assert "no scene stands" in damage.reason


def test_a_scene_in_a_slot_that_is_not_the_nearest_is_found(product: Any) -> None:
    def change(root: Any) -> None:
        root["scenes/numbers"][1, NUMBERS.index("slot")] = 0

    edit(product, change)
    found = {damage.what: damage.reason for damage in audit(product).damaged}
    assert "belongs to slot 1 of 2, found in 0" in found["scenes table"]


@pytest.mark.parametrize("name", ["acquired", "time"])
def test_a_wrong_time_of_a_slot_is_found(product: Any, name: str) -> None:
    def change(root: Any) -> None:
        root[f"uint16/{name}"][1] = 5

    edit(product, change)
    (damage,) = audit(product).damaged
    assert (damage.slot, damage.what) == (1, f"uint16/{name}")
    assert "it says 5" in damage.reason


def test_damage_that_no_slot_alone_has_names_the_array(product: Any) -> None:
    def told() -> set[str]:
        return {damage.what for damage in audit(product).damaged if damage.slot is None}

    found: set[str] = set()
    for path in chunk_files(product):
        flip(path)
        found |= told() if not _table_is_gone(product) else set()
        flip(path)
    assert found == {f"uint16/{name}" for name in ("time", "acquired", "band", "y", "x")}


def _table_is_gone(product: Any) -> bool:
    try:
        product.cube()
    except StoreError:
        return True
    return False


def test_empty_slots_and_several_band_groups_are_no_damage(make_product: Callable[..., Any]) -> None:
    bands = [
        {"name": "sky", "dtype": "uint16", "nodata": 65535},
        {"name": "haze", "dtype": "uint16", "index": 2, "scale": 0.5, "forecast": False},
    ]
    product = make_product(bands=bands, scenes=AT_ONCE)
    for slot in (0, 5):
        product.scene(slot, product.dn(slot + 1, (2, 40, 48)))
    product.ingest()
    found = audit(product)
    assert (found.slots, found.scenes, found.damaged) == (2, 2, ())


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_cube_of_schema_1_is_whole(tmp_path: Path, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    found = verify(open_cube(CubeStore(tmp_path)))
    assert found.slots > 0
    assert not found.damaged


def test_progress_counts_the_slots(product: Any) -> None:
    told: list[tuple[int, int]] = []
    verify(product.cube(), lambda done, total: told.append((done, total)))
    assert told[-1] == (2, 2)


def test_a_view_of_the_past_is_verified_like_the_present(product: Any) -> None:
    past = product.cube(as_of=product.time(-100))
    assert not past.observed().size
    assert verify(past).slots == 2
    assert not verify(past).damaged
