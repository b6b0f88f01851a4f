from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.quality import Quality, flags
from pipeline.specs import BandSpec, FirewallSpec
from pipeline.survey import Survey, lattice_step, zeros_are_values

law = settings(max_examples=40, deadline=None)
BANDS = (BandSpec(name="red", dtype="uint16", nodata=9), BandSpec(name="nir", dtype="uint16", nodata=9, valid_max=5))
FLOATS = (BandSpec(name="kelvin", dtype="float32", nodata=9), BandSpec(name="other", dtype="float32", valid_max=5))
PLACE = Window(21, 21 + 70, 5, 5 + 90)  # on no cell's corner
cuts = st.lists(st.integers(1, 89), max_size=4).map(lambda inner: sorted({0, *inner, 90}))


def survey(data: NDArray, bands: Sequence[BandSpec], window: Window = PLACE, place: Window = PLACE) -> Survey:
    return Survey.of(data, flags(data, bands), bands, window=window, place=place)


def contents(survey: Survey) -> list[object]:
    zeros = None if survey.zeros is None else survey.zeros.tolist()
    rows = [part.tolist() for part in (survey.rows.valid, survey.rows.least, survey.rows.most)]
    counts = [survey.pixels, survey.missing, survey.usable, survey.out_of_range, survey.lit, survey.zero]
    return [*counts, zeros, rows, np.sort(survey.sample).tolist(), survey.fingerprint]


def scene(seed: int, dtype: str, shape: tuple[int, int] = (70, 90)) -> NDArray:
    """Small DN, so that zeros, nodata (9), values out of range and rows of one value all occur."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 10, (2, *shape)) * rng.integers(0, 2, (1, *shape))
    data[:, rng.integers(0, shape[0], 4)] = 3
    return data.astype(dtype)


@law
@given(st.integers(0, 99), cuts, cuts, st.sampled_from(["uint16", "float32"]), st.randoms())
def test_a_scene_looks_the_same_however_it_is_cut_and_in_whatever_order_its_windows_come(
    seed: int, rows: list[int], columns: list[int], dtype: str, order: Random
) -> None:
    data, bands = scene(seed, dtype), BANDS if dtype == "uint16" else FLOATS
    if dtype == "float32":
        data[:, :40, 7] = np.nan
    rows = [row for row in rows if row < 70] + [70]
    windows = [Window(21 + y0, 21 + y1, 5 + x0, 5 + x1) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]
    order.shuffle(windows)
    parts = [survey(data[:, *window.within(PLACE).slices], bands, window) for window in windows]
    assert contents(reduce(Survey.merged, parts)) == contents(survey(data, bands))


def test_parts_merge_in_groups_as_one_by_one() -> None:
    data = scene(1, "uint16")
    windows = [Window(21 + y, 21 + y + 35, 5, 95) for y in (0, 35)]
    a, b = (survey(data[:, *window.within(PLACE).slices], BANDS, window) for window in windows)
    assert contents(a.merged(b)) == contents(b.merged(a))


def test_parts_of_different_scenes_do_not_merge() -> None:
    elsewhere = Window(0, 70, 0, 90)
    with pytest.raises(ValueError, match="one place"):
        survey(scene(1, "uint16"), BANDS).merged(survey(scene(1, "uint16"), BANDS, elsewhere, elsewhere))


@law
@given(st.integers(0, 99))
def test_counts_are_those_of_the_pixels(seed: int) -> None:
    data = scene(seed, "uint16")
    quality = flags(data, BANDS)
    found = survey(data, BANDS)
    zero = (data == 0).all(axis=0)
    assert (found.pixels, found.missing) == (6300, np.count_nonzero((data == 9).all(axis=0)))
    assert (found.lit, found.zero) == (6300 - found.missing, np.count_nonzero(zero))
    assert found.out_of_range == np.count_nonzero(quality & Quality.OUT_OF_RANGE)
    assert found.zeros is not None
    assert found.zeros[1, 1] == np.count_nonzero(zero[11:27, 11:27])  # rows 32-48 and columns 16-32 of the grid
    assert found.zeros.sum() == found.zero


def test_pixels_at_night_are_neither_dark_by_fault_nor_lines() -> None:
    data = np.zeros((1, 70, 90), np.uint16)
    band = (BandSpec(name="vis", dtype="uint16", visible=True),)
    night = np.ones((70, 90), bool)
    found = Survey.of(data, flags(data, band, night=night), band, window=PLACE, place=PLACE)
    assert (found.lit, found.zero, int(found.rows.valid.sum())) == (0, 0, 0)


@law
@given(st.integers(0, 69), st.integers(0, 89), st.integers(0, 1), st.sampled_from(["uint16", "int16", "float32"]))
def test_one_changed_value_changes_the_fingerprint(row: int, column: int, band: int, dtype: str) -> None:
    bands = [BandSpec.model_validate({"name": name, "dtype": dtype}) for name in "ab"]
    data = np.random.default_rng(3).integers(10, 99, (2, 70, 90)).astype(dtype)
    other = data.copy()
    other[band, row, column] += 1
    assert survey(data, bands).fingerprint != survey(other, bands).fingerprint


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_in_other_rows_columns_or_bands_have_another_fingerprint(axis: int) -> None:
    bands = [BandSpec(name=name, dtype="uint16") for name in "ab"]
    data = np.random.default_rng(4).integers(10, 99, (2, 70, 90)).astype(np.uint16)
    assert survey(data, bands).fingerprint != survey(np.flip(data, axis), bands).fingerprint


def test_a_large_scene_is_sampled_on_a_lattice_of_the_grid() -> None:
    place = Window(0, 800, 0, 900)
    step = lattice_step(place.shape)
    data = np.arange(720_000, dtype=np.uint32).reshape(1, 800, 900)
    band = (BandSpec(name="b", dtype="uint32"),)
    found = survey(data, band, place, place)
    assert step == 3
    assert sorted(found.sample.tolist()) == data[0, ::3, ::3].ravel().tolist()


@pytest.mark.parametrize(
    ("fields", "spec", "expected"),
    [
        ({"units": "dBZ"}, {}, True),
        ({"units": "mm h-1"}, {}, True),
        ({"units": "mm/h"}, {}, True),
        ({"units": "kg m-2 s-1"}, {}, True),
        ({"floor": 0.0}, {}, True),
        ({"resampling": "nearest"}, {}, True),
        ({"units": "K"}, {}, False),
        ({"units": "1"}, {}, False),
        ({"units": "m"}, {}, False),
        ({"units": "dBZ", "forecast": False}, {}, False),
        ({"units": "dBZ"}, {"zeros_are_values": False}, False),
        ({"units": "K"}, {"zeros_are_values": True}, True),
    ],
)
def test_zero_is_a_measurement_of_what_can_be_absent(
    fields: dict[str, object], spec: dict[str, bool], expected: bool
) -> None:
    band = BandSpec.model_validate({"name": "b", "dtype": "uint16"} | fields)
    assert zeros_are_values([band], FirewallSpec.model_validate(spec)) is expected
