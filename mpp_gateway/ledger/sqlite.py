"""The embedded store: one SQLite file, for one machine."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpp_gateway.ledger.lock import StoreLock, warn_of_readers
from mpp_gateway.ledger.sql import Connection, StoreUnavailable, known_version, statements

BUSY_TIMEOUT_MS = 5_000
CHECKPOINT_PAGES = 4_000
"""How long the log grows before it is written into the file: pages of busy indexes, which many
payments write to, are then written there once. 16 MB, read again when the process was killed."""


class SqliteDriver:
    """Opens and writes the file at `path`; see `sql.Driver`."""

    failures: tuple[type[Exception], ...] = (sqlite3.OperationalError,)
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._connection: _Transaction | None = None

    def open(self, migrations: Sequence[str]) -> None:
        """See `sql.Driver`."""
        try:
            connection = sqlite3.connect(
                self._path,
                isolation_level=None,
                check_same_thread=False,
                timeout=5,
                factory=_Transaction,
            )
            _prepare(connection, migrations)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"cannot use the store {self._path}: {error}") from error
        self._connection = connection

    def lease(self, fresh: str) -> StoreLock:
        """Take our share in the lock file beside the store."""
        lock = StoreLock.take(self._path, fresh)
        warn_of_readers(self._path)
        return lock

    def begin(self) -> Connection:
        """See `sql.Driver`."""
        assert self._connection is not None
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def commit(self) -> None:
        """See `sql.Driver`."""
        assert self._connection is not None
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """See `sql.Driver`."""
        assert self._connection is not None
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def interrupt(self) -> None:
        """See `sql.Driver`. What waits for a lock ends by itself (`BUSY_TIMEOUT_MS`)."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.interrupt()

    def close(self) -> None:
        """See `sql.Driver`."""
        if self._connection is not None:
            self._connection.close()


class _Transaction(sqlite3.Connection):
    """The connection itself is what writes."""

    def append(self, sql: str, parameters: Any, /) -> int | None:
        # RETURNING costs four microseconds a row here, and every move appends.
        cursor = self.execute(sql, parameters)
        return cursor.lastrowid if cursor.rowcount == 1 else None


def _prepare(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    # Without FULL a power cut forgets claims that were already answered: the same proof buys twice.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        for migration in migrations[known_version(int(found), len(migrations)) :]:
            for statement in statements(migration):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        connection.close()
        raise
