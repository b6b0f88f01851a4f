from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.baselines import Persistence
from pipeline.errors import NotEnoughFramesError
from pipeline.matching import with_matched
from pipeline.merit import HALF_LIFE, HORIZON_RUNS, LEAST_RUNS, Yielding, useful_horizon, yielded
from pipeline.predictor import Context, Forecast, Predictor, Source
from pipeline.scorebook import FORECAST, RunScores, Score

START = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
MODEL = "rain 1"
LEADS = (5, 10, 15)


def run(number: int, ratios: dict[int, float], *, given: tuple[int, ...] = (), model: str = MODEL) -> RunScores:
    """A run whose errors are ``ratios`` (by lead) times those of extrapolation, half of persistence's."""
    scores = [
        score
        for lead, ratio in ratios.items()
        for score in (
            Score(lead, "rain", FORECAST, 100, 100 * ratio, 1.0, yielded=lead in given),
            Score(lead, "rain", "extrapolation", 100, 100.0, 1.0),
            Score(lead, "rain", "persistence", 100, 200.0, 1.0),
        )
    ]
    return RunScores(f"key{number:04d}", START + number * STEP, model, tuple(scores))


def steady(ratio: float, *, runs: int = 60, leads: tuple[int, ...] = LEADS, spread: float = 0.02) -> list[RunScores]:
    random = np.random.default_rng(0)
    return [run(number, {lead: ratio + spread * random.normal() for lead in leads}) for number in range(runs)]


def asked(runs: list[RunScores], *, at: int, leads: tuple[int, ...] = LEADS) -> list[bool]:
    return yielded(runs, MODEL, START + at * STEP, leads, ("rain",))[:, 0].tolist()


def live(ratio: Callable[[int], NDArray[np.float64]], runs: int, leads: int) -> NDArray[np.bool_]:
    """A model from run to run, each made of the scores of those before it: which leads are yielded, ``(run, lead)``.

    Args:
        ratio: of the network's errors to extrapolation's, by lead, in run ``n``.
        runs: how many, one every slot.
        leads: how many.
    """
    scored: list[RunScores] = []
    said = np.zeros((runs, leads), bool)
    minutes = tuple(5 * (lead + 1) for lead in range(leads))
    for number in range(runs):
        said[number] = asked(scored[-400:], at=number, leads=minutes)
        shown = np.where(said[number], 1.0, ratio(number))
        given = tuple(np.array(minutes)[said[number]].tolist())
        scored.append(run(number, dict(zip(minutes, shown.tolist(), strict=True)), given=given))
    return said


def alike(correlation: float, runs: int, leads: int, seed: int) -> NDArray[np.float64]:
    """A first-order autoregression of unit variance, ``(run, lead)``."""
    random = np.random.default_rng(seed)
    series = np.empty((runs, leads))
    series[0] = random.normal(size=leads)
    for number in range(1, runs):
        series[number] = correlation * series[number - 1] + np.sqrt(1 - correlation**2) * random.normal(size=leads)
    return series


# --- what is yielded ------------------------------------------------------------------------------


def test_a_network_that_is_worse_at_long_leads_yields_there_and_only_there() -> None:
    noise = 0.03 * alike(0.8, 150, 3, seed=1)
    said = live(lambda number: np.array([0.8, 0.9, 1.3]) + noise[number], runs=150, leads=3)
    assert said.any(axis=0).tolist() == [False, False, True]
    assert 0.7 < said[60:, 2].mean() < 1  # it is tried again now and then


@pytest.mark.parametrize(("correlation", "spread"), [(0.0, 0.05), (0.5, 0.05), (0.7, 0.1)])
def test_equals_are_seldom_yielded(correlation: float, spread: float) -> None:
    """2 leads of 4 series of 150 runs; the docstring of :data:`pipeline.merit.DOUBT` has the rates of 60 times more."""
    noises = [spread * alike(correlation, 150, 2, seed) for seed in range(4)]
    said = [live(lambda number, noise=noise: 1 + noise[number], runs=150, leads=2) for noise in noises]
    assert np.mean(said) < 0.05


def test_a_better_network_is_never_yielded() -> None:
    noise = 0.1 * alike(0.8, 150, 2, seed=3)
    assert not live(lambda number: 0.8 + noise[number], runs=150, leads=2).any()


def test_few_runs_show_nothing() -> None:
    assert asked(steady(1.5, runs=6), at=60) == [False] * 3
    assert asked(steady(1.5, runs=60), at=90) == [True] * 3


def test_runs_that_overlap_count_as_fewer_at_longer_leads() -> None:
    leads = (5, 20, 40)
    runs = steady(1.5, runs=90, leads=leads)
    enough = [next(n for n in range(90) if asked(runs[:n], at=99, leads=leads)[lead]) for lead in range(3)]
    assert enough[0] < enough[1] < enough[2]


def test_a_loss_within_its_own_uncertainty_is_none() -> None:
    assert asked(steady(1.05, spread=0.02), at=70)[0]
    assert not asked(steady(1.05, spread=0.3), at=70)[0]


def test_truths_that_were_not_known_at_the_init_time_are_left_aside() -> None:
    runs = steady(0.8, runs=40) + [replace(one, init=one.init + 40 * STEP) for one in steady(2.0, runs=90)]
    assert asked(runs, at=40) == [False] * 3
    assert asked(runs, at=133) == [True] * 3


def test_a_truth_counts_from_its_valid_time_on() -> None:
    """Truth of the last run of a series that is just long enough comes two slots after that run's init time."""
    enough = next(n for n in range(60) if asked(steady(1.5, runs=n), at=80, leads=(10,))[0])
    runs = steady(1.5, runs=enough)
    assert asked(runs, at=enough, leads=(10,)) == [False]
    assert asked(runs, at=enough + 1, leads=(10,)) == [True]


def test_other_models_teach_nothing() -> None:
    assert asked([replace(one, model="rain 2") for one in steady(2.0)], at=70) == [False] * 3


def test_a_rival_without_errors_leaves_nothing_to_compare_with() -> None:
    dry = [
        replace(one, scores=tuple(replace(score, absolute=0.0) for score in one.scores)) for one in steady(1.0, runs=40)
    ]
    assert asked(dry, at=60) == [False] * 3


def test_runs_that_yielded_are_no_evidence_but_let_it_grow_old_until_the_network_is_tried_again() -> None:
    lost = steady(1.5, runs=40, leads=(5,))
    given = [run(40 + number, {5: 1.0}, given=(5,)) for number in range(40)]
    assert asked([*lost, *given[: int(HALF_LIFE)]], at=90, leads=(5,)) == [True]
    assert asked([*lost, *given[: int(HALF_LIFE) + 1]], at=90, leads=(5,)) == [False]
    again = [*lost, *given[:13], run(53, {5: 1.5})]
    assert asked(again, at=90, leads=(5,)) == [True]  # one more loss, beside the older ones, is enough


def test_a_network_that_has_recovered_comes_back() -> None:
    noise = 0.02 * alike(0.5, 200, 1, seed=5)
    said = live(lambda number: (1.3 if number < 60 else 0.8) + noise[number], runs=200, leads=1)
    assert said[30:60].mean() > 0.7
    assert not said[160:].any()


# --- what is said then ----------------------------------------------------------------------------

QUANTITIES = ("mean", "q10", "q50", "q90")
WIDE = ((-np.inf, np.inf),) * 2


@dataclass(frozen=True)
class Wrong:
    """The newest frame and 5 for the mean and the median, within -1 and +3 of that."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        values = np.concatenate([said.values + np.float32(5 + each) for each in (0, -1, 0, 3)], axis=2)
        return Forecast(values, np.full_like(said.source, Source.NETWORK), np.zeros_like(said.age), QUANTITIES)


@dataclass(frozen=True)
class Filled:
    """Says 0 where its inner predictor says nothing."""

    inner: Predictor

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = self.inner.predict(context, horizon)
        return replace(said, values=np.nan_to_num(said.values))


def scene(hole: bool = False) -> Context:
    values = np.random.default_rng(0).integers(2, 30, (1, 1, 4, 5, 2)).astype(np.float32)
    if hole:
        values[0, 0, 0, 0] = np.nan
    return Context(values, np.isfinite(values), np.zeros((1, 1), np.int64), np.full((1, 1), 2, np.float32))


def given(mask: list[list[bool]], valid: tuple[tuple[float, float], ...] = WIDE) -> Yielding:
    return Yielding(Wrong(), Persistence(), np.array(mask), valid)


def test_a_yielded_band_says_what_the_rival_says_and_keeps_the_width_of_its_interval() -> None:
    context = scene()
    own, said = Wrong().predict(context, 2), given([[False, False], [True, False]]).predict(context, 2)
    np.testing.assert_array_equal(said.values[:, 0], own.values[:, 0])
    np.testing.assert_array_equal(said.values[..., 1], own.values[..., 1])
    for name, beside in zip(QUANTITIES, (0, -1, 0, 3), strict=True):
        np.testing.assert_allclose(said.of(name)[0, 1, ..., 0], context.values[0, 0, ..., 0] + beside, rtol=1e-6)


def test_bounds_that_move_along_stay_possible() -> None:
    said = given([[True, True]], ((4.0, 10.0), (0.0, 100.0))).predict(scene(), 1)
    assert said.of("q10")[..., 0].min() >= 4
    assert said.of("q90")[..., 0].max() <= 10
    assert (np.diff(said.values[:, :, 1:], axis=2)[..., 1] >= 0).all()


def test_a_pixel_is_the_rival_s_where_all_its_bands_are() -> None:
    said = given([[True, False], [True, True]]).predict(scene(), 2)
    assert (said.source[0, 0] == Source.NETWORK).all()
    assert (said.source[0, 1] == Source.PERSISTENCE).all()
    assert (said.age == 2).all()


def test_where_the_rival_knows_nothing_the_network_stays() -> None:
    said = replace(given([[True, True]]), inner=Filled(Wrong())).predict(scene(hole=True), 1)
    assert np.isfinite(said.values).all()
    assert said.source[0, 0, 0, 0] == Source.NETWORK
    assert (said.source == Source.PERSISTENCE).sum() == 19


def test_where_the_network_knows_nothing_the_ladder_still_sees_that() -> None:
    said = replace(given([[True, True]]), rival=Filled(Persistence())).predict(scene(hole=True), 1)
    assert np.isnan(said.values[0, 0, :, 0, 0]).all()
    assert said.source[0, 0, 0, 0] == Source.NETWORK


def test_a_rival_that_lacks_frames_changes_nothing() -> None:
    class Silent:
        def predict(self, context: Context, horizon: int) -> Forecast:
            raise NotEnoughFramesError("no")

    said = replace(given([[True, True]]), rival=Silent()).predict(scene(), 1)
    np.testing.assert_array_equal(said.values, Wrong().predict(scene(), 1).values)


@pytest.mark.parametrize("partly", [0.4, 1.0])
def test_the_matched_field_of_a_yielded_band_is_the_rival_s(partly: float) -> None:
    context = scene()
    reference = Persistence().predict(context, 1).of("mean")
    both = with_matched(given([[True, False]]).predict(context, 1), reference, partly=partly)
    np.testing.assert_allclose(both.of("matched")[..., 0], reference[..., 0])
    assert (both.source == Source.NETWORK).all()  # with the other band of each pixel the network's


# --- useful horizon -------------------------------------------------------------------------------


def horizon(runs: list[RunScores], *, at: int = 100) -> tuple[int | None, int, str]:
    found = useful_horizon(runs, MODEL, START + at * STEP, LEADS, "rain")
    return found.minutes, found.runs, found.reason


def test_the_useful_horizon_ends_before_the_first_lead_that_persistence_is_as_good_at() -> None:
    runs = [run(number, {5: 0.5, 10: 2.5, 15: 0.5}) for number in range(20)]
    assert horizon(runs) == (5, 20, "no better than persistence 10 minutes ahead")
    assert horizon([run(number, {5: 2.0, 10: 1.0}) for number in range(20)])[0] == 0  # as good is no better
    assert horizon([run(number, dict.fromkeys(LEADS, 1.0)) for number in range(20)]) == (15, 20, "better at every lead")


def test_too_few_runs_say_nothing_of_usefulness() -> None:
    few = [run(number, dict.fromkeys(LEADS, 1.0)) for number in range(LEAST_RUNS - 1)]
    assert horizon(few) == (None, 9, "9 of at least 10 runs of rain 1 have met truth 5 minutes ahead")
    assert horizon(few, at=3)[:2] == (None, 3)
    assert horizon([])[:2] == (None, 0)


def test_the_useful_horizon_ends_where_truth_has_met_too_few_runs() -> None:
    runs = [run(number, {5: 1.0} if number % 2 else dict.fromkeys(LEADS, 1.0)) for number in range(18)]
    assert horizon(runs) == (5, 18, "9 of at least 10 runs of rain 1 have met truth 10 minutes ahead")


def test_usefulness_is_of_the_newest_runs() -> None:
    runs = [run(number, dict.fromkeys(LEADS, 9.0 if number < 20 else 1.9)) for number in range(20 + HORIZON_RUNS)]
    assert horizon(runs, at=200)[:2] == (15, HORIZON_RUNS)


def test_what_was_yielded_was_published_and_counts_for_usefulness() -> None:
    runs = [run(number, dict.fromkeys(LEADS, 1.0), given=(10, 15)) for number in range(20)]
    assert horizon(runs)[0] == 15


def test_climatology_is_beaten_too_where_runs_were_scored_beside_it() -> None:
    def beside(one: RunScores) -> RunScores:
        usual = tuple(Score(lead, "rain", "climatology", 100, 120.0 - 2 * lead, 1.0) for lead in LEADS)
        return replace(one, scores=(*one.scores, *usual))

    runs = [run(number, dict.fromkeys(LEADS, 1.0)) for number in range(30)]
    found = useful_horizon([beside(one) for one in runs], MODEL, START + 100 * STEP, LEADS, "rain")
    assert (found.minutes, found.against) == (5, ("persistence", "climatology"))
    assert found.reason == "no better than climatology 10 minutes ahead"
    few = [*runs, *(beside(one) for one in runs[:9])]
    assert useful_horizon(few, MODEL, START + 100 * STEP, LEADS, "rain").against == ("persistence",)


def test_a_useful_horizon_reads_back_from_a_manifest() -> None:
    found = useful_horizon(steady(0.8), MODEL, START + 100 * STEP, LEADS, "rain")
    assert type(found).from_json(found.to_json()) == found
