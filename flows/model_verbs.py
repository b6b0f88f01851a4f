"""What can be done about the versions of a product's model, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.quiet import native_silence

if TYPE_CHECKING:
    from models.experiment import Watcher
    from models.history import Entry
    from models.registry import Listed, Registry
    from models.retraining import Compared, Settled
    from pipeline.config import Settings
    from pipeline.metrics import ErrorRow
    from pipeline.verify import Rival

SKILL = "test_skill_"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A version of the model.

    ``good``: it beats both baselines; None: not known. ``skills``: part of each baseline's squared error that it takes
    away over its test part. ``ruling``: what the gate said of it last. ``promoted``: when it became champion, and why.
    """

    version: str
    roles: tuple[str, ...]
    created: datetime
    run_id: str
    snapshot: str
    good: bool | None
    skills: dict[str, float]
    ruling: str
    promoted: str


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the promotion history: what happened to which version, and who served before and after."""

    time: datetime
    step: str
    version: str
    before: str | None
    champion: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Every version, newest first, and the promotion history, oldest first."""

    product: str
    versions: tuple[VersionLine, ...]
    history: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class LeadDifference:
    """Error at one lead relative to the rival's, minus 1, and its interval."""

    lead_minutes: int
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A version held against the champion, or, where nobody serves, against the best baseline.

    ``champion``: None: nobody served. ``decision``: ``promote``, ``keep as challenger`` or ``insufficient evidence``.
    ``conditions``: name, whether it is met, why. ``wanted``: init times that would show a gain of ``models.gain``.
    ``table``: errors by lead over the same init times.
    """

    product: str
    version: str
    champion: str | None
    rival: str
    decision: str
    promotes: bool
    conditions: tuple[tuple[str, bool, str], ...]
    estimate: float
    low: float
    high: float
    leads: tuple[LeadDifference, ...]
    inits: int
    blocks: int
    wanted: int
    snapshot: str
    table: tuple[ErrorRow, ...]


@dataclass(frozen=True, slots=True)
class Promoted:
    """A version that serves now, instead of ``before``; ``step``: promoted, forced or rolled back."""

    product: str
    step: str
    champion: str
    before: str | None
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of a retraining.

    ``version`` is empty while MLflow does not answer. ``decision``: of the gate; ``not compared`` where the versions
    could not be held against each other. ``champion``: who serves at the end; None: nobody. ``why``: it was asked for.
    """

    product: str
    training: str
    version: str
    run_id: str
    snapshot: str
    good: bool
    promoted: bool
    decision: str
    champion: str | None
    reasons: tuple[str, ...]
    wanted: int
    why: str
    test: tuple[ErrorRow, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """How the probation of a champion stands: who is watched by whom, over how many runs of how many.

    ``estimate``: error of the champion relative to its predecessor's, minus 1, with its interval; None: not known yet.
    ``alarm``: what to do where the predecessor does better; empty: nothing.
    """

    product: str
    champion: str
    previous: str
    runs: int
    wanted: int
    estimate: float | None
    low: float | None
    high: float | None
    alarm: str


def listing(config: Path) -> Listing:
    """Every version of the product's model, and what happened to them.

    Raises:
        ConfigError: the configuration cannot be read.
        ServiceError: MLflow does not answer.
    """
    settings, registry = _opened(config)
    lines = tuple(map(_line, registry.listed()))
    return Listing(settings.product.name, lines, tuple(map(_change, registry.history.entries())))


def compare(config: Path, version: str, *, progress: Progress | None = None) -> Comparison:
    """Holds a version against the champion; changes nothing but the record of that version.

    Raises:
        CubecastError: there is no such version, or it cannot be compared; the text says what to do.
    """
    settings, registry = _opened(config)
    with native_silence():
        from models.retraining import compare as run

    return _comparison(settings, run(settings, registry, version, progress=progress))


def promote(
    config: Path, version: str, *, force: bool = False, reason: str = "", progress: Progress | None = None
) -> Promoted:
    """Makes a version champion if the gate lets it through; with ``force`` and a reason, whatever the gate says.

    Raises:
        CubecastError: the gate says no, and why; or the champion has changed meanwhile.
    """
    settings, registry = _opened(config)
    with native_silence():
        from models import retraining

    if force:
        entry = retraining.force(settings, registry, version, reason)
    else:
        _, entry = retraining.promote(settings, registry, version, progress=progress)
    return _told(settings, entry)


def rollback(config: Path, reason: str) -> Promoted:
    """Lets the champion's predecessor serve again.

    Raises:
        CubecastError: there is none, or it does not fit the product any more.
    """
    settings, registry = _opened(config)
    with native_silence():
        from models.retraining import roll_back

    return _told(settings, roll_back(settings, registry, reason))


def retrain(  # noqa: PLR0913 - options, by keyword only
    config: Path,
    *,
    start: str = "auto",
    warm: bool = False,
    force: bool = False,
    reason: str = "",
    why: str = "",
    watcher: Watcher | None = None,
) -> Retrained:
    """Trains a challenger as of now, holds it against the champion, and promotes it if the gate lets it through.

    Args:
        config: TOML file of the product.
        start: ``auto``, ``resume`` or ``fresh``; see :class:`models.start.Start`.
        warm: its weights start from the champion's.
        force: it is promoted whatever the gate says.
        reason: of the force.
        why: it is asked for, for the record.
        watcher: told how it goes on.

    Raises:
        CubecastError: as :func:`flows.verbs.train`; or another training of the product runs.
    """
    from models.trainings import Trainings
    from pipeline.config import load

    settings = load(config)
    with native_silence():
        from models.registry import open_registry
        from models.retraining import Wish
        from models.retraining import retrain as run
        from models.start import Start

    wish, registry = Wish(Start(start), warm, force, reason), open_registry(settings, now=False)
    with Trainings(settings.paths.trainings).alone():
        settled = run(settings, registry, wish, watcher=watcher)
    done = _retrained(settings, settled, why)
    if settled.promoted and settled.entry is not None:
        _told(settings, settled.entry, version=done.version, why=why)
    return done


def probation(config: Path) -> Watched | None:
    """How the probation of the champion stands after the newest scores; None where nobody is on probation.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    from models.history import History
    from pipeline.config import load

    settings = load(config)
    history = History(settings.paths.promotions)
    if not history.entries():
        return None
    with native_silence():
        from models.probation import probation as run

    found = run(settings, history, config)
    if found is None:
        return None
    numbers = (None, None, None) if found.found is None else (found.found.estimate, found.found.low, found.found.high)
    watch = found.watch
    return Watched(
        settings.product.name, watch.champion, watch.previous, found.runs, found.wanted, *numbers, alarm=found.alarm
    )


def rival(settings: Settings) -> Rival | None:
    """The champion's predecessor, for a verification to ask beside it; None where nobody is on probation.

    Nothing is loaded before it is asked, and nothing heavy imported where nobody is.
    """
    from models.history import History

    history = History(settings.paths.promotions)
    if not history.entries():
        return None
    with native_silence():
        from models.probation import rival as run
        from models.registry import open_registry

    return run(settings, open_registry(settings, now=False), history)


def _opened(config: Path) -> tuple[Settings, Registry]:
    from pipeline.config import load

    settings = load(config)
    with native_silence():
        from models.registry import open_registry

    return settings, open_registry(settings)


def _line(one: Listed) -> VersionLine:
    skills = {key.removeprefix(SKILL): value for key, value in one.metrics.items() if key.startswith(SKILL)}
    good = bool(one.metrics["good"]) if "good" in one.metrics else None
    said = [one.tags.get(f"cubecast.{name}", "") for name in ("ruling", "promoted")]
    return VersionLine(one.version, one.aliases, one.created, one.run, one.snapshot, good, skills, *said)


def _change(entry: Entry) -> Change:
    return Change(entry.time, entry.step.value, entry.version, entry.before, entry.champion, entry.reason)


def _comparison(settings: Settings, found: Compared) -> Comparison:
    ruling, overall = found.ruling, found.ruling.overall
    leads = tuple(
        LeadDifference(minutes, one.estimate, one.low, one.high)
        for minutes, one in zip(ruling.minutes, ruling.leads, strict=True)
    )
    return Comparison(
        settings.product.name,
        found.version,
        found.champion,
        ruling.rival,
        ruling.decision.value,
        ruling.promotes,
        tuple((one.name, one.met, one.reason) for one in ruling.conditions),
        overall.estimate,
        overall.low,
        overall.high,
        leads,
        overall.inits,
        overall.blocks,
        ruling.wanted,
        found.held.snapshot,
        found.held.rows,
    )


def _told(settings: Settings, entry: Entry, **more: Any) -> Promoted:
    """The change as a summary, which the server is told, too."""
    from flows.events import MODEL_PROMOTED, emit

    done = Promoted(
        settings.product.name, entry.step.value, str(entry.champion), entry.before, entry.reason, entry.time
    )
    payload: Mapping[str, Any] = asdict(done) | {"evidence": dict(entry.evidence)} | more
    emit(MODEL_PROMOTED, settings.product.name, payload)
    return done


def _retrained(settings: Settings, settled: Settled, why: str) -> Retrained:
    outcome, compared, entry = settled.outcome, settled.compared, settled.entry
    registered = outcome.registered
    return Retrained(
        settings.product.name,
        outcome.training,
        registered.version if registered else "",
        registered.run_id if registered else "",
        outcome.snapshot,
        outcome.good,
        settled.promoted,
        "not compared" if compared is None else compared.ruling.decision.value,
        None if entry is None else entry.champion,
        settled.reasons,
        0 if compared is None else compared.ruling.wanted,
        why,
        tuple(outcome.table(settings)),
    )
