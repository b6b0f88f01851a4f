from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.quality import Quality, flags, missing
from pipeline.specs import BandSpec

RADAR = BandSpec(name="rain", dtype="uint8", scale=0.1, nodata=255, valid_min=0.3, valid_max=20)
FLOAT = BandSpec(name="ndvi", dtype="float32", valid_min=-1, valid_max=1)

layers = hnp.arrays(np.uint8, (2, 3, 4))
masks = hnp.arrays(np.bool_, (3, 4))


@given(layers, masks)
def test_a_pixel_is_good_exactly_where_it_is_present_in_range_and_unmasked(
    data: np.ndarray, masked: np.ndarray
) -> None:
    bands = (RADAR, RADAR.model_copy(update={"name": "other", "valid_max": None}))
    value = data * 0.1
    present = data != 255
    outside = present & ((value < 0.3 - 1e-6) | (value > np.array([20 + 1e-6, np.inf])[:, None, None]))
    good = present.any(axis=0) & ~outside.any(axis=0) & ~masked
    np.testing.assert_array_equal(flags(data, bands, masked) == 0, good)


@given(layers, masks)
def test_each_flag_stands_for_its_own_fault(data: np.ndarray, masked: np.ndarray) -> None:
    result = flags(data, (RADAR, RADAR), masked)
    np.testing.assert_array_equal((result & Quality.MASKED) > 0, masked)
    np.testing.assert_array_equal((result & Quality.MISSING) > 0, (data == 255).all(axis=0))


@pytest.mark.parametrize(("value", "expected"), [(3, 0), (2, 4), (200, 0), (201, 4), (255, 1)])
def test_limits_of_a_range_belong_to_it_though_tenths_are_not_exact(value: int, expected: int) -> None:
    assert flags(np.array([[[value]]], np.uint8), (RADAR,))[0, 0] == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_missing_also_beside_a_declared_nodata(value: float) -> None:
    data = np.array([value, -9999, 0.5], np.float32)
    declared = FLOAT.model_copy(update={"nodata": -9999.0})
    assert missing(data, FLOAT).tolist() == [True, False, False]
    assert missing(data, declared).tolist() == [True, True, False]


@given(st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32"]))
def test_without_a_declared_nodata_the_fill_of_the_cube_is_missing(dtype: str) -> None:
    band = BandSpec(name="b", dtype=dtype)
    assert missing(np.array([band.fill, 1], dtype), band).tolist() == [True, False]
