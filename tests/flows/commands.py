"""The command line as a user types it, in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from flows.cli import app


def cubecast(*arguments: object) -> Result:
    """What a command printed, and how it ended."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object, code: int = 0) -> Any:
    """The JSON document that a command prints with ``--json``; it ends with ``code``."""
    done = cubecast(*arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)
