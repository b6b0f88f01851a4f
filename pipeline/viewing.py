"""A published run as people look at it: its facts lead by lead, and what a picture of it shows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.catalog import PublishedRun, quality_path
from pipeline.chances import Chance
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.episode import Episode
from pipeline.errors import StoreError
from pipeline.evaluation import Answer
from pipeline.forecast import outlet
from pipeline.merit import UsefulHorizon
from pipeline.metrics import ErrorRow
from pipeline.portrait import Likelihood, Portrait
from pipeline.predictor import Source
from pipeline.raster import read_dn
from pipeline.record import MANIFEST
from pipeline.scorebook import load, page, recent
from pipeline.scoring import inputs
from pipeline.shares import rung_shares
from pipeline.sheets import UNKNOWN
from pipeline.times import from_seconds
from pipeline.verify import tabulate
from pipeline.yielding import usefulness_of

USUAL = 200  # runs: of more the table would be of other weather
LIKELY, SEEN = 0.5, 0.01  # a probability, and the part of the pixels of all leads that has it
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class LeadFacts:
    """What is known of one lead of a run.

    Attributes:
        minutes: lead time.
        valid_time: when it is true, UTC.
        rungs: part of the pixels that each rung of the ladder made, the greatest first.
        oldest: age of the oldest input behind any pixel (minutes); None where there is none.
        middle: median age of the inputs (minutes).
        met: its errors beside the baselines', a row a forecast band; empty until truth comes.
        usual: the same over the newest :data:`USUAL` runs of the same model that truth has met, up to this one.
    """

    minutes: int
    valid_time: datetime
    rungs: dict[str, float]
    oldest: int | None
    middle: int | None
    met: tuple[ErrorRow, ...] = ()
    usual: tuple[ErrorRow, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run.

    ``newest``: no other one of the product is newer. ``useful``: by band, how far ahead forecasts like it had been
    useful. ``yielded``: leads (minutes) and bands at which extrapolation was published, because the model had done
    worse. ``why``: it is not by MLflow's champion; empty: it is, or there is none. ``climatology``: why there is
    some, and of which scenes; empty: there is none.
    """

    product: str
    init: datetime
    created: datetime
    run_key: str
    path: str
    newest: bool
    model: str
    source: str
    snapshot: str
    code_version: str
    scenes: tuple[str, ...]
    quantities: tuple[str, ...]
    bands: tuple[str, ...]
    rungs: dict[str, float]
    leads: tuple[LeadFacts, ...]
    useful: dict[str, UsefulHorizon]
    yielded: tuple[tuple[int, str], ...]
    probabilities: tuple[Chance, ...] = ()
    why: str = ""
    climatology: str = ""


@dataclass(frozen=True, slots=True)
class Skill:
    """What truth has said, a row a lead and forecast band: of a run, and of its model; see :class:`LeadFacts`."""

    met: tuple[ErrorRow, ...] = ()
    usual: tuple[ErrorRow, ...] = ()


NOTHING = Skill()


def run_facts(run: PublishedRun, newest: PublishedRun | None, skill: Skill = NOTHING) -> RunFacts:
    """What is known of a run.

    Args:
        run: the run; its quality files are read.
        newest: of the product.
        skill: what truth has said of it.

    Raises:
        RasterioError: a quality file cannot be read.
    """
    manifest = json.loads((run.path / MANIFEST).read_text(encoding="utf-8"))
    filled = manifest.get("climatology")
    model = _model(run)
    quality = {lead: _quality(run, lead) for lead in sorted(run.leads)}
    return RunFacts(
        product=run.product,
        init=run.init,
        created=run.created,
        run_key=run.run_key,
        path=str(run.path),
        newest=newest is not None and run.run_key == newest.run_key,
        model=model,
        source=run.model.source,
        snapshot=run.snapshot,
        code_version=manifest["code_version"],
        scenes=run.scenes,
        quantities=run.quantities,
        bands=run.bands,
        rungs=_mean_shares([one.rungs for one in quality.values()]),
        leads=tuple(
            LeadFacts(lead, run.init + lead * _MINUTE, *quality[lead], _at(skill.met, lead), _at(skill.usual, lead))
            for lead in quality
        ),
        useful=usefulness_of(manifest),
        yielded=run.yielded,
        probabilities=run.chances,
        why=manifest.get("rung", {}).get("why", ""),
        climatology=f"{filled['reason']}: {', '.join(filled['scenes'])}" if filled else "",
    )


def skill_of(settings: Settings, run: PublishedRun) -> Skill:
    """What truth has said of a run, and of its model, so far."""
    folder, bands = settings.paths.verification, outlet(settings).bands
    own = load(page(folder, run.run_key, run.init))
    upto = recent(folder, _model(run), run.init + _MINUTE, USUAL)
    return Skill(*(tuple(tabulate(found, bands)) if found else () for found in ([own] if own else [], upto)))


def _model(run: PublishedRun) -> str:
    return f"{run.model.name} {run.model.version}"


class _Quality(NamedTuple):
    rungs: dict[str, float]
    oldest: int | None
    middle: int | None


def _quality(run: PublishedRun, lead: int) -> _Quality:
    sources, ages = read_dn(quality_path(run.leads[lead]))
    known = ages[ages != UNKNOWN]
    shares = rung_shares(sources.astype(np.uint8))
    if not known.size:
        return _Quality(shares, None, None)
    return _Quality(shares, int(known.max()), int(np.median(known)))


def _mean_shares(leads: Iterable[dict[str, float]]) -> dict[str, float]:
    """Over all leads, the greatest first."""
    every = list(leads)
    names = {name for shares in every for name in shares}
    means = {name: sum(shares.get(name, 0.0) for shares in every) / len(every) for name in sorted(names)}
    return dict(sorted(means.items(), key=lambda one: -one[1]))


def _at(rows: Iterable[ErrorRow], lead: int) -> tuple[ErrorRow, ...]:
    return tuple(row for row in rows if row.lead_minutes == lead)


def portrait_of(settings: Settings, run: PublishedRun) -> Portrait:
    """What a picture of a run shows; what it saw is read from the cube, all else from its files.

    Raises:
        StoreError: there is no cube.
        NotEnoughFramesError: the cube does not have the run's scenes any more.
    """
    cube = _cube(settings, run)
    band = next(one for one in cube.layout.bands if one.name == run.bands[0])
    seen = inputs(settings, run, cube)
    leads = sorted(run.leads)
    said = np.stack([run.read(lead)[..., :1] for lead in leads])
    answer = Answer.of(said, run.quantities)
    sources = np.stack([run.source(lead) for lead in leads])
    episode = Episode(
        product=settings.product.title or settings.product.name,
        band=band.name,
        units=band.units,
        model=f"{run.model.name} {run.model.version}",
        attribution=settings.product.attribution,
        init=run.init,
        cadence=cube.layout.axis.cadence,
        acquired=tuple(from_seconds(time) for time in seen.times[0]),
        context=seen.values[0, ..., cube.layout.bands.index(band)],
        forecast=answer.median[..., 0],
        interval=None if answer.interval is None else _interval(answer.interval, sources),
    )
    manifest = json.loads((run.path / MANIFEST).read_text(encoding="utf-8"))
    useful = usefulness_of(manifest).get(band.name)
    minutes = None if useful is None else useful.minutes
    likelihood = _likelihood(run, band.name, sources == Source.NETWORK)
    return Portrait(episode, sources, cube.layout.grid, run.created, run.snapshot, minutes, likelihood)


def _likelihood(run: PublishedRun, band: str, own: NDArray[np.bool_]) -> Likelihood | None:
    """Of the rarest event that is likely on pixels enough to be seen, else of the commonest; None where none is.

    NaN beyond ``own``, ``(lead, y, x)``: elsewhere a rung without an interval says 0 or 1.
    """
    events = sorted((one for one in run.chances if one.band == band), key=lambda one: one.threshold)
    found = None
    for event in events if events and events[0].below else events[::-1]:
        layers = np.stack([run.probability(lead, band, event.threshold) for lead in sorted(run.leads)])
        found = Likelihood(event.words, np.where(own, layers, np.float32(np.nan)))
        if np.sum(found.layers >= LIKELY) >= SEEN * np.isfinite(found.layers).sum():
            break
    return found


def _interval(ends: tuple[NDArray[np.float32], NDArray[np.float32]], sources: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(2, lead, y, x)``; NaN where a rung without an interval filled all bands with its one value."""
    low, high = (end[..., 0] for end in ends)
    single = (low == high) & (sources != Source.NETWORK)
    return np.where(single, np.float32(np.nan), np.stack([low, high]))


def _cube(settings: Settings, run: PublishedRun) -> Cube:
    """As the run had it; where that snapshot is gone, the newest one, which has its scenes, too."""
    store = store_of(settings)
    try:
        return open_cube(store, snapshot=run.snapshot)
    except StoreError:
        return open_cube(store)
