"""How every flow runs: names, retries, timeouts, and progress in the run's log."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flows.heartbeat import prove_life
from flows.logs import keep_log
from flows.watching import progress_watcher, training_watcher
from pipeline.errors import CubecastError, ServiceError
from pipeline.times import stamp

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from models.experiment import Watcher

FLOW_TIMEOUT: Final = 8 * 3600  # seconds: a training of six hours, its turn that was waited for, its comparison
TASK_TIMEOUT: Final = 2 * 3600


def may_pass(task: Task, run: TaskRun, state: State) -> bool:
    """Whether another try can help: not where the user has to mend something, but a server may come back."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ServiceError) or not isinstance(error, CubecastError)


QUICK: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": may_pass,
    "timeout_seconds": TASK_TIMEOUT,
    "persist_result": False,
}
"""Idempotent and quick: tried again."""

LATER: Final[dict[str, Any]] = QUICK | {"retries": 0}
"""Idempotent and quick, and the next run of the flow tries it again."""

ONCE: Final[dict[str, Any]] = {"retries": 0, "timeout_seconds": FLOW_TIMEOUT - 600, "persist_result": False}
"""Long and costly: a second try is a person's decision."""


def run_name() -> str:
    """Name of a flow run, so that a list of runs can be read: the flow, the product, the init time of a hindcast."""
    from prefect.runtime import flow_run

    init = flow_run.parameters.get("init")
    words = (flow_run.flow_name, _product(Path(flow_run.parameters["config"])), stamp(init) if init else None)
    return " ".join(filter(None, words))


def _product(config: Path) -> str:
    """The product's name; the file's where it cannot be read, which the run itself will say better."""
    try:
        return str(tomllib.loads(config.read_text(encoding="utf-8"))["product"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return config.stem


FLOW: Final[dict[str, Any]] = {
    "flow_run_name": run_name,
    "on_running": [keep_log, prove_life],
    "timeout_seconds": FLOW_TIMEOUT,
    "persist_result": False,
}
"""Every flow: named, logged, and told from a dead one."""


def log_progress(what: str) -> Callable[[int, int], None]:
    """Progress as at most ten lines of the run's log, or to whoever watches."""
    from prefect.logging import get_run_logger

    log = get_run_logger()

    def step(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total:
            log.info("%d of %d %s", done, total, what)

    return progress_watcher.get() or step


def log_watcher() -> Watcher:
    """A training's progress as lines of the run's log: each phase, and each epoch's last step."""
    from prefect.logging import get_run_logger

    from models.experiment import Watcher
    from models.training import Progress

    log = get_run_logger()

    def step(at: Progress) -> None:
        if at.step == at.steps:
            log.info("epoch %d of %d, loss %.4f", at.epoch, at.epochs, at.loss)

    return training_watcher.get() or Watcher(
        phase=lambda name: log.info("%s", name), step=step, notice=lambda line: log.warning("%s", line)
    )
