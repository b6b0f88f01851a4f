from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.covariates import Covariates, covariates_of, static_layers, sun_cosine
from pipeline.errors import ConfigError
from pipeline.grid import Window, geobox
from pipeline.predictor import Context
from pipeline.solar import sun_elevation
from pipeline.times import seconds

ORIGIN = datetime(2024, 6, 21, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
GRID = {"crs": "EPSG:4326", "transform": (0.1, 0, 15, 0, -0.1, 50), "width": 60, "height": 40}  # 15 to 21 E, 46 to 50 N
BOX = geobox(GRID["crs"], GRID["transform"], (40, 60))
EVERYTHING = {"time_of_day": True, "time_of_year": True, "solar_zenith": True}


def told(tmp_path: Path, *static: Path, **spec: bool) -> Covariates:
    document: dict[str, Any] = {
        "workspace": tmp_path / "work",
        "product": {"name": "tiny"},
        "scenes": {"folder": tmp_path},
        "bands": [{"name": "sky", "dtype": "uint8"}],
        "grid": GRID,
        "axis": {"origin": ORIGIN, "cadence": HOUR},
        "covariates": {**spec, "static": static},
    }
    return covariates_of(Settings(**document))


def context(init: int, ages: tuple[float, ...] = (2, 0), shape: tuple[int, int] = (40, 60)) -> Context:
    values = np.zeros((1, len(ages), *shape, 1), np.float32)
    times = [[seconds(ORIGIN + (init - age) * HOUR) for age in ages]]
    return Context(values, np.isfinite(values), np.array(times, np.int64), np.array([ages], np.float32))


def values(covariates: Covariates, init: int, horizon: int, **options: Any) -> NDArray[np.float32]:
    shape = options["area"].shape if "area" in options else (40, 60)
    attached = covariates.attach(context(init, shape=shape), init, horizon, **options).covariates
    assert attached is not None
    return attached


def layer(folder: Path, pixels: NDArray, *, name: str = "elevation.tif", **profile: Any) -> Path:
    """Written on a grid of its own: Web Mercator, around the product's grid."""
    bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    height, width = bands.shape[1:]
    own = {"driver": "GTiff", "count": len(bands), "height": height, "width": width, "dtype": bands.dtype}
    place = {"crs": "EPSG:3857", "transform": Affine(10_000, 0, 1_600_000, 0, -10_000, 6_600_000)}
    with rasterio.open(folder / name, "w", **{**own, **place, **profile}) as file:
        file.write(bands)
    return folder / name


def ramp(width: int = 90, height: int = 100) -> NDArray[np.float32]:
    return np.tile(np.arange(width, dtype=np.float32), (height, 1))


def test_a_product_without_covariates_pays_nothing(tmp_path: Path) -> None:
    nothing, seen = told(tmp_path), context(5)
    assert (nothing.names, nothing.channels, nothing.digest) == ((), 0, "")
    assert nothing.attach(seen, 5, 3) is seen


def test_channels_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = layer(tmp_path, np.stack([ramp(), ramp(100, 90).T]))
    everything = told(tmp_path, path, **EVERYTHING)
    assert everything.names == (
        *("day_sine", "day_cosine", "year_sine", "year_cosine", "sun_cosine"),
        *("elevation", "elevation-2"),
    )
    found = values(everything, 12, 3)
    assert found.shape == (1, 2 + 3, 40, 60, everything.channels)
    for index, name in enumerate(everything.names[:5]):
        alone = told(tmp_path, **{flag: flag.startswith(_flag(name)) for flag in EVERYTHING})
        np.testing.assert_array_equal(values(alone, 12, 3)[..., alone.names.index(name)], found[..., index])
    np.testing.assert_array_equal(found[0, 0, ..., 5:], found[0, 4, ..., 5:])


def _flag(name: str) -> str:
    return {"day": "time_of_day", "year": "time_of_year", "sun": "solar"}[name.split("_")[0]]


def test_the_day_turns_once_a_day_from_local_midnight(tmp_path: Path) -> None:
    """The centre lies at 18 degrees east: 1 h 12 min before Greenwich."""
    sine, cosine = np.moveaxis(values(told(tmp_path, time_of_day=True), 0, 48), -1, 0)[:, 0, 1:, 0, 0]
    local = (np.arange(49) + 1.2) / 24 * 2 * np.pi
    np.testing.assert_allclose(sine, np.sin(local), atol=1e-6)
    np.testing.assert_allclose(cosine, np.cos(local), atol=1e-6)


def test_the_year_turns_once_a_year(tmp_path: Path) -> None:
    year = told(tmp_path, time_of_year=True)
    now, later, half = (values(year, slot, 1)[0, 1, 0, 0] for slot in (0, 8766, 4383))
    np.testing.assert_allclose(now, later, atol=1e-2)
    np.testing.assert_allclose(now, -half, atol=1e-2)
    assert now[1] < -0.95  # the end of June is half a year from the new year


def test_what_is_the_same_all_over_the_grid_takes_no_memory(tmp_path: Path) -> None:
    found = values(told(tmp_path, time_of_day=True, time_of_year=True), 3, 4)
    assert found.strides[2:4] == (0, 0)
    assert found.shape == (1, 6, 40, 60, 4)


def test_frames_have_the_sun_of_their_acquisition_and_leads_that_of_their_valid_time(tmp_path: Path) -> None:
    found = values(told(tmp_path, solar_zenith=True), 10, 2)[0, :, ..., 0]
    whole = Window(0, 40, 0, 60)
    for at, slot in enumerate((8, 10, 11, 12)):
        np.testing.assert_array_equal(found[at], sun_cosine(ORIGIN + slot * HOUR, BOX, whole))


def test_the_sun_is_that_of_every_pixel() -> None:
    time = ORIGIN + 5 * HOUR
    x, y = np.meshgrid(15.05 + 0.1 * np.arange(60), 49.95 - 0.1 * np.arange(40))
    exact = np.sin(np.radians(sun_elevation(time, y, x)))
    found = sun_cosine(time, BOX, Window(0, 40, 0, 60))
    inside = (slice(8, 32), slice(8, 56))
    np.testing.assert_allclose(found[inside], exact[inside], atol=1e-3)
    np.testing.assert_allclose(found, exact, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 39), st.integers(1, 40), st.integers(0, 59), st.integers(1, 60))
def test_a_window_of_the_sun_is_cut_from_the_whole(y0: int, height: int, x0: int, width: int) -> None:
    window = Window(y0, min(40, y0 + height), x0, min(60, x0 + width))
    whole = sun_cosine(ORIGIN + 6 * HOUR, BOX, Window(0, 40, 0, 60))
    np.testing.assert_array_equal(sun_cosine(ORIGIN + 6 * HOUR, BOX, window), whole[window.slices])


def test_an_area_has_the_covariates_that_it_has_in_the_whole_grid(tmp_path: Path) -> None:
    everything = told(tmp_path, layer(tmp_path, ramp()), **EVERYTHING)
    area = Window(7, 30, 11, 53)
    np.testing.assert_array_equal(values(everything, 9, 2, area=area), values(everything, 9, 2)[:, :, 7:30, 11:53])


def test_off_the_earth_there_is_no_sun() -> None:
    seen = "+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84"
    disc = geobox(seen, (90_000, 0, -5_700_000, 0, -90_000, 5_700_000), (128, 128))
    sun = sun_cosine(datetime(2024, 3, 20, 12, tzinfo=UTC), disc, Window(0, 128, 0, 128))
    assert np.isfinite(sun).all()
    assert sun[0, 0] == 0
    assert sun[64, 64] > 0.98


# --- static layers --------------------------------------------------------------------------------


def test_a_static_layer_of_any_grid_lies_where_it_is_on_earth(tmp_path: Path) -> None:
    (found,) = np.moveaxis(static_layers(layer(tmp_path, ramp()), BOX), -1, 0)
    steps = np.diff(found, axis=1)
    assert np.ptp(found, axis=0).max() < 1e-4  # columns of Mercator are meridians
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.1)  # GDAL widens its kernel where pixels get larger
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=1e-4)


def test_what_a_static_layer_does_not_know_is_zero(tmp_path: Path) -> None:
    holed = ramp()
    holed[:, :40] = -9999
    path = layer(tmp_path, holed, nodata=-9999)
    (found,) = np.moveaxis(static_layers(path, BOX), -1, 0)
    unknown = found == 0
    assert unknown[:, :30].all()
    assert not unknown[:, 45:].any()
    assert found[~unknown].std() == pytest.approx(1, abs=1e-4)


def test_a_constant_layer_says_nothing(tmp_path: Path) -> None:
    path = layer(tmp_path, np.full((100, 90), 0.1, np.float32))
    np.testing.assert_array_equal(static_layers(path, BOX), 0)


def test_another_static_layer_is_another_digest(tmp_path: Path) -> None:
    first = told(tmp_path, layer(tmp_path, ramp())).digest
    assert told(tmp_path, layer(tmp_path, ramp())).digest == first
    assert told(tmp_path, layer(tmp_path, ramp() ** 2)).digest != first  # under the same name
    assert told(tmp_path, time_of_day=True).digest not in {first, ""}


def test_a_static_layer_that_cannot_help_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found none at .*nowhere\.tif: mend the path"):
        static_layers(tmp_path / "nowhere.tif", BOX)
    (tmp_path / "text.tif").write_text("no TIFF")
    with pytest.raises(ConfigError, match=r"text\.tif is not: "):
        static_layers(tmp_path / "text.tif", BOX)
    with pytest.raises(ConfigError, match="it has no CRS"):
        static_layers(layer(tmp_path, ramp(), crs=None), BOX)
    away = Affine(10_000, 0, -1_600_000, 0, -10_000, 6_600_000)
    with pytest.raises(ConfigError, match="covers none"):
        static_layers(layer(tmp_path, ramp(), transform=away), BOX)


# --- contexts -------------------------------------------------------------------------------------


def test_covariates_of_another_area_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found \(40, 60\) px for \(10, 10\)"):
        told(tmp_path, time_of_day=True).attach(context(3), 3, 2, area=Window(0, 10, 0, 10))


@pytest.mark.parametrize("shape", [(1, 1, 40, 60, 2), (2, 3, 40, 60, 2), (1, 3, 40, 59, 2), (1, 3, 40, 60)])
def test_a_context_takes_covariates_of_its_own_shape_only(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="covariates are"):
        replace(context(3), covariates=np.zeros(shape, np.float32))


def test_a_context_takes_no_unknown_covariates() -> None:
    holed = np.zeros((1, 3, 40, 60, 2), np.float32)
    holed[0, 2, 3, 4, 1] = np.nan
    with pytest.raises(ValueError, match="known everywhere"):
        replace(context(3), covariates=holed)
