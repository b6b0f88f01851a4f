import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from pipeline.specs import SceneSpec
from pipeline.synthetic import SyntheticSpec, synthesise
from pipeline.synthetic_scenes import (
    AVAILABLE_TAG,
    NODATA,
    PATTERN,
    SCALE,
    TIME_FORMAT,
    Faults,
    WrittenScenes,
    encode,
    write_scene,
    write_scenes,
)
from pipeline.times import parse_time

SMALL = SyntheticSpec(height=64, width=80, frames=12)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> WrittenScenes:
    spec = SyntheticSpec(height=64, width=80, frames=36)
    return write_scenes(tmp_path_factory.mktemp("scenes"), spec)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_decoded_values_are_within_half_a_step() -> None:
    sequence = synthesise(SMALL)
    dn = encode(sequence.values, sequence.validity)
    assert dn.dtype == np.uint16
    np.testing.assert_array_equal(dn == NODATA, ~sequence.validity)
    error = np.abs(dn * SCALE - sequence.values)[sequence.validity]
    assert error.max() <= SCALE / 2 + 1e-7


def test_a_scene_says_all_about_itself(tmp_path: Path) -> None:
    dn = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    time, available = datetime(2024, 6, 1, 5, 30, tzinfo=UTC), datetime(2024, 6, 1, 5, 32, tzinfo=UTC)
    write_scene(tmp_path / "scene.tif", dn, SMALL.grid, time, available)
    with rasterio.open(tmp_path / "scene.tif") as file:
        np.testing.assert_array_equal(file.read(1), dn)
        assert (file.crs.to_epsg(), file.transform) == (32633, SMALL.grid.transform)
        assert (file.dtypes, file.nodata, file.scales, file.offsets) == (("uint16",), 65535, (0.001,), (0.0,))
        assert (file.descriptions, file.units) == (("reflectance",), ("1",))
        assert file.block_shapes == [(256, 256)]
        assert file.compression.name == "deflate"
        assert file.tags()["TIFFTAG_DATETIME"] == "2024:06:01 05:30:00"
        assert file.tags()[AVAILABLE_TAG] == "2024-06-01T05:32:00Z"


def test_every_slot_has_one_readable_scene_or_a_fault(scenes: WrittenScenes) -> None:
    assert len(scenes.good) == 36 - 3
    for path in scenes.good:
        with rasterio.open(path) as file:
            assert (file.read(1) <= NODATA).all()
    files = [*scenes.good, *scenes.repeated, *scenes.corrupt, *scenes.half_written]
    assert sorted(scenes.folder.iterdir()) == sorted(files)


def test_scenes_hold_the_sequence(scenes: WrittenScenes) -> None:
    sequence = synthesise(scenes.spec)
    with rasterio.open(scenes.good[3]) as file:
        np.testing.assert_array_equal(file.read(1), encode(sequence.values[3], sequence.validity[3]))


def test_the_pattern_finds_and_times_every_file(scenes: WrittenScenes) -> None:
    document = {
        "folder": scenes.folder,
        "pattern": PATTERN,
        "time_format": TIME_FORMAT,
    }
    spec = SceneSpec.model_validate(document)
    found = sorted(scenes.folder.glob(spec.glob))
    assert found == sorted(scenes.folder.iterdir())
    for path in found:
        text = spec.time_text(path.name)
        assert text is not None
        time = datetime.strptime(text, spec.time_format).replace(tzinfo=UTC)
        assert time == parse_time(re.findall(r"\d{8}T\d{4}Z", path.name)[0])


def test_only_late_scenes_are_late(scenes: WrittenScenes) -> None:
    latencies = {}
    for path in scenes.good:
        with rasterio.open(path) as file:
            acquired = datetime.strptime(file.tags()["TIFFTAG_DATETIME"], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
            latencies[path] = parse_time(file.tags()[AVAILABLE_TAG]) - acquired
    assert {path for path, latency in latencies.items() if latency != timedelta(minutes=2)} == set(scenes.late)
    assert [latencies[path] for path in scenes.late] == [timedelta(hours=1)]


def test_repeated_scenes_are_byte_identical_copies(scenes: WrittenScenes) -> None:
    (copy,) = scenes.repeated
    twins = [path for path in scenes.good if digest(path) == digest(copy)]
    assert [path.stem for path in twins] == [copy.stem.removesuffix("_copy")]


def test_corrupt_and_half_written_scenes_open_and_then_cannot_be_read(scenes: WrittenScenes) -> None:
    for path in (*scenes.corrupt, *scenes.half_written):
        with rasterio.open(path) as file:
            assert (file.shape, file.count) == ((64, 80), 1)
            assert AVAILABLE_TAG in file.tags()
            with pytest.raises(RasterioIOError):
                file.read(1)


def test_missing_scenes_are_not_there(scenes: WrittenScenes) -> None:
    assert [path.name for path in scenes.missing] == ["synthetic_20240601T0750Z.tif"]
    assert not any(path.exists() for path in scenes.missing)


def test_faults_stand_apart_and_before_the_last_third() -> None:
    slots = sorted(Faults().slots)
    assert len(slots) == 5
    assert all(later - earlier > 6 for earlier, later in pairwise(slots))
    assert max(slots) < 60 * 2 / 3


def test_without_faults_every_scene_is_good(tmp_path: Path) -> None:
    written = write_scenes(tmp_path / "new" / "folder", SMALL, Faults.none())
    assert sorted((tmp_path / "new" / "folder").iterdir()) == list(written.good)
    assert len(written.good) == SMALL.frames


def test_scenes_written_twice_are_the_same_bytes(tmp_path: Path) -> None:
    spec, faults = replace(SMALL, frames=6), Faults((), (1,), (2,), (3,), (4,))
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "one"]
    digests = [
        {path.name: digest(path) for path in write_scenes(folder, spec, faults).folder.iterdir()} for folder in folders
    ]
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("seed", range(5))
def test_no_seed_survives_corruption(tmp_path: Path, seed: int) -> None:
    spec = replace(SMALL, frames=4, seed=seed)
    written = write_scenes(tmp_path, spec, Faults((), (), (0, 1), (2, 3), ()))
    for path in (*written.corrupt, *written.half_written):
        with rasterio.open(path) as file, pytest.raises(RasterioIOError):
            file.read(1)


def test_faults_outside_the_sequence_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"slots 0 to 11, found \[13, 20, 27, 34\]"):
        write_scenes(tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


def test_two_faults_in_one_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="one fault at most"):
        Faults(late=(3,), corrupt=(3,))
