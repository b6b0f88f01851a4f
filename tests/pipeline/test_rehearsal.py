from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.baselines import Persistence
from pipeline.catalog import runs
from pipeline.config import Settings
from pipeline.errors import PublishError
from pipeline.forecast import outlet
from pipeline.passport import check_files
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.rehearsal import rehearse
from pipeline.rungs import Champion
from tests.pipeline.seers import Half

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

REF = ModelRef("tiny", "7", "network")
SAMPLES = {"context_frames": 3, "max_age": 4, "horizon": 2}


class Flat:
    """One value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        source = np.full_like(said.source, Source.NETWORK if np.isfinite(self.value) else Source.NONE)
        return replace(said, values=np.full_like(said.values, self.value), source=source)


@pytest.fixture(scope="module")
def settings(make_product: Callable[..., Product]) -> Settings:
    product = make_product(scenes={"firewall": {"stuck": "off", "level": "off", "zeros_are_values": True}})
    for slot in range(4):
        dn = np.full((1, 40, 48), 40, np.uint16)
        dn[0, 5:30, 7 + slot] = 150
        product.scene(slot, dn)
    product.ingest()
    document: dict[str, Any] = product.settings.model_dump() | {"samples": SAMPLES}
    return Settings(**document)


def test_a_tried_run_is_whole_and_lies_where_nobody_looks(settings: Settings, tmp_path: Path) -> None:
    path = rehearse(settings, Champion(Half(), REF), tmp_path)
    assert check_files(path).good
    assert tmp_path in path.parents
    assert list(runs(outlet(settings).place, settings.product.name)) == []


def test_a_model_that_leaves_everything_to_the_lower_rungs_fails(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"tiny 7 says nothing at \[5, 10\] min .*weights may not be finite"):
        rehearse(settings, Champion(Flat(float("nan")), REF), tmp_path)
    assert rehearse(settings, Champion(Flat(0.5), REF), tmp_path / "other").is_dir()
