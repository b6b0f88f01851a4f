"""What every command shares: its options, errors as one text with an exit code, times as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import datetime

USER_FAULT = 1
CONFIG_FAULT = 2
INTERRUPTED = 130
LEARNING = {"keras", "tensorflow"}
STYLE: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}

PRODUCT = Path("product.toml")  # what init writes unless told otherwise
ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", help="TOML file of the product.", default_factory=lambda: PRODUCT, show_default=str(PRODUCT)
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """Errors become one text and an exit code: 2 for the configuration, 130 for what was stopped, 1 for the rest."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("interrupted; what was committed or published stays", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        from flows.console import fail
        from pipeline.errors import ConfigError, Interrupted

        if isinstance(error, Interrupted):
            typer.echo(str(error), err=True)
        else:
            fail(explain(error))
        codes = {ConfigError: CONFIG_FAULT, Interrupted: INTERRUPTED}
        raise typer.Exit(codes.get(type(error), USER_FAULT)) from None


def explain(error: Exception) -> str:
    """What to tell a user: our own errors speak for themselves."""
    from pipeline.errors import CubecastError

    if isinstance(error, CubecastError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in LEARNING:
        return f"this needs {error.name}, which the base installation leaves out: install the extra cpu or gpu"
    if isinstance(error, OSError):
        said = f"a file cannot be read or written, {type(error).__name__}: {error}"
        return f"{said}. See that the disk has room and the folders may be written. --debug shows where"
    return f"a fault of cubecast's own, {type(error).__name__}: {error}. --debug shows where"


def time_of(option: str, text: str) -> datetime | None:
    """The time that an option names; None where it was not given.

    Raises:
        CubecastError: no time.
    """
    from pipeline.errors import CubecastError
    from pipeline.times import parse_time

    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise CubecastError(f"{option}: {error}") from None
