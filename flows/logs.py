"""Every line that a flow run says, as a line of JSON with run, product and init time, beside Prefect's own log.

``WORKSPACE/logs/cubecast.jsonl`` outlives Prefect's database, and programs read it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import CubecastError
from pipeline.times import parse_time, stamp

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

LARGEST: Final = 20 << 20
"""Bytes of a file; then it becomes ``.1``, ``.1`` becomes ``.2``, and the oldest goes."""
KEPT: Final = 5  # old files
ROUTINE: Final = ("Hook '", "Running hook '")
"""What Prefect says, in every run, of our hooks that went well."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What lines are about.

    Attributes:
        file: where they go.
        run: id of the flow run.
        name: its name.
        flow: name of the flow.
        product: name of the product.
        init: init time of the forecast; empty where the run is about none, or does not know it yet.
    """

    file: Path
    run: str
    name: str
    flow: str
    product: str
    init: str = ""


_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)


class LineHandler(logging.Handler):
    """Appends lines to the file of the run that says them.

    Attributes:
        first: subject of lines from threads that know no run: a worker gives every run a process of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: Subject | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a line; whatever is wrong with it, or with the disk, stops no run."""
        subject = _subject.get() or self.first
        if subject is None:
            return
        try:
            if record.levelno > logging.INFO or not record.getMessage().startswith(ROUTINE):
                append(subject.file, _line(record, subject))
        except Exception:  # noqa: BLE001 - somebody's words with wrong arguments, or a full disk
            self.handleError(record)


_handler: Final = LineHandler()


def keep_log(flow: Any, run: FlowRun, _state: Any) -> None:
    """A hook of flows that run: from here on this run's lines are kept in its product's workspace."""
    parameters = run.parameters or {}
    if "config" not in parameters:
        return
    from pipeline.config import load

    try:
        settings = load(Path(parameters["config"]))
    except CubecastError:
        return  # there is no workspace; the run itself says so
    init = _stamp(parameters.get("init"))
    file = settings.paths.logs / "cubecast.jsonl"
    subject = Subject(file, str(run.id), run.name, flow.name, settings.product.name, init)
    _subject.set(subject)
    _handler.first = _handler.first or subject
    if _handler not in logging.getLogger().handlers:
        logging.getLogger().addHandler(_handler)


def about(init: datetime) -> None:
    """The lines that follow are about the forecast of this init time."""
    subject = _subject.get()
    if subject is not None:
        _subject.set(replace(subject, init=stamp(init)))


def append(file: Path, line: str, *, largest: int = LARGEST) -> None:
    """Appends a line to a file that other processes append to as well, and begins a new file where it is large."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = f"{line}\n".encode(errors="backslashreplace")  # file names need not be text
    with file.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back at the end of the process, however it ends
        if file.exists() and file.stat().st_size + len(data) > largest:
            _turn(file)
        with file.open("ab") as out:
            out.write(data)


def _turn(file: Path) -> None:
    for number in reversed(range(1, KEPT)):
        older = file.with_name(f"{file.name}.{number}")
        if older.exists():
            older.replace(file.with_name(f"{file.name}.{number + 1}"))
    file.replace(file.with_name(f"{file.name}.1"))


def _line(record: logging.LogRecord, subject: Subject) -> str:
    time = datetime.fromtimestamp(record.created, UTC)
    words = {
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "product": subject.product,
        "flow": subject.flow,
        "run": subject.run,
        "name": subject.name,
        "init": subject.init,
        "task": getattr(record, "task_run_name", ""),
        "message": record.getMessage(),
        "logger": record.name,
        "pid": os.getpid(),
    }
    if record.exc_info:
        words["error"] = logging.Formatter().formatException(record.exc_info)
    return json.dumps({name: word for name, word in words.items() if word != ""}, ensure_ascii=False)


def _stamp(init: Any) -> str:
    """The init time as runs are named by it; parameters come as times or as text."""
    if not init or isinstance(init, datetime):
        return stamp(init) if init else ""
    try:
        return stamp(parse_time(str(init)))
    except ValueError:
        return str(init)
