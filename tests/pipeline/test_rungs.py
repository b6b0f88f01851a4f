from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.record import ModelRef
from pipeline.rungs import Champion, OfBands, Untold, baselines, remarks
from pipeline.specs import MotionSpec
from tests.pipeline.seers import Blurred, Listening, context, told

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

REF = ModelRef("fake", "1", "network")


def test_baselines_say_the_same_with_covariates_and_without(product: Product) -> None:
    seen = context(40, 48, frames=3, bands=1)
    for baseline in baselines(product.settings).values():
        alone = baseline.predict(seen, 2)
        np.testing.assert_array_equal(baseline.predict(told(seen, 2), 2).values, alone.values)


def test_a_predictor_that_asks_for_nothing_is_told_nothing() -> None:
    with pytest.raises(AssertionError):
        Untold(Listening()).predict(told(context(6, 7), 1), 1)


@pytest.mark.parametrize("motion", [None, MotionSpec(method="none")], ids=["as it is", "along the flow"])
def test_a_champion_has_the_matched_field_last_with_the_values_of_the_newest_frame(motion: MotionSpec | None) -> None:
    seen = context(30, 40)
    champion = Champion(OfBands(Blurred(2), (1,)), REF, motion=motion, matched=1.0, bands=(1,))
    said = champion.predictor.predict(seen, 2)
    assert said.quantities == ("mean", "matched")
    assert champion.along().predict(seen, 2).quantities == ("mean",)
    np.testing.assert_allclose(np.sort(said.of("matched")[0, 1].ravel()), np.sort(seen.values[0, -1, ..., 1].ravel()))


def test_a_manifest_says_why_another_rung_was_taken_and_what_validation_showed() -> None:
    seen = Champion(Blurred(2), REF, validation={"judged": "left out"})
    assert remarks(None, "") == {}
    assert remarks(Champion(Blurred(2), REF), "") == {}
    assert remarks(None, "no answer") == {"rung": {"wanted": "network", "why": "no answer"}}
    assert remarks(seen, "") == {"validation": {"judged": "left out"}}
    assert remarks(seen, "no answer").keys() == {"rung", "validation"}
