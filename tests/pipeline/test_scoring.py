from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.baselines import Persistence
from pipeline.catalog import runs
from pipeline.config import Settings
from pipeline.forecast import forecast
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.scorebook import FORECAST, book, load_cards, page
from pipeline.scorecard import Card
from pipeline.scoring import Case, earlier, predecessors
from pipeline.verify import scores, verify

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SAMPLES = {"context_frames": 2, "max_age": 4, "horizon": 2}
PIXELS = 40 * 48


@dataclass(frozen=True)
class Says:
    """The newest frame and ``off``, as mean, 1 below it and 1 above it; where there is no frame nothing."""

    off: float

    def predict(self, context: Context, horizon: int) -> Forecast:
        still = Persistence().predict(context, horizon)
        values = np.concatenate([still.values + np.float32(self.off + each) for each in (0, -1, 1)], axis=2)
        source = np.where(still.source > 0, np.uint8(Source.NETWORK), still.source)
        return Forecast(values, source, still.age, ("mean", "q10", "q90"))


def tuned(product: Product, **verification: Any) -> Settings:
    document: dict[str, Any] = product.settings.model_dump()
    changed = {"samples": SAMPLES, "motion": {"method": "none"}, "verification": verification}
    return Settings(**document | changed)


def counting(product: Product, *slots: int) -> None:
    """Scenes whose value is the slot's number on the left half and twice that on the right, into the cube."""
    for slot in slots:
        dn = np.full((1, 40, 48), 30 + 10 * slot, np.uint16)
        dn[:, :, 24:] += np.uint16(10 * slot)
        product.scene(slot, dn)
    product.ingest()


def published(settings: Settings, off: float, **options: Any) -> None:
    forecast(settings, Champion(Says(off), ModelRef("fake", f"{off}", "network")), **options)


def cards(settings: Settings, lead: int, predictor: str = FORECAST) -> list[Card]:
    """Cards of all runs, as they are kept, oldest init time first."""
    folder = settings.paths.verification
    kept = [card for run in book(folder) for card in load_cards(page(folder, run.run_key, run.init), run)]
    return [card for card in kept if (card.lead_minutes, card.predictor) == (lead, predictor)]


def test_every_predictor_gets_a_card_with_its_bias_and_correlation(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    published(asked, 0.5)
    counting(product, 2)
    verify(asked)
    bias = {FORECAST: -1, "persistence": -1.5, "extrapolation": -1.5}  # the scene grew by 1 and 2
    for name, expected in bias.items():
        (card,) = cards(asked, 5, name)
        assert card.moments is not None
        assert (card.moments.count.item(), round(float(card.moments.bias), 4)) == (PIXELS, expected)
        assert card.moments.correlation == pytest.approx(1)
        assert card.events is None
        assert card.similarity is None
        assert card.spectrum is not None


def test_events_are_scored_at_the_thresholds_that_are_asked_for_and_similarity_over_the_span(product: Product) -> None:
    asked = tuned(product, thresholds={"sky": [3.0]}, scales=[1, 3], spans={"sky": [0.0, 10.0]})
    counting(product, 0, 1)
    published(asked, 0)
    counting(product, 2)
    verify(asked)
    (card,) = cards(asked, 5)
    assert card.events is not None
    assert card.fractions is not None
    assert card.similarity is not None
    assert card.events.counts.tolist() == [[0, 0, PIXELS // 2]]  # 4 came on the right half, 2 was forecast
    assert card.fractions.scales == (1, 3)
    assert 0 < card.similarity.ssim < 1


def test_structure_is_left_out_on_request(product: Product) -> None:
    asked = tuned(product, structure=False, spans={"sky": [0.0, 10.0]})
    counting(product, 0, 1)
    published(asked, 0)
    counting(product, 2)
    verify(asked)
    (card,) = cards(asked, 5)
    assert card.spectrum is card.similarity is None


def test_only_the_published_forecast_has_quantiles_and_only_the_network_s_pixels_reliability(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)

    @dataclass(frozen=True)
    class Half:
        """Nothing on the left half."""

        def predict(self, context: Context, horizon: int) -> Forecast:
            said = Says(1).predict(context, horizon)
            values, source = said.values.copy(), said.source.copy()
            values[..., :24, :], source[..., :24] = np.nan, Source.NONE
            return replace(said, values=values, source=source)

    forecast(asked, Champion(Half(), ModelRef("half", "1", "network")))
    counting(product, 2)
    verify(asked)
    (card,) = cards(asked, 5)
    assert card.quantiles is not None
    assert card.reliability is not None
    assert (card.quantiles.count.item(), card.reliability.count.item()) == (PIXELS, PIXELS // 2)
    np.testing.assert_array_equal(card.reliability.reliability, [[0, 0], [0, 1]])  # 4 came, 2 to 4 was said
    assert all(one.quantiles is None for one in cards(asked, 5, "persistence"))


def test_probabilities_of_the_published_run_are_scored_and_only_those(product: Product) -> None:
    asked = tuned(product)
    document: dict[str, Any] = asked.model_dump()
    asking = Settings(**document | {"forecast": {"probabilities": {"sky": [2.0, 4.0]}}})
    counting(product, 0, 1)
    published(asking, 1)
    counting(product, 2)
    verify(asked)  # whatever the configuration says by now
    (card,) = cards(asked, 5)
    assert card.chances is not None
    assert card.trust == card.chances
    # 1 and 2 were seen, 2 (1 to 3) and 3 (2 to 4) were said, 2 and 4 came
    over = 1 - NormalDist().cdf(NormalDist().inv_cdf(0.9) * 2)
    expected = [(0.5**2 + 0.1**2) / 2, (over**2 + 0.9**2) / 2]
    assert card.chances.thresholds == (2, 4)
    np.testing.assert_allclose(card.chances.brier, expected, atol=2e-4)
    assert card.chances.pixels.sum() == 2 * PIXELS
    assert all(one.chances is None for one in cards(asked, 5, "persistence"))


def test_a_run_is_compared_with_the_two_before_it_for_the_same_valid_time(product: Product) -> None:
    asked = tuned(product)
    document: dict[str, Any] = asked.model_dump()
    longer = Settings(**document | {"samples": SAMPLES | {"horizon": 3}})
    counting(product, 0, 1)
    published(longer, 0)  # 1 and 2 at slot 4
    counting(product, 2)
    published(longer, 4)  # 6 and 8
    counting(product, 3)
    published(longer, 0)  # 3 and 6
    counting(product, 4)
    verify(longer)
    (first,), (_, second), (*_, third) = cards(longer, 15), cards(longer, 10), cards(longer, 5)
    assert first.revisions is None
    assert second.revisions is not None
    assert third.revisions is not None
    assert float(second.revisions.revision) == pytest.approx(5.5)
    assert second.revisions.thrice == 0
    assert float(third.revisions.revision) == pytest.approx(2.5)
    assert float(third.revisions.flip_flop) == pytest.approx(2.5)  # up by 5 and 6, and back by 3 and 2
    row = next(row for row in scores(longer, verify(longer)) if (row.lead_minutes, row.predictor) == (15, FORECAST))
    assert row.revision is None


def test_a_run_on_another_grid_is_no_revision(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    published(asked, 0)
    counting(product, 2, 3)
    (run,) = runs(asked.paths.forecasts, asked.product.name)
    case = Case(asked, product.cube(), replace(run, init=product.time(2)), product.cube(), (run,))
    assert [one.shape for one in earlier(case, 5, (40, 48))] == [(1, 40, 48, 1)]
    assert list(earlier(case, 5, (8, 8))) == []


def test_of_two_runs_for_one_init_time_the_newer_counts_as_the_one_before(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    published(asked, 0, init=product.time(0))
    published(asked, 3, init=product.time(0))
    published(asked, 0, init=product.time(1))
    found = list(runs(asked.paths.forecasts, asked.product.name))
    (before,) = predecessors(found, found[-1])
    assert before.model.version == "3"
    assert predecessors(found, found[0]) == ()


def test_a_record_from_before_the_cards_stays_readable_and_as_it_is(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    published(asked, 0.5)
    counting(product, 2)
    verify(asked)
    shutil.rmtree(asked.paths.verification / "cards")
    report = verify(asked)
    row = next(row for row in scores(asked, report) if row.predictor == FORECAST)
    assert report.scored == 0
    assert (row.mae, row.bias, row.events, row.spectrum) == (1, None, (), {})


def test_a_verification_that_died_between_its_two_files_is_made_good(product: Product) -> None:
    asked = tuned(product)
    counting(product, 0, 1)
    published(asked, 0.5)
    counting(product, 2)
    verify(asked)
    whole = cards(asked, 5)
    (path,) = asked.paths.verification.glob("*.json")
    path.unlink()
    assert cards(asked, 5) == []
    assert verify(asked).scored == 1
    assert cards(asked, 5) == whole


def test_climatology_is_a_reference_once_the_cube_reaches_back_a_year(make_product: Callable[..., Product]) -> None:
    axis = {"origin": datetime(2020, 1, 1, tzinfo=UTC), "cadence": timedelta(days=10)}
    product = make_product(axis=axis, scenes={"firewall": {"stuck": "off", "level": "off"}})
    asked = tuned(product, climatology_frames=3)
    for slot in range(40):
        time = axis["origin"] + slot * axis["cadence"]
        dn = np.full((1, 40, 48), 30 + 10 * abs(slot % 36 - 18), np.uint16)  # a season of 36 slots
        dn[:, 0, 0] = 65535 if slot < 38 else 30
        product.scene(slot, dn, name=f"scene_{time:%Y%m%dT%H%M%SZ}.tif")
    product.ingest()
    for slot in (30, 38):
        published(asked, 0, init=axis["origin"] + slot * axis["cadence"])
    report = verify(asked)
    early, late = report.runs
    names = {FORECAST, "persistence", "extrapolation"}
    assert [{score.predictor for score in run.scores} for run in (early, late)] == [names, names | {"climatology"}]
    assert {score.pixels for score in late.scores} == {PIXELS}  # a pixel without a past takes persistence
    assert [set(row.mae) for row in report.table() if row.lead_minutes == 14400] == [names]
    row = next(row for row in scores(asked, report) if (row.lead_minutes, row.predictor) == (14400, FORECAST))
    assert (row.runs, set(row.skill)) == (2, {"persistence", "extrapolation", "climatology"})
