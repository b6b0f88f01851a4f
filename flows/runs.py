"""How every flow runs: names, retries, timeouts, and progress in the run's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flows.watching import progress_watcher, training_watcher
from pipeline.errors import CubecastError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import State

    from models.experiment import Watcher

FLOW_TIMEOUT: Final = 6 * 3600  # seconds
TASK_TIMEOUT: Final = 2 * 3600


def may_pass(task: Task, run: TaskRun, state: State) -> bool:
    """Whether another try can help: not where the user has to mend something."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, CubecastError)


QUICK: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": may_pass,
    "timeout_seconds": TASK_TIMEOUT,
    "persist_result": False,
}
"""Idempotent and quick: tried again."""

ONCE: Final[dict[str, Any]] = {"retries": 0, "timeout_seconds": FLOW_TIMEOUT, "persist_result": False}
"""Long and costly: a second try is a person's decision."""


def run_name() -> str:
    """Name of a flow run: the product's configuration, so that a list of runs can be read."""
    from prefect.runtime import flow_run

    config = flow_run.parameters.get("config")
    return f"{flow_run.flow_name} {getattr(config, 'stem', config)}"


def log_progress(what: str) -> Callable[[int, int], None]:
    """Progress as lines of the run's log, or to whoever watches."""
    from prefect.logging import get_run_logger

    log = get_run_logger()
    return progress_watcher.get() or (lambda done, total: log.info("%d of %d %s", done, total, what))


def log_watcher() -> Watcher:
    """A training's progress as lines of the run's log: each phase, and each epoch's last step."""
    from prefect.logging import get_run_logger

    from models.experiment import Watcher
    from models.training import Progress

    log = get_run_logger()

    def step(at: Progress) -> None:
        if at.step == at.steps:
            log.info("epoch %d of %d, loss %.4f", at.epoch, at.epochs, at.loss)

    return training_watcher.get() or Watcher(phase=lambda name: log.info("%s", name), step=step)
