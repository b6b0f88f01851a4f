"""What the command line shows: progress bars, tables, and errors without tracebacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from math import log10
from typing import TYPE_CHECKING, Any

from flows.quiet import native_silence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from flows.verbs import Ingested, Progress, Trained
    from models.experiment import Watcher
    from models.training import Progress as TrainingProgress
    from pipeline.doctor import Finding
    from pipeline.metrics import ErrorRow

OUR_NAMES = ("forecast", "model")  # what is compared with the baselines, in a verification and in a training
PIPE_WIDTH = 240  # columns of a list that is read by another program, where no name may be cut in two
NAMED = 3  # refused files that a line names


def out() -> Console:
    """Where results go."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=wide)


def err() -> Console:
    """Where progress and errors go, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def as_json(value: Any, *, lines: bool = False) -> None:
    """Prints a summary for machines: one JSON document, on one line where more follow."""
    text = json.dumps(value, indent=None if lines else 2, ensure_ascii=False, default=_plain)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar that is told (done, total)."""
    bars = _bars()
    task = bars.add_task(what, total=None)

    def tell(done: int, total: int) -> None:
        bars.start()  # only now: an error before any progress needs no bar
        bars.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if bars.live.is_started:
            bars.stop()


@contextmanager
def training_bars() -> Iterator[Watcher]:
    """A bar for each phase of a training; the training's own shows the loss."""
    with native_silence():
        from models.experiment import Watcher

    with _bars() as bars:
        state: dict[str, Any] = {"task": None}

        def phase(name: str) -> None:
            if state["task"] is not None:
                bars.update(state["task"], total=1, completed=1)
            state["task"] = bars.add_task(name, total=None)

        def prepared(done: int, total: int) -> None:
            bars.update(state["task"], completed=done, total=total)

        def step(at: TrainingProgress) -> None:
            done = (at.epoch - 1) * at.steps + at.step
            text = f"training, epoch {at.epoch} of {at.epochs}, loss {at.loss:.4f}, {at.rate:.0f} chips/s"
            bars.update(state["task"], completed=done, total=at.epochs * at.steps, description=text)

        yield Watcher(phase, prepared, step, warn)
        if state["task"] is not None:
            bars.update(state["task"], total=1, completed=1)


def _bars() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A list for people; what does not fit into the terminal is folded."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*map(_escaped, row))
    return made


def print_list(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Prints a list for people, or what to say where nothing is in it."""
    if rows:
        out().print(table(columns, rows))
    else:
        out().print(empty, markup=False)


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and what they are, one a line."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        made.add_row(name, _escaped(text))
    return made


def time_text(time: datetime) -> str:
    """A UTC time for people.

    >>> from datetime import UTC
    >>> time_text(datetime(2020, 4, 1, 13, 10, tzinfo=UTC))
    '2020-04-01 13:10Z'
    """
    return f"{time:%Y-%m-%d %H:%M:%SZ}" if time.second else f"{time:%Y-%m-%d %H:%MZ}"


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(2_500_000), size_text(17)
    ('2.5 MB', '17 bytes')
    """
    power = min(4, int(log10(max(size, 1)) // 3))
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def ingested(done: Ingested) -> None:
    """Prints what came of an ingest, and each file that did not enter the cube."""
    out().print(_ingest_text(done))
    for one in done.refused:
        out().print(f"  {one.file}: {one.state}, {one.reason}: {one.detail}", markup=False)


def ingest_line(done: Ingested) -> str:
    """What came of one ingest of many, on one line."""
    named = [f"{one.file} {one.reason}" for one in done.refused[:NAMED]]
    more = [f"and {len(done.refused) - NAMED} more"] if len(done.refused) > NAMED else []
    return "; ".join([f"{time_text(datetime.now(UTC))} {_ingest_text(done)}", *named, *more])


def _ingest_text(done: Ingested) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in done.states.items() if count) or "nothing new"
    return f"{counts}; snapshot {done.snapshot or 'none'}"


def error_table(rows: Sequence[ErrorRow], title: str) -> Table:
    """Mean absolute error by lead: ours beside the baselines and how much of theirs it takes away; coverage."""
    from rich.table import Table

    several = len({row.band for row in rows}) > 1
    intervals = any(_ours(row.coverage) is not None for row in rows)
    table = Table(title=f"{title} ({_units(rows)})", title_justify="left", caption_justify="left")
    names = ["lead", "forecast", "extrapolation", "", "persistence", ""] + ["in interval"] * intervals
    for name in ["band"] * several + names:
        table.add_column(name, justify="left" if name == "band" else "right")
    if intervals:
        table.caption = "forecast: its median, q50; in interval: share of the truth from q10 to q90, 80 % at best"
    for row in rows:
        ours = row.mae[next(name for name in OUR_NAMES if name in row.mae)]
        cells = [row.band] if several else []
        cells += [lead_text(row.lead_minutes), f"{ours:.4g}"]
        for baseline in ("extrapolation", "persistence"):
            theirs = row.mae[baseline]
            cells += [f"{theirs:.4g}", f"{round(100 * (ours / theirs - 1)):+d} %" if theirs else "-"]
        held = _ours(row.coverage)
        cells += ["-" if held is None else f"{held:.0%}"] * intervals
        table.add_row(*cells)
    return table


def _ours(values: Mapping[str, float]) -> float | None:
    """Of our forecast; None where it has none."""
    return next((values[name] for name in OUR_NAMES if name in values and values[name] == values[name]), None)


def _units(rows: Sequence[ErrorRow]) -> str:
    return ", ".join(dict.fromkeys(f"{row.band} in {row.unit}" if row.unit != "1" else row.band for row in rows))


def lead_text(minutes: int) -> str:
    """A lead time for people.

    >>> lead_text(90), lead_text(2880)
    ('+90 min', '+2 d')
    """
    return f"+{minutes // 1440} d" if minutes >= 2880 and minutes % 1440 == 0 else f"+{minutes} min"


def trained_lines(trained: Trained) -> list[str]:
    """What a training came to, in sentences."""
    role = "now the champion" if trained.champion else "registered beside the champion, which stays"
    if not trained.good:
        role = "registered, not good enough for a champion"
    change = f"{100 * abs(trained.validation_skill):.1f} % {'below' if trained.validation_skill > 0 else 'above'}"
    what = f"{trained.model} version {trained.version}, {role}"
    if not trained.version:
        what = f"{trained.model}, not registered yet, as MLflow does not answer (later: cubecast tracking sync)"
    lines = [f"{what}: {trained.epochs} epoch(s), squared error on validation chips {change} the extrapolation's"]
    if not trained.good:
        lines.append(
            "Its squared error does not beat both baselines: forecasts do without it. More scenes or epochs may help."
        )
    return lines


def findings(found: Sequence[Finding]) -> None:
    """Prints what the doctor found, faults with their cure."""
    colours = {"ok": "green", "warning": "yellow", "fault": "red"}
    for one in found:
        line = f"[{colours[one.level]}]{one.level:7}[/] {_escaped(one.what)}: {_escaped(one.found)}"
        out().print(line + (f"\n        -> {_escaped(one.fix)}" if one.fix else ""))


def warn(text: str) -> None:
    """Prints something that passes."""
    err().print(f"[yellow]warning:[/yellow] {_escaped(text)}")


def fail(text: str) -> None:
    """Prints an error."""
    err().print(f"[red]error:[/red] {_escaped(text)}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
