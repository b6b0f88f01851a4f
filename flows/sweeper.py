"""Buries the runs whose process is gone, and has their work done again.

A worker killed with -9 leaves its run Running for ever, in the only place of its deployment. The sweeper counts the
silence of every unfinished run by its own clock, and only while the server takes what it is told: what a server missed
while it was away, hung or locked is held against nobody.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.error import HTTPError

from flows.heartbeat import EVERY, LABEL, SECONDS
from flows.server import Server

UNFINISHED: Final = ("PENDING", "RUNNING", "CANCELLING")
REPEATABLE: Final = frozenset({"ingest", "forecast", "verify", "housekeeping"})
"""Flows that are done again: what they have done once, they do not do twice. A training goes on with the next run."""
AGAIN: Final = "cubecast.again"
"""Label of a run that does the work of a lost one: how often that was tried by now."""
TRIES: Final = 3
RECENT: Final = timedelta(hours=1)
"""What crashed longer ago is left to the schedule."""
BEATS: Final = 9
"""So many missing heartbeats are an end; 90 seconds."""
STARTING: Final = 180.0
"""Seconds without a heartbeat that a run may take to start; half a minute on a busy machine of two cores."""
START: Final = "CUBECAST_STARTING"
"""Environment variable: so many seconds in the place of :data:`STARTING`, where images have to be fetched first."""
MISSED: Final = 4
"""After a pause of so many looks, the sweeper itself or the server was away, and it begins anew."""
TAG: Final = "cubecast"
"""Tag of our deployments; other people's runs are theirs."""
ASKS: Final = 3
"""How often a busy server is asked in one look: two writers of SQLite at once are an everyday thing."""
TICK: Final = 0.01  # seconds
PAGE: Final = 200  # runs of one answer
NOTE: Final = "cubecast_sweeper"
"""Variable of the server that says when a sweeper looked last."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A flow run as the server knows it.

    Attributes:
        id: its id.
        name: its name.
        flow: id of its flow.
        deployment: id of its deployment; None: started by a person, in their own process.
        state: type of its state.
        ended: when it ended, UTC; None: it has not.
        parameters: what it was given.
        tags: its tags.
        beat: its last sign of life; None: none so far.
        again: how often its work was tried before.
        sign: changes whenever the run does anything.
    """

    id: str
    name: str
    flow: str
    deployment: str | None
    state: str
    ended: datetime | None
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    beat: str | None
    again: int
    sign: tuple[str, str]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Run:
        """What the server tells of a run."""
        labels = told.get("labels") or {}
        beat, end = labels.get(LABEL), told.get("end_time")
        return cls(
            told["id"],
            told["name"],
            told["flow_id"],
            told.get("deployment_id"),
            told["state_type"],
            datetime.fromisoformat(end) if end else None,
            told.get("parameters") or {},
            tuple(told.get("tags") or ()),
            None if beat is None else str(beat),
            int(labels.get(AGAIN, 0)),
            (str(told.get("state_id")), str(beat)),
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run may be silent, in seconds.

    Attributes:
        every: from look to look; as often as runs beat.
        silent: of one that has beaten.
        starting: of one that has not.
    """

    every: float = SECONDS
    silent: float = BEATS * SECONDS
    starting: float = STARTING

    @classmethod
    def of_environment(cls) -> Patience:
        """As fast as the heartbeats that the environment asks for, and as patient as it says."""
        every = float(os.environ.get(EVERY) or SECONDS)
        starting = os.environ.get(START)
        return cls(every, BEATS * every, float(starting) if starting else STARTING * every / SECONDS)


@dataclass(slots=True)
class Vigil:
    """How long each unfinished run has been silent, as far as we have looked.

    Attributes:
        patience: how long it may be.
    """

    patience: Patience
    _last: float | None = None
    _since: dict[str, tuple[tuple[str, str], float]] = field(default_factory=dict)

    def look(self, runs: Iterable[Run], now: float) -> list[Run]:
        """The runs that have been silent for too long.

        Args:
            runs: all unfinished ones.
            now: seconds on a clock that never jumps.
        """
        if self._last is not None and now - self._last > MISSED * max(self.patience.every, 1.0):
            self._since.clear()
        self._last = now
        before, self._since = self._since, {}
        lost: list[Run] = []
        for run in runs:
            sign, since = before.get(run.id, (run.sign, now))
            self._since[run.id] = (run.sign, since if sign == run.sign else now)
            allowed = self.patience.starting if run.beat is None else self.patience.silent
            if sign == run.sign and now - since >= allowed:
                lost.append(run)
        return lost


@dataclass(frozen=True, slots=True)
class Swept:
    """What a look at the server came to: names of the runs that were buried, that are done again, that are given up."""

    buried: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()

    def plus(self, more: Swept) -> Swept:
        """Both."""
        return Swept(self.buried + more.buried, self.again + more.again, self.given_up + more.given_up)


class Sweeper:
    """Looks at a server again and again."""

    def __init__(self, server: Server, patience: Patience, say: Say) -> None:
        self._server = server
        self._patience = patience
        self._vigil = Vigil(patience)
        self._say = say
        self._known: set[str] = set()
        self._names: dict[str, str] = {}

    def look(self) -> Swept:
        """Buries what has been silent for too long, and has crashed work done again.

        Raises:
            OSError: the server does not answer; nothing is held against anybody.
        """
        self._prove_that_it_listens()
        lost = self._vigil.look(self._unfinished(), time.monotonic())
        buried = tuple(run.name for run in lost if self._bury(run))
        again, given_up = [], []
        for run in self._crashed():
            if run.again >= TRIES:
                given_up.append(run.name)
                self._say(f"{self._title(run)} crashed {run.again + 1} times and is given up: flow run {run.id}")
            elif self._do_again(run):
                again.append(run.name)
            self._known.add(run.id)
        return Swept(buried, tuple(again), tuple(given_up))

    def watch(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Looks until nobody wants it any more; a server that is away is waited for."""
        away = False
        while wanted():
            try:
                self.look()
            except OSError as error:
                if not away:
                    self._say(f"Prefect at {self._server.api} does not listen, nothing is swept: {error}")
                away = True
            else:
                if away:
                    self._say(f"Prefect at {self._server.api} listens again")
                away = False
            time.sleep(self._patience.every)

    def _prove_that_it_listens(self) -> None:
        """Only looks that could write count: a server whose database is locked answers, and takes no heartbeat."""
        note = {"value": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        try:
            self._server.call(f"/variables/name/{NOTE}", note, method="PATCH", tries=ASKS)
        except HTTPError as error:
            if error.code != 404:
                raise
            self._server.call("/variables/", {"name": NOTE} | note, tries=ASKS)

    def _unfinished(self) -> list[Run]:
        return self._runs({"state": {"type": {"any_": list(UNFINISHED)}}})

    def _crashed(self) -> list[Run]:
        since = (datetime.now(UTC) - RECENT).isoformat()
        wanted = {"state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": since}}
        new = [run for run in self._runs(wanted) if run.id not in self._known]
        return [run for run in new if self._flow(run) in REPEATABLE]

    def _runs(self, wanted: dict[str, Any]) -> list[Run]:
        ours = wanted | {"tags": {"all_": [TAG]}}
        runs: list[Run] = []
        while True:
            asked = {"flow_runs": ours, "limit": PAGE, "offset": len(runs)}
            page = self._server.call("/flow_runs/filter", asked, tries=ASKS)
            runs.extend(map(Run.of, page))
            if len(page) < PAGE:
                return [run for run in runs if run.deployment]

    def _flow(self, run: Run) -> str:
        if run.flow not in self._names:
            self._names[run.flow] = self._server.call(f"/flows/{run.flow}")["name"]
        return self._names[run.flow]

    def _title(self, run: Run) -> str:
        """What people call it; a run that never began has only a made-up name."""
        flow = self._flow(run)
        return run.name if run.name.startswith(flow) else f"{flow} {run.name}"

    def _bury(self, run: Run) -> bool:
        silent = self._patience.starting if run.beat is None else self._patience.silent
        why = f"no sign of life for {silent:g} s: its process or its machine is gone"
        end = "CANCELLED" if run.state == "CANCELLING" else "CRASHED"  # which nobody does again
        state = {"state": {"type": end, "message": why}, "force": False}
        answer = self._server.call(f"/flow_runs/{run.id}/set_state", state)
        if answer["status"] != "ACCEPT":  # it has ended while we looked
            return False
        self._bury_tasks(run, state["state"])
        self._say(f"{self._title(run)} was {run.state}, {why}")
        return True

    def _bury_tasks(self, run: Run, state: dict[str, str]) -> None:
        """Tasks hold nothing, but their page would show them at work for ever."""
        flow = {"flow_runs": {"id": {"any_": [run.id]}}}
        at_work = {"task_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
        for task in self._server.call("/task_runs/filter", flow | at_work):
            self._server.call(f"/task_runs/{task['id']}/set_state", {"state": state, "force": True})

    def _do_again(self, run: Run) -> bool:
        """Starts a run that does the work of a crashed one; a second order has the same key, and no effect."""
        order = {
            "name": run.name,
            "parameters": run.parameters,
            "tags": run.tags,
            "labels": {AGAIN: run.again + 1},
            "idempotency_key": f"again-{run.id}",
        }
        try:
            self._server.call(f"/deployments/{run.deployment}/create_flow_run", order)
        except HTTPError as error:
            if error.code not in {404, 409}:  # the deployment is gone, or takes other parameters now
                raise
            return False
        self._say(f"{self._title(run)} crashed; its work is done again, try {run.again + 2} of {TRIES + 1}")
        return True


def sweep(server: Server, *, say: Say, patience: Patience | None = None) -> Swept:
    """Watches for as long as a run may be silent, and sweeps: for a flow, a schedule or a person.

    Args:
        server: to look at.
        say: gets what was done, line by line.
        patience: how long a run may be silent; None: as the environment says.

    Raises:
        OSError: the server does not answer.
    """
    allowed = patience or Patience.of_environment()
    sweeper = Sweeper(server, allowed, say)
    found = sweeper.look()
    end = time.monotonic() + allowed.starting
    while (now := time.monotonic()) < end + allowed.every:  # the last look comes after the end
        time.sleep(min(allowed.every, max(end - now, 0.0) + TICK))
        found = found.plus(sweeper.look())
    return found


def main() -> None:
    """Watches the server of the environment until it is ended."""
    server = Server.of_environment()
    if server is None:
        sys.exit("a sweeper looks at a Prefect server: set PREFECT_API_URL=http://host:4200/api")
    Sweeper(server, Patience.of_environment(), _tell).watch()


def _tell(line: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
