from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.baselines import Persistence
from pipeline.catalog import PublishedRun, read_run
from pipeline.config import Settings
from pipeline.film import write_film
from pipeline.forecast import forecast
from pipeline.maintenance import collect, expire
from pipeline.portrait import write_portrait
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.verify import verify
from pipeline.viewing import portrait_of, run_facts, skill_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Product

SAMPLES = {"context_frames": 2, "max_age": 4, "horizon": 2}
STILL = {"stuck": "off", "level": "off", "zeros_are_values": True}
REF = ModelRef("fake", "1", "network")


@dataclass(frozen=True)
class Left:
    """Knows the left three quarters, within an interval of 2 about the newest frame."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        known = np.arange(48) < 36
        middle = np.where(known[:, np.newaxis], said.values, np.float32(np.nan))
        values = np.concatenate([middle - 1, middle, middle + 1], axis=2)
        source = np.where(known, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
        return Forecast(values, np.broadcast_to(source, said.source.shape).copy(), said.age, ("q10", "q50", "q90"))


def tuned(product: Product, **changed: Any) -> Settings:
    document: dict[str, Any] = product.settings.model_dump()
    return Settings(**document | {"samples": SAMPLES, "motion": {"method": "none"}} | changed)


@pytest.fixture
def product(make_product: Callable[..., Product]) -> Product:
    """Four scenes that grow by one unit each; the second has a hole that the third, the newest of a run, has not."""
    product = make_product(scenes={"firewall": STILL})
    for slot in range(4):
        dn = np.full((1, 40, 48), 50 + 10 * slot, np.uint16)
        dn[:, :4] = 65535 if slot == 2 else dn[:, :4]
        product.scene(slot, dn)
    product.ingest()
    return product


def published(product: Product, slot: int, champion: Champion | None = None) -> PublishedRun:
    return read_run(forecast(tuned(product), champion or Champion(Left(), REF), init=product.time(slot)))


def test_facts_are_those_of_the_quality_files(product: Product) -> None:
    run = published(product, 2)
    first, second = run_facts(run, run).leads
    assert first.rungs == second.rungs == {"network": 0.75, "extrapolation": 0.25}
    assert (first.oldest, first.middle) == (5, 0)  # the hole shows what was there 5 minutes before
    assert (second.minutes, second.valid_time) == (10, product.time(4))


def test_a_run_tells_why_the_champion_did_not_make_it_and_why_it_has_climatology(product: Product) -> None:
    asked = tuned(product)
    plain = run_facts(published(product, 3), None)
    assert (plain.why, plain.climatology) == ("", "")
    run = read_run(forecast(asked, None, now=product.time(20), why="the network failed"))
    told = run_facts(run, None)
    assert told.why == "the network failed"
    assert told.climatology.startswith("no scene of the last")
    assert told.scenes == ()


def test_only_the_newest_run_is_the_newest(product: Product) -> None:
    older, newest = published(product, 1), published(product, 2)
    assert run_facts(newest, newest).newest
    assert not run_facts(older, newest).newest
    assert not run_facts(older, None).newest


def test_skill_is_of_the_run_where_its_truth_has_come_and_of_the_model_elsewhere(product: Product) -> None:
    older, newest = published(product, 1), published(product, 3)
    verify(tuned(product))
    met, waiting = (run_facts(run, newest, skill_of(tuned(product), run)).leads for run in (older, newest))
    assert [lead.met[0].mae["forecast"] for lead in met] == pytest.approx([1, 2], abs=0.02)
    assert [lead.met for lead in waiting] == [(), ()]
    assert [lead.usual for lead in waiting] == [lead.usual for lead in met] == [lead.met for lead in met]
    other = published(product, 3, Champion(Left(), ModelRef("fake", "2", "network")))
    assert [lead.usual for lead in run_facts(other, newest, skill_of(tuned(product), other)).leads] == [(), ()]


def test_a_portrait_has_an_interval_only_where_somebody_gave_one(product: Product) -> None:
    portrait = portrait_of(tuned(product), published(product, 3))
    width = portrait.episode.width(1)
    np.testing.assert_allclose(width[:, :36], 2, atol=0.02)
    assert np.isnan(width[:, 36:]).all()
    np.testing.assert_allclose(portrait.episode.forecast[0], 5, atol=0.01)  # DN 80
    assert (portrait.sources[:, :, 36:] == Source.EXTRAPOLATION).all()


def test_a_portrait_shows_the_rarest_event_that_is_likely_on_a_visible_part(product: Product) -> None:
    asking = tuned(product, forecast={"probabilities": {"sky": [2.0, 5.0, 5.5]}})
    run = read_run(forecast(asking, Champion(Left(), REF), init=product.time(3)))  # 5, within 4 to 6
    likelihood = portrait_of(asking, run).likelihood
    assert likelihood is not None
    assert likelihood.event == "at least 5"
    np.testing.assert_allclose(likelihood.layers[:, :, :36], 0.5, atol=1e-4)
    assert np.isnan(likelihood.layers[:, :, 36:]).all()  # by a rung that has no interval
    assert np.isin(run.probability(5, "sky", 5.0)[:, 36:], (0, 1)).all()
    assert [one.threshold for one in run_facts(run, run).probabilities] == [2, 5, 5.5]
    assert portrait_of(asking, published(product, 3)).likelihood is None


def test_where_no_event_is_likely_a_portrait_shows_the_commonest(product: Product) -> None:
    asking = tuned(product, forecast={"probabilities": {"sky": [7.0, 8.0]}})
    run = read_run(forecast(asking, Champion(Left(), REF), init=product.time(3)))
    likelihood = portrait_of(asking, run).likelihood
    assert likelihood is not None
    assert likelihood.event == "at least 7"


def test_a_portrait_shows_the_frames_that_the_run_saw(product: Product) -> None:
    episode = portrait_of(tuned(product), published(product, 2)).episode
    assert episode.acquired == (product.time(1), product.time(2))
    assert np.isnan(episode.context[1, :4]).all()
    np.testing.assert_allclose(episode.context[0], 3, atol=1e-5)


def test_a_run_of_an_expired_snapshot_is_drawn_from_the_newest_one(product: Product) -> None:
    run = published(product, 2)
    before = portrait_of(tuned(product), run)
    product.scene(4)
    product.ingest()
    tip = next(iter(product.store.history()))
    expire(product.store, tip.written_at, floor=timedelta(0))
    collect(product.store, tip.written_at, floor=timedelta(0))
    np.testing.assert_array_equal(portrait_of(tuned(product), run).episode.context, before.episode.context)


def test_a_run_that_saw_nothing_recent_is_drawn_without_a_frame(product: Product, tmp_path: Path) -> None:
    for horizon in (1, 2):
        asked = tuned(product, samples=SAMPLES | {"horizon": horizon})
        run = read_run(forecast(asked, None, now=product.time(20)))
        portrait = portrait_of(asked, run)
        assert portrait.episode.newest_frames(3) == ()
        assert (portrait.sources == Source.CLIMATOLOGY).all()
        write_portrait(tmp_path / "page.png", portrait)
        write_film(tmp_path / "film.gif", portrait)
        with Image.open(tmp_path / "film.gif") as film:
            assert film.n_frames == horizon
        (first, *_) = run_facts(run, run).leads
        assert first.rungs == {"climatology": 1}
        assert (first.oldest, first.middle) == (85, 85)
