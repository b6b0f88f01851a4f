"""What can be done about the record of trainings, one function a verb, as in :mod:`flows.verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.quiet import native_silence

if TYPE_CHECKING:
    from models.registry import Registry
    from models.trainings import Training


@dataclass(frozen=True, slots=True)
class Tracked:
    """A training, and how much of it MLflow knows.

    ``waiting``: entries that MLflow was not told. ``model``: its version in the registry, empty where there is none.
    """

    id: str
    started: datetime
    state: str
    epochs: int
    note: str
    run_id: str
    waiting: int
    model: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What MLflow was told of one training. ``fault``: why it does not take the rest."""

    id: str
    entries: int
    run_id: str
    model: str
    champion: bool
    fault: str


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of a sync.

    ``died``: trainings whose process died without a word, now told as killed. ``forgotten``: ids of old ones, deleted.
    """

    sent: tuple[Sent, ...]
    died: tuple[str, ...]
    forgotten: tuple[str, ...]


def status(config: Path) -> tuple[Tracked, ...]:
    """Every training that has left a record here, newest first.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    from models.trainings import Trainings
    from pipeline.config import load

    return tuple(map(_tracked, Trainings(load(config).paths.trainings).all()))


def sync(config: Path) -> Synced:
    """Tells MLflow all that it does not know yet, and registers the models that wait.

    Raises:
        ConfigError: the configuration cannot be read.
        ServiceError: MLflow does not answer.
    """
    from models.trainings import Trainings
    from pipeline.config import load

    settings = load(config)
    trainings = Trainings(settings.paths.trainings)
    died = tuple(one.id for one in trainings.sweep())
    waiting = trainings.waiting()
    if not waiting:
        return Synced((), died, tuple(trainings.forget()))
    with native_silence():
        from models.registry import open_registry

        registry = open_registry(settings)
        if any(one.has_model_waiting for one in waiting):
            registry.expect_model()
    sent = tuple(_send(registry, one) for one in waiting)
    return Synced(sent, died, tuple(trainings.forget()))


def _send(registry: Registry, training: Training) -> Sent:
    from models.delivery import RefusedError

    before, fault = training.waiting, ""
    try:
        registry.deliver(training)
    except RefusedError as error:
        fault = str(error)
    known = training.delivered
    champion = known.registered is not None and known.registered.champion
    return Sent(training.id, before - training.waiting, known.run_id, _model(training), champion, fault)


def _tracked(training: Training) -> Tracked:
    epochs = training.journal.next_step("loss")
    state, run = training.state.value, training.delivered.run_id
    return Tracked(training.id, training.started, state, epochs, training.note, run, training.waiting, _model(training))


def _model(training: Training) -> str:
    registered = training.delivered.registered
    return f"{registered.name} {registered.version}" if registered else ""
