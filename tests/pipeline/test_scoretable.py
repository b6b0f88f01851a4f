from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.consistency import RevisionSums
from pipeline.events import Events
from pipeline.marking import Layers, mark, mark_chances, mark_quantiles
from pipeline.scorebook import FORECAST, RunScores, Score, load_cards, save_cards
from pipeline.scorecard import Card
from pipeline.scoretable import ScoreRow, score_rows
from pipeline.specs import BandSpec, VerificationSpec
from tests.pipeline.twofields import fields

INIT = datetime(2024, 6, 1, tzinfo=UTC)
SKY = BandSpec(name="sky", dtype="uint8", units="1", valid_min=0, valid_max=10)
WISH = VerificationSpec(thresholds={"sky": (5.0, 5.5)}, scales=(1, 5))
QUANTITIES = ("mean", "q10", "q50", "q90")


def run(error: float, *others: str, wish: VerificationSpec = WISH) -> tuple[RunScores, list[Card]]:
    """One run at one lead: our forecast is wrong by ``error`` everywhere, ``others`` by twice that."""
    _, truth = fields()
    wrong = {FORECAST: error} | dict.fromkeys(others, 2 * error)
    scores = [Score(5, "sky", name, 100, 100 * abs(off), 100 * off**2) for name, off in wrong.items()]
    cards = []
    for name, off in wrong.items():
        values = np.stack([truth[0] + np.float32(off + each) for each in (0, -0.5, 0, 0.5)])
        said = Layers(values, QUANTITIES) if name == FORECAST else Layers(values[:1], ("mean",))
        card = mark(Card(5, "sky", name), said, truth, SKY, wish)
        cards.append(mark_quantiles(card, said, truth, truth))
    return RunScores("key", INIT, "m", tuple(scores)), cards


def ours(rows: list[ScoreRow]) -> ScoreRow:
    return next(row for row in rows if row.predictor == FORECAST)


def test_a_row_has_every_score_and_no_number_that_json_has_no_word_for() -> None:
    row = ours(score_rows([run(0.5, "persistence")], [SKY], WISH))
    assert (row.mae, row.rmse, row.bias, row.correlation) == (0.5, 0.5, pytest.approx(0.5), pytest.approx(1))
    assert row.psnr == pytest.approx(20 * np.log10(10 / 0.5))
    assert row.ssim is not None
    assert [(event.threshold, event.below, set(event.fss)) for event in row.events] == [
        (5.0, False, {1, 5}),
        (5.5, False, {1, 5}),
    ]
    assert [(level.level, level.below, level.upto) for level in row.reliability][1:] == [(0.5, 1, 1), (0.9, 1, 1)]
    assert row.spectrum[4] == pytest.approx(1)
    assert row.skill["persistence"].mae == pytest.approx(0.5)
    json.dumps(asdict(row), allow_nan=False)


def test_probabilities_stand_by_threshold_with_ten_bins_and_are_pooled_over_runs() -> None:
    events, (_, truth) = Events((5.0, 5.5)), fields()
    said = np.where(events.met(truth[0, ..., 0]), np.float32(0.8), np.float32(0.1))
    runs = [run(0.5, "persistence"), run(0.5, "persistence")]
    for _, made in runs:
        made[0] = mark_chances(made[0], said, events, truth, truth)
    row = ours(score_rows(runs, [SKY], WISH))
    first, second = row.chances
    share = first.frequency
    assert (first.threshold, second.threshold, first.below) == (5, 5.5, False)
    assert share == pytest.approx((truth >= 5).mean())
    assert first.brier == pytest.approx(share * 0.2**2 + (1 - share) * 0.1**2)
    assert first.skill == pytest.approx(1 - first.brier / (share * (1 - share)))
    assert [one.pixels for one in first.reliability if one.pixels] == [2 * (truth < 5).sum(), 2 * (truth >= 5).sum()]
    assert (first.reliability[1].came, first.reliability[8].came) == (0, 1)
    json.dumps(asdict(row), allow_nan=False)
    assert all(not other.chances for other in score_rows(runs, [SKY], WISH) if other.predictor != FORECAST)


def test_crps_beats_the_absolute_error_of_a_reference_and_skill_says_so() -> None:
    row = ours(score_rows([run(0.5, "persistence")], [SKY], WISH))
    loss = [0.1 * 0 + 0.9 * 0, 0.5 * 0.5, 0.1 * 1.0]  # of 0, 0.5 and 1 above the truth
    assert row.crps == pytest.approx(2 * (0.3 * loss[0] + 0.4 * loss[1] + 0.3 * loss[2]), rel=1e-4)
    assert row.skill["persistence"].crps == pytest.approx(1 - row.crps / 1.0)


def test_skill_is_of_the_runs_that_have_the_reference() -> None:
    rows = score_rows([run(3.0), run(0.5, "climatology")], [SKY], WISH)
    row = ours(rows)
    assert (row.runs, row.mae) == (2, 1.75)
    assert row.skill["climatology"].mae == pytest.approx(0.5)


def test_runs_scored_at_other_thresholds_keep_their_errors_and_leave_the_events_to_the_newer_ones() -> None:
    before = run(0.5, wish=VerificationSpec(thresholds={"sky": (1.0,)}))
    row = ours(score_rows([before, run(0.0)], [SKY], WISH))
    assert (row.runs, row.mae) == (2, 0.25)
    assert [(event.threshold, event.csi) for event in row.events] == [(5.0, 1), (5.5, 1)]


def test_jumpiness_is_the_revision_over_the_error_of_the_same_runs() -> None:
    forecast, _ = fields()
    first, (errors, (card,)) = run(4.0), run(0.5)
    revisions = RevisionSums.of(forecast, forecast + 1).at(0, 0)
    row = ours(score_rows([first, (errors, [replace(card, revisions=revisions)])], [SKY], WISH))
    assert (row.revision, row.jumpiness) == (pytest.approx(1), pytest.approx(2))
    assert row.flip_flop is None


def test_bands_that_are_not_forecast_any_more_and_errors_without_pixels_are_no_fault() -> None:
    assert score_rows([run(0.5)], [], WISH) == []
    empty = RunScores("1", INIT, "m", (Score(5, "sky", FORECAST, 0, 0.0, 0.0),))
    row = ours(score_rows([(empty, [])], [SKY], WISH))
    assert (row.mae, row.rmse, row.psnr, row.skill) == (None, None, None, {})


def test_cards_survive_their_file_and_those_of_leads_without_errors_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    errors, cards = run(0.5, "persistence")
    save_cards(path, [*cards, replace(cards[0], lead_minutes=10)])
    assert list(load_cards(path, errors)) == cards
    assert load_cards(tmp_path / "other.json", errors) == ()
