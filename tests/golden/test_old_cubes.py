"""Cubes that ingest wrote under each schema_version. A new version adds files; none is ever made again or removed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - it gives datasets their .rio

from pipeline.cube import Cube, open_cube
from pipeline.schema import SCHEMA_VERSION
from pipeline.store import CubeStore

OLD = sorted(Path(__file__).parent.glob("cube-*.zip"))
RAMP = np.arange(120, dtype=np.float32).reshape(10, 12)

Opened = Callable[..., Cube]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    def open_old(name: str, **options: object) -> Cube:
        with zipfile.ZipFile(Path(__file__).with_name(name)) as archive:
            archive.extractall(tmp_path / name)
        return open_cube(CubeStore(tmp_path / name), **options)

    return open_old


def test_every_schema_version_up_to_this_one_is_kept() -> None:
    assert {int(path.name.split("-")[1]) for path in OLD} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_every_old_cube_opens_and_reads(opened: Opened, path: Path) -> None:
    cube = opened(path.name)
    assert cube.read(cube.observed()).validity.any()
    for group in cube.layout.groups:
        dataset = cube.dataset(group.name).load()
        assert dataset.data.dims == ("time", "band", "y", "x")
        assert dataset.rio.crs.to_epsg() == 32633


def test_version_1_of_integer_bands(opened: Opened) -> None:
    cube = opened("cube-1-integers.zip")
    first, second = RAMP.copy(), RAMP[::-1].copy()
    first[0, 0] = second[0, 0] = np.nan
    frames = cube.read([0, 1, 2, 3])
    out_of_range = first * 0.01 > 1.1
    rain = np.where(out_of_range, np.nan, first * np.float32(0.01))
    for index in (1, 3):
        np.testing.assert_allclose(frames.values[index, ..., 0], rain, rtol=1e-6)
        np.testing.assert_array_equal(frames.values[index, ..., 1], np.maximum(second, 5))
    assert not frames.validity[[0, 2]].any()
    assert [row.superseded for row in cube.rows] == [True, False, False]
    assert [(s.tile, s.revision, s.source) for s in cube.scenes([1, 3])] == [
        ("T1", "2", "scene_T1_20240601T050500Z_b.tif"),
        ("T1", "", "scene_T1_20240601T051600Z.tif"),
    ]
    assert frames.acquired[3] == datetime(2024, 6, 1, 5, 16, tzinfo=UTC).timestamp()


def test_version_1_as_it_was_known_at_a_time_and_at_a_snapshot(opened: Opened) -> None:
    early = opened("cube-1-integers.zip", as_of=datetime(2024, 6, 1, 5, 30, tzinfo=UTC))
    assert early.observed().tolist() == [3]
    old = opened("cube-1-integers.zip", snapshot="67Q92N0P95K4CMW71SMG")
    assert (old.size, old.observed().tolist()) == (2, [1])
    np.testing.assert_array_equal(old.read([1]).values[0, 1:, :, 1], np.maximum(RAMP[::-1] + 1, 5)[1:])


def test_version_1_of_a_float_band_with_masks(opened: Opened) -> None:
    cube = opened("cube-1-floats.zip")
    expected = RAMP / 100
    expected[0, 0] = expected[9] = np.nan
    np.testing.assert_array_equal(cube.read([0]).values[0, ..., 0], expected)
    np.testing.assert_array_equal(np.asarray(cube.root["float32/data"][0, 0, 9]), (RAMP / 100)[9])


def test_version_2_shows_what_was_known_at_a_time(opened: Opened) -> None:
    early, middle, now = (
        opened("cube-2-layers.zip", as_of=datetime(2024, 6, 1, 5, minute, tzinfo=UTC)) for minute in (8, 16, 40)
    )
    first, second = RAMP / 10, (RAMP + 1000) / 10
    np.testing.assert_allclose(early.read([0]).values[0, ..., 0], first, rtol=1e-6)
    np.testing.assert_allclose(now.read([0]).values[0, ..., 0], second, rtol=1e-6)
    assert early.observed().tolist() == [0, 1]
    assert not early.read([1]).validity[0, 5:].any()
    np.testing.assert_allclose(middle.read([1]).values[0, 5:, :, 0], (RAMP[5:] + 500) / 10, rtol=1e-6)
    np.testing.assert_array_equal(now.read([1]).values, opened("cube-2-layers.zip").read([1]).values)


def test_version_2_keeps_superseded_and_withdrawn_scenes_in_its_table(opened: Opened) -> None:
    rows = opened("cube-2-layers.zip").rows
    assert [(row.superseded, row.withdrawn) for row in rows] == [
        (True, False),
        (False, False),
        (False, False),
        (False, False),
        (False, True),
    ]
    assert rows[4].scene.source == "a_20240601T051000Z.tif"
    assert not opened("cube-2-layers.zip").read([2]).validity.any()
