"""When scenes were taken, as their names or tags have it, and the step that they follow."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.specs import SceneSpec
from pipeline.times import seconds

# A date and perhaps a time of day: 20200401T1200Z, 2020-04-01T12-00, 20200401_1200, 201604011200, 2020040112, 2020092.
_YEAR = r"(?<!\d)(?P<Y>19[5-9]\d|20\d\d)(?P<d>[-_.]?)"
_DAY = r"(?:(?P<m>0[1-9]|1[0-2])(?P=d)(?:0[1-9]|[12]\d|3[01])|(?P<j>[0-2]\d\d|3[0-5]\d|36[0-6]))"
_HOUR = r"(?:[01]\d|2[0-3])"
# After a day of the year only with a separator: 2020100123456 in a MODIS name is when the file was made.
_CLOCK = rf"(?P<sep>(?(j)[Tt _.-]|[Tt _.-]?)){_HOUR}(?P<c>[:_-]?)(?P<M>[0-5]\d)(?:(?P=c)(?P<S>[0-5]\d))?"
_FULL_HOUR = rf"(?P<sep_hour>(?(j)[Tt]|[Tt]?))(?P<H>{_HOUR})"
STAMP = re.compile(rf"{_YEAR}{_DAY}(?:{_CLOCK}|{_FULL_HOUR})?(?P<Z>Z)?(?!\d)")
DATE = re.compile(rf"{_YEAR}{_DAY}(?P<Z>Z)?(?!\d)")

TAG_FORMATS = ("%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%MZ")
TIME_TAG = re.compile("acqui|sensing|observ|time|date", re.IGNORECASE)

DAY_S = 86400
STEPS = np.array(
    [60 * m for m in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [3600 * h for h in (1, 2, 3, 4, 6, 8, 12)]
    + [DAY_S * d for d in range(1, 401)]
)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Timed:
    """Scenes with their acquisition times, how those are read, and what is to be said about it."""

    spec: SceneSpec
    times: dict[Path, datetime]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cadence:
    """Step of a time axis, whether the scenes show it clearly, and what is to be said about it."""

    step: timedelta
    sure: bool
    notes: tuple[str, ...]


def stamps(name: str) -> list[tuple[str, Span]]:
    """Every date stamp in a file name: strptime format, and where it stands.

    >>> stamps("fmi250_20160928T1445Z.tif")[0]
    ('%Y%m%dT%H%MZ', (7, 21))
    >>> [form for form, _ in stamps("LC08_014032_20180311_20180320_01_T1.tif")]
    ['%Y%m%d', '%Y%m%d']
    """
    found = []
    for match in STAMP.finditer(name):
        found.append((_format(match), match.span()))
        date = DATE.match(name, match.start())
        if date is not None and date.end() < match.end():  # what looks like a time of day may be an orbit number
            found.append((_format(date), date.span()))
    return found


def _format(match: re.Match[str]) -> str:
    part = {key: text or "" for key, text in match.groupdict().items()}
    d, c = part["d"], part.get("c", "")
    date = f"%Y{d}%j" if part["j"] else f"%Y{d}%m{d}%d"
    clock = f"{part['sep']}%H{c}%M" if part.get("M") else ""
    seconds_too = f"{c}%S" if part.get("S") else ""
    hour = f"{part['sep_hour']}%H" if part.get("H") else ""
    return f"{date}{clock}{seconds_too}{hour}{part['Z']}"


def from_names(folder: Path, paths: Sequence[Path]) -> Timed | None:
    """Times in file names; None where the names hold none."""
    form, spans = _commonest_stamp(paths)
    kept = _one_kind(spans)
    if not kept:
        return None
    prefixes = [path.name[:start] for path, (start, _) in kept.items()]
    suffixes = [path.name[end:] for path, (_, end) in kept.items()]
    pattern = f"{_affix(prefixes)}{{time}}{_affix(suffixes)}"
    spec = SceneSpec.model_validate({"folder": folder, "pattern": pattern, "time_format": form})
    times = {path: time for path in kept if (time := parsed(spec.time_text(path.name), form)) is not None}
    stray = [path.name for path in paths if path not in times]
    note = f"{len(stray)} of {len(paths)} files are no scenes by {pattern}: {some(stray)}"
    return Timed(spec, times, (note,) if stray else ()) if times else None


def _commonest_stamp(paths: Sequence[Path]) -> tuple[str, dict[Path, Span]]:
    """The stamp that most files share; of several the one that differs from file to file, the longest, the first."""
    places: dict[tuple[str, int], dict[Path, Span]] = {}
    for path in paths:
        counts: Counter[str] = Counter()
        for form, span in stamps(path.stem):
            if parsed(path.name[slice(*span)], form) is not None:
                places.setdefault((form, counts[form]), {})[path] = span
                counts[form] += 1
    most = max(map(len, places.values()), default=0)
    common = [(key, spans) for key, spans in places.items() if len(spans) >= 0.8 * most]
    (form, _), spans = max(common, key=lambda item: _worth(item[0][1], item[1]), default=(("", 0), {}))
    return form, spans


def _worth(ordinal: int, spans: Mapping[Path, Span]) -> tuple[bool, int, int]:
    texts = {path.name[slice(*span)] for path, span in spans.items()}
    return len(texts) > len(spans) // 2, max(map(len, texts)), -ordinal


def _one_kind(spans: Mapping[Path, Span]) -> dict[Path, Span]:
    """Files of one kind: where names of the same time differ (a mask, a preview), those of the commoner form."""
    groups: dict[tuple[str, str], dict[Path, Span]] = {}
    for path, (start, end) in spans.items():
        groups.setdefault((path.name[:start], path.name[end:]), {})[path] = (start, end)
    kept: dict[Path, Span] = {}
    covered: set[str] = set()
    for group in sorted(groups.values(), key=len, reverse=True):
        texts = {path.name[slice(*span)] for path, span in group.items()}
        if len(texts & covered) <= len(texts) / 2:
            kept |= group
            covered |= texts
    return kept


def _affix(texts: Sequence[str]) -> str:
    """What all texts share at both ends, with * between, cut where words end."""
    first = texts[0]
    if all(text == first for text in texts):
        return first
    head = _whole_words(_shared(texts))
    tail = _whole_words(_shared([text[len(head) :][::-1] for text in texts]))
    return f"{head}*{tail[::-1]}"


def _shared(texts: Sequence[str]) -> str:
    return os.path.commonprefix(texts)  # noqa: RUF071 - character by character is meant


def _whole_words(text: str) -> str:
    return re.sub(r"[^\W_]+$", "", text)


def from_tags(folder: Path, tags: Mapping[Path, Mapping[str, str]]) -> Timed | None:
    """Times in a TIFF tag that most scenes have; None where there is no such tag."""
    found = _time_tag(list(tags.values()))
    if found is None:
        return None
    tag, form = found
    suffix = next(iter(tags)).suffix
    fields = {"folder": folder, "pattern": f"*{suffix}", "time_format": form, "time_tag": tag}
    times = {path: time for path, texts in tags.items() if (time := parsed(texts.get(tag), form)) is not None}
    notes = [f"the file names hold no time, it is read from the tag {tag}: check that this is the acquisition time"]
    stray = [path.name for path in tags if path not in times]
    if stray:
        notes.append(f"{len(stray)} of {len(tags)} files have no time in that tag: {some(stray)}")
    return Timed(SceneSpec.model_validate(fields), times, tuple(notes))


def _time_tag(tags: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
    """Tag and format; TIFFTAG_DATETIME last, since it often says when the file was made (TIFF 6.0, section 8)."""
    names = sorted({name for texts in tags for name in texts if TIME_TAG.search(name)})
    for name in sorted(names, key=lambda name: name == "TIFFTAG_DATETIME"):
        for form in TAG_FORMATS:
            if sum(parsed(texts.get(name), form) is not None for texts in tags) > len(tags) / 2:
                return name, form
    return None


def parsed(text: str | None, form: str) -> datetime | None:
    """A time, UTC; None where there is no text or it does not read as ``form``."""
    try:
        return None if text is None else datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None


def cadence(times: Sequence[datetime]) -> Cadence:
    """The step that acquisition times follow."""
    at = np.unique([seconds(time) for time in times])
    if len(at) < 2:
        note = "one acquisition time only: the cadence cannot be seen and is set to a day"
        return Cadence(timedelta(days=1), False, (note,))
    step = step_of(at)
    if step is None:
        step = int(STEPS[min(np.searchsorted(STEPS, np.diff(at).mean()), len(STEPS) - 1)])
        note = "the scenes follow no step of whole minutes: about their mean gap is taken as cadence"
        return Cadence(timedelta(seconds=step), False, (note,))
    repeated = len(times) - len(at)
    notes = (f"{repeated} scenes have the time of another one",) if repeated else ()
    return Cadence(timedelta(seconds=step), True, notes)


def step_of(at: NDArray[np.int64]) -> int | None:
    """The largest step, of whole minutes, that 95 % of gaps are multiples of to 10 % and that gives 95 % an own slot.

    Among the steps up to a tenth smaller it is the one that the gaps fit best (three gaps of 10 days also fit 11), of
    equally good ones the roundest. None where such a step would leave 98 % of the slots empty.

    Args:
        at: ``(scene,)``, two or more acquisition times in seconds, sorted, all different.

    Returns:
        The step in seconds.
    """
    gaps = np.diff(at)
    candidates = np.union1d(STEPS, _rounded(gaps))
    candidates = candidates[(candidates <= gaps.max()) & (candidates * 50 * len(at) >= at[-1] - at[0])]
    fitting = [step for step in candidates.tolist() if _fits(at, gaps, step)]
    close = [step for step in fitting if step >= 0.89 * fitting[-1]]
    return min(close, key=lambda step: (round(_misfit(gaps, step).mean(), 2), step not in STEPS, -step), default=None)


def _rounded(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The commonest gaps, to the minute, hour and day."""
    values, counts = np.unique(gaps, return_counts=True)
    common = np.append(values[np.argsort(-counts)][:20], np.median(gaps))
    rounded = np.concatenate([np.round(common / unit) * unit for unit in (60, 3600, DAY_S)]).astype(np.int64)
    return rounded[rounded > 0]


def _misfit(gaps: NDArray[np.int64], step: int) -> NDArray[np.float64]:
    """Distance of each gap from the nearest multiple of a step, in steps."""
    return np.abs(gaps / step - np.round(gaps / step))


def _fits(at: NDArray[np.int64], gaps: NDArray[np.int64], step: int) -> bool:
    own = len(np.unique(np.ceil((at - at[0]) / step - 0.5)))
    return bool((_misfit(gaps, step) <= 0.1).mean() >= 0.95 and own >= 0.95 * len(at))


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
