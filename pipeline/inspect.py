"""Looks at a folder of scenes and guesses a configuration; what no file can tell stays a question."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.crs import CRSError as OdcCRSError
from pydantic import BaseModel, TypeAdapter, ValidationError
from rasterio.errors import CRSError, NotGeoreferencedWarning
from rasterio.io import DatasetReader

from pipeline.config import (
    INTEGER_TYPES,
    AxisSpec,
    BandSpec,
    GridSpec,
    MaskSpec,
    MotionSpec,
    ProductSpec,
    ProviderSpec,
    SampleSpec,
    SceneSpec,
    Settings,
    TrainingSpec,
)
from pipeline.errors import ConfigError, SceneError
from pipeline.scene import mask_path, open_geotiff
from pipeline.times import TimeAxis, seconds

DAY = timedelta(days=1)
HEADERS = 400  # spread over the folder; a stray grid or type shows among so many, and opening them takes a second
MASKS = 8
MASK_PIXELS = 50_000_000
LARGE_STEP = timedelta(minutes=30)  # from here on motion is told by large shapes
FRAMES_FOR_SMALL_TEST = 200  # below, a fifth of the slots says nothing about skill

# A date and perhaps a time of day, as file names carry them: 20200401T1200Z, 2020-04-01T12-00, 201604011200, 2020092 ...
STAMP = re.compile(
    r"(?<!\d)(?P<Y>19[5-9]\d|20\d\d)(?P<d>[-_.]?)"
    r"(?:(?P<m>0[1-9]|1[0-2])(?P=d)(?:0[1-9]|[12]\d|3[01])|(?P<j>[0-2]\d\d|3[0-5]\d|36[0-6]))"
    r"(?:(?P<sep>[Tt _.-]?)(?:[01]\d|2[0-3])(?P<c>[:_-]?)(?P<M>[0-5]\d)(?:(?P=c)(?P<S>[0-5]\d))?"
    r"|(?P<sep_hour>[Tt]?)(?P<H>[01]\d|2[0-3]))?(?P<Z>Z)?(?!\d)"
)
DATE_ONLY = re.compile(
    r"(?P<Y>\d{4})(?P<d>[-_.]?)(?:(?P<m>\d\d)(?P=d)\d\d|(?P<j>\d{3}))(?P<sep>)(?P<c>)(?P<M>)(?P<S>)"
    r"(?P<sep_hour>)(?P<H>)(?P<Z>)(?!\d)"
)
TAG_FORMATS = ("%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%MZ")
TIME_TAGS = re.compile("acqui|sensing|observ|time|date", re.IGNORECASE)
TEXT_ITEM = re.compile(r'<Item name="([^"]{1,80})"([^>]{0,200})>([^<]{0,200})</Item>')
INPUT_ONLY = re.compile(r"cloud|mask|quality|(^|_)(b?qa|scl|clm|clp)(_|$)", re.IGNORECASE)

NICE_STEPS = np.array(
    [1, 2, 5, 10, 15, 20, 30]
    + [60 * m for m in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [3600 * h for h in (1, 2, 3, 4, 6, 8, 12)]
    + [86400 * d for d in range(1, 401)]
)

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
    """A configuration read off the scenes, section by section, and what remains to be asked or said."""

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


@dataclass(frozen=True, slots=True)
class Header:
    """What a scene says about itself without its pixels.

    Attributes:
        name: file name.
        grid: CRS as WKT, affine transform, shape ``(height, width)``; None where the scene is not georeferenced.
        bands: as the file declares them, also in text tags.
        left_out: bands of a type that no cube holds.
        tags: of the whole file.
    """

    name: str
    grid: tuple[str, tuple[float, ...], tuple[int, int]] | None
    bands: tuple[BandSpec, ...]
    left_out: tuple[str, ...]
    tags: dict[str, str]


def inspect(folder: Path) -> Guess:
    """Guesses a configuration from the names and headers of the GeoTIFFs in ``folder``.

    Raises:
        ConfigError: there is no such folder, no GeoTIFF in it, none that can be read or is georeferenced, or no time.
    """
    folder = folder.expanduser().resolve()
    paths, notes = _listing(folder)
    headers, broken = _headers(_spread(paths, HEADERS), folder)
    scenes, times, time_notes = _scene_times(folder, paths, headers)
    grid, grid_notes = _grid(headers, folder)
    name = _slug(folder.name)
    bands, band_notes = _bands(headers, name)
    mask, mask_notes = _mask(folder, [path for path, _ in times])
    cadence, sure, cadence_notes = _cadence([time for _, time in times])
    axis = AxisSpec(origin=min(time for _, time in times), cadence=cadence)
    slots = sorted({axis.axis().slot(time) for _, time in times})
    samples, sample_notes = _samples(slots, cadence, min(grid.width, grid.height))
    return Guess(
        workspace=Path("work") / name,
        product=ProductSpec.model_validate({"name": name, "attribution": headers[0].tags.get("TIFFTAG_COPYRIGHT", "")}),
        scenes=scenes.model_copy(update={"mask": mask}),
        bands=bands,
        grid=grid,
        axis=axis,
        samples=samples,
        motion=_motion(slots, cadence, bands),
        training=_training(min(grid.width, grid.height)),
        questions=_questions(bands, headers, axis, sure),
        notes=(*notes, *broken, *time_notes, *grid_notes, *band_notes, *mask_notes, *cadence_notes, *sample_notes),
    )


# Files and headers


def _listing(folder: Path) -> tuple[list[Path], list[str]]:
    if not folder.is_dir():
        msg = f"the scenes lie in a folder, but {folder} is none: check the path"
        raise ConfigError(msg)
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".tif", ".tiff"} and p.name[0] != ".")
    except OSError as error:
        msg = f"the folder of the scenes can be listed, but {folder} cannot: {error.strerror}. Mend its permissions"
        raise ConfigError(msg) from None
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    suffixes = Counter(path.suffix for path in files).most_common(1)
    if not suffixes:
        raise ConfigError(_nothing_there(folder, len(found)))
    kept = [path for path in files if path.suffix == suffixes[0][0]]
    left = [path.name for path in found if path not in set(kept)]
    return kept, [f"left out, as links, folders or of another suffix than most: {_some(left)}"] if left else []


def _nothing_there(folder: Path, links: int) -> str:
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*.[tT][iI][fF]*")))
    found = f"{links} links or folders named .tif, which are not followed" if links else "none"
    fix = f"name a folder below it: {_some(inside)}" if inside else "name the folder that holds them"
    return f"a folder of scenes holds GeoTIFF files (.tif, .tiff); in {folder} there is {found}: {fix}"


def _headers(paths: Sequence[Path], folder: Path) -> tuple[list[Header], list[str]]:
    headers, faults = [], []
    for path in paths:
        try:
            headers.append(read_header(path))
        except SceneError as error:
            faults.append(f"{path.name} ({error.detail})")
    if not headers:
        msg = f"scenes are GeoTIFF files that open, but in {folder} none of {len(paths)} does: {_some(faults)}"
        raise ConfigError(f"{msg}. Copy them again, or convert them with gdal_translate -of GTiff")
    return headers, [f"{len(faults)} of {len(paths)} files cannot be opened: {_some(faults)}"] if faults else []


def read_header(path: Path) -> Header:
    """What a scene says about itself without its pixels.

    Raises:
        SceneError: ``unreadable``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # becomes grid=None
        with open_geotiff(path) as dataset:
            try:
                crs = dataset.crs
            except CRSError as error:
                raise SceneError("unreadable", f"its CRS cannot be read: {error}") from None
            placed = bool(crs) and not dataset.transform.is_identity
            grid = (crs.to_wkt(), tuple(dataset.transform)[:6], dataset.shape) if placed else None
            bands, left_out = _declared_bands(dataset)
            return Header(path.name, grid, bands, left_out, dataset.tags())


def _declared_bands(dataset: DatasetReader) -> tuple[tuple[BandSpec, ...], tuple[str, ...]]:
    known = get_args(BandSpec.model_fields["dtype"].annotation)
    kept, left_out = [], []
    for index, dtype in zip(dataset.indexes, dataset.dtypes, strict=True):
        if dtype in known:
            kept.append(_declared_band(dataset, index))
        else:
            left_out.append(f"band {index} ({dtype})")
    return _distinct(kept), tuple(left_out)


def _declared_band(dataset: DatasetReader, index: int) -> BandSpec:
    """A band by its header, and where the header says nothing by text tags (seen in radar composites)."""
    at = index - 1
    said = _said(dataset, index)
    scale, offset = dataset.scales[at], dataset.offsets[at]
    if (scale, offset) == (1, 0):
        scale, offset = said.get("scale", 1.0), said.get("offset", 0.0)
    nodata = dataset.nodatavals[at]
    band = BandSpec.model_validate(
        {
            "name": _word(dataset.descriptions[at] or "") or f"band_{index}",
            "index": index,
            "dtype": dataset.dtypes[at],
            "units": dataset.units[at] or said.get("units", "1"),
            "scale": scale or 1.0,
            "offset": offset,
        }
    )
    return _with_nodata(band, said.get("nodata") if nodata is None else nodata)


def _with_nodata(band: BandSpec, nodata: float | None) -> BandSpec:
    try:
        return _changed(band, "nodata", nodata)
    except ConfigError:
        return band  # a nodata that no pixel of this type can have


def _said(dataset: DatasetReader, index: int) -> dict[str, Any]:
    """Scale, offset, nodata and units where they stand in text tags only."""
    tags = dataset.tags() | dataset.tags(index)
    items = TEXT_ITEM.findall(tags.pop("GDAL_METADATA", ""))
    texts = {key.lower(): value for key, value in tags.items()} | {name.lower(): text for name, _, text in items}
    units = [unit for _, attributes, _ in items for unit in re.findall(r'unit="([^"]+)"', attributes)]
    words = {
        "nodata": ("nodata", "_fillvalue", "missing_value"),
        "scale": ("gain", "scale_factor"),
        "offset": ("offset", "add_offset"),
    }
    numbers = {key: _number(texts, names) for key, names in words.items()}
    unit = texts.get("units") or texts.get("unit") or (units[0] if len(set(units)) == 1 else None)
    return {key: value for key, value in {**numbers, "units": unit}.items() if value is not None}


def _number(texts: dict[str, str], names: Iterable[str]) -> float | None:
    for text in (texts[name] for name in names if name in texts):
        try:
            return float(text)
        except ValueError:
            continue
    return None


# Times


def _scene_times(
    folder: Path, paths: Sequence[Path], headers: Sequence[Header]
) -> tuple[SceneSpec, list[tuple[Path, datetime]], list[str]]:
    """How times are read, each scene with its time, and notes."""
    by_name = _times_in_names(folder, paths)
    if by_name is not None:
        return by_name
    by_tag = _times_in_tags(folder, paths, headers)
    if by_tag is not None:
        return by_tag
    msg = (
        f"every scene has an acquisition time in its file name or in a TIFF tag, found neither in {folder} "
        f"(first file {paths[0].name}, its tags: {_some(sorted(headers[0].tags)) or 'none'}). "
        "Rename the scenes like area_20200401T1200Z.tif, or set TIFFTAG_DATETIME to YYYY:MM:DD HH:MM:SS in UTC"
    )
    raise ConfigError(msg)


def stamps(name: str) -> list[tuple[str, int, int]]:
    """Every date stamp in a file name: strptime format, start and end.

    >>> stamps("fmi250_20160928T1445Z.tif")[0]
    ('%Y%m%dT%H%MZ', 7, 21)
    >>> [form for form, _, _ in stamps("LC08_014032_20180311_20180320_01_T1.tif")]
    ['%Y%m%d', '%Y%m%d']
    """
    found = []
    for match in STAMP.finditer(name):
        found.append((_strptime_format(match), *match.span()))
        date = DATE_ONLY.match(name, match.start())
        if date is not None and date.end() < match.end():  # the rest may be an orbit number
            found.append((_strptime_format(date), *date.span()))
    return found


def _strptime_format(match: re.Match[str]) -> str:
    part = match.groupdict()
    d, c = part["d"], part["c"] or ""
    date = f"%Y{d}%j" if part["j"] else f"%Y{d}%m{d}%d"
    clock = f"{part['sep']}%H{c}%M" + (f"{c}%S" if part["S"] else "") if part["M"] else ""
    hour = f"{part['sep_hour']}%H" if part["H"] else ""
    return date + clock + hour + (part["Z"] or "")


def _times_in_names(
    folder: Path, paths: Sequence[Path]
) -> tuple[SceneSpec, list[tuple[Path, datetime]], list[str]] | None:
    places = _best_stamp(paths)
    if places is None:
        return None
    form, spans = places
    kept = _one_kind(spans)
    prefixes = [path.name[:start] for path, (start, _) in kept.items()]
    suffixes = [path.name[end:] for path, (_, end) in kept.items()]
    spec = SceneSpec(folder=folder, pattern=f"{_affix(prefixes)}{{time}}{_affix(suffixes)}", time_format=form)
    times = [(path, time) for path in kept if (time := _parsed(spec.time_text(path.name), form)) is not None]
    stray = sorted({path.name for path in paths} - {path.name for path, _ in times})
    notes = [f"{len(stray)} of {len(paths)} files are no scenes by {spec.pattern}: {_some(stray)}"] if stray else []
    return (spec, times, notes) if times else None


def _best_stamp(paths: Sequence[Path]) -> tuple[str, dict[Path, tuple[int, int]]] | None:
    """The stamp that most files share; of several the one that differs from file to file, the longest, the first."""
    places: dict[tuple[str, int], dict[Path, tuple[int, int]]] = {}
    for path in paths:
        counts: Counter[str] = Counter()
        for form, start, end in stamps(path.stem):
            if _parsed(path.name[start:end], form) is not None:
                places.setdefault((form, counts[form]), {})[path] = (start, end)
                counts[form] += 1

    def worth(item: tuple[tuple[str, int], dict[Path, tuple[int, int]]]) -> tuple[bool, int, int]:
        (_, ordinal), spans = item
        texts = {path.name[start:end] for path, (start, end) in spans.items()}
        return len(texts) > len(spans) // 2, max(map(len, texts)), -ordinal

    common = [item for item in places.items() if len(item[1]) >= 0.8 * max(map(len, places.values()))]
    return max(((form, spans) for (form, _), spans in [max(common, key=worth)]), default=None) if common else None


def _one_kind(spans: dict[Path, tuple[int, int]]) -> dict[Path, tuple[int, int]]:
    """Files of the same kind: where two names of the same time differ (a mask, a preview), the commoner form."""
    groups: dict[tuple[str, str], dict[Path, tuple[int, int]]] = {}
    for path, (start, end) in spans.items():
        groups.setdefault((path.name[:start], path.name[end:]), {})[path] = (start, end)
    kept: dict[Path, tuple[int, int]] = {}
    covered: set[str] = set()
    for group in sorted(groups.values(), key=len, reverse=True):
        texts = {path.name[start:end] for path, (start, end) in group.items()}
        if len(texts & covered) <= len(texts) / 2:
            kept |= group
            covered |= texts
    return kept


def _affix(texts: Sequence[str]) -> str:
    """What all texts share at both ends, with * between, cut where words end."""
    first = texts[0]
    if all(text == first for text in texts):
        return first
    head = re.sub(r"[^\W_]+$", "", os.path.commonprefix(texts))
    tails = [text[len(head) :][::-1] for text in texts]
    return head + "*" + re.sub(r"[^\W_]+$", "", os.path.commonprefix(tails))[::-1]


def _parsed(text: str | None, form: str) -> datetime | None:
    try:
        return None if text is None else datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None


def _times_in_tags(
    folder: Path, paths: Sequence[Path], headers: Sequence[Header]
) -> tuple[SceneSpec, list[tuple[Path, datetime]], list[str]] | None:
    found = _time_tag(headers)
    if found is None:
        return None
    tag, form = found
    if len(paths) > len(headers):
        headers, _ = _headers(paths, folder)  # the time axis needs every scene
    spec = SceneSpec(folder=folder, pattern=f"*{paths[0].suffix}", time_format=form, time_tag=tag)
    times = [(folder / h.name, time) for h in headers if (time := _parsed(h.tags.get(tag), form)) is not None]
    return (
        spec,
        times,
        [f"the file names hold no time; it is read from the tag {tag}: check that this is no other time"],
    )


def _time_tag(headers: Sequence[Header]) -> tuple[str, str] | None:
    """The tag and format that give most scenes a time; TIFFTAG_DATETIME last, it often says when the file was made."""
    tags = sorted({tag for header in headers for tag in header.tags if TIME_TAGS.search(tag)})
    tags.sort(key=lambda tag: tag == "TIFFTAG_DATETIME")
    for tag in tags:
        for form in TAG_FORMATS:
            if sum(_parsed(header.tags.get(tag), form) is not None for header in headers) > len(headers) / 2:
                return tag, form
    return None


# Cadence and samples


def _cadence(times: Sequence[datetime]) -> tuple[timedelta, bool, list[str]]:
    """Step of the time axis, whether it is sure, and notes."""
    at = np.unique([seconds(time) for time in times])
    if len(at) < 2:
        return DAY, False, ["one acquisition time only: the cadence cannot be seen and is set to a day"]
    step = step_of(at)
    if step is None:
        step = int(NICE_STEPS[min(np.searchsorted(NICE_STEPS, np.diff(at).mean()), len(NICE_STEPS) - 1)])
        fault = f"the scenes follow no step: the mean gap, {_iso(timedelta(seconds=step))}, was taken as cadence"
        return timedelta(seconds=step), False, [fault]
    notes = [f"{len(times) - len(at)} scenes share their time with another"] if len(times) > len(at) else []
    return timedelta(seconds=step), True, notes


def step_of(at: NDArray[np.int64]) -> int | None:
    """The largest step that 95 % of the gaps are whole multiples of, to 10 %, and that gives 95 % of times an own slot.

    Among steps up to a tenth smaller the one that the gaps fit best: four gaps of 10 days also fit 11. None where only
    a step fits that leaves 98 % of the slots empty.

    Args:
        at: ``(scene,)``, acquisition times in seconds, sorted, all different.

    Returns:
        The step in seconds.
    """
    gaps = np.diff(at)
    candidates = np.union1d(NICE_STEPS, _rounded(gaps))
    candidates = candidates[(candidates <= gaps.max()) & (candidates * 50 * len(at) >= at[-1] - at[0])]
    fitting = [step for step in candidates.tolist() if _fits(at, gaps, step)]
    if not fitting:
        return None
    close = [step for step in fitting if step >= 0.89 * fitting[-1]]
    return int(min(close, key=lambda step: (np.mean(np.abs(gaps - np.round(gaps / step) * step)) / step, -step)))


def _rounded(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The commonest gaps, to the second, minute, hour and day."""
    values, counts = np.unique(gaps, return_counts=True)
    common = np.append(values[np.argsort(-counts)][:20], np.median(gaps).astype(np.int64))
    rounded = np.concatenate([np.round(common / unit) * unit for unit in (1, 60, 3600, 86400)]).astype(np.int64)
    return rounded[rounded > 0]


def _fits(at: NDArray[np.int64], gaps: NDArray[np.int64], step: int) -> bool:
    near = np.abs(gaps - np.round(gaps / step) * step) <= 0.1 * step
    own = len(np.unique(-((at[0] - at + step / 2) // step)))
    return bool(near.mean() >= 0.95 and own >= 0.95 * len(at))


def _filled(slots: Sequence[int]) -> float:
    return len(slots) / (slots[-1] - slots[0] + 1)


def _samples(slots: Sequence[int], cadence: timedelta, side: int) -> tuple[SampleSpec, list[str]]:
    frames = len(slots)
    slow, regular = cadence >= DAY, _filled(slots) >= 0.8
    context = max(1, min(6 if slow or not regular else 4, frames // 4))
    spec = SampleSpec.model_validate(
        {
            "context_frames": context,
            "max_age": 2 * context if regular else _max_age(slots, context),
            "horizon": max(1, min(6 if slow else 12, frames // 4)),
            "test_fraction": 0.4 if frames < FRAMES_FOR_SMALL_TEST else 0.2,
            "block_buffer": min(48, side // 6),
        }
    )
    kind = "regular" if regular else "irregular"
    share = f"{frames} of {slots[-1] - slots[0] + 1} slots of {_iso(cadence)} hold a scene"
    few = [f"only {frames} slots hold a scene: too few to train a network that can be trusted"] if frames < 12 else []
    return spec, [f"{kind} series: {share}", *few]


def _max_age(slots: Sequence[int], context: int) -> int:
    """Slots into which ``context`` observed frames normally fit: half as much again as 90 % of the scenes need."""
    spans = np.subtract(slots[context - 1 :], slots[: len(slots) - context + 1])
    return max(context, int(np.ceil(1.5 * np.quantile(spans, 0.9))))


def _motion(slots: Sequence[int], cadence: timedelta, bands: Sequence[BandSpec]) -> MotionSpec:
    neighbours = np.mean(np.diff(slots) == 1) if len(slots) > 1 else 0
    moves = cadence < DAY and neighbours >= 0.5
    band = next(number for number, band in enumerate(bands, 1) if band.forecast)
    # hourly infrared of a typhoon, 512 px wide, was best followed with a blur of 60 px
    smoothing = 0.12 if moves and cadence >= LARGE_STEP else MotionSpec.model_fields["smoothing"].default
    return MotionSpec.model_validate({"method": "dis" if moves else "none", "band": band, "smoothing": smoothing})


def _training(side: int) -> TrainingSpec:
    default = TrainingSpec.model_validate({})
    chip = min(default.chip, side) // default.patch * default.patch
    return default.model_copy(update={"chip": max(16, chip)})


# Grid, bands, masks


def _grid(headers: Sequence[Header], folder: Path) -> tuple[GridSpec, list[str]]:
    grids = Counter(header.grid for header in headers if header.grid is not None)
    if not grids:
        msg = (
            f"every scene has a CRS and a geotransform, but in {folder} none of {len(headers)} has both "
            f"(first: {headers[0].name}). Georeference them, for example with gdal_edit.py -a_srs EPSG:... -a_ullr ..."
        )
        raise ConfigError(msg)
    (wkt, transform, (height, width)), count = grids.most_common(1)[0]
    try:
        crs = _crs_text(wkt)
        spec = GridSpec.model_validate({"crs": crs, "transform": transform, "width": width, "height": height})
    except (ValidationError, OdcCRSError) as error:
        msg = f"the CRS of the scenes is one that PROJ knows, but that of {headers[0].name} is not: {error}"
        raise ConfigError(f"{msg}. Assign one with gdal_edit.py -a_srs") from None
    return spec, _grid_notes(spec, len(grids), count, len(headers))


def _grid_notes(spec: GridSpec, kinds: int, count: int, total: int) -> list[str]:
    notes = []
    if count < total:
        notes.append(
            f"{kinds} different grids; {count} of {total} scenes looked at lie on the one taken. "
            "Scenes that do not fit it will be refused: warp them to it first"
        )
    _, b, _, d, e, _ = spec.transform
    if b or d or e > 0:
        notes.append("the rows of the grid do not run from north to south, or it is rotated")
    return notes


def _crs_text(wkt: str) -> str:
    """An authority code where it means the very same CRS, otherwise the WKT."""
    epsg = CRS(wkt).epsg
    return f"EPSG:{epsg}" if epsg is not None and CRS(f"EPSG:{epsg}") == CRS(wkt) else wkt


def _bands(headers: Sequence[Header], name: str) -> tuple[tuple[BandSpec, ...], list[str]]:
    kinds = Counter(repr(header.bands) for header in headers)  # as text, since NaN is not NaN
    form, count = kinds.most_common(1)[0]
    header = next(header for header in headers if repr(header.bands) == form)
    if not header.bands:
        msg = f"bands are integers of up to 32 bit or floats, but {header.name} has {_some(header.left_out)}"
        raise ConfigError(f"{msg}. Convert the scenes, for example with gdal_translate -ot Float32")
    notes = (
        [f"{len(kinds)} kinds of bands; {count} of {len(headers)} scenes are of the one taken"]
        if len(kinds) > 1
        else []
    )
    if header.left_out:
        notes.append(f"left out, of types that no cube holds: {_some(header.left_out)}")
    if header.tags.get("quantity"):
        notes.append(f"the scenes say of themselves: {header.tags['quantity']}")
    return _roles(header.bands, name), notes


def _roles(bands: Sequence[BandSpec], name: str) -> tuple[BandSpec, ...]:
    """Names for nameless bands, quality bands as input only, the floor of radar reflectivity."""
    if len(bands) == 1 and bands[0].name.startswith("band_"):
        bands = [_changed(bands[0], "name", _word(re.split(r"[_-]", name)[0]) or "value")]
    bands = [_changed(band, "floor", 0.0) if band.units == "dBZ" else band for band in bands]  # below 0 dBZ: no echo
    inputs = [bool(INPUT_ONLY.search(band.name)) for band in bands]
    if all(inputs):
        return tuple(bands)
    return tuple(_changed(band, "forecast", not only) for band, only in zip(bands, inputs, strict=True))


def _mask(folder: Path, scenes: Sequence[Path]) -> tuple[MaskSpec | None, list[str]]:
    """Masks in a folder beside the scenes whose names continue the scenes' names."""
    for beside in sorted(p for p in folder.iterdir() if p.is_dir() and INPUT_ONLY.search(p.name)):
        names = sorted(path.stem for path in beside.glob(f"*{scenes[0].suffix}"))
        endings = Counter(name[len(s.stem) :] for s in scenes for name in names if name.startswith(s.stem))
        if endings:
            spec = MaskSpec.model_validate({"folder": beside, "suffix": endings.most_common(1)[0][0]})
            return _mask_values(spec, [path for s in scenes if (path := mask_path(s, spec)).is_file()], len(scenes))
    return None, []


def _mask_values(spec: MaskSpec, masks: Sequence[Path], scenes: int) -> tuple[MaskSpec, list[str]]:
    found = sorted(set().union(*(_values(path) for path in _spread(masks, MASKS))))
    values = (1,) if 1 in found or not any(found) else tuple(value for value in found if value)
    note = f"masks in {spec.folder.name}/ hold {found[:9]}: {', '.join(map(str, values[:9]))} is taken for unusable"
    notes = [note]
    if len(masks) < scenes:
        notes.append(f"{scenes - len(masks)} of {scenes} scenes have no mask; a scene waits for its mask")
    return spec.model_copy(update={"values": values}), notes


def _values(path: Path) -> set[int]:
    try:
        with open_geotiff(path) as dataset:
            if dataset.dtypes[0] not in INTEGER_TYPES or dataset.width * dataset.height > MASK_PIXELS:
                return set()
            found = set(np.unique(dataset.read(1)).tolist())
            return found - {dataset.nodatavals[0]}
    except SceneError:
        return set()


# Questions and answers


def _questions(
    bands: Sequence[BandSpec], headers: Sequence[Header], axis: AxisSpec, cadence_is_sure: bool
) -> tuple[Question, ...]:
    tags = headers[0].tags
    hint = f" (the scenes say: {tags['quantity']})" if tags.get("quantity") else ""
    units = [
        Question(f"bands.{band.name}.units", f"Unit of {band.name}, 1 where it has none{hint}", band.units)
        for band in bands
        if band.units == "1" and not INPUT_ONLY.search(band.name)
    ]
    cadence = Question("axis.cadence", "Time from scene to scene (ISO 8601, like PT5M or P1D)", _iso(axis.cadence))
    return (
        Question("product.title", "Title, one line for catalogues", ""),
        Question("product.licence", "Licence of the scenes (SPDX identifier such as CC-BY-4.0, or other)", "other"),
        Question("product.providers", "Who made the scenes (several: separated by ;)", ""),
        Question(
            "product.attribution",
            "Credit that must accompany every copy",
            tags.get("TIFFTAG_COPYRIGHT", ""),
        ),
        *(units if len(units) <= 3 else []),
        *(() if cadence_is_sure else (cadence,)),
    )


def _with_answer(guess: Guess, field: str, text: str) -> Guess:
    section, _, rest = field.partition(".")
    if section == "bands":
        name, _, key = rest.rpartition(".")
        bands = tuple(_changed(band, key, text) if band.name == name else band for band in guess.bands)
        return replace(guess, bands=bands)
    if section == "axis":
        return replace(guess, axis=_changed(guess.axis, rest, text))
    providers = tuple(ProviderSpec.model_validate({"name": name}) for name in re.split(r"\s*;\s*", text) if name)
    return replace(guess, product=_changed(guess.product, rest, providers if rest == "providers" else text))


def _changed(spec: S, key: str, value: Any) -> S:
    try:
        return type(spec).model_validate(spec.model_dump() | {key: value})
    except ValidationError as error:
        msg = f"{key} = {value!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        raise ConfigError(msg) from None


# The file


ALWAYS = {
    "product": {"name", "title", "licence", "attribution", "providers"},
    "scenes": {"folder", "pattern", "time_format", "latency"},
    "bands": {"name", "index", "dtype", "units", "scale", "offset", "forecast"},
    "grid": {"crs", "transform", "width", "height"},
    "axis": {"origin", "cadence"},
    "samples": {"context_frames", "max_age", "horizon", "test_fraction", "validation_fraction"},
    "motion": {"method", "band"},
    "training": {"epochs", "budget", "chip", "batch", "seed"},
    "scenes.mask": {"folder", "suffix", "values"},
}


def write(what: Guess | Settings, path: Path, *, overwrite: bool = False) -> None:
    """Writes a configuration file; it appears whole or not at all.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        msg = f"a configuration is not overwritten, but {path} exists: remove it or choose another --output"
        raise ConfigError(msg)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(render(what, folder=path.resolve().parent), encoding="utf-8")
        aside.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        aside.unlink(missing_ok=True)
        msg = f"the configuration is written to {path}, but that fails: {error}. Choose another --output"
        raise ConfigError(msg) from None


def render(what: Guess | Settings, *, folder: Path | None = None) -> str:
    """A configuration as commented TOML; paths inside ``folder``, where the file will lie, become relative."""
    lines = ["# Configuration of one cubecast product. What is not said here has its default; times are UTC."]
    if isinstance(what, Guess):
        lines += [f"# {_one_line(note)}" for note in what.notes]
    base = (folder or Path()).resolve()
    lines += ["", *_entry("workspace", what.workspace, Settings.model_fields["workspace"].description or "", base)]
    for section in Settings.model_fields:
        part = getattr(what, section, None)
        if isinstance(part, tuple):
            for number, member in enumerate(part):
                lines += ["", *_table(f"[[{section}]]", member, section, base, explained=number == 0)]
        elif isinstance(part, BaseModel):
            lines += _section(section, part, base)
    return "\n".join(lines) + "\n"


def _section(name: str, part: BaseModel, base: Path) -> list[str]:
    lines = _table(f"[{name}]", part, name, base)
    inner = getattr(part, "mask", None)
    if len(lines) > 2:
        lines = ["", *lines]
    else:
        return []
    return [*lines, *_section(f"{name}.mask", inner, base)] if isinstance(inner, BaseModel) else lines


def _table(head: str, part: BaseModel, name: str, base: Path, *, explained: bool = True) -> list[str]:
    about = (type(part).__doc__ or "").strip().splitlines()[0]
    lines = [f"# {about}", head] if explained else [head]
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        said = key in ALWAYS.get(name, ()) or value != field.default
        if said and value is not None and not isinstance(value, BaseModel):
            lines += _entry(key, value, (field.description or "") if explained else "", base)
    return lines


def _entry(key: str, value: Any, about: str, base: Path) -> list[str]:
    comment = [f"# {about}"] if about else []
    return [*comment, f"{key} = {_toml(value, base)}"]


def _toml(value: Any, base: Path) -> str:
    if isinstance(value, Path):
        inside = value.is_absolute() and value.is_relative_to(base)
        return _toml((value.relative_to(base) if inside else value).as_posix(), base)
    if isinstance(value, timedelta):
        return f'"{_iso(value)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(member, base) for member in value)}]"
    if isinstance(value, BaseModel):
        members = value.model_dump(exclude_defaults=True)
        return "{" + ", ".join(f"{key} = {_toml(member, base)}" for key, member in members.items()) + "}"
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # WKT is full of double quotes
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def _iso(duration: timedelta) -> str:
    return TypeAdapter(timedelta).dump_python(duration, mode="json")


# Words


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_") or "product"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")


def _distinct(bands: Sequence[BandSpec]) -> tuple[BandSpec, ...]:
    counts = Counter(band.name for band in bands)
    return tuple(_changed(b, "name", f"{b.name}_{b.index}") if counts[b.name] > 1 else b for b in bands)


def _one_line(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


T = TypeVar("T")


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of the items, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
