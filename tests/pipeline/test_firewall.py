from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.firewall import Impression, Verdict, level_steps, repeats, verdict
from pipeline.grid import Window, tiles
from pipeline.quality import flags
from pipeline.specs import BandSpec, FirewallSpec
from pipeline.survey import Survey

law = settings(max_examples=60, deadline=None)
BAND = BandSpec(name="sky", dtype="uint16", nodata=65535)
RAIN = BandSpec(name="rain", dtype="uint16", nodata=65535, units="mm h-1")
START = datetime(2024, 6, 1, tzinfo=UTC)
CORNER = (37, 5)  # of the scene in the grid: on no cell's corner


def judged(
    data: NDArray,
    bands: Sequence[BandSpec] = (BAND,),
    spec: FirewallSpec = FirewallSpec(),  # noqa: B008 - frozen
    masked: NDArray[np.bool_] | None = None,
) -> Verdict:
    """The verdict on a scene of ``(band, y, x)``, or of ``(y, x)`` for one band, whose corner lies at CORNER."""
    data = data.reshape(-1, *data.shape[-2:])
    (y, x), (height, width) = CORNER, data.shape[1:]
    place = Window(y, y + height, x, x + width)
    quality = flags(data, bands, masked)
    return verdict(Survey.of(data, quality, bands, window=place, place=place, spec=spec), bands, spec)


def lost_pixels(found: Verdict, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    lost = np.zeros(shape[-2:], bool)
    for window in found.lost:
        lost[window.within(Window(CORNER[0], 0, CORNER[1], 0)).slices] = True
    return lost


def sky(seed: int = 0, shape: tuple[int, int] = (300, 400)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(100, 9000, shape).astype(np.uint16)


def without_refusal(data: NDArray, **options: Any) -> bool:
    return judged(data, **options).refusal is None


def reason(data: NDArray, **options: Any) -> str | None:
    refusal = judged(data, **options).refusal
    return None if refusal is None else refusal.reason


def test_a_good_scene_passes() -> None:
    found = judged(sky())
    assert (found.refusal, found.lost) == (None, ())
    assert found.fingerprint > 0
    assert found.levels == pytest.approx((189, 4550, 8911), abs=60)


@pytest.mark.parametrize("rule", ["quarantine", "off"])
def test_a_scene_without_values_is_refused_by_rule(rule: Any) -> None:
    empty = np.full((40, 50), 65535, np.uint16)
    assert reason(empty, spec=FirewallSpec(all_nodata=rule)) == ("all-nodata" if rule == "quarantine" else None)
    empty[7, 7] = 1
    assert reason(empty) is None


@pytest.mark.parametrize(
    ("band", "spec", "expected"),
    [
        (BAND, {}, "all-zero"),
        (BAND, {"all_zero": "off"}, None),
        (BAND, {"zeros_are_values": True}, None),
        (RAIN, {}, None),
        (BAND.model_copy(update={"nodata": 0.0}), {}, "all-nodata"),
    ],
)
def test_a_scene_of_zeros_is_refused_where_zeros_are_no_values(
    band: BandSpec, spec: dict[str, Any], expected: str | None
) -> None:
    data = np.zeros((40, 50), np.uint16)
    data[:9] = int(band.fill)
    assert reason(data, bands=(band,), spec=FirewallSpec.model_validate(spec)) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.85, None), (0.95, "out-of-range")])
def test_a_scene_mostly_out_of_range_is_refused_and_told_why(share: float, expected: str | None) -> None:
    band = BAND.model_copy(update={"scale": 0.1, "units": "K", "valid_min": 170.0, "valid_max": 330.0})
    data = np.full((100, 100), 65535, np.uint16)
    data[:50] = 2800
    data[: round(50 * share)] = 280  # read with a scale that is wrong by 10
    found = judged(data, (band,))
    assert (found.refusal and found.refusal.reason) == expected
    assert found.refusal is None or "sky 170.0 to 330.0 K" in found.refusal.detail
    assert without_refusal(data, bands=(band,), spec=FirewallSpec(out_of_range="mask"))


@law
@given(st.integers(0, 240), st.integers(0, 340), st.integers(47, 200), st.integers(47, 200), st.integers(1, 2))
def test_a_lost_rectangle_of_three_cells_is_found_to_the_pixel(
    y: int, x: int, height: int, width: int, bands: int
) -> None:
    data = np.stack([sky(band) for band in range(bands)])
    y, x = min(y, 300 - height), min(x, 400 - width)
    data[:, y : y + height, x : x + width] = 0
    specs = [BAND.model_copy(update={"name": f"b{band}"}) for band in range(bands)]
    expected = (data == 0).all(axis=0)
    np.testing.assert_array_equal(lost_pixels(judged(data, specs), data.shape), expected)


@law
@given(st.integers(1, 29))
def test_a_file_that_was_cut_short_has_lost_the_blocks_at_its_end(written: int) -> None:
    data = sky()
    blocks = list(tiles(data.shape, 64))[written:]
    for block in blocks:
        data[block.slices] = 0
    found = lost_pixels(judged(data), data.shape)
    if written % 7 == 6 or written > 28:  # the row's last block is 16 px wide, too narrow for whole cells around it
        assert (found <= (data == 0)).all()
    else:
        np.testing.assert_array_equal(found, data == 0)


def test_blocks_of_a_rain_field_or_of_nodata_are_not_lost() -> None:
    data = sky()
    data[64:192, 64:192] = 0
    assert judged(data, (RAIN,)).lost == ()
    assert judged(data, (BAND.model_copy(update={"nodata": 0.0}),)).lost == ()
    assert judged(data, spec=FirewallSpec(lost="off")).lost == ()
    assert reason(data, spec=FirewallSpec(lost="quarantine")) == "lost-block"


@pytest.mark.parametrize("blur", [4, 12, 30])
@pytest.mark.parametrize("level", [-2.5, -1.5, 0.0, 1.5])
@pytest.mark.parametrize("coarse", [1, 4, 16])  # pixels that a coarser sensor repeats have straight sides as well
def test_shapes_of_nature_are_not_lost(blur: float, level: float, coarse: int) -> None:
    noise = np.random.default_rng(int(blur)).standard_normal((600 // coarse, 800 // coarse))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur / coarse)
    heights = np.clip((smooth / smooth.std() - level) * 300, 0, None).astype(np.uint16)
    data = np.kron(heights, np.ones((coarse, coarse), np.uint16))
    assert judged(data).lost == ()


@law
@given(st.integers(0, 295), st.integers(1, 5), st.sampled_from([0, 77, 65000]), st.integers(0, 300))
def test_lost_lines_are_found_between_rows_of_many_values(row: int, lines: int, value: int, nodata: int) -> None:
    data = sky()
    data[row : row + lines] = value
    data[:, :nodata] = 65535
    found = judged(data)
    assert np.flatnonzero(np.any(lost_pixels(found, data.shape), axis=1)).tolist() == list(range(row, row + lines))


def test_lines_of_zero_rain_of_nodata_or_of_a_common_value_are_not_lost() -> None:
    rain = np.where(np.random.default_rng(1).random((300, 400)) < 0.01, 0, sky())  # 0 is rare, yet a value
    rain[100:103] = 0
    assert judged(rain, (RAIN,)).lost == ()
    gap = sky()
    gap[100:103] = 65535
    assert judged(gap).lost == ()
    sea = sky()
    sea[:60], sea[60:, ::20] = 4000, 4000
    assert judged(sea).lost == ()


def test_a_row_of_few_pixels_is_not_lost() -> None:
    data = sky()
    data[100, :] = 65535
    data[100, :31] = 5
    assert judged(data).lost == ()
    data[100, :32] = 5
    assert len(judged(data).lost) == 1


def test_what_is_nearly_dry_has_no_fingerprint_and_what_is_nearly_hidden_no_levels() -> None:
    dry = np.zeros((300, 400), np.uint16)
    dry.flat[:99] = 5
    assert judged(dry, (RAIN,)).fingerprint == 0
    dry.flat[:100] = 5
    assert judged(dry, (RAIN,)).fingerprint > 0
    cloudy = np.ones((300, 400), bool)
    cloudy.flat[:99] = False
    assert np.isnan(judged(sky(), masked=cloudy).levels).all()


def test_the_fingerprint_is_of_the_values_not_of_the_mask() -> None:
    masked = np.zeros((300, 400), bool)
    masked[:100] = True
    assert judged(sky(), masked=masked).fingerprint == judged(sky()).fingerprint


def series(medians: Sequence[float], *, spread: float = 1000, minutes: float = 5, tile: str = "") -> list[Impression]:
    """Impressions at equal times with normal noise of 3 in their levels, fingerprints 1, 2, 3 ..."""
    noise = np.random.default_rng(7).normal(0, 3, (len(medians), 3))
    levels = np.array(medians)[:, None] + [-spread / 2, 0, spread / 2] + noise
    times = [START + index * timedelta(minutes=minutes) for index in range(len(medians))]
    return [
        Impression(time, tile, number, (low, middle, high))
        for number, (time, (low, middle, high)) in enumerate(zip(times, levels.tolist(), strict=True), 1)
    ]


def shuffled(scenes: list[Impression], judge: Callable[[list[Impression]], set[int]], seed: int) -> set[int]:
    """What ``judge`` says of the scenes in another order, as indices of ``scenes``."""
    order = list(range(len(scenes)))
    Random(seed).shuffle(order)
    return {order[index] for index in judge([scenes[index] for index in order])}


@law
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.integers(0, 3)), max_size=12), st.integers(0, 9))
def test_a_scene_repeats_one_of_its_tile_that_is_older_whatever_came_first(
    rows: list[tuple[int, str, int]], seed: int
) -> None:
    scenes = [Impression(START + timedelta(hours=hour), tile, print_, (0, 1, 2)) for hour, tile, print_ in rows]
    expected = {
        index
        for index, (hour, tile, print_) in enumerate(rows)
        if print_ and any((t, p) == (tile, print_) and h < hour for h, t, p in rows)
    }
    assert repeats(scenes) == expected
    assert shuffled(scenes, repeats, seed) == expected


def test_a_shifted_scene_is_told_from_its_neighbours() -> None:
    scenes = series([500.0] * 12)
    low, middle, high = scenes[8].levels
    scenes[8] = Impression(scenes[8].acquired, "", 99, (low + 300, middle + 300, high + 300))
    assert level_steps(scenes) == {8}


def test_a_lasting_shift_stays_one() -> None:
    assert level_steps(series([500.0] * 10 + [800.0] * 40)) == set(range(10, 50))


@pytest.mark.parametrize(
    "medians",
    [
        [500.0] * 4 + [800.0],  # too few before it
        [500.0] * 10 + [600.0] * 2,  # a tenth of the spread
        [500.0 + 40 * step for step in range(40)],  # a trend
        [500.0 + 300 * np.sin(step / 4) for step in range(60)],  # a daily course
        [500.0, 640.0] * 10,  # restless
        [500.0] * 7 + [620.0] * 3 + [450.0],  # back from an excursion
        [500.0] * 6 + [600.0] * 4 + [690.0],  # step by step
    ],
)
def test_what_is_usual_in_a_series_is_no_shift(medians: list[float]) -> None:
    assert level_steps(series(medians)) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((300, 300, 300), {10}),
        ((-300, -300, -300), {10}),
        ((300, 300, 600), set()),
        ((0, 300, 300), set()),
        ((230, 300, 370), set()),  # contrast grows with brightness
        ((2850, 3000, 3150), set()),  # another contrast altogether
    ],
)
def test_only_all_levels_together_shift(change: tuple[float, float, float], expected: set[int]) -> None:
    quiet = series([500.0] * 10)
    low, middle, high = np.add((0, 500, 1000), change).tolist()
    assert level_steps([*quiet, Impression(START + timedelta(minutes=50), "", 99, (low, middle, high))]) == expected


def test_after_a_long_pause_a_shift_may_be_the_season() -> None:
    scenes = series([500.0] * 10)
    low, middle, high = scenes[-1].levels
    rough = [Impression(s.acquired, "", 1, tuple(np.add(s.levels, 20 * (-1) ** i))) for i, s in enumerate(scenes)]
    shifted = (low + 450, middle + 450, high + 450)
    soon, late = START + timedelta(minutes=50), START + timedelta(minutes=500)
    assert level_steps([*rough, Impression(soon, "", 99, shifted)]) == {10}
    assert level_steps([*rough, Impression(late, "", 99, shifted)]) == set()


def test_scenes_without_levels_are_passed_over() -> None:
    scenes = series([500.0] * 8 + [800.0])
    scenes[3] = Impression(scenes[3].acquired, "", 0, (np.nan, np.nan, np.nan))
    assert level_steps(scenes) == {8}


@law
@given(st.lists(st.sampled_from([500.0, 500.0, 500.0, 800.0]), max_size=40), st.integers(0, 9), st.integers(0, 40))
def test_levels_are_judged_alike_in_any_order_with_other_tiles_and_from_any_time_on(
    medians: list[float], seed: int, known: int
) -> None:
    scenes = series(medians)
    expected = level_steps(scenes)
    assert shuffled(scenes, level_steps, seed) == expected
    assert level_steps([*scenes, *series([9000.0] * 30, tile="other")]) == expected
    since = START + known * timedelta(minutes=5)
    assert level_steps(scenes, since=since, known={index for index in expected if index < known}) == expected


SETS: dict[str, dict[str, Any]] = {
    "hrv_1km_20200401": {"dtype": "int16", "visible": True},
    "fmi_1km_20160928": {"dtype": "uint8", "scale": 0.5, "offset": -32.0, "nodata": 255.0},
    "knmi_1km_20100826": {"dtype": "uint16", "scale": 0.01, "nodata": 65535.0},
    "typhoon200717_ir": {"dtype": "uint16", "scale": 0.01, "units": "K"},
    "typhoon200717_relative": {"dtype": "uint16", "scale": 0.01, "units": "K"},
    "tura_ndvi": {"dtype": "int16", "scale": 1e-4, "nodata": -32768.0, "valid_min": -1.0, "valid_max": 1.0},
    "s2_slovenia": {"dtype": "float32"},
    "sinop_modis_ndvi": {"dtype": "int16"},
    "l8_newyork_2018": {"dtype": "uint16", "nodata": 0.0},
}
LARGE = {
    "fmi_250m_20160928": {"dtype": "uint8", "scale": 0.5, "offset": -32.0, "nodata": 255.0},
    "mrms_conus_1km_20190610": {"dtype": "float32", "nodata": -3.0},
}


def read(path: Path, fields: dict[str, Any]) -> tuple[NDArray, list[BandSpec], NDArray[np.bool_] | None]:
    with rasterio.open(path) as file:
        data = file.read()
    bands = [BandSpec(name=f"b{index}", **fields) for index in range(len(data))]
    masks = list((path.parent / "mask").glob(f"{path.stem}*"))
    if not masks:
        return data, bands, None
    with rasterio.open(masks[0]) as file:
        return data, bands, file.read(1) == 1


def impressions(folder: Path, fields: dict[str, Any]) -> tuple[list[Impression], list[Verdict]]:
    """Of all scenes of a folder; its irregular times are kept to the day or minute."""
    found = [judged(data, bands, masked=mask) for data, bands, mask in _scenes(folder, fields)]
    times = [_time(path) for path in sorted(folder.glob("*.tif"))]
    return [Impression(t, "", v.fingerprint, v.levels) for t, v in zip(times, found, strict=True)], found


def _scenes(folder: Path, fields: dict[str, Any]) -> list[Any]:
    return [read(path, fields) for path in sorted(folder.glob("*.tif"))]


def _time(path: Path) -> datetime:
    digits = "".join(c for c in path.stem.rpartition("_")[2] if c.isdigit())
    return datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)


@pytest.mark.parametrize("name", [*SETS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_of_the_real_scenes_only_the_empty_ones_are_refused_and_none_is_flagged(shared_data: Path, name: str) -> None:
    scenes, found = impressions(shared_data / name, (SETS | LARGE)[name])
    reasons = [v.refusal.reason for v in found if v.refusal is not None]
    assert reasons == ["all-nodata"] * (24 if name == "tura_ndvi" else 0)
    assert [v.lost for v in found if v.lost] == []
    assert repeats(scenes) == set()
    assert level_steps(scenes) == set()


@pytest.fixture(scope="module")
def hrv(shared_data: Path) -> list[NDArray]:
    return [data for data, _, _ in _scenes(shared_data / "hrv_1km_20200401", SETS["hrv_1km_20200401"])]


HRV = [BandSpec(name="hrv", **SETS["hrv_1km_20200401"])]


@pytest.mark.parametrize(
    "hole", [(slice(100, 164), slice(900, 964)), (slice(333, 633), slice(1001, 1501)), (slice(400, 403), slice(None))]
)
def test_a_hole_in_a_real_scene_is_found_to_the_pixel(hrv: list[NDArray], hole: tuple[slice, slice]) -> None:
    data = hrv[5].copy()
    data[:, *hole] = 0
    np.testing.assert_array_equal(lost_pixels(judged(data, HRV), data.shape), data[0] == 0)


def test_a_real_scene_of_zeros_or_nine_tenths_of_a_file_are_noticed(hrv: list[NDArray]) -> None:
    assert reason(np.zeros_like(hrv[0]), bands=HRV) == "all-zero"
    data = hrv[3].copy()
    for block in list(tiles(data.shape[1:], 256))[-5:]:
        data[:, *block.slices] = 0
    np.testing.assert_array_equal(lost_pixels(judged(data, HRV), data.shape), data[0] == 0)


def test_a_real_frame_that_comes_again_or_is_brighter_by_a_fifth_is_told(hrv: list[NDArray]) -> None:
    frames = [*hrv[:9], hrv[8], hrv[10] + np.int16(150), *hrv[11:]]
    found = [judged(frame, HRV) for frame in frames]
    scenes = [Impression(START + n * timedelta(minutes=5), "", v.fingerprint, v.levels) for n, v in enumerate(found)]
    assert repeats(scenes) == {9}
    assert level_steps(scenes) == {10}
