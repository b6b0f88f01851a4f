from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from rasterio.transform import Affine

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.inspect import Guess, Question, inspect, render, write
from pipeline.scene import acquisition_time
from pipeline.series import stamps, step_of
from pipeline.specs import AxisSpec, BandSpec, GridSpec, MotionSpec, ProductSpec, SampleSpec, SceneSpec, TrainingSpec

SECTIONS = ("product", "scenes", "bands", "grid", "axis", "samples", "motion", "training")
REAL = (
    "hrv_1km_20200401",
    "fmi_1km_20160928",
    "fmi_250m_20160928",
    "knmi_1km_20100826",
    "typhoon200717_relative",
    "typhoon200717_ir",
    "tura_ndvi",
    "s2_slovenia",
    "sinop_modis_ndvi",
    "mrms_conus_1km_20190610",
    "l8_newyork_2018",
)
UTM: dict[str, Any] = {"crs": "EPSG:32633", "transform": Affine(10, 0, 465_000, 0, -10, 5_080_000)}


def scene(path: Path, *, tags: dict[str, str] | None = None, values: ArrayLike = 1, **profile: Any) -> Path:
    """A small GeoTIFF; every pixel has the value, or the values of an array ``(band, y, x)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"driver": "GTiff", "width": 20, "height": 16, "count": 1, "dtype": "uint8", **UTM, **profile}
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(np.broadcast_to(values, (options["count"], 16, 20)).astype(options["dtype"]))
        dataset.update_tags(**(tags or {}))
    return path


def series(folder: Path, times: Sequence[datetime], form: str = "a_%Y%m%dT%H%MZ.tif", **profile: Any) -> Path:
    for time in times:
        scene(folder / time.strftime(form), **profile)
    return folder


def every(step: timedelta, count: int, start: datetime = datetime(2020, 4, 1, 12, tzinfo=UTC)) -> list[datetime]:
    return [start + n * step for n in range(count)]


def loaded_sections(guess: Guess, path: Path) -> list[str]:
    """As text, since a nodata of NaN is not equal to itself."""
    settings = load(path)
    assert settings.workspace == (path.parent / guess.workspace).resolve()
    return [repr(getattr(settings, section)) for section in SECTIONS]


@pytest.mark.parametrize("name", REAL)
def test_what_is_guessed_from_real_scenes_is_what_the_file_says(shared_data: Path, tmp_path: Path, name: str) -> None:
    guess = inspect(shared_data / name)
    write(guess, tmp_path / "product.toml")
    guess = replace(guess, motion=guess.motion.limited(guess.grid.geobox(), guess.axis.cadence))
    assert loaded_sections(guess, tmp_path / "product.toml") == [repr(getattr(guess, s)) for s in SECTIONS]


@pytest.mark.parametrize("name", REAL)
def test_every_real_scene_has_a_time_by_the_guess_and_none_is_older_than_the_origin(
    shared_data: Path, name: str
) -> None:
    guess = inspect(shared_data / name)
    times = [acquisition_time(path.name, {}, guess.scenes) for path in (shared_data / name).glob("*.tif")]
    assert min(times) == guess.axis.origin


@pytest.mark.parametrize(
    ("name", "cadence", "motion"),
    [
        ("hrv_1km_20200401", timedelta(minutes=5), "dis"),
        ("knmi_1km_20100826", timedelta(minutes=5), "dis"),
        ("typhoon200717_relative", timedelta(hours=1), "dis"),
        ("mrms_conus_1km_20190610", timedelta(minutes=2), "dis"),
        ("s2_slovenia", timedelta(days=5), "none"),
        ("tura_ndvi", timedelta(days=16), "none"),
        ("l8_newyork_2018", timedelta(days=16), "none"),
        ("sinop_modis_ndvi", timedelta(days=32), "none"),
    ],
)
def test_the_rhythm_of_real_scenes_is_found(shared_data: Path, name: str, cadence: timedelta, motion: str) -> None:
    guess = inspect(shared_data / name)
    assert (guess.axis.cadence, guess.motion.method) == (cadence, motion)


def test_nodata_and_scale_that_stand_in_text_tags_only_are_found(shared_data: Path) -> None:
    (band,) = inspect(shared_data / "fmi_250m_20160928").bands
    assert (band.nodata, band.scale, band.offset, band.units, band.floor) == (255, 0.5, -32, "dBZ", 0)


@pytest.mark.parametrize(
    ("name", "transform"),
    [("knmi_1km_20100826", "log"), ("fmi_1km_20160928", "none"), ("hrv_1km_20200401", "none"), ("tura_ndvi", "none")],
)
def test_only_amounts_of_rain_are_learned_on_their_logarithm(shared_data: Path, name: str, transform: str) -> None:
    assert [band.transform for band in inspect(shared_data / name).bands] == [transform]


def test_masks_beside_real_scenes_are_found(shared_data: Path) -> None:
    guess = inspect(shared_data / "s2_slovenia")
    assert guess.scenes.mask is not None
    assert (guess.scenes.mask.suffix, guess.scenes.mask.values) == ("_clm", (1,))
    assert [(band.name, band.forecast) for band in guess.bands] == [("NDVI", True), ("cloud_probability", False)]


def test_scenes_on_several_grids_are_not_passed_over(shared_data: Path) -> None:
    assert any(note.startswith("6 different grids") for note in inspect(shared_data / "l8_newyork_2018").notes)


@pytest.mark.parametrize(
    "form",
    [
        "%Y%m%dT%H%MZ",
        "%Y%m%dT%H%M%SZ",
        "%Y%m%dT%H%M%S",
        "%Y%m%d%H%M",
        "%Y%m%d%H%M%S",
        "%Y%m%d_%H%M",
        "%Y-%m-%dT%H-%M",
        "%Y-%m-%d_%H-%M-%S",
        "%Y_%m_%d",
        "%Y%m%d%H",
        "%Y%m%d",
        "%Y%j",
        "%Y-%j",
        "%Y%jT%H%M",
    ],
)
@pytest.mark.parametrize("around", [("", ""), ("fmi250_", "_v2"), ("A", ".h12v04")])
def test_common_ways_to_write_a_time_are_read(tmp_path: Path, form: str, around: tuple[str, str]) -> None:
    times = every(timedelta(days=1), 3)
    series(tmp_path, times, f"{around[0]}{form}{around[1]}.tif")
    guess = inspect(tmp_path)
    assert guess.scenes.pattern == f"{around[0]}{{time}}{around[1]}.tif"
    assert guess.scenes.time_format == form


@pytest.mark.parametrize(
    "name", ["T014032_999999.tif", "band_20.tif", "h12v04.tif", "20201301.tif", "120200401.tif", "2020.tif"]
)
def test_digits_that_are_no_date_are_no_stamp(name: str) -> None:
    assert stamps(name) == []


def test_of_two_stamps_the_one_that_differs_is_the_acquisition(tmp_path: Path) -> None:
    series(tmp_path, every(timedelta(days=1), 4), "%Y%m%d_made_20240101T1200Z.tif")
    assert inspect(tmp_path).scenes.pattern == "{time}_made_20240101T1200Z.tif"


def test_of_two_stamps_alike_the_first_is_the_acquisition(tmp_path: Path) -> None:
    for day in range(1, 5):
        scene(tmp_path / f"LC08_014032_2018030{day}_2018041{day}_0{day}_T1.tif")
    guess = inspect(tmp_path)
    assert guess.scenes.pattern == "LC08_014032_{time}_*_T1.tif"
    assert guess.axis.origin == datetime(2018, 3, 1, tzinfo=UTC)


def test_the_day_of_the_year_is_not_taken_for_the_time_of_production(tmp_path: Path) -> None:
    for day in (92, 108, 124):
        scene(tmp_path / f"MOD13Q1.A2020{day:03}.h12v04.006.2020{day + 9}123456.tif")
    guess = inspect(tmp_path)
    assert guess.scenes.pattern == "MOD13Q1.A{time}.h12v04.006.*.tif"
    assert guess.axis.cadence == timedelta(days=16)


def test_satellites_of_one_series_share_a_pattern(tmp_path: Path) -> None:
    for number, time in enumerate(every(timedelta(days=5), 6)):
        scene(tmp_path / f"S2{'AB'[number % 2]}_{time:%Y%m%dT%H%M%S}_ndvi.tif")
    guess = inspect(tmp_path)
    assert guess.scenes.pattern == "*_{time}_ndvi.tif"
    assert guess.axis.cadence == timedelta(days=5)


def test_masks_among_the_scenes_are_no_scenes(tmp_path: Path) -> None:
    times = every(timedelta(minutes=5), 6)
    series(tmp_path, times)
    series(tmp_path, times[:5], "a_%Y%m%dT%H%MZ_clm.tif")
    guess = inspect(tmp_path)
    assert guess.scenes.pattern == "a_{time}.tif"
    assert any(note.startswith("5 of 11 files are no scenes") for note in guess.notes)


@pytest.mark.parametrize(
    ("tags", "tag", "form"),
    [
        ({"TIFFTAG_DATETIME": "2020:04:0{} 12:00:00"}, "TIFFTAG_DATETIME", "%Y:%m:%d %H:%M:%S"),
        (
            {"acquired": "2020-04-0{}T12:00:00Z", "TIFFTAG_DATETIME": "2024:01:01 00:00:00"},
            "acquired",
            "%Y-%m-%dT%H:%M:%SZ",
        ),
    ],
)
def test_without_times_in_names_a_tag_gives_them(tmp_path: Path, tags: dict[str, str], tag: str, form: str) -> None:
    for day in range(1, 5):
        scene(tmp_path / f"scene{day}.tif", tags={key: text.format(day) for key, text in tags.items()})
    guess = inspect(tmp_path)
    assert (guess.scenes.time_tag, guess.scenes.time_format, guess.scenes.pattern) == (tag, form, "*.tif")
    assert guess.axis.origin == datetime(2020, 4, 1, 12, tzinfo=UTC)
    assert guess.axis.cadence == timedelta(days=1)


@given(
    st.sampled_from([60, 120, 300, 600, 900, 1800, 3600, 10_800, 86_400, 5 * 86_400, 16 * 86_400]),
    st.lists(st.booleans(), min_size=12, max_size=60).filter(lambda kept: sum(kept) > 8),
)
def test_a_step_with_gaps_is_found_as_soon_as_it_is_the_only_one(step: int, kept: list[bool]) -> None:
    slots = np.flatnonzero(kept)
    found = step_of(slots * step)
    assert found is not None
    assert found == np.gcd.reduce(np.diff(slots)) * step


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_scenes_some_seconds_late_keep_their_step(count: int, seed: int) -> None:
    late = np.random.default_rng(seed).integers(0, 10, count)
    late[0] = late[-1] = 0
    assert step_of(np.arange(count) * 300 + late) == 300


def test_scenes_faster_than_the_axis_can_count_ask_for_the_cadence(tmp_path: Path) -> None:
    guess = inspect(series(tmp_path, every(timedelta(seconds=20), 9), "a_%Y%m%dT%H%M%SZ.tif"))
    assert guess.axis.cadence == timedelta(minutes=1)
    assert guess.questions[-1].field == "axis.cadence"


def test_scenes_without_rhythm_ask_for_the_cadence(tmp_path: Path) -> None:
    hours = np.cumsum(np.random.default_rng(5).exponential(60, 30))
    series(tmp_path, [datetime(2020, 4, 1, tzinfo=UTC) + timedelta(minutes=int(60 * h)) for h in hours])
    guess = inspect(tmp_path)
    assert guess.questions[-1].field == "axis.cadence"
    assert timedelta(days=1) <= guess.axis.cadence <= timedelta(days=7)


def test_a_single_scene_gives_a_configuration_and_a_question(tmp_path: Path) -> None:
    guess = inspect(series(tmp_path, every(timedelta(days=1), 1)))
    assert (guess.samples.context_frames, guess.samples.horizon) == (1, 1)
    assert guess.questions[-1].field == "axis.cadence"


def test_the_answer_to_the_cadence_tells_whether_anything_moves(tmp_path: Path) -> None:
    guess = inspect(series(tmp_path, every(timedelta(days=1), 1)))
    answered = guess.answered(lambda question: "PT5M" if question.field == "axis.cadence" else question.default)
    assert (guess.motion.method, answered.motion.method) == ("none", "dis")
    assert answered.axis.cadence == timedelta(minutes=5)


@pytest.mark.parametrize("count", [2, 5, 11, 16, 24, 60, 250])
def test_context_and_horizon_take_at_most_a_quarter_of_the_scenes_each(tmp_path: Path, count: int) -> None:
    samples = inspect(series(tmp_path, every(timedelta(minutes=5), count))).samples
    assert 1 <= samples.context_frames <= max(1, count // 4)
    assert 1 <= samples.horizon <= max(1, count // 4)
    assert samples.test_fraction == (0.4 if count < 200 else 0.2)


def test_what_the_header_says_of_bands_is_taken_over(tmp_path: Path) -> None:
    for path in series(tmp_path, every(timedelta(hours=1), 5), count=2, dtype="int16", nodata=-99).iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("sea surface temperature (°C)", "sea surface temperature (°C)")
            dataset.scales, dataset.offsets, dataset.units = (0.01, 1.0), (5.0, 0.0), ("degC", "")
    first, second = inspect(tmp_path).bands
    assert (first.name, second.name) == ("sea_surface_temperature_C_1", "sea_surface_temperature_C_2")
    assert (first.units, first.scale, first.offset, first.nodata) == ("degC", 0.01, 5.0, -99)
    assert (second.units, second.scale, second.offset, second.nodata) == ("1", 1.0, 0.0, -99)


def test_of_several_grids_the_commonest_is_taken(tmp_path: Path) -> None:
    times = every(timedelta(hours=1), 9)
    series(tmp_path, times[:3], transform=Affine(30, 0, 0, 0, -30, 0))
    series(tmp_path, times[3:])
    guess = inspect(tmp_path)
    assert guess.grid.transform == (10, 0, 465_000, 0, -10, 5_080_000)
    assert any(note.startswith("2 different grids: 6 of 9") for note in guess.notes)


@pytest.mark.parametrize(
    ("transform", "off_grid", "said"),
    [
        (Affine(10, 0, 465_005, 0, -10, 5_080_000), "warp", "are warped onto it (scenes.off_grid)"),
        (Affine(20, 0, 465_000, 0, -20, 5_080_000), "warp", "are warped onto it (scenes.off_grid)"),
        (Affine(10, 0, 465_050, 0, -10, 5_080_000), "refuse", "What lies beyond it is left out"),
        (Affine(30, 0, 0, 0, -30, 0), "refuse", "does not touch it is refused"),
    ],
)
def test_scenes_are_warped_where_they_touch_the_grid_on_pixels_of_their_own(
    tmp_path: Path, transform: Affine, off_grid: str, said: str
) -> None:
    times = every(timedelta(hours=1), 9)
    series(tmp_path, times[:3], transform=transform)
    series(tmp_path, times[3:])
    guess = inspect(tmp_path)
    assert guess.scenes.off_grid == off_grid
    assert any(said in note for note in guess.notes)


@pytest.mark.parametrize("name", ["l8_newyork_2018", "typhoon200717_ir"])
def test_real_scenes_with_a_grid_each_are_warped(shared_data: Path, tmp_path: Path, name: str) -> None:
    write(inspect(shared_data / name), tmp_path / "product.toml")
    assert load(tmp_path / "product.toml").scenes.off_grid == "warp"


def test_bounds_cut_the_grid_on_whole_pixels(tmp_path: Path) -> None:
    series(tmp_path, every(timedelta(hours=1), 5))
    whole = inspect(tmp_path).grid
    part = inspect(tmp_path, (465_051, 5_079_880, 465_110, 5_079_991)).grid
    assert part.transform == (10, 0, 465_050, 0, -10, 5_080_000)
    assert (part.width, part.height, part.crs) == (6, 12, whole.crs)
    assert inspect(tmp_path, (0, 0, 1e7, 1e7)).grid == whole


@pytest.mark.parametrize("bounds", [(0, 0, 1, 1), (465_110, 5_079_880, 465_050, 5_079_990)])
def test_bounds_without_a_scene_say_what_the_scenes_cover(
    tmp_path: Path, bounds: tuple[float, float, float, float]
) -> None:
    series(tmp_path, every(timedelta(hours=1), 5))
    with pytest.raises(ConfigError, match="the scenes cover 465000,5079840,465200,5080000"):
        inspect(tmp_path, bounds)


def test_the_scale_that_all_scenes_declare_becomes_a_rule(tmp_path: Path) -> None:
    for path in series(tmp_path, every(timedelta(hours=1), 5), count=2).iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (0.01, 1.0), (5.0, 0.0)
    assert [band.declared for band in inspect(tmp_path).bands] == [(0.01, 5), None]
    with rasterio.open(next(tmp_path.iterdir()), "r+") as dataset:
        dataset.scales, dataset.offsets = (0.01, 1.0), (4.0, 0.0)
    first, _ = inspect(tmp_path).bands
    assert (first.scale, first.offset, first.declared) == (0.01, 5, None)


def test_categories_are_not_mixed_when_warped(tmp_path: Path) -> None:
    for path in series(tmp_path, every(timedelta(hours=1), 5), count=3).iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("ndvi", "pixel_qa", "cloud probability")
    assert [band.resampling for band in inspect(tmp_path).bands] == ["bilinear", "nearest", "bilinear"]


def test_a_band_with_a_colour_table_holds_categories(tmp_path: Path) -> None:
    for time in every(timedelta(hours=1), 5):
        path = tmp_path / f"a_{time:%Y%m%dT%H%MZ}.tif"
        with rasterio.open(path, "w", driver="GTiff", width=20, height=16, count=1, dtype="uint8", **UTM) as dataset:
            dataset.write(np.ones((1, 16, 20), np.uint8))
            dataset.write_colormap(1, {1: (255, 0, 0, 255)})
    (band,) = inspect(tmp_path).bands
    assert band.resampling == "nearest"


ZEROS = (np.arange(320).reshape(1, 16, 20) % 50 > 0) * 7  # 2 %


@pytest.mark.parametrize(
    ("values", "nodata", "zeros"), [(ZEROS, None, True), (ZEROS, 255, True), (ZEROS, 0, None), (7, None, None)]
)
def test_zeros_that_are_common_and_no_nodata_are_values(
    tmp_path: Path, values: ArrayLike, nodata: float | None, zeros: bool | None
) -> None:
    series(tmp_path, every(timedelta(hours=1), 5), values=values, nodata=nodata)
    guess = inspect(tmp_path)
    assert guess.scenes.firewall.zeros_are_values is zeros
    write(guess, tmp_path / "product.toml")
    assert ("[scenes.firewall]" in (tmp_path / "product.toml").read_text()) is (zeros is True)
    assert load(tmp_path / "product.toml").scenes.firewall == guess.scenes.firewall


def test_zeros_of_a_few_scenes_are_no_rule(tmp_path: Path) -> None:
    times = every(timedelta(hours=1), 8)
    series(tmp_path, times[:3], values=ZEROS)
    series(tmp_path, times[3:], values=7)
    assert inspect(tmp_path).scenes.firewall.zeros_are_values is None


def test_the_period_of_accumulations_is_read_from_the_scenes(shared_data: Path) -> None:
    (band,) = inspect(shared_data / "knmi_1km_20100826").bands
    assert band.period == timedelta(minutes=5)
    assert [band.period for band in inspect(shared_data / "fmi_1km_20160928").bands] == [None]


def test_other_mask_values_are_seen_in_the_masks(tmp_path: Path) -> None:
    times = every(timedelta(days=5), 6)
    series(tmp_path / "s", times)
    series(tmp_path / "s" / "cloudmasks", times, values=255 * (np.arange(20) > 10), form="a_%Y%m%dT%H%MZ.tif")
    mask = inspect(tmp_path / "s").scenes.mask
    assert mask is not None
    assert (mask.folder, mask.suffix, mask.values) == (tmp_path / "s" / "cloudmasks", "", (255,))


def test_a_few_broken_files_are_noted_and_do_not_stop(tmp_path: Path) -> None:
    series(tmp_path, every(timedelta(minutes=5), 8))
    (tmp_path / "a_20200401T1300Z.tif").write_bytes(b"II*\0 no tiff")
    (tmp_path / "a_20200401T1305Z.tif").touch()
    guess = inspect(tmp_path)
    assert guess.grid.width == 20
    assert any(note.startswith("2 of 10 files cannot be opened: a_20200401T1300Z.tif") for note in guess.notes)


def test_a_vrt_that_calls_itself_tif_is_not_followed(tmp_path: Path) -> None:
    other = scene(tmp_path / "elsewhere" / "secret.tif")
    vrt = f'<VRTDataset rasterXSize="20" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>\
<SourceFilename>{other}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a_20200401T1200Z.tif").write_text(vrt)
    with pytest.raises(ConfigError, match="none of 1 does"):
        inspect(tmp_path / "inbox")


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _empty(folder: Path) -> Path:
    return folder


def _one_below(folder: Path) -> Path:
    scene(folder / "2020" / "a_20200401.tif")
    return folder


def _broken(folder: Path) -> Path:
    (folder / "a_20200401.tif").write_bytes(b"no tiff")
    return folder


def _nowhere_on_earth(folder: Path) -> Path:
    scene(folder / "a_20200401.tif", crs=None)
    return folder


def _without_time(folder: Path) -> Path:
    scene(folder / "a.tif")
    return folder


def _complex(folder: Path) -> Path:
    scene(folder / "a_20200401.tif", dtype="complex64")
    return folder


def _links(folder: Path) -> Path:
    (folder / "a_20200401.tif").symlink_to(scene(folder / "elsewhere" / "a.tif"))
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_missing, "nowhere is none: check the path"),
        (_empty, "there is none: name the folder that holds them"),
        (_one_below, r"name a folder below it \(2020\)"),
        (_broken, "none of 1 does: a_20200401.tif"),
        (_nowhere_on_earth, "every scene has a CRS and a geotransform"),
        (_without_time, "every scene has its acquisition time in the file name or in a TIFF tag"),
        (_complex, r"has band 1 \(complex64\)"),
        (_links, "1 links or folders of that name, which are not followed"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the test writes such a scene
def test_a_folder_that_gives_no_configuration_says_why_and_what_to_do(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inspect(make(tmp_path))


@pytest.fixture
def guess(tmp_path: Path) -> Guess:
    return inspect(series(tmp_path / "Made Up (1)", every(timedelta(minutes=5), 16)))


def test_a_guess_without_answers_stands(guess: Guess) -> None:
    answered = guess.answered(lambda question: question.default)
    assert answered.product == guess.product
    assert answered.bands == guess.bands
    assert answered.questions == ()


@pytest.mark.parametrize(
    ("unit", "transform", "floor"),
    [("mm/h", "log", None), ("kg m-2 s-1", "log", None), ("dBZ", "none", 0), ("K", "none", None)],
)
def test_the_answer_to_the_unit_tells_how_a_band_is_learned(
    guess: Guess, unit: str, transform: str, floor: float | None
) -> None:
    answered = guess.answered(lambda question: unit if question.field == "bands.made.units" else question.default)
    (band,) = answered.bands
    assert (band.units, band.transform, band.floor) == (unit, transform, floor)


def test_answers_go_where_they_belong(guess: Guess) -> None:
    answers = {
        "product.title": "Clouds",
        "product.licence": "CC-BY-4.0",
        "product.providers": "One Agency; Another, Ltd",
        "product.attribution": "(c) One",
        "bands.made.units": "K",
    }
    asked: list[Question] = []

    def answer(question: Question) -> str:
        asked.append(question)
        return answers[question.field]

    product = guess.answered(answer).product
    assert {question.field for question in asked} == set(answers)
    assert (product.title, product.licence, product.attribution) == ("Clouds", "CC-BY-4.0", "(c) One")
    assert [provider.name for provider in product.providers] == ["One Agency", "Another, Ltd"]
    assert guess.answered(answer).bands[0].units == "K"


def test_an_answer_that_breaks_a_rule_names_it(guess: Guess) -> None:
    with pytest.raises(ConfigError, match="licence = ''"):
        guess.answered(lambda question: "" if question.field == "product.licence" else question.default)


def test_a_folder_name_becomes_a_product_name(guess: Guess) -> None:
    assert guess.product.name == "made-up-1"


MADE_UP = Guess(
    workspace=Path("work"),
    product=ProductSpec.model_validate({"name": "made-up"}),
    scenes=SceneSpec.model_validate({"folder": "inbox"}),
    bands=(BandSpec.model_validate({"name": "value", "dtype": "uint8"}),),
    grid=GridSpec(crs="EPSG:32633", transform=(10, 0, 465_000, 0, -10, 5_080_000), width=20, height=16),
    axis=AxisSpec(origin=datetime(2020, 4, 1, tzinfo=UTC), cadence=timedelta(minutes=5)),
    samples=SampleSpec.model_validate({}),
    motion=MotionSpec.model_validate({}),
    training=TrainingSpec.model_validate({}),
    questions=(),
    notes=(),
)


@given(st.text(), st.text(min_size=1))
def test_no_text_can_break_out_of_its_place_in_the_file(text: str, name: str) -> None:
    product = MADE_UP.product.model_copy(update={"title": text, "attribution": f"{text}'"})
    scenes = MADE_UP.scenes.model_copy(update={"pattern": name})
    document = tomllib.loads(render(replace(MADE_UP, product=product, scenes=scenes, notes=(text, name))))
    assert set(document) == {"workspace", *SECTIONS}
    assert (document["product"]["title"], document["product"]["attribution"]) == (text, f"{text}'")
    assert document["scenes"]["pattern"] == name


def test_scenes_inside_the_folder_of_the_file_are_named_relative_to_it(guess: Guess, tmp_path: Path) -> None:
    write(guess, tmp_path / "product.toml")
    assert tomllib.loads((tmp_path / "product.toml").read_text())["scenes"]["folder"] == "Made Up (1)"
    assert load(tmp_path / "product.toml").scenes.folder == guess.scenes.folder


def test_settings_written_again_are_the_same_settings(guess: Guess, tmp_path: Path) -> None:
    write(guess, tmp_path / "one.toml")
    settings = load(tmp_path / "one.toml")
    write(settings, tmp_path / "two.toml")
    assert load(tmp_path / "two.toml") == settings


def test_every_value_of_the_file_stands_under_its_meaning(guess: Guess) -> None:
    lines = render(guess).splitlines()
    values = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(values) > 20
    assert all(lines[number - 1].startswith("# ") for number in values)


def test_a_configuration_is_not_overwritten_unasked(guess: Guess, tmp_path: Path) -> None:
    path = tmp_path / "product.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is not overwritten"):
        write(guess, path)
    assert path.read_text() == "mine"
    write(guess, path, overwrite=True)
    assert load(path).grid == guess.grid


def test_a_configuration_that_cannot_be_written_leaves_nothing_behind(guess: Guess, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="Choose another --output"):
        write(guess, tmp_path / "file" / "product.toml")
    assert sorted(tmp_path.iterdir()) == before
