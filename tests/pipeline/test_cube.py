from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - it gives datasets their .rio
import zarr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from pipeline import cube as cubes
from pipeline import schema
from pipeline.compose import Pixels
from pipeline.errors import StoreError
from pipeline.grid import Window
from pipeline.schema import UNKNOWN_TIME, Layout
from pipeline.specs import FLOAT_TYPES, INTEGER_TYPES, AxisSpec, BandSpec, GridSpec

NAN = float("nan")
FLOAT = {"name": "ndvi", "dtype": "float32", "units": "1", "nodata": NAN}
GEOS = (
    'PROJCS["geostationary",GEOGCS["sphere",DATUM["unknown",SPHEROID["unknown",6378169,295.488065897014]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Geostationary_Satellite"],'
    'PARAMETER["central_meridian",9.5],PARAMETER["satellite_height",35785831],PARAMETER["false_easting",0],'
    'PARAMETER["false_northing",0],UNIT["metre",1,AUTHORITY["EPSG","9001"]]]'
)


def _nodata(dtype: str) -> st.SearchStrategy[float | None]:
    numbers = st.sampled_from([0.0, 100.0]) if dtype in INTEGER_TYPES else st.sampled_from([NAN, -9999.0, -1e20])
    return st.none() | numbers


@st.composite
def band_specs(draw: st.DrawFn) -> tuple[BandSpec, ...]:
    bands = []
    for name in "abcde"[: draw(st.integers(1, 5))]:
        dtype = draw(st.sampled_from(INTEGER_TYPES + FLOAT_TYPES))
        scale, limit = draw(st.sampled_from([1.0, 0.1])), draw(st.sampled_from([None, 1.0, float("inf")]))
        bands.append(BandSpec(name=name, dtype=dtype, nodata=draw(_nodata(dtype)), scale=scale, valid_max=limit))
    return tuple(bands)


def _layout(bands: tuple[BandSpec, ...], **grid: Any) -> Layout:
    place = {"crs": "EPSG:32633", "transform": (10, 0, 5e5, 0, -10, 5e6), "width": 48, "height": 40}
    axis = AxisSpec.model_validate({"origin": "2024-06-01T05:00Z", "cadence": "PT5M"})
    return Layout("tiny", bands, GridSpec.model_validate(place | grid), axis)


@given(band_specs())
def test_every_band_has_one_place_among_bands_of_its_kind(bands: tuple[BandSpec, ...]) -> None:
    groups = _layout(bands).groups
    assert sorted(band.name for group in groups for band in group.bands) == sorted(band.name for band in bands)
    assert len({group.name for group in groups}) == len(groups)
    kinds = [{(b.dtype, b.scale, b.offset, str(b.fill)) for b in group.bands} for group in groups]
    assert all(len(kind) == 1 for kind in kinds)
    assert len({kind.pop() for kind in kinds}) == len(groups)


@given(band_specs())
def test_a_layout_survives_as_json_with_nan_and_infinity(bands: tuple[BandSpec, ...]) -> None:
    layout = _layout(bands)
    stored = json.loads(json.dumps(layout.to_attributes(), allow_nan=False))
    assert str(Layout.from_attributes(stored)) == str(layout)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bands": [FLOAT]}, ["bands.0.dtype", "'float32'", "'uint16'"]),
        ({"grid": {"width": 47}}, ["grid.width", "47", "48"]),
        ({"grid": {"crs": "EPSG:32632"}}, ["grid.crs", "EPSG:32632", "EPSG:32633"]),
        ({"axis": {"cadence": timedelta(minutes=10)}}, ["axis.cadence", "PT10M", "PT5M"]),
    ],
)
def test_another_configuration_than_the_cubes_is_refused_and_both_are_named(
    product: Any, make_product: Callable[..., Any], change: dict[str, Any], named: list[str]
) -> None:
    product.scene(0)
    before = product.ingest().snapshot
    other = make_product(root=product.settings.workspace.parent, **change)
    for _ in range(2):  # with a new scene and without one
        with pytest.raises(StoreError) as caught:
            other.ingest()
        assert all(word in str(caught.value) for word in named)
        product.scene(1)
    assert product.store.tip() == before


def test_a_cube_of_a_newer_schema_is_refused(product: Any) -> None:
    with product.store.writer() as transaction:
        transaction.group.attrs["schema_version"] = 99
        transaction.commit("from the future", {})
    with pytest.raises(StoreError, match="found 99: update cubecast"):
        product.cube()


# --- readers --------------------------------------------------------------------------------------


def test_values_are_dn_times_scale_plus_offset_and_nan_where_missing(product: Any) -> None:
    dn = product.dn(5)
    dn[0, 3, 4] = 65535
    product.scene(0, dn)
    product.ingest()
    frames = product.cube().read([0])
    expected = np.where(dn[0] == 65535, np.nan, dn[0] * 0.1 - 3).astype(np.float32)
    np.testing.assert_allclose(frames.values[0, :, :, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(frames.validity, np.isfinite(frames.values))


def test_a_window_reads_the_same_as_a_cut_of_the_whole(product: Any) -> None:
    product.scene(0)
    product.scene(1)
    product.ingest()
    window = Window(7, 30, 11, 48)
    whole, cut = product.cube().read([1, 0]), product.cube().read([1, 0], window)
    np.testing.assert_array_equal(cut.values, whole.values[:, 7:30, 11:48])


def test_slots_without_a_scene_and_outside_the_axis_are_missing(product: Any) -> None:
    product.scene(2)
    product.ingest()
    cube = product.cube()
    frames = cube.read([-1, 0, 2, 3, 10**6])
    assert cube.size == 3
    assert frames.validity.any(axis=(1, 2, 3)).tolist() == [False, False, True, False, False]
    assert frames.acquired.tolist() == [UNKNOWN_TIME] * 2 + [product.time(2).timestamp()] + [UNKNOWN_TIME] * 2


def test_no_slots_give_no_frames(product: Any) -> None:
    product.scene(0)
    product.ingest()
    assert product.cube().read([]).values.shape == (0, 40, 48, 1)


def test_values_outside_the_range_stay_in_the_cube_and_are_invisible_to_readers(
    make_product: Callable[..., Any],
) -> None:
    product = make_product(bands=[{"name": "b", "dtype": "int16", "nodata": -1, "valid_min": 0, "valid_max": 1000}])
    dn = product.dn(0)
    dn[0, 0, :2] = (1001, -5)
    product.scene(0, dn)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), dn)
    assert product.quality(0)[0, :3].tolist() == [4, 4, 0]
    assert product.cube().read([0]).validity[0, 0, :3, 0].tolist() == [False, False, True]


def test_a_floor_raises_values_for_readers_only(make_product: Callable[..., Any]) -> None:
    product = make_product(bands=[{"name": "dbz", "dtype": "uint8", "nodata": 255, "offset": -32, "floor": 0}])
    dn = product.dn(0)
    product.scene(0, dn)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), dn)
    np.testing.assert_array_equal(product.cube().read([0]).values[0, ..., 0], np.maximum(dn[0].astype(float) - 32, 0))


def test_how_a_band_is_learned_may_change_without_another_cube(make_product: Callable[..., Any]) -> None:
    product = make_product()
    product.scene(0)
    product.ingest()
    (band,) = product.settings.bands

    def asked(**changed: object) -> Layout:
        settings = product.settings.model_copy(update={"bands": (band.model_copy(update=changed),)})
        return Layout.of(settings)

    schema.check(product.cube().root, asked(transform="log"))
    with pytest.raises(StoreError, match=r"bands\.0\.floor is 1\.0 in the configuration and None in the cube"):
        schema.check(product.cube().root, asked(floor=1.0))


def test_nan_beside_a_declared_nodata_is_missing(make_product: Callable[..., Any]) -> None:
    product = make_product(bands=[FLOAT | {"nodata": -9999.0}])
    dn = product.dn(0)
    dn[0, 0, :3] = (NAN, -9999, np.inf)
    product.scene(0, dn)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), dn)
    assert product.quality(0)[0, :4].tolist() == [1, 1, 1, 0]
    assert product.cube().read([0]).validity[0, 0, :4, 0].tolist() == [False, False, False, True]


def test_bands_are_read_in_the_configured_order_whatever_groups_they_lie_in(make_product: Callable[..., Any]) -> None:
    bands = [
        {"name": "rain", "dtype": "uint16", "index": 1, "scale": 0.01, "nodata": 65535},
        {"name": "code", "dtype": "uint16", "index": 2, "nodata": 65535},
        {"name": "snow", "dtype": "uint16", "index": 3, "scale": 0.01, "nodata": 65535},
    ]
    product = make_product(bands=bands)
    dn = product.dn(0)
    dn[1, :20] = 65535
    product.scene(0, dn)
    product.ingest()
    cube = product.cube()
    assert {group.name: [band.name for band in group.bands] for group in cube.layout.groups} == {
        "uint16": ["rain", "snow"],
        "uint16-2": ["code"],
    }
    values = cube.read([0]).values[0]
    for index, scale in enumerate((0.01, 1, 0.01)):
        expected = np.where(dn[index] == 65535, np.nan, dn[index] * scale)
        np.testing.assert_allclose(values[..., index], expected, rtol=1e-6)
    assert cube.rows[0].valid_fraction == pytest.approx(0.75)  # all of one group, half of the other


def test_a_cube_of_two_types_has_a_group_for_each() -> None:
    bands = (BandSpec(name="a", dtype="uint8"), BandSpec(name="b", dtype="float32"), BandSpec(name="c", dtype="uint8"))
    layout = _layout(bands)
    root = zarr.create_group(zarr.storage.MemoryStore())
    schema.create(root, layout)
    cubes.grow(root, layout, 2)
    for group in layout.groups:
        data = np.full((len(group.bands), 40, 48), 7, group.dtype)
        whole = Window(0, 40, 0, 48)
        cubes.write_pixels(root, group.name, 1, Pixels(whole, data, np.zeros((40, 48), np.uint8)))
    assert [(g.name, root[f"{g.name}/data"].dtype.name) for g in layout.groups] == [
        ("float32", "float32"),
        ("uint8", "uint8"),
    ]
    assert [root[f"{g.name}/data"].shape for g in layout.groups] == [(2, 1, 40, 48), (2, 2, 40, 48)]
    assert (root["uint8/data"][0] == 255).all()
    assert np.isnan(root["float32/data"][0]).all()


# --- what was known when --------------------------------------------------------------------------


@pytest.fixture
def dated(make_product: Callable[..., Any]) -> Any:
    scenes = {"available_tag": "AVAILABLE", "revision_tag": "REVISION"}
    return make_product(scenes=scenes)


def _available(product: Any, slot: float) -> dict[str, str]:
    return {"AVAILABLE": product.time(slot).isoformat()}


def test_what_became_available_later_is_hidden_also_after_a_backfill(dated: Any) -> None:
    dated.scene(0, tags=_available(dated, 0.5))
    dated.scene(1, tags=_available(dated, 9))
    dated.scene(2, tags=_available(dated, 2.5))
    dated.ingest()
    seen = {slot: dated.cube(as_of=dated.time(slot)).observed().tolist() for slot in (0, 0.5, 3, 9)}
    assert seen == {0: [], 0.5: [0], 3: [0, 2], 9: [0, 1, 2]}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_before_a_later_revision_came_the_earlier_one_is_seen_whatever_came_first(
    dated: Any, order: tuple[int, int]
) -> None:
    for revision in order:
        tags = _available(dated, {1: 1, 2: 5}[revision]) | {"REVISION": str(revision)}
        dated.scene(0, dated.dn(revision), name=f"scene_20240601T050000Z_r{revision}.tif", tags=tags)
        dated.ingest()
    assert dated.cube(as_of=dated.time(0.9)).observed().tolist() == []
    for slot, revision in ((4, 1), (5, 2)):
        cube = dated.cube(as_of=dated.time(slot))
        values = dated.dn(revision)[0] * np.float32(0.1) - np.float32(3)
        np.testing.assert_allclose(cube.read([0]).values[0, ..., 0], values, atol=1e-5)
        np.testing.assert_allclose(cube.dataset().data.values[0, 0], values, atol=1e-5)
        assert [scene.revision for scene in cube.scenes([0])] == [str(revision)]


def test_of_a_slot_of_several_scenes_those_are_seen_that_were_there(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"available_tag": "AVAILABLE", "pattern": "{tile}_{time}.tif"})
    for slot, tile in ((1, "a"), (3, "b"), (2, "c")):
        dn = product.dn(slot)
        dn[0, 10 * slot :] = 65535
        product.scene(0, dn, name=f"{tile}_20240601T050000Z.tif", tags=_available(product, slot))
        product.ingest()
    for slot, rows in ((1, 10), (2, 20), (3, 30)):
        assert product.cube(as_of=product.time(slot)).read([0]).validity[0, :, 0, 0].sum() == rows
    now, then = product.cube(), product.cube(as_of=product.time(9))
    np.testing.assert_array_equal(now.read([0]).values, then.read([0]).values)


def test_what_is_usable_is_where_a_value_is_read_also_of_a_part_of_a_slot(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"available_tag": "AVAILABLE", "pattern": "{tile}_{time}.tif"})
    for slot, tile in ((1, "a"), (3, "b")):
        dn = product.dn(slot)
        dn[0, 10 * slot :] = 65535
        product.scene(0, dn, name=f"{tile}_20240601T050000Z.tif", tags=_available(product, slot))
        product.ingest()
    window = Window(5, 32, 3, 20)
    for cube, rows in ((product.cube(), 30), (product.cube(as_of=product.time(2)), 10)):
        whole, nothing = cube.usable([0, 7], window)
        np.testing.assert_array_equal(whole, cube.read([0], window).validity[0, ..., 0])
        assert (whole.any(axis=1).sum(), nothing.any()) == (rows - 5 if rows < 32 else 27, False)


def test_no_reader_shows_what_is_hidden(dated: Any) -> None:
    dated.scene(0, tags=_available(dated, 0.5))
    dated.scene(1, tags=_available(dated, 9))
    dated.ingest()
    cube = dated.cube(as_of=dated.time(2))
    assert not cube.read([1]).validity.any()
    assert cube.read([1]).acquired.tolist() == [UNKNOWN_TIME]
    assert [scene.acquired for scene in cube.scenes([0, 1])] == [dated.time(0)]
    assert cube.dataset().time.values.tolist() == [np.datetime64("2024-06-01T05:00", "ns").astype(int)]


def test_an_old_snapshot_gives_the_old_values(product: Any) -> None:
    product.scene(0, product.dn(1))
    old = product.ingest().snapshot
    product.scene(0, product.dn(2))
    product.scene(1)
    product.ingest()
    before, after = product.cube(snapshot=old), product.cube()
    np.testing.assert_allclose(before.read([0]).values[0, ..., 0], product.dn(1)[0] * 0.1 - 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.read([0]).values[0, ..., 0], product.dn(2)[0] * 0.1 - 3, rtol=1e-5, atol=1e-6)
    assert (before.size, after.size) == (1, 2)
    assert len(before.rows) == 1


# --- other people's tools -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("band", "grid"),
    [
        ({"name": "b", "dtype": "uint16", "scale": 0.1, "offset": -3.0, "nodata": 65535, "units": "K"}, {}),
        ({"name": "b", "dtype": "int16"}, {"crs": GEOS, "transform": (1000.13, 0, -1.8e6, 0, -1000.13, 5e6)}),
        (FLOAT, {"crs": "EPSG:4326", "transform": (0.01, 0, 10, 0, -0.01, 50)}),
        (FLOAT | {"nodata": -9999.0, "scale": 0.5}, {"crs": "EPSG:2263"}),
    ],
)
def test_xarray_and_rioxarray_see_values_times_and_place(
    make_product: Callable[..., Any], band: dict[str, Any], grid: dict[str, Any]
) -> None:
    product = make_product(bands=[band], grid=grid)
    dn = product.dn(0)
    dn[0, 1, 2] = product.settings.bands[0].fill
    product.scene(1.25, dn)
    product.ingest()
    cube = product.cube()
    dataset = cube.dataset()
    seen = dataset.data.values[1].transpose(1, 2, 0).astype(np.float32)
    np.testing.assert_array_equal(seen, cube.read([1]).values[0])
    assert np.isnan(dataset.data.values[0]).all()
    assert np.isnan(dataset.data.values[1, 0, 1, 2])
    assert dataset.time.values.tolist() == [product.time(slot).timestamp() * 1e9 for slot in (0, 1)]
    assert np.isnat(dataset.acquired.values[0])
    assert dataset.acquired.values[1] == np.datetime64(product.time(1.25).replace(tzinfo=None), "ns")
    assert dataset.quality.dtype == np.uint8
    assert (dataset.quality.values[0] == 1).all()
    assert dataset.rio.crs == CRS.from_user_input(product.settings.grid.crs)
    assert dataset.rio.transform().almost_equals(product.transform)
    assert dataset.band.values.tolist() == ["b"] if band["name"] == "b" else ["ndvi"]
    centre = product.transform @ (2.5, 1.5)
    assert (float(dataset.x[2]), float(dataset.y[1])) == pytest.approx(centre)


def test_a_rotated_grid_has_no_coordinates_that_would_lie(make_product: Callable[..., Any]) -> None:
    product = make_product(grid={"transform": (9, 3, 5e5, 3, -9, 5e6)})
    product.scene(0)
    product.ingest()
    dataset = product.cube().dataset()
    assert not {"x", "y"} & set(dataset.coords)
    assert dataset.rio.transform().almost_equals(product.transform)
    assert product.cube().read([0]).validity.all()


# --- damage ---------------------------------------------------------------------------------------


def _damaged(path: Path, chance: np.random.Generator) -> bytes:
    data = bytearray(path.read_bytes())
    data[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
    return bytes(data)


def test_one_flipped_bit_in_any_chunk_is_an_error_and_never_a_value(make_product: Callable[..., Any]) -> None:
    product = make_product(grid={"width": 290, "height": 270})
    dn = product.dn(0)
    dn[np.random.default_rng(1).random(dn.shape) < 0.3] = 65535
    product.scene(0, dn)
    product.ingest()
    chunks = sorted(product.settings.paths.cube.glob("chunks/*"))
    assert len(chunks) > 12  # every chunk is a file: one inside a manifest would have no checksum
    chance = np.random.default_rng(2)
    for path in chance.permutation(np.array(chunks, object))[:40]:
        whole = path.read_bytes()
        path.write_bytes(_damaged(path, chance))
        with pytest.raises((StoreError, ValueError, RuntimeError)):
            _read_all(product)
        path.write_bytes(whole)
    assert product.cube().read([0]).validity.any()


def _read_all(product: Any) -> None:
    """Every array of the cube."""
    product.cube().read([0])
    for _, array in product.store.group().members(max_depth=None):
        if isinstance(array, zarr.Array):
            array[...]


def test_a_lost_chunk_is_an_error_and_never_missing_data(product: Any) -> None:
    product.scene(0)
    product.ingest()
    cube = product.cube()
    for path in product.settings.paths.cube.glob("chunks/*"):
        path.unlink()
    with pytest.raises(StoreError, match="slot 0"):
        cube.read([0])
