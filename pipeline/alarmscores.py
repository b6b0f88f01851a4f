"""What alarms look at: how a model's errors and intervals went, scene by scene, from the columns of scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import durable
from pipeline.proof import Judged
from pipeline.scorebook import FORECAST
from pipeline.scorestore import Store, codes, numbers, times
from pipeline.specs import ALL
from pipeline.times import from_seconds

ERROR, COVERAGE = "error", "coverage"
REFERENCE: Final = "extrapolation"
RUNGS: Final = ("extrapolation", "persistence", "climatology")  # what stands in for a model is none
LOOKED_AT: Final = timedelta(days=60)  # of init times, at least
ENOUGH: Final = 300  # init times; where those 60 days have fewer, as many days are read that have one
LESSON: Final = 192  # init times from a model's first on, read for its level: twice what it is learned from

Prove = Callable[[str, str, datetime], "Mapping[str, Any] | None"]
_COLUMNS: Final = ("run_key", "init", "lead", "band", "predictor", "model", "mae", "held", "promised")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What the scenes say of one model, oldest first.

    Attributes:
        valid: ``(scene,)``, int64, valid times in seconds since 1970-01-01 UTC.
        values: ``(scene, cell)``, a cell being a lead and band; the greater the worse, NaN where nothing is known.
        known: ``(cell,)``, what held-out truths showed; NaN where they did not.
    """

    valid: NDArray[np.int64]
    values: NDArray[np.float64]
    known: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The model of the newest init time.

    Attributes:
        model: its name and version.
        first: valid time of its first scene.
        start: valid time of the first scene that counts, in seconds since 1970-01-01 UTC; those before it make its
            level alone, because scenes between are not read. 0: all count.
        series: by measure; none of a measure that nothing is known of.
    """

    model: str
    first: datetime
    start: int
    series: Mapping[str, Series]


def read(store: Store, prove: Prove) -> Scored | None:
    """The newest model and its series; None where no model has been scored.

    Args:
        store: scores, refreshed.
        prove: as in :func:`pipeline.alarms.watch`.
    """
    if not store.days:
        return None
    table = _window(store)
    models, names = codes(table, "model")
    init = times(table, "init")
    own = np.isin(models, [number for number, name in enumerate(names) if name.rpartition(" ")[0] not in RUNGS])
    if not np.any(own):
        return None
    number = _newest(models, init, own)
    chosen = table.filter((models == number).tolist())
    run, made = chosen.column("run_key")[-1].as_py(), from_seconds(int(init[models == number].max()))
    proof = prove(names[number], run, made)
    lesson, whole = _lesson(store, names[number], f"{from_seconds(int(init.min())).date()}")
    start = 0 if whole else int(init.min())
    chosen = pa.concat_tables([*lesson, chosen])
    first = times(chosen, "init") + 60 * numbers(chosen, "lead").astype(np.int64)
    return Scored(names[number], from_seconds(int(first.min())), start, _series(chosen, proof))


def _window(store: Store) -> pa.Table:
    """Scores of whole days: the newest :data:`LOOKED_AT`, or so many that there are :data:`ENOUGH` init times."""
    table = _rows(store, since=_midnight(store.days[-1]) - LOOKED_AT)
    if len(np.unique(times(table, "init"))) >= ENOUGH:
        return table
    return _rows(store, since=min(_midnight(store.days[-1]) - LOOKED_AT, _midnight(store.days[-ENOUGH:][0])))


def _lesson(store: Store, model: str, before: str) -> tuple[list[pa.Table], bool]:
    """Scores of a model's first days, and whether they are all that lie before a day."""
    tables: list[pa.Table] = []
    count, first = 0, _first_day(store, model)
    for day in store.days:
        if first <= day < before:
            if count >= LESSON:
                return tables, False
            tables.append(_rows(store, only=day, model=[model]))
            count += len(np.unique(times(tables[-1], "init")))
    return tables, True


def _first_day(store: Store, model: str) -> str:
    """The day of a model's first scores, which is kept: looking for it opens the files of all days before it."""
    path = store.folder / "state" / "first.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    since = known.get(model, "")
    later = (day for day in store.days if day >= since)
    first = next((day for day in later if store.read(("model",), only=day, model=[model]).num_rows), store.days[0])
    if first != since:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_text(path, json.dumps({model: first}) + "\n")
    return first


def _rows(store: Store, **wanted: Any) -> pa.Table:
    """What alarms need, over all pixels."""
    return store.read(_COLUMNS, rung=[ALL], region=[ALL], predictor=[FORECAST, REFERENCE], **wanted)


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T00:00+00:00")


def _newest(models: NDArray[np.int64], init: NDArray[np.int64], own: NDArray[np.bool_]) -> int:
    """The model of the newest init time; of several, as after a hindcast by an old one, the one that began last.

    Args:
        models: number of the model, ``(row,)``.
        init: init times, ``(row,)``, seconds.
        own: whether it is none that stands in for a model, ``(row,)``.
    """
    there = np.unique(models[own & (init == init[own].max())]).tolist()
    return max(there, key=lambda one: int(init[models == one].min()))


def _series(table: Any, proof: Mapping[str, Any] | None) -> dict[str, Series]:
    """Both measures of one model."""
    run, init = codes(table, "run_key")[0], times(table, "init")
    lead, (band, bands) = numbers(table, "lead").astype(np.int64), codes(table, "band")
    predictor, predictors = codes(table, "predictor")
    minutes, cell = np.unique(lead, return_inverse=True)
    cell = cell * len(bands) + band
    cells = len(minutes) * len(bands)
    shape = (len(minutes), len(bands))
    found: dict[str, Series] = {}
    own = predictor == predictors.index(FORECAST) if FORECAST in predictors else np.zeros(len(run), bool)
    valid = init + 60 * lead
    missed = numbers(table, "promised")[own] - numbers(table, "held")[own]
    if np.isfinite(missed).any():
        found[COVERAGE] = _gathered(valid[own], cell[own], missed, _missed(proof, shape))
    if REFERENCE in predictors:
        errors, place = numbers(table, "mae"), run * cells + cell
        pairs = [np.full(int(place.max()) + 1, np.nan) for _ in range(2)]
        for one, chosen in zip(pairs, (own, ~own), strict=True):
            one[place[chosen]] = errors[chosen]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.log(pairs[0][place[own]] / pairs[1][place[own]])
        ratios[~np.isfinite(ratios)] = np.nan
        found[ERROR] = _gathered(valid[own], cell[own], ratios, _ratio(proof, shape))
    return found


def _gathered(
    valid: NDArray[np.int64], cell: NDArray[np.int64], values: NDArray[np.float64], known: NDArray[np.float64]
) -> Series:
    """Mean of each scene and cell, over the runs that have it; scenes of which nothing is known are left out."""
    there = np.isfinite(values)
    scenes, at = np.unique(valid[there], return_inverse=True)
    shape = (len(scenes), len(known))
    place = at * shape[1] + cell[there]
    sums, counts = (np.bincount(place, weights, shape[0] * shape[1]) for weights in (values[there], None))
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return Series(scenes, means.reshape(shape), known)


def _missed(proof: Mapping[str, Any] | None, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Promised less held by held-out truths, ``(lead * band,)``; NaN where they did not say it."""
    if proof is None or "levels" not in proof:
        return np.full(shape, np.nan).ravel()
    return proof["levels"][-1] - proof["levels"][0] - _proven(proof, "coverage", shape)


def _ratio(proof: Mapping[str, Any] | None, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Logarithm of the error over extrapolation's on held-out truths, as above; NaN also where these were fitted to."""
    if proof is None or proof.get("judged") != Judged.LEFT_OUT:
        return np.full(shape, np.nan).ravel()
    return np.log(_proven(proof, "error", shape))


def _proven(proof: Mapping[str, Any], name: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A figure of held-out truths by lead and band, ``(lead * band,)``; NaN where there is none."""
    found = np.full(shape, np.nan)
    said = np.array(proof.get(name, []), np.float64)
    if said.ndim == 2 and said.shape[1] == shape[1]:
        shared = min(shape[0], len(said))
        found[:shared] = said[:shared]
    return found.ravel()
