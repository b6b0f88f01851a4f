from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from pipeline import surroundings
from pipeline.config import Settings, load, parse
from pipeline.doctor import Finding, examine

START = datetime(2020, 4, 1, 12, tzinfo=UTC)
TRANSFORM = Affine(10, 0, 465_000, 0, -10, 5_080_000)
EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def scene(path: Path, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"width": 20, "height": 16, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    options |= {"transform": TRANSFORM, **profile}
    with rasterio.open(path, "w", driver="GTiff", **options) as dataset:
        dataset.write(np.ones((options["count"], options["height"], options["width"]), options["dtype"]))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    for number in range(20):
        scene(tmp_path / "inbox" / f"a_{START + number * timedelta(minutes=5):%Y%m%dT%H%MZ}.tif")
    return tmp_path / "inbox"


def settings(folder: Path, **sections: Any) -> Settings:
    document: dict[str, Any] = {
        "workspace": "work",
        "product": {"name": "made-up"},
        "scenes": {"folder": "inbox", "pattern": "a_{time}.tif"},
        "bands": [{"name": "value", "dtype": "uint8"}],
        "grid": {"crs": "EPSG:32633", "transform": list(TRANSFORM)[:6], "width": 20, "height": 16},
        "axis": {"origin": START, "cadence": "PT5M"},
        "services": {"prefect_port": free_port(), "mlflow_port": free_port()},
    }
    for name, changes in sections.items():
        document[name] = changes if isinstance(changes, list) else document.get(name, {}) | changes
    return parse(document, source="made-up.toml", folder=folder)


def unwell(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "ok" and "TensorFlow" not in finding.what]


def only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = unwell(findings)
    return finding


def test_where_all_is_well_nothing_is_to_be_done(inbox: Path) -> None:
    findings = examine(settings(inbox.parent))
    assert unwell(findings) == []
    assert len(findings) > 8


def test_looking_changes_nothing(inbox: Path) -> None:
    before = sorted(inbox.parent.rglob("*"))
    examine(settings(inbox.parent))
    assert sorted(inbox.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["hrv_1km", "fmi_1km", "knmi_1km", "typhoon", "s2_slovenia"])
def test_the_examples_have_no_fault(shared_data: Path, name: str) -> None:
    assert shared_data.is_dir()
    assert [finding for finding in examine(load(EXAMPLES / f"{name}.toml")) if finding.level == "fault"] == []


def test_every_fault_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "b.tif").touch()
    (tmp_path / "work").touch()
    port = free_port()
    findings = examine(settings(tmp_path, services={"prefect_port": port, "mlflow_port": port}))
    assert len([finding for finding in findings if finding.level == "fault"]) >= 3
    assert all(finding.fix for finding in unwell(findings))


def test_a_missing_inbox_is_a_fault(tmp_path: Path) -> None:
    finding = only(examine(settings(tmp_path)))
    assert (finding.level, finding.found) == ("fault", f"{tmp_path / 'inbox'} is no folder")


def test_an_empty_inbox_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    finding = only(examine(settings(tmp_path)))
    assert (finding.level, finding.found) == ("warning", "no GeoTIFF there yet")


def test_names_that_do_not_match_are_a_fault_only_where_all_do_not(inbox: Path) -> None:
    scene(inbox / "preview.tif")
    some = only(examine(settings(inbox.parent)))
    assert (some.level, some.found) == ("warning", "20 do; 1 not: preview.tif")
    none = only(examine(settings(inbox.parent, scenes={"pattern": "z_{time}.tif"})))
    assert none.level == "fault"


def test_a_time_that_does_not_parse_is_named(inbox: Path) -> None:
    scene(inbox / "a_20201301T1200Z.tif")
    finding = only(examine(settings(inbox.parent)))
    assert finding.level == "warning"
    assert finding.found.startswith("1 of 21 have none: a_20201301T1200Z.tif")


def test_a_wrong_time_format_is_a_fault(inbox: Path) -> None:
    finding = only(examine(settings(inbox.parent, scenes={"time_format": "%Y-%m-%d"})))
    assert (finding.level, finding.what) == ("fault", "every scene has an acquisition time")


def test_times_are_read_from_the_tag_where_it_is_configured(inbox: Path) -> None:
    for number, path in enumerate(sorted(inbox.iterdir())):
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(acquired=f"{START + number * timedelta(minutes=5):%Y-%m-%d %H:%M}")
        path.rename(inbox / f"{number}.tif")
    tagged = {"pattern": "*.tif", "time_tag": "acquired", "time_format": "%Y-%m-%d %H:%M"}
    assert unwell(examine(settings(inbox.parent, scenes=tagged))) == []


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"bands": [{"name": "value", "dtype": "int16"}]}, "band 'value' is int16, the scene's is uint8"),
        ({"bands": [{"name": "value", "dtype": "uint8", "index": 2}]}, "is number 2, the scene has 1"),
        ({"grid": {"crs": "EPSG:32634"}}, "its CRS is EPSG:32633"),
        ({"grid": {"transform": [20, 0, 465_000, 0, -20, 5_080_000]}}, "its pixels are 10 x -10"),
        ({"grid": {"transform": [10, 0, 466_000, 0, -10, 5_080_000]}}, "columns -100 to -80"),
        ({"bands": [{"name": "value", "dtype": "uint8", "source": "hrv"}]}, "calls 'hrv', but it has band 1, nameless"),
        ({"bands": [{"name": "value", "dtype": "uint8", "declared": [0.5, 0]}]}, "this one DN * 1 + 0"),
    ],
)
def test_scenes_that_break_the_contract_are_a_fault(inbox: Path, sections: dict[str, Any], said: str) -> None:
    finding = only(examine(settings(inbox.parent, **sections)))
    assert finding.level == "fault"
    assert said in finding.found
    assert "a_20200401T1200Z.tif, a_20200401T1250Z.tif, a_20200401T1335Z.tif" in finding.found


def test_scenes_larger_than_the_grid_are_well(inbox: Path) -> None:
    assert unwell(examine(settings(inbox.parent, grid={"width": 10}))) == []


def test_scenes_that_are_going_to_be_warped_are_counted(inbox: Path) -> None:
    grid, scenes = {"transform": [20, 0, 465_000, 0, -20, 5_080_000]}, {"off_grid": "warp"}
    findings = examine(settings(inbox.parent, grid=grid, scenes=scenes))
    assert unwell(findings) == []
    assert [finding.found for finding in findings if "are warped" in finding.what] == ["3 of 3 looked at (bilinear)"]
    mixed = only(examine(settings(inbox.parent, grid=grid, scenes=scenes, bands=[{"name": "QA", "dtype": "uint8"}])))
    assert (mixed.level, mixed.fix) == ("warning", 'set resampling = "nearest" for band QA')


def test_an_inbox_beyond_this_machine_is_listed(inbox: Path, tmp_path: Path) -> None:
    def at(url: str) -> Settings:
        return settings(tmp_path, scenes={"url": url})

    assert unwell(examine(at(f"file://{inbox}"))) == []
    assert only(examine(at(f"file://{tmp_path}/nowhere"))).level == "fault"


def test_a_last_scene_that_cannot_be_read_is_a_fault(inbox: Path) -> None:
    (inbox / "a_20200401T1335Z.tif").write_bytes(b"no tiff")
    finding = only(examine(settings(inbox.parent)))
    assert finding.level == "fault"
    assert finding.found.startswith("a_20200401T1335Z.tif:")


def test_scaling_and_nodata_that_differ_from_the_scenes_are_warnings(tmp_path: Path) -> None:
    for number in range(20):
        path = scene(tmp_path / "inbox" / f"a_{START + number * timedelta(minutes=5):%Y%m%dT%H%MZ}.tif", nodata=255)
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets, dataset.units = (0.5,), (-32.0,), ("dBZ",)
    said = [finding.found for finding in unwell(examine(settings(tmp_path)))]
    assert said == [
        "band value: DN * 0.5 + -32 in the scenes, DN * 1 + 0 in [[bands]]",
        "band value: nodata is 255 in the scenes, None in [[bands]]",
        "band value: in dBZ in the scenes, in 1 in [[bands]]",
    ]
    band = {"name": "value", "dtype": "uint8", "scale": 0.5, "offset": -32, "nodata": 255, "units": "dBZ"}
    assert unwell(examine(settings(tmp_path, bands=[band]))) == []


def test_a_configuration_that_knows_more_than_the_scenes_is_right(inbox: Path) -> None:
    band = {"name": "value", "dtype": "uint8", "scale": 0.5, "nodata": 0, "units": "K"}
    assert unwell(examine(settings(inbox.parent, bands=[band]))) == []


def test_scenes_older_than_the_origin_are_named(inbox: Path) -> None:
    late = settings(inbox.parent, axis={"origin": START + timedelta(minutes=10)})
    finding = only(examine(late))
    assert finding.level == "warning"
    assert finding.found.startswith("2 of 20 are: a_20200401T1200Z.tif, a_20200401T1205Z.tif")
    assert "axis.origin to 2020-04-01T12:00:00Z" in finding.fix


def test_two_scenes_of_one_slot_are_named(inbox: Path) -> None:
    scene(inbox / "a_20200401T1201Z.tif")
    finding = only(examine(settings(inbox.parent)))
    assert finding.level == "warning"
    assert "a_20200401T1200Z.tif and a_20200401T1201Z.tif" in finding.found


def test_tiles_of_one_time_do_not_crowd_their_slot(tmp_path: Path) -> None:
    for number in range(20):
        for tile in "AB":
            scene(tmp_path / "inbox" / f"{tile}_{START + number * timedelta(minutes=5):%Y%m%dT%H%MZ}.tif")
    assert unwell(examine(settings(tmp_path, scenes={"pattern": "{tile}_{time}.tif"}))) == []
    assert len(unwell(examine(settings(tmp_path, scenes={"pattern": "*_{time}.tif"})))) == 1


def test_too_few_scenes_for_context_and_horizon_are_a_fault(inbox: Path) -> None:
    finding = only(examine(settings(inbox.parent, samples={"horizon": 18})))
    assert (finding.level, finding.found) == ("fault", "20 of 20 slots observed")
    assert "lower samples.horizon" in finding.fix


def test_a_maximum_age_that_no_context_fits_into_is_a_warning(tmp_path: Path) -> None:
    for number in range(0, 80, 4):
        scene(tmp_path / "inbox" / f"a_{START + number * timedelta(minutes=5):%Y%m%dT%H%MZ}.tif")
    finding = only(examine(settings(tmp_path, samples={"context_frames": 4, "max_age": 8})))
    assert finding.level == "warning"
    assert finding.fix.startswith("raise samples.max_age, now 8 slots")


def test_a_mask_that_does_not_fit_its_scene_is_a_fault(inbox: Path) -> None:
    for path in inbox.glob("*.tif"):
        scene(inbox / "mask" / path.name, width=19)
    finding = only(examine(settings(inbox.parent, scenes={"mask": {"folder": "inbox/mask"}})))
    assert (finding.level, "smaller than the scene" in finding.found) == ("fault", True)


def test_missing_masks_are_counted(inbox: Path) -> None:
    for path in sorted(inbox.glob("*.tif"))[:15]:
        scene(inbox / "mask" / f"{path.stem}_clm.tif")
    masked = {"mask": {"folder": "inbox/mask", "suffix": "_clm"}}
    finding = only(examine(settings(inbox.parent, scenes=masked)))
    assert finding.level == "warning"
    assert finding.found.startswith("5 of 20 have none")


def test_a_workspace_that_is_a_file_is_a_fault(inbox: Path) -> None:
    (inbox.parent / "work").touch()
    finding = only(examine(settings(inbox.parent)))
    assert (finding.level, finding.found) == ("fault", f"{inbox.parent / 'work'}: is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workspace_that_cannot_be_written_is_a_fault(inbox: Path) -> None:
    (inbox.parent / "work").mkdir(mode=0o500)
    assert only(examine(settings(inbox.parent))).level == "fault"


def test_a_full_disk_is_a_warning(inbox: Path) -> None:
    # 10 Tpx of float64 a scene: more than any disk that runs this test
    huge = settings(inbox.parent, grid={"width": 10**7, "height": 10**6})
    assert [finding.fix for finding in unwell(examine(huge)) if "disk has room" in finding.what] != []


@pytest.mark.parametrize(
    ("kind", "store", "level"),
    [("nfs4", {}, "fault"), ("nfs4", {"url": "s3://cubes/sky"}, "warning"), ("overlay", {}, "ok")],
)
def test_a_workspace_on_a_network_is_a_fault_where_it_holds_the_cube(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, kind: str, store: dict[str, str], level: str
) -> None:
    lines = ["1 1 0:1 / / rw - ext4 /dev/vda rw", f"2 1 0:2 / {inbox.parent} rw - {kind} x rw"]
    (inbox.parent / "mounts").write_text("\n".join(lines))
    monkeypatch.setattr(surroundings, "MOUNTS", inbox.parent / "mounts")
    findings = examine(settings(inbox.parent, store=store))
    assert [finding.level for finding in findings if "local disk" in finding.what] == [level]


def test_a_cube_on_s3_is_said_and_needs_no_disk_here(inbox: Path) -> None:
    huge = settings(inbox.parent, grid={"width": 10**7, "height": 10**6}, store={"url": "s3://cubes/sky"})
    findings = examine(huge)
    assert [finding for finding in unwell(findings) if "disk has room" in finding.what] == []
    assert any(finding.found.startswith("s3://cubes/sky at AWS") for finding in findings)


@pytest.mark.parametrize(
    ("address", "level"),
    [
        ("tcp://scheduler:8786", "ok"),
        ("tls://[::1]:8786", "ok"),
        ("scheduler:8786", "ok"),
        ("http://scheduler:8786", "fault"),
        ("tcp://scheduler", "fault"),
        ("tcp://scheduler:99999", "fault"),
    ],
)
def test_an_address_that_no_dask_scheduler_has_is_a_fault(inbox: Path, address: str, level: str) -> None:
    services = {"prefect_port": free_port(), "mlflow_port": free_port(), "dask": address}
    findings = examine(settings(inbox.parent, services=services))
    assert [finding.level for finding in findings if "services.dask" in finding.what] == [level]


def test_a_port_in_use_is_a_warning(inbox: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = only(examine(settings(inbox.parent, services={"prefect_port": taken.getsockname()[1]})))
    assert (finding.level, "services.prefect_port" in finding.fix) == ("warning", True)


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), _Healthy) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_tracking_server_that_answers_is_well(inbox: Path, server: str) -> None:
    findings = examine(settings(inbox.parent, tracking={"uri": server}))
    assert unwell(findings) == []
    assert any("MLflow" in finding.what for finding in findings)


def test_a_tracking_server_that_asks_for_a_login_is_a_warning(inbox: Path, server: str) -> None:
    finding = only(examine(settings(inbox.parent, tracking={"uri": f"{server}/behind"})))
    assert finding.level == "warning"
    assert "401" in finding.found


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "http://no[host"])
def test_a_tracking_server_that_does_not_answer_is_a_fault(inbox: Path, uri: str) -> None:
    finding = only(examine(settings(inbox.parent, tracking={"uri": uri.format(port=free_port())})))
    assert (finding.level, "tracking.uri" in finding.fix) == ("fault", True)
