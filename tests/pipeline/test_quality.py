from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.quality import STRIP, Quality, flags, missing, unusable
from pipeline.specs import BandSpec, FirewallSpec

RADAR = BandSpec(name="rain", dtype="uint8", scale=0.1, nodata=255, valid_min=0.3, valid_max=20)
FLOAT = BandSpec(name="ndvi", dtype="float32", valid_min=-1, valid_max=1)

law = settings(deadline=None)
layers = hnp.arrays(np.uint8, (2, 3, 4))
masks = hnp.arrays(np.bool_, (3, 4))


@law
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


@law
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


@law
@given(st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32"]))
def test_without_a_declared_nodata_the_fill_of_the_cube_is_missing(dtype: str) -> None:
    band = BandSpec.model_validate({"name": "b", "dtype": dtype})
    assert missing(np.array([band.fill, 1], dtype), band).tolist() == [True, False]


@law
@given(layers, st.floats(-50, 300), st.floats(-50, 300), st.sampled_from([0.1, -0.1, 1.0, -2.5]))
def test_a_range_in_dn_is_the_range_in_units_whatever_the_sign_of_the_scale(
    data: np.ndarray, low: float, high: float, scale: float
) -> None:
    band = BandSpec(name="b", dtype="uint8", scale=scale, offset=3, nodata=7, valid_min=low, valid_max=high)
    value, slack = data * scale + 3, abs(scale) * 1e-6
    outside = ((data != 7) & ((value < low - slack) | (value > high + slack))).any(axis=0)
    np.testing.assert_array_equal((flags(data, (band, band)) & Quality.OUT_OF_RANGE) > 0, outside)


@pytest.mark.parametrize(
    ("band", "values", "saturated"),
    [
        ({"dtype": "uint8"}, [254, 255], [False, False]),  # 255 is the fill of the cube
        ({"dtype": "uint8", "nodata": 0}, [254, 255], [False, True]),
        ({"dtype": "int16"}, [-32768, 32767], [False, True]),
        ({"dtype": "uint16", "nodata": 65535}, [65534, 65535], [False, False]),
        (
            {"dtype": "uint16", "nodata": 65535, "saturated": 1023},
            [1022, 1023, 1024, 65535],
            [False, True, True, False],
        ),
        ({"dtype": "float32"}, [3e38, np.inf, np.nan], [False, False, False]),
        ({"dtype": "float32", "saturated": 1.5}, [1.4, 1.5, np.inf, np.nan], [False, True, False, False]),
    ],
)
def test_a_sensor_is_saturated_from_its_dn_on_or_at_the_end_of_the_type(
    band: dict[str, Any], values: list[float], saturated: list[bool]
) -> None:
    spec = BandSpec(name="b", **band)
    quality = flags(np.array([[values]], spec.dtype), (spec,))
    assert ((quality[0] & Quality.SATURATED) > 0).tolist() == saturated


@pytest.mark.parametrize(("rule", "flagged", "hidden"), [("off", 0, 0), ("flag", 1, 0), ("mask", 1, 1)])
def test_saturation_and_night_hide_pixels_only_by_the_rule_mask(rule: Any, flagged: int, hidden: int) -> None:
    data = np.array([[[255, 9]]], np.uint8)
    band = BandSpec(name="b", dtype="uint8", nodata=0)
    bright = flags(data, (band,), firewall=FirewallSpec(saturation=rule))
    dark = flags(data, (band,), night=np.array([[False, True]]), firewall=FirewallSpec(saturation="off", night=rule))
    assert ((bright & Quality.SATURATED) > 0).tolist() == [[flagged, 0]]
    assert ((dark & Quality.NIGHT) > 0).tolist() == [[0, flagged]]
    assert unusable(bright).tolist() == [[hidden, 0]]
    assert unusable(dark).tolist() == [[0, hidden]]


def test_a_window_of_several_strips_is_flagged_as_its_rows_are() -> None:
    width = STRIP // 2
    data = np.random.default_rng(5).integers(0, 256, (2, 5, width)).astype(np.uint8)
    whole = flags(data, (RADAR, RADAR))
    rows = [flags(data[:, row : row + 1], (RADAR, RADAR)) for row in range(5)]
    np.testing.assert_array_equal(whole, np.concatenate(rows))
