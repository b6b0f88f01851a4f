from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.cube import Cube
from pipeline.usual import WIDTH, alike, at_least, usual_at

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

YEAR_OF_SLOTS = 37  # of ten days: 370 days, the first that lie a year back
PLAIN = {"firewall": {"stuck": "off", "level": "off"}}


def ten_days(make_product: Callable[..., Product], slots: range, holes: int = 0) -> Product:
    """A scene every ten days whose value is the slot's number; the first ``holes`` columns are missing."""
    axis = {"origin": datetime(2020, 1, 1, tzinfo=UTC), "cadence": timedelta(days=10)}
    product = make_product(axis=axis, scenes=PLAIN, grid={"height": 8, "width": 8})
    for slot in slots:
        dn = np.full((1, 8, 8), 30 + 10 * slot, np.uint16)
        dn[:, :, :holes] = 65535
        time = axis["origin"] + slot * axis["cadence"]
        product.scene(slot, dn, name=f"scene_{time:%Y%m%dT%H%M%SZ}.tif")
    product.ingest()
    return product


@pytest.fixture(scope="module")
def cube(make_product: Callable[..., Product]) -> Cube:
    return ten_days(make_product, range(42)).cube()


def test_it_is_the_mean_of_the_same_season_weighed_by_how_near_it_is(cube: Cube) -> None:
    found = usual_at(cube, 40, 39, (0,), 3)
    assert found is not None
    lags = np.array([37, 36, 4]) * 10 - np.array([365.2422, 365.2422, 40])
    assert alike(cube, 40, 39, 3).tolist() == [3, 4, 39]
    distances = np.array([abs(lags[0]), abs(lags[1]), 10])
    weights = np.exp(-0.5 * (distances / WIDTH) ** 2)
    np.testing.assert_allclose(found, (weights @ [3, 4, 39]) / weights.sum(), rtol=1e-5)


def test_nothing_after_the_init_time_is_looked_at(cube: Cube) -> None:
    for init in (39, 38):
        assert alike(cube, 40, init, 50).max() == init


def test_frames_that_were_not_available_yet_are_left_out(cube: Cube) -> None:
    late = cube.layout.axis.valid_time(38) - timedelta(days=1)
    then = Cube(cube.root, cube.layout, cube.snapshot, cube.table, late)
    assert alike(then, 40, 39, 50).max() == 37


def test_a_cube_of_less_than_a_year_has_no_climatology(cube: Cube) -> None:
    assert usual_at(cube, YEAR_OF_SLOTS - 1, YEAR_OF_SLOTS - 2, (0,), 3) is None
    assert usual_at(cube, YEAR_OF_SLOTS, YEAR_OF_SLOTS - 1, (0,), 3) is not None


def test_too_few_frames_of_a_season_and_none_asked_for_are_no_climatology(cube: Cube) -> None:
    assert usual_at(cube, 40, 39, (0,), 20) is None
    assert usual_at(cube, 40, 39, (0,), 0) is None


def test_only_frames_of_the_same_time_of_day_count(make_product: Callable[..., Product]) -> None:
    product = make_product(axis={"cadence": timedelta(hours=8)}, scenes=PLAIN)
    first, year = product.time(0), 366 * 3  # slots of eight hours
    for slot in (0, 1, 2, 3, year - 3, year - 1):
        time = first + slot * timedelta(hours=8)
        product.scene(slot, name=f"scene_{time:%Y%m%dT%H%M%SZ}.tif")
    product.ingest()
    assert alike(product.cube(), year, year - 1, 5).tolist() == [0, 3, year - 3]


def test_a_pixel_that_was_never_seen_is_unknown(make_product: Callable[..., Product]) -> None:
    cube = ten_days(make_product, range(40), holes=2).cube()
    found = usual_at(cube, 38, 37, (0,), 4)
    assert found is not None
    assert np.isnan(found[:, :2]).all()
    assert np.isfinite(found[:, 2:]).all()


# --- what there is --------------------------------------------------------------------------------


def test_at_least_the_nearest_in_season_are_taken_however_far_and_however_short_the_cube(cube: Cube) -> None:
    assert at_least(cube, 40, 39, 3).tolist() == [3, 4, 39]
    assert at_least(cube, 20, 9, 3).tolist() == [7, 8, 9]
    assert at_least(cube, 20, 0, 3).tolist() == [0]
    assert at_least(cube, 20, 9, 3, besides=(8, 9)).tolist() == [5, 6, 7]


def test_at_least_one_frame_is_known_or_there_is_none(cube: Cube) -> None:
    then = replace(cube, as_of=cube.layout.axis.valid_time(0))
    assert at_least(then, 20, 19, 3).tolist() == [0]
    assert at_least(replace(then, as_of=cube.layout.axis.valid_time(-1)), 20, 19, 3).tolist() == []


def test_without_a_frame_of_the_same_time_of_day_all_are_taken_spread_evenly(product: Product) -> None:
    for slot in range(10):
        product.scene(slot)
    product.ingest()
    assert at_least(product.cube(), 12, 9, 4).tolist() == [0, 3, 6, 9]
    assert at_least(product.cube(), 12, 9, 12).tolist() == list(range(10))
    assert at_least(product.cube(), 288 + 4, 9, 4).tolist() == [4]
