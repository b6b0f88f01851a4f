from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.material import network_spec
from pipeline.config import Settings
from pipeline.errors import ConfigError, NotEnoughFramesError
from pipeline.ingest import ingest
from pipeline.samples import SplitMode
from pipeline.synthetic_scenes import write_scene
from tests.models.products import changed, prepared

HUGE = 60_000  # DN


def test_nothing_of_the_test_part_changes_what_is_learned_from(sky: Settings, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clean = prepared(sky, lambda *at: told.append(at))
    document: dict[str, Any] = sky.model_dump()
    spoiled = Settings(
        **document | {"workspace": tmp_path / "work", "scenes": document["scenes"] | {"folder": tmp_path}}
    )
    for path in sky.scenes.folder.glob("*.tif"):
        shutil.copy(path, tmp_path)
    axis, grid = sky.axis.axis(), sky.grid.geobox()
    assert clean.split.test_start == 13
    for slot in range(clean.split.test_start, 16):
        time = axis.valid_time(slot)
        dn = np.full(grid.shape, HUGE, np.uint16)
        write_scene(tmp_path / f"synthetic_{time:%Y%m%dT%H%M}Z.tif", dn, grid, time)
    ingest(spoiled)
    found = prepared(spoiled)
    assert float(np.nanmax(found.cube.read([14]).values)) > 50
    assert found.card.statistics.mean == clean.card.statistics.mean
    assert found.card.statistics.deviation == clean.card.statistics.deviation
    for step in range(3):
        np.testing.assert_array_equal(found.training.read(step).targets, clean.training.read(step).targets)
    for one, other in zip(found.validation, clean.validation, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
    wanted = len(clean.split.training) + len(clean.split.validation)  # each from its own area
    assert told[-1] == (wanted, wanted)


def test_statistics_come_from_the_training_area_alone(sky: Settings) -> None:
    material = prepared(sky)
    area = material.split.training_area
    assert material.split.mode is SplitMode.BLOCKS
    slots = sorted({slot for one in material.split.training for slot in one.slots})
    values = material.cube.read(slots, area).values.astype(np.float64)
    assert material.card.statistics.mean[0] == pytest.approx(float(np.nanmean(values)))
    whole = material.cube.read(slots).values.astype(np.float64)
    assert material.card.statistics.mean[0] != pytest.approx(float(np.nanmean(whole)))


def test_a_grid_smaller_than_the_buffer_still_has_room_to_learn(sky: Settings) -> None:
    material = prepared(sky)
    assert sky.samples.block_buffer == 48 == sky.grid.width
    assert material.training.size == (16, 16)
    assert material.split.training_area.shape == material.training.area.shape == (48, 26)
    assert {chips.frames.shape[2:4] for chips in material.training.samples} == {(48, 26)}
    assert all(chips.frames.shape[2:4] == (16, 8) for chips in material.validation)
    assert sum(len(chips.frames) for chips in material.validation) == 48


def test_a_grid_smaller_than_a_patch_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"validation_fraction": 0.05}
    with pytest.raises(ConfigError, match=r"patch of 4 pixels, found one of 48 x 2.*samples\.validation_fraction"):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_cube_too_short_to_train_on_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"horizon": 20}
    with pytest.raises(NotEnoughFramesError, match=r"lower samples\.horizon"):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_network_is_shaped_by_the_configuration(sky: Settings) -> None:
    spec = network_spec(sky)
    assert (spec.context_frames, spec.horizon, spec.bands_in, spec.bands_out) == (2, 2, 1, (0,))
    assert (spec.patch, spec.filters, spec.attention_units) == (4, 4, 4)
