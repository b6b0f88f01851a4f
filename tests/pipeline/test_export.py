from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - it gives datasets their .rio
import xarray
import zarr
from rio_cogeo.cogeo import cog_validate

from pipeline.audit import verify
from pipeline.cube import Cube
from pipeline.errors import StoreError
from pipeline.export import to_cogs, to_zarr
from pipeline.quality import Quality
from pipeline.raster import describe, read_dn, read_physical

SKY = {"name": "sky", "dtype": "uint16", "scale": 0.1, "offset": -3.0, "units": "K", "nodata": 65535, "valid_max": 16.0}
HAZE = {"name": "haze", "dtype": "uint16", "index": 2, "nodata": 65535, "forecast": False}
SCENES = {"settle": timedelta(0), "revision_tag": "BASELINE", "available_tag": "AVAILABLE"}
OLDER = {"BASELINE": "1", "AVAILABLE": "2024-06-01T06:00Z"}
NEWER = {"BASELINE": "2", "AVAILABLE": "2024-06-01T07:00Z"}
BETWEEN = "2024-06-01T06:30Z"


@pytest.fixture(scope="module")
def product(make_product: Callable[..., Any]) -> Any:
    """Slots 0 and 3, of which 3 was known otherwise before, and 4 was not known at all."""
    product = make_product(bands=[SKY], scenes=SCENES)
    first = product.dn(1)
    first[0, 2, 2], first[0, 5, 5] = 65535, 199  # missing; 16.9 K is out of range
    product.scene(0, first, tags=OLDER)
    product.scene(3, product.dn(2), name="scene_20240601T051500Z_a.tif", tags=OLDER)
    product.ingest()
    product.scene(3, product.dn(3), name="scene_20240601T051500Z_b.tif", tags=NEWER)
    product.scene(4, product.dn(4), tags=NEWER)
    product.ingest()
    return product


@pytest.fixture(scope="module")
def two_groups(make_product: Callable[..., Any]) -> Any:
    product = make_product(bands=[SKY, HAZE], scenes=SCENES)
    product.scene(1, product.dn(1, (2, 40, 48)), tags=OLDER)
    product.ingest()
    return product


def past(product: Any) -> Cube:
    from pipeline.times import parse_time

    return product.cube(as_of=parse_time(BETWEEN))


def opened(folder: Path, group: str | None = None) -> xarray.Dataset:
    return xarray.open_zarr(folder / "tiny.zarr", group=group, decode_coords="all", consolidated=True).load()


def test_an_export_to_zarr_reads_as_the_cube_does(product: Any, tmp_path: Path) -> None:
    cube = product.cube()
    done = to_zarr(cube, tmp_path / "out")
    xarray.testing.assert_identical(opened(tmp_path / "out"), cube.dataset().load())
    assert (done.slots, done.scenes, done.names) == (5, 3, ("tiny.zarr",))


def test_an_export_to_zarr_of_a_past_time_shows_what_was_known(product: Any, tmp_path: Path) -> None:
    cube = past(product)
    to_zarr(cube, tmp_path / "out")
    found = opened(tmp_path / "out")
    xarray.testing.assert_identical(found, cube.dataset().load())
    assert found.sizes["time"] == 2
    np.testing.assert_allclose(found.data[1, 0], product.dn(2)[0] * 0.1 - 3)


def test_an_exported_zarr_keeps_the_dn_the_crs_and_the_checksums(product: Any, tmp_path: Path) -> None:
    to_zarr(product.cube(), tmp_path / "out")
    root: Any = zarr.open_group(tmp_path / "out" / "tiny.zarr", mode="r")
    np.testing.assert_array_equal(root["data"][3], product.stored(3))
    np.testing.assert_array_equal(root["quality"][:], product.cube().root["uint16/quality"][:])
    assert [type(codec).__name__ for codec in root["data"].compressors] == ["BloscCodec", "Crc32cCodec"]
    found = opened(tmp_path / "out")
    assert found.rio.crs.to_epsg() == 32633
    assert found.rio.transform() == product.transform


def test_empty_slots_cost_no_chunks(product: Any, tmp_path: Path) -> None:
    to_zarr(product.cube(), tmp_path / "out")
    written = {path.name for path in (tmp_path / "out" / "tiny.zarr" / "data" / "c").iterdir()}
    assert written == {"0", "3", "4"}


def test_several_band_groups_are_groups(two_groups: Any, tmp_path: Path) -> None:
    cube = two_groups.cube()
    to_zarr(cube, tmp_path / "out")
    for group in cube.layout.groups:
        xarray.testing.assert_identical(opened(tmp_path / "out", group.name), cube.dataset(group.name).load())


def test_chosen_slots_are_exported_alone(product: Any, tmp_path: Path) -> None:
    done = to_zarr(product.cube(), tmp_path / "out", [4, 0, 4])
    expected = product.cube().dataset().isel(time=[0, 4]).load()
    xarray.testing.assert_identical(opened(tmp_path / "out"), expected)
    assert done.slots == 2


def test_the_scenes_stand_beside(product: Any, tmp_path: Path) -> None:
    cube = past(product)
    to_zarr(cube, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "scenes.json").read_text(encoding="utf-8"))
    assert (document["snapshot"], document["as_of"]) == (cube.snapshot, "2024-06-01T06:30:00Z")
    names = [scene["source"] for scene in document["scenes"]]
    assert names == ["scene_20240601T050000Z.tif", "scene_20240601T051500Z_a.tif"]
    assert document["scenes"][1]["slot_time"] == "2024-06-01T05:15:00Z"


def test_every_observed_slot_becomes_a_valid_cog_with_its_quality(product: Any, tmp_path: Path) -> None:
    done = to_cogs(product.cube(), tmp_path / "out")
    times = ("0500", "0515", "0520")
    names = [f"tiny_20240601T{time}Z{kind}.tif" for time in times for kind in ("", "-quality")]
    assert list(done.names) == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "scenes.json"}
    for name in names:
        valid, errors, warnings = cog_validate(tmp_path / "out" / name, strict=True)
        assert (valid, errors, warnings) == (True, [], [])


def test_a_cog_holds_the_dn_as_stored_also_of_pixels_that_must_not_be_used(product: Any, tmp_path: Path) -> None:
    to_cogs(product.cube(), tmp_path / "out")
    path = tmp_path / "out" / "tiny_20240601T0500Z.tif"
    np.testing.assert_array_equal(read_dn(path), product.stored(0))
    quality = read_dn(tmp_path / "out" / "tiny_20240601T0500Z-quality.tif")[0]
    np.testing.assert_array_equal(quality, product.quality(0))
    assert read_dn(path)[0, 5, 5] == 199
    assert quality[5, 5] == Quality.OUT_OF_RANGE
    seen = np.where(quality & np.uint8(Quality.OUT_OF_RANGE), np.nan, read_physical(path)[0])
    np.testing.assert_array_equal(seen, product.cube().read([0]).values[0, ..., 0])


def test_a_cog_says_what_it_is(product: Any, tmp_path: Path) -> None:
    cube = past(product)
    to_cogs(cube, tmp_path / "out")
    path = tmp_path / "out" / "tiny_20240601T0515Z.tif"
    info = describe(path)
    (band,) = info.bands
    assert (band.name, band.units, band.scale, band.offset, info.nodata) == ("sky", "K", 0.1, -3.0, 65535)
    with rasterio.open(path) as file:
        tags = file.tags()
        assert file.crs.to_epsg() == 32633
        assert file.transform == product.transform
    (row,) = cube.shown(3)
    assert json.loads(tags["scenes"]) == [row.scene.id]
    assert json.loads(tags["acquired"]) == ["2024-06-01T05:15:00Z"]
    assert tags["valid_time"] == "2024-06-01T05:15:00Z"
    assert (tags["snapshot"], tags["as_of"]) == (cube.snapshot, "2024-06-01T06:30:00Z")
    (quality,) = describe(tmp_path / "out" / "tiny_20240601T0515Z-quality.tif").bands
    assert quality.tags["flag_meanings"].split()[0] == "missing"


def test_cogs_of_several_band_groups_carry_their_names(two_groups: Any, tmp_path: Path) -> None:
    done = to_cogs(two_groups.cube(), tmp_path / "out")
    stems = [f"tiny_20240601T0505Z-{group}" for group in ("uint16", "uint16-2")]
    assert list(done.names) == [f"{stem}{kind}.tif" for stem in stems for kind in ("", "-quality")]
    for group, stem in zip(("uint16", "uint16-2"), stems, strict=True):
        np.testing.assert_array_equal(read_dn(tmp_path / "out" / f"{stem}.tif"), two_groups.stored(1, group))


@pytest.mark.parametrize("export", [to_zarr, to_cogs])
def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_taken(
    product: Any, tmp_path: Path, export: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(product.cube(), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(StoreError, match="choose a new or empty folder"):
        export(product.cube(), out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("export", [to_zarr, to_cogs])
def test_no_slot_is_no_export(product: Any, tmp_path: Path, export: Callable[..., Any]) -> None:
    with pytest.raises(StoreError, match="a slot at least"):
        export(product.cube(), tmp_path / "out", [77])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [to_zarr, to_cogs])
def test_damage_stops_an_export_and_leaves_nothing(
    make_product: Callable[..., Any], tmp_path: Path, export: Callable[..., Any]
) -> None:
    product = make_product(scenes=SCENES)
    product.scene(0, tags=OLDER)
    product.ingest()
    chunks = (product.settings.paths.cube / "chunks").iterdir()
    max(chunks, key=lambda path: path.stat().st_size).unlink()
    assert verify(product.cube()).damaged
    with pytest.raises(StoreError, match="every chunk of a cube reads as it was written, but slot 0"):
        export(product.cube(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_grid_of_many_chunks_is_written_in_windows(
    make_product: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.WINDOW_BYTES", 1)
    product = make_product(scenes=SCENES, grid={"width": 1100, "height": 600})
    product.scene(0, tags=OLDER)
    product.ingest()
    told: list[tuple[int, int]] = []
    to_zarr(product.cube(), tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    xarray.testing.assert_identical(opened(tmp_path / "out"), product.cube().dataset().load())
    assert told == [(1, 1)]
