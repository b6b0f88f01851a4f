"""Runs that wait for their turn, and give it up where there is nothing left for them to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pipeline.errors import BusyError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

CLOCKS: Final = timedelta(seconds=5)  # how far the clocks of a worker and of the server may differ
PAUSE: Final = 10.0  # seconds between two tries to begin
TURN: Final = 3600.0  # seconds that another one's turn is waited for

Done = TypeVar("Done")


def in_turn(
    work: Callable[[], Done], told: Callable[[str], None], *, pause: float = PAUSE, patience: float = TURN
) -> Done:
    """Does what only one may do at a time: while another one does, it is waited for.

    A deployment queues its own runs, but a training and a retraining are two deployments of one trainer, and a person
    trains beside both.

    Args:
        work: raises :class:`~pipeline.errors.BusyError` while it is another one's turn, before it does anything.
        told: hears whom it waits for, once.
        pause: seconds between two tries.
        patience: seconds after which it is waited for no longer.

    Raises:
        BusyError: the other one is not ready by then.
    """
    waits, end = False, time.monotonic() + patience
    while True:
        try:
            return work()
        except BusyError as error:
            if time.monotonic() >= end:
                raise
            if not waits:
                told(f"waits for its turn: {error}")
            waits = True
            time.sleep(pause)


def give_up(since: datetime, *, but: Collection[str] = ()) -> int:
    """Cancels what waits behind the run that calls this, was asked for before ``since`` and asks for the same.

    A deployment runs once at a time, and the others queue: so none is lost that an event asked for after this run had
    read the cube. Whatever was asked for before that has been done by this run: a queue of fifty becomes one of one.

    Args:
        since: before this run began to read, UTC.
        but: parameters that may differ: remarks, which change nothing of what is done.

    Returns:
        How many gave up; faults of the server are no faults of the run.
    """
    try:
        own = _own_run()
        return 0 if own is None or own.deployment_id is None else _cancel_behind(own, since, frozenset(but))
    except Exception as error:  # noqa: BLE001 - those that still wait do nothing twice
        logging.getLogger("cubecast.flows").warning("runs that wait were left: %s: %s", type(error).__name__, error)
        return 0


def _own_run() -> FlowRun | None:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return None if context is None else context.flow_run


def _cancel_behind(own: FlowRun, since: datetime, but: frozenset[str]) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled

    assert own.deployment_id is not None
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[own.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": since - CLOCKS}),
    )
    done = Cancelled(message=f"{own.name} ({own.id}) has done what this run was for")
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=wanted)
        waiting = [run for run in found if _asked(run, but) == _asked(own, but)]
        for run in waiting:
            client.set_flow_run_state(run.id, done)
    return len(waiting)


def _asked(run: FlowRun, but: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in run.parameters.items() if name not in but}
