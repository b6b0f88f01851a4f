from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.seasonal import MEMBERS
from models.variants import (
    FULL,
    GAP,
    LESS,
    SEASONAL_VARIANTS,
    VARIANTS,
    Blindfold,
    Variant,
    chosen,
    gapped,
    variants_for,
)
from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.predictor import Context, Forecast

Make = Callable[..., Settings]


def test_every_variant_is_a_setting_that_the_product_could_have(tmp_path: Path, tiny_settings: Make) -> None:
    settings = tiny_settings(tmp_path)
    made = {one.name: one.settings(settings, 3) for one in VARIANTS}
    assert {one.training.seed for one in made.values()} == {3}
    assert made[FULL].training.network == "attention"
    assert made["no motion"].motion.method == "none"
    assert made[FULL].samples == settings.samples


def test_what_lacks_a_part_is_compared_with_a_variant_of_the_study() -> None:
    names = [one.name for one in VARIANTS]
    assert names[0] == FULL
    assert len(set(names)) == len(names)
    assert {whole for one in VARIANTS for whole in one.wholes} <= set(names)
    assert {whole for wholes in LESS.values() for whole in wholes} <= {*names, *LESS}


def test_every_part_is_tested_with_a_gap_and_measured_against_others_with_the_same_gap() -> None:
    made = {one.name: one for one in VARIANTS}
    for name in ("attention", "convlstm", "head", "cascade"):
        whole, gap = made[name], made[gapped(name)]
        assert (gap.training, gap.motion, gap.hidden) == (whole.training, whole.motion, GAP)
        assert gap.wholes == tuple(gapped(one) for one in whole.wholes)


def test_every_variant_can_be_chosen_on_a_command_line_with_commas_between() -> None:
    assert not any("," in one.name for one in (*VARIANTS, *SEASONAL_VARIANTS))


def test_no_variant_begins_with_a_champion_that_may_have_been_chosen_by_the_test_part(
    tmp_path: Path, tiny_settings: Make
) -> None:
    warm = tiny_settings(tmp_path, training={"warm_start": "champion"})
    assert {one.settings(warm, 0).training.warm_start for one in VARIANTS} == {"none"}


def test_a_seasonal_product_is_studied_by_the_members_of_its_blend(tmp_path: Path, tiny_settings: Make) -> None:
    settings = tiny_settings(tmp_path, training={"network": "seasonal"})
    made = {one.name: one.settings(settings, 0).training for one in variants_for(settings)}
    assert {one.network for one in made.values()} == {"seasonal"}
    assert made["seasonal"].blend == MEMBERS
    assert {name: sorted({*MEMBERS} - {*one.blend}) for name, one in made.items() if name != "seasonal"} == {
        f"without {member}": [member] for member in MEMBERS[1:]
    }
    assert {one.wholes for one in SEASONAL_VARIANTS} == {(), ("seasonal",)}


def test_a_product_is_studied_with_its_own_network_and_never_blindfolded_whole(
    tmp_path: Path, tiny_settings: Make
) -> None:
    assert variants_for(tiny_settings(tmp_path)) == VARIANTS
    other = tiny_settings(tmp_path, training={"network": "dot_product"})
    assert [one.name for one in variants_for(other)] == ["dot_product", *(one.name for one in VARIANTS)]
    alone = tiny_settings(tmp_path, samples={"context_frames": 1})
    assert [one.name for one in variants_for(alone)] == [one.name for one in VARIANTS if not one.hidden]


def test_a_setting_that_is_none_is_refused(tmp_path: Path, tiny_settings: Make) -> None:
    with pytest.raises(ConfigError, match="odd"):
        Variant("odd", "", {"filters": 0}).settings(tiny_settings(tmp_path), 0)


def test_parts_are_chosen_by_name_in_the_order_given() -> None:
    assert [one.name for one in chosen(["convlstm", "attention"])] == ["convlstm", "attention"]
    assert chosen([]) == VARIANTS
    with pytest.raises(ConfigError, match="found everything"):
        chosen(["everything"])


def test_a_blindfold_hides_frames_by_age_and_leaves_the_context_alone() -> None:
    values = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1, 1)
    ages = np.array([[1, 2, 0]], np.float32)  # the newest frame holds 2, the one before it 0
    context = Context(values, np.ones(values.shape, bool), np.zeros((1, 3), np.int64), ages)

    class Seen:
        """Remembers what it saw."""

        def predict(self, context: Context, horizon: int) -> Forecast:
            self.values, self.validity = context.values.ravel(), context.validity.ravel()
            return Persistence().predict(context, horizon)

    inner = Seen()
    Blindfold(inner, (1,)).predict(context, 1)
    np.testing.assert_array_equal(inner.values, [np.nan, 1, 2])
    assert inner.validity.tolist() == [False, True, True]
    assert context.validity.all()
