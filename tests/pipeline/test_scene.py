from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from pipeline.errors import CubecastError, SceneError, StoreError
from pipeline.grid import Window
from pipeline.scene import (
    Contract,
    acquisition_time,
    check,
    check_mask,
    discover,
    identify,
    open_geotiff,
    read,
    read_mask,
    stage,
    stage_mask,
)
from pipeline.specs import BandSpec, SceneSpec

NAN = float("nan")
WHOLE = Window(0, 40, 0, 48)


def _reason(path: Path, product: Any) -> str:
    contract = Contract(product.settings.bands, product.settings.grid.geobox())
    with pytest.raises(SceneError) as caught, open_geotiff(path) as dataset:
        check(dataset, contract)
    return caught.value.reason


def _read(path: Path, *bands: BandSpec, window: Window = WHOLE) -> np.ndarray:
    with open_geotiff(path) as dataset:
        return read(dataset, bands, window)


def test_the_inbox_is_what_matches_the_pattern_without_links_and_folders(product: Any) -> None:
    scenes = [product.scene(slot) for slot in (1, 0)]
    (product.inbox / "notes.txt").touch()
    (product.inbox / "scene_20240601T060000Z.tif").mkdir()
    (product.inbox / "scene_20240601T070000Z.tif").symlink_to(scenes[0])
    assert discover(product.settings.scenes) == sorted(scenes)


def test_a_missing_inbox_is_named(tmp_path: Path) -> None:
    with pytest.raises(CubecastError, match=r"scenes\.folder.*nowhere"):
        discover(SceneSpec(folder=tmp_path / "nowhere"))


def test_a_staged_scene_has_the_bytes_the_hash_and_the_name_of_its_file(product: Any, tmp_path: Path) -> None:
    path = product.scene(0)
    staged = stage(path, tmp_path / "aside")
    assert staged.path.read_bytes() == path.read_bytes()
    assert staged.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (staged.source, staged.path.name) == (path, path.name)


class Growing(type(Path())):
    """A file that somebody goes on writing: each look finds it longer."""

    def stat(self, **options: Any) -> os.stat_result:
        with open(os.fspath(self), "ab") as file:  # noqa: PTH123 - Path.open would look again
            file.write(b"more")
        return super().stat(**options)


def test_a_file_that_grows_while_it_is_read_is_left_for_later(product: Any, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="unstable"):
        stage(Growing(product.scene(0)), tmp_path / "aside")
    assert list((tmp_path / "aside").iterdir()) == []


def test_a_file_that_cannot_be_read_is_left_for_later(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="unavailable"):
        stage(tmp_path / "gone.tif", tmp_path / "aside")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's disk without space")
def test_a_full_disk_is_no_fault_of_the_scene(product: Any, tmp_path: Path) -> None:
    path = product.scene(0)
    (tmp_path / path.name).symlink_to("/dev/full")
    with pytest.raises(StoreError, match="Free space"):
        stage(path, tmp_path)


def test_a_scene_knows_its_times_its_tile_and_its_revision(make_product: Callable[..., Any], tmp_path: Path) -> None:
    scenes = {
        "pattern": "{tile}_{time}.tif",
        "revision_tag": "BASELINE",
        "available_tag": "AVAILABLE",
        "latency": timedelta(minutes=7),
    }
    product = make_product(scenes=scenes)
    spec = product.settings.scenes
    tags = {"BASELINE": "05.11", "AVAILABLE": "2024-06-01T06:00:00.25Z"}
    tagged = identify(stage(product.scene(0, name="T33_20240601T050103Z.tif", tags=tags), tmp_path), spec)
    bare = identify(stage(product.scene(0, name="T34_20240601T050103Z.tif"), tmp_path), spec)
    assert (tagged.tile, tagged.revision) == ("T33", "05.11")
    assert tagged.acquired == bare.acquired == datetime(2024, 6, 1, 5, 1, 3, tzinfo=UTC)
    assert tagged.available_at == datetime(2024, 6, 1, 6, 0, 1, tzinfo=UTC)  # never sooner than the tag says
    assert bare.available_at == bare.acquired + timedelta(minutes=7)


@pytest.mark.parametrize(
    ("text", "time_format"),
    [
        ("2024-06-01 05:01:03.999", "%Y-%m-%d %H:%M:%S.%f"),
        ("2024-06-01 07:01:03 +0200", "%Y-%m-%d %H:%M:%S %z"),
        ("2024153 05:01:03", "%Y%j %H:%M:%S"),
    ],
)
def test_the_acquisition_time_of_a_tag_is_utc_in_whole_seconds(text: str, time_format: str) -> None:
    spec = SceneSpec(folder=Path(), time_tag="TIME", time_format=time_format)
    assert acquisition_time("any.tif", {"TIME": text}, spec) == datetime(2024, 6, 1, 5, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("tags", [{}, {"TIME": "yesterday"}, {"TIME": "0001-01-01 00:00:00 +0500"}])
def test_a_scene_without_a_time_that_reads_is_refused(tags: dict[str, str]) -> None:
    spec = SceneSpec(folder=Path(), time_tag="TIME", time_format="%Y-%m-%d %H:%M:%S %z")
    with pytest.raises(SceneError, match="no-time"):
        acquisition_time("any.tif", tags, spec)


def test_a_scene_lies_where_its_corner_says(product: Any) -> None:
    place = product.transform @ Affine.translation(5, 7)
    path = product.scene(0, product.dn(1, (1, 10, 20)), transform=place)
    with open_geotiff(path) as dataset:
        window = check(dataset, Contract(product.settings.bands, product.settings.grid.geobox()))
    assert window == Window(7, 17, 5, 25)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"crs": "EPSG:32632"}, "wrong-crs"),
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, "wrong-crs"),
        ({"crs": None}, "wrong-crs"),
        ({"dtype": "int16", "nodata": -1}, "wrong-dtype"),
        ({"transform": Affine(10, 0, 5e5 + 4, 0, -10, 5e6)}, "off-grid"),
        ({"transform": Affine(10, 0, 5e5 + 10, 0, -10, 5e6)}, "off-grid"),
        ({"transform": Affine(20, 0, 5e5, 0, -20, 5e6)}, "off-grid"),
        ({"transform": Affine(10, 0, 5e5, 0, 10, 5e6 - 400)}, "off-grid"),
        ({"transform": Affine(10, 0.5, 5e5, 0.5, -10, 5e6)}, "off-grid"),
        ({"transform": Affine(NAN, 0, 5e5, 0, -10, 5e6)}, "off-grid"),
    ],
)
def test_a_scene_that_breaks_the_contract_is_refused_with_the_reason(
    product: Any, profile: dict[str, Any], reason: str
) -> None:
    dn = product.dn(1).astype(profile.get("dtype", "uint16"))
    assert _reason(product.scene(0, dn, **profile), product) == reason


def test_a_scene_with_too_few_bands_is_refused(make_product: Callable[..., Any]) -> None:
    bands = [{"name": name, "dtype": "uint16", "index": index} for index, name in enumerate("ab", 1)]
    product = make_product(bands=bands)
    assert _reason(product.scene(0, product.dn(1)[:1]), product) == "missing-band"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # it has no georeference: the fault
def test_a_scene_placed_by_control_points_alone_is_refused(product: Any) -> None:
    path = product.inbox / "scene_20240601T050000Z.tif"
    points = [GroundControlPoint(r, c, 5e5 + 10 * c, 5e6 - 10 * r) for r, c in ((0, 0), (0, 48), (40, 0))]
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 48, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile, gcps=points, crs="EPSG:32633") as file:
        file.write(product.dn(1))
    assert _reason(path, product) == "wrong-crs"


def test_a_virtual_raster_in_a_geotiffs_clothes_is_not_opened(product: Any, tmp_path: Path) -> None:
    source = product.scene(0)
    disguised = tmp_path / "scene_20240601T050500Z.tif"
    disguised.write_text(
        f'<VRTDataset rasterXSize="48" rasterYSize="40"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SceneError, match="unreadable"), open_geotiff(disguised):
        pass


def test_side_files_change_nothing(product: Any) -> None:
    path = product.scene(0)
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><Metadata><MDI key="BASELINE">99</MDI></Metadata>'
        '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with open_geotiff(path) as dataset:
        assert dataset.nodata == 65535
        assert "BASELINE" not in dataset.tags()


@pytest.mark.parametrize(
    ("dtype", "declared", "configured", "dn", "expected"),
    [
        ("uint16", 0, 65535, [0, 1, 65535], [65535, 1, 65535]),
        ("uint16", None, 65535, [0, 1, 65535], [0, 1, 65535]),
        ("uint16", 0, None, [0, 1, 2], [65535, 1, 2]),
        ("int16", -9999, -32768, [-9999, 0, 1], [-32768, 0, 1]),
        ("float32", -9999.9, None, [-9999.9, 0, NAN], [NAN, 0, NAN]),
        ("float32", -9999.9, -1.0, [-9999.9, 0, NAN], [-1, 0, NAN]),
        ("float32", NAN, -1.0, [NAN, 0, 1], [NAN, 0, 1]),
    ],
)
def test_another_nodata_than_the_configured_one_becomes_the_cubes_fill_and_never_zero(
    product: Any, dtype: str, declared: float | None, configured: float | None, dn: list[float], expected: list[float]
) -> None:
    band = BandSpec(name="b", dtype=dtype, nodata=configured)
    path = product.scene(0, np.array([[dn]], dtype), nodata=declared)
    np.testing.assert_array_equal(_read(path, band, window=Window(0, 1, 0, 3)), np.array([[expected]], dtype))


def test_a_declared_nodata_that_no_pixel_can_have_hides_none(product: Any) -> None:
    path = product.scene(0, np.array([[[3, 4, 255]]], np.uint8), nodata=200)
    path.write_bytes(path.read_bytes().replace(b"200\0", b"3.5\0"))
    band = BandSpec(name="b", dtype="uint8", nodata=255)
    assert _read(path, band, window=Window(0, 1, 0, 3)).tolist() == [[[3, 4, 255]]]


def test_bands_come_in_the_configured_order_whatever_the_scene_has(product: Any) -> None:
    dn = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    bands = [BandSpec(name=f"b{index}", dtype="uint8", index=index) for index in (3, 1)]
    path = product.scene(0, dn, nodata=None, photometric="RGB")
    np.testing.assert_array_equal(_read(path, *bands, window=Window(0, 2, 1, 3)), dn[[2, 0], :, 1:3])


def test_a_truncated_scene_opens_but_does_not_read(product: Any) -> None:
    path = product.scene(0, compress="none")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with open_geotiff(path) as dataset:
        dataset.tags()
    with pytest.raises(SceneError, match="unreadable"):
        _read(path, *product.settings.bands)


@pytest.mark.parametrize(("nodata", "dn"), [(None, None), (65535, 65535)])
def test_blocks_that_a_live_writer_has_not_written_yet_are_missing_and_not_zero(
    product: Any, tmp_path: Path, nodata: int | None, dn: int | None
) -> None:
    copy = tmp_path / "scene_20240601T050500Z.tif"
    with rasterio.open(product.scene(0, nodata=nodata)) as done:
        profile = done.profile
    with rasterio.open(tmp_path / "growing.tif", "w", **profile) as file:
        file.write(product.dn(0)[:, :16], window=((0, 16), (0, 48)))
        copy.write_bytes((tmp_path / "growing.tif").read_bytes())
    if dn is None:
        assert _reason(copy, product) == "incomplete"
    else:
        assert (_read(copy, *product.settings.bands) == dn).all()


@pytest.fixture
def masked(make_product: Callable[..., Any]) -> Any:
    return make_product(mask={"suffix": "_clm", "values": [1, 3]})


def test_the_named_values_of_a_mask_make_pixels_unusable(masked: Any) -> None:
    values = np.random.default_rng(0).integers(0, 5, (40, 48))
    path, grid = masked.mask(masked.scene(0), values), masked.settings.grid.geobox()
    found = read_mask(path, masked.settings.scenes.mask, grid, Window(3, 9, 10, 40))
    np.testing.assert_array_equal(found, np.isin(values[3:9, 10:40], (1, 3)))


def test_a_missing_mask_is_waited_for(masked: Any, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no-mask"):
        stage_mask(masked.scene(0), masked.settings.scenes.mask, tmp_path)


@pytest.mark.parametrize(
    "profile", [{"crs": "EPSG:32632"}, {"transform": Affine(10, 0, 5e5, 0, -10, 5e6 - 10), "height": 39}]
)
def test_a_mask_that_does_not_fit_is_no_fault_of_its_scene(masked: Any, profile: dict[str, Any]) -> None:
    values = np.zeros((profile.get("height", 40), 48))
    path = masked.mask(masked.scene(0), values, **profile)
    with pytest.raises(SceneError, match=f"bad-mask.*{path.name}"):
        check_mask(path, masked.settings.grid.geobox(), WHOLE)
