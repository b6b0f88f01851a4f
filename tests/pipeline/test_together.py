from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline import document
from pipeline.chips import PARTS, ChipReader, Chips
from pipeline.config import Settings, load
from pipeline.errors import ConfigError
from pipeline.grid import Window
from pipeline.together import JointReader, partners

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

AREA = Window(0, 40, 0, 40)


def filled(value: float, samples: int, **changed: Any) -> ChipReader:
    """Chips that say of which product they are."""

    def layers(count: int) -> Any:
        return np.full((1, count, 40, 40, 1), value, np.float32)

    one = Chips(layers(3), np.full((1, 3), value, np.float32), layers(2))
    return ChipReader(**{"samples": (one,) * samples, "area": AREA, "size": (8, 8), "batch": 4, "seed": 1} | changed)


def same(one: Chips, other: Chips) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in PARTS)


def test_chips_come_from_the_products_in_proportion_to_their_samples() -> None:
    joint = JointReader((filled(1, 30), filled(2, 10)), seed=0)
    chips = np.concatenate([one.frames[:, 0, 0, 0, 0] for one in islice(joint.iterate(), 500)])
    assert len(chips) == 2000
    assert (chips == 1).mean() == pytest.approx(0.75, abs=0.04)


def test_what_belongs_to_one_chip_comes_from_one_product() -> None:
    chips = JointReader((filled(1, 10), filled(2, 10)), seed=0).read(3)
    assert chips.frames.shape == (4, 3, 8, 8, 1)
    np.testing.assert_array_equal(chips.frames[:, 0, 0, 0, 0], chips.ages[:, 0])
    np.testing.assert_array_equal(chips.frames[:, 0], chips.targets[:, 0])


def test_a_joint_batch_depends_on_seed_and_step_alone() -> None:
    readers = (filled(1, 10), filled(2, 10))
    joint = JointReader(readers, seed=0)
    expected = [joint.read(step) for step in range(8)]
    again = islice(JointReader(readers, seed=0).iterate(5), 3)
    assert all(same(one, other) for one, other in zip(expected[5:], again, strict=True))
    assert not all(same(one, JointReader(readers, seed=1).read(step)) for step, one in enumerate(expected))


def test_a_reader_joined_with_none_reads_as_before() -> None:
    alone = filled(1, 10)
    assert same(JointReader((alone,), seed=0).read(2), alone.read(2))
    assert JointReader((alone,), seed=0).watching(alone.samples, AREA, (8, 8)) == alone.watching(
        alone.samples, AREA, (8, 8)
    )


def test_readers_of_other_sizes_are_not_joined() -> None:
    with pytest.raises(ValueError, match="alike in the size of a chip and of a batch"):
        JointReader((filled(1, 10), filled(2, 10, size=(8, 12))), seed=0)


# --- which products -------------------------------------------------------------------------------


@pytest.fixture
def written(make_product: Callable[..., Product], tmp_path: Path) -> Callable[..., Settings]:
    """Settings that name a second product, the same but for the changes."""

    def write(**changed: Any) -> Settings:
        one = make_product().settings
        sections: dict[str, Any] = one.model_dump() | {"product": {"name": "second"}}
        for section, values in changed.items():
            if section == "bands":
                sections["bands"] = [one | {"floor": -1.0} for one in sections["bands"]]
            else:
                sections[section] = sections[section] | values
        second = Settings(**sections)
        document.write(second, tmp_path / "second.toml", overwrite=True)
        training = one.training.model_copy(update={"together": (Path("second.toml"),)})
        document.write(one.model_copy(update={"training": training}), tmp_path / "first.toml", overwrite=True)
        return load(tmp_path / "first.toml")

    return write


def test_a_product_of_the_same_kind_is_a_partner(written: Callable[..., Settings], tmp_path: Path) -> None:
    settings = written(grid={"transform": (10.9, 0, 0, 0, -10.9, 0), "width": 77})
    assert settings.training.together == (tmp_path / "second.toml",)
    assert [one.product.name for one in partners(settings)] == ["second"]
    assert partners(alone(settings)) == ()


def alone(settings: Settings) -> Settings:
    training = settings.training.model_copy(update={"together": ()})
    return settings.model_copy(update={"training": training})


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"grid": {"transform": (12, 0, 0, 0, -12, 0)}}, "pixels are 10 m here and 12 m there"),
        ({"samples": {"horizon": 9}}, r"samples\.horizon is 6 here and 9 there"),
        ({"samples": {"context_frames": 3}}, r"samples\.context_frames is 4 here and 3 there"),
        ({"axis": {"cadence": "PT10M"}}, r"axis\.cadence is 0:05:00 here and 0:10:00 there"),
        ({"bands": "floor"}, "what is forecast on a logarithm or from a floor is"),
        ({"covariates": {"time_of_day": True}}, r"\[covariates\] is"),
    ],
)
def test_a_product_of_another_kind_is_refused(
    written: Callable[..., Settings], changed: dict[str, Any], found: str
) -> None:
    with pytest.raises(ConfigError, match=rf"of tiny and second .*{found}.*take it out of training\.together"):
        partners(written(**changed))


def test_a_product_is_no_partner_of_its_own(written: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match=r"different ones, found \['tiny', 'tiny'\]"):
        partners(written(product={"name": "tiny"}))
