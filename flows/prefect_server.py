"""Prefect's own command line for its server, whose SQLite waits a few seconds for a lock and not a minute.

What garbage collection finds in the server's main thread is finalised there. A cursor waits for its connection, and
the connection may be waiting for a lock whose owner needs the main thread to commit: everything stands still until
SQLite gives up, which Prefect tells it to do after 60 seconds. So it gives up after :data:`PATIENCE`; whoever wrote
asks again.

``python -m flows.prefect_server server start --port 4200`` is ``prefect server start --port 4200``.
"""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

PATIENCE: Final = 5.0  # seconds; a write takes some milliseconds


def shorten_patience() -> None:
    """From here on every connection of this process to Prefect's SQLite waits no longer than :data:`PATIENCE`."""
    from prefect.server.database.configurations import AioSqliteConfiguration as Sqlite

    prefects_own = Sqlite.setup_sqlite

    def setup(self: Sqlite, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        prefects_own(self, connection, record)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {1000 * PATIENCE:.0f};")
        cursor.close()

    Sqlite.setup_sqlite = setup  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    shorten_patience()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
