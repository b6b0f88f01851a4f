"""Every flow run proves that it lives, from a process of its own beside it.

A thread would be silent while native code holds the interpreter's lock, and Prefect's own heartbeats come every
30 seconds at most. This process loads nothing (0.1 CPU-seconds), ends with the run's, however that one ends, and
outlives a server that is away: it tries again.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flows.server import Server

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

LABEL: Final = "cubecast.alive"
"""Label of a flow run that changes with every beat."""
EVERY: Final = "CUBECAST_HEARTBEAT"
"""Environment variable: seconds between two beats, where they are not :data:`SECONDS`."""
SECONDS: Final = 10.0
PATIENCE: Final = 20.0  # seconds for one answer of the server
TRIES: Final = 3  # as often as a look of the sweeper asks, which counts only if it was heard

_beating: dict[UUID, subprocess.Popen[bytes]] = {}


def prove_life(_flow: Any, run: FlowRun, _state: Any) -> None:
    """A hook of flows that run: starts the heartbeat of a run that a worker has started.

    A run that a person started in their own process ends before their eyes, and needs none.
    """
    beating = _beating.get(run.id)
    if run.deployment_id is None or (beating is not None and beating.poll() is None):
        return
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    secrets = {"PREFECT_API_KEY": api.key, "PREFECT_API_AUTH_STRING": api.auth_string}
    told = {name: secret.get_secret_value() for name, secret in secrets.items() if secret}
    _beating[run.id] = subprocess.Popen(
        (sys.executable, "-m", "flows.heartbeat", str(run.id)),
        env=os.environ | told | {"PREFECT_API_URL": str(api.url or "")},
        stdin=subprocess.PIPE,  # at its end we are gone
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def beat(server: Server, run: str, count: int) -> None:
    """Tells the server that a run lives; a server that does not listen is told the next time."""
    with suppress(OSError):
        server.call(f"/flow_runs/{run}/labels", {LABEL: f"{count} {time.time():.0f}"}, method="PATCH", tries=TRIES)


def main(run: str) -> None:
    """Beats until whoever started this process is gone."""
    server, parent, count = Server.of_environment(), os.getppid(), 0
    every = float(os.environ.get(EVERY) or SECONDS)
    while server is not None and os.getppid() == parent:
        server.patience, count = PATIENCE, count + 1
        beat(server, run, count)
        gone, _, _ = select.select([sys.stdin], [], [], every)
        if gone:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
