"""Looks at a folder of scenes and guesses a configuration; what no file can tell stays a question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from odc.geo import CRS
from pydantic import BaseModel, ValidationError

from pipeline import document
from pipeline.config import Settings
from pipeline.document import iso
from pipeline.errors import ConfigError, SceneError
from pipeline.header import Header, Placement, read_header, word
from pipeline.scene import mask_path, open_geotiff
from pipeline.series import Timed, cadence, from_names, from_tags, some
from pipeline.specs import (
    INTEGER_TYPES,
    AxisSpec,
    BandSpec,
    GridSpec,
    MaskSpec,
    MotionSpec,
    ProductSpec,
    SampleSpec,
    SceneSpec,
    TrainingSpec,
)
from pipeline.times import TimeAxis

DAY = timedelta(days=1)
HEADERS = 400  # spread over the folder: a stray grid or type shows among so many, and opening them takes a second
MASKS = 8
MASK_PIXELS = 50_000_000
HOURLY = timedelta(minutes=30)  # from here on motion is told by large shapes
SHORT_SERIES = 200  # slots; a fifth of fewer says nothing about skill
FEW_FRAMES = 12
INPUT_ONLY = re.compile(r"cloud|mask|quality|(^|_)(b?qa|scl|clm|clp)(_|$)", re.IGNORECASE)

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


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


def inspect(folder: Path) -> Guess:
    """Guesses a configuration from the names and headers of the GeoTIFFs in ``folder``, and a few masks' pixels.

    Raises:
        ConfigError: there is no such folder, no GeoTIFF in it, none that opens or is georeferenced, or no time.
    """
    folder = folder.expanduser().resolve()
    paths, file_notes = _listing(folder)
    headers, header_notes = _headers(_spread(paths, HEADERS), folder)
    timed = _timed(folder, paths, headers)
    name = _slug(folder.name)
    grid, grid_notes = _grid(headers, folder)
    bands, band_notes = _bands(headers, name)
    mask, mask_notes = _mask(folder, sorted(timed.times))
    rhythm = cadence(list(timed.times.values()))
    axis = AxisSpec(origin=min(timed.times.values()), cadence=rhythm.step)
    slots = sorted({axis.axis().slot(time) for time in timed.times.values()})
    side = min(grid.width, grid.height)
    return Guess(
        workspace=Path("work") / name,
        product=ProductSpec.model_validate({"name": name, "attribution": _copyright(headers[0])}),
        scenes=timed.spec.model_copy(update={"mask": mask}),
        bands=bands,
        grid=grid,
        axis=axis,
        samples=_samples(slots, rhythm.step, side),
        motion=_motion(slots, rhythm.step, bands),
        training=_training(side),
        questions=_questions(bands, headers[0], None if rhythm.sure else axis),
        notes=(
            *(*file_notes, *header_notes, *timed.notes, *grid_notes, *band_notes, *mask_notes, *rhythm.notes),
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


def _grid(headers: Sequence[Header], folder: Path) -> tuple[GridSpec, list[str]]:
    grids = Counter(header.grid for header in headers if header.grid is not None)
    if not grids:
        msg = (
            f"every scene has a CRS and a geotransform, but in {folder} none of the {len(headers)} looked at has both "
            f"(first: {headers[0].path.name}). Georeference them, for example with gdal_edit.py -a_srs ... -a_ullr ..."
        )
        raise ConfigError(msg)
    placement, count = grids.most_common(1)[0]
    notes = [_stray_grids(len(grids), count, len(headers))] if count < len(headers) else []
    _, b, _, d, e, _ = placement.transform
    if b or d or e > 0:
        notes.append("the grid is rotated or its rows do not run from north to south")
    return _grid_spec(placement), notes


def _stray_grids(kinds: int, count: int, total: int) -> str:
    return (
        f"{kinds} different grids: {count} of {total} scenes lie on the one taken here, the commonest, the first of "
        "equally common ones. A scene that does not fit it will be refused: warp the scenes to one grid first"
    )


def _grid_spec(placement: Placement) -> GridSpec:
    """The grid; its CRS as an authority code where that means the very same CRS, otherwise as WKT."""
    height, width = placement.shape
    try:
        spec = GridSpec(crs=placement.crs, transform=_six(placement.transform), width=width, height=height)
    except ValidationError as error:
        msg = f"the scenes have a grid that PROJ knows, but theirs is refused: {error.errors()[0]['msg']}"
        raise ConfigError(f"{msg}. Assign another, for example with gdal_edit.py -a_srs EPSG:...") from None
    crs = CRS(placement.crs)
    code = f"EPSG:{crs.epsg}"
    return spec.model_copy(update={"crs": code}) if crs.epsg is not None and CRS(code) == crs else spec


def _six(transform: tuple[float, ...]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = transform
    return a, b, c, d, e, f


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
    return _roles(header.bands, name), notes


def _roles(bands: Sequence[BandSpec], name: str) -> tuple[BandSpec, ...]:
    """A name for a nameless only band, quality bands as input only, the floor of radar reflectivity."""
    if len(bands) == 1 and bands[0].name == "band_1":
        bands = [_changed(bands[0], "name", word(re.split(r"[_-]", name)[0]) or "value")]
    bands = [_changed(band, "floor", 0.0) if band.units == "dBZ" else band for band in bands]
    if all(INPUT_ONLY.search(band.name) for band in bands):
        return tuple(bands)
    return tuple(_changed(band, "forecast", not INPUT_ONLY.search(band.name)) for band in bands)


def _mask(folder: Path, scenes: Sequence[Path]) -> tuple[MaskSpec | None, list[str]]:
    """Masks in a folder beside the scenes whose names go on where the scenes' names end."""
    for beside in sorted(path for path in folder.iterdir() if path.is_dir() and INPUT_ONLY.search(path.name)):
        stems = {path.stem for path in beside.glob(f"*{scenes[0].suffix}")}
        endings = Counter(stem[len(s.stem) :] for s in scenes for stem in stems if stem.startswith(s.stem))
        if endings:
            spec = MaskSpec.model_validate({"folder": beside, "suffix": endings.most_common(1)[0][0]})
            return _with_values(spec, [path for s in scenes if (path := mask_path(s, spec)).is_file()], len(scenes))
    return None, []


def _with_values(spec: MaskSpec, masks: Sequence[Path], scenes: int) -> tuple[MaskSpec, list[str]]:
    found = sorted(set().union(*(_values(path) for path in _spread(masks, MASKS))))
    values = (1,) if 1 in found or not any(found) else tuple(value for value in found if value)
    notes = [f"the masks in {spec.folder.name} hold {found[:9]}: {list(values[:9])} is taken to mean unusable"]
    if len(masks) < scenes:
        notes.append(f"{scenes - len(masks)} of {scenes} scenes have no mask; a scene waits for its mask")
    return spec.model_copy(update={"values": values}), notes


def _values(path: Path) -> set[int]:
    """Values in a mask but for its nodata; none where it cannot be read or is no mask."""
    try:
        with open_geotiff(path) as dataset:
            if dataset.dtypes[0] not in INTEGER_TYPES or dataset.width * dataset.height > MASK_PIXELS:
                return set()
            return set(np.unique(dataset.read(1)).tolist()) - {dataset.nodatavals[0]}
    except SceneError:
        return set()


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
    slow, quarter = step >= DAY, len(slots) // 4
    context = max(1, min(6 if slow or not _regular(slots) else 4, quarter))
    return SampleSpec.model_validate(
        {
            "context_frames": context,
            "max_age": 2 * context if _regular(slots) else _max_age(slots, context),
            "horizon": max(1, min(6 if slow else 12, quarter)),
            "test_fraction": 0.4 if len(slots) < SHORT_SERIES else 0.2,
            "block_buffer": min(48, side // 6),
        }
    )


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


def _training(side: int) -> TrainingSpec:
    default = TrainingSpec.model_validate({})
    return default.model_copy(update={"chip": max(16, min(default.chip, side) // default.patch * default.patch)})


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
        bands = (_changed(band, key, text) if band.name == name else band for band in guess.bands)
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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_") or "product"


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of the items, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
