"""One training from cube to registered model: prepare, fit, score, explain, record; stopped, it goes on from there."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from models.appraisal import beats_baselines, complete_tests, mean_skills, score, scored
from models.beginning import assured, begin
from models.checkpoint import Checkpoints
from models.courier import Record, recorded
from models.exhibit import write_exhibits
from models.material import Basis, Material, Plan, plan, prepare
from models.modelcard import Facts, write_card
from models.networks import Kind
from models.optimisation import Arrays
from models.prediction import Network
from models.registry import Registered, Registry
from models.seasons import learn_seasons
from models.start import Start, begun
from models.training import Fitted, Progress, Tracker, fit
from models.trainings import Training, Trainings
from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.errors import StoreError
from pipeline.evaluation import Scores
from pipeline.forecast import outlet
from pipeline.metrics import ErrorRow
from pipeline.store import CubeStore

EXHIBITS = "attention"
LEAKS = "leak-audit.json"
INITIAL = "initial.npz"


@dataclass(frozen=True, slots=True)
class Watcher:
    """Told how a training goes on; every part may be left out.

    Attributes:
        phase: told the name of each phase as it starts.
        prepared: told how many samples are aligned, of how many.
        step: told each training step.
        notice: told once when MLflow does not answer; default: a warning in the log.
    """

    phase: Callable[[str], None] | None = None
    prepared: Callable[[int, int], None] | None = None
    step: Callable[[Progress], None] | None = None
    notice: Callable[[str], None] | None = None

    def enter(self, name: str) -> None:
        """A phase starts."""
        if self.phase is not None:
            self.phase(name)


How = tuple[Watcher, timedelta | None, float]
"""Who is told, how long it may take, and when it began."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        training: its id; its folder lies under ``trainings/`` of the workspace.
        registered: the model version; None while MLflow does not answer: ``cubecast tracking sync`` registers it.
        history: one entry an epoch.
        scores: of model and baselines over the test part; None where no test sample is complete.
        snapshot: of the cube.
        good: worth publishing; see :func:`models.appraisal.beats_baselines`.
    """

    training: str
    registered: Registered | None
    history: tuple[dict[str, float], ...]
    scores: Scores | None
    snapshot: str
    good: bool

    def table(self, settings: Settings) -> list[ErrorRow]:
        """Errors over the test part by lead and band; empty where there are no scores."""
        return [] if self.scores is None else self.scores.rows(outlet(settings).bands, settings.axis.cadence)


def train(
    settings: Settings,
    registry: Registry,
    *,
    watcher: Watcher | None = None,
    start: Start = Start.AUTO,
    limit: timedelta | None = None,
    contends: bool = False,
) -> Outcome:
    """Trains the product's network and registers it.

    Args:
        settings: the product.
        registry: where it is recorded; it may be out of reach.
        watcher: told how it goes on.
        start: a new training on the newest snapshot, or one that was interrupted.
        limit: wall time after which it stops with a checkpoint, to be resumed.
        contends: it is to be held against the champion, and is none before that, however good and whoever serves.

    Raises:
        ConfigError: the grid is too small for the network's patches.
        Interrupted: a signal or the limit has stopped it; the same call goes on from there.
        LeakError: a part of the data would see what another must meet.
        ModelError: the training diverges, or there is none to resume.
        NotEnoughFramesError: the cube is too short.
        StoreError: there is no cube.
    """
    began, watcher = time.monotonic(), watcher or Watcher()
    store, trainings = store_of(settings), Trainings(settings.paths.trainings)
    trainings.sweep()
    with begun(settings, trainings, store, start) as training:
        store.tag(_tag(training.id), training.snapshot)  # expiry leaves alone what a model was made from
        if training.journal.statuses():
            watcher.enter(f"going on with the training {training.id}")
        cube = open_cube(store, snapshot=training.snapshot)
        others = [one for one in trainings.waiting() if one.id != training.id]
        with recorded(registry, training, f"train {cube.snapshot[:8]}", others=others, notice=watcher.notice) as record:
            planned = plan(settings, cube)
            _log_plan(record, planned)
            learn = _learn_seasons if settings.training.network == Kind.SEASONAL else _learn
            ground, fitted = learn(settings, planned, training, (record, registry), (watcher, limit, began))
            watcher.enter("calibrating intervals")
            network = assured(settings, ground, fitted.model)
            scores, good = _appraise(settings, ground, fitted, network, (record, watcher))
            _log_card(record, settings, training.id, (ground, fitted, network), (scores, good))
            watcher.enter("registering")
            record.register(fitted.model, network.card, good=good and not contends)
    trainings.forget(fruitless=lambda name: _untag(store, name))
    return Outcome(training.id, record.registered, fitted.history, scores, cube.snapshot, good)


def _learn(
    settings: Settings, planned: Plan, training: Training, record: tuple[Record, Registry], how: How
) -> tuple[Basis, Fitted]:
    """Single pixels, then chips of frames aligned along the motion."""
    tracker, registry = record
    watcher, limit, began = how
    watcher.enter("aligning frames along the motion")
    material = prepare(settings, planned, progress=watcher.prepared)
    _log_setup(tracker, settings, material)
    watcher.enter("training single pixels")
    initial = begin(settings, material, training.folder / INITIAL, registry)
    watcher.enter("training")
    return material, _fit(settings, material, training, tracker, initial, (watcher, _left(limit, began)))


def _learn_seasons(
    settings: Settings, planned: Plan, _training: Training, record: tuple[Record, Registry], how: How
) -> tuple[Basis, Fitted]:
    """Every pixel's own past; seconds, so it is not interrupted but begun anew."""
    tracker, _ = record
    how[0].enter("training on past years")
    ground, fitted = learn_seasons(settings, planned)
    _log_setup(tracker, settings, ground)
    tracker.metrics(fitted.best, step=0)
    return ground, fitted


def _left(limit: timedelta | None, began: float) -> timedelta | None:
    """What is left of the limit; never nothing, so that a step is made and the limit is what stops it."""
    if limit is None:
        return None
    return max(limit - timedelta(seconds=time.monotonic() - began), timedelta(microseconds=1))


def _tag(training: str) -> str:
    return f"training-{training}"


def _untag(store: CubeStore, training: str) -> None:
    """No model was made from its snapshot, which may expire."""
    with suppress(StoreError):
        store.untag(_tag(training))


def _fit(
    settings: Settings,
    material: Material,
    training: Training,
    tracker: Tracker,
    initial: Arrays | None,
    how: tuple[Watcher, timedelta | None],
) -> Fitted:
    watcher, limit = how
    network, spec = material.card.network, settings.training
    return fit(
        network,
        spec if network.recurs else spec.model_copy(update={"epochs": 0}),  # a head has learned all that it can
        material.training,
        material.validation,
        tracker,
        checkpoints=Checkpoints(training.checkpoints),
        statistics=material.card.statistics.of_bands(network.bands_out),
        initial=initial,
        progress=watcher.step,
        limit=limit,
    )


def _appraise(
    settings: Settings, material: Basis, fitted: Fitted, network: Network, told: tuple[Tracker, Watcher]
) -> tuple[Scores | None, bool]:
    """Scores over the test part, and whether they are good; told to the tracker, with one forecast shown."""
    tracker, watcher = told
    watcher.enter("scoring the test part")
    scores = score(settings, material, network)
    skills = mean_skills(scores)
    good = beats_baselines(fitted.best["val_skill"], skills)
    _log_scores(tracker, scores, settings)
    tracker.metrics({f"test_skill_{name}": value for name, value in skills.items()} | {"good": good}, step=0)
    watcher.enter("drawing attention maps")
    _log_exhibits(tracker, settings, material, network)
    return scores, good


def _log_exhibits(tracker: Tracker, settings: Settings, material: Basis, network: Network) -> None:
    """One forecast shown: the newest complete one of the test part that has anything to see, else of validation."""
    offered = [*complete_tests(material.split, material.cube)[::-1], *material.split.validation[::-1]]
    shown = next((one for one in offered if material.cube.read(one.context).validity.any()), None)
    if shown is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in write_exhibits(settings, network, material.cube, shown, Path(folder)):
            tracker.artifact(path, EXHIBITS)


def _log_plan(tracker: Tracker, planned: Plan) -> None:
    """The boundaries, and the audit's report: also of a split that is refused."""
    tracker.parameters({**planned.split.describe(), "snapshot": planned.cube.snapshot})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LEAKS
        path.write_text(json.dumps(planned.leaks.to_json(), indent=1) + "\n", encoding="utf-8")
        tracker.artifact(path, "split")


def _log_card(
    tracker: Tracker,
    settings: Settings,
    training: str,
    made: tuple[Basis, Fitted, Network],
    found: tuple[Scores | None, bool],
) -> None:
    """What is to be known of the version before it is used."""
    (ground, fitted, network), (scores, good) = made, found
    facts = Facts(
        settings,
        training,
        ground.plan,
        network.card,
        () if scores is None else tuple(scores.rows(outlet(settings).bands, settings.axis.cadence)),
        mean_skills(scores),
        fitted.best["val_skill"],
        int(fitted.model.count_params()),
        good,
        scored(settings, ground),
    )
    with tempfile.TemporaryDirectory() as folder:
        tracker.artifact(write_card(facts, Path(folder)), "")


def _log_setup(tracker: Tracker, settings: Settings, material: Basis) -> None:
    statistics = material.card.statistics
    parts = settings.model_dump(mode="json", include={"training", "samples", "motion", "covariates"})
    tracker.parameters(
        {
            **{f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()},
            "statistics.mean": statistics.mean,
            "statistics.deviation": statistics.deviation,
            "statistics.transforms": tuple(transform.kind for transform in statistics.transforms),
        }
    )


def _log_scores(tracker: Tracker, scores: Scores | None, settings: Settings) -> None:
    """One metric a predictor, measure and band; its step is the lead time in minutes."""
    rows = [] if scores is None else scores.rows(outlet(settings).bands, settings.axis.cadence)
    for row in rows:
        maes = {f"test_mae_{name}_{row.band}": value for name, value in row.mae.items()}
        rmses = {f"test_rmse_{name}_{row.band}": value for name, value in row.rmse.items()}
        held = {f"test_coverage_{name}_{row.band}": value for name, value in row.coverage.items()}
        tracker.metrics(maes | rmses | held, row.lead_minutes)
