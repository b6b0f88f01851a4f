from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.significance import (
    LEAST_BLOCKS,
    Resampling,
    Verdict,
    bootstrap,
    independent_blocks,
    relative_difference,
    student,
)

HORIZON = 12
TRIALS = 400

Noise = Callable[[np.random.Generator, int], NDArray[np.float64]]


def white(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    return random.normal(size=size)


def overlapping(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Errors of forecasts each of which shares its targets with the next eleven."""
    return np.convolve(random.normal(size=size + HORIZON - 1), np.full(HORIZON, HORIZON**-0.5), "valid")


def lasting(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A first-order autoregression: weather that lasts."""
    steps, values = random.normal(scale=0.6, size=size + 50), np.zeros(size + 50)
    for index in range(1, len(values)):
        values[index] = 0.8 * values[index - 1] + steps[index]
    return values[50:]


def pair(noise: Noise, random: np.random.Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two forecasts that are as good as each other, on days that are hard or easy for both."""
    day = np.exp(0.5 * noise(random, size))
    return day * np.exp(0.1 * noise(random, size)), day * np.exp(0.1 * noise(random, size))


@pytest.mark.parametrize("noise", [white, overlapping, lasting])
@pytest.mark.parametrize("blocks", [LEAST_BLOCKS, 24])
def test_the_interval_covers_as_often_as_it_says(noise: Noise, blocks: int) -> None:
    random = np.random.default_rng(blocks)
    slots = np.arange(blocks * HORIZON)
    covered = 0
    for trial in range(TRIALS):
        ours, theirs = pair(noise, random, len(slots))
        found = relative_difference(ours, theirs, slots, HORIZON, resampling=Resampling(count=200, seed=trial))
        covered += found.low <= 0 <= found.high
    assert 0.9 <= covered / TRIALS <= 0.98 + 0.005


@pytest.mark.parametrize(
    ("slots", "block"),
    [
        (np.arange(24) * 21, 6),
        (np.arange(24) * 12, 1),
        (np.concatenate([np.arange(24), 1000 + np.arange(24)]), 6),
    ],
    ids=["thinned", "far apart", "two bursts"],
)
def test_init_times_with_room_between_them_are_no_more_evidence_than_they_are(
    slots: NDArray[np.int64], block: int
) -> None:
    random, covered = np.random.default_rng(7), 0
    for trial in range(TRIALS):
        ours, theirs = pair(white, random, len(slots))
        found = relative_difference(ours, theirs, slots, block, resampling=Resampling(count=200, seed=trial))
        covered += found.low <= 0 <= found.high
    assert found.blocks == {6: 24, 1: 24}[block] if len(slots) == 24 else found.blocks == 8
    assert covered / TRIALS >= 0.9


def test_blocks_of_one_slot_would_claim_differences_that_are_none() -> None:
    random, slots = np.random.default_rng(0), np.arange(16 * HORIZON)
    differences = np.array([overlapping(random, len(slots)) for _ in range(60)])
    means = differences.mean(axis=1)
    alone = differences.std(axis=1) / np.sqrt(len(slots))
    assert np.mean(np.abs(means) < 1.96 * alone) < 0.6  # what init times taken for independent would cover
    found = [bootstrap(one, lambda sums: sums, slots, HORIZON, Resampling(count=200)) for one in differences]
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.85


def test_a_difference_that_every_day_shows_is_found_through_the_days_noise() -> None:
    random = np.random.default_rng(1)
    day = np.exp(lasting(random, 120))
    found = relative_difference(0.9 * day, day, np.arange(120), HORIZON)
    assert found.estimate == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))
    assert found.verdict is Verdict.LOWER
    assert relative_difference(day, 0.9 * day, np.arange(120), HORIZON).verdict is Verdict.HIGHER


def test_few_blocks_are_no_evidence_however_clear_the_interval() -> None:
    day = np.linspace(1, 2, 95)
    short = relative_difference(0.5 * day, day, np.arange(95), HORIZON)
    assert short.blocks == 7
    assert short.high < 0
    assert short.verdict is Verdict.INSUFFICIENT


def test_five_overlapping_init_times_of_one_event_are_no_block_and_have_a_wide_interval() -> None:
    ours, theirs = np.array([1.0, 0.9, 1.2, 0.8, 1.1]), np.ones(5)
    found = relative_difference(ours, theirs, np.arange(5), HORIZON)
    assert (found.blocks, found.inits, found.verdict) == (0, 5, Verdict.INSUFFICIENT)
    assert found.low < -0.2
    assert found.high > 0.2


def test_one_init_time_has_a_difference_and_no_interval() -> None:
    found = relative_difference([2.0], [4.0], [3], HORIZON)
    assert found.estimate == -0.5
    assert np.isnan([found.low, found.high]).all()
    assert found.verdict is Verdict.INSUFFICIENT


def test_the_same_seed_gives_the_same_interval_and_another_nearly_the_same() -> None:
    ours, theirs = pair(lasting, np.random.default_rng(2), 144)
    one, same, other = (
        relative_difference(ours, theirs, np.arange(144), HORIZON, resampling=Resampling(seed=seed))
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.15)


def test_the_order_of_the_blocks_matters_and_the_unit_of_the_error_does_not() -> None:
    ours, theirs = pair(lasting, np.random.default_rng(3), 144)
    slots = np.arange(144)
    plain = relative_difference(ours, theirs, slots, HORIZON)
    assert relative_difference(1000 * ours, 1000 * theirs, slots, HORIZON).low == pytest.approx(plain.low)
    shuffled = np.random.default_rng(0).permutation(144)
    mixed = relative_difference(ours[shuffled], theirs[shuffled], slots, HORIZON)
    assert mixed.high - mixed.low < plain.high - plain.low


def test_every_lead_counts_alike_and_roots_are_taken_over_all_init_times() -> None:
    squared = np.array([[1.0, 100.0], [3.0, 300.0]])
    found = relative_difference(4 * squared, squared, [0, 1], 1, power=0.5)
    assert found.estimate == pytest.approx(1.0)
    mixed = relative_difference(squared * [4, 1], squared, [0, 1], 1, power=0.5)
    assert mixed.estimate == pytest.approx(np.sqrt(2) / (np.sqrt(2) + np.sqrt(200)))


def test_init_times_without_a_reference_count_in_neither() -> None:
    ours, theirs = pair(white, np.random.default_rng(4), 40)
    theirs[7] = np.nan
    kept = np.delete(np.arange(40), 7)
    assert relative_difference(ours, theirs, np.arange(40), 2) == relative_difference(ours[kept], theirs[kept], kept, 2)


def test_sparse_init_times_are_spanned_by_as_many_blocks_as_dense_ones() -> None:
    assert independent_blocks(np.arange(0, 96, 6), 12) == independent_blocks(np.arange(96), 12) == 8


def test_any_statistic_of_sums_can_be_asked() -> None:
    hits = np.tile([3.0, 1.0, 1.0], (30, 1))

    def csi(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums[:, 0] / sums.sum(axis=1)

    found = bootstrap(hits, csi, np.arange(30), 3)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))
    assert (found.inits, found.blocks) == (30, 10)


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (2, 4.303), (3, 3.182), (7, 2.365), (29, 2.045)])
def test_students_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert student(0.975, freedom) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("slots", [[0, 0, 1], [2, 1, 0]])
def test_times_that_do_not_ascend_are_refused(slots: list[int]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        relative_difference([1, 2, 3], [1, 2, 3], slots, 1)


def test_errors_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        relative_difference([1, 2, 3], [1, 2], [0, 1, 2], 1)


def test_an_interval_is_hardly_wider_or_narrower_for_a_gap_more_or_less_between_init_times() -> None:
    chance = np.random.default_rng(3)

    def width(count: int) -> float:
        """Of white noise at 96 init times, evenly spread over more of them: gaps of one and two slots take turns."""
        slots = np.linspace(0, count - 1, 96).round()
        found = [bootstrap(chance.standard_normal(96), lambda means: means, slots, 12) for _ in range(60)]
        return float(np.mean([one.high - one.low for one in found]))

    assert width(150) == pytest.approx(width(142), rel=0.15)  # the median gap of the one is two slots, of the other one
