import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from pipeline import synthetic
from pipeline.config import SceneSpec
from pipeline.synthetic import Faults, SyntheticSequence, SyntheticSpec, WrittenScenes
from pipeline.times import parse_time

SMALL = SyntheticSpec(height=64, width=80, frames=12)
EDGE = 24  # px; what enters from outside within three slots is not in the frame that is carried


@pytest.fixture(scope="module")
def sequence() -> SyntheticSequence:
    return synthetic.synthesise(SyntheticSpec())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> WrittenScenes:
    spec = SyntheticSpec(height=64, width=80, frames=36)
    return synthetic.write_scenes(tmp_path_factory.mktemp("scenes"), spec)


def carried(sequence: SyntheticSequence, field: NDArray[np.float32], slot: int, lead: int) -> NDArray[np.float32]:
    for step in range(slot, slot + lead):
        field = synthetic.carry(field, sequence.flow[step])
    return field


def inner_error(a: NDArray[np.float32], b: NDArray[np.float32], edge: int = EDGE) -> float:
    return float(np.abs(a - b)[edge:-edge, edge:-edge].mean())


def headings(sequence: SyntheticSequence) -> NDArray[np.float32]:
    mean = sequence.flow.mean(axis=(1, 2))
    return np.degrees(np.arctan2(mean[:, 1], mean[:, 0]))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_spec_gives_the_same_bytes() -> None:
    one, two = synthetic.synthesise(SMALL), synthetic.synthesise(SMALL)
    for part in ("values", "validity", "flow", "cloud", "ground", "brightness"):
        assert getattr(one, part).tobytes() == getattr(two, part).tobytes()


def test_another_seed_gives_another_sky_and_another_ground() -> None:
    one, two = synthetic.synthesise(SMALL), synthetic.synthesise(replace(SMALL, seed=1))
    assert np.abs(one.cloud - two.cloud).mean() > 0.05
    assert np.abs(one.ground - two.ground).mean() > 0.01


def test_the_number_of_gaps_leaves_the_values_alone() -> None:
    one, two = synthetic.synthesise(replace(SMALL, gaps=0.0)), synthetic.synthesise(replace(SMALL, gaps=3.0))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.validity.all()
    assert 0.5 < two.validity.mean() < 1


def test_arrays_are_what_they_are_said_to_be(sequence: SyntheticSequence) -> None:
    assert sequence.values.shape == sequence.validity.shape == sequence.cloud.shape == (60, 192, 192)
    assert sequence.flow.shape == (60, 192, 192, 2)
    floats = (sequence.values, sequence.flow, sequence.cloud, sequence.ground, sequence.brightness)
    assert {part.dtype for part in floats} == {np.dtype(np.float32)}
    assert 0 <= sequence.values.min() < 0.1
    assert 0.8 < sequence.values.max() <= 1


def test_under_a_clear_sky_the_ground_stands_still() -> None:
    sequence = synthetic.synthesise(replace(SMALL, noise=0.0))
    seen = sequence.values / sequence.brightness[:, None, None]
    clear = sequence.cloud == 0
    assert 0.2 < clear.mean() < 0.8
    np.testing.assert_allclose(seen[clear], np.broadcast_to(sequence.ground, seen.shape)[clear], rtol=1e-5)


def test_the_ground_has_texture_that_clouds_uncover(sequence: SyntheticSequence) -> None:
    assert sequence.ground.std() > 0.03
    assert (sequence.cloud == 0).any(axis=0).mean() > 0.99
    assert (sequence.cloud > 0.3).any(axis=0).mean() > 0.9


@pytest.mark.parametrize("cover", [0.2, 0.5, 0.8])
def test_cover_is_the_cloudy_part_of_the_sky(cover: float) -> None:
    sequence = synthetic.synthesise(SyntheticSpec(height=160, width=160, frames=8, cover=cover))
    assert (sequence.cloud > 0).mean() == pytest.approx(cover, abs=0.12)


def test_clouds_have_all_sizes_and_are_no_white_noise(sequence: SyntheticSequence) -> None:
    spectrum = np.abs(np.fft.fft2(sequence.cloud[::10] - sequence.cloud[::10].mean())) ** 2
    wave = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192))
    bands = [spectrum[:, (wave > 1 / length) & (wave <= 2 / length)].mean() for length in (64, 32, 16, 8, 4)]
    assert all(1.5 < coarse / fine < 30 for coarse, fine in pairwise(bands))


@pytest.mark.parametrize(("lead", "part"), [(1, 0.5), (2, 0.6), (3, 0.65)])
def test_the_true_motion_explains_most_of_the_change(sequence: SyntheticSequence, lead: int, part: float) -> None:
    for slot in range(0, 54, 9):
        truth = sequence.values[slot + lead]
        moved = inner_error(carried(sequence, sequence.values[slot], slot, lead), truth)
        assert moved < part * inner_error(sequence.values[slot], truth)


def test_the_true_motion_does_not_explain_everything(sequence: SyntheticSequence) -> None:
    lead, edge = 6, 40
    for slot in range(0, 54, 9):
        truth = sequence.cloud[slot + lead]
        moved = inner_error(carried(sequence, sequence.cloud[slot], slot, lead), truth, edge)
        still = inner_error(sequence.cloud[slot], truth, edge)
        assert 0.25 * still < moved < 0.75 * still


def test_flow_points_the_way_things_go() -> None:
    field = np.zeros((40, 50), np.float32)
    field[10:13, 20:23] = 1
    moved = synthetic.carry(field, np.full((40, 50, 2), (5, -3), np.float32))
    np.testing.assert_allclose(moved, np.roll(field, (-3, 5), (0, 1)), atol=1e-6)


def test_flow_changes_in_space_and_time(sequence: SyntheticSequence) -> None:
    assert sequence.flow.std(axis=(1, 2)).min() > 0.3
    assert np.abs(np.diff(sequence.flow, axis=0)).mean() > 0.01
    assert np.abs(np.diff(sequence.flow, axis=1)).max() < 0.2  # smooth: no pixel overtakes its neighbour


@pytest.mark.parametrize("shape", [(192, 192), (96, 240)])
def test_flow_squeezes_no_cloud(shape: tuple[int, int]) -> None:
    flow = synthetic.synthesise(SyntheticSpec(*shape, frames=3)).flow
    divergence = np.gradient(flow[..., 0], axis=2) + np.gradient(flow[..., 1], axis=1)
    rotation = np.gradient(flow[..., 1], axis=2) - np.gradient(flow[..., 0], axis=1)
    assert np.abs(divergence)[:, 1:-1, 1:-1].max() < 1e-3
    assert np.abs(rotation).max() > 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_last_third_moves_as_nothing_before(seed: int) -> None:
    sequence = synthetic.synthesise(SyntheticSpec(height=96, width=96, frames=48, seed=seed))
    before, after = headings(sequence)[:32], headings(sequence)[32:]
    assert after.mean() > before.max() + 30
    assert after[6:].min() > before.max() + 45
    speeds = np.hypot(*sequence.flow.mean(axis=(1, 2)).T)
    assert speeds[38:].mean() > speeds[:32].mean() + 0.5


def test_the_sun_rises_and_the_frames_with_it(sequence: SyntheticSequence) -> None:
    assert (np.diff(sequence.brightness) > 0).all()
    thirds = sequence.values.reshape(3, -1).mean(axis=1)
    assert thirds[0] * 1.2 < thirds[1] < thirds[2]


def test_the_night_is_dark_and_the_next_morning_is_as_this_one() -> None:
    spec = SyntheticSpec(height=16, width=16, frames=30, cadence=timedelta(hours=1))
    brightness = synthetic.synthesise(spec).brightness
    assert brightness.min() == pytest.approx(spec.night)
    np.testing.assert_allclose(brightness[24:], brightness[:6])


def test_sensor_gaps_are_few_and_somewhere_else_each_time(sequence: SyntheticSequence) -> None:
    assert 0.97 < sequence.validity.mean() < 1
    assert len({frame.tobytes() for frame in sequence.validity if not frame.all()}) > 10


def test_decoded_values_are_within_half_a_step(sequence: SyntheticSequence) -> None:
    dn = synthetic.encode(sequence.values, sequence.validity)
    assert dn.dtype == np.uint16
    np.testing.assert_array_equal(dn == synthetic.NODATA, ~sequence.validity)
    error = np.abs(dn * synthetic.SCALE - sequence.values)[sequence.validity]
    assert error.max() <= synthetic.SCALE / 2 + 1e-7


def test_a_scene_says_all_about_itself(tmp_path: Path) -> None:
    dn = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    time, available = datetime(2024, 6, 1, 5, 30, tzinfo=UTC), datetime(2024, 6, 1, 5, 32, tzinfo=UTC)
    synthetic.write_scene(tmp_path / "scene.tif", dn, SMALL.grid, time, available)
    with rasterio.open(tmp_path / "scene.tif") as file:
        np.testing.assert_array_equal(file.read(1), dn)
        assert (file.crs.to_epsg(), file.transform) == (32633, SMALL.grid.transform)
        assert (file.dtypes, file.nodata, file.scales, file.offsets) == (("uint16",), 65535, (0.001,), (0.0,))
        assert (file.descriptions, file.units) == (("reflectance",), ("1",))
        assert file.block_shapes == [(256, 256)]
        assert file.compression.name == "deflate"
        assert file.tags()["TIFFTAG_DATETIME"] == "2024:06:01 05:30:00"
        assert file.tags()[synthetic.AVAILABLE_TAG] == "2024-06-01T05:32:00Z"


def test_the_grid_is_north_up_and_off_the_origin() -> None:
    transform = SMALL.grid.transform
    assert (transform.a, transform.e, transform.b, transform.d) == (1000, -1000, 0, 0)
    assert min(abs(transform.c), abs(transform.f)) > 1e5
    assert SMALL.grid.shape == (64, 80)


def test_every_slot_has_one_readable_scene_or_a_fault(scenes: WrittenScenes) -> None:
    assert len(scenes.good) == 36 - 3
    for path in scenes.good:
        with rasterio.open(path) as file:
            assert (file.read(1) <= synthetic.NODATA).all()
    files = [*scenes.good, *scenes.repeated, *scenes.corrupt, *scenes.half_written]
    assert sorted(scenes.folder.iterdir()) == sorted(files)


def test_scenes_hold_the_sequence(scenes: WrittenScenes) -> None:
    sequence = synthetic.synthesise(scenes.spec)
    with rasterio.open(scenes.good[3]) as file:
        np.testing.assert_array_equal(file.read(1), synthetic.encode(sequence.values[3], sequence.validity[3]))


def test_the_pattern_finds_and_times_every_file(scenes: WrittenScenes) -> None:
    document = {"folder": scenes.folder, "pattern": synthetic.PATTERN, "time_format": synthetic.TIME_FORMAT}
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
            latencies[path] = parse_time(file.tags()[synthetic.AVAILABLE_TAG]) - acquired
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
            assert synthetic.AVAILABLE_TAG in file.tags()
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
    written = synthetic.write_scenes(tmp_path / "new" / "folder", SMALL, Faults.none())
    assert sorted((tmp_path / "new" / "folder").iterdir()) == list(written.good)
    assert len(written.good) == SMALL.frames


def test_scenes_written_twice_are_the_same_bytes(tmp_path: Path) -> None:
    spec, faults = replace(SMALL, frames=6), Faults((), (1,), (2,), (3,), (4,))
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "one"]
    digests = [
        {path.name: digest(path) for path in synthetic.write_scenes(folder, spec, faults).folder.iterdir()}
        for folder in folders
    ]
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("seed", range(5))
def test_no_seed_survives_corruption(tmp_path: Path, seed: int) -> None:
    spec = replace(SMALL, frames=4, seed=seed)
    written = synthetic.write_scenes(tmp_path, spec, Faults((), (), (0, 1), (2, 3), ()))
    for path in (*written.corrupt, *written.half_written):
        with rasterio.open(path) as file, pytest.raises(RasterioIOError):
            file.read(1)


def test_faults_outside_the_sequence_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"slots 0 to 11, found \[13, 20, 27, 34\]"):
        synthetic.write_scenes(tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


def test_two_faults_in_one_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="one fault at most"):
        Faults(late=(3,), corrupt=(3,))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"height": 8}, "16 x 16"),
        ({"frames": 2}, "3 frames"),
        ({"cadence": timedelta(seconds=90)}, "whole minutes"),
        ({"cover": 1.0}, "cover lies between"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(SMALL, **change)  # pyright: ignore[reportArgumentType] - each case breaks one field
