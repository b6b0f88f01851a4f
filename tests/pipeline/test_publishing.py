from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from pipeline.bucket import Bucket, Objects
from pipeline.catalog import find_run, latest, read_run
from pipeline.errors import PublishError, WithdrawnError
from pipeline.forecast import forecast, outlet
from pipeline.predictor import Source
from pipeline.publishing import publish, published_alike, published_by_a_network
from pipeline.raster import encode, read_dn
from pipeline.record import ModelRef, RunRecord, outlet_of, record_of, run_folder, run_key
from pipeline.sheets import stored_bands
from pipeline.shelf import shelf_at
from pipeline.specs import INTEGER_TYPES, BandSpec, ProductSpec, Resolution, StoreSpec
from pipeline.withdrawal import withdraw
from tests.pipeline.published import (
    DBZ,
    GRID,
    INIT,
    PRODUCT,
    RUN,
    a_forecast,
    an_outlet,
    at,
    damaged,
    files_of,
    publish_run,
    the_latest,
    visible,
)

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

ROOT = Path(__file__).parents[2]
WIDER = GeoBox((32, 42), GRID.transform, GRID.crs)


def test_a_run_is_three_files_a_lead_and_a_manifest(tmp_path: Path) -> None:
    folder = publish_run(an_outlet(tmp_path))
    assert folder.parent == tmp_path / "radar/2020/04/01/20200401T1310Z"
    leads = [f"lead-{minutes}m{end}" for minutes in ("0005", "0010") for end in (".tif", "-quality.tif", ".json")]
    assert sorted(files_of(folder)) == sorted([*leads, "run.json"])
    assert not list(tmp_path.glob(".staging-*"))


def test_a_run_reads_back_in_physical_units(tmp_path: Path) -> None:
    forecast = a_forecast(quantities=("mean", "q10"))
    folder = publish(forecast, RUN, an_outlet(tmp_path), {})
    np.testing.assert_array_equal(read_run(folder).read(10), forecast.values[0, 1])


def test_what_a_run_was_made_of_reads_back(tmp_path: Path) -> None:
    run = read_run(publish_run(an_outlet(tmp_path), created=INIT))
    assert (run.init, run.created, run.product, run.model) == (INIT, INIT, "radar", RUN.model)
    assert (run.snapshot, run.scenes, run.run_key) == ("CUBE1", RUN.scenes, run_key(RUN, an_outlet(tmp_path)))


def test_the_manifest_holds_the_checksum_of_every_file(tmp_path: Path) -> None:
    folder = publish_run(an_outlet(tmp_path))
    assert damaged(folder) == []


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (files_of(publish_run(an_outlet(tmp_path / name), created=INIT)) for name in ("one", "two"))
    assert first == second


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    folder = publish_run(an_outlet(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert publish(a_forecast(leads=1), RUN, an_outlet(tmp_path), {}) == folder
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert before == {**after, tmp_path / "radar/.lock": before[tmp_path / "radar/.lock"]}


@pytest.mark.parametrize(
    "change",
    [
        {"init": INIT + timedelta(minutes=5)},
        {"cadence": timedelta(minutes=10)},
        {"model": ModelRef("radar", "4", "network")},
        {"snapshot": "CUBE2"},
        {"scenes": ("a.tif",)},
        {"specification": '{"horizon": 3}'},
        {"code_version": "0.2.0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_fact_of_a_run_changes_its_key(tmp_path: Path, change: dict) -> None:
    outlet = an_outlet(tmp_path)
    assert run_key(replace(RUN, **change), outlet) != run_key(RUN, outlet)


@pytest.mark.parametrize(
    "change",
    [
        {"product": ProductSpec(name="radar", licence="CC0-1.0", attribution="© FMI")},
        {"bands": (DBZ.model_copy(update={"scale": 1.0}),)},
        {"grid": WIDER},
        {"probabilities": {"reflectivity": (20.0,)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_fact_of_the_product_changes_the_key(tmp_path: Path, change: dict) -> None:
    outlet = an_outlet(tmp_path)
    assert run_key(RUN, replace(outlet, **change)) != run_key(RUN, outlet)


def test_the_key_knows_neither_folders_nor_the_layout_of_json(tmp_path: Path) -> None:
    other = replace(RUN, specification='{ "horizon":2 }')
    assert run_key(other, an_outlet(tmp_path / "b")) == run_key(RUN, an_outlet(tmp_path / "a"))


def test_several_bands_and_quantities_are_named_by_both(tmp_path: Path) -> None:
    bands = (DBZ, DBZ.model_copy(update={"name": "top"}))
    forecast = a_forecast(2, ("mean", "q90"))
    run = read_run(publish(forecast, RUN, an_outlet(tmp_path, *bands), {}))
    with rasterio.open(run.leads[5]) as dataset:
        assert dataset.descriptions == ("reflectivity_mean", "top_mean", "reflectivity_q90", "top_q90")
        assert dataset.tags(2) == {"cube_band": "top", "quantity": "mean"}
        assert dataset.tags(4) == {"cube_band": "top", "quantity": "q90", "probability": "0.9"}
    np.testing.assert_array_equal(run.read(5), forecast.values[0, 0])


KELVIN = BandSpec(name="kelvin", dtype="uint16", units="K", scale=0.01, nodata=65535)


def test_bands_that_cannot_share_a_file_are_written_as_physical_floats(tmp_path: Path) -> None:
    forecast = a_forecast(2)
    outlet = replace(an_outlet(tmp_path, DBZ, KELVIN), resolution="scenes")
    run = read_run(publish(forecast, RUN, outlet, {}))
    with rasterio.open(run.leads[5]) as dataset:
        assert (dataset.dtypes[0], str(dataset.nodata), dataset.scales) == ("float32", "nan", (1, 1))
        assert dataset.units == ("dBZ", "K")
    np.testing.assert_array_equal(run.read(5), forecast.values[0, 0])


def test_integers_of_several_kinds_share_a_file_of_the_widest(tmp_path: Path) -> None:
    forecast = a_forecast(2)
    run = read_run(publish(forecast, RUN, an_outlet(tmp_path, DBZ, KELVIN), {}))
    with rasterio.open(run.leads[5]) as dataset:
        assert (dataset.dtypes[0], dataset.nodata) == ("uint32", 2**32 - 1)
        assert (dataset.scales, dataset.offsets) == ((0.5 / 16, 0.01 / 16), (-32, 0))
    np.testing.assert_allclose(run.read(5), forecast.values[0, 0], atol=0.01 / 32)


@pytest.mark.parametrize(("resolution", "worst"), [("scenes", 0.25), ("fine", 0.25 / 16)])
def test_a_fine_forecast_is_rounded_16_times_less_than_the_scenes(
    tmp_path: Path, resolution: Resolution, worst: float
) -> None:
    values = np.random.default_rng(0).uniform(-32, 95, (1, 2, 1, *GRID.shape, 1)).astype(np.float32)
    forecast = replace(a_forecast(), values=values)
    run = read_run(publish(forecast, RUN, replace(an_outlet(tmp_path), resolution=resolution), {}))
    off = np.abs(run.read(10) - values[0, 1])
    assert 0.9 * worst < off.max() <= worst * 1.0001


def test_a_resolution_has_its_own_folder(tmp_path: Path) -> None:
    fine = an_outlet(tmp_path)
    assert run_key(RUN, fine) != run_key(RUN, replace(fine, resolution="scenes"))


def _kind(band: BandSpec) -> tuple[str, float, float]:
    (stored,) = stored_bands((band,), "fine")
    return stored.dtype, band.scale / stored.scale, stored.fill


@pytest.mark.parametrize(
    ("dtype", "limits", "expected"),
    [
        ("uint8", (None, None), ("uint16", 16, 65535)),
        ("int8", (None, None), ("int16", 16, -32768)),
        ("int16", (0, 1023), ("uint16", 16, 65535)),
        ("int16", (-1, 1023), ("int16", 16, -32768)),
        ("int16", (-4000, 1023), ("int32", 16, -(2**31))),
        ("uint16", (None, None), ("uint32", 16, 2**32 - 1)),
        ("uint16", (None, 4095), ("uint16", 16, 65535)),
        ("uint16", (None, 4096), ("uint32", 16, 2**32 - 1)),
        ("int32", (None, None), ("int32", 1, -(2**31))),
        ("uint32", (0, 2**28 - 1), ("uint32", 16, 2**32 - 1)),
        ("uint32", (0, 2**28), ("uint32", 1, 2**32 - 1)),
        ("float32", (0, 1), ("float32", 1, pytest.approx(np.nan, nan_ok=True))),
    ],
)
def test_fine_steps_take_the_first_type_that_holds_all_that_is_possible(
    dtype: str, limits: tuple[float | None, float | None], expected: tuple[str, float, float]
) -> None:
    low, high = limits
    assert _kind(BandSpec(name="b", dtype=dtype, valid_min=low, valid_max=high)) == expected  # pyright: ignore[reportArgumentType]  # parameters are plain text


@given(
    st.sampled_from(INTEGER_TYPES),
    st.floats(0.001, 100),
    st.floats(-500, 500),
    st.integers(-(2**31), 2**32 - 1),
)
def test_every_dn_of_the_scenes_is_kept_by_a_fine_file(dtype: str, scale: float, offset: float, seed: int) -> None:
    band = BandSpec(name="b", dtype=dtype, scale=scale, offset=offset)  # pyright: ignore[reportArgumentType]  # as above
    (stored,) = stored_bands((band,), "fine")
    info = np.iinfo(dtype)
    dn = np.array([info.min + (info.min < 0), info.max - (info.min == 0), np.clip(seed, info.min + 1, info.max - 1)])
    physical = dn * scale + offset
    np.testing.assert_array_equal(encode(physical, stored), np.rint(dn * scale / stored.scale))


def test_the_quality_file_has_the_source_and_the_age_in_minutes(tmp_path: Path) -> None:
    path = publish_run(an_outlet(tmp_path)) / "lead-0005m-quality.tif"
    source, age = read_dn(path)
    assert (source[0, 0], source[9, 9]) == (Source.NONE, Source.NETWORK)
    assert (age[0, 0], age[9, 9]) == (65535, 8)  # 1.5 slots of 5 minutes
    with rasterio.open(path) as dataset:
        assert (dataset.descriptions, dataset.units, dataset.nodata) == (("source", "input_age"), ("1", "min"), 65535)
        assert dataset.tags(1)["flag_meanings"].split()[Source.NETWORK] == "network"


@pytest.mark.parametrize("value", [False, np.False_, float("nan"), np.float32("inf")])
def test_a_failed_check_is_not_published(tmp_path: Path, value: float) -> None:
    with pytest.raises(PublishError, match="every check holds, found bias = "):
        publish(a_forecast(), RUN, an_outlet(tmp_path), {"fine": True, "bias": value})
    assert visible(tmp_path) == []


def test_checks_of_numpy_types_reach_the_manifest(tmp_path: Path) -> None:
    folder = publish(a_forecast(), RUN, an_outlet(tmp_path), {"a": np.True_, "b": np.float32(0.5)})
    assert json.loads((folder / "run.json").read_text())["checks"] == {"a": True, "b": 0.5}


@pytest.mark.parametrize(
    ("value", "claim"), [(np.nan, "at least one value.*10 minutes"), (np.inf, "infinite.*10 minutes")]
)
def test_an_empty_or_infinite_lead_is_not_published(tmp_path: Path, value: float, claim: str) -> None:
    forecast = a_forecast()
    forecast.values[0, 1] = value
    with pytest.raises(PublishError, match=claim):
        publish(forecast, RUN, an_outlet(tmp_path), {})
    assert visible(tmp_path) == []


def test_a_forecast_on_another_grid_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"\(1, 32, 42, 1\).*found \(1, 30, 40, 1\)"):
        publish(a_forecast(), RUN, replace(an_outlet(tmp_path), grid=WIDER), {})


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"init": INIT.replace(tzinfo=None)}, "UTC"),
        ({"cadence": timedelta(seconds=90)}, "whole minutes"),
        ({"specification": "x"}, "is JSON, found 'x'"),
    ],
)
def test_a_run_record_that_cannot_be_named_is_refused(change: dict, claim: str) -> None:
    with pytest.raises(ValueError, match=claim):
        replace(RUN, **change)


def test_a_folder_without_manifest_is_no_run_and_gives_way_to_one(tmp_path: Path) -> None:
    folder = run_folder(RUN, an_outlet(tmp_path))
    folder.mkdir(parents=True)
    (folder / "lead-0005m.tif").touch()
    assert visible(tmp_path) == []
    with pytest.raises(PublishError, match=r"readable run\.json"):
        read_run(folder)
    assert damaged(publish_run(an_outlet(tmp_path))) == []


def test_others_may_read_a_run_as_any_new_folder(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert publish_run(an_outlet(tmp_path)).stat().st_mode == plain.stat().st_mode


def test_publishers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda minutes: publish_run(an_outlet(tmp_path), at(minutes)), [10, 0, 5, 5]))
    assert len(visible(tmp_path)) == 3
    assert the_latest(tmp_path).path == folders[0]
    links = json.loads((tmp_path / "radar/2020/04/01/catalog.json").read_text())["links"]
    assert len(links) == 6


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of publishes that died at their first, second, ... access to the file system."""
    return _in_a_process_of_its_own("_die_at_every_step", tmp_path_factory.mktemp("killed"))


def test_a_killed_publish_shows_a_whole_run_or_none(killed: list[Path]) -> None:
    seen = [len(visible(step)) for step in killed]
    assert set(seen) == {0, 1}
    assert seen == sorted(seen)
    for step in killed:
        assert all(not damaged(run.path) for run in visible(step))
        newest = latest(step, PRODUCT)
        assert [newest] == (visible(step)[-1:] or [None])


def test_publishing_again_completes_what_was_killed(tmp_path: Path, killed: list[Path]) -> None:
    for left in killed:
        step = shutil.copytree(left, tmp_path / left.name)
        folder = publish_run(an_outlet(step))
        assert damaged(folder) == []
        assert json.loads((step / "radar/latest.json").read_text())["run_key"] == folder.name
        assert len(json.loads((step / "radar/2020/04/01/catalog.json").read_text())["links"]) == 2


def test_a_full_disk_shows_no_run(tmp_path: Path) -> None:
    for step in _in_a_process_of_its_own("_fill_the_disk", tmp_path):
        assert visible(step) == []
        assert list(step.glob(".staging-*")) == []


def _in_a_process_of_its_own(name: str, root: Path) -> list[Path]:
    """Runs a function of this file in a fresh interpreter: it forks, which a process with TensorFlow must not."""
    script = "import runpy, sys, pathlib; runpy.run_path(sys.argv[1])[sys.argv[2]](pathlib.Path(sys.argv[3]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, __file__, name, str(root)], check=True, timeout=300, env=environment)
    folders = sorted(root.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) > 1
    return folders


def _forked(action: Callable[[], object]) -> int:
    """Exit code of ``action`` in a child: 0, or 1 where it raised."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as the test
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at_every_step(root: Path) -> None:
    """Publishes below ``root/<n>`` and dies at the n-th access to the file system, until one publish survives."""
    publish_run(an_outlet(root / "0"))  # imports what publish imports late, once for all children
    shutil.rmtree(root / "0")
    for step in itertools.count(1):
        folder = root / str(step)
        if _forked(lambda folder=folder, step=step: (_die_at(step, folder), publish_run(an_outlet(folder)))) == 0:
            return


def _die_at(step: int, folder: Path) -> None:
    folder.mkdir()
    left = itertools.count(step - 1, -1)

    def count(event: str, arguments: tuple) -> None:
        touches = event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} and str(folder) in str(
            arguments[0]
        )
        if touches and next(left) == 0:
            os._exit(9)

    sys.addaudithook(count)


def _fill_the_disk(root: Path) -> None:
    """Publishes below ``root/<size>`` where no file can grow beyond ``size`` bytes."""
    for size in (0, 100, 1000, 2500):
        folder = root / str(size)
        folder.mkdir()
        assert _forked(lambda folder=folder, size=size: _publish_in_little_room(folder, size)) == 1


def _publish_in_little_room(folder: Path, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    publish_run(an_outlet(folder))


def test_a_run_is_found_again_whatever_one_setting_of_it_said(tmp_path: Path) -> None:
    """Intervals follow the newest scores; asked again for the same init time, there is one run, not one for each."""
    folder = publish_run(an_outlet(tmp_path), replace(RUN, specification='{"horizon": 2, "widths": [[1.2]]}'))
    assert published_alike(RUN, an_outlet(tmp_path), but=("widths",)) == folder
    assert published_alike(RUN, an_outlet(tmp_path), but=("horizon",)) is None


def test_a_damaged_run_of_the_same_init_time_stops_no_other(tmp_path: Path) -> None:
    outlet = an_outlet(tmp_path)
    damaged = publish_run(outlet)
    (damaged / "run.json").write_text("{")
    other = replace(RUN, scenes=RUN.scenes[1:])
    assert published_alike(other, outlet, but=()) is None
    folder = publish_run(outlet, other)
    assert published_alike(other, outlet, but=()) == folder
    assert published_by_a_network(other, outlet) == folder


def test_a_new_snapshot_with_the_same_scenes_makes_no_second_run(tmp_path: Path) -> None:
    """A scene came that the run does not see."""
    folder = publish_run(an_outlet(tmp_path))
    assert published_alike(replace(RUN, snapshot="CUBE2"), an_outlet(tmp_path), but=()) == folder


@pytest.mark.parametrize(
    "other",
    [at(5), replace(RUN, scenes=RUN.scenes[1:]), replace(RUN, specification='{"horizon": 3}')],
    ids=["init", "scenes", "horizon"],
)
def test_a_run_of_another_making_is_not_taken_for_it(tmp_path: Path, other: RunRecord) -> None:
    publish_run(an_outlet(tmp_path))
    assert published_alike(other, an_outlet(tmp_path), but=("widths",)) is None


@pytest.mark.parametrize("but", ["widths", "horizon"])
def test_a_withdrawn_run_is_not_published_again_unasked(tmp_path: Path, but: str) -> None:
    outlet = an_outlet(tmp_path)
    widened = replace(RUN, specification='{"horizon": 2, "widths": [[1.2]]}')
    publish_run(outlet, widened)
    withdraw(tmp_path, PRODUCT, run_key(widened, outlet), "the radar of Ikaalinen was turned")
    with pytest.raises(WithdrawnError, match=r"the radar of Ikaalinen was turned\. .*cubecast forecast restore"):
        publish_run(outlet, widened)
    if but == "widths":
        with pytest.raises(WithdrawnError):
            published_alike(RUN, outlet, but=(but,))
    else:
        assert published_alike(RUN, outlet, but=(but,)) is None
    assert visible(tmp_path) == []


def test_a_run_is_published_into_a_bucket_as_into_a_folder(tmp_path: Path, s3_bucket: Bucket) -> None:
    here, there = an_outlet(tmp_path / "here"), an_outlet(s3_bucket, made_in=tmp_path / "made")
    folder = publish_run(here, created=INIT)
    path = publish_run(there, created=INIT)
    assert path.relative_to(s3_bucket.path) == folder.relative_to(tmp_path / "here")
    objects = Objects.of(s3_bucket, PRODUCT)
    for file in here.folder.rglob("*.json"):
        assert objects.text(file.relative_to(here.folder).as_posix()) == file.read_text(encoding="utf-8")
    np.testing.assert_array_equal(the_latest(s3_bucket).read(5), the_latest(tmp_path / "here").read(5))
    np.testing.assert_array_equal(the_latest(s3_bucket).source(5), the_latest(tmp_path / "here").source(5))
    assert list((tmp_path / "made").iterdir()) == []


def test_of_a_publish_into_a_bucket_that_dies_nothing_is_seen(
    tmp_path: Path, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest comes last: what dies before it leaves files without one, which the next publish completes."""
    outlet = an_outlet(s3_bucket, made_in=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put", _die)
        with pytest.raises(KeyboardInterrupt):
            publish_run(outlet)
    (entry,) = shelf_at(s3_bucket, PRODUCT).entries("2020/04/01")
    assert len(entry.files) == 6
    assert visible(s3_bucket) == []
    assert latest(s3_bucket, PRODUCT) is None
    publish_run(outlet)
    assert [run.path for run in visible(s3_bucket)] == [the_latest(s3_bucket).path]


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_publishers_into_a_bucket_at_the_same_time_lose_nothing(tmp_path: Path, s3_bucket: Bucket) -> None:
    outlet = an_outlet(s3_bucket, made_in=tmp_path)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda minutes: publish_run(outlet, at(minutes)), [10, 0, 5, 5]))
    assert len(visible(s3_bucket)) == 3
    pointer = json.loads(Objects.of(s3_bucket, PRODUCT).text("latest.json") or "")
    assert s3_bucket.path / PRODUCT / pointer["path"] == paths[0]
    catalogue = json.loads(Objects.of(s3_bucket, PRODUCT).text("2020/04/01/catalog.json") or "")
    assert len(catalogue["links"]) == 6


def test_a_product_with_a_bucket_is_forecast_into_it(product: Product, s3_bucket: Bucket) -> None:
    for slot in range(5):
        product.scene(slot)
    product.ingest()
    store = StoreSpec(url=s3_bucket.url, endpoint=s3_bucket.endpoint)
    spec = product.settings.forecast.model_copy(update={"store": store})
    settings = product.settings.model_copy(update={"forecast": spec})
    path = forecast(settings, None)
    run = find_run(outlet(settings).place, "tiny", path.as_posix())
    assert (run.path, run.init) == (path, product.time(4))
    assert run.read(5).shape == (1, 40, 48, 1)
    assert forecast(settings, None) == path


NAN = float("nan")
ODD = BandSpec(name="rain", dtype="float32", nodata=NAN, period=timedelta(minutes=5), valid_max=float("inf"))


def test_a_run_with_probabilities_is_made_of_them_and_names_those_that_it_has(tmp_path: Path) -> None:
    made = replace(an_outlet(tmp_path), probabilities={"reflectivity": (20.0, 35.5)})
    path = publish(a_forecast(quantities=("mean", "q10", "q90")), RUN, made, {})
    facts = json.loads((path / "run.json").read_text())
    assert run_key(record_of(facts), outlet_of(facts, tmp_path)) == facts["run_key"] == run_key(RUN, made)
    assert [one["threshold"] for one in facts["probabilities"]] == [20, 35.5]
    assert [one.threshold for one in read_run(path).chances] == [20, 35.5]
    assert json.loads((publish_run(replace(made, root=tmp_path / "b")) / "run.json").read_text())["probabilities"] == []


def test_a_run_from_before_there_were_probabilities_keeps_its_key_and_is_read(tmp_path: Path) -> None:
    path = publish_run(an_outlet(tmp_path))
    facts = json.loads((path / "run.json").read_text())
    assert "probabilities" not in facts["outlet"]  # so the key is what it was
    del facts["probabilities"]
    (path / "run.json").write_text(json.dumps(facts))
    run = read_run(path)
    assert (run.chances, run.read(5).shape) == ((), (1, 30, 40, 1))
    assert run_key(record_of(facts), outlet_of(facts, tmp_path)) == run.run_key


@pytest.mark.parametrize("band", [DBZ, ODD])
def test_a_manifest_says_all_that_decides_its_run_key(tmp_path: Path, band: BandSpec) -> None:
    made = replace(an_outlet(tmp_path, band), resolution="scenes")
    facts = json.loads((publish(a_forecast(), RUN, made, {}) / "run.json").read_text())
    assert record_of(facts) == RUN
    assert run_key(record_of(facts), outlet_of(facts, tmp_path)) == facts["run_key"]
