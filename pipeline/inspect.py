"""Looks at a folder of scenes and guesses a configuration; what no file can tell stays a question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from pipeline import document
from pipeline.config import Settings
from pipeline.document import iso
from pipeline.errors import ConfigError, SceneError
from pipeline.extent import Bounds, Extent, extent
from pipeline.firewall import zeros_are_values
from pipeline.glance import find_masks, spread, zeros_are_common
from pipeline.header import Header, read_header, word
from pipeline.series import Timed, cadence, from_names, from_tags, some
from pipeline.specs import (
    AxisSpec,
    BandSpec,
    FirewallSpec,
    GridSpec,
    MotionSpec,
    ProductSpec,
    SampleSpec,
    SceneSpec,
    TrainingSpec,
)
from pipeline.survey import NOTHING_FELL
from pipeline.times import TimeAxis

DAY = timedelta(days=1)
SEASONS_SEEN = timedelta(days=731)
LEAST_PAST, MOST_PAST = 8, 40  # context frames of a slow series
HEADERS = 400  # spread over the folder: a stray grid or type shows among so many, and opening them takes a second
HOURLY = timedelta(minutes=30)  # from here on motion is told by large shapes
SHORT_SERIES = 200  # slots; a fifth of fewer says nothing about skill
FEW_FRAMES = 12
RAIN = re.compile(r"rain|precip|snow_?fall|hail", re.IGNORECASE)
NO_NAME = re.compile(r"(inbox|incoming|inputs?|scenes?|data|images?|imagery|files?|(geo|cog-?)?tiffs?|tifs?|cogs?|in)")
INPUT_ONLY = re.compile(r"cloud|mask|quality|(^|_)(b?qa|scl|clm|clp)(_|$)", re.IGNORECASE)

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Question:
    """Something that the scenes do not say.

    Attributes:
        field: where the answer goes, as in ``product.licence`` or ``bands.hrv.units``.
        text: the question.
        default: what stands without an answer.
    """

    field: str
    text: str
    default: str


@dataclass(frozen=True, slots=True)
class Guess:
    """A configuration read off the scenes, section by section, and what remains to be asked or said.

    A relative ``workspace`` counts from the configuration file that will be written.
    """

    workspace: Path
    product: ProductSpec
    scenes: SceneSpec
    bands: tuple[BandSpec, ...]
    grid: GridSpec
    axis: AxisSpec
    samples: SampleSpec
    motion: MotionSpec
    training: TrainingSpec
    questions: tuple[Question, ...]
    notes: tuple[str, ...]

    def answered(self, answer: Callable[[Question], str]) -> Guess:
        """This guess with the answers in place; an answer equal to the default changes nothing.

        Raises:
            ConfigError: an answer breaks the rule of its field.
        """
        guess = self
        for question in self.questions:
            text = answer(question).strip()
            if text != question.default:
                guess = _with_answer(guess, question.field, text)
        return replace(guess, questions=())


def inspect(folder: Path, bounds: Bounds | None = None) -> Guess:
    """Guesses a configuration from the names and headers of the GeoTIFFs in ``folder``, and a few pixels of them.

    Args:
        folder: where the scenes lie.
        bounds: least x, least y, largest x, largest y, in the scenes' CRS, of the area of interest; None for all.

    Raises:
        ConfigError: there is no such folder, no GeoTIFF in it, none that opens or is georeferenced, no time, or nothing
            of the scenes inside the bounds.
    """
    folder = folder.expanduser().resolve()
    paths, file_notes = _listing(folder)
    headers, header_notes = _headers(spread(paths, HEADERS), folder)
    timed = _timed(folder, paths, headers)
    name = _name(folder, timed.spec.pattern)
    area = extent(headers, folder, bounds)
    bands, band_notes = _bands(headers, name)
    scenes, scene_notes = _scenes(timed, area, bands)
    rhythm = cadence(list(timed.times.values()))
    axis = AxisSpec(origin=min(timed.times.values()), cadence=rhythm.step)
    slots = sorted({axis.axis().slot(time) for time in timed.times.values()})
    side = min(area.grid.width, area.grid.height)
    return Guess(
        workspace=Path("work") / name,
        product=ProductSpec.model_validate({"name": name, "attribution": _copyright(headers[0])}),
        scenes=scenes,
        bands=bands,
        grid=area.grid,
        axis=axis,
        samples=_samples(slots, rhythm.step, side),
        motion=_motion(slots, rhythm.step, bands),
        training=_training(side, rhythm.step),
        questions=_questions(bands, headers[0], None if rhythm.sure else axis),
        notes=(
            *(*file_notes, *header_notes, *timed.notes, *area.notes, *band_notes, *scene_notes, *rhythm.notes),
            *_series_notes(slots, axis.axis()),
        ),
    )


def write(what: Guess | Settings, path: Path, *, overwrite: bool = False) -> None:
    """Writes a guess, with its notes, or a configuration as a commented TOML file.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    notes = what.notes if isinstance(what, Guess) else ()
    document.write(what, path, notes=notes, overwrite=overwrite)


def render(what: Guess | Settings, *, folder: Path | None = None) -> str:
    """The text that :func:`write` writes to a file in ``folder``."""
    return document.render(what, notes=what.notes if isinstance(what, Guess) else (), folder=folder)


def _listing(folder: Path) -> tuple[list[Path], list[str]]:
    if not folder.is_dir():
        msg = f"scenes lie in a folder, but {folder} is none: check the path"
        raise ConfigError(msg)
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".tif", ".tiff"} and p.name[0] != ".")
    except OSError as error:
        msg = f"the folder of the scenes can be listed, but {folder} cannot: {error.strerror}. Mend its permissions"
        raise ConfigError(msg) from None
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    if not files:
        raise ConfigError(_nothing_in(folder, len(found)))
    suffix, _ = Counter(path.suffix for path in files).most_common(1)[0]
    kept = [path for path in files if path.suffix == suffix]
    left = [path.name for path in sorted(set(found) - set(kept))]
    return kept, [f"left out, being links or folders or not ending in {suffix}: {some(left)}"] if left else []


def _nothing_in(folder: Path, links: int) -> str:
    below = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*.[tT][iI][fF]*")))
    found = f"{links} links or folders of that name, which are not followed" if links else "none"
    fix = f"name a folder below it ({some(below)})" if below else "name the folder that holds them"
    return f"a folder of scenes holds GeoTIFF files (.tif, .tiff), but in {folder} there is {found}: {fix}"


def _headers(paths: Sequence[Path], folder: Path) -> tuple[list[Header], list[str]]:
    headers, faults = [], []
    for path in paths:
        try:
            headers.append(read_header(path))
        except SceneError as error:
            faults.append(f"{path.name} ({error.detail})")
    if not headers:
        msg = f"scenes are GeoTIFF files that open, but in {folder} none of {len(paths)} does: {some(faults)}"
        raise ConfigError(f"{msg}. Copy them again, or convert them: gdal_translate -of GTiff")
    return headers, [f"{len(faults)} of {len(paths)} files cannot be opened: {some(faults)}"] if faults else []


def _timed(folder: Path, paths: Sequence[Path], headers: Sequence[Header]) -> Timed:
    named = from_names(folder, paths)
    if named is not None:
        return named
    if len(paths) > len(headers):
        headers, _ = _headers(paths, folder)  # the time axis needs every scene
    tagged = from_tags(folder, {header.path: header.tags for header in headers})
    if tagged is not None:
        return tagged
    msg = (
        f"every scene has its acquisition time in the file name or in a TIFF tag, but in {folder} neither is found "
        f"(first file: {paths[0].name}, with the tags {some(sorted(headers[0].tags), 8)}). "
        "Rename the scenes like area_20200401T1200Z.tif, or set TIFFTAG_DATETIME to YYYY:MM:DD HH:MM:SS, UTC"
    )
    raise ConfigError(msg)


def _bands(headers: Sequence[Header], name: str) -> tuple[tuple[BandSpec, ...], list[str]]:
    kinds = Counter(repr(header.bands) for header in headers)  # as text, since NaN is not NaN
    form, count = kinds.most_common(1)[0]
    header = next(header for header in headers if repr(header.bands) == form)
    if not header.bands:
        msg = f"bands are integers of up to 32 bit or floats, but {header.path.name} has {some(header.left_out)}"
        raise ConfigError(f"{msg}. Convert the scenes, for example with gdal_translate -ot Float32")
    notes = []
    if len(kinds) > 1:
        notes.append(f"{len(kinds)} kinds of bands; {count} of {len(headers)} scenes have those taken here")
    if header.left_out:
        notes.append(f"left out, of types that no cube holds: {some(header.left_out)}")
    if all(band.nodata is None for band in header.bands):
        notes.append("no nodata value is declared: every pixel counts as valid")
    if header.tags.get("quantity"):
        notes.append(f"the scenes say of their values: {header.tags['quantity']}")
    return _roles(_agreed(header.bands, headers), name), notes


def _agreed(bands: Sequence[BandSpec], headers: Sequence[Header]) -> tuple[BandSpec, ...]:
    """The bands; the scale that scenes declare is no rule where they do not agree on it."""
    said = {(band.index, band.declared) for header in headers for band in header.bands}
    counts = Counter(index for index, _ in said)
    return tuple(band if counts[band.index] == 1 else band.model_copy(update={"declared": None}) for band in bands)


def _roles(bands: Sequence[BandSpec], name: str) -> tuple[BandSpec, ...]:
    """A name for a nameless only band, quality bands as input only, floor and scale by the quantity."""
    if len(bands) == 1 and bands[0].name == "band_1":
        bands = [_changed(bands[0], "name", word(re.split(r"[_-]", name)[0]) or "value")]
    bands = [_by_quantity(band) for band in bands]
    if all(INPUT_ONLY.search(band.name) for band in bands):
        return tuple(bands)
    return tuple(_changed(band, "forecast", not INPUT_ONLY.search(band.name)) for band in bands)


def _by_quantity(band: BandSpec) -> BandSpec:
    """The floor of radar reflectivity, and the logarithm for amounts of rain, which are mostly small."""
    if band.units.strip().lower() == "dbz":
        return _changed(band, "floor", 0.0) if band.floor is None else band
    return _changed(band, "transform", "log") if _falls(band) else band


def _falls(band: BandSpec) -> bool:
    """Whether a band, no reflectivity, is a rain rate or an accumulation: by its unit, else by its name and period.

    >>> bands = [{"units": "mm h-1"}, {"units": "K"}, {"name": "rain_rate"}, {"period": "PT5M"}, {}]
    >>> [_falls(BandSpec.model_validate({"name": "b", "dtype": "uint16"} | band)) for band in bands]
    [True, False, True, True, False]
    """
    if band.units.strip() not in {"", "1"}:
        return NOTHING_FELL.fullmatch(band.units.strip()) is not None
    if band.resampling in {"nearest", "mode"}:
        return False  # kinds of rain
    return band.period is not None or RAIN.search(band.name) is not None


def _scenes(timed: Timed, area: Extent, bands: Sequence[BandSpec]) -> tuple[SceneSpec, list[str]]:
    """How scenes are read: with masks beside them, warped, zeros as values."""
    paths = sorted(timed.times)
    folders = sorted(path for path in timed.spec.folder.iterdir() if path.is_dir() and INPUT_ONLY.search(path.name))
    mask, notes = find_masks(folders, paths)
    firewall = FirewallSpec()
    if not zeros_are_values(bands, firewall) and zeros_are_common(paths, bands):
        firewall = FirewallSpec(zeros_are_values=True)
        notes.append(
            "0 is common in most scenes and is taken for a value (scenes.firewall.zeros_are_values); where it means no "
            "data, set nodata = 0 in [[bands]] instead"
        )
    update = {"mask": mask, "off_grid": area.off_grid, "firewall": firewall}
    return timed.spec.model_copy(update=update), notes


def _regular(slots: Sequence[int]) -> bool:
    return len(slots) >= 0.8 * (slots[-1] - slots[0] + 1)


def _series_notes(slots: Sequence[int], axis: TimeAxis) -> list[str]:
    kind = "regular" if _regular(slots) else "irregular"
    period = f"{axis.valid_time(slots[0]):%Y-%m-%d %H:%M} to {axis.valid_time(slots[-1]):%Y-%m-%d %H:%M}"
    share = f"{len(slots)} of {slots[-1] - slots[0] + 1} slots of {iso(axis.cadence)} hold a scene"
    notes = [f"{kind} series, {period}: {share}"]
    if len(slots) < SHORT_SERIES:
        notes.append(f"with fewer than {SHORT_SERIES} slots, 40 % of them are kept for the test")
    if len(slots) < FEW_FRAMES:
        notes.append(f"{len(slots)} slots are too few to train a network that can be trusted")
    return notes


def _samples(slots: Sequence[int], step: timedelta, side: int) -> SampleSpec:
    """Context and horizon of at most a quarter of the scenes each."""
    quarter = len(slots) // 4
    parts = {
        "horizon": max(1, min(6 if step >= DAY else 12, quarter)),
        "test_fraction": 0.4 if len(slots) < SHORT_SERIES else 0.2,
        "block_buffer": min(48, side // 6),
    }
    if step >= DAY and len(slots) > 1:
        return SampleSpec.model_validate({**parts, **_years(slots, step)})
    context = max(1, min(4 if _regular(slots) else 6, quarter))
    age = 2 * context if _regular(slots) else _max_age(slots, context)
    return SampleSpec.model_validate({**parts, "context_frames": context, "max_age": age})


def _years(slots: Sequence[int], step: timedelta) -> dict[str, int]:
    """A context in which every season has been seen twice, as far as there are so many scenes."""
    span = ceil(SEASONS_SEEN / step)
    usual = span * len(slots) / max(slots[-1] - slots[0], 1)
    context = min(max(ceil(usual), LEAST_PAST), MOST_PAST)
    age = max(span, context, _max_age(slots, min(context, len(slots))))
    return {"context_frames": context, "max_age": age, "max_missing": context - 1}


def _max_age(slots: Sequence[int], context: int) -> int:
    """Slots into which ``context`` scenes normally fit: half as much again as 90 % of such stretches take."""
    spans = np.subtract(slots[context - 1 :], slots[: len(slots) - context + 1])
    return max(context, int(np.ceil(1.5 * np.quantile(spans, 0.9))))


def _motion(slots: Sequence[int], step: timedelta, bands: Sequence[BandSpec]) -> MotionSpec:
    """Motion is followed where scenes come faster than daily and most have a neighbour."""
    moves = step < DAY and len(slots) > 1 and bool(np.mean(np.diff(slots) == 1) >= 0.5)
    fields: dict[str, Any] = {"method": "dis" if moves else "none"}
    fields["band"] = next(number for number, band in enumerate(bands, 1) if band.forecast)
    if moves and step >= HOURLY:
        fields["smoothing"] = 0.12  # hourly infrared of a typhoon, 512 px wide, was followed best with a blur of 60 px
    return MotionSpec.model_validate(fields)


def _training(side: int, step: timedelta) -> TrainingSpec:
    default = TrainingSpec.model_validate({})
    chip = max(16, min(default.chip, side) // default.patch * default.patch)
    return default.model_copy(update={"chip": chip, "network": "seasonal" if step >= DAY else default.network})


def _questions(bands: Sequence[BandSpec], header: Header, unsure: AxisSpec | None) -> tuple[Question, ...]:
    said = f" (the scenes say: {header.tags['quantity']})" if header.tags.get("quantity") else ""
    bare = [band.name for band in bands if band.units == "1" and band.forecast]
    units = [Question(f"bands.{name}.units", f"Unit of {name}; 1 where it has none{said}", "1") for name in bare]
    questions = [
        Question("product.title", "Title, one line for catalogues", ""),
        Question("product.licence", "Licence of the scenes (an SPDX identifier such as CC-BY-4.0, or other)", "other"),
        Question("product.providers", "Who made the scenes; several separated by ;", ""),
        Question("product.attribution", "Credit that must accompany every copy", _copyright(header)),
        *units[:3],
    ]
    if unsure is not None:
        text = "Time from scene to scene (ISO 8601, like PT5M or P1D)"
        questions.append(Question("axis.cadence", text, iso(unsure.cadence)))
    return tuple(questions)


def _copyright(header: Header) -> str:
    return header.tags.get("TIFFTAG_COPYRIGHT", "").strip()


def _with_answer(guess: Guess, field: str, text: str) -> Guess:
    section, _, rest = field.partition(".")
    if section == "bands":
        name, _, key = rest.rpartition(".")
        changed = {"transform": "none"} if key == "units" else {}  # what was guessed without a unit
        bands = (
            _by_quantity(_changed(band.model_copy(update=changed), key, text)) if band.name == name else band
            for band in guess.bands
        )
        return replace(guess, bands=tuple(bands))
    if section == "axis":
        axis = _changed(guess.axis, rest, text)
        return replace(guess, axis=axis, motion=_motion((0, 1), axis.cadence, guess.bands))
    value = [{"name": name} for name in re.split(r"\s*;\s*", text) if name] if rest == "providers" else text
    return replace(guess, product=_changed(guess.product, rest, value))


def _changed(spec: S, key: str, value: Any) -> S:
    try:
        return type(spec).model_validate(spec.model_dump() | {key: value})
    except ValidationError as error:
        msg = f"{key} = {value!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        raise ConfigError(msg) from None


def _name(folder: Path, pattern: str) -> str:
    """What the product may be called: as the folder, or as its files begin where that says only that scenes lie there.

    >>> _name(Path("/data/knmi_1km"), "RAD_NL25_{time}.tif"), _name(Path("/data/radar/inbox"), "knmi_{time}.tif")
    ('knmi_1km', 'knmi')
    >>> _name(Path("/data/radar/inbox"), "{time}*.tif")
    'radar'
    """
    names = (folder.name, pattern.partition("{")[0].replace("*", ""), folder.parent.name)
    slugs = [slug for slug in map(_slug, names) if not NO_NAME.fullmatch(slug)]
    return next((slug for slug in slugs if slug != "product"), _slug(folder.name))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_") or "product"
