"""Fit a network to chips: best weights by validation, within budgets; stopped anywhere, it goes on where it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Checkpoints, Fingerprint, State
from models.devices import Engine, engine
from models.losses import MaskedLoss, loss_of
from models.networks import NetworkSpec, build
from models.optimisation import Arrays, Optimisation, make_optimizer
from models.pace import Clock, Pace, Stop
from models.seeds import deterministic, seeded
from models.validation import Judge, forecast_alone, inputs_of, skill
from pipeline.chips import Chips
from pipeline.errors import Interrupted, ModelError
from pipeline.normalise import Statistics
from pipeline.specs import TrainingSpec


class Reader(Protocol):
    """Where batches come from."""

    def read(self, step: int) -> Chips:
        """The batch of a step, always the same."""
        ...


class Tracker(Protocol):
    """Where a training writes its record; it does not know what stands behind."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Settings and facts that hold for the whole run."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an epoch or a lead."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """A file to keep."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: the running one, from 1.
        epochs: at most.
        step: of the epoch, from 1.
        steps: of an epoch.
        loss: of the step.
        rate: chips a second of wall time, smoothed; 0 in the first step, which compiles the network.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network.

    Attributes:
        model: in float32, with the weights of its best epoch.
        history: one entry an epoch: ``loss``, ``val_loss``, ``val_skill``, the part of the extrapolation's squared
            error that it takes away on the validation chips, and ``learning_rate``.
    """

    model: Any
    history: tuple[dict[str, float], ...]

    @property
    def best(self) -> dict[str, float]:
        """The epoch whose weights were kept."""
        return min(self.history, key=lambda epoch: epoch["val_loss"])


def fit(  # noqa: PLR0913 - the others are options, by keyword only
    network: NetworkSpec,
    spec: TrainingSpec,
    training: Reader,
    validation: Sequence[Chips],
    tracker: Tracker,
    *,
    checkpoints: Checkpoints | None = None,
    statistics: Statistics | None = None,
    initial: Arrays | None = None,
    progress: Callable[[Progress], None] | None = None,
    limit: timedelta | None = None,
) -> Fitted:
    """Trains a network until its epochs, its budgets or our patience end.

    Called again with the same arguments after it was stopped, it ends with the bytes and the history that it would have
    had, on the same device. A training that had ended is not trained again.

    Args:
        network: its shape.
        spec: how to train.
        training: where chips are drawn from; the same step gives the same batch.
        validation: the chips that watch, always the same.
        tracker: told the metrics of each epoch; an epoch that a crash made us repeat is told again.
        checkpoints: where the state is kept; without, a training that is stopped is lost.
        statistics: of the forecast bands, for the scale that they are learned on; None: on their own.
        initial: weights to begin with, in the order of the network's own, measured before the first epoch and kept
            where nothing is better; None: those of the seed.
        progress: told each step.
        limit: wall time of this call, at most; one step is always made.

    Raises:
        ConfigError: ``spec.devices`` are not there, or cannot share a batch evenly.
        Interrupted: SIGINT, SIGTERM or ``limit`` stopped it; its state is in ``checkpoints``.
        ModelError: the training diverges, or ``checkpoints`` are those of other settings or data.
        NotEnoughFramesError: no pixel of the validation chips can be scored.
    """
    fingerprint = {} if checkpoints is None else _fingerprint(network, spec, training, validation, initial)
    state = None if checkpoints is None else checkpoints.resume(fingerprint)
    loss = loss_of(network.quantile_levels, statistics)
    judge = Judge.over(validation, network, loss)
    if state is None or not state.finished:
        with Stop(limit) as stop:
            optimisation = Optimisation(_engine(network, spec, loss, initial), spec)
            parts = spec, training, judge, tracker, optimisation, checkpoints, progress, fingerprint
            course = _Course(*parts, given=initial is not None)
            if state is not None:
                course.restore(state)
            state = course.run(stop)
    judge.network.set_weights(state.arrays["best"])
    return Fitted(judge.network, state.history)


def _engine(network: NetworkSpec, spec: TrainingSpec, loss: MaskedLoss, initial: Arrays | None) -> Engine:
    """A network on its devices, which nothing has been learned by yet, or by ``initial``."""
    deterministic(spec.seed)
    weights = initial or seeded(spec.seed, lambda: build(network)).get_weights()
    share = {"devices": spec.devices, "batch": spec.batch}
    return engine(lambda: forecast_alone(_built(network, spec.precision, weights)), make_optimizer, loss, **share)


def _built(network: NetworkSpec, precision: str, weights: Arrays) -> Any:
    model: Any = build(network) if precision == "float32" else build(network, precision)
    model.set_weights(weights)
    return model


def _fingerprint(
    network: NetworkSpec,
    spec: TrainingSpec,
    training: Reader,
    validation: Sequence[Chips],
    initial: Arrays | None,
) -> Fingerprint:
    """What the end of a training depends on; how often its state is kept is no part of that."""
    chips = hashlib.sha256(b"".join(one.tobytes() for one in initial or ()))
    for one in (training.read(0), *validation):
        for array in (getattr(one, part.name) for part in fields(one)):
            chips.update(b"" if array is None else array.tobytes())
    return {
        **{f"network.{name}": value for name, value in network.as_dict().items()},
        **{f"training.{name}": value for name, value in spec.model_dump(mode="json", exclude={"checkpoint"}).items()},
        "backend": keras.backend.backend(),
        "chips": chips.hexdigest()[:16],
    }


@dataclass(slots=True)
class _Course:
    """A training on its way: what it was given, and how far it is."""

    spec: TrainingSpec
    reader: Reader
    judge: Judge
    tracker: Tracker
    optimisation: Optimisation
    checkpoints: Checkpoints | None
    progress: Callable[[Progress], None] | None
    fingerprint: Fingerprint
    given: bool
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=Pace)
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False
    saved: float = field(default_factory=time.monotonic)

    def run(self, stop: Stop) -> State:
        """Trains to the end, and returns it.

        Raises:
            Interrupted: it was stopped.
        """
        if self.given and not self.history:
            self._validate()
            self.finished = self._enough()
        while not self.finished:
            self._epoch(stop)
            self.finished = self._enough()
            self._heed(stop, due=True)
        return self._state()

    @property
    def epochs(self) -> int:
        """How many are over; the entry of weights that were given is none."""
        return len(self.history) - (self.given and bool(self.history))

    def _enough(self) -> bool:
        losses = [entry["val_loss"] for entry in self.history]
        waited = len(losses) - 1 - int(np.argmin(losses))
        return self.epochs >= self.spec.epochs or waited >= self.spec.patience or self.clock.over(self.spec)

    def _epoch(self, stop: Stop) -> None:
        """The steps that are left of the running epoch, then its validation."""
        end = (self.epochs + 1) * self.spec.steps_per_epoch
        self.pace.start()
        with closing(_batches(self.reader, self.judge.spec.patch, range(self.optimisation.steps, end))) as batches:
            for batch in batches:
                self._step(batch)
                if self.clock.over(self.spec):
                    break
                self._heed(stop)
        self._validate()

    def _step(self, batch: Batch) -> None:
        self.losses.append(self.optimisation.step(batch.inputs, batch.targets))
        self.pace.step(self.spec.batch)
        if self.progress is not None:
            of_epoch = self.optimisation.steps - self.epochs * self.spec.steps_per_epoch
            epoch = self.epochs + 1, self.spec.epochs
            self.progress(Progress(*epoch, of_epoch, self.spec.steps_per_epoch, self.losses[-1], self.pace.rate))

    def _validate(self) -> None:
        verdict = self.judge.measure(self.optimisation.weights)
        loss = float(np.mean(self.losses)) if self.losses else verdict.loss
        _refuse_divergence(loss, verdict.loss, self.epochs)
        val_skill = skill(verdict.squared, self.judge.reference)
        entry = {"loss": loss, "val_loss": verdict.loss, "val_skill": val_skill}
        entry["learning_rate"] = self.optimisation.rate
        self.history.append(entry)
        self.losses = []
        told = {**entry, "chips_per_second": self.pace.mean, "cpu_seconds": self.clock.cpu}
        self.tracker.metrics(told, len(self.history) - 1)

    def _heed(self, stop: Stop, *, due: bool = False) -> None:
        """Between two steps: stops where that was asked for, keeps the state where that is due."""
        reason = stop.reason
        if due or reason or time.monotonic() - self.saved >= self.spec.checkpoint.total_seconds():
            self._save()
        if reason and not (self.finished and self.checkpoints is None):  # what is finished is given back or kept
            at = f"step {self.optimisation.steps} of {self.spec.epochs * self.spec.steps_per_epoch}"
            rest = "nothing was kept" if self.checkpoints is None else "the same command goes on from there"
            msg = f"the training was stopped at {at} by {reason}: {rest}"
            raise Interrupted(msg)

    def _save(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(self._state())
        self.saved = time.monotonic()

    def _state(self) -> State:
        return State(
            self.fingerprint,
            {**self.optimisation.arrays(), "best": self.judge.best},
            self.optimisation.numbers(),
            tuple(self.losses),
            tuple(self.history),
            self.clock.wall,
            self.clock.cpu,
            self.finished,
        )

    def restore(self, state: State) -> None:
        """Goes on from a state."""
        self.optimisation.restore(state.arrays, state.numbers)
        self.judge.best = state.arrays["best"]
        self.judge.least = min((entry["val_loss"] for entry in state.history), default=np.inf)
        self.losses, self.history = list(state.losses), list(state.history)
        self.clock = Clock(state.wall, state.cpu)
        self.finished = state.finished


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step trains on."""

    inputs: dict[str, NDArray[np.float32]]
    targets: NDArray[np.float32]


def _batches(reader: Reader, patch: int, steps: range) -> Generator[Batch]:
    """Those of the steps; the next one is read while the one before trains."""

    def read(step: int) -> Batch:
        chips = reader.read(step)
        return Batch(inputs_of(chips, patch), chips.targets)

    with ThreadPoolExecutor(1) as pool:
        upcoming = [pool.submit(read, step) for step in steps[:1]]
        for step in steps:
            batch = upcoming.pop().result()
            upcoming += [pool.submit(read, step + 1)] if step + 1 in steps else []
            yield batch


def _refuse_divergence(loss: float, val_loss: float, epoch: int) -> None:
    if not np.isfinite([loss, val_loss]).all():
        msg = (
            f"losses stay finite, but epoch {epoch + 1} ended with {loss:.3g} on training and {val_loss:.3g} on "
            "validation chips: lower training.learning_rate"
        )
        raise ModelError(msg)
