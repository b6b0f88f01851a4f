"""Tells MLflow about a training while it goes on; whether MLflow listens is of no concern to the training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

from models.delivery import RefusedError
from models.journal import Status
from models.meter import sampled
from models.trainings import Registered, Training
from pipeline.errors import CubecastError, Interrupted

if TYPE_CHECKING:
    from models.prediction import Card

BREATH = 1.0  # seconds between two deliveries, so that many small entries travel together
PAUSE = 2.0  # seconds after a failure, doubled after each further one
LONGEST_PAUSE = 60.0
HASTE = 5.0  # seconds that a training that was stopped waits at most: whoever stopped it wants an end

Notice = Callable[[str], None]


class Recipient(Protocol):
    """Who is told; see :class:`models.registry.Registry`."""

    @property
    def patience(self) -> float:
        """Seconds that a finished training waits for the delivery at most."""
        ...

    def deliver(self, training: Training) -> None:
        """Tells what waits."""
        ...

    def expect_model(self) -> None:
        """Does in this thread what a model's delivery needs and no two threads may do at once."""
        ...


class Courier:
    """Delivers in a thread of its own, again and again, and outlives every failure."""

    def __init__(self, deliver: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        self._deliver = deliver
        self._failed = failed
        self._news = Event()
        self._closing = Event()
        self._thread = Thread(target=self._work, name="courier", daemon=True)

    def start(self) -> None:
        """Begins with what waits already."""
        self._thread.start()

    def news(self) -> None:
        """There is something to deliver."""
        self._news.set()

    def close(self, patience: float) -> None:
        """Lets it deliver what waits, once more, for ``patience`` seconds at most."""
        self._closing.set()
        self._news.set()
        self._thread.join(patience)

    def _work(self) -> None:
        failures = 0
        while True:
            self._news.clear()
            last = self._closing.is_set()  # in this order: news of a close between the two would be lost
            failures = 0 if self._succeeds() else failures + 1
            if last:
                return
            if failures:
                self._closing.wait(min(PAUSE * 2**failures, LONGEST_PAUSE))
            else:
                self._news.wait()
                self._closing.wait(BREATH)

    def _succeeds(self) -> bool:
        try:
            self._deliver()
        except Exception as error:  # noqa: BLE001 - whatever it is, it stays here: no outage stops a training
            self._failed(error)
            return False
        return True


class Record:
    """What a training says of itself; a :class:`models.training.Tracker`."""

    def __init__(self, recipient: Recipient, training: Training, told: Callable[[], None]) -> None:
        self._recipient = recipient
        self._training = training
        self._told = told

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Settings and facts that hold for the whole run."""
        self._training.journal.parameters(values)
        self._told()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an epoch or a lead; infinities and NaN are left out, MLflow keeps them as huge numbers."""
        self._training.journal.metrics(values, step)
        self._told()

    def artifact(self, path: Path, folder: str) -> None:
        """A file to keep."""
        self._training.journal.artifact(path, folder)
        self._told()

    def register(self, model: Any, card: Card, *, good: bool) -> None:
        """The model, which is registered when MLflow listens; the first good one becomes champion."""
        self._recipient.expect_model()
        self._training.journal.model(model, card.to_json(), good=good)
        self._told()

    @property
    def registered(self) -> Registered | None:
        """The model version; None while it waits for MLflow."""
        return self._training.delivered.registered


@contextmanager
def recorded(
    recipient: Recipient,
    training: Training,
    name: str,
    *,
    others: Sequence[Training] = (),
    notice: Notice | None = None,
) -> Iterator[Record]:
    """Keeps the record of a training, and tells MLflow as far as it listens.

    At the end, the status says how the block was left: FINISHED, KILLED (Interrupted, Ctrl-C, an exit) or FAILED.

    Args:
        recipient: who is told.
        training: whose record it is.
        name: of the run.
        others: trainings of which something waits, told once.
        notice: gets one line when MLflow does not answer; default: a warning in the log.

    Raises:
        CubecastError: the disk is full.
    """
    if any(one.has_model_waiting for one in [training, *others]):
        recipient.expect_model()
    outage = _Outage(training, notice or logging.getLogger("cubecast.tracking").warning)
    courier = Courier(_round(recipient, training, others, outage), outage.tell)
    training.journal.status(Status.RUNNING, name=name)
    courier.start()
    try:
        with sampled(training.journal, told=courier.news):
            yield Record(recipient, training, courier.news)
    except BaseException as error:
        with suppress(CubecastError):  # the disk is full: what the training has to say about it counts
            training.journal.status(_status(error), note=_reason(error))
        courier.close(min(HASTE, recipient.patience))
        raise
    training.journal.status(Status.FINISHED)
    courier.close(recipient.patience)


def _round(recipient: Recipient, training: Training, others: Sequence[Training], outage: _Outage) -> Callable[[], None]:
    left = list(others)

    def deliver() -> None:
        recipient.deliver(training)
        while left:
            other = left.pop()
            try:
                recipient.deliver(other)
            except Exception as error:  # noqa: BLE001 - that of another training is no outage of this one's
                outage.of(other).tell(error)

    return deliver


class _Outage:
    """Speaks once of a failure, however long it lasts."""

    def __init__(self, training: Training, notice: Notice) -> None:
        self._training = training
        self._notice = notice
        self._said = False

    def of(self, other: Training) -> _Outage:
        """The same of another training, that has ended."""
        return _Outage(other, self._notice)

    def tell(self, error: Exception) -> None:
        """Passes on the first failure."""
        if self._said:
            return
        self._said = True
        reason = _reason(error) if isinstance(error, RefusedError) else _reason(error).partition(": ")[0]
        where = f"its record waits in {self._training.folder}: cubecast tracking sync"
        what = "the training goes on, " if self._training.alive else ""
        self._notice(f"{reason}; {what}{where}")


def _status(error: BaseException) -> Status:
    """What is no Exception is somebody's order to stop: Ctrl-C, an exit, Prefect's cancellation."""
    failed = isinstance(error, Exception) and not isinstance(error, Interrupted)
    return Status.FAILED if failed else Status.KILLED


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
