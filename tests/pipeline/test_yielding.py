from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import rasterio

from pipeline.baselines import Persistence
from pipeline.catalog import PublishedRun, read_run
from pipeline.config import Settings
from pipeline.errors import ModelError
from pipeline.forecast import forecast
from pipeline.passport import Verdict
from pipeline.passport import verify as check
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.scorebook import FORECAST, RunScores, Score, book, page, save
from pipeline.specs import MotionSpec
from pipeline.verify import verify
from pipeline.viewing import portrait_of, run_facts

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SAMPLES = {"context_frames": 2, "max_age": 4, "horizon": 2}
REF = ModelRef("fake", "1", "network")
RUNS = range(1, 25)
LAST = 26


@dataclass(frozen=True)
class Astray:
    """What persists at the first lead, 3 more at the second, within an interval of 2 about it."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        off = np.float32([0, 3])[:horizon, np.newaxis, np.newaxis, np.newaxis, np.newaxis]
        values = np.concatenate([said.values + off + np.float32(each) for each in (0, -1, 0, 1)], axis=2)
        source = np.where(said.source > 0, np.uint8(Source.NETWORK), said.source)
        return Forecast(values, source, said.age, ("mean", "q10", "q50", "q90"))


CHAMPION = Champion(Astray(), REF, motion=MotionSpec(), matched=1.0, bands=(0,))


def load(_: Settings, ref: ModelRef) -> Champion:
    """A registry that has one model."""
    if ref != REF:
        raise ModelError(f"no {ref.name} version {ref.version}")
    return CHAMPION


def tuned(product: Product, **changed: Any) -> Settings:
    document: dict[str, Any] = product.settings.model_dump()
    return Settings(**document | {"samples": SAMPLES} | changed)


@pytest.fixture(scope="module")
def judged(make_product: Callable[..., Product]) -> Product:
    """Clouds that move eastward by 2 px a slot, forecast 24 times; all was compared with the truth."""
    product = make_product(scenes={"firewall": {"stuck": "off", "level": "off", "zeros_are_values": True}})
    sky = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(40, 120)), (0, 0), 3)
    dn = np.rint(100 + 40 * sky / sky.std()).clip(0, 200).astype(np.uint16)
    for slot in range(LAST + 3):
        product.scene(slot, dn[:, 60 - 2 * slot : 108 - 2 * slot])
    product.ingest()
    for slot in RUNS:
        forecast(tuned(product), CHAMPION, init=product.time(slot))
    verify(tuned(product))
    return product


@pytest.fixture(scope="module")
def given(judged: Product) -> PublishedRun:
    """The run whose second lead is yielded."""
    return read_run(forecast(tuned(judged), CHAMPION, init=judged.time(LAST)))


def manifest(run: PublishedRun) -> dict[str, Any]:
    return json.loads((run.path / "run.json").read_text())


def test_a_lead_at_which_the_network_did_worse_is_the_extrapolation(judged: Product, given: PublishedRun) -> None:
    assert manifest(given)["specification"]["yielded"] == [[10, "sky"]]
    below = read_run(forecast(tuned(judged), None, init=judged.time(LAST)))
    said = dict(zip(given.quantities, given.read(10), strict=True))
    for name in ("mean", "q50", "matched"):
        np.testing.assert_array_equal(said[name], below.read(10)[0])
    factor = manifest(given)["specification"]["widths"][1][0]
    width, inside = said["q90"] - said["q50"], given.source(10) == Source.EXTRAPOLATION
    assert inside.any()
    np.testing.assert_allclose(width[inside], factor, atol=0.02)  # of what the network says, as the scores ask for


def test_its_quality_file_says_so(given: PublishedRun) -> None:
    sources = [set(np.unique(given.source(lead)).tolist()) for lead in (5, 10)]
    assert Source.NETWORK in sources[0]
    assert sources[1] <= {Source.EXTRAPOLATION, Source.PERSISTENCE, Source.NONE}
    tags = []
    for name in ("lead-0005m.tif", "lead-0010m.tif", "lead-0010m-quality.tif"):
        with rasterio.open(given.path / name) as file:
            tags.append(file.tags().get("yielded"))
    assert tags == [None, "sky", "sky"]


def test_it_is_made_again_byte_for_byte_although_the_scores_are_gone(
    judged: Product, given: PublishedRun, tmp_path: Path
) -> None:
    settings = tuned(judged)
    hidden = shutil.move(settings.paths.verification, tmp_path / "scores")
    try:
        assert check(settings, given.path, load).verdict is Verdict.EQUAL
        facts = manifest(given)
        del facts["specification"]["yielded"]
        (copy := Path(shutil.copytree(given.path, tmp_path / "copy")) / "run.json").write_text(json.dumps(facts))
        assert check(settings, copy.parent, load).verdict is Verdict.DAMAGED
    finally:
        shutil.move(hidden, settings.paths.verification)


def test_asked_again_it_is_the_same_run_whatever_the_scores_say_by_then(judged: Product, given: PublishedRun) -> None:
    off = {"yield_to_extrapolation": False, "follow": False}
    again = forecast(tuned(judged, forecast=off), CHAMPION, init=judged.time(LAST))
    assert again == given.path


def test_a_product_that_does_not_want_it_publishes_the_network(judged: Product, tmp_path: Path) -> None:
    own = tuned(judged, workspace=tmp_path, forecast={"yield_to_extrapolation": False})
    own.paths.cube.symlink_to(tuned(judged).paths.cube)
    shutil.copytree(tuned(judged).paths.verification, own.paths.verification)
    run = read_run(forecast(own, CHAMPION, init=judged.time(LAST)))
    assert run.yielded == ()
    assert (run.source(10) == Source.NETWORK).any()


def test_extrapolation_itself_has_nobody_to_yield_to(judged: Product) -> None:
    assert read_run(forecast(tuned(judged), None, init=judged.time(LAST))).yielded == ()


def test_a_champion_that_nothing_moves_for_yields_to_persistence(judged: Product, tmp_path: Path) -> None:
    own = tuned(judged, workspace=tmp_path)
    own.paths.cube.symlink_to(tuned(judged).paths.cube)
    for slot in RUNS:
        scores = [Score(10, "sky", FORECAST, 9, 3.0, 1.0), Score(10, "sky", "persistence", 9, 2.0, 1.0)]
        time = judged.time(slot)
        save(page(own.paths.verification, f"k{slot}", time), RunScores(f"k{slot}", time, "fake 1", tuple(scores)))
    still = replace(CHAMPION, motion=None, matched=None)
    run = read_run(forecast(own, still, init=judged.time(LAST)))
    assert run.yielded == ((10, "sky"),)
    assert set(np.unique(run.source(10)).tolist()) <= {Source.PERSISTENCE, Source.NONE}


def test_scores_of_a_yielded_lead_are_no_evidence_but_its_interval_is_followed(
    judged: Product, given: PublishedRun
) -> None:
    scored = next(book(tuned(judged).paths.verification))
    assert not any(score.yielded for score in scored.scores)
    verify(tuned(judged))
    last = next(one for one in book(tuned(judged).paths.verification) if one.run_key == given.run_key)
    marks = {(score.lead_minutes, score.predictor): score for score in last.scores}
    assert [marks[lead, FORECAST].yielded for lead in (5, 10)] == [False, True]
    assert not marks[10, "extrapolation"].yielded
    assert marks[10, FORECAST].held is not None
    assert marks[10, FORECAST].absolute == pytest.approx(marks[10, "extrapolation"].absolute, rel=0.01)


def test_the_manifest_says_how_far_ahead_such_forecasts_have_been_useful(judged: Product, given: PublishedRun) -> None:
    """Clouds that move are forecast better than by persistence 5 minutes ahead, not with 3 added after 10."""
    useful = manifest(given)["useful_horizon"]["sky"]
    assert (useful["minutes"], useful["runs"], useful["against"]) == (5, 24, ["persistence"])
    assert useful["reason"] == "no better than persistence 10 minutes ahead"
    first = read_run(forecast(tuned(judged), CHAMPION, init=judged.time(1)))
    assert manifest(first)["useful_horizon"]["sky"]["minutes"] is None
    assert portrait_of(tuned(judged), given).useful == 5
    facts = run_facts(given, given)
    assert (facts.useful["sky"].minutes, facts.yielded) == (5, ((10, "sky"),))
