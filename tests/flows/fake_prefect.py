"""As much of a Prefect server as heartbeats and sweepers ask for, with everything that goes wrong with one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FINAL = {"COMPLETED", "CRASHED", "CANCELLED", "FAILED"}


@dataclass
class FakePrefect:
    """A server.

    Attributes:
        runs: by id, as the real one tells of them.
        locked: its database takes nothing.
        token: what it wants to see before it takes anything; empty: nothing.
        orders: runs that it was asked to make.
        headers: of the last request.
        notes: its variables.
        tasks: states of the task runs, by id.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    locked: bool = False
    token: str = ""
    orders: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def add(self, run: str, state: str = "RUNNING", flow: str = "forecast", **more: Any) -> None:
        ended = "2999-01-01T00:00:00Z" if state in FINAL else None
        told = {"id": run, "name": run, "flow_id": flow, "deployment_id": "d", "state_type": state, "state_id": state}
        self.runs[run] = (
            told | {"end_time": ended, "parameters": {"config": "c"}, "tags": ["cubecast"], "labels": {}} | more
        )

    def beat(self, run: str) -> None:
        labels = self.runs[run]["labels"]
        labels["cubecast.alive"] = str(int(labels.get("cubecast.alive", 0)) + 1)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET" and path.startswith("/csrf-token"):
            return 200, {"token": self.token}
        if self.locked and not path.endswith("/filter"):
            return 503, None
        if self.token and self.headers.get("Prefect-Csrf-Token") != self.token:
            return 403, None
        parts = path.strip("/").split("/")
        if parts[0] == "variables":
            return self._note(method, body, parts[-1])
        if parts[0] == "flows":
            return 200, {"name": parts[1]}
        if parts[0] == "task_runs":
            return self._task(parts[1:], body)
        if parts[0] == "deployments":
            return self._order(body)
        return self._run(parts[1:], body)

    def _note(self, method: str, body: Any, name: str) -> tuple[int, Any]:
        if method == "PATCH" and name not in self.notes:
            return 404, None
        self.notes[body.get("name", name)] = body["value"]
        return 200, None

    def _order(self, body: Any) -> tuple[int, Any]:
        if body["idempotency_key"] not in [order["idempotency_key"] for order in self.orders]:
            self.orders.append(body)
        return 201, {"id": body["idempotency_key"]}

    def _task(self, parts: list[str], body: Any) -> tuple[int, Any]:
        if parts == ["filter"]:
            return 200, [{"id": task} for task, state in self.tasks.items() if state == "RUNNING"]
        self.tasks[parts[0]] = body["state"]["type"]
        return 200, {"status": "ACCEPT"}

    def _run(self, parts: list[str], body: Any) -> tuple[int, Any]:
        if parts == ["filter"]:
            wanted = body["flow_runs"]["state"]["type"]["any_"]
            return 200, [run for run in self.runs.values() if run["state_type"] in wanted][body.get("offset", 0) :]
        run = self.runs[parts[0]]
        if parts[1] == "labels":
            run["labels"] |= body
            return 200, None
        if run["state_type"] in FINAL:
            return 200, {"status": "ABORT"}
        state = body["state"]["type"]
        run |= {"state_type": state, "state_id": state, "end_time": "2999-01-01T00:00:00Z"}
        return 200, {"status": "ACCEPT"}


@contextmanager
def serving(fake: FakePrefect) -> Iterator[FakePrefect]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            fake.headers = dict(self.headers.items())
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = fake.answer(self.command, self.path.removeprefix("/api"), json.loads(data or b"null"))
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - as http.server looks for them

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", fake.port), Handler) as server:
        fake.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
