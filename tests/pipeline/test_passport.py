from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.errors import ModelError, PublishError
from pipeline.forecast import forecast
from pipeline.maintenance import collect, expire
from pipeline.passport import Passport, Verdict, check_files, verify
from pipeline.predictor import Context, Forecast, Source
from pipeline.raster import sha256
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.verify import verify as score

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

SAMPLES = {"context_frames": 2, "max_age": 4, "horizon": 2}
STILL = {"stuck": "off", "level": "off", "zeros_are_values": True}
REF = ModelRef("fake", "1", "network")


@dataclass(frozen=True)
class Between:
    """The newest frame plus 0.5, within an interval of 2 about it."""

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        middle = said.values + np.float32(0.5)
        values = np.concatenate([middle - 1, middle, middle + 1], axis=2)
        return Forecast(values, np.full_like(said.source, Source.NETWORK), said.age, QUANTITIES)


QUANTITIES = ("q10", "q50", "q90")
CHAMPION = Champion(Between(), REF)


def load(_: Settings, ref: ModelRef) -> Champion:
    """A registry that has one model."""
    if ref != REF:
        raise ModelError(f"no {ref.name} version {ref.version}")
    return CHAMPION


def tuned(made: Product, **changed: Any) -> Settings:
    document: dict[str, Any] = made.settings.model_dump()
    return Settings(**document | {"samples": SAMPLES} | changed)


@pytest.fixture(scope="module")
def landmark(make_product: Callable[..., Product]) -> Product:
    """Six scenes of something that is nowhere the same."""
    product = make_product(scenes={"firewall": STILL})
    field = (np.indices((40, 48)).sum(axis=0) + 40)[np.newaxis].astype(np.uint16)
    for slot in range(6):
        product.scene(slot, np.roll(field, slot, axis=2))
    product.ingest()
    return product


@pytest.fixture
def run(landmark: Product, tmp_path: Path) -> Path:
    """A run of the champion, to be broken."""
    return copied(forecast(tuned(landmark), CHAMPION, init=landmark.time(4)), tmp_path)


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))


def check(made: Product, run: Path, **changed: Any) -> Passport:
    return verify(tuned(made, **changed), run, load)


def manifest(run: Path, **changed: Any) -> None:
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def faults(found: Passport) -> dict[str, str]:
    return {fault.file: fault.what for fault in found.faults}


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("champion", [CHAMPION, None])
def test_an_untouched_run_is_equal(landmark: Product, champion: Champion | None) -> None:
    settings = tuned(landmark)
    for init in (None, landmark.time(4)):
        found = verify(settings, forecast(settings, champion, init=init), load)
        assert (found.verdict, found.files, found.rasters) == (Verdict.EQUAL, 7, 4), found


def test_a_run_is_made_again_of_its_own_settings_whatever_the_configuration_says_by_now(
    landmark: Product, run: Path
) -> None:
    found = check(
        landmark,
        run,
        samples={"context_frames": 3, "max_age": 5, "horizon": 1},
        motion={"method": "none"},
        forecast={"resolution": "scenes", "tile": 64, "delay": timedelta(hours=1)},
        product={"name": "tiny", "title": "renamed"},
        bands=[landmark.settings.bands[0].model_dump() | {"valid_max": 3.0, "scale": 7.0}],
    )
    assert found.verdict is Verdict.EQUAL, found


def test_probabilities_come_out_again_as_the_run_has_them_whatever_is_asked_for_by_now(landmark: Product) -> None:
    asking = tuned(landmark, forecast={"probabilities": {"sky": [2.0, 3.5]}})
    made = forecast(asking, CHAMPION, init=landmark.time(3))
    for settings in (asking, tuned(landmark), tuned(landmark, forecast={"probabilities": {"sky": [3.0]}})):
        found = verify(settings, made, load)
        assert (found.verdict, found.rasters) == (Verdict.EQUAL, 4), found


def test_a_changed_probability_is_counted(landmark: Product, tmp_path: Path) -> None:
    asking = tuned(landmark, forecast={"probabilities": {"sky": [2.0]}})
    copy = copied(forecast(asking, CHAMPION, init=landmark.time(3)), tmp_path)
    with rasterio.open(copy / "lead-0005m.tif", "r+", IGNORE_COG_LAYOUT_BREAK=True) as file:
        dn = file.read(4)
        dn[7, 9] = 9999 - dn[7, 9]
        file.write(dn, 4)
    (difference,) = [one for one in check(landmark, copy).differences if one.pixels]
    assert (difference.what, difference.pixels, difference.units) == ("p_ge_2", 1, "1")


def test_a_run_is_made_again_of_what_was_there_then_although_the_cube_has_grown(
    make_product: Callable[..., Product],
) -> None:
    product = make_product(scenes={"firewall": STILL})
    for slot in range(3):
        product.scene(slot)
    product.ingest()
    before = forecast(tuned(product), None)
    product.scene(2, product.dn(99), name="scene_20240601T051000Z_again.tif")
    product.scene(3)
    product.ingest()
    assert check(product, before).verdict is Verdict.EQUAL
    assert forecast(tuned(product), None) != before


def test_interval_widths_that_followed_the_scores_are_taken_from_the_run(make_product: Callable[..., Product]) -> None:
    product = make_product(scenes={"firewall": STILL})
    for slot in range(5):
        product.scene(slot, np.full((1, 40, 48), 50 + 10 * slot, np.uint16))
    product.ingest()
    settings = tuned(product)
    forecast(settings, CHAMPION, init=product.time(2))
    score(settings)
    second = forecast(settings, CHAMPION, init=product.time(4))
    assert json.loads((second / "run.json").read_text())["specification"]["widths"] != [[1.0], [1.0]]
    shutil.rmtree(settings.paths.verification)
    assert verify(settings, second, load).verdict is Verdict.EQUAL


def test_a_changed_pixel_is_counted_and_measured_in_units_of_its_band(landmark: Product, run: Path) -> None:
    with rasterio.open(run / "lead-0010m.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        dn = file.read(2)
        dn[7, 9] += 16  # of 0.1 / 16
        dn[8, 9] = file.nodata
        file.write(dn, 2)
    found = check(landmark, run)
    assert (found.verdict, list(faults(found))) == (Verdict.DAMAGED, ["lead-0010m.tif"])
    (one,) = found.differences
    assert (one.file, one.what, one.pixels, one.size) == ("lead-0010m.tif", "q50", 2, 40 * 48)
    assert one.largest == pytest.approx(0.1)


def test_a_forgery_with_new_hashes_everywhere_is_found_by_its_pixels(landmark: Product, run: Path) -> None:
    with rasterio.open(run / "lead-0005m-quality.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.full((40, 48), 4, np.uint16), 1)
    rehash(run)
    found = check(landmark, run)
    assert (found.verdict, found.faults) == (Verdict.DIFFERS, ())
    assert [(one.file, one.what, one.pixels) for one in found.differences] == [
        ("lead-0005m-quality.tif", "source", 1920)
    ]


def test_a_forged_tag_is_found_although_every_pixel_is_right(landmark: Product, run: Path) -> None:
    with rasterio.open(run / "lead-0005m.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(valid_time="2024-06-01T06:00:00Z")
    rehash(run)
    found = check(landmark, run)
    assert (found.verdict, found.faults) == (Verdict.DIFFERS, ())
    assert [(one.file, one.what, one.pixels) for one in found.differences] == [
        ("lead-0005m.tif", "names, units, scales, grid or tags", 0)
    ]


def rehash(run: Path) -> None:
    """Manifest and items that fit the files, as one who knows how would write them."""
    facts = json.loads((run / "run.json").read_text())
    for lead in facts["leads"]:
        item = json.loads((run / lead["item"]["name"]).read_text())
        for key, part in (("data", "values"), ("quality", "quality")):
            seal(run, lead[part])
            item["assets"][key]["file:checksum"] = "1220" + lead[part]["sha256"]
        (run / lead["item"]["name"]).write_text(json.dumps(item))
        seal(run, lead["item"])
    (run / "run.json").write_text(json.dumps(facts))


def seal(run: Path, file: dict[str, Any]) -> None:
    file |= {"sha256": sha256(run / file["name"]), "size": (run / file["name"]).stat().st_size}


# --- files ----------------------------------------------------------------------------------------


def test_untouched_files_are_whole_and_need_neither_cube_nor_model(run: Path) -> None:
    assert check_files(run) == Passport(run, 7, verdict=Verdict.WHOLE)


def test_one_flipped_bit_is_found(run: Path) -> None:
    path = run / "lead-0005m.tif"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    found = check_files(run)
    assert (found.verdict, faults(found)) == (
        Verdict.DAMAGED,
        {"lead-0005m.tif": "holds other bytes than were published"},
    )


def test_a_file_that_cannot_be_decoded_does_not_keep_the_others_from_being_compared(
    landmark: Product, run: Path
) -> None:
    (run / "lead-0005m.tif").write_bytes(b"not a TIFF")
    found = check(landmark, run)
    assert (found.verdict, list(faults(found)), found.differences) == (Verdict.DAMAGED, ["lead-0005m.tif"], ())


def test_missing_and_foreign_files_are_named(run: Path) -> None:
    (run / "lead-0010m-quality.tif").unlink()
    (run / "lead-0015m.tif").write_bytes(b"")
    found = check_files(run)
    assert faults(found) == {"lead-0010m-quality.tif": "is missing", "lead-0015m.tif": "is not in the manifest"}


@pytest.mark.parametrize(
    "changed",
    [
        {"init": "2024-06-01T05:15:00Z"},
        {"snapshot": "1CECHUNKSNAPSH0T0000"},
        {"scenes": []},
        {"code_version": "9.9.9"},
        {"model": {"name": "fake", "version": "2", "source": "network"}},
        {"cadence": "PT10M"},
        {"specification": {}},
        {"run_key": "0123456789ab"},
        {"outlet": None},
    ],
)
def test_whatever_is_changed_in_a_manifest_shows(run: Path, changed: dict[str, Any]) -> None:
    manifest(run, **changed)
    assert "run.json" in faults(check_files(run))


def test_a_lead_under_another_time_shows(run: Path) -> None:
    leads = json.loads((run / "run.json").read_text())["leads"]
    leads[0]["valid_time"], leads[1]["valid_time"] = leads[1]["valid_time"], leads[0]["valid_time"]
    manifest(run, leads=leads)
    assert {"run.json", "lead-0005m.json", "lead-0010m.json"} == set(faults(check_files(run)))


def test_an_item_with_another_checksum_shows(run: Path) -> None:
    item = run / "lead-0005m.json"
    content = json.loads(item.read_text())
    content["assets"]["data"]["file:checksum"] = "1220" + 64 * "0"
    item.write_text(json.dumps(content))
    facts = json.loads((run / "run.json").read_text())
    seal(run, facts["leads"][0]["item"])
    (run / "run.json").write_text(json.dumps(facts))
    assert faults(check_files(run)) == {"lead-0005m.json": "has other checksums than the manifest"}


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"run\.json"):
        check_files(tmp_path)


# --- what cannot be made again --------------------------------------------------------------------


def lost(found: Passport) -> str:
    assert (found.verdict, found.faults, found.rasters) == (Verdict.LOST, (), 0), found
    (why,) = found.obstacles
    return why


def test_an_expired_snapshot_is_why_nothing_can_be_made_again(make_product: Callable[..., Product]) -> None:
    product = make_product(scenes={"firewall": STILL})
    for slot in range(2):
        product.scene(slot)
    product.ingest()
    run = forecast(tuned(product), None)
    snapshot = product.store.tip()
    product.scene(2)
    product.ingest()
    tip = next(iter(product.store.history()))
    expire(product.store, tip.written_at, floor=timedelta(0))
    collect(product.store, tip.written_at, floor=timedelta(0))
    assert f"no snapshot {snapshot}" in lost(check(product, run))


def test_a_cube_that_is_gone_is_why(landmark: Product, run: Path, tmp_path: Path) -> None:
    assert "cube" in lost(check(landmark, run, workspace=tmp_path / "elsewhere"))


def test_a_model_version_that_is_gone_is_why(landmark: Product) -> None:
    settings = tuned(landmark)
    run = forecast(settings, replace(CHAMPION, ref=replace(REF, version="2")))
    assert lost(verify(settings, run, load)) == "no fake version 2"


def test_covariates_that_are_others_now_are_why(landmark: Product) -> None:
    told = tuned(landmark, covariates={"time_of_day": True})
    run = forecast(told, CHAMPION)
    assert verify(told, run, load).verdict is Verdict.EQUAL
    assert "found other covariates" in lost(check(landmark, run))


def test_a_run_of_another_cubecast_says_so(landmark: Product, run: Path) -> None:
    manifest(run, code_version="0.0.1")
    found = check(landmark, run)
    assert found.remarks == (f"it was made by cubecast 0.0.1, this is {version()}",)


def version() -> str:
    from importlib.metadata import version as of

    return of("cubecast")


def test_a_run_of_an_older_cubecast_is_made_again_with_the_bands_of_the_configuration(
    landmark: Product, run: Path
) -> None:
    facts = json.loads((run / "run.json").read_text())
    del facts["outlet"]
    (run / "run.json").write_text(json.dumps(facts))
    found = check(landmark, run, forecast={"probabilities": {"sky": [2.0]}})  # which it did not know of
    assert found.verdict is Verdict.EQUAL
    assert "does not note its bands" in found.remarks[0]


def test_a_run_of_which_the_manifest_says_more_is_made_again_as_any_other(landmark: Product) -> None:
    asked = tuned(landmark, forecast={"tile": 128})
    champion = replace(CHAMPION, validation={"judged": "left out"})
    path = forecast(asked, champion, init=landmark.time(3), why="MLflow does not answer: the copy stands in")
    assert "rung" in json.loads((path / "run.json").read_text())
    assert verify(asked, path, load).verdict is Verdict.EQUAL
