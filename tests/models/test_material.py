from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.material import network_spec
from pipeline import document
from pipeline.chips import ChipReader
from pipeline.config import Settings
from pipeline.errors import ConfigError, NotEnoughFramesError
from pipeline.ingest import ingest
from pipeline.samples import SplitMode
from pipeline.synthetic_scenes import write_scene
from pipeline.together import JointReader
from tests.models.products import again, changed, prepared

HUGE = 60_000  # DN


def test_nothing_of_the_test_part_changes_what_is_learned_from(sky: Settings, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clean = prepared(sky, lambda *at: told.append(at))
    values: dict[str, Any] = sky.model_dump()
    spoiled = Settings(**values | {"workspace": tmp_path / "work", "scenes": values["scenes"] | {"folder": tmp_path}})
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
    assert material.split.training_area.shape == material.training.area.shape
    assert sorted(material.training.area.shape) == [26, 48]
    assert {chips.frames.shape[2:4] for chips in material.training.samples} == {material.training.area.shape}
    assert all(sorted(chips.frames.shape[2:4]) == [8, 16] for chips in material.validation)
    assert sum(len(chips.frames) for chips in material.validation) == 48


def test_a_grid_smaller_than_a_patch_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"validation_fraction": 0.05}
    with pytest.raises(
        ConfigError, match=r"patch of 4 pixels, found one of (48 x 3|3 x 48):.*samples\.validation_fraction"
    ):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_cube_too_short_to_train_on_is_an_error(sky: Settings, tmp_path: Path) -> None:
    spec = sky.samples.model_dump() | {"horizon": 20}
    with pytest.raises(NotEnoughFramesError, match=r"lower samples\.horizon"):
        prepared(changed(sky, tmp_path, samples=spec))


def test_a_network_is_shaped_by_the_configuration(sky: Settings) -> None:
    spec = network_spec(sky)
    assert (spec.context_frames, spec.horizon, spec.bands_in, spec.bands_out) == (2, 2, 1, (0,))
    assert (spec.patch, spec.filters, spec.attention_units) == (4, 4, 4)


@pytest.mark.parametrize(
    ("facts", "anchored"), [({}, ()), ({"floor": 0.0}, (0,)), ({"transform": "log"}, (0,))], ids=str
)
def test_bands_that_begin_at_nothing_are_anchored_and_their_level_is_never_varied(
    sky: Settings, tmp_path: Path, facts: dict[str, Any], anchored: tuple[int, ...]
) -> None:
    settings = changed(sky, tmp_path, bands=[sky.bands[0].model_dump() | facts])
    material = prepared(settings)
    assert material.card.network.anchored == anchored
    assert isinstance(material.training, ChipReader)
    assert settings.training.jitter > 0
    assert material.training.jitter == (0 if anchored else settings.training.jitter)


def test_a_network_says_the_quantiles_that_are_asked_for(sky: Settings) -> None:
    spec = network_spec(again(sky, training=sky.training.model_dump() | {"quantiles": (0.05, 0.5), "head_units": 9}))
    assert (spec.levels, spec.head_units) == ((0.05, 0.5), 9)
    assert spec.quantities == ("mean", "q5", "q50")


def test_a_card_knows_the_size_of_a_pixel(sky: Settings) -> None:
    assert prepared(sky).card.pixel == pytest.approx(abs(sky.grid.geobox().transform.a), rel=1e-3)


def test_a_product_learns_from_others_as_well_and_is_watched_alone(sky: Settings, tmp_path: Path) -> None:
    other = changed(sky, tmp_path, product={"name": "other"})
    document.write(other, tmp_path / "other.toml")
    joint = again(sky, training=sky.training.model_dump() | {"together": (tmp_path / "other.toml",)})
    alone, found = prepared(sky), prepared(joint)
    assert isinstance(found.training, JointReader)
    assert len(found.training.readers) == 2
    assert found.card == alone.card
    assert len({one.seed for one in found.training.readers}) == 2
    assert found.training.read(0).frames.shape == alone.training.read(0).frames.shape
    for one, expected in zip(found.validation, alone.validation, strict=True):
        np.testing.assert_array_equal(one.frames, expected.frames)
