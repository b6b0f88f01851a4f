from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline.config import Settings, load, parse
from pipeline.document import write
from pipeline.errors import ConfigError
from pipeline.specs import BandSpec, SceneSpec, TrainingSpec

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"

DOCUMENT: dict[str, Any] = {
    "workspace": "work",
    "product": {"name": "made-up"},
    "scenes": {"folder": "inbox", "mask": {"folder": "inbox/mask"}},
    "bands": [{"name": "value", "dtype": "uint8", "nodata": 255}],
    "grid": {"crs": "EPSG:32633", "transform": [10, 0, 465000, 0, -10, 5080000], "width": 100, "height": 80},
    "axis": {"origin": datetime(2020, 4, 1, tzinfo=UTC), "cadence": "PT5M"},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The document with one value set; numbers in the path index lists."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = document
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[last] = value
    return document


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(document, source="made-up.toml", folder=Path("/somewhere"))
    return str(caught.value)


def parsed(document: dict[str, Any] | None = None) -> Settings:
    return parse(document or DOCUMENT, source="made-up.toml", folder=Path("/somewhere"))


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        models = [t for t in inner if issubclass(t, BaseModel)]
        if models:
            yield from leaves(models[0], f"{path}{name}.")
        else:
            yield f"{path}{name}", field.description


def test_every_value_says_what_it_means() -> None:
    silent = [path for path, description in leaves(Settings) if not description]
    assert silent == []


def test_a_file_reads_as_its_document(tmp_path: Path) -> None:
    path = tmp_path / "made-up.toml"
    path.write_text(tomli_w.dumps(DOCUMENT))
    assert load(path) == parse(DOCUMENT, source="", folder=tmp_path)


def test_relative_paths_start_at_the_configuration_file(tmp_path: Path) -> None:
    settings = parse(DOCUMENT, source="", folder=tmp_path)
    assert settings.workspace == tmp_path / "work"
    assert settings.scenes.folder == tmp_path / "inbox"
    assert settings.scenes.mask is not None
    assert settings.scenes.mask.folder == tmp_path / "inbox" / "mask"


def test_products_learned_together_are_found_beside_the_file_and_the_speed_limit_is_derived() -> None:
    settings = parsed(changed("training.together", ["other.toml"]))
    assert settings.training.together == (Path("/somewhere/other.toml"),)
    assert settings.motion.max_speed is not None
    assert parsed(changed("motion.max_speed", 12)).motion.max_speed == 12


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().workspace = Path("elsewhere")


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBECAST_TRAINING__EPOCHS", "3")
    settings = parsed(changed("training", {"epochs": 7, "batch": 2}))
    assert (settings.training.epochs, settings.training.batch) == (3, 2)


def test_other_variables_of_the_environment_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parsed()
    monkeypatch.setenv("CUBECAST_CONFIG", "x.toml")
    assert parsed() == before


def test_a_bad_variable_of_the_environment_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBECAST_TRAINING", "many epochs")
    assert 'field "training"' in refusal(DOCUMENT)
    assert "environment variable" in refusal(DOCUMENT)


def test_a_rule_that_a_variable_of_the_environment_breaks_is_not_blamed_on_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBECAST_FORECAST__TILE", "1")
    assert "forecast.tile (environment variable CUBECAST_FORECAST__TILE) = '1'" in refusal(DOCUMENT)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("product.name", "Made Up", "product.name = 'Made Up'"),
        ("scenes.colour", "red", "scenes.colour = 'red': is no setting of cubecast"),
        ("scenes.pattern", "x.tif", "pattern needs {time}"),
        ("scenes.pattern", "a/{time}.tif", "no folder"),
        ("bands.0.scale", 0, "scale is not 0"),
        ("bands.0.nodata", 256, "a whole number from 0 to 255, found 256"),
        ("bands.0.nodata", 0.5, "a whole number"),
        ("bands.0.nodata", math.nan, "a whole number"),
        ("bands.0.dtype", "complex64", "bands.0.dtype = 'complex64'"),
        ("bands.0.forecast", False, "at least one band has forecast = true"),
        ("bands", [], "at least 1 item"),
        ("grid.crs", "EPSG:999999", "crs is an authority code or WKT that PROJ knows"),
        ("grid.transform", [1, 0, 0, 0, 0, 0], "transform gives every pixel an area"),
        ("grid.transform", [1, 0, 0, 0, -1], "grid.transform.5 = [1, 0, 0, 0, -1]: is required"),
        ("grid.width", 0, "grid.width = 0"),
        ("axis.cadence", "PT0S", "axis.cadence"),
        ("axis.cadence", "PT0.5S", "is whole minutes"),
        ("axis.cadence", "often", "axis.cadence = 'often': is a duration, written like PT5M"),
        ("samples.max_age", 2, "samples.max_age holds the context: at least 3, found 2"),
        ("motion.band", 2, "motion.band is one of the 1 bands, found 2"),
        ("training.chip", 30, "training.chip is a multiple of training.patch (4), found 30"),
    ],
)
def test_a_broken_rule_names_field_value_and_rule(path: str, value: object, said: str) -> None:
    text = refusal(changed(path, value))
    assert text.startswith("made-up.toml: 1 value(s) break a rule:\n")
    assert said in text


def test_a_missing_value_is_asked_for() -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["axis"]["origin"]
    assert "axis.origin: is required: add it" in refusal(document)


def test_two_bands_have_two_names() -> None:
    assert "band names are unique" in refusal(changed("bands", DOCUMENT["bands"] * 2))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a = ", "not valid TOML"), (b"\xff\xfe", "cannot be read"), (None, "no such configuration file")],
)
def test_a_file_that_is_no_configuration_is_an_error_of_the_user(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "made-up.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(path)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2060, 1, 1)), st.sampled_from(["", "hrv_", "a[1]_", "x*"]))  # noqa: DTZ001 - hypothesis takes naive limits
def test_a_name_made_from_the_pattern_gives_its_time_back(time: datetime, prefix: str) -> None:
    time_format = "%Y%m%dT%H%M%SZ"
    spec = SceneSpec.model_validate(
        {"folder": "inbox", "pattern": f"{prefix}{{time}}_*.tif", "time_format": time_format}
    )
    text = time.strftime(time_format)
    assert spec.time_text(f"{prefix}{text}_v2.tif") == text


@pytest.mark.parametrize(
    ("pattern", "time_format", "name", "text"),
    [
        ("*{time}.tif", "%Y%m%dT%H%MZ", "hrv_20200401T1200Z.tif", "20200401T1200Z"),
        ("*_{time}_*.tif", "%Y%m%d", "LC08_014_20180311_2018_T1.tif", "20180311"),
        ("{time}*.tif", "%Y%j", "2020092A.tif", "2020092"),
        ("{time}.tif", "%d%b%Y", "01Apr2020.tif", "01Apr2020"),
        ("s_{time}.tif", "%Y%m%d", "t_20180311.tif", None),
        ("s_{time}.tif", "%Y%m%d", "s_20180311_clm.tif", None),
        ("s_{time}.tif", "%Y%m%d", "s_20180311xtif", None),
    ],
)
def test_the_time_is_found_beside_stars(pattern: str, time_format: str, name: str, text: str | None) -> None:
    spec = SceneSpec.model_validate({"folder": "inbox", "pattern": pattern, "time_format": time_format})
    assert spec.time_text(name) == text


def test_a_tile_is_found_beside_the_time() -> None:
    spec = SceneSpec.model_validate({"folder": "inbox", "pattern": "{tile}_{time}.tif", "time_format": "%Y%m%d"})
    assert (spec.tile_text("T33TVM_20180311.tif"), spec.time_text("T33TVM_20180311.tif")) == ("T33TVM", "20180311")


@pytest.mark.parametrize("pattern", ["*{time}.tif", "a[1]_{time}.tif", "{time}*.tif", "a?{time}_*.tif"])
def test_the_listing_finds_every_name_that_has_a_time(tmp_path: Path, pattern: str) -> None:
    spec = SceneSpec.model_validate({"folder": tmp_path, "pattern": pattern, "time_format": "%Y%m%d"})
    for name in ("a[1]_20180311.tif", "20180311.tif", "a?20180311_x.tif", "b.tif", "a1_20180311.tif"):
        (tmp_path / name).touch()
    timed = {path.name for path in tmp_path.iterdir() if spec.time_text(path.name)}
    assert timed
    assert timed <= {path.name for path in tmp_path.glob(spec.glob)}


@given(st.sampled_from(get_args(BandSpec.model_fields["dtype"].annotation)))
def test_the_fill_is_a_value_of_the_band_s_type(dtype: str) -> None:
    fill = BandSpec.model_validate({"name": "b", "dtype": dtype}).fill
    as_stored = np.array(fill, dtype)
    assert np.isnan(as_stored) if math.isnan(fill) else as_stored == fill


def test_times_without_zone_are_utc() -> None:
    settings = parsed(changed("axis.origin", "2020-04-01T14:00:00+02:00"))
    assert settings.axis.origin == datetime(2020, 4, 1, 12, tzinfo=UTC)
    assert parsed(changed("axis.origin", "2020-04-01")).axis.origin == datetime(2020, 4, 1, tzinfo=UTC)
    assert settings.axis.axis().cadence == timedelta(minutes=5)


@pytest.mark.parametrize("name", ["hrv_1km", "fmi_1km", "knmi_1km", "typhoon", "s2_slovenia"])
def test_the_examples_are_valid_and_stay_in_their_place(name: str) -> None:
    settings = load(EXAMPLES / f"{name}.toml")
    assert settings.product.name == name
    assert settings.workspace == (EXAMPLES.parents[1] / "work" / name).resolve()
    assert settings.scenes.folder.parents[1] == (EXAMPLES.parents[2] / "shared").resolve()
    assert settings.product.attribution
    assert settings.product.providers


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.9, 0.5, 0.1), (0.0, 0.5), (0.5, 0.5)])
def test_quantiles_that_no_network_could_forecast_are_refused_before_anything_is_trained(
    levels: tuple[float, ...],
) -> None:
    with pytest.raises(ValidationError, match=r"rise between 0 and 1 with 0\.5 among them, found"):
        TrainingSpec(quantiles=levels)
    assert TrainingSpec(quantiles=(0.5,)).quantiles == (0.5,)


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("verification.scales", [1, 4], "scales are odd"),
        ("verification.thresholds", {"value": [2, 1]}, "thresholds rise"),
        ("verification.spans", {"value": [1, 1]}, "from a lower value to a higher one"),
        ("verification.thresholds", {"rain": [1]}, "name forecast bands, ['value'], found 'rain'"),
        ("verification.spans", {"rain": [0, 1]}, "name forecast bands, ['value'], found 'rain'"),
        (
            "verification.regions",
            {"sea": [2, 0, 1, 1]},
            "a region goes from min x, min y to max x, max y, found",
        ),
        ("verification.regions", {"sea": [-2, -2, -1, -1]}, "verification.regions lie on the grid"),
        ("verification.regions", {"all": [0, 0, 1, 1]}, "a region is called by letters, digits"),
    ],
)
def test_scores_that_cannot_be_made_are_refused(path: str, value: object, rule: str) -> None:
    assert rule in refusal(changed(path, value))


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"rain": [1]}, "forecast.probabilities names forecast bands, ['value'], found 'rain'"),
        ({"sun": [1]}, "forecast.probabilities names forecast bands, ['value'], found 'sun'"),
        ({"value": [2, 1]}, "one or more numbers that rise, found [2.0, 1.0] for value"),
        ({"value": [1, 1]}, "one or more numbers that rise"),
        ({"value": []}, "one or more numbers that rise"),
        ({"value": [math.inf]}, "one or more numbers that rise"),
        ({"value": [-0.1, 3]}, "forecast.probabilities.value holds values that the band can have, 0 to 60"),
        ({"value": [3, 61]}, "(valid_min, floor and valid_max), found [61.0]"),
    ],
)
def test_probabilities_of_what_cannot_be_are_refused(asked: dict[str, list[float]], rule: str) -> None:
    document = changed("forecast", {"probabilities": asked})
    document["bands"][0] |= {"valid_max": 60, "floor": 0, "valid_min": -30}
    document["bands"].append(document["bands"][0] | {"name": "sun", "index": 2, "forecast": False})
    assert rule in refusal(document)


def test_probabilities_of_what_can_be_are_read_as_they_are_written(tmp_path: Path) -> None:
    settings = parse(changed("forecast", {"probabilities": {"value": [0.5, 5]}}), source="x", folder=tmp_path)
    assert settings.forecast.probabilities == {"value": (0.5, 5.0)}
    write(settings, tmp_path / "x.toml")
    assert load(tmp_path / "x.toml").forecast == settings.forecast
