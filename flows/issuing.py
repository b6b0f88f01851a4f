"""One run is issued: by the champion, or where that fails or is late, by the next rung of the ladder."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from flows.quiet import native_silence
from pipeline import errors
from pipeline.errors import ConfigError, CubecastError, NotEnoughFramesError, WithdrawnError
from pipeline.shelf import remove_stages

if TYPE_CHECKING:
    from pipeline.config import Settings

DEADLINE: Final = "forecast.deadline"


@dataclass(frozen=True, slots=True)
class Issued:
    """A published run.

    Attributes:
        path: its folder.
        warning: what is to be said of its model; nothing where all is well.
        late: the network was not ready by the deadline.
    """

    path: Path
    warning: str = ""
    late: bool = False


def issued(config: Path, settings: Settings, init: datetime | None, now: datetime | None) -> Issued:
    """Publishes a run; under a deadline the champion works in a process of its own, which can be ended.

    Args:
        config: TOML file of the product.
        settings: what it says.
        init: of a hindcast.
        now: for the newest slot that is due.
    """
    if settings.forecast.deadline is None:
        return by_champion(settings, init, now)
    done, why = _in_time(config, settings, init, now, settings.forecast.deadline)
    if done is not None:
        return done
    return replace(by_the_next_rung(settings, init, now, why), late=DEADLINE in why)


def by_champion(settings: Settings, init: datetime | None, now: datetime | None) -> Issued:
    """Publishes a run of the champion; whatever is wrong with that one stops nothing, the next rung stands in.

    A run that is published already is found before the network is loaded: that takes four times as long.

    Raises:
        CubecastError: nothing to start from, the run was withdrawn, or the next rung fails, too.
    """
    with native_silence():  # the champion's load imports TensorFlow
        from models.registry import open_registry
        from models.serving import public
        from pipeline.forecast import forecast, published_already

    with _interruptions() as heard:
        with native_silence():
            registry = open_registry(settings, now=False)
            known = registry.glimpse(settings)
        _stop_if(heard)
        there = None if known is None else published_already(settings, known, init=init, now=now)
        if there is not None:
            return Issued(there)
        with native_silence():
            served = registry.serve(settings)
        _stop_if(heard)
        if served.network is None:
            return by_the_next_rung(settings, init, now, served.why, served.reason)
        try:
            path = forecast(settings, served.network.champion(), init=init, now=now, why=served.why)
        except (ConfigError, NotEnoughFramesError, WithdrawnError):  # which have nothing to do with the network
            raise
        except Exception as error:  # noqa: BLE001 - whatever a network does, there is a forecast
            _stop_if(heard)
            return by_the_next_rung(settings, init, now, public(_fault(error), settings))
        return Issued(path, served.reason)


def _fault(error: Exception) -> str:
    return str(error) if isinstance(error, CubecastError) else f"the network failed, {type(error).__name__}: {error}"


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Signals of Ctrl-C so far: TensorFlow, interrupted, raises a SystemError like one of its own faults."""
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_if(heard: list[int]) -> None:
    if heard:
        raise KeyboardInterrupt


def by_the_next_rung(
    settings: Settings, init: datetime | None, now: datetime | None, why: str, reason: str = ""
) -> Issued:
    """Publishes a run without the champion, and says why."""
    from pipeline.forecast import forecast

    return Issued(forecast(settings, None, init=init, now=now, why=why), reason or why)


def _in_time(
    config: Path, settings: Settings, init: datetime | None, now: datetime | None, deadline: timedelta
) -> tuple[Issued | None, str]:
    """What a process of its own has issued by the deadline; None and why where it has not.

    Raises:
        CubecastError: no rung can be published before the user has mended something.
    """
    times = [time.isoformat() if time else "" for time in (init, now)]
    command = [sys.executable, "-m", "flows.issuing", str(config), *times]
    with subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            said, why = _answer(child, deadline)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # with all that it started
            child.wait()
            remove_stages(settings.paths.forecasts, child.pid)
    if said is None:
        return None, why or f"the process that asked the network ended with exit code {child.returncode}"
    if "fault" in said:
        raise getattr(errors, said["kind"], CubecastError)(said["fault"])
    return Issued(Path(said["path"]), said["warning"]), ""


def _answer(child: subprocess.Popen[bytes], deadline: timedelta) -> tuple[dict[str, str] | None, str]:
    """The line that a process says; None where it ends without one, and why where it says nothing in time."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], deadline.total_seconds())
    if not ready:
        return None, f"the network was not ready {deadline.total_seconds():g} s after the start ({DEADLINE})"
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        child.wait()
        return None, ""
    return json.loads(line), ""


def main(config: str, init: str, now: str) -> None:
    """Issues a run and prints where it is, or what the user has to mend, as a line of JSON.

    Whoever asks holds the other end of the standard input: when it is gone, nobody wants the answer any more.
    """
    threading.Thread(target=_end_with_who_asks, daemon=True).start()
    from pipeline.config import load

    times = [datetime.fromisoformat(time) if time else None for time in (init, now)]
    try:
        done = by_champion(load(Path(config)), *times)
        answer = {"path": str(done.path), "warning": done.warning}
    except CubecastError as error:
        answer = {"fault": str(error), "kind": type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # TensorFlow takes seconds to end


def _end_with_who_asks() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
